//! What README, articles and readers rely on: markers, copies, the log of a sign-in, quoted
//! messages, links, and the example.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use crate::harness::*;
use crate::platform::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All Rust files in a folder of this repository.
fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            files.extend(rust_files(&path));
        } else if path.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}

/// The marked blocks of a file, as documentation builders read them: without the lines of other
/// markers and without the common indent.
fn blocks(file: &str) -> BTreeMap<String, Vec<String>> {
    let mut open: Vec<(String, Vec<String>)> = Vec::new();
    let mut blocks = BTreeMap::new();
    for line in read(file).lines() {
        if !line.contains("ms_docref") {
            open.iter_mut().for_each(|(_, block)| block.push(line.to_owned()));
            continue;
        }
        let tag = line.trim().strip_prefix("// <").and_then(|tag| tag.strip_suffix('>'));
        let tag = tag.unwrap_or_else(|| panic!("{file}: not alone on its line: {line}"));
        let Some(name) = tag.strip_prefix('/') else {
            open.push((tag.to_owned(), Vec::new()));
            continue;
        };
        let (opened, block) = open.pop().unwrap_or_else(|| panic!("{file}: not open: {name}"));
        assert_eq!(opened, name, "{file}: not nested");
        let texts = block.iter().filter(|line| !line.is_empty());
        let indent = texts.map(|line| line.len() - line.trim_start().len()).min().unwrap();
        let block = block.iter().map(|line| line.get(indent..).unwrap_or("").to_owned());
        assert!(blocks.insert(name.to_owned(), block.collect()).is_none(), "{file}: {name} twice");
    }
    assert!(open.is_empty(), "{file}: not closed: {open:?}");
    blocks
}

/// A marker that is renamed leaves an empty block in an article, without an error.
#[test]
fn the_readme_lists_every_marker() {
    let mut found = BTreeSet::new();
    for file in rust_files("src") {
        found.extend(blocks(&file).into_keys().map(|name| (name, file.clone())));
    }
    let mut listed = BTreeSet::new();
    for row in read("README.md").lines().filter(|line| line.contains("| `ms_docref_")) {
        let (file, markers) = row.split_once("](").unwrap().1.split_once(") | ").unwrap();
        let markers = markers.trim_end_matches(" |").split(", ");
        listed.extend(markers.map(|marker| (marker.trim_matches('`').to_owned(), file.to_owned())));
    }
    assert_eq!(found, listed);
}

#[test]
fn a_marked_block_fits_into_an_article() {
    for file in rust_files("src") {
        for (name, block) in blocks(&file) {
            assert!(name.chars().all(|c| c.is_ascii_alphabetic() || c == '_'), "{name}");
            assert!((4..=115).contains(&block.len()), "{file} {name}: {} lines", block.len());
            for line in &block {
                let is_comment = line.trim().starts_with("//");
                let width = line.chars().count();
                assert!(width <= if is_comment { 90 } else { 100 }, "{file} {name}: {line}");
            }
        }
    }
}

#[test]
fn the_copies_of_a_marked_block_are_equal() {
    let mut first: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut copies = 0;
    for file in rust_files("src/routes") {
        for (name, block) in blocks(&file) {
            match first.get(&name) {
                Some(other) => {
                    assert_eq!(*other, block, "{name} in {file}");
                    copies += 1;
                }
                None => _ = first.insert(name, block),
            }
        }
    }
    assert_eq!(copies, 3, "step 1, and step 5 in two parts");
}

#[test]
fn a_route_file_uses_only_settings_and_protocol_of_this_app() {
    for file in rust_files("src/routes") {
        for line in read(&file).lines().filter(|line| line.contains("crate::")) {
            let is_allowed = line.starts_with("use crate::protocol::")
                || line.starts_with("use crate::settings::Settings;");
            assert!(is_allowed, "{file}: {line}");
        }
    }
}

#[cfg(feature = "demo-tenant")]
#[tokio::test]
async fn the_log_of_a_sign_in_is_as_the_readme_shows_it() {
    let app = App::start(&[]).await;
    let page = app.browser().sign_in(&app, "/graph", ADA).await;
    assert_eq!(page.status, 200);
    let log = app.log();
    let lines = log.lines().skip_while(|line| !line.contains("step 1"));
    let lines = lines.filter(|line| !line.contains("demo-tenant"));
    let lines: Vec<String> = lines
        .map(|line| {
            // Without the time and the line number.
            let (_, line) = line.split_once("  ").unwrap();
            let (file, rest) = line.split_once(".rs:").unwrap();
            format!(
                "{file}.rs:{}",
                rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':')
            )
        })
        .collect();
    // A second can pass between the sign-in and the page.
    let lines = lines.into_iter().map(|line| line.replace("3599 s", "3600 s"));
    let lines: Vec<String> = lines.collect();
    let readme = read("README.md");
    let (_, story) = readme.split_once("```text\n").unwrap();
    let (story, _) = story.split_once("```").unwrap();
    assert_eq!(lines, story.lines().collect::<Vec<_>>());
}

#[test]
fn the_messages_that_the_readme_quotes_are_in_the_code() {
    let code: String = rust_files("src").iter().map(|file| read(file)).collect();
    // A string in the code can continue on the next line.
    let code = code.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let readme = read("README.md");
    let (_, table) = readme.split_once("### Troubleshooting").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut quotes = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let quote = row.split('`').nth(1).unwrap();
        // The name of a check is a value in the code.
        let (text, check) = quote.rsplit_once(" of ").unwrap_or((quote, ""));
        assert!(code.contains(text) && code.contains(check), "{quote}");
        quotes += 1;
    }
    assert_eq!(quotes, 5);
}

#[test]
fn the_links_of_the_readme_lead_to_files() {
    let readme = read("README.md");
    let links = readme.split("](").skip(1).map(|link| link.split(')').next().unwrap());
    for link in links.filter(|link| !link.starts_with("http")) {
        assert!(Path::new(ROOT).join(link).exists(), "{link}");
    }
}

#[tokio::test]
async fn the_example_app_signs_in_with_the_route_files_of_this_app() {
    let platform = Platform::start().await;
    // Cargo builds examples before it runs tests.
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    let program = program.join("examples").join("host_app");
    let port = std::net::TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
    let (folder, url) = (tempfile::TempDir::new().unwrap(), format!("http://localhost:{port}"));
    let mut app = tokio::process::Command::new(&program)
        .current_dir(folder.path())
        .envs(platform.settings())
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env("REDIRECT_URI", format!("{url}/auth/redirect"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo test`", program.display()));
    let browser = Browser::new(Secrets::default());
    let started = Instant::now();
    while browser.try_send(browser.client.get(&url)).await.is_err() {
        assert!(app.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let authorize = browser.get(format!("{url}/graph")).await;
    assert!(authorize.cookies()[0].starts_with("host-app-flow-"));
    let signed_in = browser.get(platform.callback(&authorize)).await;
    assert_eq!(signed_in.location(), "/graph", "{}", signed_in.body);
    let page = browser.get(format!("{url}/graph")).await;
    assert!(page.body.contains("Hello Cleo Example"), "{}", page.body);
    assert_eq!(page.headers["cache-control"], "no-store");
    assert_eq!(browser.get(format!("{url}/logout")).await.location(), "/");
    assert_eq!(browser.get(format!("{url}/graph")).await.status, 302);
    app.kill().await.unwrap();
}

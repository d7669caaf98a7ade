//! What README.md says is true.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    fs::read_to_string(format!("{ROOT}/README.md")).unwrap()
}

/// The text under a heading, up to the next one of the same level or a
/// higher one.
pub fn section(heading: &str) -> String {
    let readme = readme();
    let (_, text) = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let level = heading.split(' ').next().unwrap().len();
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        if !in_code && (1..=level).contains(&hashes) {
            break;
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The fenced blocks of one language in a text.
pub fn code<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split(&format!("```{language}\n")).skip(1).map(|block| block.split_once("\n```").unwrap().0).collect()
}

/// The cells of every row of a section's tables, headings aside, without
/// the marks of code.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    rows[1..].to_vec()
}

#[test]
fn the_settings_table_is_the_settings_file() {
    let rows = rows(&section("## Settings"));
    let settings = toml_settings();
    let keys: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    // In the order of the file, in which the keys begin a line.
    let text = fs::read_to_string(format!("{ROOT}/default_settings.toml")).unwrap();
    let in_file: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, in_file);
    // The program names every key it knows when it meets another one.
    let folder = folder();
    fs::write(folder.path().join(".env"), "NO_SUCH_KEY=1").unwrap();
    let output = command(folder.path(), &[]).output().unwrap();
    let known = String::from_utf8(output.stderr).unwrap();
    assert!(known.trim_end().ends_with(&keys.join(", ")), "{known}");
    for row in &rows {
        let default: toml::Table = format!("default = {}", row[1]).parse().unwrap();
        assert_eq!(default["default"], settings[&row[0]], "{}", row[0]);
    }
}

#[tokio::test]
async fn the_routes_table_is_what_the_app_serves() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let rows = rows(&section("### The routes"));
    assert_eq!(rows.len(), 5);
    for row in rows {
        let page = browser.get(app.at(&row[0])).await;
        let expected = match row[0].as_str() {
            "/" => 200,
            "/auth/redirect" => 400,
            _ => 302,
        };
        assert_eq!(page.status, expected, "{}", row[0]);
    }
}

#[test]
fn links_lead_to_files_and_markers_exist_where_the_table_says() {
    let readme = readme();
    let links: Vec<&str> = readme.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
    assert!(links.len() > 20);
    for link in links {
        let is_elsewhere = link.starts_with("https://");
        assert!(is_elsewhere || Path::new(ROOT).join(link).exists(), "{link}");
    }
    let rows = rows(&section("### In reading order"));
    assert!(rows.len() > 10);
    for row in rows {
        for file in row[2].split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
            let text = fs::read_to_string(format!("{ROOT}/{file}")).unwrap();
            assert!(text.contains(&format!("// <{}>", row[1])), "{} in {file}", row[1]);
        }
    }
}

#[test]
fn the_commands_for_tests_and_speed_are_what_ci_runs() {
    let ci = fs::read_to_string(format!("{ROOT}/.ci/run")).unwrap();
    for (heading, command) in [("## Tests", "cargo test"), ("## Speed", "cargo bench")] {
        assert_eq!(code(&section(heading), "sh"), [command]);
        assert!(ci.lines().any(|line| line == command), "{ci}");
    }
}

#[tokio::test]
#[ignore = "builds the app once more, as cargo run does"]
async fn the_run_commands_start_the_app() {
    let sections = format!("{}\n{}", section("## Try it without a tenant"), section("### 3. Run"));
    let commands = code(&sections, "sh");
    assert_eq!(commands, ["cargo run", "DEMO_TOKEN_LIFETIME=310 cargo run", "cargo run"]);
    for run in &commands[..2] {
        let folder = folder();
        let log_path = folder.path().join("log");
        let log = fs::File::create(&log_path).unwrap();
        let mut process = Command::new("sh")
            .args(["-c", &format!("exec env {run}")])
            .current_dir(ROOT)
            .env("PORT", "0")
            .env("SESSION_FILE_DIR", folder.path().join("sessions"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // A build from nothing takes minutes.
        let started = Instant::now();
        let address = loop {
            let log = fs::read_to_string(&log_path).unwrap();
            if let Some((_, rest)) = log.split_once("open http") {
                break format!("http{}", rest.split_whitespace().next().unwrap());
            }
            assert!(process.try_wait().unwrap().is_none() && started.elapsed().as_secs() < 1200, "{run}:\n{log}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        let page = reqwest::get(&address).await.unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(page.status(), 200, "{run}");
    }
}

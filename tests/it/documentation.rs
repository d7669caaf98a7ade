//! What README, docs, articles and readers rely on: markers, copies, the log of a sign-in, quoted
//! messages, links, the app registration, and the example.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

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
fn the_docs_list_every_marker() {
    let mut found = BTreeMap::new();
    for file in rust_files("src") {
        let names: BTreeSet<String> = blocks(&file).into_keys().collect();
        if !names.is_empty() {
            found.insert(file, names);
        }
    }
    let docs = read("docs/your-app.md");
    let (_, list) = docs.split_once("## Markers for articles").unwrap();
    let listed = list.split("\n- [").skip(1).map(|item| {
        let (file, _) = item.split_once(']').unwrap();
        let (_, names) = item.split_once("): ").unwrap();
        let names = names.split(',').map(|name| format!("ms_docref_{}", name.trim()));
        (file.to_owned(), names.collect())
    });
    assert_eq!(found, listed.collect());
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
            // Without the time, the level and the line number.
            let (_, line) = line.split_once("  INFO ").unwrap();
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
fn the_messages_that_the_docs_quote_are_in_the_code() {
    let code: String = rust_files("src").iter().map(|file| read(file)).collect();
    // A string in the code can continue on the next line.
    let code = code.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let page = read("docs/troubleshooting.md");
    let quotes = page.lines().filter(|line| line.starts_with("| `")).flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split('`').skip(1).step_by(2)
    });
    let missing: Vec<_> = quotes.filter(|quote| !code.contains(quote)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The heading as an anchor, as GitHub writes it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    heading.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}

#[test]
fn the_links_lead_to_files_and_headings() {
    for page in [
        "README.md",
        "docs/your-app.md",
        "docs/your-tenant.md",
        "docs/troubleshooting.md",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
        ".github/CODE_OF_CONDUCT.md",
    ] {
        let text = read(page);
        let links = text.split("](").skip(1).map(|link| link.split(')').next().unwrap());
        // `../../issues` is an address of the website.
        for link in links.filter(|link| !link.starts_with("http") && !link.contains("/issues")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = Path::new(ROOT).join(page).parent().unwrap().join(file);
            assert!(path.exists(), "{page}: {link}");
            if !heading.is_empty() {
                let target = fs::read_to_string(path).unwrap();
                let mut headings = target.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == heading), "{page}: {link}");
            }
        }
    }
}

/// The same file creates the registration in a real tenant and in the demo tenant.
#[test]
fn the_app_registration_is_as_the_readme_describes_it() {
    let json: Value = read("docs/app_registration.json").parse().unwrap();
    let readme = read("README.md");
    let (_, table) = readme.split_once("| App registration setting |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().skip(2).map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        (cells[1], cells[2])
    });
    let code = |value: &str| value.split('`').nth(1).unwrap_or_default().to_owned();
    let mut redirect_uris = Vec::new();
    let mut settings = Vec::new();
    for (setting, value) in rows {
        let setting = setting.replace('*', "");
        let is_right = match setting.as_str() {
            "Name" => json["displayName"] == code(value),
            "Supported account types" => {
                value == "**Single tenant only**" && json["signInAudience"] == "AzureADMyOrg"
            }
            "Platform of the redirect URI" => {
                value == "**Web**" && json["spa"].is_null() && json["publicClient"].is_null()
            }
            "Redirect URI" | "A second Redirect URI" => {
                redirect_uris.push(code(value));
                true
            }
            // A secret is not a part of the file.
            "Certificates & secrets" => json["passwordCredentials"].is_null(),
            "API permissions" => {
                // Microsoft Graph and its delegated permission User.Read, in each tenant.
                let user_read = json!({
                    "resourceAppId": "00000003-0000-0000-c000-000000000000",
                    "resourceAccess": [
                        { "id": "e1fe6dd8-ba31-4d61-89e7-88639da4683d", "type": "Scope" },
                    ],
                });
                value == "**User.Read** of Microsoft Graph"
                    && json["requiredResourceAccess"] == json!([user_read])
            }
            "Implicit grant and hybrid flows" => {
                let tokens = ["enableIdTokenIssuance", "enableAccessTokenIssuance"];
                let grant = &json["web"]["implicitGrantSettings"];
                value == "None" && tokens.iter().all(|token| grant[token] == false)
            }
            "Allow public client flows" => {
                value == "**No**" && json["isFallbackPublicClient"] == false
            }
            "Token configuration" => {
                let claims = &json["optionalClaims"];
                value.ends_with("in the **ID** token")
                    && claims["idToken"].as_array().unwrap().len() == 1
                    && claims["idToken"][0]["name"] == code(value)
                    && claims["accessToken"] == json!([])
            }
            "App roles" => {
                let role = &json["appRoles"][0];
                let (name, rest) = value.split_once(", **Value** ").unwrap();
                rest.ends_with(", **Users/Groups**")
                    && role["allowedMemberTypes"] == json!(["User"])
                    && role["displayName"] == code(name)
                    && role["value"] == code(rest)
                    && role["isEnabled"] == true
                    && json["appRoles"].as_array().unwrap().len() == 1
            }
            other => panic!("{other}"),
        };
        assert!(is_right, "{setting}: {value}");
        settings.push(setting);
    }
    assert_eq!(json["web"]["redirectUris"], json!(redirect_uris));
    assert_eq!(json["web"]["homePageUrl"], redirect_uris[1]);
    for setting in ["Name", "Certificates & secrets", "API permissions", "App roles"] {
        assert!(settings.iter().any(|known| known == setting), "{setting}");
    }
}

/// The calls of `az` in a script, without the quotes and line ends of its shell.
fn calls(script: &str) -> Vec<String> {
    let script = script.replace("\\\n", "").replace("`\n", "").replace('"', "");
    let calls = script.lines().filter_map(|line| Some(&line[line.find("az ")?..]));
    let words = calls.map(|call| call.split_whitespace().collect::<Vec<_>>().join(" "));
    words.map(|call| call.trim_end_matches(')').to_owned()).collect()
}

/// Runs the script with an `az` that answers as Microsoft Graph does.
#[cfg(unix)]
#[test]
fn the_script_registers_the_app_and_writes_the_settings() {
    use std::os::unix::fs::PermissionsExt as _;

    const AZ: &str = r#"#!/bin/sh
for word; do printf '%s\n' "$word" >> calls; done
printf '.\n' >> calls
case "$*" in
    *v1.0/applications*"--query appId"*) echo 11111111-2222-4333-8444-555555555555 ;;
    "ad app credential reset --id 11111111-2222-4333-8444-555555555555 "*) echo 'a$b~c#d' ;;
    *v1.0/servicePrincipals\ *"--query id"*) echo enterprise-app ;;
    *v1.0/me*"--query id"*) echo me ;;
    "account show --query tenantId"*) echo 66666666-7777-4888-8999-000000000000 ;;
esac
"#;
    let page = read("docs/your-tenant.md");
    let (_, script) = page.split_once("```sh\naz login").unwrap();
    let (script, rest) = script.split_once("```").unwrap();
    let (_, powershell) = rest.split_once("```powershell\naz login").unwrap();
    let (powershell, _) = powershell.split_once("```").unwrap();
    assert_eq!(calls(script), calls(powershell));

    let folder = tempfile::TempDir::new().unwrap();
    let az = folder.path().join("az");
    fs::write(&az, AZ).unwrap();
    fs::set_permissions(&az, fs::Permissions::from_mode(0o700)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let status = std::process::Command::new("sh")
        .args(["-euc", &format!("az login{script}")])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());

    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let bodies: Vec<_> = calls.split("--body\n").skip(1).collect();
    let bodies = bodies.iter().map(|rest| rest.lines().next().unwrap());
    let [file, enterprise_app, role]: [&str; 3] = bodies.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(file, "@docs/app_registration.json");
    // The Azure CLI also takes single quotes, which shells leave as they are.
    let json = |body: &str| body.replace('\'', "\"").parse::<Value>().unwrap();
    assert_eq!(json(enterprise_app)["appId"], "11111111-2222-4333-8444-555555555555");
    let registration: Value = read("docs/app_registration.json").parse().unwrap();
    let role_id = &registration["appRoles"][0]["id"];
    let expected =
        json!({ "principalId": "me", "resourceId": "enterprise-app", "appRoleId": role_id });
    assert_eq!(json(role), expected);
    assert!(calls.contains("/v1.0/servicePrincipals/enterprise-app/appRoleAssignedTo\n"));
    assert_eq!(
        fs::read_to_string(folder.path().join(".env")).unwrap(),
        "CLIENT_ID=11111111-2222-4333-8444-555555555555\n\
         CLIENT_CREDENTIAL='a$b~c#d'\n\
         AUTHORITY=https://login.microsoftonline.com/66666666-7777-4888-8999-000000000000\n"
    );
}

#[tokio::test]
async fn the_example_app_signs_in_with_the_route_files_of_this_app() {
    // Cargo builds examples before it runs tests.
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    sign_in_at_the_example(&program.join("examples").join("host_app")).await;
}

/// Starts the example, or a copy, and signs in.
pub async fn sign_in_at_the_example(program: &Path) {
    let platform = Platform::start().await;
    let port = std::net::TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
    let (folder, url) = (tempfile::TempDir::new().unwrap(), format!("http://localhost:{port}"));
    let mut app = tokio::process::Command::new(program)
        .current_dir(folder.path())
        .envs(platform.settings())
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env("PORT", port.to_string())
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

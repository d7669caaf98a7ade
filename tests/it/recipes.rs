//! The recipes of docs/your-app.md: a copy of this repository to which they are applied, and an app of
//! its own. Cargo builds both, with the same libraries as these tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::documentation::sign_in_at_the_example;
use crate::harness::*;
use crate::platform::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The program has another name, so the default level does not fit.
const LOG: (&str, &str) = ("RUST_LOG", "info");

/// A part of docs/your-app.md.
fn section(heading: &str) -> String {
    let page = read("docs/your-app.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    section.split("\n## ").next().unwrap().to_owned()
}

/// The first block of code in a section, without the indent of a list.
fn block(section: &str, language: &str) -> String {
    let (before, block) = section.split_once(&format!("```{language}\n")).unwrap();
    let indent = before.rsplit('\n').next().unwrap();
    let (block, _) = block.split_once(&format!("{indent}```")).unwrap();
    block.lines().map(|line| format!("{}\n", line.strip_prefix(indent).unwrap_or(line))).collect()
}

/// The blocks of Rust in a section.
fn blocks(section: &str) -> Vec<&str> {
    let blocks = section.split("```rust\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

/// Every second part between backticks.
fn codes(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The files of a package.
struct Package {
    name: &'static str,
    files: BTreeMap<String, String>,
}

impl Package {
    fn new(name: &'static str) -> Self {
        // With a test, Cargo builds the libraries as it does for these tests.
        let files = BTreeMap::from([("tests/none.rs".to_owned(), String::new())]);
        Self { name, files }
    }

    fn read(&self, file: &str) -> String {
        self.files.get(file).unwrap_or_else(|| panic!("there is no {file}")).clone()
    }

    fn write(&mut self, file: &str, text: &str) {
        self.files.insert(file.to_owned(), text.to_owned());
    }

    /// Copies a file or a folder of this repository.
    fn copy(&mut self, path: &str) {
        let from = Path::new(ROOT).join(path);
        if from.is_dir() {
            for entry in fs::read_dir(from).unwrap() {
                self.copy(&format!("{path}/{}", entry.unwrap().file_name().to_str().unwrap()));
            }
        } else if let Ok(text) = fs::read_to_string(from) {
            self.write(path, &text);
        }
    }

    fn replace(&mut self, file: &str, find: &str, new: &str) {
        let text = self.read(file);
        assert!(text.contains(find), "{file} does not contain {find}");
        self.write(file, &text.replace(find, new));
    }

    /// Makes the copies and the changes that a section describes. Each row of its tables has a
    /// file, what to find in it, and a change.
    fn apply(&mut self, section: &str) {
        let prose = section.split_whitespace().collect::<Vec<_>>().join(" ");
        let parts: Vec<_> = prose.split('`').collect();
        for copied in parts.windows(3).skip(1).step_by(2).filter(|parts| parts[1] == " to ") {
            let text = self.read(copied[0]);
            self.write(copied[2], &text);
        }
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split(" | ").collect();
            let (file, find) = (codes(cells[0])[0], codes(cells[1])[0]);
            let text = self.read(file);
            assert!(text.contains(find), "{file} does not contain {find}");
            let change = cells[2].trim_end_matches(" |");
            if change == "replace by the block below" {
                self.write(file, &text.replace(find, blocks(section)[0].trim()));
            } else if change.starts_with("replace by `") {
                self.write(file, &text.replace(find, codes(change)[0]));
            } else if change.starts_with("add below: `") {
                self.add_below(file, find, codes(change)[0]);
            } else if change == "delete the lines" {
                let lines = text.lines().filter(|line| !line.contains(find));
                self.write(file, &lines.map(|line| format!("{line}\n")).collect::<String>());
            } else {
                panic!("{row}");
            }
        }
    }

    fn add_below(&mut self, file: &str, find: &str, new: &str) {
        let text = self.read(file);
        let (before, after) = text.split_once(find).unwrap_or_else(|| panic!("{file}: {find}"));
        let (line, after) = after.split_once('\n').unwrap();
        self.write(file, &format!("{before}{find}{line}\n{new}\n{after}"));
    }

    /// Builds the package and returns its program.
    async fn build(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name);
        for (file, text) in &self.files {
            let path = folder.join(file);
            // Cargo builds again what has changed.
            if fs::read_to_string(&path).ok().as_ref() != Some(text) {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        let target = folder.parent().unwrap().parent().unwrap();
        let output = tokio::process::Command::new(env!("CARGO"))
            .args(["test", "--no-run", "--offline", "--test", "none", "--target-dir"])
            .arg(target)
            .current_dir(&folder)
            .output();
        let output = output.await.unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        assert!(!log.contains("warning: unused"), "{log}");
        target.join("debug").join(self.name)
    }
}

#[tokio::test]
async fn the_recipes_work_in_a_copy() {
    let mut copy = Package::new("recipes");
    for path in ["Cargo.toml", "Cargo.lock", "default_settings.toml", "src", "templates"] {
        copy.copy(path);
    }
    for path in ["demo-tenant", "docs", "benches", "examples"] {
        copy.copy(path);
    }
    // The program has a name of its own, so that it does not replace the one that is tested.
    for file in ["Cargo.toml", "Cargo.lock"] {
        copy.replace(file, "name = \"rust-webapp\"", "name = \"recipes\"");
    }
    copy.apply(&section("A page for another role"));
    copy.apply(&section("A call to another API"));
    let calendar = section("A second call with the same token");
    copy.add_below("src/routes/graph.rs", "if status == StatusCode::OK {", blocks(&calendar)[0]);
    let second_factor = section("A second factor for one page");
    let [request, check] = blocks(&second_factor)[..] else { panic!("{second_factor}") };
    let line = "let requested_claims = RequestedClaims::standard();";
    let marker = "ms_docref_require_admin_role_authNZ";
    assert!(second_factor.contains(line) && second_factor.contains(marker));
    copy.replace("src/routes/admin.rs", line, request);
    copy.add_below("src/routes/admin.rs", &format!("// </{marker}>"), check);
    // The tests do not call the APIs of the examples.
    let mail = "\"https://api.example/messages\"";
    copy.replace("src/routes/mail.rs", mail, "std::env::var(\"TEST_API\").unwrap()");
    let calendar = "\"https://graph.microsoft.com/v1.0/me/calendar\"";
    copy.replace("src/routes/graph.rs", calendar, "std::env::var(\"TEST_API\").unwrap()");
    let program = copy.build().await;

    // With the demo tenant.
    let no_api = ("TEST_API", "http://localhost:1");
    let app = App::start_program(&program, &[LOG, no_api]).await;
    open_the_page_for_another_role(&app).await;
    drop(app);
    let app = App::start_program(&program, &[LOG, no_api]).await;
    open_the_page_that_requires_a_second_factor(&app).await;
    drop(app);

    let platform = Platform::start().await;
    platform.on(Endpoint::Graph, |answer| answer.json["name"] = "Example".into());
    let (ours, api) = (platform.settings(), platform.endpoint());
    let mut settings: Vec<_> = ours.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.extend([LOG, ("TEST_API", &api)]);
    let app = App::start_program(&program, &settings).await;
    call_the_other_apis(&app, &platform).await;
}

async fn open_the_page_for_another_role(app: &App) {
    let page = app.browser().sign_in(app, "/audit", ADA).await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("<h2>Audit</h2>") && page.body.contains("auditor"), "{}", page.body);
    let page = app.browser().sign_in(app, "/audit", BEN).await;
    page.assert_error(403, "this page requires the app role");
    assert!(page.body.contains("auditor"), "{}", page.body);
}

async fn open_the_page_that_requires_a_second_factor(app: &App) {
    let browser = app.browser();
    assert_eq!(browser.sign_in(app, "/audit", ADA).await.status, 200);
    let authorize = browser.get(app.at("/admin")).await;
    let claims = authorize.location_parameter("claims").unwrap();
    assert!(claims.contains(r#""acrs":{"essential":true,"value":"c1"}"#), "{claims}");
    assert!(app.log().contains("step 5: this page requires a second factor"));
    let callback = browser.post(authorize.location(), &[("choice", "second_factor")]).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/admin");
    let page = browser.get(app.at("/admin")).await;
    assert!(page.status == 200 && page.body.contains("acrs"), "{}", page.body);

    // If the tenant does not add the context, the second try ends with an error, not with a loop.
    app.edit_session(|session| session["user"]["id_token_claims"]["acrs"] = json!(["c2"]));
    browser.get(app.at("/admin")).await.assert_error(403, "the authentication context c1");
}

async fn call_the_other_apis(app: &App, platform: &Platform) {
    let browser = app.browser();
    assert_eq!(platform.sign_in(app, &browser, "/graph").await.location(), "/graph");
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert!(app.log().contains("the calendar has the name Some(\"Example\")"));
    for _ in 0..2 {
        let page = browser.get(app.at("/mail")).await;
        assert_eq!(page.status, 200, "{}", page.body);
    }
    // Each API has a token of its own, and both are kept.
    let forms = platform.token_forms().await;
    let scopes: Vec<_> = forms.iter().map(|form| form["scope"].as_str()).collect();
    let openid = "openid profile offline_access";
    let mail = format!("{openid} https://api.example/Mail.Read");
    assert_eq!(scopes, [&format!("{openid} {SCOPE}"), &mail]);
    let calls = platform.requests(Endpoint::Graph).await;
    let tokens: Vec<_> = calls.iter().map(|call| &call.headers["authorization"]).collect();
    assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2] && tokens[2] == tokens[3]);
}

#[tokio::test]
async fn an_app_of_your_own_works_with_the_copied_files() {
    let section = section("An app of your own");
    let mut own = Package::new("own-app");
    let package = "[package]\nname = \"own-app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    // The libraries of these tests, so that Cargo builds nothing twice. `[workspace]` says that the
    // app does not belong to this repository.
    let cargo_toml = read("Cargo.toml");
    let (_, dev) = cargo_toml.split_once("[dev-dependencies]").unwrap();
    let (dev, _) = dev.split_once("\n[").unwrap();
    let dev = dev.replace("demo-tenant = { path = \"demo-tenant\" }\n", "");
    let block_to_paste = block(&section, "toml");
    let dependencies = block_to_paste.replace("../rust-webapp", ROOT);
    assert_ne!(dependencies, block_to_paste);
    let text = format!("{package}\n{dependencies}\n[dev-dependencies]{dev}\n[workspace]\n");
    own.write("Cargo.toml", &text);
    own.copy("Cargo.lock");
    for file in block(&section, "text").lines() {
        let to = match file {
            "examples/host_app.rs" => "src/main.rs".to_owned(),
            file => format!("src/{}", file.trim_start_matches("src/").replace("routes/", "")),
        };
        own.write(&to, &read(file));
    }
    let main = own.read("src/main.rs");
    let lines = main.lines().filter(|line| !line.starts_with("#[path"));
    own.write("src/main.rs", &lines.map(|line| format!("{line}\n")).collect::<String>());
    let redis = "#[cfg(feature = \"redis\")]\npub mod redis;\n";
    own.replace("src/session_store/mod.rs", redis, "");
    // The block to paste has the versions of this repository.
    for line in dependencies.lines().skip(1).filter(|line| !line.starts_with("demo-tenant")) {
        assert!(cargo_toml.contains(line), "{line} is not in Cargo.toml");
    }
    sign_in_at_the_example(&own.build().await).await;
}

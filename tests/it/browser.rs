//! What a person does and sees in a real browser: headless Chromium, driven by chromedriver.
//!
//! When a browser closes, its console must be free of errors, which include violations of the
//! Content-Security-Policy, and each request must have gone to the app or its demo tenant.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::ElementWaitable as _;
use thirtyfour::{By, Capabilities, Key, WebDriver, WebElement};
use url::Url;

use crate::harness::*;

const HOME: &str = "Home - Rust actix-web";
const GRAPH: &str = "Graph Access - Rust actix-web";
const ADMIN: &str = "Graph Access as Admin - Rust actix-web";
const SIGN_IN: &str = "Choose a user - Demo tenant";
const RECORDER: &str = "The messages of the sign-in - Demo tenant";

const AXE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/node_modules/axe-core/axe.min.js");

/// Whether a tool is installed. Without it, a test is skipped, but not in CI.
fn is_installed(file: &str, advice: &str) -> bool {
    let is_installed = Path::new(file).exists();
    if !is_installed {
        let message = format!("SKIPPED: there is no {file}; {advice}");
        assert!(env::var("CI").as_deref() != Ok("true"), "{message}");
        // Unlike eprintln, this shows even if the test passes.
        io::stderr().write_all(format!("{message}\n").as_bytes()).unwrap();
    }
    is_installed
}

/// A browser. It ends when it is dropped.
struct Chromium {
    driver: WebDriver,
    /// The only origins of its requests: the app and the demo tenant.
    origins: [String; 2],
    secrets: Secrets,
    _chromedriver: Chromedriver,
    _profile: TempDir,
}

/// chromedriver. Its end ends the browser too.
struct Chromedriver(Child);

impl Drop for Chromedriver {
    fn drop(&mut self) {
        // chromedriver ends its browsers when it is asked to end, not when it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Chromium {
    /// Starts a browser. Returns nothing if Chromium is not installed.
    async fn start(app: &App) -> Option<Self> {
        let advice = "apt-get install chromium chromium-driver";
        if !is_installed("/usr/bin/chromium", advice)
            || !is_installed("/usr/bin/chromedriver", advice)
        {
            return None;
        }
        let profile = TempDir::new().unwrap();
        let mut chromedriver = Command::new("/usr/bin/chromedriver");
        chromedriver.arg("--port=0").env("TMPDIR", profile.path());
        chromedriver.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut chromedriver = Chromedriver(chromedriver.spawn().unwrap());
        let output = BufReader::new(chromedriver.0.stdout.take().unwrap());
        let port = output.lines().find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let capabilities = json!({
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": [
                "--headless=new", "--no-sandbox", "--no-proxy-server", "--no-first-run",
                "--disable-gpu", "--disable-quic", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                "--hide-scrollbars",
                format!("--user-data-dir={}", profile.path().join("profile").display()),
            ] },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let server = format!("http://127.0.0.1:{}", port.expect("chromedriver has a port"));
        let driver = WebDriver::new(server, Capabilities::from(capabilities)).await.unwrap();
        // The browser ends with chromedriver. After a failure, nobody answers a request to end.
        driver.clone().leak().unwrap();
        let authorize = app.browser().get(app.at("/graph")).await;
        let tenant = Url::parse(authorize.location()).unwrap().origin().ascii_serialization();
        Some(Self {
            driver,
            origins: [app.url.clone(), tenant],
            secrets: app.secrets.clone(),
            _chromedriver: chromedriver,
            _profile: profile,
        })
    }

    async fn open(&self, url: impl Into<String>) {
        self.driver.goto(url.into()).await.unwrap();
    }

    async fn open_recorder(&self) {
        self.open(format!("{}/", self.origins[1])).await;
        self.is_at(RECORDER).await;
    }

    /// Waits until the page has this title.
    async fn is_at(&self, title: &str) {
        let started = Instant::now();
        loop {
            let found = self.driver.title().await.unwrap();
            if found == title {
                return;
            }
            if started.elapsed() > PATIENCE {
                panic!("the browser is at {found:?}, not at {title:?}:\n{}", self.text().await);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn find(&self, css: &str) -> WebElement {
        self.driver.find(By::Css(css)).await.unwrap_or_else(|err| panic!("{css}: {err}"))
    }

    /// Clicks, and waits until another page with this title is there.
    async fn click(&self, element: WebElement, title: &str) {
        let page = self.find("html").await;
        element.click().await.unwrap();
        page.wait_until().stale().await.unwrap();
        self.is_at(title).await;
    }

    /// The same with the Enter key, on the element that has the focus.
    async fn enter(&self, title: &str) {
        let page = self.find("html").await;
        self.driver.action_chain().send_keys(Key::Enter).perform().await.unwrap();
        page.wait_until().stale().await.unwrap();
        self.is_at(title).await;
    }

    async fn follow(&self, link: &str, title: &str) {
        self.click(self.driver.find(By::LinkText(link)).await.unwrap(), title).await;
    }

    /// Presses the button with this value.
    async fn press(&self, value: &str, title: &str) {
        self.click(self.find(&format!("button[value='{value}']")).await, title).await;
    }

    /// What a person reads on the page.
    async fn text(&self) -> String {
        self.find("body").await.text().await.unwrap()
    }

    /// Goes to the element with this text with the Tab key. Each element on the way must show that
    /// it has the focus.
    async fn tab_to(&self, text: &str) {
        for _ in 0..30 {
            self.driver.action_chain().send_keys(Key::Tab).perform().await.unwrap();
            let focused = self.driver.active_element().await.unwrap();
            let name = focused.text().await.unwrap();
            let style = focused.css_value("outline-style").await.unwrap();
            let width = focused.css_value("outline-width").await.unwrap();
            let width: f64 = width.trim_end_matches("px").parse().unwrap();
            assert!(style != "none" && width >= 2.0, "{name:?} has the focus: {style} {width}");
            if name.starts_with(text) {
                return;
            }
        }
        panic!("the Tab key does not reach {text:?}");
    }

    /// Sets the width of the page in CSS pixels, and light or dark.
    async fn show(&self, width: u32, color_scheme: &str) {
        let size =
            json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        let media =
            json!({ "features": [{ "name": "prefers-color-scheme", "value": color_scheme }] });
        self.driver.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await.unwrap();
        self.driver.cdp().send_raw("Emulation.setEmulatedMedia", media).await.unwrap();
    }

    /// Closes the browser and checks what it logged. The console shows each response with an error
    /// status; `expected` are those that the test expects, each a path and a status.
    async fn close(self, expected: &[(&str, u16)]) {
        let mut unexpected = Vec::new();
        for entry in self.driver.browser_log().await.unwrap() {
            let is_expected = expected.iter().any(|(path, status)| {
                entry.message.starts_with(&format!("{}{path}", self.origins[0]))
                    && entry.message.contains(&format!("a status of {status} "))
            });
            if !is_expected {
                unexpected.push(format!("{} {}", entry.level, entry.message));
            }
        }
        assert!(unexpected.is_empty(), "in the console: {unexpected:#?}");
        let mut count = 0;
        for entry in self.driver.get_log("performance").await.unwrap() {
            let event: Value = serde_json::from_str(&entry.message).unwrap();
            if event["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = event["message"]["params"]["request"]["url"].as_str().unwrap();
            let url = Url::parse(url).unwrap();
            for (name, value) in url.query_pairs() {
                if ["code", "state", "nonce", "code_challenge"].contains(&&*name) {
                    self.secrets.add(value);
                }
            }
            // The browser itself loads a page when it starts.
            let is_local =
                ["data", "about"].contains(&url.scheme()) || url.scheme().starts_with("chrome");
            let origin = url.origin().ascii_serialization();
            assert!(is_local || self.origins.contains(&origin), "a request to {url}");
            count += 1;
        }
        assert!(count > 0, "the browser recorded no request");
        for cookie in self.driver.get_all_cookies().await.unwrap() {
            self.secrets.add(cookie.value);
        }
    }
}

#[tokio::test]
#[ignore = "needs Chromium"]
async fn a_person_signs_in_reads_the_messages_and_signs_out() {
    let app = App::start(&[("SSO_LOGOUT", "true")]).await;
    let Some(chromium) = Chromium::start(&app).await else { return };
    chromium.open(&app.url).await;
    chromium.follow("Graph Access", SIGN_IN).await;
    chromium.press(ADA, GRAPH).await;
    assert!(chromium.text().await.contains("Signed in as Ada Example"));
    chromium.follow("Graph Access as Admin", ADMIN).await;

    chromium.follow("See the messages", RECORDER).await;
    let text = chromium.text().await;
    for read in ["Sign-in of Ada Example", "Step 5: redirect to authorize", "Token response"] {
        assert!(text.contains(read), "{read}: {text}");
    }
    // The fields are hidden until a person opens them.
    assert!(!text.contains("code_challenge_method"));
    chromium.find(".sign-in li details summary").await.click().await.unwrap();
    let text = chromium.text().await;
    assert!(text.contains("code_challenge_method") && text.contains("RFC 7636 section 4.3"));

    chromium.follow("open the app", HOME).await;
    chromium.follow("Sign out", HOME).await;
    assert!(!chromium.text().await.contains("Signed in as"));
    // Pages from before are not shown from a cache.
    chromium.open(app.at("/graph")).await;
    chromium.is_at(SIGN_IN).await;
    chromium.driver.back().await.unwrap();
    chromium.is_at(HOME).await;
    assert!(!chromium.text().await.contains("Signed in as"));
    chromium.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium"]
async fn a_person_revokes_the_sessions_and_sees_a_claims_challenge() {
    let app = App::start(&[]).await;
    let Some(chromium) = Chromium::start(&app).await else { return };
    chromium.open(app.at("/graph")).await;
    chromium.press(ADA, GRAPH).await;
    chromium.open_recorder().await;
    chromium.press("Revoked", RECORDER).await;
    let text = chromium.text().await;
    assert!(text.contains("Active: Revoke all sessions."), "{text}");
    chromium.follow("Graph Access", SIGN_IN).await;
    assert!(chromium.find("button").await.text().await.unwrap().contains("named by the app"));
    chromium.press(ADA, GRAPH).await;
    chromium.open_recorder().await;
    assert!(chromium.text().await.contains("answers a claims challenge"));
    chromium.press("none", RECORDER).await;
    assert!(!chromium.text().await.contains("Active:"));
    chromium.close(&[]).await;
}

/// The app and the demo tenant send Cross-Origin-Opener-Policy, so the window that another page
/// opened loses its opener. The sign-in must still work in it.
#[tokio::test]
#[ignore = "needs Chromium"]
async fn a_sign_in_works_in_a_window_that_another_page_opened() {
    let app = App::start(&[]).await;
    let Some(chromium) = Chromium::start(&app).await else { return };
    chromium.open_recorder().await;
    let script = format!("window.opened = window.open({:?})", app.at("/admin"));
    chromium.driver.execute(script, vec![]).await.unwrap();
    let opener = chromium.driver.window().await.unwrap();
    let windows = chromium.driver.windows().await.unwrap();
    let opened = windows.into_iter().find(|window| *window != opener).unwrap();
    chromium.driver.switch_to_window(opened).await.unwrap();
    chromium.is_at(SIGN_IN).await;
    chromium.press(ADA, ADMIN).await;
    let has_opener =
        chromium.driver.execute("return window.opener !== null", vec![]).await.unwrap();
    assert_eq!(has_opener.json(), &json!(false));
    chromium.driver.switch_to_window(opener).await.unwrap();
    let is_closed = chromium.driver.execute("return window.opened.closed", vec![]).await.unwrap();
    assert_eq!(is_closed.json(), &json!(true), "the opener has no access");
    chromium.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium"]
async fn the_keyboard_is_enough() {
    let app = App::start(&[]).await;
    let Some(chromium) = Chromium::start(&app).await else { return };
    chromium.open(&app.url).await;
    chromium.tab_to("Graph Access").await;
    chromium.enter(SIGN_IN).await;
    chromium.tab_to("Ada Example").await;
    chromium.enter(GRAPH).await;
    chromium.tab_to("See the messages").await;
    chromium.enter(RECORDER).await;
    chromium.tab_to("GET ").await;
    chromium.driver.action_chain().send_keys(Key::Enter).perform().await.unwrap();
    assert!(chromium.text().await.contains("code_challenge_method"));
    chromium.open_recorder().await;
    chromium.tab_to("Revoke all sessions").await;
    chromium.enter(RECORDER).await;
    assert!(chromium.text().await.contains("Active: Revoke all sessions."));
    chromium.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core"]
async fn each_page_is_accessible_in_light_and_dark_and_on_a_phone() {
    if !is_installed(AXE, "npm install --prefix target/axe axe-core@4") {
        return;
    }
    let axe = fs::read_to_string(AXE).unwrap();
    let app = App::start(&[]).await;
    let Some(chromium) = Chromium::start(&app).await else { return };
    let mut failures = Vec::new();
    let mut look = async |page: &str| {
        chromium.driver.execute(axe.as_str(), vec![]).await.unwrap();
        // Look at what a person can open too.
        let open = "document.querySelectorAll('details').forEach(details => details.open = true)";
        chromium.driver.execute(open, vec![]).await.unwrap();
        for (width, scheme) in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")] {
            chromium.show(width, scheme).await;
            let run = "const done = arguments[arguments.length - 1];
                axe.run().then(found => done({
                    passes: found.passes.length,
                    overflows: document.documentElement.scrollWidth > window.innerWidth,
                    dark: matchMedia('(prefers-color-scheme: dark)').matches,
                    width: window.innerWidth,
                    violations: found.violations.map(
                        ({ help, nodes }) => [help, nodes.slice(0, 3).map(node => node.html)]),
                }), error => done({ error: String(error) }))";
            let found = chromium.driver.execute_async(run, vec![]).await.unwrap();
            let found = found.json();
            assert!(found["passes"].as_u64().is_some_and(|passes| passes > 10), "{found}");
            assert_eq!(
                (&found["width"], &found["dark"]),
                (&json!(width), &json!(scheme == "dark"))
            );
            if found["violations"] != json!([]) || found["overflows"] == true {
                failures.push(format!("{page}, {scheme}, {width} pixels: {found:#}"));
            }
        }
    };
    chromium.open_recorder().await;
    look("the recorder without messages").await;
    chromium.open(&app.url).await;
    look("home, signed out").await;
    chromium.open(app.at("/auth/redirect")).await;
    look("400").await;
    chromium.open(app.at("/nothing")).await;
    look("404").await;
    chromium.open(format!("{}/nothing", chromium.origins[1])).await;
    look("404 of the demo tenant").await;
    chromium.open(app.at("/admin")).await;
    look("the sign-in page").await;
    chromium.press(BEN, "403 Forbidden - Rust actix-web").await;
    look("403").await;
    chromium.open(app.at("/graph")).await;
    look("graph").await;
    chromium.open(app.at("/logout")).await;
    chromium.is_at(HOME).await;
    chromium.open_recorder().await;
    chromium.press("Revoked", RECORDER).await;
    chromium.open(app.at("/admin")).await;
    chromium.press(ADA, ADMIN).await;
    look("admin").await;
    // A claims challenge and an active fault.
    chromium.open_recorder().await;
    chromium.press("Revoked", RECORDER).await;
    chromium.open(app.at("/graph")).await;
    chromium.press(ADA, GRAPH).await;
    chromium.open_recorder().await;
    look("the recorder with messages, a refusal and a fault").await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

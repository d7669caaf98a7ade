//! What a person does and sees in a real browser: headless Chromium, driven by chromedriver.
//!
//! When a browser closes, its console must be empty. The console shows violations of the
//! Content-Security-Policy too. Each request must have gone to the app or its demo tenant.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::{ElementQueryable as _, ElementWaitable as _};
use thirtyfour::{By, Capabilities, Key, WebDriver, WebElement};
use url::Url;

use crate::harness::*;

const HOME: &str = "Home - Rust actix-web";
const GRAPH: &str = "Graph Access - Rust actix-web";
const ADMIN: &str = "Graph Access as Admin - Rust actix-web";
const FORBIDDEN: &str = "403 Forbidden - Rust actix-web";
const SIGN_IN: &str = "Choose a user - Demo tenant";
const RECORDER: &str = "What app and tenant say to each other - Demo tenant";

/// A browser. It ends when it is dropped.
struct Chromium {
    driver: WebDriver,
    /// `http://localhost:PORT` of the demo tenant.
    tenant: String,
    _chromedriver: Chromedriver,
    _folder: TempDir,
}

/// chromedriver. Its end ends the browser too.
struct Chromedriver(Child);

impl Chromedriver {
    /// Starts chromedriver on a free port. It ends if the port is free only on IPv4.
    fn start(folder: &Path) -> Option<(Self, u16)> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("TMPDIR", folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut chromedriver = Self(command.spawn().unwrap());
        let output = BufReader::new(chromedriver.0.stdout.take().unwrap());
        let port = output.lines().find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        })?;
        Some((chromedriver, port))
    }
}

impl Drop for Chromedriver {
    fn drop(&mut self) {
        // chromedriver ends its browsers when it is asked to end, not when it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Chromium {
    async fn start(app: &App) -> Self {
        // The browser keeps its profile in this folder.
        let folder = TempDir::new().unwrap();
        let started = (0..5).find_map(|_| Chromedriver::start(folder.path()));
        let (chromedriver, port) = started.expect("chromedriver has a port");
        let capabilities = json!({
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": [
                "--headless=new", "--no-sandbox", "--no-proxy-server", "--disable-gpu",
                "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
            ] },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let capabilities: Capabilities = serde_json::from_value(capabilities).unwrap();
        let server = format!("http://127.0.0.1:{port}");
        let driver = WebDriver::new(server, capabilities).await.unwrap();
        // The browser ends with chromedriver. After a failure, nobody answers a request to end.
        driver.clone().leak().unwrap();
        let authorize = app.browser().get(app.at("/graph")).await;
        let tenant = Url::parse(authorize.location()).unwrap().origin().ascii_serialization();
        Self { driver, tenant, _chromedriver: chromedriver, _folder: folder }
    }

    async fn open(&self, url: impl Into<String>) {
        self.driver.goto(url.into()).await.unwrap();
    }

    async fn open_recorder(&self) {
        self.open(format!("{}/", self.tenant)).await;
        self.is_at(RECORDER).await;
    }

    /// Waits until the page has this title.
    async fn is_at(&self, title: &str) {
        let element = self.driver.query(By::XPath(format!("/html/head/title[.='{title}']")));
        let found = element.wait(PATIENCE, Duration::from_millis(20)).exists().await.unwrap();
        assert!(found, "the browser is not at {title:?}:\n{}", self.text().await);
    }

    async fn find(&self, css: &str) -> WebElement {
        self.driver.find(By::Css(css)).await.unwrap_or_else(|err| panic!("{css}: {err}"))
    }

    /// Clicks the button with this value, and waits until another page with this title is there.
    async fn click(&self, value: &str, title: &str) {
        let page = self.find("html").await;
        self.find(&format!("button[value='{value}']")).await.click().await.unwrap();
        page.wait_until().stale().await.unwrap();
        self.is_at(title).await;
    }

    /// What a person reads on the page.
    async fn text(&self) -> String {
        self.find("body").await.text().await.unwrap()
    }

    async fn key(&self, key: Key) {
        self.driver.action_chain().send_keys(key).perform().await.unwrap();
    }

    /// Goes to the element with this text with the Tab key. Each element on the way must show that
    /// it has the focus.
    async fn tab_to(&self, text: &str) {
        for _ in 0..100 {
            self.key(Key::Tab).await;
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

    /// The same with the keyboard, for the link or button with this text.
    async fn enter(&self, text: &str, title: &str) {
        self.tab_to(text).await;
        let page = self.find("html").await;
        self.key(Key::Enter).await;
        page.wait_until().stale().await.unwrap();
        self.is_at(title).await;
    }

    /// Checks what the browser logged, and closes it.
    async fn close(self, app: &App) {
        let console = self.driver.browser_log().await.unwrap();
        let console: Vec<_> = console.iter().map(|entry| &entry.message).collect();
        assert!(console.is_empty(), "in the console: {console:#?}");
        let mut origins = BTreeSet::new();
        for entry in self.driver.get_log("performance").await.unwrap() {
            let event: Value = serde_json::from_str(&entry.message).unwrap();
            if event["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = event["message"]["params"]["request"]["url"].as_str().unwrap();
            let origin = Url::parse(url).unwrap().origin();
            // Addresses of the browser itself, such as chrome://newtab, have no host and port.
            if origin.is_tuple() {
                origins.insert(origin.ascii_serialization());
            }
        }
        assert_eq!(origins, BTreeSet::from([app.url.clone(), self.tenant]));
    }
}

#[tokio::test]
#[ignore = "needs Chromium"]
async fn a_person_without_a_mouse_signs_in_reads_the_messages_and_signs_out() {
    let app = App::start(&[("SSO_LOGOUT", "true")]).await;
    let chromium = Chromium::start(&app).await;
    chromium.open(&app.url).await;
    chromium.enter("Graph Access", SIGN_IN).await;
    chromium.enter("Ada Example", GRAPH).await;
    assert!(chromium.text().await.contains("Signed in as Ada Example"));

    chromium.enter("See the messages", RECORDER).await;
    let text = chromium.text().await;
    for read in [
        "Ada Example signed in, and opened /graph",
        "Step 5: redirect to authorize",
        "Token response",
    ] {
        assert!(text.contains(read), "{read}: {text}");
    }
    // The fields and the code are hidden until a person opens them.
    assert!(!text.contains("code_challenge_method"));
    chromium.tab_to("Code: src/routes/graph.rs").await;
    chromium.key(Key::Enter).await;
    assert!(chromium.text().await.contains("// Step 1: session lookup."));
    chromium.tab_to("GET ").await;
    chromium.key(Key::Enter).await;
    let text = chromium.text().await;
    assert!(text.contains("code_challenge_method") && text.contains("RFC 7636 section 4.3"));

    chromium.open_recorder().await;
    chromium.enter("Revoke all sessions", RECORDER).await;
    assert!(chromium.text().await.contains("Waiting to happen: Revoke all sessions"));
    // The links to the app open another tab, so that this text stays.
    let link = chromium.find("nav a").await;
    assert_eq!(link.attr("target").await.unwrap().as_deref(), Some("_blank"));
    chromium.open(app.at("/graph")).await;
    chromium.is_at(SIGN_IN).await;
    assert!(chromium.find("button").await.text().await.unwrap().contains("named by the app"));
    chromium.enter("Ada Example", GRAPH).await;
    chromium.enter("See the messages", RECORDER).await;
    let text = chromium.text().await;
    assert!(text.contains("again, after a claims challenge"), "{text}");
    assert!(!text.contains("Waiting to happen"), "{text}");
    chromium.enter("Take Ada's role away", RECORDER).await;
    assert!(chromium.text().await.contains("In force: Take Ada's role away"));
    chromium.enter("Give the role back", RECORDER).await;
    assert!(!chromium.text().await.contains("In force"));
    chromium.enter("Use a stolen code", RECORDER).await;
    assert!(chromium.text().await.contains("The attack failed: Use a stolen code"));

    chromium.open(&app.url).await;
    chromium.enter("Sign out", HOME).await;
    assert!(!chromium.text().await.contains("Signed in as"));
    // Pages from before are not shown from a cache.
    chromium.open(app.at("/graph")).await;
    chromium.is_at(SIGN_IN).await;
    chromium.driver.back().await.unwrap();
    chromium.is_at(HOME).await;
    assert!(!chromium.text().await.contains("Signed in as"));
    chromium.close(&app).await;
}

/// The app and the demo tenant send Cross-Origin-Opener-Policy, so the window that another page
/// opened loses its opener. The sign-in must still work in it.
#[tokio::test]
#[ignore = "needs Chromium"]
async fn a_sign_in_works_in_a_window_that_another_page_opened() {
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;
    chromium.open_recorder().await;
    let script = format!("window.open({:?})", app.at("/admin"));
    let driver = &chromium.driver;
    driver.execute(script, vec![]).await.unwrap();
    let opener = driver.window().await.unwrap();
    let windows = driver.windows().await.unwrap();
    let opened = windows.into_iter().find(|window| *window != opener).unwrap();
    driver.switch_to_window(opened).await.unwrap();
    chromium.is_at(SIGN_IN).await;
    chromium.click(ADA, ADMIN).await;
    let found = driver.execute("return window.opener", vec![]).await.unwrap();
    assert_eq!(found.json(), &Value::Null);
    chromium.close(&app).await;
}

#[tokio::test]
#[ignore = "needs Chromium and axe-core"]
async fn each_page_is_accessible_in_light_and_dark_and_on_a_phone() {
    // .ci/run installs it.
    let axe = read("target/axe/node_modules/axe-core/axe.min.js");
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;
    let driver = &chromium.driver;
    let look = async |page: &str| {
        driver.execute(axe.as_str(), vec![]).await.unwrap();
        // Look at what a person can open too.
        let open = "document.querySelectorAll('details').forEach(details => details.open = true)";
        driver.execute(open, vec![]).await.unwrap();
        for (width, scheme) in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")] {
            let screen =
                json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
            let media =
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            driver.cdp().send_raw("Emulation.setDeviceMetricsOverride", screen).await.unwrap();
            driver.cdp().send_raw("Emulation.setEmulatedMedia", media).await.unwrap();
            let run = "const done = arguments[arguments.length - 1];
                axe.run().then(found => done({
                    runs: found.passes.length > 10,
                    width: window.innerWidth,
                    overflows: document.documentElement.scrollWidth > window.innerWidth,
                    dark: matchMedia('(prefers-color-scheme: dark)').matches,
                    violations: found.violations.map(
                        ({ help, nodes }) => [help, nodes.slice(0, 3).map(node => node.html)]),
                }), error => done({ error: String(error) }))";
            let found = driver.execute_async(run, vec![]).await.unwrap();
            let is_dark = scheme == "dark";
            let expected = json!({ "runs": true, "width": width, "overflows": false,
                                   "dark": is_dark, "violations": [] });
            assert_eq!(found.json(), &expected, "{page}");
        }
    };
    // The last one leads to the sign-in page.
    for page in [
        &format!("{}/", chromium.tenant),
        &format!("{}/nothing", chromium.tenant),
        &app.url,
        &app.at("/auth/redirect"),
        &app.at("/nothing"),
        &app.at("/admin"),
    ] {
        chromium.open(page).await;
        look(page).await;
    }
    chromium.click(BEN, FORBIDDEN).await;
    look("403").await;
    chromium.open(app.at("/graph")).await;
    look("graph").await;
    chromium.open_recorder().await;
    chromium.click("Revoked", RECORDER).await;
    chromium.open(app.at("/graph")).await;
    chromium.click(ADA, GRAPH).await;
    chromium.open(app.at("/admin")).await;
    chromium.is_at(ADMIN).await;
    look("admin").await;
    chromium.open_recorder().await;
    chromium.click("NoRole", RECORDER).await;
    chromium.click("nonce", RECORDER).await;
    look("the recorder with messages, a claims challenge, a fault and an attack").await;
}

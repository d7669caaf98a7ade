//! What a person does and sees, in a real browser: headless Chromium,
//! driven by chromedriver.
//!
//! Each test has one browser with a profile of its own. When it closes, the
//! browser's log must be free of errors (which is where violations of the
//! Content-Security-Policy show), and all that it loaded must have come
//! from the app or its tenant.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{By, Capabilities, Key, WebDriver, WebElement, WindowHandle};
use url::Url;

use crate::harness::*;

const HOME: &str = "Home - Rust actix-web";
const GRAPH: &str = "Graph Access - Rust actix-web";
const ADMIN: &str = "Graph Access as Admin - Rust actix-web";
const FORBIDDEN: &str = "403 Forbidden - Rust actix-web";
const SIGN_IN: &str = "Choose a user - Demo tenant";

/// The link texts of the layout.
const TO_GRAPH: &str = "Graph Access";
const TO_ADMIN: &str = "Graph Access as Admin";
const TO_HOME: &str = "Return to home";
const SIGN_OUT: &str = "Sign out";

/// The demo tenant's object id of the user with the role: it is on no page
/// but those of that user.
const ADAS_OID: &str = "3d9f6a20-7b18-4c55-9e0d-f24b81c6a7e3";

/// A browser, which ends when this goes out of scope.
struct Chromium {
    _chromedriver: Chromedriver,
    driver: WebDriver,
    _profile: TempDir,
    /// Where it may load from: the app and its demo tenant.
    origins: [String; 2],
    secrets: Secrets,
}

/// chromedriver and the processes that it starts, which are of its process
/// group and would outlive it.
struct Chromedriver(Child);

impl Drop for Chromedriver {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

impl Chromium {
    async fn start(app: &App) -> Self {
        let profile = TempDir::new().unwrap();
        let mut chromedriver = Command::new("chromedriver");
        chromedriver.arg("--port=0").env("TMPDIR", profile.path()).process_group(0);
        chromedriver.stdin(Stdio::null()).stdout(Stdio::piped());
        let chromedriver = chromedriver.spawn().expect("chromedriver, as apt-get install chromium-driver brings it");
        let mut chromedriver = Chromedriver(chromedriver);
        let output = BufReader::new(chromedriver.0.stdout.take().unwrap());
        let port = output.lines().find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let capabilities = json!({
            "goog:chromeOptions": { "args": [
                "--headless=new",
                "--no-sandbox",
                "--no-proxy-server",
                "--no-first-run",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-lcd-text",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                format!("--user-data-dir={}", profile.path().join("profile").display()),
            ] },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let server = format!("http://127.0.0.1:{}", port.expect("chromedriver's port"));
        let driver = WebDriver::new(server, Capabilities::from(capabilities)).await.unwrap();
        // Its own end would wait for an answer, and after a failure there may be
        // none.
        driver.clone().leak().unwrap();
        let tenant = app.log().split_once("demo tenant http").unwrap().1.split_whitespace().next().unwrap().to_owned();
        let tenant = Url::parse(&format!("http{tenant}")).unwrap().origin().ascii_serialization();
        let origins = [app.url.clone(), tenant];
        Self { _chromedriver: chromedriver, driver, _profile: profile, origins, secrets: app.secrets() }
    }

    async fn open(&self, url: impl Into<String>) {
        self.driver.goto(url.into()).await.unwrap();
    }

    /// Waits until the page with this title is there.
    #[track_caller]
    fn is_at(&self, title: &'static str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            loop {
                let found = self.driver.title().await.unwrap();
                if found == title {
                    return;
                }
                if started.elapsed() > Duration::from_secs(10) {
                    let text = self.text().await;
                    panic!("{caller}: the browser is not at {title:?} but at {found:?}:\n{text}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn link(&self, text: &str) -> WebElement {
        self.driver.find(By::LinkText(text)).await.unwrap()
    }

    /// Clicks on a link and waits for the page that it leads to.
    async fn follow(&self, link: &str, title: &'static str) {
        self.link(link).await.click().await.unwrap();
        self.is_at(title).await;
    }

    /// Makes a choice on the demo tenant's page and waits for the page that it
    /// leads to.
    async fn choose(&self, choice: &str, title: &'static str) {
        self.is_at(SIGN_IN).await;
        self.driver.find(By::Css(format!("button[value='{choice}']"))).await.unwrap().click().await.unwrap();
        self.is_at(title).await;
    }

    /// What a person reads on the page.
    async fn text(&self) -> String {
        self.driver.find(By::Css("body")).await.unwrap().text().await.unwrap()
    }

    async fn path(&self) -> String {
        let url = self.driver.current_url().await.unwrap();
        assert_eq!(url.origin().ascii_serialization(), self.origins[0]);
        url.path().to_owned()
    }

    /// Sends one key, as a person without a mouse does.
    async fn press(&self, key: Key) {
        self.driver.action_chain().send_keys(key).perform().await.unwrap();
    }

    /// Goes on to the element with this text by the Tab key alone; wherever
    /// that stops, one must see it.
    async fn tab_to(&self, text: &str) {
        for _ in 0..10 {
            self.press(Key::Tab).await;
            let focused = self.driver.active_element().await.unwrap();
            let name = focused.text().await.unwrap();
            let style = focused.css_value("outline-style").await.unwrap();
            let width = focused.css_value("outline-width").await.unwrap();
            let width: f64 = width.trim_end_matches("px").parse().unwrap();
            assert!(style != "none" && width >= 2.0, "{name:?} has the focus, and nobody sees it: {style} {width}");
            if name.lines().next().is_some_and(|line| line.starts_with(text)) {
                return;
            }
        }
        panic!("the Tab key does not reach {text:?}");
    }

    /// Makes the window this wide, in CSS pixels, and its user one who likes it
    /// light or dark.
    async fn show(&self, width: u32, height: u32, scale: u32, color_scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false });
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": color_scheme }] });
        self.driver.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await.unwrap();
        self.driver.cdp().send_raw("Emulation.setEmulatedMedia", media).await.unwrap();
    }

    async fn window(&self) -> WindowHandle {
        self.driver.window().await.unwrap()
    }

    async fn switch_to(&self, window: &WindowHandle) {
        self.driver.switch_to_window(window.clone()).await.unwrap();
    }

    /// Closes the browser, once it is clear that all went well in it: its log
    /// has nothing but `expected` answers, each a path and a status that a
    /// browser logs as an error, and nobody else was asked for anything.
    async fn close(self, expected: &[(&str, u16)]) {
        let mut unexpected: Vec<String> = Vec::new();
        for entry in self.driver.browser_log().await.unwrap() {
            let is_expected = expected.iter().any(|(path, status)| {
                let at_path = format!("{}{path}", self.origins[0]);
                entry.message.starts_with(&at_path) && entry.message.contains(&format!("a status of {status} "))
            });
            if !is_expected {
                unexpected.push(format!("{} {}", entry.level, entry.message));
            }
        }
        assert!(unexpected.is_empty(), "in the browser's log: {unexpected:#?}");

        let mut loaded = 0;
        for entry in self.driver.get_log("performance").await.unwrap() {
            let event: Value = serde_json::from_str(&entry.message).unwrap();
            if event["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = Url::parse(event["message"]["params"]["request"]["url"].as_str().unwrap()).unwrap();
            for (name, value) in url.query_pairs() {
                if ["code", "state", "nonce", "code_challenge"].contains(&&*name) {
                    self.secrets.add(value);
                }
            }
            let origin = url.origin().ascii_serialization();
            let is_own = ["data", "about", "chrome"].contains(&url.scheme());
            assert!(is_own || self.origins.contains(&origin), "the browser asked for {url}");
            loaded += 1;
        }
        assert!(loaded > 0, "the browser recorded no request");
        for cookie in self.driver.get_all_cookies().await.unwrap() {
            self.secrets.add(cookie.value);
        }
    }
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn a_person_signs_in_looks_around_and_signs_out() {
    let app = App::start(&[("SSO_LOGOUT", "true")]).await;
    let chromium = Chromium::start(&app).await;

    chromium.open(&app.url).await;
    chromium.is_at(HOME).await;
    assert!(!chromium.text().await.contains("Signed in"));

    chromium.follow(TO_GRAPH, SIGN_IN).await;
    chromium.choose(ADA_WITH_THE_ROLE, GRAPH).await;
    assert_eq!(chromium.path().await, "/graph");
    let text = chromium.text().await;
    assert!(text.contains("Signed in as Ada Example"), "{text}");
    assert!(text.contains(ADA_WITH_THE_ROLE) && text.contains(ADAS_OID), "{text}");

    chromium.follow(TO_ADMIN, ADMIN).await;
    let text = chromium.text().await;
    assert!(text.contains("\"roles\": [\n    \"admin\"\n  ]"), "{text}");

    chromium.follow(TO_HOME, HOME).await;
    assert!(chromium.text().await.contains("Signed in as Ada Example"));
    chromium.follow(SIGN_OUT, HOME).await;
    assert!(!chromium.text().await.contains("Signed in"));

    // Back through all that was seen: each page is asked for anew, so that the
    // next person at this computer sees nothing.
    for _ in 0..4 {
        chromium.driver.back().await.unwrap();
        let source = chromium.driver.source().await.unwrap();
        assert!(!source.contains("Signed in as") && !source.contains(ADAS_OID), "{source}");
    }
    chromium.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn a_user_without_the_role_learns_why_and_makes_way_for_one_who_has_it() {
    let app = App::start(&[("SSO_LOGOUT", "true")]).await;
    let chromium = Chromium::start(&app).await;

    chromium.open(&app.url).await;
    chromium.follow(TO_ADMIN, SIGN_IN).await;
    chromium.choose(BEN_WITHOUT_ROLE, FORBIDDEN).await;
    assert_eq!(chromium.path().await, "/admin");
    let text = chromium.text().await;
    for explanation in ["The role needed is \"admin\"", "Users and groups"] {
        assert!(text.contains(explanation), "{explanation:?} is not in:\n{text}");
    }

    // Without the role, everything else is still there.
    chromium.follow(TO_HOME, HOME).await;
    chromium.follow(TO_GRAPH, GRAPH).await;
    assert!(chromium.text().await.contains(BEN_WITHOUT_ROLE));
    chromium.open(app.at("/admin")).await;
    chromium.is_at(FORBIDDEN).await;

    chromium.follow("sign out", HOME).await;
    chromium.follow(TO_ADMIN, SIGN_IN).await;
    chromium.choose(ADA_WITH_THE_ROLE, ADMIN).await;
    chromium.close(&[("/admin", 403)]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn a_person_declines_and_then_thinks_better_of_it() {
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;

    chromium.open(app.at("/graph")).await;
    chromium.choose(DECLINE, FORBIDDEN).await;
    let text = chromium.text().await;
    assert!(text.contains("declined") && text.contains("access_denied"), "{text}");
    assert!(!text.contains("Signed in"), "{text}");

    chromium.follow(TO_HOME, HOME).await;
    chromium.follow(TO_GRAPH, SIGN_IN).await;
    chromium.choose(BEN_WITHOUT_ROLE, GRAPH).await;

    // Single sign-on: signed out here, and back without being asked.
    chromium.follow(SIGN_OUT, HOME).await;
    chromium.follow(TO_GRAPH, GRAPH).await;
    chromium.close(&[("/auth/redirect", 403)]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn two_tabs_sign_in_at_the_same_time_and_both_arrive() {
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;

    let first = chromium.window().await;
    chromium.open(app.at("/graph")).await;
    chromium.is_at(SIGN_IN).await;
    let second = chromium.driver.new_tab().await.unwrap();
    chromium.switch_to(&second).await;
    chromium.open(app.at("/admin?tab=2")).await;
    chromium.is_at(SIGN_IN).await;

    chromium.switch_to(&first).await;
    chromium.choose(ADA_WITH_THE_ROLE, GRAPH).await;
    chromium.switch_to(&second).await;
    chromium.choose(ADA_WITH_THE_ROLE, ADMIN).await;
    assert_eq!(chromium.path().await, "/admin");

    chromium.switch_to(&first).await;
    chromium.driver.refresh().await.unwrap();
    chromium.is_at(GRAPH).await;
    chromium.close(&[]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn a_keyboard_is_all_it_takes() {
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;

    chromium.open(&app.url).await;
    chromium.tab_to(TO_GRAPH).await;
    chromium.press(Key::Enter).await;
    chromium.is_at(SIGN_IN).await;
    chromium.tab_to("Decline").await;
    chromium.press(Key::Enter).await;
    chromium.is_at(FORBIDDEN).await;
    chromium.tab_to(TO_HOME).await;
    chromium.press(Key::Enter).await;
    chromium.is_at(HOME).await;
    chromium.tab_to(TO_ADMIN).await;
    chromium.press(Key::Enter).await;
    chromium.is_at(SIGN_IN).await;
    chromium.tab_to("Ada Example").await;
    chromium.press(Key::Enter).await;
    chromium.is_at(ADMIN).await;
    chromium.tab_to(SIGN_OUT).await;
    chromium.press(Key::Enter).await;
    chromium.is_at(HOME).await;
    chromium.close(&[("/auth/redirect", 403)]).await;
}

#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver; and npm install --prefix target/axe axe-core"]
async fn no_page_shuts_anyone_out() {
    let axe = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/node_modules/axe-core/axe.min.js");
    let axe = fs::read_to_string(axe).expect("axe-core, as npm install --prefix target/axe axe-core brings it");
    let app = App::start(&[]).await;
    let chromium = Chromium::start(&app).await;
    let tenant = chromium.origins[1].clone();

    let mut failures = Vec::new();
    let mut look_at = async |page: &str| {
        chromium.driver.execute(axe.as_str(), vec![]).await.unwrap();
        for (width, color_scheme) in [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")] {
            chromium.show(width, 800, 1, color_scheme).await;
            let run = "const done = arguments[arguments.length - 1];
                axe.run().then(found => done({
                    passes: found.passes.length,
                    wider: document.documentElement.scrollWidth > window.innerWidth,
                    dark: matchMedia('(prefers-color-scheme: dark)').matches,
                    width: window.innerWidth,
                    violations: found.violations.map(({ help, nodes }) => [help, nodes.map(node => node.html)]),
                }), error => done({ error: String(error) }))";
            let found = chromium.driver.execute_async(run, vec![]).await.unwrap();
            let found = found.json();
            assert!(found["passes"].as_u64().is_some_and(|passes| passes > 10), "{page}: {found}");
            assert_eq!((&found["width"], &found["dark"]), (&json!(width), &json!(color_scheme == "dark")));
            if found["violations"] != json!([]) || found["wider"] == true {
                failures.push(format!("{page}, {color_scheme}, {width} pixels: {found:#}"));
            }
        }
    };

    chromium.open(&app.url).await;
    chromium.is_at(HOME).await;
    look_at("home, signed out").await;
    chromium.open(format!("{tenant}/nowhere")).await;
    look_at("the demo tenant's error page").await;
    chromium.open(app.at("/auth/redirect")).await;
    look_at("400").await;
    chromium.open(app.at("/nowhere")).await;
    look_at("404").await;
    chromium.open(app.at("/admin")).await;
    chromium.is_at(SIGN_IN).await;
    look_at("the demo tenant's sign-in page").await;
    chromium.choose(BEN_WITHOUT_ROLE, FORBIDDEN).await;
    look_at("403").await;
    chromium.follow(TO_HOME, HOME).await;
    look_at("home, signed in").await;
    chromium.follow(TO_GRAPH, GRAPH).await;
    look_at("graph").await;
    // Another user: the demo tenant's own session goes with its cookies.
    chromium.driver.cdp().send_raw("Network.clearBrowserCookies", json!({})).await.unwrap();
    chromium.open(app.at("/admin")).await;
    chromium.choose(ADA_WITH_THE_ROLE, ADMIN).await;
    look_at("admin").await;
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `APP_PNG=app.png cargo test picture -- --ignored` makes the picture anew
/// that the README shows. Without APP_PNG it only tries whether that could
/// be done.
#[tokio::test]
#[ignore = "needs Chromium: apt-get install chromium chromium-driver"]
async fn the_picture_shows_the_graph_page() {
    let file = std::env::var("APP_PNG").ok();
    // The README's port, so that the picture shows the addresses that its
    // readers see.
    let port = if file.is_some() { "5000" } else { "0" };
    let app = App::start(&[("PORT", port)]).await;
    let chromium = Chromium::start(&app).await;
    chromium.show(800, 600, 2, "light").await;
    chromium.open(app.at("/graph")).await;
    chromium.choose(ADA_WITH_THE_ROLE, GRAPH).await;
    // As high as what the page is about, so that nothing of that is cut off
    // and nothing is empty.
    let height = "return document.querySelector('main').getBoundingClientRect().bottom";
    let height = chromium.driver.execute(height, vec![]).await.unwrap().json().as_f64().unwrap().ceil() as u32 + 8;
    chromium.show(800, height, 2, "light").await;
    let png = chromium.driver.screenshot_as_png().await.unwrap();
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (1600, 2 * height));
    assert!((20_000..300_000).contains(&png.len()), "{} bytes", png.len());
    if let Some(file) = file {
        fs::write(file, png).unwrap();
    }
    chromium.close(&[]).await;
}

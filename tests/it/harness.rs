//! Starts the app as a user would, and browses it as a browser does: with a
//! cookie jar, and every redirect seen.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, redirect::Policy};
use serde_json::Value;
use tempfile::TempDir;
use url::Url;

/// The demo tenant's users, by what their button on the sign-in page sends.
pub const ADA_WITH_THE_ROLE: &str = "ada@demo-tenant.example";
/// The other user, who has no app role.
pub const BEN_WITHOUT_ROLE: &str = "ben@demo-tenant.example";
/// What the button to decline sends.
pub const DECLINE: &str = "decline";

/// The most that anything on this machine takes, unless it will never
/// happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the paths of requests begin that are made to see the end of a log.
const UNTIL_HERE: &str = "/the-log-until-here-";

/// A running app, in a folder of its own. When it goes out of scope the
/// process ends, and its log is searched for secrets.
pub struct App {
    process: Child,
    /// The folder that the app was started in; `sessions` and `log` are in it.
    pub folder: Arc<TempDir>,
    /// What the app calls itself, such as `http://localhost:41234`.
    pub url: String,
    secrets: Secrets,
    has_ended: bool,
}

/// What must never be in the log. Browsers and identity platforms of a test
/// add what they see.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl Secrets {
    /// Remembers a secret. Short ones are left out: they may stand in a log by
    /// chance.
    pub fn add(&self, secret: impl Into<String>) {
        let secret = secret.into();
        if secret.len() >= 16 {
            self.0.lock().unwrap().insert(secret);
        }
    }
}

/// A command for the app, with nothing of this process's environment that
/// is a setting.
pub fn command(folder: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rust-webapp"));
    command.current_dir(folder).stdin(Stdio::null());
    for (key, _) in toml_settings() {
        command.env_remove(key);
    }
    // What a test plays is on this machine, and a proxy is elsewhere.
    command.env("NO_PROXY", "localhost,127.0.0.1").envs(settings.iter().copied());
    command
}

/// The keys and defaults of default_settings.toml.
pub fn toml_settings() -> toml::Table {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default_settings.toml")).unwrap().parse().unwrap()
}

/// A new folder with default_settings.toml in it.
pub fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/default_settings.toml"),
        folder.path().join("default_settings.toml"),
    )
    .unwrap();
    folder
}

impl App {
    /// Starts the app on a free port with these settings in its environment,
    /// and waits until it serves.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(folder()), settings).await
    }

    /// Starts the app in a folder that another one may have used before.
    pub async fn start_in(folder: Arc<TempDir>, settings: &[(&str, &str)]) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        let before = written_log(folder.path()).len();
        let mut command = command(folder.path(), &[("PORT", "0")]);
        command.envs(settings.iter().copied()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut app = Self {
            process: command.spawn().unwrap(),
            folder,
            url: String::new(),
            secrets: Secrets::default(),
            has_ended: false,
        };
        for (key, value) in settings {
            if ["CLIENT_CREDENTIAL", "SECRET_KEY"].contains(key) {
                app.secrets.add(*value);
            }
        }
        let started = Instant::now();
        loop {
            let log = app.log();
            let address =
                log[before..].lines().find_map(|line| line.split_once("open http")?.1.split_whitespace().next());
            if let Some(address) = address {
                app.url = format!("http{address}");
                return app;
            }
            let ended = app.process.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < PATIENCE, "the app did not start ({ended:?}):\n{log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything that the app has written to stdout and stderr so far. Lines
    /// wait a moment before they are written: once that of a request made here
    /// is there, so is all that came before.
    pub fn log(&self) -> String {
        static REQUESTS: AtomicUsize = AtomicUsize::new(0);
        let address = self.url.trim_start_matches("http://");
        let stream = if self.has_ended { None } else { TcpStream::connect(address).ok() };
        if let Some(mut stream) = stream {
            let path = format!("{UNTIL_HERE}{}", REQUESTS.fetch_add(1, Ordering::Relaxed));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            let _ = io::copy(&mut stream, &mut io::sink());
            let (log, started) = (self.folder.path().join("log"), Instant::now());
            let is_there = || fs::read_to_string(&log).unwrap().contains(&format!("{path:?}"));
            while !is_there() && started.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(2));
            }
            assert!(is_there() || thread::panicking(), "the end of the log does not come");
        }
        written_log(self.folder.path())
    }

    /// The address of a path of the app.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// A browser with no cookies.
    pub fn browser(&self) -> Browser {
        Browser::new(self.secrets.clone())
    }

    /// What must not be in the log.
    pub fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// The process id, for tests that end the app themselves.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the process at once, as a power failure would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.has_ended = true;
    }

    /// The paths of all session files.
    pub fn session_files(&self) -> Vec<PathBuf> {
        let Ok(folder) = fs::read_dir(self.folder.path().join("sessions")) else { return Vec::new() };
        let paths = folder.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }

    /// The only session there is.
    pub fn session(&self) -> Value {
        let files = self.session_files();
        assert_eq!(files.len(), 1, "sessions: {files:?}");
        serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap()
    }

    /// Changes the only session there is, behind the app's back.
    pub fn edit_session(&self, edit: impl FnOnce(&mut Value)) {
        let mut session = self.session();
        edit(&mut session);
        fs::write(&self.session_files()[0], session_file(&session)).unwrap();
    }

    /// The token cache of the only session there is.
    pub fn token_cache(&self) -> Value {
        serde_json::from_str(self.session()["token_cache"].as_str().expect("a token cache")).unwrap()
    }

    /// Changes the token cache of the only session there is.
    pub fn edit_token_cache(&self, edit: impl FnOnce(&mut Value)) {
        let mut token_cache = self.token_cache();
        edit(&mut token_cache);
        self.edit_session(|session| session["token_cache"] = token_cache.to_string().into());
    }
}

/// The log in this folder, without the lines of requests that were made to
/// see its end.
fn written_log(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap();
    log.split_inclusive('\n').filter(|line| !line.contains(UNTIL_HERE)).collect()
}

/// Adds every value of a session that must not be in the log.
fn add_session_secrets(value: &Value, name: &str, secrets: &Secrets) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                // The flows under way stand under their state.
                if name == "auth_code_flow" {
                    secrets.add(key);
                }
                add_session_secrets(field, key, secrets);
            }
        }
        Value::String(text) if name == "token_cache" => {
            if let Ok(token_cache) = serde_json::from_str(text) {
                add_session_secrets(&token_cache, "", secrets);
            }
        }
        Value::String(text) if ["secret", "code_verifier", "nonce", "id_token"].contains(&name) => secrets.add(text),
        _ => {}
    }
}

/// A session in the form of a session file: JSON with a line for each key
/// and its value.
pub fn session_file(session: &Value) -> String {
    let Some(session) = session.as_object() else { return session.to_string() };
    let lines: Vec<_> = session.iter().map(|(key, value)| format!("  {key:?}: {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

impl Drop for App {
    fn drop(&mut self) {
        self.has_ended |= !matches!(self.process.try_wait(), Ok(None));
        let log = self.log();
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- the app's log ---\n{log}");
            return;
        }
        for file in self.session_files() {
            if let Ok(session) = serde_json::from_slice::<Value>(&fs::read(file).unwrap_or_default()) {
                add_session_secrets(&session, "", &self.secrets);
            }
        }
        for secret in self.secrets.0.lock().unwrap().iter() {
            assert!(!log.contains(secret.as_str()), "the log holds the secret {secret:?}:\n{log}");
        }
        assert!(!log.contains("panicked"), "a panic:\n{log}");
    }
}

/// A client with a cookie jar that follows no redirect by itself.
#[derive(Clone)]
pub struct Browser {
    /// For requests that a test makes in its own way.
    pub client: Client,
    secrets: Secrets,
}

/// What a browser got.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Page {
    /// Where a redirect leads.
    pub fn location(&self) -> &str {
        self.headers
            .get("location")
            .unwrap_or_else(|| panic!("no redirect: {} {}", self.status, self.body))
            .to_str()
            .unwrap()
    }

    /// A parameter of the address that a redirect leads to.
    pub fn location_param(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.location()).unwrap();
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The name=value parts of the cookies that this page sets.
    pub fn cookies(&self) -> Vec<String> {
        let cookies = self.headers.get_all("set-cookie").iter();
        cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned()).collect()
    }

    /// The text between `<title>` and `</title>`.
    pub fn title(&self) -> &str {
        self.body.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map_or("", |(title, _)| title)
    }

    /// An error page of the app, in its layout, with this status.
    #[track_caller]
    pub fn assert_error_page(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.headers["content-type"], "text/html; charset=utf-8");
        assert!(
            self.title().starts_with(&format!("{status} ")) && self.title().ends_with(" - Rust actix-web"),
            "{}",
            self.body
        );
        assert!(self.headers.contains_key("content-security-policy"));
    }
}

impl Browser {
    /// A browser with no cookies, whose secrets are those of an app.
    pub fn new(secrets: Secrets) -> Self {
        let client = Client::builder().cookie_store(true).redirect(Policy::none()).no_proxy().timeout(PATIENCE);
        // The app closes connections that idle for 5 s; to read the machine's
        // certificates takes 50 ms, for nothing.
        let client = client.pool_idle_timeout(Duration::from_secs(1)).tls_certs_only([]);
        Self { client: client.build().unwrap(), secrets }
    }

    /// Another one, with no cookies.
    pub fn anew(&self) -> Self {
        Self::new(self.secrets.clone())
    }

    /// Follows a link.
    pub async fn get(&self, url: impl AsRef<str>) -> Page {
        self.send(self.client.get(url.as_ref())).await
    }

    /// Sends a form.
    pub async fn post(&self, url: impl AsRef<str>, form: &[(&str, &str)]) -> Page {
        self.send(self.client.post(url.as_ref()).form(form)).await
    }

    /// Sends any request.
    pub async fn send(&self, request: RequestBuilder) -> Page {
        self.try_send(request).await.unwrap()
    }

    /// Sends any request to an app that may be gone.
    pub async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Page> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = String::from_utf8_lossy(&response.bytes().await?).into_owned();
        let page = Page { status, headers, body };
        for cookie in page.cookies() {
            let value = cookie.split_once('=').unwrap().1;
            self.secrets.add(value);
            // The session id alone: what comes before it is its signature.
            if let Some((_, id)) = value.rsplit_once("%3D") {
                self.secrets.add(id);
            }
        }
        if let Some(location) =
            page.headers.get("location").and_then(|location| Url::parse(location.to_str().ok()?).ok())
        {
            for (name, value) in location.query_pairs() {
                if ["code", "state", "nonce"].contains(&&*name) {
                    self.secrets.add(value);
                }
            }
        }
        Ok(page)
    }

    /// Signs in at the demo tenant on the way to a protected page, and returns
    /// that page.
    pub async fn sign_in(&self, app: &App, path: &str, choice: &str) -> Page {
        let callback = self.choose(app, path, choice).await;
        let signed_in = self.get(callback.location()).await;
        assert_eq!(signed_in.status, 302, "{}", signed_in.body);
        assert_eq!(signed_in.location(), path);
        self.get(app.at(path)).await
    }

    /// Goes to a protected page and makes a choice at the demo tenant, up to
    /// the redirect back to the app.
    pub async fn choose(&self, app: &App, path: &str, choice: &str) -> Page {
        let authorize = self.get(app.at(path)).await;
        assert_eq!(authorize.status, 302, "{}", authorize.body);
        self.post(authorize.location(), &[("choice", choice)]).await
    }
}

//! Starts the app as a user does, and uses it as a browser does: with cookies, one request at a
//! time, without following redirects.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, redirect::Policy};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

/// A user of the demo tenant, who has the app role `admin`.
pub const ADA: &str = "ada@demo-tenant.example";
/// A user of the demo tenant, who has no app role.
pub const BEN: &str = "ben@demo-tenant.example";

/// What a page says when the session store fails.
pub const NOT_AVAILABLE: &str = "The session store is not available. Try again in a minute.";

/// How long to wait for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Part of each secret in the settings of an app that refuses to start.
pub const HIDDEN: &str = "hidden-secret";

/// Variables of the environment that name a proxy, or where not to use it.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// A request to a path with this prefix marks the end of the log.
const MARK: &str = "/the-log-until-here-";

/// Values that must not be in the log.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl Secrets {
    /// Adds a secret. Short values could be in the log by chance.
    pub fn add(&self, secret: impl Into<String>) {
        let secret = secret.into();
        if secret.len() >= 16 {
            self.0.lock().unwrap().insert(secret);
        }
    }
}

/// A running app. When it is dropped, the process ends and its log must not contain a secret or a
/// panic.
pub struct App {
    process: Child,
    /// The working folder of the app. It contains `sessions` and `log`.
    pub folder: Arc<TempDir>,
    /// For example `http://localhost:41234`.
    pub url: String,
    pub secrets: Secrets,
    has_ended: bool,
}

/// The app as a command, without settings of this process.
pub fn command(folder: &Path, settings: &[(&str, &str)]) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_rust-webapp")), folder, settings)
}

/// Another build of the app as a command.
fn command_of(program: &Path, folder: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).env_remove("RUST_LOG");
    for key in default_settings().keys() {
        command.env_remove(key);
    }
    for name in PROXIES {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("PORT", "0").envs(settings.iter().copied());
    command
}

/// A file of this repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The keys and values of default_settings.toml.
pub fn default_settings() -> toml::Table {
    read("default_settings.toml").parse().unwrap()
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "this did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a signal to a process.
#[cfg(unix)]
pub fn signal(process_id: u32, name: &str) {
    let kill = Command::new("kill").args([name, &process_id.to_string()]).status();
    assert!(kill.unwrap().success(), "kill {name} {process_id}");
}

/// Starts the app, which must refuse to start with exit code 2 and must not show a secret.
/// Returns the lines on stderr.
pub async fn refusal(folder: &Path, settings: &[(&str, &str)]) -> Vec<String> {
    let mut command = tokio::process::Command::from(command(folder, settings));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let output = output.expect("the app did not end").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
    assert!(!stdout.contains(HIDDEN) && !stderr.contains(HIDDEN), "{stdout}{stderr}");
    stderr.lines().map(str::to_owned).collect()
}

impl App {
    /// Starts the app on a free port and waits until it answers.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), settings).await
    }

    /// Starts the app in a folder that may contain a log and sessions of an earlier start.
    pub async fn start_in(folder: Arc<TempDir>, settings: &[(&str, &str)]) -> Self {
        let command = command(folder.path(), settings);
        Self::start_command(command, folder, settings).await
    }

    /// Starts another build of the app.
    pub async fn start_program(program: &Path, settings: &[(&str, &str)]) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let command = command_of(program, folder.path(), settings);
        Self::start_command(command, folder, settings).await
    }

    async fn start_command(
        mut command: Command,
        folder: Arc<TempDir>,
        settings: &[(&str, &str)],
    ) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log"));
        let log = log.unwrap();
        let before = written_log(folder.path()).len();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let secrets = Secrets::default();
        for (key, value) in settings {
            if ["CLIENT_CREDENTIAL", "SECRET_KEY"].contains(key) && !value.starts_with("file:") {
                secrets.add(*value);
            }
        }
        let process = command.spawn().unwrap();
        let mut app = Self { process, folder, url: String::new(), secrets, has_ended: false };
        until("the app listens", || {
            assert!(app.process.try_wait().unwrap().is_none(), "the app has ended");
            let log = written_log(app.folder.path());
            let line = log[before..].lines().find_map(|line| line.split_once("listening on "));
            app.url = line.map_or_else(String::new, |(_, address)| address.trim_end().to_owned());
            !app.url.is_empty()
        })
        .await;
        app
    }

    /// The address of a path of the app.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// A browser without cookies.
    pub fn browser(&self) -> Browser {
        Browser::new(self.secrets.clone())
    }

    /// Ends the process at once, as a power failure does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.has_ended = true;
    }

    /// The log so far. The app writes it in the background, so this waits for the line of a
    /// request of its own.
    pub fn log(&self) -> String {
        let address = self.url.trim_start_matches("http://");
        let stream = if self.has_ended { None } else { TcpStream::connect(address).ok() };
        if let Some(mut stream) = stream {
            let path = format!("{MARK}{}", rand::random::<u64>());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n");
            let _ = write!(stream, "{request}Connection: close\r\n\r\n");
            let _ = io::copy(&mut stream, &mut io::sink());
            let (file, started) = (self.folder.path().join("log"), Instant::now());
            while !fs::read_to_string(&file).unwrap().contains(&format!("{path:?}")) {
                assert!(started.elapsed() < PATIENCE, "the log is not complete");
                thread::sleep(Duration::from_millis(2));
            }
        }
        written_log(self.folder.path())
    }

    /// Sends these bytes and `Connection: close`, and returns the response. Browsers and HTTP
    /// clients do not send every request that an attacker can send.
    pub async fn raw(&self, request: impl AsRef<[u8]>) -> Page {
        let request = [request.as_ref(), b"Connection: close\r\n\r\n"].concat();
        let address = self.url.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut response = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut response)).await;
        read.expect("the app did not answer").unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let page = Page { status, headers: headers.collect(), body: body.to_owned() };
        page.add_secrets_to(&self.secrets);
        page
    }

    /// The session files.
    pub fn session_files(&self) -> Vec<PathBuf> {
        let Ok(folder) = fs::read_dir(self.folder.path().join("sessions")) else {
            return Vec::new();
        };
        let paths = folder.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
    }

    /// The values of the only session.
    pub fn session(&self) -> Value {
        let files = self.session_files();
        assert_eq!(files.len(), 1, "sessions: {files:?}");
        let mut file: Value = serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap();
        file["values"].take()
    }

    /// Changes the values of the only session.
    pub fn edit_session(&self, edit: impl FnOnce(&mut Value)) {
        let path = &self.session_files()[0];
        let mut file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        edit(&mut file["values"]);
        fs::write(path, file.to_string()).unwrap();
    }
}

/// The log without the requests of `App::log`.
fn written_log(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap();
    log.split_inclusive('\n').filter(|line| !line.contains(MARK)).collect()
}

impl Drop for App {
    fn drop(&mut self) {
        self.has_ended |= !matches!(self.process.try_wait(), Ok(None));
        let has_failed = thread::panicking();
        let log = if has_failed { written_log(self.folder.path()) } else { self.log() };
        let _ = self.process.kill();
        let _ = self.process.wait();
        if has_failed {
            eprintln!("--- the log of the app ---\n{log}");
            return;
        }
        for file in self.session_files() {
            let json = fs::read(file).unwrap_or_default();
            let session: Value = serde_json::from_slice(&json).unwrap_or_default();
            let (cache, claims) = (&session["values"]["token_cache"], &session["values"]["user"]);
            let nonce = &claims["id_token_claims"]["nonce"];
            for secret in [&cache["access_token"], &cache["refresh_token"], nonce] {
                self.secrets.add(secret.as_str().unwrap_or_default());
            }
        }
        for secret in self.secrets.0.lock().unwrap().iter() {
            assert!(!log.contains(secret.as_str()), "the log contains {secret:?}:\n{log}");
        }
        assert!(!log.contains("panicked"), "a panic:\n{log}");
    }
}

/// A browser with cookies.
#[derive(Clone)]
pub struct Browser {
    pub client: Client,
    pub secrets: Secrets,
}

/// The response to a request.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Browser {
    /// A browser without cookies. It adds codes and cookies to `secrets`.
    pub fn new(secrets: Secrets) -> Self {
        let client = Client::builder().cookie_store(true).redirect(Policy::none()).no_proxy();
        // The app closes idle connections after five seconds.
        let client = client.timeout(PATIENCE).pool_idle_timeout(Duration::from_secs(1));
        Self { client: client.tls_certs_only([]).build().unwrap(), secrets }
    }

    /// Opens an address.
    pub async fn get(&self, url: impl AsRef<str>) -> Page {
        self.send(self.client.get(url.as_ref())).await
    }

    /// Sends a form.
    pub async fn post(&self, url: impl AsRef<str>, form: &[(&str, &str)]) -> Page {
        self.send(self.client.post(url.as_ref()).form(form)).await
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> Page {
        self.try_send(request).await.unwrap()
    }

    /// Sends a request to an app that may have ended.
    pub async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Page> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = String::from_utf8_lossy(&response.bytes().await?).into_owned();
        let page = Page { status, headers, body };
        page.add_secrets_to(&self.secrets);
        Ok(page)
    }

    /// Opens a protected page, signs in at the demo tenant, and returns the page.
    pub async fn sign_in(&self, app: &App, path: &str, user: &str) -> Page {
        let callback = self.choose(app, path, user).await;
        let signed_in = self.get(callback.location()).await;
        assert_eq!((signed_in.status, signed_in.location()), (302, path), "{}", signed_in.body);
        self.get(app.at(path)).await
    }

    /// Opens a protected page and presses a button on the sign-in page of the demo tenant.
    pub async fn choose(&self, app: &App, path: &str, choice: &str) -> Page {
        let authorize = self.get(app.at(path)).await;
        self.post(authorize.location(), &[("choice", choice)]).await
    }
}

impl Page {
    /// Where a redirect leads.
    #[track_caller]
    pub fn location(&self) -> &str {
        let location = self.headers.get("location");
        let location = location.unwrap_or_else(|| panic!("no redirect: {self:?}"));
        location.to_str().unwrap()
    }

    /// A parameter of the address where a redirect leads.
    pub fn location_parameter(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.headers.get("location")?.to_str().ok()?).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The name of the signed-in user, which each page shows.
    pub fn user(&self) -> Option<&str> {
        let (_, after) = self.body.split_once("Signed in as <strong><bdi>")?;
        Some(after.split_once('<')?.0)
    }

    /// The cookies that this response sets, as `name=value`.
    pub fn cookies(&self) -> Vec<String> {
        let cookies = self.headers.get_all("set-cookie").iter();
        cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().into()).collect()
    }

    /// Adds the cookies, and the codes in the address of a redirect.
    fn add_secrets_to(&self, secrets: &Secrets) {
        for cookie in self.cookies() {
            let (_, value) = cookie.split_once('=').unwrap();
            secrets.add(value);
            // The session ID follows its signature.
            secrets.add(value.rsplit_once("%3D").map_or("", |(_, id)| id));
        }
        for name in ["code", "state", "nonce"] {
            secrets.add(self.location_parameter(name).unwrap_or_default());
        }
    }

    /// An error page in the layout of the app, with this status and text.
    #[track_caller]
    pub fn assert_error(&self, status: u16, text: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.body.contains(text), "{text:?} is not in {}", self.body);
        assert!(self.body.contains(&format!("<title>{status} ")), "{}", self.body);
        assert!(self.body.contains("href=\"/graph\""), "no way on: {}", self.body);
        assert_eq!(self.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(self.headers["cross-origin-opener-policy"], "same-origin");
    }
}

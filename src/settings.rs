//! The settings: default_settings.toml, then `.env`, then the environment. The last wins.

use std::env::{self, VarError};
use std::net::IpAddr;
use std::path::PathBuf;

use actix_web::cookie::Key;
use anyhow::{Result, ensure};
use serde_json::json;
use toml::{Table, Value};
use url::{Host, Position, Url};

use crate::protocol::ClientCredential;

mod env_file;

const FILE: &str = "default_settings.toml";

/// Messages never show these values. The last one may contain a password.
const SECRETS: [&str; 3] = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"];

const QUOTED: &str = "the value has quotes around it; remove them, because `docker run \
                      --env-file` passes them on";

/// The tenant of all personal Microsoft accounts. Another name of it is `consumers`.
pub const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The settings, with the names of default_settings.toml. That file explains them.
pub struct Settings {
    pub client_id: String,
    pub client_credential: ClientCredential,
    pub authority: String,
    pub scope: String,
    pub endpoint: Url,
    pub listen_host: String,
    pub port: u16,
    /// REDIRECT_URI. If it is empty and PORT is 0, its port is 0 until the app listens.
    pub redirect_uri: Url,
    /// Signs the session cookie. It is made from SECRET_KEY, or it is random.
    pub cookie_key: Key,
    pub session_type: SessionType,
    pub session_file_dir: PathBuf,
    #[cfg_attr(not(feature = "redis"), expect(dead_code))]
    pub session_redis: String,
    pub permanent_session_lifetime: u32,
    pub sso_logout: bool,
    #[cfg_attr(not(feature = "demo-tenant"), expect(dead_code))]
    pub demo_token_lifetime: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SessionType {
    Filesystem,
    #[cfg(feature = "redis")]
    Redis,
}

impl Settings {
    /// Reads and checks all settings. The error has one line for each wrong setting: the
    /// key, the value unless it is a secret, and what is accepted.
    pub fn load() -> Result<Self> {
        let mut values = Values::read()?;
        let client_id =
            values.take("CLIENT_ID", "the Application (client) ID, which is a GUID", |text| {
                (text.is_empty() || is_guid(text)).then(|| text.to_ascii_lowercase())
            });
        let credential = values.take(
            "CLIENT_CREDENTIAL",
            "the Value of a client secret (a GUID is the Secret ID; use the Value), or file: and \
             the path of a PEM file or a token file",
            |text| (text.trim() == text && !is_guid(text)).then(|| text.to_owned()),
        );
        let credential = ClientCredential::load(&client_id, &credential);
        let listen_host = values.take(
            "LISTEN_HOST",
            "a host name or an IP address (IPv6 in brackets); for ::1, which Microsoft Entra ID \
             does not accept in a redirect URI, use localhost",
            |text| (Host::parse(text).ok()?.to_string() != "[::1]").then(|| text.to_owned()),
        );
        let port: u16 = values
            .take("PORT", "a number from 0 (any free port) to 65535", |text| text.parse().ok());
        let settings = Self {
            client_id,
            client_credential: credential.unwrap_or_else(|err| {
                values.errors.push(format!("CLIENT_CREDENTIAL: {err:#}"));
                ClientCredential::Secret(String::new())
            }),
            authority: values.take(
                "AUTHORITY",
                "https://login.microsoftonline.com/<Directory (tenant) ID>, without /v2.0; with \
                 common, organizations, consumers or the tenant of personal accounts, users of \
                 other tenants could sign in, and their administrators could assign the role admin",
                |text| {
                    let is_accepted = text.is_empty() || is_one_tenant(text);
                    is_accepted.then(|| text.trim_end_matches('/').to_owned())
                },
            ),
            scope: values.take("SCOPE", "delegated permissions, separated by spaces", |text| {
                (!text.trim().is_empty()).then(|| text.to_owned())
            }),
            endpoint: values.take(
                "ENDPOINT",
                "an https address, or http on this computer",
                |text| Url::parse(text).ok().filter(is_https_or_loopback),
            ),
            redirect_uri: values.take(
                "REDIRECT_URI",
                "empty, or the registered https address (http on this computer) with the path \
                 /auth/redirect",
                |text| match text {
                    "" => Url::parse(&format!("http://{listen_host}:{port}/auth/redirect")).ok(),
                    _ => base_url(text).filter(|url| url.path() == "/auth/redirect"),
                },
            ),
            listen_host,
            port,
            cookie_key: values.take("SECRET_KEY", "empty, or at least 32 bytes", |text| {
                let bytes = text.as_bytes();
                match bytes.len() {
                    0 => Some(Key::generate()),
                    1..32 => None,
                    _ => Some(Key::derive_from(bytes)),
                }
            }),
            session_type: values.take(
                "SESSION_TYPE",
                "filesystem, or redis in a build with `--features redis`",
                |text| match text {
                    "filesystem" => Some(SessionType::Filesystem),
                    #[cfg(feature = "redis")]
                    "redis" => Some(SessionType::Redis),
                    _ => None,
                },
            ),
            session_file_dir: values.take("SESSION_FILE_DIR", "a folder", |text| {
                (!text.is_empty()).then(|| text.into())
            }),
            session_redis: values.take(
                "SESSION_REDIS",
                "redis://host:port, or rediss://host:port for TLS; in a password, write @ as %40, \
                 # as %23, / as %2F, ? as %3F and % as %25",
                |text| Url::parse(text).is_ok_and(|url| is_redis(&url)).then(|| text.to_owned()),
            ),
            permanent_session_lifetime: values.take(
                "PERMANENT_SESSION_LIFETIME",
                "seconds from 1 to 31536000 (a year)",
                |text| text.parse().ok().filter(|seconds| (1..=31_536_000).contains(seconds)),
            ),
            sso_logout: values.take("SSO_LOGOUT", "true or false", |text| text.parse().ok()),
            demo_token_lifetime: values.take(
                "DEMO_TOKEN_LIFETIME",
                "seconds from 1 to 86400 (a day)",
                |text| text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds)),
            ),
        };
        // A wrong value may be the reason for an error below.
        ensure!(values.errors.is_empty(), values.errors.join("\n"));
        settings.check_together(&values)?;
        Ok(settings)
    }

    /// Checks what several settings decide together.
    fn check_together(&self, values: &Values) -> Result<()> {
        let registration = ["CLIENT_ID", "CLIENT_CREDENTIAL", "AUTHORITY"];
        let is_missing = registration.map(|key| values.is_empty(key));
        let is_demo = is_missing == [true; 3] && cfg!(feature = "demo-tenant");
        let is_redis = self.session_type != SessionType::Filesystem;
        let is_loopback = is_loopback(&self.listen_host);
        ensure!(
            is_demo || is_missing == [false; 3],
            "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY: set all three for your tenant, or none of \
             them for the demo tenant, if this build has one"
        );
        ensure!(
            !is_demo || is_loopback && !self.is_https() && !is_redis,
            "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY are empty; the demo tenant lets everyone in, \
             so it does not start with a LISTEN_HOST other than localhost, with an https \
             REDIRECT_URI, or with SESSION_TYPE = \"redis\""
        );
        ensure!(
            is_loopback || !values.is_empty("REDIRECT_URI"),
            "REDIRECT_URI: set the registered address, because LISTEN_HOST is not localhost"
        );
        ensure!(
            !is_redis || !values.is_empty("SECRET_KEY"),
            "SECRET_KEY: set one; with SESSION_TYPE = \"redis\" all processes need the same one"
        );
        Ok(())
    }

    /// The port where the app listens, which the system chooses if PORT is 0.
    pub fn listens_on(&mut self, port: u16) {
        self.port = port;
        if self.redirect_uri.port() == Some(0) {
            let _ = self.redirect_uri.set_port(Some(port));
        }
    }

    /// Whether browsers reach this app with https.
    pub fn is_https(&self) -> bool {
        self.redirect_uri.scheme() == "https"
    }

    /// How the names of this app's cookies begin. With `__Host-`, browsers accept a
    /// cookie only from this host and only with https.
    pub fn cookie_prefix(&self) -> &'static str {
        if self.is_https() { "__Host-rust-webapp" } else { "rust-webapp" }
    }
}

/// The values of all sources, and one line for each thing that is wrong with them.
struct Values {
    /// The copy of default_settings.toml in this program.
    defaults: Table,
    /// The same with the values of the file in the working folder.
    table: Table,
    errors: Vec<String>,
}

impl Values {
    fn read() -> Result<Self> {
        let mut errors = env_file::load();
        let defaults: Table = include_str!("../default_settings.toml").parse()?;
        let mut table = defaults.clone();
        match env_file::read_text(FILE).map(|text| text.parse::<Table>()) {
            Ok(Ok(file)) => table.extend(file),
            // The whole error would show the line, which may contain a secret.
            Ok(Err(err)) => errors.push(format!("{FILE}: {}", err.message().replace('\n', " "))),
            Err(err) => errors.push(err),
        }
        for key in table.keys().filter(|key| !defaults.contains_key(*key)) {
            errors.push(format!("{}: this key is unknown", key.escape_debug()));
        }
        Ok(Self { defaults, table, errors })
    }

    /// Takes the value of a key, if `check` accepts it. Otherwise notes an error and takes
    /// the default, so that one start finds every wrong value.
    fn take<T>(&mut self, key: &str, accepted: &str, check: impl Fn(&str) -> Option<T>) -> T {
        let problem = match self.text(key) {
            Err(problem) => format!("{key}: {problem}"),
            Ok(text) => match check(&text) {
                Some(value) => return value,
                None if SECRETS.contains(&key) => format!("{key}: accepted is {accepted}"),
                // As JSON, a text with line breaks stays on one line.
                None => format!("{key} = {}: accepted is {accepted}", json!(text)),
            },
        };
        self.errors.push(problem);
        let default = text_of(&self.defaults[key]).and_then(|text| check(&text));
        default.expect("default_settings.toml has only accepted values")
    }

    /// The text of a value, or what is wrong with it.
    fn text(&self, key: &str) -> Result<String, &'static str> {
        let is_quoted = |text: &str, quote: char| {
            text.len() > 1 && text.starts_with(quote) && text.ends_with(quote)
        };
        match env::var(key) {
            Err(VarError::NotPresent) => {
                text_of(&self.table[key]).ok_or("accepted is a single value")
            }
            Err(VarError::NotUnicode(_)) => Err("the value is not UTF-8; set it again"),
            Ok(text) if is_quoted(&text, '\'') || is_quoted(&text, '"') => Err(QUOTED),
            Ok(text) => Ok(text),
        }
    }

    fn is_empty(&self, key: &str) -> bool {
        self.text(key).is_ok_and(|text| text.is_empty())
    }
}

/// A text, a number, `true` or `false` as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Table(_) => None,
        value => Some(value.to_string()),
    }
}

/// Whether `text` is the address of one tenant.
fn is_one_tenant(text: &str) -> bool {
    let Some(url) = base_url(text) else { return false };
    let path = url.path().trim_matches('/').to_ascii_lowercase();
    let refused = ["", "v2.0", "common", "organizations", "consumers", PERSONAL_ACCOUNTS];
    path.split('/').all(|part| !refused.contains(&part))
}

/// A `#`, `/` or `?` in the password would end the host.
fn is_redis(url: &Url) -> bool {
    let rest = &url[Position::BeforePath..];
    ["redis", "rediss"].contains(&url.scheme()) && url.has_host() && !rest.contains(['@', '#'])
}

/// Whether `host`, a name or an IP address, is this computer.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether it is safe to send secrets and tokens to `url`: with TLS, or on this computer
/// (RFC 6749 sections 3.1.2.1 and 3.2).
pub fn is_https_or_loopback(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(is_loopback))
}

fn is_guid(text: &str) -> bool {
    let parts = text.split('-').map(str::len);
    parts.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The address in `text`, if the app can add a path to it and it is written as browsers
/// write it. Microsoft Entra ID compares redirect URIs as text.
fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(is_https_or_loopback)?;
    (url.as_str() == text && !text.contains(['?', '#', '@'])).then_some(url)
}

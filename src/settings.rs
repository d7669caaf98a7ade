//! The settings: default_settings.toml, then `.env`, then the environment. The last wins.

use std::net::IpAddr;
use std::path::PathBuf;
use std::{env, fs, io};

use actix_web::cookie::Key;
use anyhow::ensure;
use serde::Deserialize;
use serde_json::json;
use toml::{Table, Value};
use url::Url;

use crate::protocol::ClientCredential;

/// The file with all keys. If there is none in the working folder, this copy is used.
const FILE: &str = "default_settings.toml";
const DEFAULTS: &str = include_str!("../default_settings.toml");

/// Messages never show these values. The last one may contain a password.
const SECRETS: [&str; 3] = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"];

/// The settings, with the names of default_settings.toml. That file explains them.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct Settings {
    pub client_id: String,
    #[serde(rename = "CLIENT_CREDENTIAL")]
    credential: String,
    pub authority: String,
    pub scope: String,
    pub endpoint: Url,
    pub listen_host: String,
    pub port: u16,
    /// REDIRECT_URI as it is written. It is empty if the app uses the address where it listens.
    #[serde(rename = "REDIRECT_URI")]
    redirect_uri_text: String,
    secret_key: String,
    pub session_type: SessionType,
    pub session_file_dir: PathBuf,
    pub session_redis: String,
    pub permanent_session_lifetime: u32,
    pub sso_logout: bool,
    pub demo_token_lifetime: u32,
    /// REDIRECT_URI, or the address where the app listens.
    #[serde(skip, default = "default_redirect_uri")]
    pub redirect_uri: Url,
    /// CLIENT_CREDENTIAL, ready to use.
    #[serde(skip, default = "no_credential")]
    pub client_credential: ClientCredential,
    /// Signs and encrypts cookies. It is made from SECRET_KEY, or it is random.
    #[serde(skip, default = "Key::generate")]
    pub cookie_key: Key,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionType {
    Filesystem,
    #[cfg(feature = "redis")]
    Redis,
}

impl Settings {
    /// Reads and checks all settings. The error has one line for each wrong setting: the key,
    /// the value unless it is a secret, and what is accepted.
    pub fn load() -> anyhow::Result<Self> {
        let mut errors = Vec::new();
        // `.env` adds to the environment, so RUST_LOG and SSL_CERT_FILE can be in it too.
        if let Err(err) = dotenvy::from_path(".env")
            && !err.not_found()
        {
            let accepted = "lines KEY=value, or KEY='value' if the value has a space, # or $";
            errors.push(format!(".env: the app cannot read it; accepted are {accepted}"));
        }
        let defaults: Table = DEFAULTS.parse()?;
        let mut values = defaults.clone();
        match fs::read_to_string(FILE).map(|text| text.parse::<Table>()) {
            Ok(Ok(file)) => values.extend(file),
            // The whole error would show the line, which may contain a secret.
            Ok(Err(err)) => errors.push(format!("{FILE}: {}", err.message().replace('\n', " "))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => errors.push(format!("{FILE}: {err}")),
        }
        for (key, default) in &defaults {
            let Some(text) = env::var_os(key) else { continue };
            let text = text.to_string_lossy().into_owned();
            // Numbers, `true` and `false` are as in TOML. A text in their place is refused below.
            let value = if default.is_str() { None } else { text.parse().ok() };
            values.insert(key.clone(), value.unwrap_or(Value::String(text)));
        }

        let mut settings = defaults.clone();
        for (key, accepted, is_accepted) in RULES {
            let Some(value) = values.remove(key) else { continue };
            // Put each value into the defaults alone, so that every wrong value is found.
            let mut table = defaults.clone();
            table.insert(key.to_owned(), value.clone());
            if table.try_into().is_ok_and(|settings| is_accepted(&settings)) {
                settings.insert(key.to_owned(), value);
            } else if SECRETS.contains(&key) {
                errors.push(format!("{key}: accepted is {accepted}"));
            } else {
                // As JSON, a text with line breaks stays on one line.
                errors.push(format!("{key} = {}: accepted is {accepted}", json!(value)));
            }
        }
        errors.extend(values.keys().map(|key| format!("{key}: this key is unknown")));
        let mut settings: Self = settings.try_into()?;
        settings.client_id.make_ascii_lowercase();
        settings.authority.truncate(settings.authority.trim_end_matches('/').len());
        if let Ok(url) = Url::parse(&settings.redirect_uri_text) {
            settings.redirect_uri = url;
        }
        if !settings.secret_key.is_empty() {
            settings.cookie_key = Key::derive_from(settings.secret_key.as_bytes());
        }
        match ClientCredential::load(&settings.client_id, &settings.credential) {
            Ok(credential) => settings.client_credential = credential,
            Err(err) => errors.push(format!("CLIENT_CREDENTIAL: {err:#}")),
        }
        // A wrong value above may be the reason for an error here.
        if errors.is_empty() {
            settings.check_together(&mut errors);
        }
        ensure!(errors.is_empty(), errors.join("\n"));
        Ok(settings)
    }

    /// Whether the app uses its demo tenant: the values of an app registration are empty.
    pub fn uses_demo_tenant(&self) -> bool {
        [&self.client_id, &self.credential, &self.authority].iter().all(|value| value.is_empty())
    }

    /// Without REDIRECT_URI, the app uses the address where it listens.
    pub fn listens_on(&mut self, home_page: &str) -> anyhow::Result<()> {
        if self.redirect_uri_text.is_empty() {
            self.redirect_uri = Url::parse(home_page)?.join("/auth/redirect")?;
        }
        Ok(())
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

    /// Checks what several settings decide together.
    fn check_together(&self, errors: &mut Vec<String>) {
        let is_demo = self.uses_demo_tenant();
        let is_loopback = is_loopback(&self.listen_host);
        let is_redis = self.session_type != SessionType::Filesystem;
        let registration = [&self.client_id, &self.credential, &self.authority];
        let rules = [
            (
                is_demo && cfg!(feature = "demo-tenant")
                    || registration.iter().all(|value| !value.is_empty()),
                "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY: set all three for your tenant, or none of \
                 them for the demo tenant, if this build has one",
            ),
            (
                !is_demo || is_loopback && !self.is_https() && !is_redis,
                "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY are empty; the demo tenant lets everyone \
                 in, so it does not start with a LISTEN_HOST other than localhost, with an https \
                 REDIRECT_URI, or with SESSION_TYPE = \"redis\"",
            ),
            (
                is_loopback || !self.redirect_uri_text.is_empty(),
                "REDIRECT_URI: set the registered address, because LISTEN_HOST is not localhost",
            ),
            (
                !is_redis || !self.secret_key.is_empty(),
                "SECRET_KEY: set one; with SESSION_TYPE = \"redis\" all processes need the same one",
            ),
        ];
        errors.extend(rules.iter().filter(|(holds, _)| !holds).map(|(_, text)| (*text).to_owned()));
    }
}

fn default_redirect_uri() -> Url {
    Url::parse("http://localhost/auth/redirect").expect("a constant URL")
}

fn no_credential() -> ClientCredential {
    ClientCredential::Secret(String::new())
}

/// A key, what is accepted as its value, and the same as a check.
type Rule = (&'static str, &'static str, fn(&Settings) -> bool);

const RULES: [Rule; 15] = [
    ("CLIENT_ID", "the Application (client) ID, which is a GUID", |settings| {
        settings.client_id.is_empty() || is_guid(&settings.client_id)
    }),
    (
        "CLIENT_CREDENTIAL",
        "the Value of a client secret (a GUID is the Secret ID; use the Value), or file: and the \
         path of a PEM file",
        |settings| {
            settings.credential.trim() == settings.credential && !is_guid(&settings.credential)
        },
    ),
    (
        "AUTHORITY",
        "https://login.microsoftonline.com/<Directory (tenant) ID>, without /v2.0; with common, \
         organizations or consumers, users of other tenants could sign in, and their \
         administrators could assign the role admin",
        |settings| settings.authority.is_empty() || is_authority(&settings.authority),
    ),
    ("SCOPE", "delegated permissions, separated by spaces", |settings| {
        !settings.scope.trim().is_empty()
    }),
    ("ENDPOINT", "an https address, or http on this computer", |settings| {
        is_https_or_loopback(&settings.endpoint)
    }),
    (
        "LISTEN_HOST",
        "a host name or an IP address; for ::1, which Microsoft Entra ID does not accept in a \
         redirect URI, use localhost",
        |settings| !["", "::1", "[::1]"].contains(&settings.listen_host.as_str()),
    ),
    ("PORT", "a number from 0 (any free port) to 65535", |_| true),
    (
        "REDIRECT_URI",
        "empty, or the registered https address (http on this computer) with the path \
         /auth/redirect",
        |settings| {
            settings.redirect_uri_text.is_empty() || is_redirect_uri(&settings.redirect_uri_text)
        },
    ),
    ("SECRET_KEY", "empty, or at least 32 bytes", |settings| {
        settings.secret_key.is_empty() || settings.secret_key.len() >= 32
    }),
    ("SESSION_TYPE", "filesystem, or redis in a build with `--features redis`", |_| true),
    ("SESSION_FILE_DIR", "a folder", |settings| !settings.session_file_dir.as_os_str().is_empty()),
    ("SESSION_REDIS", "redis://host:port, or rediss://host:port for TLS", |settings| {
        let url = Url::parse(&settings.session_redis);
        url.is_ok_and(|url| ["redis", "rediss"].contains(&url.scheme()) && url.has_host())
    }),
    ("PERMANENT_SESSION_LIFETIME", "seconds from 1 to 31536000 (a year)", |settings| {
        (1..=31_536_000).contains(&settings.permanent_session_lifetime)
    }),
    ("SSO_LOGOUT", "true or false", |_| true),
    ("DEMO_TOKEN_LIFETIME", "seconds from 1 to 86400 (a day)", |settings| {
        (1..=86_400).contains(&settings.demo_token_lifetime)
    }),
];

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

fn is_authority(text: &str) -> bool {
    let refused = ["", "v2.0", "common", "organizations", "consumers"];
    base_url(text).is_some_and(|url| {
        let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        !refused.contains(&last.to_ascii_lowercase().as_str())
    })
}

fn is_redirect_uri(text: &str) -> bool {
    base_url(text).is_some_and(|url| url.path() == "/auth/redirect")
}

/// The address in `text`, if the app can add a path to it and it is written as browsers write it.
/// Microsoft Entra ID compares redirect URIs as text.
fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_base = url.as_str() == text && !text.contains(['?', '#', '@']);
    (is_base && is_https_or_loopback(&url)).then_some(url)
}

fn is_guid(text: &str) -> bool {
    let parts = text.split('-').map(str::len);
    parts.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

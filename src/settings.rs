//! The settings: `default_settings.toml`, then `.env`, then the
//! environment, each winning over the one before.
//!
//! Everything is checked before anything starts, and every wrong setting is
//! reported, so that a typing error costs one start and not one start each.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use url::{Host, Url};

/// The settings file, in the folder that the app is started in.
const SETTINGS_FILE: &str = "default_settings.toml";

/// Every key of the settings file; anything else there is a typing error.
const KEYS: [&str; 15] = [
    "CLIENT_ID",
    "CLIENT_CREDENTIAL",
    "AUTHORITY",
    "SCOPE",
    "ENDPOINT",
    "LISTEN_HOST",
    "PORT",
    "REDIRECT_URI",
    "SECRET_KEY",
    "SESSION_TYPE",
    "SESSION_FILE_DIR",
    "SESSION_REDIS",
    "PERMANENT_SESSION_LIFETIME",
    "SSO_LOGOUT",
    "DEMO_TOKEN_LIFETIME",
];

/// Keys whose values are never shown: the last may hold a password.
const SECRETS: [&str; 3] = ["CLIENT_CREDENTIAL", "SECRET_KEY", "SESSION_REDIS"];

/// The checked settings, in the names of `default_settings.toml`, which
/// says what each is for.
#[derive(Clone)]
pub struct Settings {
    /// The application (client) ID, or empty for the demo tenant.
    pub client_id: String,
    /// The client secret's value (RFC 6749 section 2.3.1), or empty for the
    /// demo tenant.
    pub client_credential: String,
    /// `https://host/tenant`, without a slash at the end, or empty for the demo
    /// tenant.
    pub authority: String,
    /// Delegated permissions separated by spaces, without openid, profile and
    /// offline_access.
    pub scope: String,
    /// The address that `/graph` calls.
    pub endpoint: String,
    /// A host name or IP address to listen on.
    pub listen_host: String,
    /// The TCP port to listen on; 0 for any free one.
    pub port: u16,
    /// The redirect URI as registered (RFC 6749 section 3.1.2); main.rs fills
    /// an empty one once the port is bound.
    pub redirect_uri: String,
    /// Signs the session cookie: empty, or at least 32 bytes.
    pub secret_key: String,
    /// True for "redis", false for "filesystem".
    pub session_in_redis: bool,
    /// The folder of the session files.
    pub session_file_dir: PathBuf,
    /// The address of Redis, `redis://...`.
    pub session_redis: String,
    /// Seconds from a sign-in to the end of its session.
    pub permanent_session_lifetime: u32,
    /// Whether signing out here ends the single sign-on session too.
    pub sso_logout: bool,
    /// Seconds that the demo tenant's access tokens are valid.
    #[cfg_attr(not(feature = "demo-tenant"), allow(dead_code))]
    pub demo_token_lifetime: u32,
    /// AUTHORITY's OpenID metadata (OpenID Connect Discovery 1.0 section 3);
    /// main.rs asks for it once, at start.
    pub openid_metadata: Value,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// One line for each wrong setting: its key, its value unless that is a
    /// secret, and what is accepted.
    pub fn load() -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let mut values = read_sources(&mut errors);
        let all_are_there = errors.is_empty();

        // Takes one setting out of `values`, or adds the line that says what would
        // be accepted.
        let mut take = |key: &str, accepted: &str, is_accepted: &dyn Fn(&str) -> bool| -> String {
            // A missing one has its line already.
            let Some((value, source)) = values.remove(key) else { return String::new() };
            if !is_accepted(&value) {
                errors.push(wrong(key, &value, source, accepted));
            }
            value
        };
        let is_copied_well = |value: &str| value.trim() == value;

        let client_id =
            take("CLIENT_ID", "the application (client) ID, without white space around it", &is_copied_well);
        let client_credential =
            take("CLIENT_CREDENTIAL", "the client secret's Value, without white space around it", &is_copied_well);
        let authority =
            take("AUTHORITY", "https://login.microsoftonline.com/<Directory (tenant) ID>, without /v2.0", &|value| {
                value.is_empty() || is_authority(value)
            });
        let settings = Self {
            client_id,
            client_credential,
            authority: authority.trim_end_matches('/').to_owned(),
            scope: take(
                "SCOPE",
                "one or more delegated permissions separated by spaces; openid, profile and offline_access are added \
                 anyway",
                &|value| {
                    let reserved = ["openid", "profile", "offline_access"];
                    value.split_whitespace().next().is_some()
                        && !value.split_whitespace().any(|scope| reserved.contains(&scope))
                },
            ),
            endpoint: take("ENDPOINT", "an https address (http for this machine only)", &is_https_or_loopback),
            listen_host: take("LISTEN_HOST", "a host name or IP address", &|value| !value.is_empty()),
            port: take("PORT", "a number from 0 (any free port) to 65535", &|value| value.parse::<u16>().is_ok())
                .parse()
                .unwrap_or_default(),
            redirect_uri: take(
                "REDIRECT_URI",
                "nothing, or an https address (http for this machine only) with the path /auth/redirect and nothing \
                 after it",
                &|value| value.is_empty() || is_redirect_uri(value),
            ),
            secret_key: take("SECRET_KEY", "nothing, or at least 32 bytes", &|value| {
                value.is_empty() || value.len() >= 32
            }),
            session_in_redis: take("SESSION_TYPE", "filesystem or redis", &|value| {
                ["filesystem", "redis"].contains(&value)
            }) == "redis",
            session_file_dir: take("SESSION_FILE_DIR", "a folder", &|value| !value.is_empty()).into(),
            session_redis: take(
                "SESSION_REDIS",
                "redis://host:port, perhaps with user, password and database",
                &|value| value.starts_with("redis://") && Url::parse(value).is_ok_and(|url| url.has_host()),
            ),
            permanent_session_lifetime: take(
                "PERMANENT_SESSION_LIFETIME",
                "seconds from 1 to 31536000 (a year)",
                &|value| value.parse().is_ok_and(|seconds| (1..=31_536_000).contains(&seconds)),
            )
            .parse()
            .unwrap_or_default(),
            sso_logout: take("SSO_LOGOUT", "true or false", &|value| ["true", "false"].contains(&value)) == "true",
            demo_token_lifetime: take("DEMO_TOKEN_LIFETIME", "seconds from 1 to 86400 (a day)", &|value| {
                value.parse().is_ok_and(|seconds| (1..=86_400).contains(&seconds))
            })
            .parse()
            .unwrap_or_default(),
            openid_metadata: Value::Null,
        };
        // With a misspelt or missing key, what is empty may be a consequence of
        // that.
        if all_are_there {
            settings.check_together(&mut errors);
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    /// Whether the app runs against its own demo tenant: none of the three
    /// values of an app registration is given.
    pub fn in_demo_tenant(&self) -> bool {
        [&self.client_id, &self.client_credential, &self.authority].iter().all(|value| value.is_empty())
    }

    /// The checks that concern more than one setting.
    fn check_together(&self, errors: &mut Vec<String>) {
        let registration = [
            ("CLIENT_ID", &self.client_id, "\"Application (client) ID\" on the app registration's Overview page"),
            (
                "CLIENT_CREDENTIAL",
                &self.client_credential,
                "the client secret's Value, shown once when it is made, under Certificates & secrets",
            ),
            (
                "AUTHORITY",
                &self.authority,
                "https://login.microsoftonline.com/ and the \"Directory (tenant) ID\" of the app registration's \
                 Overview page",
            ),
        ];
        // An empty LISTEN_HOST has its line already.
        let is_elsewhere = !self.listen_host.is_empty() && !is_loopback(&self.listen_host);
        if self.in_demo_tenant() {
            if cfg!(not(feature = "demo-tenant")) {
                errors.push(
                    "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY: this build has no demo tenant, give all three".into(),
                );
            } else if is_elsewhere {
                errors.push(format!(
                    "LISTEN_HOST = {:?}: the demo tenant lets anyone in, so it runs on localhost, 127.0.0.1 or ::1 \
                     only; give CLIENT_ID, CLIENT_CREDENTIAL and AUTHORITY to listen elsewhere",
                    self.listen_host
                ));
            }
        } else {
            for (key, value, place) in registration {
                if value.is_empty() {
                    errors.push(format!(
                        "{key} is missing, and the other values of the app registration are given: it is {place}"
                    ));
                }
            }
            if self.redirect_uri.is_empty() && is_elsewhere {
                errors.push(format!(
                    "REDIRECT_URI is missing: with LISTEN_HOST = {:?} it cannot be guessed; accepted is the registered \
                     https address with the path /auth/redirect",
                    self.listen_host
                ));
            }
        }
        if self.session_in_redis && self.secret_key.is_empty() {
            errors.push("SECRET_KEY is missing: with SESSION_TYPE = \"redis\" all processes need the same one".into());
        }
    }
}

/// Every key with its value and where that came from: the settings file,
/// `.env`, the environment, the last one wins.
fn read_sources(errors: &mut Vec<String>) -> BTreeMap<String, (String, &'static str)> {
    let mut values = BTreeMap::new();
    // A value that is no text comes with what is accepted in its place.
    let mut add = |key: String, value: Result<String, (String, &str)>, source, errors: &mut Vec<String>| {
        if !KEYS.contains(&key.as_str()) {
            errors.push(format!("{key:?} ({source}): unknown key; the keys are {}", KEYS.join(", ")));
            return;
        }
        match value {
            Ok(value) => _ = values.insert(key, (value, source)),
            Err((value, accepted)) => errors.push(wrong(&key, &value, source, accepted)),
        }
    };

    match fs::read_to_string(SETTINGS_FILE) {
        Err(err) => errors.push(format!("{SETTINGS_FILE}: {err}; start the app in the folder that has this file")),
        Ok(text) => match text.parse::<toml::Table>() {
            Err(err) => {
                let line = err.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                let reason = err.message().replace('\n', " ");
                errors.push(format!("{SETTINGS_FILE}, line {line}: {reason}; accepted is TOML, as in KEY = \"value\""));
            }
            Ok(table) => {
                for key in KEYS.iter().filter(|key| !table.contains_key(**key)) {
                    errors.push(format!("{key} is missing in {SETTINGS_FILE}"));
                }
                for (key, value) in table {
                    let value = match value {
                        toml::Value::String(text) => Ok(text),
                        toml::Value::Integer(number) => Ok(number.to_string()),
                        toml::Value::Boolean(truth) => Ok(truth.to_string()),
                        other => Err((format!("{other:?}"), "a text in quotes, a whole number, true or false")),
                    };
                    add(key, value, SETTINGS_FILE, errors);
                }
            }
        },
    }
    match dotenvy::from_path_iter(".env") {
        Err(dotenvy::Error::Io(err)) if err.kind() == ErrorKind::NotFound => {}
        Err(err) => errors.push(format!(".env: {err}")),
        Ok(lines) => {
            for line in lines {
                match line {
                    Ok((key, value)) => add(key, Ok(value), ".env", errors),
                    // The error quotes the line, which may hold a secret.
                    Err(_) => {
                        errors.push(".env: a line cannot be read; accepted is KEY=value, a value with spaces, # or $ in 'single quotes'".into());
                        break;
                    }
                }
            }
        }
    }
    for key in KEYS {
        if let Some(value) = env::var_os(key) {
            let value = value.into_string().map_err(|value| (value.to_string_lossy().into_owned(), "text in UTF-8"));
            add(key.to_owned(), value, "environment", errors);
        }
    }
    values
}

/// The line for a wrong value, which it shows if that is no secret.
fn wrong(key: &str, value: &str, source: &str, accepted: &str) -> String {
    let shown = if SECRETS.contains(&key) { String::new() } else { format!(" = {value:?}") };
    format!("{key}{shown} ({source}): accepted is {accepted}")
}

/// Whether `host`, a name or an IP address, is this machine and nothing
/// else.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Whether `address` is an https URL, or an http one of this machine: what
/// carries codes and tokens goes over TLS (RFC 6749 section 3.1.2.1 and
/// 3.2).
pub fn is_https_or_loopback(address: &str) -> bool {
    Url::parse(address).is_ok_and(|url| match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => is_loopback(name),
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    })
}

/// Whether `address` has no part that would be lost or changed when a path
/// is added to it.
fn is_plain(url: &Url) -> bool {
    url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none()
}

fn is_authority(address: &str) -> bool {
    is_https_or_loopback(address)
        && !address.contains(char::is_whitespace)
        && !address.trim_end_matches('/').ends_with("/v2.0")
        && Url::parse(address).is_ok_and(|url| is_plain(&url) && !url.path().trim_matches('/').is_empty())
}

fn is_redirect_uri(address: &str) -> bool {
    is_https_or_loopback(address)
        // The identity platform compares it as text, so it is written as browsers
        // write it.
        && Url::parse(address).is_ok_and(|url| is_plain(&url) && url.path() == "/auth/redirect" && url.as_str() == address)
}

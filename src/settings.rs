//! The settings: default_settings.toml, then `.env`, then the environment. The last wins.

use std::path::PathBuf;

use actix_web::cookie::Key;
use anyhow::{Result, ensure};
use url::Url;

pub use self::accepted::{PERSONAL_ACCOUNTS, is_https_or_loopback, is_loopback};
use self::values::Values;
use crate::protocol::ClientCredential;

mod accepted;
mod env_file;
mod values;

/// The settings, with the names of default_settings.toml. That file explains them.
pub struct Settings {
    pub client_id: String,
    pub client_credential: ClientCredential,
    pub authority: String,
    pub scope: String,
    pub endpoint: Url,
    pub listen_host: String,
    pub port: u16,
    /// REDIRECT_URI. If that is empty and PORT is 0, the port in it is 0 until the app listens.
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
    /// Reads and checks all settings. The error has one line for each wrong setting: the key,
    /// the value unless it is a secret, and what is accepted.
    pub fn load() -> Result<Self> {
        let mut values = Values::read()?;
        let client_id = values.take("CLIENT_ID", accepted::client_id);
        let listen_host = values.take("LISTEN_HOST", accepted::listen_host);
        let port = values.take("PORT", accepted::port);
        let redirect_uri = values.take("REDIRECT_URI", accepted::redirect_uri);
        let default_redirect_uri = format!("http://{listen_host}:{port}/auth/redirect");
        let settings = Self {
            client_credential: values
                .take("CLIENT_CREDENTIAL", |text| accepted::client_credential(&client_id, text)),
            client_id,
            authority: values.take("AUTHORITY", accepted::authority),
            scope: values.take("SCOPE", accepted::scope),
            endpoint: values.take("ENDPOINT", accepted::endpoint),
            listen_host,
            port,
            redirect_uri: match redirect_uri {
                Some(redirect_uri) => redirect_uri,
                None => Url::parse(&default_redirect_uri)?,
            },
            cookie_key: values.take("SECRET_KEY", accepted::secret_key),
            session_type: values.take("SESSION_TYPE", accepted::session_type),
            session_file_dir: values.take("SESSION_FILE_DIR", accepted::session_file_dir),
            session_redis: values.take("SESSION_REDIS", accepted::session_redis),
            permanent_session_lifetime: values
                .take("PERMANENT_SESSION_LIFETIME", accepted::permanent_session_lifetime),
            sso_logout: values.take("SSO_LOGOUT", accepted::sso_logout),
            demo_token_lifetime: values.take("DEMO_TOKEN_LIFETIME", accepted::demo_token_lifetime),
        };
        // A wrong value above may be the reason for an error here.
        if values.errors.is_empty() {
            settings.check_together(&mut values);
        }
        ensure!(values.errors.is_empty(), values.errors.join("\n"));
        Ok(settings)
    }

    /// Checks what several settings decide together.
    fn check_together(&self, values: &mut Values) {
        let registration = ["CLIENT_ID", "CLIENT_CREDENTIAL", "AUTHORITY"];
        let registration = registration.map(|key| values.is_empty(key));
        let is_demo = registration == [true; 3] && cfg!(feature = "demo-tenant");
        let is_redis = self.session_type != SessionType::Filesystem;
        let is_loopback = is_loopback(&self.listen_host);
        let rules = [
            (
                is_demo || registration == [false; 3],
                "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY: set all three for your tenant, or none \
                 of them for the demo tenant, if this build has one",
            ),
            (
                !is_demo || is_loopback && !self.is_https() && !is_redis,
                "CLIENT_ID, CLIENT_CREDENTIAL, AUTHORITY are empty; the demo tenant lets everyone \
                 in, so it does not start with a LISTEN_HOST other than localhost, with an https \
                 REDIRECT_URI, or with SESSION_TYPE = \"redis\"",
            ),
            (
                is_loopback || !values.is_empty("REDIRECT_URI"),
                "REDIRECT_URI: set the registered address, because LISTEN_HOST is not localhost",
            ),
            (
                !is_redis || !values.is_empty("SECRET_KEY"),
                "SECRET_KEY: set one; with SESSION_TYPE = \"redis\" all processes need the same \
                 one",
            ),
        ];
        let broken = rules.iter().filter(|(holds, _)| !holds).map(|(_, text)| (*text).to_owned());
        values.errors.extend(broken);
    }

    /// The port where the app listens, which the system chooses if PORT is 0.
    pub fn listens_on(&mut self, port: u16) {
        self.port = port;
        if self.redirect_uri.port() == Some(0) {
            let _ = self.redirect_uri.set_port(Some(port));
        }
    }

    /// Whether the app uses its demo tenant: the values of an app registration are empty.
    #[cfg(feature = "demo-tenant")]
    pub fn uses_demo_tenant(&self) -> bool {
        self.authority.is_empty()
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

//! Another app that uses the route files of this repository as they are.
//!
//! It shows what a handler needs from the app around it: a `Settings` with the fields that the
//! handlers read, four values in `Data`, the session middleware, and a template. Start it with
//! `cargo run --example host_app`, and open http://localhost:5002/. It starts the demo tenant,
//! unless CLIENT_ID, CLIENT_CREDENTIAL and AUTHORITY are in `.env` or the environment. Set PORT and
//! REDIRECT_URI to listen elsewhere.

use std::env;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use actix_session::SessionMiddleware;
use actix_session::config::BrowserSession;
use actix_web::cookie::{Key, SameSite, time};
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{Data, Html, get};
use actix_web::{App, HttpServer};
use anyhow::Context as _;
use demo_tenant::Registration;
use reqwest::Client;
use reqwest::redirect::Policy;
use tera::Tera;
use tracing::info;
use url::Url;

use crate::protocol::ClientCredential;
use crate::protocol::OpenIdMetadata;
use crate::session_store::files::FileSessions;
use crate::settings::Settings;

#[path = "../src/routes/auth_redirect.rs"]
mod auth_redirect;
#[path = "../src/claims_challenge.rs"]
mod claims_challenge;
#[path = "../src/client_credential.rs"]
mod client_credential;
#[path = "../src/cookies.rs"]
mod cookies;
#[path = "../src/routes/graph.rs"]
mod graph;
#[path = "../src/routes/logout.rs"]
mod logout;
#[path = "../src/protocol.rs"]
mod protocol;
// The app uses one of the two stores.
#[allow(dead_code)]
#[path = "../src/session_store/mod.rs"]
mod session_store;

/// The handlers need `crate::settings::Settings` with these fields and methods.
mod settings {
    use super::*;

    pub struct Settings {
        pub client_id: String,
        pub client_credential: ClientCredential,
        pub scope: String,
        pub endpoint: Url,
        pub redirect_uri: Url,
        pub sso_logout: bool,
    }

    impl Settings {
        pub fn is_https(&self) -> bool {
            self.redirect_uri.scheme() == "https"
        }

        pub fn cookie_prefix(&self) -> &'static str {
            if self.is_https() { "__Host-host-app" } else { "host-app" }
        }
    }
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let _ = dotenvy::dotenv();
    // The log shows the steps of the handlers, and the causes of errors.
    tracing_subscriber::fmt().init();
    let variable = |name| env::var(name).with_context(|| format!("{name} is missing"));
    let or_default = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let port = or_default("PORT", "5002").parse::<u16>().context("PORT is not a port")?;
    let redirect_uri = format!("http://localhost:{port}/auth/redirect");
    let redirect_uri = Url::parse(&or_default("REDIRECT_URI", &redirect_uri))?;
    info!("redirect URI: {redirect_uri}; the app listens on port {port}");
    // The demo tenant lets everyone in, so it is only for this computer.
    let registration = if env::var_os("CLIENT_ID").is_some() || redirect_uri.scheme() == "https" {
        Registration {
            client_id: variable("CLIENT_ID")?,
            client_secret: variable("CLIENT_CREDENTIAL")?,
            authority: variable("AUTHORITY")?,
            endpoint: or_default("ENDPOINT", "https://graph.microsoft.com/v1.0/me").parse()?,
            page: String::new(),
        }
    } else {
        let listener = TcpListener::bind(("127.0.0.1", port.saturating_add(1)))
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
        demo_tenant::start(vec![listener], &redirect_uri, 3600, &[])?
    };
    let Registration { client_id, client_secret, authority, endpoint, .. } = registration;
    let settings = Data::new(Settings {
        client_credential: ClientCredential::load(&client_id, &client_secret)?,
        client_id,
        scope: "https://graph.microsoft.com/User.Read".to_owned(),
        endpoint,
        redirect_uri,
        sso_logout: false,
    });
    // Signs the session cookie. A new key at each start. In production, read it from a setting.
    let cookie_key = Key::generate();

    let http = Client::builder().timeout(Duration::from_secs(15)).redirect(Policy::none());
    let http = Data::new(http.build()?);
    let metadata = http.get(format!("{authority}/v2.0/.well-known/openid-configuration"));
    let metadata = metadata.send().await?.error_for_status()?.json::<OpenIdMetadata>().await?;
    let metadata = Data::new(metadata);
    let mut templates = Tera::new();
    templates.add_raw_template(
        "authenticated/graph.html",
        "<p>Hello {{ user_name }}</p><pre>{{ graph_response }}</pre><a href='/logout'>Sign out</a>",
    )?;
    let templates = Data::new(templates);
    let lifetime = Duration::from_secs(8 * 3_600);
    let sessions = FileSessions::open(Path::new("host-app-sessions"), lifetime)?;

    let server = HttpServer::new(move || {
        let session = SessionMiddleware::builder(sessions.clone(), cookie_key.clone())
            .cookie_name(format!("{}-session", settings.cookie_prefix()))
            .cookie_http_only(true)
            .cookie_same_site(SameSite::Lax)
            .cookie_secure(settings.is_https())
            .session_lifecycle(BrowserSession::default().state_ttl(time::Duration::hours(8)))
            .build();
        App::new()
            .app_data(settings.clone())
            .app_data(metadata.clone())
            .app_data(http.clone())
            .app_data(templates.clone())
            .wrap(session)
            // Without it, cookies of other apps on the same host can prevent a sign-in.
            .wrap(from_fn(cookies::cookies))
            // Pages of signed-in users must not be in a cache, and not in frames of other sites.
            .wrap(DefaultHeaders::new().add(("Cache-Control", "no-store")))
            .wrap(DefaultHeaders::new().add(("Content-Security-Policy", "frame-ancestors 'none'")))
            .route("/", get().to(async || Html::new("<a href='/graph'>My profile</a>")))
            .route("/graph", get().to(graph::graph))
            .route("/auth/redirect", get().to(auth_redirect::auth_redirect))
            .route("/logout", get().to(logout::logout))
    });
    server.bind(("localhost", port))?.run().await?;
    Ok(())
}

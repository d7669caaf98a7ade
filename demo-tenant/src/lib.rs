//! The demo tenant stands in for Microsoft Entra ID (entra) and Microsoft Graph (graph.rs), so that
//! `cargo run` needs no tenant. It listens on a loopback port, keeps everything in memory, and has
//! one app registration and two users. Its home page shows each message and makes things go wrong.
//!
//! What it is like, compared with Microsoft Entra ID in November 2026:
//!
//! | topic | compared | in the demo tenant |
//! |---|---|---|
//! | authorization code | same | works once (AADSTS54005), for one minute (AADSTS70008) |
//! | redirect URI | same | compared as text, without the port of `http://localhost` |
//! | post-logout redirect URI | same | only a registered redirect URI; the home page is one |
//! | client authentication | same | secret, or an assertion signed with a registered certificate |
//! | assertion | stricter | only PS256 with `x5t#S256`, for ten minutes at most, each `jti` once |
//! | PKCE | stricter | required, and only S256; Entra ID only recommends it to web apps |
//! | response_mode | stricter | only `query` |
//! | refresh token | same | each use returns a new one, and the old one stays valid |
//! | claims challenge | same | only for tokens of an app that declares the capability cp1 |
//! | single sign-on | same | skips the sign-in page, unless `login_hint` names another user |
//! | metadata, ID token, errors | fewer fields | a subset of the real ones |
//! | sign-in page | missing | no password, no consent that is remembered |
//! | authentication context (`acrs`) | simpler | a button in place of a second factor |
//! | roles, permissions, optional claims | same | from docs/app_registration.json |
//! | sign-out | missing | no question which account, no front-channel logout |
//! | other features | missing | guests, groups, policies, throttling, other flows, key rotation |
//!
//! The AADSTS numbers are real. The sentences beside them are not.

// A refused request ends with its error, so the size of the error does not matter.
#![allow(clippy::result_large_err)]

mod attacks;
mod directory;
mod entra;
mod events;
mod faults;
mod graph;
mod highlight;
mod page;
mod record;
mod recorder;
mod registration;
mod source;
mod tenant;
mod visit;
mod wire;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use anyhow::Context as _;
use tracing::info;
use url::Url;

use crate::recorder::Recorder;
use crate::source::Source;
use crate::tenant::{CLIENT_ID, Tenant};
pub use crate::visit::{steps, visit};

/// The settings of the app that is registered in the demo tenant.
pub struct Registration {
    pub client_id: String,
    pub client_secret: String,
    /// The address of the tenant.
    pub authority: String,
    /// The address of the user's profile in Microsoft Graph.
    pub endpoint: Url,
    /// The page that shows the messages.
    pub page: String,
}

/// Starts the demo tenant on `listeners`, which are the addresses of localhost on one port, for the
/// app with this redirect URI. An access token is valid for `token_lifetime` seconds. The page shows
/// the marked blocks of `sources`, which are paths and texts of the app's files.
///
/// # Errors
/// `listeners` is empty, a marked block has no end, or a key cannot be made.
pub fn start(
    listeners: Vec<TcpListener>,
    redirect_uri: &Url,
    token_lifetime: u32,
    sources: &[(&'static str, &'static str)],
) -> anyhow::Result<Registration> {
    let port = listeners.first().context("no port for the demo tenant")?.local_addr()?.port();
    let sources = sources.iter().map(|(file, text)| Source::new(file, text));
    let recorder = Arc::new(Recorder::new(sources.collect::<Result<_, _>>()?));
    visit::write_to(&recorder);
    let origin = format!("http://localhost:{port}");
    let tenant = Tenant::new(origin, redirect_uri, token_lifetime, recorder)?;
    let registration = Registration {
        client_id: CLIENT_ID.to_owned(),
        client_secret: tenant.client_secret.clone(),
        authority: tenant.authority.clone(),
        endpoint: Url::parse(&format!("{}/v1.0/me", tenant.origin))?,
        page: format!("{}/", tenant.origin),
    };
    // Browsers apply form-action to the redirect after the form too, and that leads to the app.
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self' \
         http://localhost:* {}; frame-ancestors 'none'; base-uri 'none'",
        tenant.home_page.origin().ascii_serialization()
    );
    let tenant = Data::new(tenant);
    let server = HttpServer::new(move || {
        let headers = DefaultHeaders::new()
            .add(("Content-Security-Policy", policy.as_str()))
            .add(("Cross-Origin-Opener-Policy", "same-origin"))
            .add(("X-Content-Type-Options", "nosniff"))
            // With no-referrer, browsers would send the forms with `Origin: null`.
            .add(("Referrer-Policy", "same-origin"))
            .add(("Cache-Control", "no-store, no-cache"));
        // The last `wrap` sees a request first.
        App::new()
            .app_data(tenant.clone())
            .wrap(headers)
            .wrap(from_fn(record::interfere))
            .wrap(from_fn(record::record))
            .configure(page::other_user)
            .configure(entra::routes)
            .service(web::resource("/v1.0/me").get(graph::me))
            .configure(page::routes)
    });
    // The app's client keeps an idle connection for 90 seconds. Keep it for longer here, so that
    // the client does not send a request when the connection is being closed.
    let server = server.workers(1).disable_signals().keep_alive(Duration::from_secs(120));
    actix_web::rt::spawn(listeners.into_iter().try_fold(server, HttpServer::listen)?.run());
    info!("CLIENT_ID is empty, so the app uses its demo tenant {}", registration.authority);
    info!("see the messages between the two at {}", registration.page);
    Ok(registration)
}

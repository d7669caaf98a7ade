//! A web app that signs users in with Microsoft Entra ID and calls Microsoft Graph as the
//! user.
//!
//! It is a sample to read. Each handler in `routes` does its part of the protocol in its
//! own body. This file only starts the app.

// <ms_docref_import_modules>
use std::process::ExitCode;
use std::time::Duration;

use actix_web::rt::System;
use actix_web::web::Data;
use anyhow::{Context as _, Result};
use tracing::info;

#[cfg(feature = "demo-tenant")]
use crate::protocol::ClientCredential;
use crate::session_store::files::FileSessions;
#[cfg(feature = "redis")]
use crate::session_store::redis::RedisSessions;
use crate::settings::{SessionType, Settings};
// </ms_docref_import_modules>

mod canonical_host;
mod claims_challenge;
mod client_credential;
mod cookies;
mod error_pages;
mod http_client;
mod json_highlight;
mod listeners;
mod log;
mod openid_metadata;
mod protocol;
mod routes;
mod server;
mod session_store;
mod settings;
mod templates;

/// Exits with code 2 if the app cannot start. Each line on stderr is one reason.
fn main() -> ExitCode {
    // The settings come first, because only a program with one thread may change its environment,
    // and `.env` does that.
    let result = Settings::load().and_then(|settings| System::new().block_on(run(settings)));
    let Err(err) = result else { return ExitCode::SUCCESS };
    for line in format!("{err:#}").lines() {
        eprintln!("rust-webapp: {line}");
    }
    ExitCode::from(2)
}

// <ms_docref_create_and_initialize_app>
/// Starts everything that the pages need, and serves them until Ctrl+C.
async fn run(mut settings: Settings) -> Result<()> {
    log::start()?;
    let listeners = listeners::bind(&settings.listen_host, settings.port)?;
    settings.listens_on(listeners[0].local_addr()?.port());
    let templates = templates::load()?;
    #[cfg(feature = "demo-tenant")]
    let templates = start_demo_tenant(&mut settings, templates)?;
    let http = http_client::build(&settings)?;
    let metadata = openid_metadata::load(&http, &settings).await?;
    let home_page = settings.redirect_uri.origin().ascii_serialization();
    info!("redirect URI: {}", settings.redirect_uri);
    info!("listening on http://{}:{}", settings.listen_host, settings.port);
    info!("open {home_page} in a browser; Ctrl+C stops the app");

    let (settings, metadata) = (Data::new(settings), Data::new(metadata));
    let (http, templates) = (Data::new(http), Data::new(templates));
    match settings.session_type {
        SessionType::Filesystem => {
            let sessions = open_file_sessions(&settings)?;
            server::serve(listeners, sessions, settings, metadata, http, templates).await
        }
        #[cfg(feature = "redis")]
        SessionType::Redis => {
            let sessions = open_redis_sessions(&settings).await?;
            server::serve(listeners, sessions, settings, metadata, http, templates).await
        }
    }
}
// </ms_docref_create_and_initialize_app>

/// The page of the demo tenant shows the marked blocks of these files.
#[cfg(feature = "demo-tenant")]
const SOURCES: &[(&str, &str)] = &[
    ("src/openid_metadata.rs", include_str!("openid_metadata.rs")),
    ("src/routes/admin.rs", include_str!("routes/admin.rs")),
    ("src/routes/auth_redirect.rs", include_str!("routes/auth_redirect.rs")),
    ("src/routes/graph.rs", include_str!("routes/graph.rs")),
    ("src/routes/logout.rs", include_str!("routes/logout.rs")),
    ("src/server.rs", include_str!("server.rs")),
];

/// Starts the stand-in for Microsoft Entra ID and Microsoft Graph, if there is no tenant.
#[cfg(feature = "demo-tenant")]
fn start_demo_tenant(settings: &mut Settings, mut templates: tera::Tera) -> Result<tera::Tera> {
    if settings.authority.is_empty() {
        let listeners = listeners::bind("localhost", settings.port.saturating_add(1))
            .or_else(|_| listeners::bind("localhost", 0))?;
        let lifetime = settings.demo_token_lifetime;
        let registration =
            demo_tenant::start(listeners, &settings.redirect_uri, lifetime, SOURCES)?;
        settings.client_id = registration.client_id;
        settings.client_credential = ClientCredential::Secret(registration.client_secret);
        settings.authority = registration.authority;
        settings.endpoint = registration.endpoint;
        templates.global_context().insert("demo_tenant", &registration.page);
    }
    Ok(templates)
}

fn open_file_sessions(settings: &Settings) -> Result<FileSessions> {
    let folder = &settings.session_file_dir;
    let lifetime = Duration::from_secs(settings.permanent_session_lifetime.into());
    let accepted = "accepted is a folder that this app can write to and other users cannot open";
    FileSessions::open(folder, lifetime)
        .with_context(|| format!("SESSION_FILE_DIR = {folder:?}: {accepted}"))
}

/// The address of Redis may contain a password. The error does not show it.
#[cfg(feature = "redis")]
async fn open_redis_sessions(settings: &Settings) -> Result<RedisSessions> {
    RedisSessions::open(&settings.session_redis).await.context(
        "SESSION_REDIS: accepted is a Redis 6 or newer that this app can write to; in a password, \
         write @ as %40, # as %23 and % as %25",
    )
}

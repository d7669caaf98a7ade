//! A web app that signs users in with Microsoft Entra ID and calls Microsoft Graph as the
//! user.
//!
//! It is a sample to read. Each handler in `routes` does its part of the protocol in its
//! own body. This file only starts the app.

// <ms_docref_import_modules>
use std::io::{self, BufWriter, IsTerminal as _};
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use actix_session::SessionMiddleware;
use actix_session::config::{BrowserSession, CookieContentSecurity};
use actix_session::storage::SessionStore;
use actix_web::cookie::{SameSite, time};
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::Context as _;
use reqwest::Client;
use tera::Tera;
use tracing::info;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::protocol::OpenIdMetadata;
use crate::session_store::files::FileSessions;
#[cfg(feature = "redis")]
use crate::session_store::redis::RedisSessions;
use crate::settings::{SessionType, Settings};
// </ms_docref_import_modules>

mod canonical_host;
mod client_credential;
mod cookies;
#[cfg(feature = "demo-tenant")]
mod demo_tenant;
mod error_pages;
mod http_client;
mod json_highlight;
mod openid_metadata;
mod protocol;
mod routes;
mod session_store;
mod settings;

/// Exits with code 2 if the app cannot start. Each line on stderr is one reason.
fn main() -> ExitCode {
    let Err(err) = Settings::load().and_then(run) else { return ExitCode::SUCCESS };
    for line in format!("{err:#}").lines() {
        eprintln!("rust-webapp: {line}");
    }
    ExitCode::from(2)
}

// <ms_docref_create_and_initialize_app>
#[actix_web::main]
async fn run(mut settings: Settings) -> anyhow::Result<()> {
    start_log()?;
    let listeners = bind_listeners(&settings.listen_host, settings.port)?;
    let port = listeners[0].local_addr()?.port();
    let home_page = format!("http://{}:{port}", settings.listen_host);
    if settings.redirect_uri.port() == Some(0) {
        let _ = settings.redirect_uri.set_port(Some(port));
    }

    let mut templates = Tera::new();
    templates.register_filter("json_highlight", json_highlight::json_highlight);
    templates.add_raw_templates([
        ("layout.html", include_str!("../templates/layout.html")),
        ("public/index.html", include_str!("../templates/public/index.html")),
        ("authenticated/graph.html", include_str!("../templates/authenticated/graph.html")),
        ("authenticated/admin.html", include_str!("../templates/authenticated/admin.html")),
        ("error.html", include_str!("../templates/error.html")),
    ])?;

    #[cfg(feature = "demo-tenant")]
    if settings.uses_demo_tenant() {
        let listeners = bind_listeners("localhost", port.saturating_add(1))
            .or_else(|_| bind_listeners("localhost", 0))?;
        let recorder = demo_tenant::start(&mut settings, listeners)?;
        templates.global_context().insert("demo_tenant", &recorder);
    }

    let http = http_client::build(&settings)?;
    let metadata = openid_metadata::load(&http, &settings).await;
    let metadata = metadata.with_context(|| format!("AUTHORITY = {:?}", settings.authority))?;
    info!("redirect URI: {}", settings.redirect_uri);
    info!("listening on {home_page}");
    let origin = settings.redirect_uri.origin().ascii_serialization();
    info!("open {origin} in a browser; Ctrl+C stops the app");

    let (settings, metadata) = (Data::new(settings), Data::new(metadata));
    let (http, templates) = (Data::new(http), Data::new(templates));
    match settings.session_type {
        #[cfg(feature = "redis")]
        SessionType::Redis => {
            // The address may contain a password. Do not show it.
            let accepted = "accepted is a Redis 6 or newer that this app can write to; in a password, \
                            write @ as %40, # as %23 and % as %25";
            let sessions = RedisSessions::open(&settings.session_redis).await;
            let sessions = sessions.with_context(|| format!("SESSION_REDIS: {accepted}"))?;
            serve(listeners, sessions, settings, metadata, http, templates).await
        }
        SessionType::Filesystem => {
            let folder = &settings.session_file_dir;
            let lifetime = Duration::from_secs(settings.permanent_session_lifetime.into());
            let accepted = "accepted is a folder that this app can write to";
            let sessions = FileSessions::open(folder, lifetime)
                .with_context(|| format!("SESSION_FILE_DIR = {folder:?}: {accepted}"))?;
            serve(listeners, sessions, settings, metadata, http, templates).await
        }
    }
}
// </ms_docref_create_and_initialize_app>

// <ms_docref_serve_pages>
/// Serves the pages until Ctrl+C.
async fn serve(
    listeners: Vec<TcpListener>,
    sessions: impl SessionStore + Clone + Send + 'static,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    http: Data<Client>,
    templates: Data<Tera>,
) -> anyhow::Result<()> {
    let mut server = HttpServer::new(move || {
        // <ms_docref_session_cookie>
        // The cookie contains only the session ID, signed. Scripts cannot read it
        // (HttpOnly). Browsers send it with links from other sites, such as the redirect
        // from Microsoft Entra ID, but not with their forms (SameSite=Lax).
        let lifetime = time::Duration::seconds(settings.permanent_session_lifetime.into());
        let session = SessionMiddleware::builder(sessions.clone(), settings.cookie_key.clone())
            .cookie_name(format!("{}-session", settings.cookie_prefix()))
            .cookie_content_security(CookieContentSecurity::Signed)
            .cookie_http_only(true)
            .cookie_same_site(SameSite::Lax)
            .cookie_secure(settings.is_https())
            .session_lifecycle(BrowserSession::default().state_ttl(lifetime))
            .build();
        // </ms_docref_session_cookie>
        let headers =
            error_pages::HEADERS.into_iter().fold(DefaultHeaders::new(), DefaultHeaders::add);
        let pages = web::scope("")
            .wrap(session)
            .wrap(from_fn(cookies::cookies))
            // Load balancers check the home page with HEAD.
            .service(web::resource("/").get(routes::index::index).head(routes::index::index))
            .service(web::resource("/graph").get(routes::graph::graph))
            .service(web::resource("/admin").get(routes::admin::admin))
            .service(web::resource("/auth/redirect").get(routes::auth_redirect::auth_redirect))
            .service(web::resource("/logout").get(routes::logout::logout));
        // The last `wrap` sees a request first.
        App::new()
            .app_data(settings.clone())
            .app_data(metadata.clone())
            .app_data(http.clone())
            .app_data(templates.clone())
            .wrap(from_fn(canonical_host::canonical_host))
            .wrap(from_fn(error_pages::error_pages))
            .wrap(headers)
            .service(web::resource("/style.css").get(style))
            .service(pages)
    });
    for listener in listeners {
        server = server.listen(listener)?;
    }
    server.run().await.context("the server stopped")
}
// </ms_docref_serve_pages>

async fn style() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((CACHE_CONTROL, "max-age=3600"))
        .body(include_str!("../templates/style.css"))
}

/// Starts the log on stdout. If nobody reads stdout, the app goes on and drops lines.
fn start_log() -> anyhow::Result<()> {
    let levels = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,rust_webapp=info".to_owned());
    let levels: Targets = levels.parse().with_context(|| {
        format!("RUST_LOG = {levels:?}: accepted is a level such as info, or rust_webapp=debug")
    })?;
    let (stdout, guard) = tracing_appender::non_blocking(BufWriter::new(io::stdout()));
    // When the guard is dropped, it waits until someone reads the log. The app must end anyway.
    std::mem::forget(guard);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stdout)
        .with_file(true)
        .with_line_number(true)
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    tracing_subscriber::registry().with(lines).with(levels).init();
    Ok(())
}

/// Listens on `host`. For localhost, listens on both of its addresses, because a browser
/// may use either.
fn bind_listeners(host: &str, port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |host: &str, port| {
        TcpListener::bind(format!("{host}:{port}")).with_context(|| {
            format!(
                "LISTEN_HOST = {host:?}, PORT = {port}: the app cannot listen here; if another \
                 program uses this port, choose another one"
            )
        })
    };
    if !host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![bind(host, port)?]);
    }
    let ipv4 = bind("127.0.0.1", port)?;
    // A computer without IPv6 cannot bind any port of it.
    if TcpListener::bind("[::1]:0").is_err() {
        return Ok(vec![ipv4]);
    }
    let ipv6 = bind("[::1]", ipv4.local_addr()?.port())?;
    Ok(vec![ipv4, ipv6])
}

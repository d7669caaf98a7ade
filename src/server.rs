//! Serves the pages: which handler answers which path, and what lies around the handlers.

use std::net::TcpListener;

use actix_session::SessionMiddleware;
use actix_session::config::{BrowserSession, CookieContentSecurity};
use actix_session::storage::SessionStore;
use actix_web::cookie::{SameSite, time};
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context as _, Result};
use reqwest::Client;
use tera::Tera;

use crate::protocol::OpenIdMetadata;
use crate::settings::Settings;
use crate::{canonical_host, cookies, error_pages, routes};

// <ms_docref_serve_pages>
/// Serves the pages until Ctrl+C.
pub async fn serve(
    listeners: Vec<TcpListener>,
    sessions: impl SessionStore + Clone + Send + 'static,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    http: Data<Client>,
    templates: Data<Tera>,
) -> Result<()> {
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
        let app = App::new()
            .app_data(settings.clone())
            .app_data(metadata.clone())
            .app_data(http.clone())
            .app_data(templates.clone())
            .wrap(from_fn(canonical_host::canonical_host))
            .wrap(from_fn(error_pages::error_pages))
            .wrap(headers);
        // The page of the demo tenant shows each visit.
        #[cfg(feature = "demo-tenant")]
        let app = app.wrap(from_fn(demo_tenant::visit));
        app.service(web::resource("/style.css").get(style)).service(pages)
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

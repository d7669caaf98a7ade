//! The demo tenant: a stand-in for Microsoft Entra ID (entra.rs) and
//! Microsoft Graph (graph.rs) on a loopback port.
//!
//! It has one app registration and two users, keeps nothing on disk, and is
//! as strict as Entra ID: what it lets pass, a real tenant lets pass too.
//! The AADSTS numbers are Entra's, the sentences beside them are not.

mod entra;
mod graph;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::cookie::time::OffsetDateTime;
use actix_web::dev::Server;
use actix_web::http::StatusCode;
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, web};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::prelude::*;
use rand::distr::{Alphanumeric, SampleString};
use tera::{Context, Tera, context};
use url::Url;

const TENANT_ID: &str = "6f0d2b1e-5c3a-4e97-8b64-d1a7c09e3f52";
const CLIENT_ID: &str = "b8e41c7a-92d5-4f06-a3be-7d50f6128c94";

/// What the app needs to know of the tenant, in the names of
/// default_settings.toml.
pub struct DemoTenant {
    /// The app registration's client ID.
    pub client_id: String,
    /// The app registration's client secret, another one at each start.
    pub client_credential: String,
    /// `http://localhost:<port>/<tenant ID>`
    pub authority: String,
    /// Microsoft Graph's `/v1.0/me`.
    pub endpoint: String,
    /// Answers once it is spawned.
    pub server: Server,
}

struct User {
    given_name: &'static str,
    username: &'static str,
    oid: &'static str,
    job_title: Option<&'static str>,
    roles: &'static [&'static str],
}

static USERS: [User; 2] = [
    User {
        given_name: "Ada",
        username: "ada@demo-tenant.example",
        oid: "3d9f6a20-7b18-4c55-9e0d-f24b81c6a7e3",
        job_title: Some("Administrator of examples"),
        roles: &["admin"],
    },
    User {
        given_name: "Ben",
        username: "ben@demo-tenant.example",
        oid: "c51e0b94-26fd-4a83-b7c8-09d3ea715f26",
        job_title: None,
        roles: &[],
    },
];

impl User {
    fn name(&self) -> String {
        format!("{} Example", self.given_name)
    }
}

/// What a user granted the app: that, and no more, is what its tokens stand
/// for.
#[derive(Clone)]
struct Grant {
    user: &'static User,
    scope: String,
    nonce: Option<String>,
}

struct Tenant {
    /// `http://localhost:<port>`
    origin: String,
    authority: String,
    client_secret: String,
    /// As registered, to compare with; and parsed, to redirect to.
    redirect_uri: String,
    redirect_url: Url,
    token_lifetime: u64,
    key: KeyPair,
    kid: String,
    templates: Tera,
    sessions: Issued<entra::Session>,
    codes: Issued<entra::Code>,
    refresh_tokens: Issued<Grant>,
    access_tokens: Issued<Grant>,
}

/// Serves on `listeners`, which are localhost's on one port.
///
/// `redirect_uri` is the one that is registered, `token_lifetime` that of
/// access tokens, in seconds.
///
/// # Errors
/// `redirect_uri` is not a URL, there is no listener, or no RSA key can be
/// made.
pub fn start(listeners: Vec<TcpListener>, redirect_uri: &str, token_lifetime: u64) -> io::Result<DemoTenant> {
    let port = listeners.first().ok_or(io::ErrorKind::AddrNotAvailable)?.local_addr()?.port();
    let origin = format!("http://localhost:{port}");
    let authority = format!("{origin}/{TENANT_ID}");
    // Shaped as Entra's are: an app that forgot to encode what is not a letter
    // would be found out here.
    let letters = Alphanumeric.sample_string(&mut rand::rng(), 34);
    let [a, b, c, d, e] = [&letters[..3], &letters[3..13], &letters[13..21], &letters[21..28], &letters[28..]];
    let client_secret = format!("{a}8Q~{b}.{c}_{d}-{e}");
    let mut templates = Tera::new();
    templates
        .add_raw_template("page.html", include_str!("../../templates/demo_tenant/page.html"))
        .map_err(io::Error::other)?;

    let tenant = web::Data::new(Tenant {
        origin: origin.clone(),
        authority: authority.clone(),
        client_secret: client_secret.clone(),
        redirect_uri: redirect_uri.to_owned(),
        redirect_url: Url::parse(redirect_uri).map_err(io::Error::other)?,
        token_lifetime,
        key: KeyPair::generate(KeySize::Rsa2048).map_err(io::Error::other)?,
        kid: random::<20>(),
        templates,
        sessions: Issued::new(24 * 3600),
        codes: Issued::new(600),
        refresh_tokens: Issued::new(90 * 24 * 3600),
        access_tokens: Issued::new(token_lifetime),
    });
    // Without form-action: browsers apply it to the redirect after a form as
    // well, and that leads to the app.
    let policy = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'";
    let server = HttpServer::new(move || {
        let headers = DefaultHeaders::new()
            .add(("Content-Security-Policy", policy))
            .add(("X-Content-Type-Options", "nosniff"))
            .add(("Referrer-Policy", "no-referrer"))
            .add(("Cache-Control", "no-store, no-cache"));
        App::new().wrap(headers).app_data(tenant.clone()).configure(routes)
    });
    // Longer than the app's client keeps an idle connection, which is 90 s: or
    // it would now and then send a request over one that is being closed here.
    let server = server.workers(1).disable_signals().keep_alive(Duration::from_secs(120));
    let server = listeners.into_iter().try_fold(server, HttpServer::listen)?.run();
    let endpoint = format!("{origin}/v1.0/me");
    let client_id = CLIENT_ID.to_owned();
    Ok(DemoTenant { client_id, client_credential: client_secret, authority, endpoint, server })
}

fn routes(app: &mut web::ServiceConfig) {
    let metadata = web::resource("/v2.0/.well-known/openid-configuration");
    let authorize = web::resource("/oauth2/v2.0/authorize");
    let tenant = web::scope(&format!("/{TENANT_ID}"))
        .service(metadata.get(entra::metadata))
        .service(web::resource("/discovery/v2.0/keys").get(entra::keys))
        .service(authorize.get(entra::authorize).post(entra::authorize))
        .service(web::resource("/oauth2/v2.0/token").post(entra::token))
        .service(web::resource("/oauth2/v2.0/logout").get(entra::logout))
        .default_service(web::to(not_found));
    app.service(tenant)
        .route("/{tenant}/{rest:(v2.0|discovery|oauth2)/.*}", web::to(entra::no_such_tenant))
        .service(web::resource("/v1.0/me").get(graph::me))
        .service(web::resource("/style.css").get(style))
        .default_service(web::to(not_found));
}

async fn style() -> HttpResponse {
    let css = include_str!("../../templates/demo_tenant/style.css");
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(css)
}

async fn not_found(tenant: web::Data<Tenant>) -> HttpResponse {
    tenant.message(StatusCode::NOT_FOUND, "Not found", "The demo tenant has no such page.")
}

impl Tenant {
    fn page(&self, status: StatusCode, context: &Context) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        match self.templates.render("page.html", context) {
            Ok(html) => response.content_type("text/html; charset=utf-8").body(html),
            Err(err) => {
                tracing::error!("demo tenant: the page cannot be made: {err}");
                response.status(StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        }
    }

    fn message(&self, status: StatusCode, title: &str, text: &str) -> HttpResponse {
        self.page(status, &context! { title, text })
    }
}

/// What was issued under handles that cannot be guessed: the last
/// `AT_MOST`, each until it expires.
struct Issued<T> {
    lifetime: Duration,
    kept: Mutex<VecDeque<(Instant, String, T)>>,
}

impl<T> Issued<T> {
    const AT_MOST: usize = 2_000;

    fn new(seconds: u64) -> Self {
        Self { lifetime: Duration::from_secs(seconds), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Instant, String, T)>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // All live equally long, so the first to come are the first to go.
        while kept.front().is_some_and(|(issued, ..)| issued.elapsed() >= self.lifetime) {
            kept.pop_front();
        }
        kept
    }

    fn issue(&self, what: T) -> String {
        let handle = random::<32>();
        let mut kept = self.kept();
        if kept.len() >= Self::AT_MOST {
            kept.pop_front();
        }
        kept.push_back((Instant::now(), handle.clone(), what));
        handle
    }

    /// What `read` makes of it, which may change it.
    fn find<R>(&self, handle: &str, read: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut kept = self.kept();
        kept.iter_mut().rev().find(|(_, known, _)| known == handle).map(|(.., what)| read(what))
    }

    fn remove(&self, handle: &str) {
        self.kept().retain(|(_, known, _)| known != handle);
    }
}

/// Whether `name` is one of the space-separated `scope`.
fn has(scope: &str, name: &str) -> bool {
    scope.split(' ').any(|scope| scope == name)
}

fn random<const BYTES: usize>() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>())
}

fn guid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// As Entra writes it: `2026-01-31 12:34:56Z`.
fn timestamp() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{} {:02}:{:02}:{:02}Z", now.date(), now.hour(), now.minute(), now.second())
}

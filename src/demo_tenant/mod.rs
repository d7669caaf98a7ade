//! The demo tenant stands in for Microsoft Entra ID (entra.rs) and Microsoft Graph (graph.rs), so
//! that `cargo run` needs no tenant. It listens on a loopback port, keeps everything in memory,
//! and has one app registration and two users. Its home page shows each message (recorder.rs) and
//! makes things go wrong (faults.rs).
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
//! | sign-in page | missing | no password, no second factor, no consent that is remembered |
//! | sign-out | missing | no question which account, no front-channel logout |
//! | other features | missing | guests, groups, policies, throttling, other flows, key rotation |
//!
//! The AADSTS numbers are real. The sentences beside them are not.

mod entra;
mod explanations;
mod faults;
mod graph;
mod recorder;

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::cookie::time::OffsetDateTime;
use actix_web::http::StatusCode;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context as _, anyhow};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::prelude::*;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rand::distr::{Alphanumeric, SampleString as _};
use tera::{Context, Tera, context};
use tracing::{error, info};
use url::Url;

use self::faults::{Fault, Faults};
use self::recorder::Recorder;
use crate::protocol::ClientCredential;
use crate::settings::Settings;

const TENANT_ID: &str = "6f0d2b1e-5c3a-4e97-8b64-d1a7c09e3f52";
const CLIENT_ID: &str = "b8e41c7a-92d5-4f06-a3be-7d50f6128c94";

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

    /// The claim `login_hint`. Apps do not look into it.
    fn login_hint(&self) -> String {
        format!("O.{}", BASE64_URL_SAFE_NO_PAD.encode(self.oid))
    }

    /// Whether the parameter `login_hint` names this user.
    fn is_hinted(&self, hint: &str) -> bool {
        hint.eq_ignore_ascii_case(self.username) || hint == self.login_hint()
    }
}

/// What a user granted to the app in one sign-in.
#[derive(Clone)]
struct Grant {
    user: &'static User,
    scope: String,
    nonce: Option<String>,
    signed_in: Instant,
    /// Whether the app declared the client capability cp1, so that it gets claims challenges.
    handles_challenges: bool,
}

/// An RSA key that signs ID tokens.
struct SigningKey {
    kid: String,
    private: EncodingKey,
    /// The modulus and the exponent of the public key, in Base64url.
    n: String,
    e: String,
}

impl SigningKey {
    fn generate() -> anyhow::Result<Self> {
        let key = KeyPair::generate(KeySize::Rsa2048)?.as_der()?;
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", key.as_ref()));
        let private = EncodingKey::from_rsa_pem(pem.as_bytes())?;
        match Jwk::from_encoding_key(&private, Algorithm::RS256)?.algorithm {
            AlgorithmParameters::RSA(public) => {
                Ok(Self { kid: random::<20>(), private, n: public.n, e: public.e })
            }
            _ => Err(anyhow!("not an RSA key")),
        }
    }
}

struct Tenant {
    /// `http://localhost:PORT`
    origin: String,
    authority: String,
    client_secret: String,
    /// The registered certificates by their SHA-256 thumbprints.
    certificates: Mutex<HashMap<String, DecodingKey>>,
    /// The registered redirect URIs: the one of the sign-in, and the home page of the app.
    redirect_uris: [String; 2],
    token_lifetime: u32,
    key: SigningKey,
    templates: Tera,
    faults: Faults,
    recorder: Recorder,
    sessions: Issued<entra::Session>,
    codes: Issued<entra::Code>,
    refresh_tokens: Issued<Grant>,
    access_tokens: Issued<Grant>,
    /// The values `jti` of assertions that were used.
    assertions: Issued<()>,
}

/// Starts the demo tenant on `listeners`, which are the addresses of localhost on one port. Sets the
/// settings of its app registration. Returns the page that shows the messages.
///
/// # Errors
/// `listeners` is empty, REDIRECT_URI is not a URL, or a key cannot be made.
pub fn start(settings: &mut Settings, listeners: Vec<TcpListener>) -> anyhow::Result<String> {
    let port = listeners.first().context("no port for the demo tenant")?.local_addr()?.port();
    let origin = format!("http://localhost:{port}");
    let authority = format!("{origin}/{TENANT_ID}");
    let home_page = settings.redirect_uri.join("/")?;
    // Like a real secret, it has characters that a form must encode.
    let letters = Alphanumeric.sample_string(&mut rand::rng(), 34);
    let client_secret = format!("{}8Q~{}.{}", &letters[..3], &letters[3..20], &letters[20..]);
    let mut templates = Tera::new();
    templates.add_raw_templates([
        ("base.html", include_str!("../../templates/demo_tenant/base.html")),
        ("page.html", include_str!("../../templates/demo_tenant/page.html")),
        ("recorder.html", include_str!("../../templates/demo_tenant/recorder.html")),
    ])?;

    // Browsers apply form-action to the redirect after the form too, and that leads to the app.
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self' \
         http://localhost:* {}; frame-ancestors 'none'; base-uri 'none'",
        home_page.origin().ascii_serialization()
    );
    let tenant = Data::new(Tenant {
        origin: origin.clone(),
        authority: authority.clone(),
        client_secret: client_secret.clone(),
        certificates: Mutex::default(),
        redirect_uris: [settings.redirect_uri.to_string(), home_page.into()],
        token_lifetime: settings.demo_token_lifetime,
        key: SigningKey::generate()?,
        templates,
        faults: Faults::default(),
        recorder: Recorder::default(),
        sessions: Issued::new(24 * 3600),
        codes: Issued::new(600),
        refresh_tokens: Issued::new(90 * 24 * 3600),
        access_tokens: Issued::new(settings.demo_token_lifetime.into()),
        assertions: Issued::new(600),
    });
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
            .wrap(from_fn(faults::interfere))
            .wrap(from_fn(recorder::record))
            .configure(routes)
    });
    // The app's client keeps an idle connection for 90 seconds. Keep it for longer here, so that
    // the client does not send a request when the connection is being closed.
    let server = server.workers(1).disable_signals().keep_alive(Duration::from_secs(120));
    actix_web::rt::spawn(listeners.into_iter().try_fold(server, HttpServer::listen)?.run());
    info!("CLIENT_ID is empty, so the app uses its demo tenant {authority}");
    info!("see the messages between the two at {origin}/");
    settings.client_id = CLIENT_ID.to_owned();
    settings.client_credential =
        ClientCredential::load(CLIENT_ID, &client_secret).map_err(anyhow::Error::msg)?;
    settings.authority = authority;
    settings.endpoint = Url::parse(&format!("{origin}/v1.0/me"))?;
    Ok(format!("{origin}/"))
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
        .service(web::resource("/").get(recorder::page))
        .service(web::resource("/faults").post(faults::choose))
        .service(web::resource("/certificates").post(faults::register_certificate))
        .service(web::resource("/style.css").get(style))
        .default_service(web::to(not_found));
}

async fn style() -> HttpResponse {
    let css = include_str!("../../templates/demo_tenant/style.css");
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(css)
}

async fn not_found(tenant: Data<Tenant>) -> HttpResponse {
    tenant.message(StatusCode::NOT_FOUND, "Not found", "The demo tenant has no such page.")
}

impl Tenant {
    fn page(&self, status: StatusCode, template: &str, context: &Context) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        match self.templates.render(template, context) {
            Ok(html) => response.content_type("text/html; charset=utf-8").body(html),
            Err(err) => {
                error!("demo tenant: {template}: {err:?}");
                response.status(StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        }
    }

    /// A page with one sentence.
    fn message(&self, status: StatusCode, title: &str, text: &str) -> HttpResponse {
        self.page(status, "page.html", &context! { title, text })
    }

    fn certificates(&self) -> MutexGuard<'_, HashMap<String, DecodingKey>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app roles of a user now.
    fn roles(&self, user: &User) -> &'static [&'static str] {
        if self.faults.is_active(Fault::NoRole) { &[] } else { user.roles }
    }

    /// Whether the user's sessions were revoked after this sign-in.
    fn is_revoked(&self, grant: &Grant) -> bool {
        self.faults.since(Fault::Revoked).is_some_and(|since| grant.signed_in < since)
    }
}

/// Values that were issued under names that nobody can guess. Each is kept for `lifetime`, and
/// 2,000 at most.
struct Issued<T> {
    lifetime: Duration,
    kept: Mutex<VecDeque<(Instant, String, T)>>,
}

impl<T> Issued<T> {
    fn new(seconds: u64) -> Self {
        Self { lifetime: Duration::from_secs(seconds), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Instant, String, T)>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest are in front.
        while kept.front().is_some_and(|(issued, ..)| issued.elapsed() >= self.lifetime) {
            kept.pop_front();
        }
        kept
    }

    fn issue(&self, value: T) -> String {
        let name = random::<32>();
        self.keep(&name, value);
        name
    }

    fn keep(&self, name: &str, value: T) {
        let mut kept = self.kept();
        if kept.len() >= 2_000 {
            kept.pop_front();
        }
        kept.push_back((Instant::now(), name.to_owned(), value));
    }

    /// Calls `read` with the time of issue and the value, which it may change.
    fn find<R>(&self, name: &str, read: impl FnOnce(Instant, &mut T) -> R) -> Option<R> {
        let mut kept = self.kept();
        let found = kept.iter_mut().find(|(_, known, _)| known == name);
        found.map(|(issued, _, value)| read(*issued, value))
    }

    fn remove(&self, name: &str) {
        self.kept().retain(|(_, known, _)| known != name);
    }

    fn clear(&self) {
        self.kept().clear();
    }
}

/// Whether `name` is one of the space-separated names in `scope`.
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

/// A time as Entra ID writes it, such as `2026-01-31 12:34:56Z`.
fn timestamp(time: OffsetDateTime) -> String {
    format!("{} {:02}:{:02}:{:02}Z", time.date(), time.hour(), time.minute(), time.second())
}

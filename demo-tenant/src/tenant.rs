//! The state of the demo tenant, and how it answers with a page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use anyhow::Context as _;
use jsonwebtoken::DecodingKey;
use rand::distr::{Alphanumeric, SampleString as _};
use tera::{Context, Tera, context};
use tracing::error;
use url::Url;

use crate::directory::{Code, Grant, Issued, Session, SigningKey, User};
use crate::faults::{Fault, Faults};
use crate::recorder::Recorder;
use crate::registration::AppRegistration;

pub const TENANT_ID: &str = "6f0d2b1e-5c3a-4e97-8b64-d1a7c09e3f52";
pub const CLIENT_ID: &str = "b8e41c7a-92d5-4f06-a3be-7d50f6128c94";

/// What came of an attack and of its control.
pub struct Attempt {
    pub attack: &'static str,
    /// The fault that was taken back before the attack began.
    pub fault: Option<Fault>,
    /// The number of the visit in which the attack was tried.
    pub visit: Option<usize>,
    /// Whether the app answered without an error.
    pub is_answered: bool,
    /// Whether the app redirected to a page of its own, where the attack wants another site.
    pub is_led_home: bool,
    pub answer: String,
    pub has_control_succeeded: bool,
    pub control: String,
}

pub struct Tenant {
    /// `http://localhost:PORT`
    pub origin: String,
    pub authority: String,
    pub client_secret: String,
    pub registration: AppRegistration,
    /// The home page of the app.
    pub home_page: Url,
    pub token_lifetime: u32,
    pub key: SigningKey,
    templates: Tera,
    pub faults: Faults,
    pub recorder: Arc<Recorder>,
    attempts: Mutex<Vec<Attempt>>,
    /// The registered certificates by their SHA-256 thumbprints.
    certificates: Mutex<HashMap<String, DecodingKey>>,
    pub sessions: Issued<Session>,
    pub codes: Issued<Code>,
    pub refresh_tokens: Issued<Grant>,
    pub access_tokens: Issued<Grant>,
    /// The values `jti` of assertions that were used.
    pub assertions: Issued<()>,
}

impl Tenant {
    pub fn new(
        origin: String,
        redirect_uri: &Url,
        token_lifetime: u32,
        recorder: Arc<Recorder>,
    ) -> anyhow::Result<Self> {
        let mut templates = Tera::new();
        templates.add_raw_templates([
            ("base.html", include_str!("../templates/base.html")),
            ("page.html", include_str!("../templates/page.html")),
            ("code.html", include_str!("../templates/code.html")),
            ("story.html", include_str!("../templates/story.html")),
            ("message.html", include_str!("../templates/message.html")),
            ("side.html", include_str!("../templates/side.html")),
            ("recorder.html", include_str!("../templates/recorder.html")),
        ])?;
        // Like a real secret, it has characters that a form must encode.
        let letters = Alphanumeric.sample_string(&mut rand::rng(), 34);
        Ok(Self {
            authority: format!("{origin}/{TENANT_ID}"),
            origin,
            client_secret: format!("{}8Q~{}.{}", &letters[..3], &letters[3..20], &letters[20..]),
            registration: AppRegistration::load(redirect_uri)?,
            home_page: redirect_uri.join("/").context("the redirect URI has no home page")?,
            token_lifetime,
            key: SigningKey::generate()?,
            templates,
            faults: Faults::default(),
            recorder,
            attempts: Mutex::default(),
            certificates: Mutex::default(),
            sessions: Issued::new(24 * 3600),
            codes: Issued::new(600),
            refresh_tokens: Issued::new(90 * 24 * 3600),
            access_tokens: Issued::new(token_lifetime.into()),
            assertions: Issued::new(600),
        })
    }

    pub fn page(&self, status: StatusCode, template: &str, context: &Context) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        match self.templates.render(template, context) {
            Ok(html) => response.content_type("text/html; charset=utf-8").body(html),
            Err(err) => {
                error!("{template}: {err:?}");
                response.status(StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        }
    }

    /// A page with one sentence.
    pub fn message(&self, status: StatusCode, title: &str, text: &str) -> HttpResponse {
        self.page(status, "page.html", &context! { title, text })
    }

    pub fn certificates(&self) -> MutexGuard<'_, HashMap<String, DecodingKey>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last attempt of each attack, the newest at the end.
    pub fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app roles of a user now.
    pub fn roles(&self, user: &User) -> Vec<&'static str> {
        let roles = user.roles.iter().filter(|role| self.registration.has_role(role));
        if self.faults.is_active(Fault::NoRole) { Vec::new() } else { roles.copied().collect() }
    }

    /// Whether the user's sessions were revoked after this sign-in.
    pub fn is_revoked(&self, grant: &Grant) -> bool {
        self.faults.revoked().is_some_and(|since| grant.signed_in < since)
    }
}

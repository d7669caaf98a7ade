//! What can go wrong on purpose, one fault at a time, and the forms on the recorder's page.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, ORIGIN};
use actix_web::middleware::Next;
use actix_web::web::{Data, Form};
use actix_web::{Error, HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::recorder::Endpoint;
use super::{Tenant, entra, graph};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Revoked,
    Expired,
    NoRefresh,
    UnknownKey,
    OtherAudience,
    OtherNonce,
    NoRole,
    Unavailable,
    Slow,
}

/// A button of the page: what will happen, and which steps of the app handle it.
pub(super) struct Button {
    pub fault: Fault,
    pub label: &'static str,
    pub steps: &'static str,
    pub effect: &'static str,
}

#[rustfmt::skip]
pub(super) const BUTTONS: [Button; 9] = [
    Button { fault: Fault::Revoked, label: "Revoke all sessions", steps: "3, then 5",
        effect: "Open Graph Access. Microsoft Graph sends a claims challenge, and the app asks \
                 you to sign in again. If you do this twice within a minute, you see an error \
                 page." },
    Button { fault: Fault::Expired, label: "Expire the access tokens", steps: "3, then 2",
        effect: "Open Graph Access. Microsoft Graph answers 401, and the app shows an error \
                 page. Reload the page. The app gets a new access token with its refresh \
                 token." },
    Button { fault: Fault::NoRefresh, label: "Refuse the refresh tokens", steps: "2, then 5",
        effect: "Open Graph Access twice. First the access token has expired. Then the refresh \
                 fails, and the app asks you to sign in again. In the first minute after a \
                 sign-in, the app shows an error page instead." },
    Button { fault: Fault::UnknownKey, label: "Sign the next ID token with an unknown key",
        steps: "8",
        effect: "Sign out and in again (single sign-on does not ask you). The app does not find the key and refuses the ID \
                 token." },
    Button { fault: Fault::OtherAudience, label: "Issue the next ID token for another app",
        steps: "8",
        effect: "Sign out and in again (single sign-on does not ask you). The app refuses the ID token, because aud is another \
                 app." },
    Button { fault: Fault::OtherNonce, label: "Change the nonce of the next ID token",
        steps: "8",
        effect: "Sign out and in again (single sign-on does not ask you). The app refuses the ID token, because nonce is not the \
                 one of this sign-in." },
    Button { fault: Fault::NoRole, label: "Take Ada's role away", steps: "4",
        effect: "Sign out, and open Graph Access as Admin as Ada. The app answers 403. Until \
                 she signs out, her old ID token still has the role." },
    Button { fault: Fault::Unavailable, label: "Be unavailable for the next request",
        steps: "2, 3 or 7",
        effect: "Open Graph Access. When the app next asks for tokens or a profile, it gets 503 \
                 and shows an error page." },
    Button { fault: Fault::Slow, label: "Answer the next request too late", steps: "2, 3 or 7",
        effect: "Open Graph Access. When the app next asks for tokens or a profile, it waits \
                 for 15 seconds and shows an error page." },
];

/// The active fault, and since when.
#[derive(Default)]
pub(super) struct Faults(Mutex<Option<(Fault, Instant)>>);

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Option<(Fault, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn active(&self) -> Option<Fault> {
        self.lock().map(|(fault, _)| fault)
    }

    pub(super) fn is_active(&self, fault: Fault) -> bool {
        self.active() == Some(fault)
    }

    /// Since when a fault is active.
    pub(super) fn since(&self, fault: Fault) -> Option<Instant> {
        self.lock().filter(|(active, _)| *active == fault).map(|(_, since)| since)
    }

    /// Ends a fault that happens only once. Returns whether it was active.
    pub(super) fn take(&self, fault: Fault) -> bool {
        self.lock().take_if(|(active, _)| *active == fault).is_some()
    }
}

/// Disturbs a request of the app, if the active fault says so.
pub(super) async fn interfere(
    tenant: Data<Tenant>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let endpoint = Endpoint::of(request.path());
    if matches!(endpoint, Some(Endpoint::Token | Endpoint::Graph)) {
        if tenant.faults.take(Fault::Slow) {
            actix_web::rt::time::sleep(Duration::from_secs(20)).await;
        }
        if tenant.faults.take(Fault::Unavailable) {
            let text = "A transient error has occurred. Please try again.";
            return Ok(request.into_response(match endpoint {
                Some(Endpoint::Graph) => {
                    graph::refuse(StatusCode::SERVICE_UNAVAILABLE, "serviceNotAvailable", text)
                }
                _ => entra::json_response(&entra::refuse(90033, text)),
            }));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Refuses a form that does not come from the recorder's page. Otherwise any site that the user
/// opens could send one.
fn check_origin(tenant: &Tenant, request: &HttpRequest) -> Option<HttpResponse> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_own = header(ORIGIN.as_str()) == Some(&tenant.origin)
        && header("Sec-Fetch-Site").is_none_or(|site| site == "same-origin");
    let text = format!(
        "The form does not come from {}/. Open that page, or send the header Origin.",
        tenant.origin
    );
    (!is_own).then(|| tenant.message(StatusCode::FORBIDDEN, "The form was refused", &text))
}

fn back_to_the_page() -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, "/")).finish()
}

#[derive(Deserialize)]
pub(super) struct Choice {
    fault: String,
}

/// `POST /faults`: starts a fault, stops it (`none`), or resets the demo tenant (`reset`).
pub(super) async fn choose(
    request: HttpRequest,
    tenant: Data<Tenant>,
    form: Form<Choice>,
) -> HttpResponse {
    if let Some(refused) = check_origin(&tenant, &request) {
        return refused;
    }
    let button = BUTTONS.iter().find(|button| format!("{:?}", button.fault) == form.fault);
    if button.is_none() && !["none", "reset"].contains(&form.fault.as_str()) {
        return tenant.message(
            StatusCode::BAD_REQUEST,
            "Bad request",
            "This button does not exist.",
        );
    }
    info!("demo tenant: fault {:?}", form.fault);
    *tenant.faults.lock() = button.map(|button| (button.fault, Instant::now()));
    if tenant.faults.is_active(Fault::Revoked) {
        tenant.sessions.clear();
    }
    if form.fault == "reset" {
        tenant.sessions.clear();
        tenant.certificates().clear();
        tenant.recorder.clear();
    }
    back_to_the_page()
}

#[derive(Deserialize)]
pub(super) struct Certificate {
    certificate: String,
}

/// `POST /certificates`: registers a certificate, with which an app can authenticate.
pub(super) async fn register_certificate(
    request: HttpRequest,
    tenant: Data<Tenant>,
    form: Form<Certificate>,
) -> HttpResponse {
    if let Some(refused) = check_origin(&tenant, &request) {
        return refused;
    }
    let bad = |text| tenant.message(StatusCode::BAD_REQUEST, "The certificate was refused", text);
    let Ok(parts) = pem::parse_many(&form.certificate) else {
        return bad("This is not PEM. Go back and paste the text of the certificate file.");
    };
    if parts.iter().any(|part| part.tag().ends_with("PRIVATE KEY")) {
        return bad("This contains a private key. Never give it away; paste only the certificate.");
    }
    let Some(part) = parts.iter().find(|part| part.tag() == "CERTIFICATE") else {
        return bad(
            "It does not contain a certificate. It begins with -----BEGIN CERTIFICATE-----.",
        );
    };
    let Ok(key) = DecodingKey::from_rsa_pem(pem::encode(part).as_bytes()) else {
        return bad("The certificate has no RSA key.");
    };
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(part.contents()));
    info!("demo tenant: registered a certificate with thumbprint {thumbprint}");
    tenant.certificates().insert(thumbprint, key);
    back_to_the_page()
}

//! The forms of the page.

use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, ORIGIN};
use actix_web::web::{Data, Form};
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::faults::BUTTONS;
use crate::attacks::{self, ATTACKS};
use crate::faults::Fault;
use crate::tenant::Tenant;
use crate::wire::SSO_COOKIE;

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
pub struct Choice {
    fault: String,
}

/// `POST /faults`: starts a fault, stops it (`none`), or resets the demo tenant (`reset`).
pub async fn choose(
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
    info!("fault {:?}", form.fault);
    match button {
        Some(button) => tenant.faults.start(button.fault),
        None => tenant.faults.stop(),
    }
    if tenant.faults.is_active(Fault::Revoked) {
        tenant.sessions.clear();
    }
    if form.fault == "reset" {
        tenant.faults.reset();
        tenant.attempts().clear();
        tenant.sessions.clear();
        tenant.certificates().clear();
        tenant.recorder.clear();
    }
    back_to_the_page()
}

#[derive(Deserialize)]
pub struct Chosen {
    attack: String,
}

/// `POST /attacks`: tries an attack.
pub async fn attack(
    request: HttpRequest,
    tenant: Data<Tenant>,
    form: Form<Chosen>,
) -> HttpResponse {
    if let Some(refused) = check_origin(&tenant, &request) {
        return refused;
    }
    let Some(attack) = ATTACKS.iter().find(|attack| attack.name == form.attack) else {
        return tenant.message(
            StatusCode::BAD_REQUEST,
            "Bad request",
            "This attack does not exist.",
        );
    };
    info!("attack {:?}", attack.name);
    match attacks::run(&tenant, attack).await {
        Ok(attempt) => {
            let mut attempts = tenant.attempts();
            attempts.retain(|earlier| earlier.attack != attempt.attack);
            attempts.push(attempt);
            let result = format!("/?attempt={}#attempt", attack.name);
            HttpResponse::SeeOther().insert_header((LOCATION, result)).finish()
        }
        Err(err) => {
            let text = format!("The attack could not begin. Is the app running? {err:#}");
            tenant.message(StatusCode::BAD_GATEWAY, "The attack could not begin", &text)
        }
    }
}

/// `POST /…/other_user`: ends single sign-on in this browser and signs out of the app, so that the
/// next sign-in asks who you are. It is below the path of the cookie.
pub async fn other_user(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    if let Some(refused) = check_origin(&tenant, &request) {
        return refused;
    }
    if let Some(cookie) = request.cookie(SSO_COOKIE) {
        tenant.sessions.remove(cookie.value());
    }
    let sign_out = format!("{}logout", tenant.home_page);
    HttpResponse::SeeOther().insert_header((LOCATION, sign_out)).finish()
}

#[derive(Deserialize)]
pub struct Certificate {
    certificate: String,
}

/// `POST /certificates`: registers a certificate, with which an app can authenticate.
pub async fn register_certificate(
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
    info!("registered a certificate with thumbprint {thumbprint}");
    tenant.certificates().insert(thumbprint, key);
    back_to_the_page()
}

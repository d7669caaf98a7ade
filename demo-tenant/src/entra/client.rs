//! Who the app is: its client ID, and its proof in a token request.

use actix_web::cookie::time::OffsetDateTime;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::Value;

use crate::tenant::{CLIENT_ID, Tenant};
use crate::wire::{Parameters, Refusal, check};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub fn check_client_id(client_id: &str) -> Result<(), Refusal> {
    let text = format!("Application '{client_id}' was not found in this tenant.");
    check(!client_id.is_empty(), 900144, "client_id is missing.")?;
    check(client_id == CLIENT_ID, 700016, &text)
}

/// Checks that the request comes from the app: by its client secret (RFC 6749 section 2.3.1), or
/// by an assertion.
pub fn authenticate(tenant: &Tenant, sent: &Parameters) -> Result<(), Refusal> {
    let secret = sent.get("client_secret");
    if !sent.get("client_assertion").is_empty() {
        return check_assertion(tenant, sent);
    }
    check(!secret.is_empty(), 7000218, "client_assertion or client_secret is missing.")?;
    let text = "Invalid client secret provided. Send the value of the secret, not its ID.";
    check(secret == tenant.client_secret, 7000215, text)
}

/// An assertion is a JWT that the app signed with the key of a registered certificate (RFC 7523
/// section 3).
fn check_assertion(tenant: &Tenant, sent: &Parameters) -> Result<(), Refusal> {
    let assertion = sent.get("client_assertion");
    let is_jwt = sent.get("client_assertion_type") == ASSERTION_TYPE;
    check(is_jwt, 900144, "client_assertion_type is missing or wrong.")?;
    let header = jsonwebtoken::decode_header(assertion)
        .map_err(|_| Refusal::new(50013, "The client assertion is not a JWT."))?;
    let mut signature_only = Validation::new(Algorithm::PS256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let claims = tenant
        .certificates()
        .get(&header.x5t_s256.unwrap_or_default())
        .ok_or_else(|| Refusal::new(700027, "The certificate of the assertion is not registered."))
        .and_then(|key| {
            jsonwebtoken::decode::<Value>(assertion, key, &signature_only)
                .map_err(|_| Refusal::new(700027, "The signature of the assertion is not valid."))
        })?
        .claims;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let endpoint = format!("{}/oauth2/v2.0/token", tenant.authority);
    let is_app = claims["iss"] == CLIENT_ID && claims["sub"] == CLIENT_ID;
    let is_current = claims["exp"].as_i64().is_some_and(|exp| exp > now && exp <= now + 600)
        && claims["nbf"].as_i64().is_none_or(|nbf| nbf <= now);
    let jti = claims["jti"].as_str().unwrap_or_default();
    let is_new = !jti.is_empty() && tenant.assertions.find(jti, |_, ()| ()).is_none();
    let is_for_us = claims["aud"] == endpoint;
    check(is_for_us, 700023, "aud of the assertion is not the token endpoint.")?;
    check(is_app, 700021, "iss and sub of the assertion are not the client ID.")?;
    check(is_current, 700024, "The assertion is not within its time range of ten minutes.")?;
    check(is_new, 50013, "The jti of the assertion is missing or was used.")?;
    tenant.assertions.keep(jti, ());
    Ok(())
}

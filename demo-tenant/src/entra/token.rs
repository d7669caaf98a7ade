//! The token endpoint (RFC 6749 section 3.2).

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Data, Form};
use base64::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::client::{authenticate, check_client_id};
use super::id_token;
use crate::directory::Grant;
use crate::faults::Fault;
use crate::tenant::Tenant;
use crate::wire::{Parameters, Refusal, check, has, json_response};

/// Seconds. The app refreshes an access token in its last five minutes.
const SHORT_LIFETIME: u32 = 240;
const CODE_LIFETIME: Duration = Duration::from_secs(60);

pub async fn token(
    tenant: Data<Tenant>,
    form: Option<Form<Vec<(String, String)>>>,
) -> HttpResponse {
    let pairs = form.map(Form::into_inner).unwrap_or_default();
    match Parameters::new(pairs).and_then(|sent| tokens(&tenant, &sent, redeem(&tenant, &sent)?)) {
        Ok(tokens) => json_response(&tokens),
        Err(refusal) => refusal.into_response(),
    }
}

/// What the user granted to the app, for a code or a refresh token.
fn redeem(tenant: &Tenant, sent: &Parameters) -> Result<Grant, Refusal> {
    check(!sent.get("grant_type").is_empty(), 900144, "grant_type is missing.")?;
    check_client_id(sent.get("client_id"))?;
    authenticate(tenant, sent)?;
    match sent.get("grant_type") {
        "authorization_code" => redeem_code(tenant, sent),
        "refresh_token" => refresh(tenant, sent),
        _ => Err(Refusal::new(70003, "The grant_type is not supported.")),
    }
}

/// RFC 6749 section 4.1.3. After the first use, a code does not work, even if this fails.
fn redeem_code(tenant: &Tenant, sent: &Parameters) -> Result<Grant, Refusal> {
    let found = tenant.codes.find(sent.get("code"), |issued, code| {
        let before = code.clone();
        code.is_redeemed = true;
        (issued.elapsed(), before)
    });
    let Some((age, code)) = found else {
        return Err(Refusal::new(70000, "The authorization code is not valid."));
    };
    let verifier = sent.get("code_verifier");
    // RFC 7636 sections 4.1 and 4.6.
    let is_verified = (43..=128).contains(&verifier.len())
        && BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == code.code_challenge;
    let is_same_uri = sent.get("redirect_uri") == code.redirect_uri;
    check(!code.is_redeemed, 54005, "The authorization code was already redeemed.")?;
    check(age < CODE_LIFETIME, 70008, "The authorization code has expired.")?;
    check(is_same_uri, 500112, "The code was issued for another redirect_uri.")?;
    check(is_verified, 501481, "code_verifier does not match the code_challenge.")?;
    Ok(code.grant)
}

/// RFC 6749 section 6.
fn refresh(tenant: &Tenant, sent: &Parameters) -> Result<Grant, Refusal> {
    let token = sent.get("refresh_token");
    let Some(grant) = tenant.refresh_tokens.find(token, |_, grant| grant.clone()) else {
        return Err(Refusal::new(70000, "The refresh token is not valid."));
    };
    if tenant.is_revoked(&grant) {
        tenant.faults.take(Fault::Revoked);
        let mut refusal = Refusal::new(50173, "The grant was revoked. Sign in again.");
        refusal.suberror = Some("bad_token");
        return Err(refusal);
    }
    let is_refused = tenant.faults.take(Fault::NoRefresh);
    check(!is_refused, 70008, "The refresh token has expired due to inactivity.")?;
    Ok(grant)
}

/// The response (RFC 6749 section 5.1).
fn tokens(tenant: &Tenant, sent: &Parameters, granted: Grant) -> Result<Value, Refusal> {
    let mut grant = granted.clone();
    if !sent.get("scope").is_empty() {
        grant.scope = sent.get("scope").to_owned();
    }
    let is_more = grant.scope.split(' ').any(|scope| !has(&granted.scope, scope));
    check(!is_more, 70011, "The scope is more than what the user granted.")?;
    let capabilities = &sent.claims()?["access_token"]["xms_cc"]["values"];
    grant.handles_challenges =
        capabilities.as_array().is_some_and(|values| values.contains(&json!("cp1")));
    let (form, name) = (sent.get("grant_type"), grant.user.name());
    info!("tokens issued to {name} for {} by {form}", grant.scope);

    // The permissions of the access token and, with openid, these three. Never offline_access.
    let mut scope: Vec<_> = grant.scope.split(' ').filter(|scope| is_user_read(scope)).collect();
    let has_openid = has(&grant.scope, "openid");
    if has_openid {
        scope.extend(["openid", "profile", "email"]);
    }
    let is_sign_in = form == "authorization_code";
    let mut lifetime = tenant.token_lifetime;
    if is_sign_in && tenant.faults.take(Fault::ShortToken) {
        lifetime = SHORT_LIFETIME;
    } else if is_sign_in && tenant.faults.is_active(Fault::NoRefresh) {
        // Then the app uses the refresh token soon.
        lifetime = SHORT_LIFETIME;
    }
    let mut response = json!({
        "token_type": "Bearer",
        "scope": scope.join(" "),
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
    });
    response["access_token"] = tenant.access_tokens.issue(grant.clone()).into();
    if has(&grant.scope, "offline_access") {
        let grant = Grant { nonce: String::new(), forgery: None, ..granted };
        response["refresh_token"] = tenant.refresh_tokens.issue(grant).into();
    }
    if has_openid {
        let id_token = id_token::issue(tenant, &grant, is_sign_in)?;
        tenant.codes.find(sent.get("code"), |_, code| code.id_token.clone_from(&id_token));
        response["id_token"] = id_token.into();
    }
    Ok(response)
}

fn is_user_read(scope: &str) -> bool {
    scope.ends_with("User.Read")
}

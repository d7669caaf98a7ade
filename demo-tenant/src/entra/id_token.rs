//! The ID token (OIDC Core section 2), signed with RS256.

use actix_web::cookie::time::OffsetDateTime;
use base64::prelude::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::directory::{Forgery, Grant, SigningKey};
use crate::faults::Fault;
use crate::tenant::{CLIENT_ID, TENANT_ID, Tenant};
use crate::wire::{Refusal, guid, has, random};

/// Makes an ID token. The faults change only the one of a sign-in, because the app does not look
/// at the others.
pub fn issue(tenant: &Tenant, grant: &Grant, is_sign_in: bool) -> Result<String, Refusal> {
    let user = grant.user;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({
        "aud": CLIENT_ID,
        "iss": format!("{}/v2.0", tenant.authority),
        // Five minutes ago, for clocks that are slow.
        "iat": now - 300,
        "nbf": now - 300,
        "exp": now + 3600,
        "rh": format!("1.{}.", random::<33>()),
        // Another app gets another `sub` for the same user (OIDC Core section 8.1).
        "sub": BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest([CLIENT_ID, user.oid].concat())),
        "tid": TENANT_ID,
        "uti": random::<16>(),
        "ver": "2.0",
    });
    if has(&grant.scope, "profile") {
        claims["name"] = user.name().into();
        claims["oid"] = user.oid.into();
        claims["preferred_username"] = user.username.into();
        if tenant.registration.has_optional_claim("login_hint") {
            claims["login_hint"] = user.login_hint().into();
        }
    }
    if let Some(acrs) = &grant.acrs {
        claims["acrs"] = json!([acrs]);
    }
    if !grant.nonce.is_empty() {
        claims["nonce"] = grant.nonce.as_str().into();
    }
    // A user without a role has no such claim.
    let roles = tenant.roles(user);
    if !roles.is_empty() {
        claims["roles"] = roles.into();
    }
    let failed = || Refusal::new(90033, "The ID token cannot be signed.");
    let mut other_key = None;
    if is_sign_in && tenant.faults.take(Fault::OtherAudience) {
        claims["aud"] = guid().into();
    } else if is_sign_in && tenant.faults.take(Fault::OtherNonce) {
        claims["nonce"] = random::<32>().into();
    } else if is_sign_in && tenant.faults.take(Fault::UnknownKey) {
        other_key = Some(SigningKey::generate().map_err(|_| failed())?);
    }
    let key = other_key.as_ref().unwrap_or(&tenant.key);
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(key.kid.clone());
    let signed = jsonwebtoken::encode(&header, &claims, &key.private).map_err(|_| failed())?;
    let Some(forgery) = grant.forgery.as_ref().filter(|_| is_sign_in) else { return Ok(signed) };
    claims["roles"] = json!(["admin"]);
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let sign = |header: &Header, key: &EncodingKey| {
        jsonwebtoken::encode(header, &claims, key).map_err(|_| failed())
    };
    match forgery {
        Forgery::Replay(id_token) => Ok(id_token.clone()),
        Forgery::Right => sign(&header, &key.private),
        Forgery::Unchanged => {
            let parts: Vec<_> = signed.split('.').collect();
            Ok([parts[0], &encode(claims), parts[2]].join("."))
        }
        Forgery::None => {
            let header = json!({ "typ": "JWT", "alg": "none", "kid": key.kid });
            Ok(format!("{}.{}.", encode(header), encode(claims)))
        }
        Forgery::Hmac => {
            header.alg = Algorithm::HS256;
            sign(&header, &EncodingKey::from_secret(key.public.as_bytes()))
        }
    }
}

//! Microsoft Entra ID: the OpenID metadata, the signing keys, and the endpoints authorize, token
//! and logout.

mod authorize;
mod client;
mod id_token;
mod logout;
mod token;

use actix_web::HttpResponse;
use actix_web::web::{self, Data};
use serde_json::json;

use crate::directory::SigningKey;
use crate::tenant::{TENANT_ID, Tenant};
use crate::wire::{Refusal, json_response};

pub fn routes(app: &mut web::ServiceConfig) {
    let authorize = web::resource("/oauth2/v2.0/authorize");
    let tenant = web::scope(&format!("/{TENANT_ID}"))
        .service(web::resource("/v2.0/.well-known/openid-configuration").get(metadata))
        .service(web::resource("/discovery/v2.0/keys").get(keys))
        .service(authorize.get(authorize::request).post(authorize::choice))
        .service(web::resource("/oauth2/v2.0/token").post(token::token))
        .service(web::resource("/oauth2/v2.0/logout").get(logout::logout));
    app.service(tenant)
        .route("/{tenant}/{rest:(v2.0|discovery|oauth2)/.*}", web::to(no_such_tenant));
}

async fn no_such_tenant(path: web::Path<(String, String)>) -> HttpResponse {
    let text = format!("Tenant '{}' not found. AUTHORITY ends with the tenant ID.", path.0);
    Refusal::new(90002, &text).into_response()
}

/// The OpenID metadata (OpenID Connect Discovery 1.0 section 3).
async fn metadata(tenant: Data<Tenant>) -> HttpResponse {
    let authority = &tenant.authority;
    json_response(&json!({
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "response_modes_supported": ["query"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{authority}/v2.0"),
        "request_uri_parameter_supported": false,
        "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
        "http_logout_supported": true,
        "end_session_endpoint": format!("{authority}/oauth2/v2.0/logout"),
        "claims_supported":
            ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid"],
        "tenant_region_scope": "NA",
    }))
}

/// The public key of the ID tokens (RFC 7517). Like Microsoft Entra ID, it names no `alg`.
async fn keys(tenant: Data<Tenant>) -> HttpResponse {
    let SigningKey { kid, n, e, .. } = &tenant.key;
    let issuer = format!("{}/v2.0", tenant.authority);
    json_response(&json!({ "keys": [{
        "kty": "RSA", "use": "sig", "kid": kid, "x5t": kid, "n": n, "e": e, "issuer": issuer,
    }] }))
}

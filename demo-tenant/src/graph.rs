//! Microsoft Graph: the profile of the signed-in user.

use actix_web::cookie::time::OffsetDateTime;
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::get_current_timestamp;
use serde_json::json;
use tracing::info;

use crate::faults::Fault;
use crate::registration::MICROSOFT_GRAPH;
use crate::tenant::Tenant;
use crate::wire::{bearer_token, guid, timestamp};

const JSON: &str = "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";

/// `GET /v1.0/me`, with an access token in the Authorization header (RFC 6750 section 2.1).
pub async fn me(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    let token = bearer_token(&request);
    let Some((issued, grant)) =
        tenant.access_tokens.find(token, |issued, grant| (issued, grant.clone()))
    else {
        return unauthorized(
            &tenant,
            "The access token is missing, unknown, or has expired.",
            None,
        );
    };
    if tenant.is_revoked(&grant) && grant.handles_challenges {
        let text = "Continuous access evaluation resulted in challenge with result: \
                    InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp";
        let age = tenant.faults.revoked().map_or(0, |since| since.elapsed().as_secs());
        tenant.faults.take(Fault::Revoked);
        return unauthorized(&tenant, text, Some(get_current_timestamp() - age));
    }
    if tenant.faults.expired().is_some_and(|since| issued < since) {
        tenant.faults.take(Fault::Expired);
        let text = "Lifetime validation failed, the token is expired.";
        return unauthorized(&tenant, text, None);
    }
    if !grant.scope.split(' ').any(|scope| scope.ends_with("User.Read")) {
        let text = "The access token lacks the permission User.Read.";
        return refuse(StatusCode::FORBIDDEN, "Authorization_RequestDenied", text);
    }
    let user = grant.user;
    info!("Graph sent the profile of {}", user.name());
    let profile = json!({
        "@odata.context": format!("{}/v1.0/$metadata#users/$entity", tenant.origin),
        "businessPhones": [],
        "displayName": user.name(),
        "givenName": user.given_name,
        "jobTitle": user.job_title,
        "mail": user.username,
        "mobilePhone": null,
        "officeLocation": null,
        "preferredLanguage": null,
        "surname": "Example",
        "userPrincipalName": user.username,
        "id": user.oid,
    });
    let mut response = HttpResponse::Ok();
    response.insert_header(("request-id", guid())).content_type(JSON).body(profile.to_string())
}

/// 401, with the header of RFC 6750 section 3. With `valid_from`, it is a claims challenge: the
/// next access token must be issued after that time.
fn unauthorized(tenant: &Tenant, message: &str, valid_from: Option<u64>) -> HttpResponse {
    let uri = format!("{}/oauth2/v2.0/authorize", tenant.authority);
    let mut header =
        format!(r#"Bearer realm="", authorization_uri="{uri}", client_id="{MICROSOFT_GRAPH}""#);
    if let Some(time) = valid_from {
        let claims =
            json!({ "access_token": { "nbf": { "essential": true, "value": time.to_string() } } });
        let claims = BASE64_STANDARD.encode(claims.to_string());
        header.push_str(&format!(r#", error="insufficient_claims", claims="{claims}""#));
    }
    let mut response = refuse(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message);
    if let Ok(header) = header.parse() {
        response.headers_mut().insert(WWW_AUTHENTICATE, header);
    }
    response
}

/// An error, in the JSON of Microsoft Graph.
pub fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    info!("Graph refused, {code}: {message}");
    let (date, id) =
        (timestamp(OffsetDateTime::now_utc()).replace(' ', "T").replace('Z', ""), guid());
    let inner = json!({ "date": date, "request-id": id, "client-request-id": id });
    let error = json!({ "error": { "code": code, "message": message, "innerError": inner } });
    let mut response = HttpResponse::build(status);
    response.insert_header(("request-id", id)).content_type(JSON).body(error.to_string())
}

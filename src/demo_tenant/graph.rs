//! Microsoft Graph: the profile of the signed-in user.

use actix_web::cookie::time::OffsetDateTime;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::get_current_timestamp;
use serde_json::json;
use tracing::info;

use super::entra::is_user_read;
use super::{Fault, Tenant, guid, timestamp};

const JSON: &str = "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";

/// `GET /v1.0/me`, with an access token in the Authorization header (RFC 6750 section 2.1).
pub(super) async fn me(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
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
        let age = tenant.faults.since(Fault::Revoked).map_or(0, |since| since.elapsed().as_secs());
        return unauthorized(&tenant, text, Some(get_current_timestamp() - age));
    }
    let is_older = |since| issued < since;
    if [Fault::Expired, Fault::NoRefresh]
        .iter()
        .any(|fault| tenant.faults.since(*fault).is_some_and(is_older))
    {
        let text = "Lifetime validation failed, the token is expired.";
        return unauthorized(&tenant, text, None);
    }
    if !grant.scope.split(' ').any(is_user_read) {
        let text = "The access token lacks the permission User.Read.";
        return refuse(StatusCode::FORBIDDEN, "Authorization_RequestDenied", text);
    }
    let user = grant.user;
    info!("demo tenant: Graph sent the profile of {}", user.name());
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

pub(super) fn bearer_token(request: &HttpRequest) -> &str {
    let header = request.headers().get("Authorization").and_then(|header| header.to_str().ok());
    let parts = header.and_then(|header| header.split_once(' '));
    let bearer = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
    bearer.map_or("", |(_, token)| token.trim())
}

/// 401, with the header of RFC 6750 section 3. With `valid_from`, it is a claims challenge: the
/// next access token must be issued after that time.
fn unauthorized(tenant: &Tenant, message: &str, valid_from: Option<u64>) -> HttpResponse {
    // The client ID of Microsoft Graph, the same in every tenant.
    let graph = "00000003-0000-0000-c000-000000000000";
    let uri = format!("{}/oauth2/v2.0/authorize", tenant.authority);
    let mut header = format!(r#"Bearer realm="", authorization_uri="{uri}", client_id="{graph}""#);
    if let Some(time) = valid_from {
        let claims =
            json!({ "access_token": { "nbf": { "essential": true, "value": time.to_string() } } });
        let claims = BASE64_STANDARD.encode(claims.to_string());
        header.push_str(&format!(r#", error="insufficient_claims", claims="{claims}""#));
    }
    let mut response = refuse(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message);
    if let Ok(header) = header.parse() {
        response.headers_mut().insert(actix_web::http::header::WWW_AUTHENTICATE, header);
    }
    response
}

/// An error, in the JSON of Microsoft Graph.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    info!("demo tenant: Graph refused, {code}: {message}");
    let (date, id) =
        (timestamp(OffsetDateTime::now_utc()).replace(' ', "T").replace('Z', ""), guid());
    let inner = json!({ "date": date, "request-id": id, "client-request-id": id });
    let error = json!({ "error": { "code": code, "message": message, "innerError": inner } });
    let mut response = HttpResponse::build(status);
    response.insert_header(("request-id", id)).content_type(JSON).body(error.to_string())
}

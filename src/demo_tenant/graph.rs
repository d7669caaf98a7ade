//! Microsoft Graph, as far as the sample meets it: the profile of the
//! signed-in user.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use tracing::info;

use super::entra::is_user_read;
use super::{Tenant, guid, timestamp};

const JSON: &str = "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";

/// `GET /v1.0/me`, with an access token in the Authorization header (RFC
/// 6750 section 2.1).
pub(super) async fn me(request: HttpRequest, tenant: web::Data<Tenant>) -> HttpResponse {
    let token = request
        .headers()
        .get("Authorization")
        .and_then(|header| header.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
        .map_or("", |(_, token)| token.trim());
    let Some(grant) = tenant.access_tokens.find(token, |grant| grant.clone()) else {
        let text = "The access token is missing, unknown, or has expired.";
        return refuse(&tenant, StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", text);
    };
    if !grant.scope.split(' ').any(is_user_read) {
        let text = "The access token lacks the permission User.Read.";
        return refuse(&tenant, StatusCode::FORBIDDEN, "Authorization_RequestDenied", text);
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
    HttpResponse::Ok().insert_header(("request-id", guid())).content_type(JSON).body(profile.to_string())
}

/// An error in Graph's JSON, with the challenge of RFC 6750 section 3.
fn refuse(tenant: &Tenant, status: StatusCode, code: &str, message: &str) -> HttpResponse {
    info!("demo tenant: Graph refused, {code}: {message}");
    let (date, id) = (timestamp().replace(' ', "T").replace('Z', ""), guid());
    let inner = json!({ "date": date, "request-id": id, "client-request-id": id });
    let error = json!({ "error": { "code": code, "message": message, "innerError": inner } });
    // Microsoft Graph's own client ID, the same in every tenant.
    let graph = "00000003-0000-0000-c000-000000000000";
    let uri = format!("{}/oauth2/v2.0/authorize", tenant.authority);
    let challenge = format!(r#"Bearer realm="", authorization_uri="{uri}", client_id="{graph}""#);
    HttpResponse::build(status)
        .insert_header(("WWW-Authenticate", challenge))
        .insert_header(("request-id", id))
        .content_type(JSON)
        .body(error.to_string())
}

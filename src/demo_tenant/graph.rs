//! Microsoft Graph, as far as the sample meets it: the profile of the signed-in user.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use tracing::info;

use super::entra::is_user_read;
use super::{Tenant, guid, timestamp};

/// `GET /v1.0/me`, with an access token in the Authorization header (RFC 6750 section 2.1).
pub(super) async fn me(request: HttpRequest, tenant: web::Data<Tenant>) -> HttpResponse {
    let token = request
        .headers()
        .get("Authorization")
        .and_then(|header| header.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
        .map_or("", |(_, token)| token.trim());
    let Some(grant) = tenant.access_tokens.find(token, |grant| grant.clone()) else {
        info!("demo tenant: Graph refused, the access token is missing, unknown or expired");
        let text = if token.is_empty() {
            "The access token is missing."
        } else {
            "The access token was not issued here, or it has expired."
        };
        // RFC 6750 section 3. The client_id is Microsoft Graph's own, the same in every tenant.
        let challenge = format!(
            r#"Bearer realm="", authorization_uri="{}/oauth2/v2.0/authorize", client_id="00000003-0000-0000-c000-000000000000""#,
            tenant.authority
        );
        let mut response = refuse(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", text);
        if let Ok(challenge) = challenge.parse() {
            response.headers_mut().insert(actix_web::http::header::WWW_AUTHENTICATE, challenge);
        }
        return response;
    };
    let user = grant.user;
    if !grant.scope.iter().any(|scope| is_user_read(scope)) {
        info!("demo tenant: Graph refused, the access token of {} lacks User.Read", user.name());
        let text = "The access token lacks the permission User.Read.";
        return refuse(StatusCode::FORBIDDEN, "Authorization_RequestDenied", text);
    }
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
    answer(StatusCode::OK, &guid(), &profile)
}

/// An error in the JSON of Microsoft Graph.
fn refuse(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    let request_id = guid();
    let date = timestamp().replace(' ', "T");
    let error = json!({ "error": {
        "code": code,
        "message": message,
        "innerError": {
            "date": date.trim_end_matches('Z'),
            "request-id": request_id,
            "client-request-id": request_id,
        },
    } });
    answer(status, &request_id, &error)
}

fn answer(status: StatusCode, request_id: &str, body: &Value) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header(("request-id", request_id))
        .insert_header(("client-request-id", request_id))
        .content_type(
            "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8",
        )
        .body(body.to_string())
}

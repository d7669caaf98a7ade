//! Sees each request before the endpoints do: disturbs it, and gives it to the recorder.

use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpRequest, HttpResponse};
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::directory::{ADA, Code, Forgery};
use crate::events::{Message, Name, NewVisit};
use crate::faults::Fault;
use crate::graph;
use crate::page::jwt::id_token_claims;
use crate::tenant::Tenant;
use crate::wire::{
    ACTOR, Endpoint, Fields, Refusal, RefusedPage, SSO_COOKIE, SecondFactorPage, bearer_token,
    find, text_of,
};

/// Disturbs a request of the app, if the active fault says so.
pub async fn interfere(
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
                _ => Refusal::new(90033, text).into_response(),
            }));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Keeps each message to and from an endpoint. It sees what really goes over the wire.
pub async fn record(
    tenant: Data<Tenant>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(endpoint) = Endpoint::of(request.path()) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let body = request.extract::<Bytes>().await.unwrap_or_default();
    request.set_payload(Payload::from(body.clone()));
    let fault = tenant.faults.active();
    let mut message = request_message(endpoint, request.request(), &body);
    // The app gives up before the response is there, so say it at the request.
    let is_disturbed = matches!(endpoint, Endpoint::Token | Endpoint::Graph);
    message.fault = fault.filter(|fault| *fault == Fault::Slow && is_disturbed);
    let code = find(&message.fields, "code").map(str::to_owned);
    let is_refresh = find(&message.fields, "grant_type") == Some("refresh_token");
    let visit = new_visit(&tenant, request.request(), &message);
    let number = tenant.recorder.request(message, visit);

    let response = next.call(request).await?.map_into_boxed_body();
    let (request, response) = response.into_parts();
    let (response, body) = response.into_parts();
    let body = to_bytes(body).await.unwrap_or_default();
    let mut message = response_message(endpoint, is_refresh, &response, &body);
    // A fault that happens once has ended now. This one lasts, and changes the tokens of Ada.
    let is_of_ada = id_token_claims(&message).is_some_and(|claims| claims["oid"] == ADA.oid);
    let has_worked = |fault: &Fault| match fault {
        Fault::NoRole => is_of_ada,
        _ => !tenant.faults.is_active(*fault),
    };
    message.fault = fault.filter(has_worked);
    if let ("Token response", Some(code)) = (message.title, code) {
        let note = |code: &mut Code| code.grant.forgery.as_ref().map(Forgery::note);
        message.forgery = tenant.codes.find(&code, |_, code| note(code)).flatten();
    }
    tenant.recorder.response(number, message);
    Ok(ServiceResponse::new(request, response.set_body(BoxBody::new(body))))
}

/// How this request is listed if no visit to the app caused it.
fn new_visit(tenant: &Tenant, request: &HttpRequest, message: &Message) -> NewVisit {
    let query: Fields =
        form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect();
    let value = |fields, name| find(fields, name).map(str::to_owned);
    let mut names = Vec::new();
    names.extend(value(&query, "state").map(Name::State));
    names.extend(value(&message.fields, "code").map(Name::Code));
    names.extend(value(&message.fields, "refresh_token").map(Name::Token));
    let token = bearer_token(request);
    names.extend((!token.is_empty()).then(|| Name::Token(token.to_owned())));
    let actor = request.headers().get(ACTOR).and_then(|actor| actor.to_str().ok());
    NewVisit {
        actor: actor.map(str::to_owned),
        is_of_app: false,
        method: request.method().to_string(),
        path: request.path().to_owned(),
        address: format!("{}{}", tenant.origin, request.uri()),
        cookies: Vec::new(),
        names,
    }
}

fn request_message(endpoint: Endpoint, request: &HttpRequest, body: &[u8]) -> Message {
    // The form of the sign-in page repeats the query of the authorization request.
    let is_form = request.method() == Method::POST;
    let query = if is_form { "" } else { request.query_string() };
    let mut fields: Fields = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    fields.extend(form_urlencoded::parse(body).into_owned());
    if let Some(cookie) = request.cookie(SSO_COOKIE) {
        fields.push(("Cookie".to_owned(), format!("{SSO_COOKIE}={}", cookie.value())));
    }
    let token = bearer_token(request);
    if !token.is_empty() {
        fields.push(("Authorization".to_owned(), format!("Bearer {token}")));
    }
    let title = match endpoint {
        Endpoint::Metadata => "Metadata request",
        Endpoint::Keys => "Request for the signing keys",
        Endpoint::Authorize if is_form => "Choice of a user",
        Endpoint::Authorize => "Authorization request",
        Endpoint::Token if find(&fields, "grant_type") == Some("refresh_token") => {
            "Refresh request"
        }
        Endpoint::Token => "Token request",
        Endpoint::Logout => "Sign-out request",
        Endpoint::Graph => "Call to Microsoft Graph",
    };
    let first_line = format!("{} {}", request.method(), request.path());
    Message {
        endpoint,
        is_request: true,
        title,
        first_line,
        fields,
        refusal: None,
        fault: None,
        forgery: None,
    }
}

fn response_message(
    endpoint: Endpoint,
    is_refresh: bool,
    response: &HttpResponse<()>,
    body: &[u8],
) -> Message {
    let (status, fields) = (response.status(), response_fields(response.headers(), body));
    let is_ok = status == StatusCode::OK;
    let is_second_factor = response.extensions().contains::<SecondFactorPage>();
    let title = match endpoint {
        Endpoint::Metadata if is_ok => "OpenID metadata",
        Endpoint::Metadata => "Metadata error",
        Endpoint::Keys if is_ok => "Signing keys",
        Endpoint::Keys => "No signing keys",
        Endpoint::Authorize if is_second_factor => "Second factor",
        Endpoint::Authorize if is_ok => "Sign-in page",
        Endpoint::Authorize if find(&fields, "code").is_some() => "Redirect with the code",
        Endpoint::Authorize if status == StatusCode::SEE_OTHER => "Redirect with an error",
        Endpoint::Authorize => "Error page",
        Endpoint::Token if is_ok && is_refresh => "Refreshed tokens",
        Endpoint::Token if is_ok => "Token response",
        Endpoint::Token if is_refresh => "Refresh error",
        Endpoint::Token => "Token error",
        Endpoint::Graph if is_ok => "Response of Microsoft Graph",
        Endpoint::Graph
            if find(&fields, "WWW-Authenticate")
                .is_some_and(|header| header.contains("claims=")) =>
        {
            "Claims challenge"
        }
        Endpoint::Graph => "Error of Microsoft Graph",
        Endpoint::Logout if is_ok => "Page after the sign-out",
        Endpoint::Logout => "Redirect after the sign-out",
    };
    let of_page = response.extensions().get::<RefusedPage>().map(|RefusedPage(text)| text.clone());
    let of_graph = || {
        let error: Value = serde_json::from_str(find(&fields, "error")?).ok()?;
        Some(format!("{}: {}", error["code"].as_str()?, error["message"].as_str()?))
    };
    let description = find(&fields, "error_description").map(str::to_owned);
    let refusal = of_page.or(description).or_else(of_graph);
    let first_line = status.to_string();
    Message {
        endpoint,
        is_request: false,
        title,
        first_line,
        fields,
        refusal,
        fault: None,
        forgery: None,
    }
}

/// The query of a redirect, the members of a JSON object, and some headers.
fn response_fields(headers: &HeaderMap, body: &[u8]) -> Fields {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut fields = Fields::new();
    if let Some(mut url) = header(LOCATION).and_then(|location| Url::parse(location).ok()) {
        let query: Fields = url.query_pairs().into_owned().collect();
        url.set_query(None);
        fields.push(("Location".to_owned(), url.into()));
        fields.extend(query);
    }
    if let Ok(Value::Object(members)) = serde_json::from_slice(body) {
        fields.extend(members.iter().map(|(name, value)| (name.clone(), text_of(value))));
    }
    for (name, title) in [(WWW_AUTHENTICATE, "WWW-Authenticate"), (SET_COOKIE, "Set-Cookie")] {
        fields.extend(header(name).map(|value| (title.to_owned(), value.to_owned())));
    }
    fields
}

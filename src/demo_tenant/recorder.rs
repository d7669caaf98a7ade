//! The flight recorder: the last messages between the app, the browser and the demo tenant, and
//! what they mean. Their secrets are invented, so it shows them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::cookie::time::OffsetDateTime;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{COOKIE, HOST, HeaderMap, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpRequest, HttpResponse};
use base64::prelude::*;
use serde_json::{Value, json};
use tera::context;
use url::{Url, form_urlencoded};

use super::entra::SSO_COOKIE;
use super::explanations::{About, MESSAGES, PARAMETERS, STEPS};
use super::faults::{BUTTONS, Button, Fault};
use super::{CLIENT_ID, Tenant, graph, timestamp};

/// A request and its response are two messages.
const MOST_EXCHANGES: usize = 50;

/// The addresses that an app uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Metadata,
    Keys,
    Authorize,
    Token,
    Logout,
    Graph,
}

impl Endpoint {
    pub(super) fn of(path: &str) -> Option<Self> {
        let endpoints = [
            ("/v2.0/.well-known/openid-configuration", Self::Metadata),
            ("/discovery/v2.0/keys", Self::Keys),
            ("/oauth2/v2.0/authorize", Self::Authorize),
            ("/oauth2/v2.0/token", Self::Token),
            ("/oauth2/v2.0/logout", Self::Logout),
            ("/v1.0/me", Self::Graph),
        ];
        endpoints.into_iter().find(|(end, _)| path.ends_with(end)).map(|(_, endpoint)| endpoint)
    }
}

/// Names and values, in the order in which they were sent.
type Fields = Vec<(String, String)>;

fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The reason why a page was sent in place of a redirect.
pub(super) struct Refusal(pub String);

struct Message {
    /// The first value of a row of `MESSAGES`.
    title: &'static str,
    /// The method and the address, or the status.
    first_line: String,
    fields: Fields,
    refusal: Option<String>,
    fault: Option<Fault>,
}

const NO_RESPONSE: Message = Message {
    title: "No response",
    first_line: String::new(),
    fields: Fields::new(),
    refusal: None,
    fault: None,
};

struct Exchange {
    number: usize,
    /// The number of the first exchange of the sign-in.
    sign_in: usize,
    time: String,
    endpoint: Endpoint,
    request: Message,
    /// There is none before the demo tenant has answered.
    response: Option<Message>,
    /// Values by which later requests are known to belong to the same sign-in.
    names: Vec<String>,
}

/// How many exchanges there were, and the last ones.
#[derive(Default)]
pub(super) struct Recorder(Mutex<(usize, VecDeque<Exchange>)>);

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, (usize, VecDeque<Exchange>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        self.lock().1.clear();
    }

    /// Keeps a request and returns its number. `name` is the value that an earlier message of the
    /// same sign-in had too.
    fn keep(&self, endpoint: Endpoint, request: Message, name: Option<String>) -> usize {
        let (count, exchanges) = &mut *self.lock();
        *count += 1;
        let earlier = exchanges.iter().rev().find(|earlier| match (endpoint, &name) {
            // Nothing in this request names the sign-in, but the app sends it after the tokens.
            (Endpoint::Keys, _) => earlier.endpoint == Endpoint::Token,
            (_, Some(name)) => earlier.names.contains(name),
            (_, None) => false,
        });
        let sign_in = earlier.map_or(*count, |earlier| earlier.sign_in);
        let time = timestamp(OffsetDateTime::now_utc())[11..19].to_owned();
        let (number, names) = (*count, Vec::from_iter(name));
        if exchanges.len() == MOST_EXCHANGES {
            exchanges.pop_front();
        }
        exchanges.push_back(Exchange {
            number,
            sign_in,
            time,
            endpoint,
            request,
            response: None,
            names,
        });
        number
    }

    fn complete(&self, number: usize, response: Message) {
        let exchanges = &mut self.lock().1;
        if let Some(exchange) = exchanges.iter_mut().find(|exchange| exchange.number == number) {
            let names = ["code", "access_token", "refresh_token"];
            let values = names.iter().filter_map(|name| find(&response.fields, name));
            let cookie = find(&response.fields, "Set-Cookie").and_then(sso_cookie);
            exchange.names.extend(values.chain(cookie).map(str::to_owned));
            exchange.response = Some(response);
        }
    }
}

/// The value of the demo tenant's cookie. The header can have cookies of other ports too.
fn sso_cookie(header: &str) -> Option<&str> {
    header.split("; ").find_map(|cookie| cookie.strip_prefix(SSO_COOKIE)?.strip_prefix('='))
}

/// Keeps each message to and from an endpoint. It sees what really goes over the wire.
pub(super) async fn record(
    tenant: Data<Tenant>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(endpoint) = Endpoint::of(request.path()) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let body = request.extract::<Bytes>().await.unwrap_or_default();
    request.set_payload(Payload::from(body.clone()));
    let (message, name) = request_message(endpoint, request.request(), &body);
    let is_refresh = find(&message.fields, "grant_type") == Some("refresh_token");
    let number = tenant.recorder.keep(endpoint, message, name);

    let fault = tenant.faults.active();
    let response = next.call(request).await?.map_into_boxed_body();
    let (request, response) = response.into_parts();
    let (response, body) = response.into_parts();
    let body = to_bytes(body).await.unwrap_or_default();
    let mut message = response_message(endpoint, is_refresh, &response, &body);
    // A fault that happens once has ended now.
    message.fault = fault.filter(|fault| !tenant.faults.is_active(*fault));
    tenant.recorder.complete(number, message);
    Ok(ServiceResponse::new(request, response.set_body(BoxBody::new(body))))
}

fn request_message(
    endpoint: Endpoint,
    request: &HttpRequest,
    body: &[u8],
) -> (Message, Option<String>) {
    let query: Fields =
        form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect();
    let state = find(&query, "state").map(str::to_owned);
    // The form of the sign-in page repeats the query of the authorization request.
    let mut fields = if request.method() == Method::POST { Fields::new() } else { query };
    fields.extend(form_urlencoded::parse(body).into_owned());
    let cookies = request.headers().get(COOKIE).and_then(|header| header.to_str().ok());
    let cookie = cookies.and_then(sso_cookie).map(str::to_owned);
    if let Some(cookie) = &cookie {
        fields.push(("Cookie".to_owned(), format!("{SSO_COOKIE}={cookie}")));
    }
    let token = graph::bearer_token(request);
    if !token.is_empty() {
        fields.push(("Authorization".to_owned(), format!("Bearer {token}")));
    }
    let code_or_token = find(&fields, "code").or(find(&fields, "refresh_token"));
    let (title, name) = match endpoint {
        Endpoint::Metadata => ("Metadata request", None),
        Endpoint::Keys => ("Request for the signing keys", None),
        Endpoint::Authorize if request.method() == Method::POST => ("Choice of a user", state),
        Endpoint::Authorize => ("Authorization request", state),
        Endpoint::Token if find(&fields, "grant_type") == Some("refresh_token") => {
            ("Refresh request", code_or_token.map(str::to_owned))
        }
        Endpoint::Token => ("Token request", code_or_token.map(str::to_owned)),
        Endpoint::Logout => ("Sign-out request", cookie),
        Endpoint::Graph => ("Call to Microsoft Graph", Some(token.to_owned())),
    };
    let first_line = format!("{} {}", request.method(), request.path());
    (Message { title, first_line, fields, refusal: None, fault: None }, name)
}

fn response_message(
    endpoint: Endpoint,
    is_refresh: bool,
    response: &HttpResponse<()>,
    body: &[u8],
) -> Message {
    let (status, fields) = (response.status(), response_fields(response.headers(), body));
    let is_ok = status == StatusCode::OK;
    let title = match endpoint {
        Endpoint::Metadata if is_ok => "OpenID metadata",
        Endpoint::Metadata => "Metadata error",
        Endpoint::Keys if is_ok => "Signing keys",
        Endpoint::Keys => "No signing keys",
        Endpoint::Authorize if is_ok => "Sign-in page",
        Endpoint::Authorize if find(&fields, "code").is_some() => "Redirect with the code",
        Endpoint::Authorize if status == StatusCode::SEE_OTHER => "Redirect with an error",
        Endpoint::Authorize => "Error page",
        Endpoint::Token if is_ok && is_refresh => "Refreshed tokens",
        Endpoint::Token if is_ok => "Token response",
        Endpoint::Token if is_refresh => "Refresh error",
        Endpoint::Token => "Token error",
        Endpoint::Graph if is_ok => "Response of Microsoft Graph",
        Endpoint::Graph if challenge(&fields).1.is_some() => "Claims challenge",
        Endpoint::Graph => "Error of Microsoft Graph",
        Endpoint::Logout if is_ok => "Page after the sign-out",
        Endpoint::Logout => "Redirect after the sign-out",
    };
    let of_page = response.extensions().get::<Refusal>().map(|Refusal(text)| text.clone());
    let of_graph = || {
        let error: Value = serde_json::from_str(find(&fields, "error")?).ok()?;
        Some(format!("{}: {}", error["code"].as_str()?, error["message"].as_str()?))
    };
    let description = find(&fields, "error_description").map(str::to_owned);
    let refusal = of_page.or(description).or_else(of_graph);
    Message { title, first_line: status.to_string(), fields, refusal, fault: None }
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

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The parameters of WWW-Authenticate, and the claims challenge in it.
fn challenge(fields: &Fields) -> (Fields, Option<Value>) {
    let header = find(fields, "WWW-Authenticate").unwrap_or_default();
    let challenges = http_auth::parse_challenges(header).unwrap_or_default();
    let parameters = challenges.iter().flat_map(|challenge| &challenge.params);
    let parameters: Fields =
        parameters.map(|(name, value)| ((*name).to_owned(), value.to_unescaped())).collect();
    let claims = find(&parameters, "claims").and_then(|text| BASE64_STANDARD.decode(text).ok());
    (parameters, claims.and_then(|json| serde_json::from_slice(&json).ok()))
}

/// Opens a JWT: its header and its claims.
fn open_jwt(text: &str) -> Option<(Value, Value)> {
    let mut parts = text.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let header: Value = serde_json::from_slice(&parts.next()??).ok()?;
    let claims = serde_json::from_slice(&parts.next()??).ok()?;
    header["alg"].is_string().then_some((header, claims))
}

/// One parameter with its meaning. `place` is where it is, because some names have two meanings.
fn row(place: &str, name: &str, value: &str) -> Value {
    let names = [&format!("{place} {name}"), name, place];
    let known = names.iter().find_map(|name| PARAMETERS.iter().find(|known| known.0 == *name));
    let (_, meaning, specification) = known.unwrap_or(&("", "This sample does not use it.", ""));
    let link = match specification.strip_prefix("RFC ").and_then(|rfc| rfc.split_once(" section "))
    {
        Some((rfc, section)) => {
            format!("https://www.rfc-editor.org/rfc/rfc{rfc}#section-{section}")
        }
        None if specification.starts_with("OIDC Core ") => {
            "https://openid.net/specs/openid-connect-core-1_0.html".to_owned()
        }
        None => String::new(),
    };
    let time = ["exp", "iat", "nbf"].contains(&name).then(|| value.parse().ok()).flatten();
    let time = time.and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok());
    json!({ "name": name, "value": value, "time": time.map(timestamp),
            "meaning": meaning, "specification": specification, "link": link })
}

fn rows(place: &str, object: &Value) -> Vec<Value> {
    let members = object.as_object().into_iter().flatten();
    members.map(|(name, value)| row(place, name, &text_of(value))).collect()
}

/// What is inside a field: the parts of a JWT, the parameters of a header, or JSON.
fn tables_of_field(fields: &Fields, name: &str, value: &str) -> Vec<Value> {
    let as_json = |caption: String, value: &Value| {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        json!({ "caption": caption, "json": text })
    };
    if let Some((header, claims)) = open_jwt(value) {
        let key = header["kid"].as_str().or(header["x5t#S256"].as_str()).unwrap_or("unknown");
        let signature = format!("Signature: {} with key {key}", text_of(&header["alg"]));
        let caption = |part| format!("{part} of {name}");
        return vec![
            json!({ "caption": name, "parts": value.split('.').collect::<Vec<_>>() }),
            json!({ "caption": caption("Header"), "part": 1, "rows": rows(name, &header) }),
            json!({ "caption": caption("Claims"), "part": 2, "rows": rows(name, &claims),
                    "signature": signature }),
        ];
    }
    match (name, serde_json::from_str(value)) {
        ("keys", Ok(Value::Array(keys))) => {
            let table = |key| json!({ "caption": "A signing key", "rows": rows("keys", key) });
            keys.iter().map(table).collect()
        }
        (_, Ok(object @ Value::Object(_))) => vec![as_json(format!("{name}, as JSON"), &object)],
        ("WWW-Authenticate", _) => {
            let (parameters, claims) = challenge(fields);
            let parameters: Vec<_> =
                parameters.iter().map(|(part, value)| row(name, part, value)).collect();
            let claims =
                claims.map(|claims| as_json("claims, decoded from Base64".to_owned(), &claims));
            let table = json!({ "caption": "Parameters of WWW-Authenticate", "rows": parameters });
            [table].into_iter().chain(claims).collect()
        }
        _ => Vec::new(),
    }
}

/// The fields of a message, and what is inside them.
fn tables(Message { title, fields, .. }: &Message) -> Vec<Value> {
    let (mut main, mut others) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let inside = tables_of_field(fields, name, value);
        let is_long = value.len() > 150 && !inside.is_empty();
        main.push(row(title, name, if is_long { "see below" } else { value }));
        others.extend(inside);
    }
    [json!({ "caption": title, "rows": main })].into_iter().chain(others).collect()
}

fn message_view(message: &Message, is_request: bool) -> Value {
    let about = MESSAGES.iter().find(|about| about.0 == message.title).unwrap_or(&MESSAGES[0]);
    let About(title, route, step, file, marker, meaning) = about;
    let fault = BUTTONS.iter().find(|button| Some(button.fault) == message.fault);
    json!({
        "title": title, "route": route, "step": step, "step_name": STEPS[*step], "file": file,
        "marker": marker, "meaning": meaning, "is_request": is_request,
        "first_line": message.first_line, "fields": message.fields.len(), "tables": tables(message),
        "refusal": message.refusal, "fault": fault.map(|button| button.label),
    })
}

fn sign_in_view(exchanges: &[&Exchange]) -> Value {
    let requests = exchanges.iter().map(|exchange| &exchange.request);
    let responses = exchanges.iter().filter_map(|exchange| exchange.response.as_ref());
    let id_token = responses.clone().find_map(|message| find(&message.fields, "id_token"));
    let (_, user) = id_token.and_then(open_jwt).unwrap_or_default();
    let claims = requests.clone().find_map(|message| find(&message.fields, "claims"));
    let first = exchanges.first().map(|first| first.endpoint);
    let has_fault = responses.clone().any(|message| message.fault.is_some());
    let refusals = responses.filter(|message| message.refusal.is_some()).count();
    let title = match (first, user["name"].as_str()) {
        (_, Some(name)) => format!("Sign-in of {name}"),
        (Some(Endpoint::Authorize), None) if refusals > 0 => "Sign-in that failed".to_owned(),
        (Some(Endpoint::Authorize), None) => "Sign-in that is not complete".to_owned(),
        (Some(Endpoint::Metadata), None) => "An app starts".to_owned(),
        _ => "Messages without a sign-in".to_owned(),
    };
    let mut messages = Vec::new();
    for Exchange { request, response, .. } in exchanges {
        messages.push(message_view(request, true));
        messages.push(message_view(response.as_ref().unwrap_or(&NO_RESPONSE), false));
    }
    json!({
        "title": title, "messages": messages, "time": exchanges.first().map(|first| &first.time),
        "answers_challenge": claims.is_some_and(|claims| claims.contains("nbf")),
        "refusals": refusals, "has_fault": has_fault,
    })
}

/// `GET /`: the messages, the faults, and the form for a certificate.
pub(super) async fn page(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    // The forms work only under this name.
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if tenant.origin.strip_prefix("http://") != host {
        let address = format!("{}/", tenant.origin);
        return HttpResponse::Found().insert_header((LOCATION, address)).finish();
    }
    let mut sign_ins: Vec<_> = {
        let exchanges = &tenant.recorder.lock().1;
        let mut numbers: Vec<_> = exchanges.iter().map(|exchange| exchange.sign_in).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let of_sign_in = |number| exchanges.iter().filter(move |one| one.sign_in == number);
        numbers
            .into_iter()
            .map(|number| sign_in_view(&Vec::from_iter(of_sign_in(number))))
            .collect()
    };
    sign_ins.reverse();
    let active = tenant.faults.active();
    let view = |button: &Button| {
        let (name, is_active) = (format!("{:?}", button.fault), active == Some(button.fault));
        json!({ "name": name, "label": button.label, "steps": button.steps,
                "effect": button.effect, "is_active": is_active })
    };
    let context = context! {
        title => "The messages of the sign-in",
        app => &tenant.redirect_uris[1],
        sign_ins => &sign_ins,
        steps => &STEPS[1..],
        buttons => &BUTTONS.iter().map(view).collect::<Vec<_>>(),
        thumbprints => &Vec::from_iter(tenant.certificates().keys()),
        authority => &tenant.authority,
        client_id => CLIENT_ID,
        endpoint => &format!("{}/v1.0/me", tenant.origin),
    };
    tenant.page(StatusCode::OK, "recorder.html", &context)
}

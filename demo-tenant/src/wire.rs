//! What goes over the wire in every part: parameters, errors, and random values.

use std::collections::HashMap;

use actix_web::cookie::time::OffsetDateTime;
use actix_web::http::StatusCode;
use actix_web::http::header::{COOKIE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use serde_json::{Value, json};
use tracing::info;

/// The error codes, each with its AADSTS numbers. All other numbers are `invalid_request`.
const ERRORS: [(&str, &[u32]); 10] = [
    ("access_denied", &[65004]),
    ("invalid_client", &[50013, 500112, 700021, 700023, 700024, 700027, 7000215, 7000218]),
    ("invalid_grant", &[50173, 54005, 70000, 70008, 501481]),
    ("invalid_scope", &[70011]),
    ("invalid_tenant", &[90002]),
    ("login_required", &[50058]),
    ("temporarily_unavailable", &[90033]),
    ("unauthorized_client", &[700016]),
    ("unsupported_grant_type", &[70003]),
    ("unsupported_response_type", &[70005]),
];

/// Marks the page that asks for a second factor.
pub struct SecondFactorPage;

/// The reason why a page was sent in place of a redirect.
pub struct RefusedPage(pub String);

/// A refused request: an error of Microsoft Entra ID.
pub struct Refusal {
    number: u32,
    pub error: &'static str,
    /// A more specific reason, if there is one.
    pub suberror: Option<&'static str>,
    pub description: String,
    time: String,
    trace_id: String,
    correlation_id: String,
}

impl Refusal {
    pub fn new(number: u32, text: &str) -> Self {
        let error = ERRORS.iter().find(|(_, numbers)| numbers.contains(&number));
        let error = error.map_or("invalid_request", |(error, _)| error);
        info!("refused, {error}, AADSTS{number}: {text:?}");
        let (time, trace_id, correlation_id) =
            (timestamp(OffsetDateTime::now_utc()), guid(), guid());
        let description = format!(
            "AADSTS{number}: {text}\r\nTrace ID: {trace_id}\r\n\
             Correlation ID: {correlation_id}\r\nTimestamp: {time}"
        );
        Self { number, error, suberror: None, description, time, trace_id, correlation_id }
    }

    pub fn uri(&self) -> String {
        format!("https://login.microsoftonline.com/error?code={}", self.number)
    }

    pub fn into_response(self) -> HttpResponse {
        let status = match self.error {
            "invalid_client" => StatusCode::UNAUTHORIZED,
            "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut body = json!({
            "error": self.error,
            "error_description": self.description,
            "error_codes": [self.number],
            "timestamp": self.time,
            "trace_id": self.trace_id,
            "correlation_id": self.correlation_id,
            "error_uri": self.uri(),
        });
        if let Some(suberror) = self.suberror {
            body["suberror"] = suberror.into();
        }
        HttpResponse::build(status).insert_header(("x-ms-request-id", self.trace_id)).json(body)
    }
}

/// Refuses a request that does not meet a rule.
pub fn check(holds: bool, number: u32, text: &str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::new(number, text)) }
}

pub fn json_response(body: &Value) -> HttpResponse {
    HttpResponse::Ok().insert_header(("x-ms-request-id", guid())).json(body)
}

/// The parameters of a request. A parameter without a value counts as missing, and none may be
/// repeated (RFC 6749 section 3.1).
pub struct Parameters(HashMap<String, String>);

impl Parameters {
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Refusal> {
        let mut parameters = HashMap::new();
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            if let Some(_repeated) = parameters.insert(name.clone(), value) {
                return Err(Refusal::new(9000411, &format!("The parameter '{name}' is repeated.")));
            }
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, or "".
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The parameter `claims`, which must be a JSON object (OIDC Core 5.5).
    pub fn claims(&self) -> Result<Value, Refusal> {
        match self.get("claims") {
            "" => Ok(json!({})),
            text => match serde_json::from_str(text) {
                Ok(claims @ Value::Object(_)) => Ok(claims),
                _ => Err(Refusal::new(9002313, "claims is not a JSON object.")),
            },
        }
    }
}

/// The header with which a browser of the demo tenant says whom it plays.
pub const ACTOR: &str = "demo-tenant-actor";

/// Names and values, in the order in which they were sent.
pub type Fields = Vec<(String, String)>;

pub fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The cookies of a request.
pub fn cookies(headers: &HeaderMap) -> Fields {
    let headers = headers.get_all(COOKIE).filter_map(|header| header.to_str().ok());
    let pairs = headers.flat_map(|header| header.split(';'));
    let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The cookie of single sign-on.
pub const SSO_COOKIE: &str = "demo-tenant-sso";

/// The access token of a request (RFC 6750 section 2.1), or "".
pub fn bearer_token(request: &HttpRequest) -> &str {
    let header = request.headers().get("Authorization").and_then(|header| header.to_str().ok());
    let parts = header.and_then(|header| header.split_once(' '));
    let bearer = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
    bearer.map_or("", |(_, token)| token.trim())
}

/// The addresses that an app uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Metadata,
    Keys,
    Authorize,
    Token,
    Logout,
    Graph,
}

impl Endpoint {
    /// Whether browsers come here, and not the app.
    pub fn is_of_browser(self) -> bool {
        matches!(self, Self::Authorize | Self::Logout)
    }

    pub fn of(path: &str) -> Option<Self> {
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

/// Whether `name` is one of the space-separated names in `list`.
pub fn has(list: &str, name: &str) -> bool {
    list.split(' ').any(|other| other == name)
}

pub fn random<const BYTES: usize>() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>())
}

pub fn guid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// A time as Entra ID writes it, such as `2026-01-31 12:34:56Z`.
pub fn timestamp(time: OffsetDateTime) -> String {
    format!("{} {:02}:{:02}:{:02}Z", time.date(), time.hour(), time.minute(), time.second())
}

/// A JSON value as text, without the quotes of a string.
pub fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

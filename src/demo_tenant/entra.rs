//! Microsoft Entra ID: the OpenID metadata, the signing keys, and the endpoints authorize, token
//! and logout.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix_web::cookie::time::OffsetDateTime;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::header::LOCATION;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data};
use actix_web::{Error, HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tera::context;
use tracing::{error, info};
use url::{Url, form_urlencoded};

use super::recorder::Refusal;
use super::{
    CLIENT_ID, Fault, Grant, SigningKey, TENANT_ID, Tenant, USERS, User, guid, has, random,
    timestamp,
};

/// What the app can ask for: one permission of Microsoft Graph, in its short and full form.
const SCOPES: &str =
    "openid profile email offline_access User.Read https://graph.microsoft.com/User.Read";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const CODE_LIFETIME: Duration = Duration::from_secs(60);
pub(super) const SSO_COOKIE: &str = "demo-tenant-sso";

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

/// The single sign-on session of a browser.
#[derive(Clone)]
pub(super) struct Session {
    user: &'static User,
    /// The app gets this as `session_state`.
    sid: String,
}

/// An authorization code.
#[derive(Clone)]
pub(super) struct Code {
    grant: Grant,
    redirect_uri: String,
    code_challenge: String,
    is_redeemed: bool,
}

type Form = Result<web::Form<Vec<(String, String)>>, Error>;

/// The parameters of a request. A parameter without a value counts as missing, and none may be
/// repeated (RFC 6749 section 3.1).
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Value> {
        let mut parameters = HashMap::new();
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            let text = format!("The parameter '{name}' is repeated.");
            let is_repeated = parameters.insert(name, value).is_some();
            check([(is_repeated, 9000411, &text)])?;
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, or "".
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The parameter `claims`, which must be a JSON object (OIDC Core 5.5).
    fn claims(&self) -> Result<Value, Value> {
        match self.get("claims") {
            "" => Ok(json!({})),
            text => match serde_json::from_str(text) {
                Ok(claims @ Value::Object(_)) => Ok(claims),
                _ => Err(refuse(9002313, "claims is not a JSON object.")),
            },
        }
    }
}

/// Refuses with the first rule that is broken. A rule is (is broken, AADSTS number, sentence).
fn check<const N: usize>(rules: [(bool, u32, &str); N]) -> Result<(), Value> {
    let broken = rules.into_iter().find(|(is_broken, ..)| *is_broken);
    broken.map_or(Ok(()), |(_, number, text)| Err(refuse(number, text)))
}

/// An error, in the JSON of Microsoft Entra ID.
pub(super) fn refuse(number: u32, text: &str) -> Value {
    let error = ERRORS.iter().find(|(_, numbers)| numbers.contains(&number));
    let error = error.map_or("invalid_request", |(error, _)| error);
    info!("demo tenant: refused, {error}, AADSTS{number}: {text:?}");
    let (time, trace, correlation) = (timestamp(OffsetDateTime::now_utc()), guid(), guid());
    json!({
        "error": error,
        "error_description": format!("AADSTS{number}: {text}\r\nTrace ID: {trace}\r\n\
            Correlation ID: {correlation}\r\nTimestamp: {time}"),
        "error_codes": [number],
        "timestamp": time,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    })
}

pub(super) fn json_response(body: &Value) -> HttpResponse {
    let mut response = HttpResponse::build(match body["error"].as_str() {
        None => StatusCode::OK,
        Some("invalid_client") => StatusCode::UNAUTHORIZED,
        Some("temporarily_unavailable") => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) => StatusCode::BAD_REQUEST,
    });
    let request_id = body["trace_id"].as_str().map_or_else(guid, str::to_owned);
    response.insert_header(("x-ms-request-id", request_id)).json(body)
}

pub(super) async fn no_such_tenant(path: web::Path<(String, String)>) -> HttpResponse {
    let text = format!("Tenant '{}' not found. AUTHORITY ends with the tenant ID.", path.0);
    json_response(&refuse(90002, &text))
}

/// The OpenID metadata (OpenID Connect Discovery 1.0 section 3).
pub(super) async fn metadata(tenant: Data<Tenant>) -> HttpResponse {
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
pub(super) async fn keys(tenant: Data<Tenant>) -> HttpResponse {
    let SigningKey { kid, n, e, .. } = &tenant.key;
    let issuer = format!("{}/v2.0", tenant.authority);
    json_response(&json!({ "keys": [{
        "kty": "RSA", "use": "sig", "kid": kid, "x5t": kid, "n": n, "e": e, "issuer": issuer,
    }] }))
}

/// The authorization endpoint (RFC 6749 section 3.1). The app sends the browser here with GET.
/// The form of the sign-in page comes with POST to the same address, so that the parameters are
/// there again.
pub(super) async fn authorize(
    request: HttpRequest,
    tenant: Data<Tenant>,
    form: Form,
) -> HttpResponse {
    let query = form_urlencoded::parse(request.query_string().as_bytes()).into_owned();
    let checked = Parameters::new(query).and_then(|sent| Ok((check_client(&tenant, &sent)?, sent)));
    let (redirect_uri, sent) = match checked {
        Ok(checked) => checked,
        // The redirect URI could belong to anyone, so do not redirect (RFC 6749 section 4.1.2.1).
        Err(refusal) => return error_page(&tenant, StatusCode::BAD_REQUEST, &refusal),
    };
    if let Err(refusal) = check_request(&sent) {
        return redirect_with_error(redirect_uri, &sent, &refusal);
    }
    let cookie = request.cookie(SSO_COOKIE);
    let session_name = cookie.as_ref().map_or("", Cookie::value);
    if request.method() == Method::POST {
        // Other sites must not choose a user. Another port of localhost is `same-site`.
        if request.headers().get("Sec-Fetch-Site").is_some_and(|site| site != "same-origin") {
            let refusal = refuse(90014, "The form does not come from the sign-in page.");
            return error_page(&tenant, StatusCode::FORBIDDEN, &refusal);
        }
        return choose(&tenant, &sent, redirect_uri, form, session_name);
    }
    let hint = sent.get("login_hint");
    let session = tenant.sessions.find(session_name, |_, session| session.clone());
    let session = session.filter(|session| hint.is_empty() || session.user.is_hinted(hint));
    match (sent.get("prompt"), session) {
        ("" | "none", Some(session)) => redirect_with_code(&tenant, &sent, redirect_uri, session),
        ("none", None) => {
            let refusal = refuse(50058, "The user is not signed in in this browser.");
            redirect_with_error(redirect_uri, &sent, &refusal)
        }
        _ => {
            let mut users: Vec<_> = USERS.iter().collect();
            users.sort_by_key(|user| !user.is_hinted(hint));
            let users: Vec<_> = users
                .into_iter()
                .map(|user| {
                    let (name, roles) = (user.name(), tenant.roles(user));
                    json!({ "name": name, "username": user.username, "roles": roles,
                            "is_hinted": user.is_hinted(hint) })
                })
                .collect();
            let scopes: Vec<_> = sent.get("scope").split(' ').collect();
            let context = context! { title => "Choose a user", users, scopes };
            tenant.page(StatusCode::OK, "page.html", &context)
        }
    }
}

/// Returns the redirect URI if it belongs to this app.
fn check_client(tenant: &Tenant, sent: &Parameters) -> Result<Url, Value> {
    let (client_id, uri) = (sent.get("client_id"), sent.get("redirect_uri"));
    check([(uri.is_empty(), 900971, "redirect_uri is missing.")])?;
    check_client_id(client_id)?;
    registered(tenant, uri).ok_or_else(|| {
        let registered = &tenant.redirect_uris[0];
        refuse(50011, &format!("The redirect URI '{uri}' is not registered; '{registered}' is."))
    })
}

fn check_client_id(client_id: &str) -> Result<(), Value> {
    let text = format!("Application '{client_id}' was not found in this tenant.");
    check([
        (client_id.is_empty(), 900144, "client_id is missing."),
        (client_id != CLIENT_ID, 700016, &text),
    ])
}

/// A registered redirect URI. It is compared as text, but the port of localhost does not count.
fn registered(tenant: &Tenant, uri: &str) -> Option<Url> {
    let without_port = |uri: &str| match uri.strip_prefix("http://localhost:") {
        Some(rest) => {
            format!("http://localhost{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => uri.to_owned(),
    };
    let is_registered =
        tenant.redirect_uris.iter().any(|known| without_port(known) == without_port(uri));
    Url::parse(uri).ok().filter(|_| is_registered)
}

/// The other parameters of RFC 6749 section 4.1.1.
fn check_request(sent: &Parameters) -> Result<(), Value> {
    let (mode, prompt, scope) = (sent.get("response_mode"), sent.get("prompt"), sent.get("scope"));
    let (challenge, method) = (sent.get("code_challenge"), sent.get("code_challenge_method"));
    let hash = BASE64_URL_SAFE_NO_PAD.decode(challenge).unwrap_or_default();
    let prompts = ["", "none", "login", "select_account", "consent"];
    let unknown = scope.split(' ').find(|scope| !has(SCOPES, scope)).unwrap_or_default();
    let unknown_scope = format!("The scope '{unknown}' is not valid.");
    sent.claims()?;
    check([
        (sent.get("response_type") != "code", 70005, "response_type must be 'code'."),
        (!["", "query"].contains(&mode), 70007, "response_mode must be 'query'."),
        (!prompts.contains(&prompt), 90023, "The value of prompt is not known."),
        (challenge.is_empty(), 9002325, "Proof Key for Code Exchange is required."),
        (method != "S256", 9002313, "code_challenge_method must be 'S256'."),
        (hash.len() != 32, 501491, "code_challenge is not a SHA-256 hash in Base64url."),
        (scope.is_empty(), 900144, "scope is missing."),
        (!unknown.is_empty(), 70011, &unknown_scope),
    ])
}

/// Continues with the button that was pressed on the sign-in page.
fn choose(
    tenant: &Tenant,
    sent: &Parameters,
    redirect_uri: Url,
    form: Form,
    old_session: &str,
) -> HttpResponse {
    let form = form.map(web::Form::into_inner).unwrap_or_default();
    let choice = form.iter().find(|(name, _)| name == "choice").map_or("", |(_, choice)| choice);
    if choice == "decline" {
        let mut refusal = refuse(65004, "The user declined to consent to access the app.");
        refusal["error_subcode"] = "cancel".into();
        return redirect_with_error(redirect_uri, sent, &refusal);
    }
    let Some(user) = USERS.iter().find(|user| user.username == choice) else {
        let refusal = refuse(50034, "The user account does not exist in this tenant.");
        return error_page(tenant, StatusCode::BAD_REQUEST, &refusal);
    };
    info!("demo tenant: {} signed in", user.name());
    tenant.sessions.remove(old_session);
    let session = Session { user, sid: guid() };
    let session_name = tenant.sessions.issue(session.clone());
    let mut response = redirect_with_code(tenant, sent, redirect_uri, session);
    set_cookie(&mut response, &session_name);
    response
}

/// All ports of localhost share their cookies. The path keeps this one away from the app.
fn set_cookie(response: &mut HttpResponse, value: &str) {
    let cookie = Cookie::build(SSO_COOKIE, value).path(format!("/{TENANT_ID}/oauth2/v2.0"));
    let mut cookie = cookie.http_only(true).same_site(SameSite::Lax).finish();
    if value.is_empty() {
        cookie.make_removal();
    }
    if let Err(err) = response.add_cookie(&cookie) {
        error!("demo tenant: the cookie cannot be set: {err}");
    }
}

fn error_page(tenant: &Tenant, status: StatusCode, refusal: &Value) -> HttpResponse {
    let text = refusal["error_description"].as_str().unwrap_or_default();
    let mut response = tenant.message(status, "The sign-in cannot continue", text);
    response.extensions_mut().insert(Refusal(text.to_owned()));
    response
}

fn redirect_with_code(
    tenant: &Tenant,
    sent: &Parameters,
    redirect_uri: Url,
    session: Session,
) -> HttpResponse {
    let Session { user, sid } = session;
    let scope = sent.get("scope").to_owned();
    info!("demo tenant: code issued to {} for {scope}", user.name());
    let nonce = sent.0.get("nonce").cloned();
    let grant = Grant { user, scope, nonce, signed_in: Instant::now(), handles_challenges: false };
    let code = tenant.codes.issue(Code {
        grant,
        redirect_uri: sent.get("redirect_uri").to_owned(),
        code_challenge: sent.get("code_challenge").to_owned(),
        is_redeemed: false,
    });
    redirect(redirect_uri, sent, [("code", code.as_str()), ("session_state", sid.as_str())])
}

fn redirect_with_error(redirect_uri: Url, sent: &Parameters, refusal: &Value) -> HttpResponse {
    let names = ["error", "error_subcode", "error_description", "error_uri"];
    let fields = names.into_iter().filter_map(|name| Some((name, refusal[name].as_str()?)));
    redirect(redirect_uri, sent, fields)
}

/// Sends the browser back to the app, with the response in the query (RFC 6749 section 4.1.2).
/// After 303, the browser does not send the form of the sign-in page to the app.
fn redirect<'a>(
    mut uri: Url,
    sent: &Parameters,
    fields: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> HttpResponse {
    let state = sent.0.get("state").map(|state| ("state", state));
    uri.query_pairs_mut().extend_pairs(fields).extend_pairs(state);
    HttpResponse::SeeOther().insert_header((LOCATION, uri.as_str())).finish()
}

/// The token endpoint (RFC 6749 section 3.2).
pub(super) async fn token(tenant: Data<Tenant>, form: Form) -> HttpResponse {
    let response = Parameters::new(form.map(web::Form::into_inner).unwrap_or_default())
        .and_then(|sent| tokens(&tenant, &sent, redeem(&tenant, &sent)?));
    json_response(&response.unwrap_or_else(|refusal| refusal))
}

/// What the user granted to the app, for a code or a refresh token.
fn redeem(tenant: &Tenant, sent: &Parameters) -> Result<Grant, Value> {
    check([(sent.get("grant_type").is_empty(), 900144, "grant_type is missing.")])?;
    check_client_id(sent.get("client_id"))?;
    authenticate(tenant, sent)?;
    match sent.get("grant_type") {
        // RFC 6749 section 4.1.3. After the first use, a code does not work, even if this fails.
        "authorization_code" => {
            let redeem = |issued: Instant, code: &mut Code| {
                let before = code.clone();
                code.is_redeemed = true;
                (issued.elapsed(), before)
            };
            let (age, code) = tenant
                .codes
                .find(sent.get("code"), redeem)
                .ok_or_else(|| refuse(70000, "The authorization code is not valid."))?;
            let verifier = sent.get("code_verifier");
            // RFC 7636 sections 4.1 and 4.6.
            let is_verified = (43..=128).contains(&verifier.len())
                && BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == code.code_challenge;
            let is_same_uri = sent.get("redirect_uri") == code.redirect_uri;
            check([
                (code.is_redeemed, 54005, "The authorization code was already redeemed."),
                (age >= CODE_LIFETIME, 70008, "The authorization code has expired."),
                (!is_same_uri, 500112, "The code was issued for another redirect_uri."),
                (!is_verified, 501481, "code_verifier does not match the code_challenge."),
            ])?;
            Ok(code.grant)
        }
        // RFC 6749 section 6.
        "refresh_token" => {
            let grant = tenant
                .refresh_tokens
                .find(sent.get("refresh_token"), |_, grant| grant.clone())
                .ok_or_else(|| refuse(70000, "The refresh token is not valid."))?;
            if tenant.is_revoked(&grant) {
                let mut refusal = refuse(50173, "The grant was revoked. Sign in again.");
                refusal["suberror"] = "bad_token".into();
                return Err(refusal);
            }
            let refused_since = tenant.faults.since(Fault::NoRefresh);
            let is_refused = refused_since.is_some_and(|since| grant.signed_in < since);
            check([(is_refused, 70008, "The refresh token has expired due to inactivity.")])?;
            Ok(grant)
        }
        _ => Err(refuse(70003, "The grant_type is not supported.")),
    }
}

/// Checks that the request comes from the app: by its client secret (RFC 6749 section 2.3.1), or
/// by an assertion that it signed (RFC 7523 section 3).
fn authenticate(tenant: &Tenant, sent: &Parameters) -> Result<(), Value> {
    let (secret, assertion) = (sent.get("client_secret"), sent.get("client_assertion"));
    if assertion.is_empty() {
        return check([
            (secret.is_empty(), 7000218, "client_assertion or client_secret is missing."),
            (
                secret != tenant.client_secret,
                7000215,
                "Invalid client secret provided. Send the value of the secret, not its ID.",
            ),
        ]);
    }
    let is_jwt = sent.get("client_assertion_type") == ASSERTION_TYPE;
    check([(!is_jwt, 900144, "client_assertion_type is missing or wrong.")])?;
    let header = jsonwebtoken::decode_header(assertion)
        .map_err(|_| refuse(50013, "The client assertion is not a JWT."))?;
    let mut signature_only = Validation::new(Algorithm::PS256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let claims = tenant
        .certificates()
        .get(&header.x5t_s256.unwrap_or_default())
        .ok_or_else(|| refuse(700027, "The certificate of the assertion is not registered."))
        .and_then(|key| {
            jsonwebtoken::decode::<Value>(assertion, key, &signature_only)
                .map_err(|_| refuse(700027, "The signature of the assertion is not valid."))
        })?
        .claims;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let endpoint = format!("{}/oauth2/v2.0/token", tenant.authority);
    let is_app = claims["iss"] == CLIENT_ID && claims["sub"] == CLIENT_ID;
    let is_current = claims["exp"].as_i64().is_some_and(|exp| exp > now && exp <= now + 600)
        && claims["nbf"].as_i64().is_none_or(|nbf| nbf <= now);
    let jti = claims["jti"].as_str().unwrap_or_default();
    let is_used = tenant.assertions.find(jti, |_, ()| ()).is_some();
    check([
        (claims["aud"] != endpoint, 700023, "aud of the assertion is not the token endpoint."),
        (!is_app, 700021, "iss and sub of the assertion are not the client ID."),
        (!is_current, 700024, "The assertion is not within its time range of ten minutes."),
        (jti.is_empty() || is_used, 50013, "The jti of the assertion is missing or was used."),
    ])?;
    tenant.assertions.keep(jti, ());
    Ok(())
}

/// The response of the token endpoint (RFC 6749 section 5.1).
fn tokens(tenant: &Tenant, sent: &Parameters, granted: Grant) -> Result<Value, Value> {
    let mut grant = granted.clone();
    if !sent.get("scope").is_empty() {
        grant.scope = sent.get("scope").to_owned();
    }
    let is_more = grant.scope.split(' ').any(|scope| !has(&granted.scope, scope));
    check([(is_more, 70011, "The scope is more than what the user granted.")])?;
    let capabilities = &sent.claims()?["access_token"]["xms_cc"]["values"];
    grant.handles_challenges =
        capabilities.as_array().is_some_and(|values| values.contains(&json!("cp1")));
    let (form, name) = (sent.get("grant_type"), grant.user.name());
    info!("demo tenant: tokens issued to {name} for {} by {form}", grant.scope);

    // The permissions of the access token and, with openid, these three. Never offline_access.
    let mut scope: Vec<_> = grant.scope.split(' ').filter(|scope| is_user_read(scope)).collect();
    let has_openid = has(&grant.scope, "openid");
    if has_openid {
        scope.extend(["openid", "profile", "email"]);
    }
    let mut response = json!({
        "token_type": "Bearer",
        "scope": scope.join(" "),
        "expires_in": tenant.token_lifetime,
        "ext_expires_in": tenant.token_lifetime,
    });
    // Only long-lived tokens, which come with continuous access evaluation, are renewed early.
    if tenant.token_lifetime >= 7200 {
        response["refresh_in"] = (tenant.token_lifetime / 2).into();
    }
    response["access_token"] = tenant.access_tokens.issue(grant.clone()).into();
    if has(&grant.scope, "offline_access") {
        let grant = Grant { nonce: None, ..granted };
        response["refresh_token"] = tenant.refresh_tokens.issue(grant).into();
    }
    if has_openid {
        let is_sign_in = form == "authorization_code";
        response["id_token"] = id_token(tenant, &grant, is_sign_in)?.into();
    }
    Ok(response)
}

pub(super) fn is_user_read(scope: &str) -> bool {
    scope.ends_with("User.Read")
}

/// The ID token (OIDC Core section 2), signed with RS256. The faults change only the one of a
/// sign-in, because the app does not look at the others.
fn id_token(tenant: &Tenant, grant: &Grant, is_sign_in: bool) -> Result<String, Value> {
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
        // An optional claim. A real app registration must add it.
        claims["login_hint"] = user.login_hint().into();
    }
    if let Some(nonce) = &grant.nonce {
        claims["nonce"] = nonce.as_str().into();
    }
    // A user without a role has no such claim.
    let roles = tenant.roles(user);
    if !roles.is_empty() {
        claims["roles"] = roles.into();
    }
    let failed = |_| refuse(90033, "The ID token cannot be signed.");
    let mut other_key = None;
    if is_sign_in && tenant.faults.take(Fault::OtherAudience) {
        claims["aud"] = guid().into();
    } else if is_sign_in && tenant.faults.take(Fault::OtherNonce) {
        claims["nonce"] = random::<32>().into();
    } else if is_sign_in && tenant.faults.take(Fault::UnknownKey) {
        other_key = Some(SigningKey::generate().map_err(|_| failed(()))?);
    }
    let key = other_key.as_ref().unwrap_or(&tenant.key);
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(key.kid.clone());
    jsonwebtoken::encode(&header, &claims, &key.private).map_err(|_| failed(()))
}

/// The end session endpoint (OpenID Connect RP-Initiated Logout 1.0). It ends single sign-on in
/// this browser. The app ends its own session.
pub(super) async fn logout(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    if let Some(cookie) = request.cookie(SSO_COOKIE) {
        tenant.sessions.remove(cookie.value());
        info!("demo tenant: signed out");
    }
    let mut query = form_urlencoded::parse(request.query_string().as_bytes());
    let uri = query.find(|(name, _)| name == "post_logout_redirect_uri");
    let mut response = match uri.and_then(|(_, uri)| registered(&tenant, &uri)) {
        Some(uri) => HttpResponse::Found().insert_header((LOCATION, uri.as_str())).finish(),
        None => tenant.message(StatusCode::OK, "You signed out", "You can close this window."),
    };
    set_cookie(&mut response, "");
    response
}

//! Microsoft Entra ID, as far as the sample meets it: OpenID metadata,
//! signing keys, and the endpoints authorize, token and logout of v2.0.

use std::collections::HashMap;
use std::mem;

use actix_web::cookie::time::OffsetDateTime;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tera::context;
use tracing::{error, info};
use url::{Url, form_urlencoded};

use super::{CLIENT_ID, Grant, TENANT_ID, Tenant, USERS, User, guid, has, random, timestamp};

/// OpenID Connect's, and one delegated permission of Microsoft Graph, in
/// its short and its full form.
const SCOPES: &str = "openid profile email offline_access User.Read https://graph.microsoft.com/User.Read";
const NO_SUCH_CLIENT: &str = "No application of this tenant has this client_id. Look at CLIENT_ID and AUTHORITY.";
const PROMPTS: [&str; 5] = ["", "none", "login", "select_account", "consent"];
const SSO_COOKIE: &str = "demo-tenant-sso";

/// A single sign-on session.
#[derive(Clone)]
pub(super) struct Session {
    user: &'static User,
    /// What the app gets as `session_state`; the session's handle is for the
    /// cookie alone.
    sid: String,
}

/// What a code stands for. It is bound to client and redirect URI too, but
/// only one of each is registered.
#[derive(Clone)]
pub(super) struct Code {
    grant: Grant,
    code_challenge: String,
    redeemed: bool,
}

type Form = Result<web::Form<Vec<(String, String)>>, Error>;

/// None comes twice, and one without a value counts as not sent: both read
/// as "" (RFC 6749 section 3.1).
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Value> {
        let mut parameters = HashMap::new();
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            let twice = parameters.insert(name, value).is_some();
            check([(twice, 9000411, "A parameter is sent twice.")])?;
        }
        Ok(Self(parameters))
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// `claims` is a JSON object (OIDC Core section 5.5).
    fn claims_are_wrong(&self) -> bool {
        let claims = self.get("claims");
        !claims.is_empty() && !matches!(serde_json::from_str(claims), Ok(Value::Object(_)))
    }
}

/// Refuses with the first rule that is broken: (broken, AADSTS number,
/// text).
fn check<const N: usize>(rules: [(bool, u32, &str); N]) -> Result<(), Value> {
    let broken = rules.into_iter().find(|(broken, ..)| *broken);
    broken.map_or(Ok(()), |(_, number, text)| Err(refuse(number, text)))
}

/// An error in Entra's JSON: that of RFC 6749 section 5.2, and more.
fn refuse(number: u32, text: &str) -> Value {
    let error = match number {
        50058 => "login_required",
        54005 | 70000 | 501481 => "invalid_grant",
        65004 => "access_denied",
        70003 => "unsupported_grant_type",
        70005 => "unsupported_response_type",
        70011 => "invalid_scope",
        90002 => "invalid_tenant",
        90033 => "server_error",
        500112 | 7000215 | 7000218 => "invalid_client",
        700016 => "unauthorized_client",
        _ => "invalid_request",
    };
    info!("demo tenant: refused, {error}, AADSTS{number}: {text:?}");
    let (time, trace_id, correlation_id) = (timestamp(), guid(), guid());
    let ids = format!("Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {time}");
    json!({
        "error": error,
        "error_description": format!("AADSTS{number}: {text} {ids}"),
        "error_codes": [number],
        "timestamp": time,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    })
}

fn answer_json(body: &Value) -> HttpResponse {
    // The statuses of RFC 6749 section 5.2.
    let mut response = match body["error"].as_str() {
        None => HttpResponse::Ok(),
        Some("invalid_client") => HttpResponse::Unauthorized(),
        Some("server_error") => HttpResponse::InternalServerError(),
        Some(_) => HttpResponse::BadRequest(),
    };
    let request_id = body["trace_id"].as_str().map_or_else(guid, str::to_owned);
    response.insert_header(("x-ms-request-id", request_id)).json(body)
}

/// Whatever is asked of a tenant that is not this one.
pub(super) async fn no_such_tenant(path: web::Path<(String, String)>) -> HttpResponse {
    let text = format!("There is no tenant '{}'. AUTHORITY ends in the tenant's ID.", path.0);
    answer_json(&refuse(90002, &text))
}

/// OpenID Connect Discovery 1.0 section 4, with the members Entra has.
/// Those for device codes, user info, Kerberos and role-based access
/// control lead nowhere here.
pub(super) async fn metadata(tenant: web::Data<Tenant>) -> HttpResponse {
    let Tenant { authority, origin, .. } = &**tenant;
    let host = origin.trim_start_matches("http://");
    let body = json!({
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "response_modes_supported": ["query"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{authority}/v2.0"),
        "request_uri_parameter_supported": false,
        "userinfo_endpoint": format!("{origin}/oidc/userinfo"),
        "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{authority}/oauth2/v2.0/devicecode"),
        "http_logout_supported": true,
        "frontchannel_logout_supported": false,
        "end_session_endpoint": format!("{authority}/oauth2/v2.0/logout"),
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid", "ver"],
        "kerberos_endpoint": format!("{authority}/kerberos"),
        "tenant_region_scope": "NA",
        "cloud_instance_name": host,
        "cloud_graph_host_name": host,
        "msgraph_host": host,
        "rbac_url": origin,
    });
    answer_json(&body)
}

/// The public key of the id tokens (RFC 7517). As at Entra there is no
/// `alg`, but each key's issuer.
pub(super) async fn keys(tenant: web::Data<Tenant>) -> HttpResponse {
    let key = tenant.key.public_key();
    let body = json!({ "keys": [{
        "kty": "RSA",
        "use": "sig",
        "kid": tenant.kid,
        "x5t": tenant.kid,
        "n": BASE64_URL_SAFE_NO_PAD.encode(key.modulus().big_endian_without_leading_zero()),
        "e": BASE64_URL_SAFE_NO_PAD.encode(key.exponent().big_endian_without_leading_zero()),
        "issuer": format!("{}/v2.0", tenant.authority),
    }] });
    answer_json(&body)
}

/// The authorization endpoint (RFC 6749 section 3.1): GET for the app's
/// request, POST for the sign-in page's form, which goes to the URL of its
/// page, so that the request comes along, and is checked, again.
pub(super) async fn authorize(request: HttpRequest, tenant: web::Data<Tenant>, form: Form) -> HttpResponse {
    // RFC 6749 section 4.1.2.1: before client and redirect URI are known to be
    // right, nothing is sent to the app.
    let query = form_urlencoded::parse(request.query_string().as_bytes()).into_owned();
    let asked = match Parameters::new(query).and_then(|asked| check_client(&tenant, asked)) {
        Ok(asked) => asked,
        Err(refusal) => {
            let text = refusal["error_description"].as_str().unwrap_or_default();
            return tenant.message(StatusCode::BAD_REQUEST, "The sign-in cannot go on", text);
        }
    };
    if let Err(refusal) = check_request(&asked) {
        return answer_refusal(&tenant, &asked, &refusal);
    }
    let cookie = request.cookie(SSO_COOKIE);
    let handle = cookie.as_ref().map_or("", Cookie::value);
    if request.method() == Method::POST {
        // Against cross-site request forgery: the browser says where a form comes
        // from. That is `same-site` for another port of localhost, which SameSite
        // cookies do not tell apart.
        if request.headers().get("Sec-Fetch-Site").is_some_and(|site| site != "same-origin") {
            let text = "The form is not that of the demo tenant's sign-in page.";
            info!("demo tenant: refused, {text}");
            return tenant.message(StatusCode::FORBIDDEN, "The sign-in cannot go on", text);
        }
        return choose(&tenant, &asked, form, handle);
    }
    match (asked.get("prompt"), tenant.sessions.find(handle, |session| session.clone())) {
        // Single sign-on.
        ("" | "none", Some(session)) => answer_code(&tenant, &asked, session),
        ("none", None) => {
            let refusal = refuse(50058, "Nobody is signed in in this browser.");
            answer_refusal(&tenant, &asked, &refusal)
        }
        _ => {
            let users = USERS
                .each_ref()
                .map(|user| json!({ "name": user.name(), "username": user.username, "roles": user.roles }));
            let scopes: Vec<_> = asked.get("scope").split(' ').collect();
            tenant.page(StatusCode::OK, &context! { title => "Choose a user", users, scopes })
        }
    }
}

fn check_client(tenant: &Tenant, asked: Parameters) -> Result<Parameters, Value> {
    let (client_id, uri) = (asked.get("client_id"), asked.get("redirect_uri"));
    let not_registered = format!("redirect_uri '{uri}' is not registered. REDIRECT_URI must be the one that is.");
    check([
        (client_id.is_empty(), 900144, "client_id is missing."),
        (client_id != CLIENT_ID, 700016, NO_SUCH_CLIENT),
        (uri.is_empty(), 900971, "redirect_uri is missing."),
        // RFC 9700 section 4.1.3: compared as strings, to the last slash.
        (uri != tenant.redirect_uri, 50011, &not_registered),
    ])?;
    Ok(asked)
}

/// The rest of RFC 6749 section 4.1.1.
fn check_request(asked: &Parameters) -> Result<(), Value> {
    let (mode, prompt, scope) = (asked.get("response_mode"), asked.get("prompt"), asked.get("scope"));
    let (challenge, method) = (asked.get("code_challenge"), asked.get("code_challenge_method"));
    let hash = BASE64_URL_SAFE_NO_PAD.decode(challenge).unwrap_or_default();
    let unknown = scope.split(' ').find(|scope| !has(SCOPES, scope));
    let unknown_text = format!("scope has '{}', which this app cannot get.", unknown.unwrap_or_default());
    check([
        (asked.get("response_type") != "code", 70005, "response_type must be code."),
        (!["", "query"].contains(&mode), 70007, "response_mode must be query."),
        // OIDC Core section 3.1.2.1.
        (!PROMPTS.contains(&prompt), 90023, "prompt is not known."),
        // PKCE (RFC 7636 section 4.3). Entra insists on it with public clients
        // only, RFC 9700 section 2.1.1 with all.
        (challenge.is_empty(), 9002325, "code_challenge is missing."),
        (method != "S256", 9002313, "code_challenge_method must be S256."),
        (hash.len() != 32, 501491, "code_challenge is not a SHA-256 hash in base64url."),
        (asked.claims_are_wrong(), 9002313, "claims is not a JSON object."),
        (scope.is_empty(), 900144, "scope is missing."),
        (unknown.is_some(), 70011, &unknown_text),
    ])
}

/// What the user chose on the sign-in page, which may end another user's
/// session.
fn choose(tenant: &Tenant, asked: &Parameters, form: Form, old_session: &str) -> HttpResponse {
    let form = form.map(web::Form::into_inner).unwrap_or_default();
    let choice = form.iter().find(|(name, _)| name == "choice").map_or("", |(_, choice)| choice);
    if choice == "decline" {
        let mut refusal = refuse(65004, "The user declined to consent.");
        refusal["error_subcode"] = "cancel".into();
        return answer_refusal(tenant, asked, &refusal);
    }
    let Some(user) = USERS.iter().find(|user| user.username == choice) else {
        return tenant.message(StatusCode::BAD_REQUEST, "No such user", "Go back and choose one.");
    };
    info!("demo tenant: {} signed in", user.name());
    tenant.sessions.remove(old_session);
    let session = Session { user, sid: guid() };
    let handle = tenant.sessions.issue(session.clone());
    let mut response = answer_code(tenant, asked, session);
    set_cookie(&mut response, &handle);
    response
}

/// Cookies of localhost are shared by all its ports: name and path keep
/// this one away from the app.
fn set_cookie(response: &mut HttpResponse, handle: &str) {
    let cookie = Cookie::build(SSO_COOKIE, handle).path(format!("/{TENANT_ID}/oauth2/v2.0"));
    let mut cookie = cookie.http_only(true).same_site(SameSite::Lax).finish();
    if handle.is_empty() {
        cookie.make_removal();
    }
    if let Err(err) = response.add_cookie(&cookie) {
        error!("demo tenant: the cookie cannot be set: {err}");
    }
}

fn answer_code(tenant: &Tenant, asked: &Parameters, session: Session) -> HttpResponse {
    let Session { user, sid } = session;
    let scope = asked.get("scope").to_owned();
    info!("demo tenant: code issued to {} for {scope}", user.name());
    let code = tenant.codes.issue(Code {
        grant: Grant { user, scope, nonce: asked.0.get("nonce").cloned() },
        code_challenge: asked.get("code_challenge").to_owned(),
        redeemed: false,
    });
    let client_info = client_info(asked, user);
    let names = ["code", "session_state", "client_info"];
    answer(tenant, asked, names.into_iter().zip([code, sid].into_iter().chain(client_info)))
}

fn answer_refusal(tenant: &Tenant, asked: &Parameters, refusal: &Value) -> HttpResponse {
    let names = ["error", "error_subcode", "error_description", "error_uri"];
    let pair = |name| Some((name, refusal[name].as_str()?.to_owned()));
    answer(tenant, asked, names.into_iter().filter_map(pair))
}

/// Back to the app, with the answer in the query of its redirect URI (RFC
/// 6749 section 4.1.2). After a 303 no browser posts the sign-in page's
/// form once more, to the app (RFC 9700 section 4.12).
fn answer(tenant: &Tenant, asked: &Parameters, pairs: impl Iterator<Item = (&'static str, String)>) -> HttpResponse {
    let state = asked.0.get("state").map(|state| ("state", state));
    let mut url = tenant.redirect_url.clone();
    url.query_pairs_mut().extend_pairs(pairs).extend_pairs(state);
    HttpResponse::SeeOther().insert_header(("Location", url.as_str())).finish()
}

/// Which account in which tenant, if the app asks for it as MSAL does.
fn client_info(asked: &Parameters, user: &User) -> Option<String> {
    let info = json!({ "uid": user.oid, "utid": TENANT_ID }).to_string();
    (asked.get("client_info") == "1").then(|| BASE64_URL_SAFE_NO_PAD.encode(info))
}

/// The token endpoint (RFC 6749 section 3.2). What is no form counts as an
/// empty one.
pub(super) async fn token(tenant: web::Data<Tenant>, form: Form) -> HttpResponse {
    let tokens = Parameters::new(form.map(web::Form::into_inner).unwrap_or_default())
        .and_then(|asked| tokens(&tenant, &asked, redeem(&tenant, &asked)?));
    answer_json(&tokens.unwrap_or_else(|refusal| refusal))
}

/// What was granted with the code or the refresh token.
fn redeem(tenant: &Tenant, asked: &Parameters) -> Result<Grant, Value> {
    let (client_id, secret) = (asked.get("client_id"), asked.get("client_secret"));
    let same_secret = verify_slices_are_equal(secret.as_bytes(), tenant.client_secret.as_bytes());
    check([
        (asked.get("grant_type").is_empty(), 900144, "grant_type is missing."),
        // The client's credential, in the body (RFC 6749 section 2.3.1).
        (client_id.is_empty(), 900144, "client_id is missing."),
        (client_id != CLIENT_ID, 700016, NO_SUCH_CLIENT),
        (secret.is_empty(), 7000218, "client_secret is missing."),
        (same_secret.is_err(), 7000215, "client_secret is wrong: it must be the value, not the ID."),
        (asked.claims_are_wrong(), 9002313, "claims is not a JSON object."),
    ])?;
    match asked.get("grant_type") {
        // RFC 6749 section 4.1.3. Whatever comes of it, the code is used up.
        "authorization_code" => {
            let use_up = |code: &mut Code| (code.clone(), mem::replace(&mut code.redeemed, true));
            let (code, redeemed) = tenant
                .codes
                .find(asked.get("code"), use_up)
                .ok_or_else(|| refuse(70000, "code is unknown, or has expired."))?;
            let (uri, verifier) = (asked.get("redirect_uri"), asked.get("code_verifier"));
            // RFC 7636 sections 4.1 and 4.6.
            let verified = (43..=128).contains(&verifier.len())
                && BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == code.code_challenge;
            check([
                (redeemed, 54005, "The code was redeemed before."),
                (uri != tenant.redirect_uri, 500112, "The code was issued for another redirect_uri."),
                (!verified, 501481, "code_verifier does not match the code_challenge."),
            ])?;
            Ok(code.grant)
        }
        // RFC 6749 section 6. The old refresh token stays valid beside the new
        // one, as at Entra.
        "refresh_token" => tenant
            .refresh_tokens
            .find(asked.get("refresh_token"), |grant| grant.clone())
            .ok_or_else(|| refuse(70000, "refresh_token is unknown, or has expired.")),
        _ => Err(refuse(70003, "grant_type is not supported.")),
    }
}

/// The answer of the token endpoint (RFC 6749 section 5.1).
fn tokens(tenant: &Tenant, asked: &Parameters, granted: Grant) -> Result<Value, Value> {
    // RFC 6749 section 3.3: everything granted, or the part of it that is
    // asked for now.
    let mut grant = granted.clone();
    if !asked.get("scope").is_empty() {
        grant.scope = asked.get("scope").to_owned();
    }
    let beyond = grant.scope.split(' ').any(|scope| !has(&granted.scope, scope));
    check([(beyond, 70011, "scope is more than what was granted.")])?;
    let (by, name) = (asked.get("grant_type"), grant.user.name());
    info!("demo tenant: tokens issued to {name} for {} by {by}", grant.scope);

    // Entra names the permissions of the access token and, with openid, these
    // three; offline_access never.
    let mut scope: Vec<_> = grant.scope.split(' ').filter(|scope| is_user_read(scope)).collect();
    if has(&grant.scope, "openid") {
        scope.extend(["openid", "profile", "email"]);
    }
    let mut tokens = json!({
        "token_type": "Bearer",
        "scope": scope.join(" "),
        "expires_in": tenant.token_lifetime,
        "ext_expires_in": tenant.token_lifetime,
        "access_token": tenant.access_tokens.issue(grant.clone()),
    });
    if has(&grant.scope, "openid") {
        tokens["id_token"] = id_token(tenant, &grant)?.into();
    }
    if has(&grant.scope, "offline_access") {
        tokens["refresh_token"] = tenant.refresh_tokens.issue(Grant { nonce: None, ..granted }).into();
    }
    if let Some(client_info) = client_info(asked, grant.user) {
        tokens["client_info"] = client_info.into();
    }
    Ok(tokens)
}

pub(super) fn is_user_read(scope: &str) -> bool {
    scope.ends_with("User.Read")
}

/// OIDC Core section 2, with the claims Entra has; signed with RS256 (RFC
/// 7515 section 5.1).
fn id_token(tenant: &Tenant, grant: &Grant) -> Result<String, Value> {
    let user = grant.user;
    // Five minutes back, for clients whose clock is slow, and valid for an
    // hour from now.
    let iat = OffsetDateTime::now_utc().unix_timestamp() - 300;
    let mut claims = json!({
        "aud": CLIENT_ID,
        "iss": format!("{}/v2.0", tenant.authority),
        "iat": iat,
        "nbf": iat,
        "exp": iat + 3900,
        "rh": format!("1.{}.", random::<33>()),
        // Pairwise: to another app the same user is another subject (OIDC Core
        // section 8.1).
        "sub": BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest([CLIENT_ID, user.oid].concat())),
        "tid": TENANT_ID,
        "uti": random::<16>(),
        "ver": "2.0",
    });
    if has(&grant.scope, "profile") {
        claims["name"] = user.name().into();
        claims["oid"] = user.oid.into();
        claims["preferred_username"] = user.username.into();
    }
    if let Some(nonce) = &grant.nonce {
        claims["nonce"] = nonce.as_str().into();
    }
    // Without an app role there is no such claim, rather than an empty one.
    if !user.roles.is_empty() {
        claims["roles"] = user.roles.into();
    }
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": tenant.kid });
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let input = format!("{header}.{claims}");
    let mut signature = vec![0; tenant.key.public_modulus_len()];
    tenant
        .key
        .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
        .map_err(|_| refuse(90033, "The id token cannot be signed."))?;
    Ok(format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// The end of single sign-on (OpenID Connect RP-Initiated Logout 1.0). To
/// end its own session is the app's part.
pub(super) async fn logout(request: HttpRequest, tenant: web::Data<Tenant>) -> HttpResponse {
    if let Some(cookie) = request.cookie(SSO_COOKIE) {
        tenant.sessions.remove(cookie.value());
        info!("demo tenant: signed out");
    }
    // Back to the app if it asks for that, and to nobody else.
    let mut response = match form_urlencoded::parse(request.query_string().as_bytes())
        .find(|(name, _)| name == "post_logout_redirect_uri")
        .and_then(|(_, url)| Url::parse(&url).ok())
        .filter(|url| url.origin() == tenant.redirect_url.origin())
    {
        Some(url) => HttpResponse::Found().insert_header(("Location", url.as_str())).finish(),
        None => tenant.message(StatusCode::OK, "You signed out", "You can close this window."),
    };
    set_cookie(&mut response, "");
    response
}

//! The authorization endpoint (RFC 6749 section 3.1). The app sends the browser here with GET. The
//! form of the sign-in page comes with POST to the same address, so that the parameters are there
//! again.

use std::time::Instant;

use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Form};
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use serde::Deserialize;
use serde_json::json;
use tera::context;
use tracing::{error, info};
use url::{Url, form_urlencoded};

use super::client::check_client_id;
use crate::directory::{Code, Grant, Session, USERS, User};
use crate::tenant::{TENANT_ID, Tenant};
use crate::wire::{Parameters, Refusal, RefusedPage, SSO_COOKIE, SecondFactorPage, check, guid};

/// An authorization request that can be answered with a redirect.
struct Request {
    sent: Parameters,
    redirect_uri: Url,
}

#[derive(Deserialize)]
pub struct Choice {
    choice: String,
}

pub async fn request(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    let asked = match read(&request, &tenant) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let (hint, prompt) = (asked.sent.get("login_hint"), asked.sent.get("prompt"));
    let session = tenant.sessions.find(&session_name(&request), |_, session| session.clone());
    let session = session.filter(|session| hint.is_empty() || session.user.is_hinted(hint));
    match (prompt, session) {
        ("" | "none", Some(session)) if session.meets(&asked.sent) => {
            redirect_with_code(&tenant, asked, session)
        }
        ("none", Some(_)) => {
            let refusal = Refusal::new(50076, "The user must use a second factor.");
            redirect_with_error(asked, refusal)
        }
        ("", Some(session)) => second_factor_page(&tenant, &session),
        ("none", None) => {
            let refusal = Refusal::new(50058, "The user is not signed in in this browser.");
            redirect_with_error(asked, refusal)
        }
        _ => sign_in_page(&tenant, &asked.sent),
    }
}

/// Continues with the button that was pressed on the sign-in page.
pub async fn choice(
    request: HttpRequest,
    tenant: Data<Tenant>,
    form: Option<Form<Choice>>,
) -> HttpResponse {
    let asked = match read(&request, &tenant) {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    // Other sites must not choose a user. Another port of localhost is `same-site`.
    if request.headers().get("Sec-Fetch-Site").is_some_and(|site| site != "same-origin") {
        let refusal = Refusal::new(90014, "The form does not come from the sign-in page.");
        return error_page(&tenant, StatusCode::FORBIDDEN, &refusal);
    }
    let choice = form.map(|form| form.into_inner().choice).unwrap_or_default();
    if choice == "decline" {
        let mut refusal = Refusal::new(65004, "The user declined to consent to access the app.");
        refusal.suberror = Some("cancel");
        return redirect_with_error(asked, refusal);
    }
    let mut name = session_name(&request);
    let known = tenant.sessions.find(&name, |_, session| {
        session.has_second_factor |= choice == "second_factor";
        session.clone()
    });
    let session = match (known, User::find(&choice)) {
        (Some(session), None) if choice == "second_factor" => session,
        (_, Some(user)) => {
            info!("{} signed in", user.name());
            tenant.sessions.remove(&name);
            let session = Session { user, has_second_factor: false, sid: guid() };
            name = tenant.sessions.issue(session.clone());
            session
        }
        _ => {
            let refusal = Refusal::new(50034, "The user account does not exist in this tenant.");
            return error_page(&tenant, StatusCode::BAD_REQUEST, &refusal);
        }
    };
    let mut response = if session.meets(&asked.sent) {
        redirect_with_code(&tenant, asked, session)
    } else {
        second_factor_page(&tenant, &session)
    };
    set_cookie(&mut response, &name);
    response
}

/// Reads and checks an authorization request. The error is what the browser gets instead.
fn read(request: &HttpRequest, tenant: &Tenant) -> Result<Request, HttpResponse> {
    let query = form_urlencoded::parse(request.query_string().as_bytes()).into_owned();
    let asked = Parameters::new(query)
        .and_then(|sent| Ok(Request { redirect_uri: check_client(tenant, &sent)?, sent }))
        // The redirect URI could belong to anyone, so do not redirect (RFC 6749 section 4.1.2.1).
        .map_err(|refusal| error_page(tenant, StatusCode::BAD_REQUEST, &refusal))?;
    match check_request(tenant, &asked.sent) {
        Ok(()) => Ok(asked),
        Err(refusal) => Err(redirect_with_error(asked, refusal)),
    }
}

/// Returns the redirect URI if it belongs to this app.
fn check_client(tenant: &Tenant, sent: &Parameters) -> Result<Url, Refusal> {
    let (client_id, uri) = (sent.get("client_id"), sent.get("redirect_uri"));
    check(!uri.is_empty(), 900971, "redirect_uri is missing.")?;
    check_client_id(client_id)?;
    tenant.registration.redirect_uri(uri).ok_or_else(|| {
        let registered = &tenant.registration.redirect_uris()[0];
        let text = format!("The redirect URI '{uri}' is not registered; '{registered}' is.");
        Refusal::new(50011, &text)
    })
}

/// The other parameters of RFC 6749 section 4.1.1.
fn check_request(tenant: &Tenant, sent: &Parameters) -> Result<(), Refusal> {
    let (mode, prompt, scope) = (sent.get("response_mode"), sent.get("prompt"), sent.get("scope"));
    let (challenge, method) = (sent.get("code_challenge"), sent.get("code_challenge_method"));
    let hash = BASE64_URL_SAFE_NO_PAD.decode(challenge).unwrap_or_default();
    let prompts = ["", "none", "login", "select_account", "consent"];
    sent.claims()?;
    check(sent.get("response_type") == "code", 70005, "response_type must be 'code'.")?;
    check(["", "query"].contains(&mode), 70007, "response_mode must be 'query'.")?;
    check(prompts.contains(&prompt), 90023, "The value of prompt is not known.")?;
    check(!challenge.is_empty(), 9002325, "Proof Key for Code Exchange is required.")?;
    check(method == "S256", 9002313, "code_challenge_method must be 'S256'.")?;
    check(hash.len() == 32, 501491, "code_challenge is not a SHA-256 hash in Base64url.")?;
    check(!scope.is_empty(), 900144, "scope is missing.")?;
    for scope in scope.split(' ') {
        let text = format!("The scope '{scope}' is not valid.");
        check(tenant.registration.has_scope(scope), 70011, &text)?;
    }
    Ok(())
}

fn sign_in_page(tenant: &Tenant, sent: &Parameters) -> HttpResponse {
    let hint = sent.get("login_hint");
    let mut users = USERS;
    users.sort_by_key(|user| !user.is_hinted(hint));
    let users = users.map(|user| {
        json!({ "name": user.name(), "username": user.username, "roles": tenant.roles(user),
                "is_hinted": user.is_hinted(hint) })
    });
    let scopes: Vec<_> = sent.get("scope").split(' ').collect();
    let context = context! {
        title => "Choose a user",
        app => &tenant.registration.display_name,
        users => users.as_slice(),
        scopes,
    };
    tenant.page(StatusCode::OK, "page.html", &context)
}

/// The authentication context that the app requests for the ID token with the claim `acrs`, for
/// example c1. In a real tenant, a policy says what it requires. Here, it is a second factor.
fn requested_acrs(sent: &Parameters) -> Option<String> {
    let claims = sent.claims().ok()?;
    let acrs = &claims["id_token"]["acrs"];
    acrs["value"].as_str().or(acrs["values"][0].as_str()).map(str::to_owned)
}

impl Session {
    /// Whether the user does not need a second factor any more.
    fn meets(&self, sent: &Parameters) -> bool {
        self.has_second_factor || requested_acrs(sent).is_none()
    }
}

fn second_factor_page(tenant: &Tenant, session: &Session) -> HttpResponse {
    let context = context! {
        title => "Second factor",
        app => &tenant.registration.display_name,
        name => &session.user.name(),
    };
    let mut response = tenant.page(StatusCode::OK, "page.html", &context);
    response.extensions_mut().insert(SecondFactorPage);
    response
}

fn session_name(request: &HttpRequest) -> String {
    request.cookie(SSO_COOKIE).map(|cookie| cookie.value().to_owned()).unwrap_or_default()
}

/// All ports of localhost share their cookies. The path keeps this one away from the app.
pub fn set_cookie(response: &mut HttpResponse, value: &str) {
    let cookie = Cookie::build(SSO_COOKIE, value).path(format!("/{TENANT_ID}/oauth2/v2.0"));
    let mut cookie = cookie.http_only(true).same_site(SameSite::Lax).finish();
    if value.is_empty() {
        cookie.make_removal();
    }
    if let Err(err) = response.add_cookie(&cookie) {
        error!("the cookie cannot be set: {err}");
    }
}

fn error_page(tenant: &Tenant, status: StatusCode, refusal: &Refusal) -> HttpResponse {
    let text = &refusal.description;
    let mut response = tenant.message(status, "The sign-in cannot continue", text);
    response.extensions_mut().insert(RefusedPage(text.clone()));
    response
}

fn redirect_with_code(tenant: &Tenant, asked: Request, session: Session) -> HttpResponse {
    let sent = &asked.sent;
    let Session { user, sid, .. } = session;
    let scope = sent.get("scope").to_owned();
    info!("code issued to {} for {scope}", user.name());
    let grant = Grant {
        user,
        scope,
        nonce: sent.get("nonce").to_owned(),
        signed_in: Instant::now(),
        handles_challenges: false,
        acrs: requested_acrs(sent),
        forgery: None,
    };
    let code = tenant.codes.issue(Code {
        grant,
        redirect_uri: sent.get("redirect_uri").to_owned(),
        code_challenge: sent.get("code_challenge").to_owned(),
        is_redeemed: false,
        id_token: String::new(),
    });
    redirect(asked, &[("code", &code), ("session_state", &sid)])
}

fn redirect_with_error(asked: Request, refusal: Refusal) -> HttpResponse {
    let uri = refusal.uri();
    let mut fields = vec![("error", refusal.error)];
    fields.extend(refusal.suberror.map(|suberror| ("error_subcode", suberror)));
    fields.extend([("error_description", refusal.description.as_str()), ("error_uri", &uri)]);
    redirect(asked, &fields)
}

/// Sends the browser back to the app, with the response in the query (RFC 6749 section 4.1.2).
/// After 303, the browser does not send the form of the sign-in page to the app.
fn redirect(asked: Request, fields: &[(&str, &str)]) -> HttpResponse {
    let Request { mut redirect_uri, sent } = asked;
    redirect_uri.query_pairs_mut().extend_pairs(fields);
    if !sent.get("state").is_empty() {
        redirect_uri.query_pairs_mut().append_pair("state", sent.get("state"));
    }
    HttpResponse::SeeOther().insert_header((LOCATION, redirect_uri.as_str())).finish()
}

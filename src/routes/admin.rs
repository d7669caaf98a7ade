//! `GET /admin`: shows the claims of the ID token to users with the app role `admin`.

// <ms_docref_import_admin>
use actix_session::Session;
use actix_web::cookie::time::{Duration, OffsetDateTime};
use actix_web::cookie::{Cookie, CookieJar, SameSite};
use actix_web::error::{Error, ErrorForbidden, ErrorInternalServerError};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tera::{Context, Tera};
use tracing::{info, warn};

use crate::protocol::{AuthCodeFlow, OpenIdMetadata, RequestedClaims, User};
use crate::settings::Settings;
// </ms_docref_import_admin>

/// Shows the claims of the signed-in user's ID token.
///
/// - Step 1, session lookup: find the signed-in user.
/// - Step 4, role inspection: only users with the app role `admin` see the page.
/// - Step 5, redirect to authorize: if step 1 or 4 needs a sign-in, start one.
///
/// This page calls no API, so it has no steps 2 and 3. mod.rs lists all steps.
///
/// # Errors
/// 403 if the user does not have the app role `admin`, 500 if the template fails.
pub async fn admin(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    templates: Data<Tera>,
) -> Result<HttpResponse, Error> {
    let now = OffsetDateTime::now_utc().unix_timestamp(); // Unix time, in seconds
    // Step 5 needs this variable. It is always `None` here, because this page calls no
    // API.
    let claims_challenge: Option<RequestedClaims> = None;

    // <ms_docref_require_authentication>
    // Step 1: session lookup. The browser has only a session ID in a cookie. The session
    // is on the server. It has the value `user` if step 9 signed a user in. A value that
    // cannot be read is treated as missing.
    let user: Option<User> = session.get("user").ok().flatten();

    // This block returns the page or an error. If a sign-in is needed, `break 'sign_in`
    // ends the block with the reason, and step 5 follows.
    let reason = 'sign_in: {
        let Some(user) = &user else {
            break 'sign_in "nobody is signed in";
        };
        info!("step 1: a user is signed in");
        // </ms_docref_require_authentication>

        // <ms_docref_require_admin_role_authNZ>
        // Step 4: role inspection. The ID token contains the roles that the user had at
        // the sign-in. When it expires, a new sign-in gets the current roles, usually
        // without a prompt. Allow 120 seconds for clocks that differ.
        let claims = &user.id_token_claims;
        if claims["exp"].as_i64().unwrap_or(0) <= now - 120 {
            break 'sign_in "the ID token has expired";
        }
        // Compare whole elements of the array: "administrator" is another role.
        let oid = &claims["oid"];
        let roles = claims["roles"].as_array().cloned().unwrap_or_default();
        if !roles.contains(&json!("admin")) {
            let roles = json!(roles);
            warn!("step 4: refused, oid {oid} does not have the app role admin, roles: {roles}");
            return Err(ErrorForbidden(format!(
                "You do not have the app role that this page requires. Required role: \"admin\". \
                 Roles in your ID token: {roles}. An administrator can assign the role in the \
                 Microsoft Entra admin center: Enterprise apps > (this app) > Users and groups. \
                 Then sign out and sign in again."
            )));
        }
        info!("step 4: oid {oid} has the app role admin");
        // </ms_docref_require_admin_role_authNZ>

        // <ms_docref_display_admin_view_content>
        let user_name = claims["name"].as_str().or(claims["preferred_username"].as_str());
        let mut context = Context::new();
        context.insert("user_name", user_name.unwrap_or("unknown user"));
        context.insert("id_token_claims", &serde_json::to_string_pretty(claims)?);
        let page = templates.render("authenticated/admin.html", &context);
        let page = page.map_err(ErrorInternalServerError)?;
        return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
        // </ms_docref_display_admin_view_content>
    };

    // <ms_docref_build_auth_code_flow>
    // Step 5: redirect to authorize. Start the authorization code flow (RFC 6749 section
    // 4.1.1). Three random values protect the sign-in:
    // - `state`: step 6 checks that the sign-in started in this browser.
    // - `nonce`: step 8 checks that the ID token is for this sign-in.
    // - `code_verifier`: step 7 sends it, and Microsoft Entra ID compares it with the
    //   hash in this request (PKCE, RFC 7636). A stolen code does not work in another
    //   sign-in.
    info!("step 5: {reason}, redirecting to the authorization endpoint");
    let random = || BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let nonce = random();
    let code_verifier = random();
    let code_challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&code_verifier));
    // `state` begins with the time, so that the end of step 5 can find the oldest
    // cookies.
    let state = format!("{now}-{}", random());

    // <ms_docref_requested_claims>
    // Request the claims of the claims challenge, if there is one. The value cp1 in
    // `xms_cc` declares that this app can answer claims challenges. Because an API can
    // then refuse an access token early, Microsoft Entra ID may issue tokens that are
    // valid for up to 28 hours.
    let answers_challenge = claims_challenge.is_some();
    let mut requested_claims = claims_challenge.unwrap_or_default();
    let for_access_token = requested_claims.entry("access_token".to_owned()).or_default();
    for_access_token.insert("xms_cc".to_owned(), json!({ "values": ["cp1"] }));
    // </ms_docref_requested_claims>

    // <ms_docref_authorization_url>
    let mut url = metadata.authorization_endpoint.clone();
    url.query_pairs_mut()
        .append_pair("client_id", &settings.client_id)
        .append_pair("response_type", "code")
        .append_pair("redirect_uri", &settings.redirect_uri)
        // `openid` requests an ID token, `profile` the user's name in the ID token, and
        // `offline_access` a refresh token.
        .append_pair("scope", &format!("openid profile offline_access {}", settings.scope))
        .append_pair("claims", &serde_json::to_string(&requested_claims)?)
        .append_pair("state", &state)
        .append_pair("nonce", &nonce)
        .append_pair("code_challenge", &code_challenge)
        .append_pair("code_challenge_method", "S256");
    // Name the account of a signed-in user. Without it, a user with several accounts has
    // to choose one again.
    let claims = user.map(|user| user.id_token_claims).unwrap_or_default();
    let login_hint = claims["login_hint"].as_str().or(claims["preferred_username"].as_str());
    if let Some(login_hint) = login_hint {
        url.query_pairs_mut().append_pair("login_hint", login_hint);
    }
    // </ms_docref_authorization_url>

    // <ms_docref_keep_auth_code_flow>
    // Store what steps 6 to 9 need in an encrypted cookie. `state` is a part of its
    // name. In the session, as in the Flask sample, two tabs would overwrite each other's
    // values, and each visitor who does not sign in would leave a session on the server.
    let page_url = req.uri().path_and_query().map_or("/", |url| url.as_str());
    // Browsers refuse cookies over 4 KB. Of a long address, keep only the path.
    let page_url = if page_url.len() > 1000 { req.path() } else { page_url };
    let flow = AuthCodeFlow {
        nonce,
        code_verifier,
        requested_claims,
        answers_challenge,
        post_sign_in_url: page_url.to_owned(),
        expires_on: now + 900,
    };
    let prefix = format!("{}-flow-", settings.cookie_prefix());
    let flow_cookie_name = format!("{prefix}{state}");
    let flow_cookie = Cookie::build(flow_cookie_name.clone(), serde_json::to_string(&flow)?)
        .path("/")
        .http_only(true)
        // The redirect to step 6 comes from another site. Strict would not send it.
        .same_site(SameSite::Lax)
        .secure(settings.is_https())
        .max_age(Duration::seconds(900))
        .finish();
    let mut cookies = CookieJar::new();
    cookies.private_mut(&settings.cookie_key).add(flow_cookie);
    let mut response = HttpResponse::Found();
    response.insert_header((LOCATION, url.as_str()));
    if let Some(encrypted) = cookies.get(&flow_cookie_name) {
        response.cookie(encrypted.clone());
    }

    // Each sign-in that is open or was given up has a cookie. Keep the four newest, and
    // the new one. To remove a cookie, send it with the same path and `secure`.
    let mut pending = req.cookies_raw().map(|cookies| cookies.clone()).unwrap_or_default();
    pending.retain(|cookie| cookie.name().starts_with(&prefix));
    pending.sort_by_key(|cookie| cookie.name().to_owned());
    for mut cookie in pending.into_iter().rev().skip(4) {
        cookie.set_path("/");
        cookie.set_secure(settings.is_https());
        cookie.make_removal();
        response.cookie(cookie);
    }
    // </ms_docref_keep_auth_code_flow>
    Ok(response.finish())
    // </ms_docref_build_auth_code_flow>
}

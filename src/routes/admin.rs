//! `GET /admin`: shows the claims of the ID token to users with the app role `admin`.
//!
//! Specifications: RFC 6749 (OAuth 2.0) section 4.1.1, RFC 7636 (PKCE), OpenID Connect Core
//! 1.0 sections 2 and 3.1.2.1.

// <ms_docref_import_admin>
use actix_session::Session;
use actix_web::cookie::time::{Duration, OffsetDateTime};
use actix_web::cookie::{Cookie, SameSite};
use actix_web::error::{Error, ErrorForbidden, ErrorInternalServerError};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use sha2::{Digest as _, Sha256};
use tera::{Tera, context};
use tracing::info;

use crate::protocol::{AuthCodeFlow, OpenIdMetadata, RequestedClaims, User};
use crate::settings::Settings;
// </ms_docref_import_admin>

/// Shows the claims of the signed-in user's ID token.
///
/// - Step 1, session lookup: find the signed-in user.
/// - Step 4, role inspection: only users with the app role `admin` see the page.
/// - Step 5, redirect to authorize: if step 1 or 4 needs a sign-in, start one.
///
/// This page calls no API, so it has no steps 2 and 3. mod.rs explains all steps and words.
///
/// # Errors
/// 403 if the user does not have the app role `admin`, 500 if this app fails.
pub async fn admin(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    templates: Data<Tera>,
) -> Result<HttpResponse, Error> {
    let now = OffsetDateTime::now_utc().unix_timestamp(); // Unix time, in seconds

    // <ms_docref_require_authentication>
    // Step 1: session lookup. The browser has only a session ID in a cookie. The session is
    // on the server. It has the value `user` if step 9 signed a user in. A value that
    // cannot be read is treated as missing.
    let user: Option<User> = session.get("user").unwrap_or_default();
    info!("step 1: session lookup, a user is signed in: {}", user.is_some());

    // This is a labeled block. A `break` gives it its value: the reason why the user must
    // sign in. Step 5 follows. All other ways out of the block return from the handler.
    let reason: &str = 'needs_sign_in: {
        let Some(user) = &user else {
            break 'needs_sign_in "nobody is signed in";
        };
        // </ms_docref_require_authentication>

        // <ms_docref_require_admin_role_authNZ>
        // Step 4: role inspection. The ID token contains the roles that the user had at the
        // sign-in. When it expires, after about an hour, start a new sign-in, so that the
        // roles are current. The user is still signed in at Microsoft, so this usually
        // needs no prompt. Step 8 accepts a token up to 120 s after its expiry. Here it is
        // 180 s. With less, a token that step 8 has just accepted could be refused here, in
        // a loop.
        let claims = &user.id_token_claims;
        if claims.exp <= now - 180 {
            break 'needs_sign_in "the ID token has expired";
        }
        let required_role = "admin";
        let has_role = claims.roles.iter().any(|role| role == required_role);
        let oid = claims.oid.as_deref().unwrap_or("unknown");
        info!("step 4: role inspection, oid {oid:?} has the role {required_role:?}: {has_role}");
        if !has_role {
            return Err(ErrorForbidden(format!(
                "{}, this page requires the app role {required_role:?}. Your ID token has the \
                 roles {:?}. An administrator can assign the role in the Microsoft Entra admin \
                 center: Enterprise apps > (this app) > Users and groups. Then sign out and sign \
                 in again.",
                user.name, claims.roles
            )));
        }
        // </ms_docref_require_admin_role_authNZ>

        // <ms_docref_display_admin_view_content>
        let context = context! {
            user_name => &user.name,
            id_token_claims => &serde_json::to_string_pretty(claims)?,
        };
        let page = templates
            .render("authenticated/admin.html", &context)
            .map_err(ErrorInternalServerError)?;
        return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
        // </ms_docref_display_admin_view_content>
    }; // only a `break` gets here

    // This page calls no API, so it gets no claims challenge. graph.rs can have one here.
    let requested_claims = RequestedClaims::standard();

    // Step 5: redirect to authorize. The rest is the same text in graph.rs and admin.rs.
    // <ms_docref_build_auth_code_flow>
    // Start the authorization code flow: send the browser to Microsoft Entra ID, where the
    // user signs in. Three random values protect the sign-in:
    // - `state` comes back with the browser. Step 6 checks that this browser started the
    //   sign-in. Otherwise an attacker could send a link that signs a user in as the
    //   attacker. What the user then stores would be in the attacker's account.
    // - `code_verifier` goes into the cookie below, and only its hash into this request
    //   (PKCE). Step 7 sends the value, and Microsoft compares it with the hash. Suppose
    //   that an attacker has stolen the code of a user, for example from a log. The
    //   attacker starts a sign-in, and opens /auth/redirect with its `state` and the stolen
    //   code. The value in the attacker's cookie does not fit the hash that Microsoft keeps
    //   with the stolen code, so Microsoft refuses the code.
    // - `nonce` comes back in the ID token. Step 8 refuses an ID token of another sign-in.
    //   It is a second lock against the same attack, and this one does not depend on
    //   Microsoft's check.
    info!("step 5: {reason}, redirecting to the authorization endpoint");
    let random = || BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let (state, nonce, code_verifier) = (random(), random(), random());
    let code_challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&code_verifier));
    let mut url = metadata.authorization_endpoint.clone();
    url.query_pairs_mut().extend_pairs([
        ("client_id", settings.client_id.as_str()),
        ("response_type", "code"),
        // Microsoft Entra ID sends the browser back to this address, with a code.
        ("redirect_uri", settings.redirect_uri.as_str()),
        // `openid` requests an ID token, `profile` the user's name in the ID token, and
        // `offline_access` a refresh token.
        ("scope", &format!("openid profile offline_access {}", settings.scope)),
        // What else the tokens must contain, see protocol.rs.
        ("claims", &serde_json::to_string(&requested_claims)?),
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &code_challenge),
        ("code_challenge_method", "S256"),
    ]);
    // Name the account of a user who must sign in again, so that the user need not choose
    // it.
    if let Some(user) = &user {
        let claims = &user.id_token_claims;
        if let Some(hint) = claims.login_hint.as_ref().or(claims.preferred_username.as_ref()) {
            url.query_pairs_mut().append_pair("login_hint", hint);
        }
    }
    // </ms_docref_build_auth_code_flow>

    // <ms_docref_keep_auth_code_flow>
    // Keep what steps 6 to 9 need in a cookie for this sign-in, with `state` in its name.
    // The session is not the place: two tabs would overwrite each other's values, and each
    // visitor who does not sign in would leave a session on the server.
    let page_url = req.uri().path_and_query().map_or("/", |url| url.as_str());
    let mut flow = AuthCodeFlow {
        nonce,
        code_verifier,
        requested_claims,
        is_repeated: user.is_some(),
        post_sign_in_url: page_url.to_owned(),
    };
    // Keep the cookie small, cookies.rs says why. Of a long address, keep only the path.
    if serde_json::to_string(&flow)?.len() > 490 {
        flow.post_sign_in_url = req.path().to_owned();
    }
    let name = format!("{}-flow-{state}", settings.cookie_prefix());
    let value = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_string(&flow)?);
    let cookie = Cookie::build(name, value)
        .path("/")
        // Scripts cannot read it.
        .http_only(true)
        // The redirect to step 6 comes from another site. Strict would not send the cookie.
        .same_site(SameSite::Lax)
        .secure(settings.is_https())
        .max_age(Duration::minutes(15))
        .finish();
    Ok(HttpResponse::Found().insert_header((LOCATION, url.as_str())).cookie(cookie).finish())
    // </ms_docref_keep_auth_code_flow>
}

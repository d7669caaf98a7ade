//! `GET /admin`: for signed-in users who have the app role `admin`. Shows
//! the claims of the id token, `roles` among them.

use actix_session::Session;
use actix_web::error::{Error, ErrorForbidden, ErrorInternalServerError};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::get_current_timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tera::{Context, Tera};
use tracing::{info, warn};
use url::Url;

use crate::settings::Settings;

/// Shows the claims of the user's id token, or redirects to the
/// authorization endpoint first.
///
/// # Errors
/// 403 for a user without the app role `admin`.
pub async fn admin(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    templates: Data<Tera>,
) -> Result<HttpResponse, Error> {
    let now = get_current_timestamp().cast_signed();

    // Steps 1 and 3 end with the page. Whatever on the way needs the user to
    // sign in leaves this block by `break 'sign_in (reason, claims
    // challenge)`; step 4, after it, redirects to the authorization endpoint.
    let (reason, claims_challenge): (&str, Option<Value>) = 'sign_in: {
        // <ms_docref_require_authentication>
        // 1. Session lookup. The cookie names a session on the server, in which a
        // sign-in leaves two things: `user`, with the id token and its claims, and
        // `token_cache`. The id token was validated before it got there, so what
        // it says is relied on here. A value that cannot be read counts as none,
        // and signing in puts a new one in its place.
        let user: Value = session.get("user").ok().flatten().unwrap_or_default();
        if user.is_null() || !session.contains_key("token_cache") {
            break 'sign_in ("nobody is signed in", None);
        }
        // The end of the id token is the end of the sign-in: single sign-on makes
        // the next one a silent bounce, and it brings roles and policies up to
        // date. 120 seconds are for clocks that differ, as they are at the
        // sign-in: were the pages stricter than the callback, the two would send
        // the browser to and fro.
        if user["id_token_claims"]["exp"].as_f64().is_none_or(|exp| exp + 120.0 <= now as f64) {
            break 'sign_in ("the id token has expired", None);
        }
        // </ms_docref_require_authentication>

        // Step 2, an access token, is not needed here: the page shows what the id
        // token says, and calls nobody.

        // <ms_docref_require_admin_role_authNZ>
        // 3. Role inspection. Microsoft Entra ID puts the app roles that the user
        // is assigned to into the claim `roles`, an array. The role must be one of
        // its elements: "administrator" contains "admin" and is another role. The
        // id token was validated at the sign-in and has been on the server since,
        // so its claims can be relied on.
        let id_token_claims = &user["id_token_claims"];
        let roles = id_token_claims["roles"].as_array();
        if !roles.is_some_and(|roles| roles.iter().any(|role| role == "admin")) {
            let roles = id_token_claims.get("roles").map_or_else(|| "none".to_owned(), Value::to_string);
            let sub = id_token_claims["sub"].as_str().unwrap_or_default();
            warn!("403: the user {sub:?} lacks the app role admin, the roles in the id token are {roles:?}");
            return Err(ErrorForbidden(format!(
                "User is missing a required role. The role needed is \"admin\"; the roles in the id token are \
                 {roles}. Assign the role in the Microsoft Entra admin center, under Enterprise applications > (this \
                 app) > Users and groups, then sign out and in again."
            )));
        }
        // </ms_docref_require_admin_role_authNZ>

        // <ms_docref_display_admin_view_content>
        // What the page is for: the claims, as they came in the id token. They are
        // the user's own, and the template escapes what is in them.
        info!("the user has the app role admin");
        let mut context = Context::new();
        let user_name = id_token_claims["name"].as_str().or(id_token_claims["preferred_username"].as_str());
        context.insert("user_name", user_name.unwrap_or("a user without a name"));
        context.insert("id_token_claims", &serde_json::to_string_pretty(id_token_claims)?);
        let page = templates.render("authenticated/admin.html", &context).map_err(ErrorInternalServerError)?;
        return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
        // </ms_docref_display_admin_view_content>
    };

    // <ms_docref_build_auth_code_flow>
    // 4. Redirect to authorize: the first leg of the auth code flow (RFC 6749
    // section 4.1.1, OpenID Connect Core section 3.1.2.1). Three secrets, new
    // for each sign-in, tie its two legs to each other and to this browser
    // (RFC 9700 section 2.1):
    // - state comes back with the browser, so that nobody can slip it somebody
    //   else's code (RFC 6749 section 10.12);
    // - nonce comes back in the id token, so that nobody can slip in another
    //   one (OpenID Connect Core section 15.5.2);
    // - code_verifier stays here until the code is redeemed, and authorize
    //   gets its hash, so that nobody can use a stolen code (PKCE, RFC 7636
    //   section 4).
    info!("sign-in needed, {reason}: redirecting to the authorization endpoint");
    let random = || URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let (state, nonce, code_verifier) = (random(), random(), random());
    let code_challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&code_verifier));
    // openid asks for an id token, profile for the name in it, offline_access
    // for a refresh token. Sorted, as MSAL sends them: their order means
    // nothing (RFC 6749 section 3.3).
    let mut scopes: Vec<&str> = settings.scope.split_whitespace().collect();
    scopes.extend(["openid", "profile", "offline_access"]);
    scopes.sort_unstable();
    let scope = scopes.join(" ");
    // The client capability cp1 says that this app understands claims
    // challenges, so access tokens may live long and be revoked before they
    // expire (continuous access evaluation). What a challenge asks for is
    // added to it (the claims parameter, OpenID Connect Core section 5.5).
    let mut claims = claims_challenge.clone().unwrap_or_else(|| json!({}));
    if !claims["access_token"].is_object() {
        claims["access_token"] = json!({});
    }
    claims["access_token"]["xms_cc"] = json!({ "values": ["cp1"] });

    // What the second leg needs stays in the session, under its state, for ten
    // minutes. The page to come back to is the one asked for here, which is a
    // path of this app, whatever the browser called its host.
    let post_sign_in_url = req.uri().path_and_query().map_or("/", |url| url.as_str());
    let post_sign_in_url = if post_sign_in_url.len() > 2000 { req.path() } else { post_sign_in_url };
    let flow = json!({
        "code_verifier": code_verifier,
        "nonce": nonce,
        "redirect_uri": settings.redirect_uri,
        "scope": scope,
        "claims": claims.to_string(),
        "claims_challenge": claims_challenge,
        "post_sign_in_url": post_sign_in_url,
        "expires_on": now + 600,
    });
    // One flow for each tab that is signing in, so that all of them arrive.
    // Eight at most, the oldest goes first: a visitor who never signs in
    // leaves little behind.
    let flows: Map<String, Value> = session.get("auth_code_flow").ok().flatten().unwrap_or_default();
    let mut flows: Map<String, Value> = flows.into_iter().rev().take(7).rev().collect();
    flows.insert(state.clone(), flow);
    session.insert("auth_code_flow", flows)?;

    let claims = claims.to_string();
    let parameters = [
        // This app asks for a code, and where that is to be sent: to an address
        // that is registered, or nowhere.
        ("client_id", settings.client_id.as_str()),
        ("response_type", "code"),
        ("redirect_uri", &settings.redirect_uri),
        // What the tokens are to be good for, and what is to be in them.
        ("scope", &scope),
        ("claims", &claims),
        // The secrets that can be seen: the code_verifier cannot be told from its
        // hash.
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &code_challenge),
        ("code_challenge_method", "S256"),
        // Microsoft's own: with the tokens, say whose account it is. MSAL's token
        // cache is sorted by that.
        ("client_info", "1"),
    ];
    // The address is the metadata's. The browser goes there and, with single
    // sign-on, is back before anyone sees it.
    let authorization_endpoint = settings.openid_metadata["authorization_endpoint"].as_str().unwrap_or_default();
    let url = Url::parse_with_params(authorization_endpoint, parameters).map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Found().insert_header((LOCATION, url.as_str())).finish())
    // </ms_docref_build_auth_code_flow>
}

//! `GET /graph`: calls Microsoft Graph as the signed-in user and shows the response.
//!
//! Specifications: RFC 6749 (OAuth 2.0) sections 4.1.1 and 6, RFC 6750 (access tokens), RFC
//! 7636 (PKCE), OpenID Connect Core 1.0 sections 3.1.2.1 and 5.5.

// <ms_docref_import_graph>
use actix_session::Session;
use actix_web::cookie::time::{Duration, OffsetDateTime};
use actix_web::cookie::{Cookie, SameSite};
use actix_web::error::{Error, ErrorBadGateway, ErrorInternalServerError};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tera::{Tera, context};
use tracing::{info, warn};

use crate::protocol::{
    AuthCodeFlow, ClientCredential, OpenIdMetadata, RequestedClaims, TokenCache, TokenError,
    Tokens, User,
};
use crate::settings::Settings;
// </ms_docref_import_graph>

/// Shows the profile of the signed-in user.
///
/// - Step 1, session lookup: find the signed-in user.
/// - Step 2, token cache: use the cached access token, or refresh it.
/// - Step 3, call Microsoft Graph with the access token, and show the response.
/// - Step 5, redirect to authorize: if step 1, 2 or 3 needs a sign-in, start one.
///
/// Step 4 is in admin.rs. Steps 6 to 9, after the sign-in, are in auth_redirect.rs. mod.rs
/// explains all steps and words.
///
/// # Errors
/// 502 if Microsoft Entra ID or Microsoft Graph fails or refuses, 500 if this app fails.
pub async fn graph(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    http: Data<Client>,
    templates: Data<Tera>,
) -> Result<HttpResponse, Error> {
    let now = OffsetDateTime::now_utc().unix_timestamp(); // Unix time, in seconds

    // What the next tokens must contain. Steps 2 and 3 may get a claims challenge, and step
    // 5 sends it.
    let mut requested_claims = RequestedClaims::standard();

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

        // True less than a minute after a repeated sign-in, see `User`. If a token is
        // refused all the same, a third sign-in would not help. (`abs`, because the clock
        // of another process of this app can be ahead.)
        let is_loop = user.is_repeated && (now - user.signed_in_on).abs() < 60;

        // <ms_docref_acquire_token>
        // Step 2: token cache. Use the access token in the session if it is for SCOPE, and
        // valid for five more minutes, so that it does not expire on its way. Otherwise get
        // a new one with the refresh token. MSAL, Microsoft's library for other languages,
        // calls this `acquire_token_silent`.
        let token_cache: Option<TokenCache> = session.get("token_cache").unwrap_or_default();
        let Some(mut token_cache) = token_cache else {
            break 'needs_sign_in "the session has no tokens";
        };
        if token_cache.scope != settings.scope || token_cache.expires_on - now < 300 {
            // <ms_docref_refresh_token>
            let mut form = vec![
                ("client_id", settings.client_id.clone()),
                ("grant_type", "refresh_token".to_owned()),
                ("refresh_token", token_cache.refresh_token.clone()),
                ("scope", format!("openid profile offline_access {}", settings.scope)),
                ("claims", serde_json::to_string(&requested_claims)?),
            ];
            // Prove that this app sends the request: with the client secret, or with a
            // client assertion, a short signed statement from client_credential.rs.
            match &settings.client_credential {
                ClientCredential::Secret(secret) => form.push(("client_secret", secret.clone())),
                ClientCredential::Assertion(assertion) => form.extend([
                    ("client_assertion_type", assertion.assertion_type()),
                    ("client_assertion", assertion.make(&metadata.token_endpoint)?),
                ]),
            }
            let unavailable = |err: reqwest::Error| {
                warn!("step 2: no valid response from the token endpoint: {err:?}");
                ErrorBadGateway("Microsoft Entra ID is not available. Try again in a minute.")
            };
            let request = http.post(metadata.token_endpoint.clone()).form(&form);
            let response = request.send().await.map_err(unavailable)?;
            info!("step 2: refresh, the token endpoint answered {}", response.status());
            if !response.status().is_success() {
                let err: TokenError = response.json().await.map_err(unavailable)?;
                // With these errors, a new sign-in can help, with a password, a second
                // factor, or consent.
                let needs_user = matches!(
                    err.error.as_str(),
                    "invalid_grant"
                        | "interaction_required"
                        | "consent_required"
                        | "login_required"
                );
                let start_sign_in = needs_user && !is_loop;
                if !start_sign_in {
                    return Err(ErrorBadGateway(format!(
                        "Microsoft Entra ID did not renew the access token. Try again in a minute. \
                         If this happens again, give this text to the owner of this app: {err}"
                    )));
                }
                // `{:?}` keeps texts of others on one line of the log.
                warn!("step 2: the refresh token was refused, {:?}", err.to_string());
                let json = err.claims.as_str().unwrap_or_default();
                if let Some(challenge) = RequestedClaims::from_challenge(json.as_bytes()) {
                    requested_claims = challenge;
                }
                break 'needs_sign_in "the refresh token was refused";
            }
            let tokens: Tokens = response.json().await.map_err(unavailable)?;
            token_cache.access_token = tokens.access_token;
            token_cache.scope = settings.scope.clone();
            token_cache.expires_on = now + i64::from(tokens.expires_in);
            // If the response has no refresh token, keep the old one. Ignore its ID token:
            // the user and the roles are those of the sign-in.
            if let Some(refresh_token) = tokens.refresh_token {
                token_cache.refresh_token = refresh_token;
            }
            session.insert("token_cache", &token_cache)?;
            // </ms_docref_refresh_token>
        }
        let seconds_left = token_cache.expires_on - now;
        info!("step 2: token cache, access token valid for {seconds_left} s");
        // </ms_docref_acquire_token>

        // <ms_docref_call_ms_graph>
        // Step 3: call Microsoft Graph as the user. ENDPOINT is the address of `/me`. The
        // access token is in the header `Authorization: Bearer …`.
        let unavailable = |err: reqwest::Error| {
            warn!("step 3: no valid response from Microsoft Graph: {err:?}");
            ErrorBadGateway("Microsoft Graph is not available. Try again in a minute.")
        };
        let request = http.get(settings.endpoint.clone()).bearer_auth(&token_cache.access_token);
        let response = request.send().await.map_err(unavailable)?;
        let status = response.status();
        info!("step 3: Microsoft Graph answered {status}");
        // </ms_docref_call_ms_graph>

        // <ms_docref_display_graph_response>
        if status == StatusCode::OK {
            let graph_response: Value = response.json().await.map_err(unavailable)?;
            let context = context! {
                user_name => &user.name,
                graph_response => &serde_json::to_string_pretty(&graph_response)?,
                expires_in => &seconds_left,
            };
            let page = templates
                .render("authenticated/graph.html", &context)
                .map_err(ErrorInternalServerError)?;
            return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
        }
        // </ms_docref_display_graph_response>

        // <ms_docref_graph_error>
        // Microsoft Graph sent an error. Read the headers first, because `json` consumes
        // the response.
        let challenge = RequestedClaims::from_headers(response.headers());
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds: Option<u32> = retry_after.and_then(|text| text.parse().ok());
        let when = seconds.map_or("later".to_owned(), |seconds| format!("in {seconds} seconds"));
        let body: Value = response.json().await.unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or("no error code");
        let message = body["error"]["message"].as_str().unwrap_or("no message");
        // 401: Microsoft Graph refuses the access token. Start a sign-in, if that can help.
        // All else is an error page.
        let start_sign_in = status == StatusCode::UNAUTHORIZED && !is_loop;
        if !start_sign_in {
            return Err(ErrorBadGateway(format!(
                "Microsoft Graph answered {status}. Try again {when}. If this happens again, \
                 give this text to the owner of this app: {code}: {message}"
            )));
        }
        // </ms_docref_graph_error>

        // <ms_docref_claims_challenge>
        // Microsoft Graph can refuse an access token before it expires, for example after a
        // change of the password. The refresh token is usually revoked too, so do not try
        // it. If the response has a claims challenge, step 5 sends it.
        warn!("step 3: the access token was refused, {code:?}: {message:?}");
        if let Some(challenge) = challenge {
            requested_claims = challenge;
        }
        break 'needs_sign_in "Microsoft Graph refused the access token";
        // </ms_docref_claims_challenge>
    }; // only a `break` gets here

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

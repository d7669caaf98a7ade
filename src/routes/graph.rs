//! `GET /graph`: calls Microsoft Graph as the signed-in user and shows the response.

// <ms_docref_import_graph>
use actix_session::Session;
use actix_web::cookie::time::{Duration, OffsetDateTime};
use actix_web::cookie::{Cookie, CookieJar, SameSite};
use actix_web::error::{Error, ErrorBadGateway, ErrorInternalServerError};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tera::{Context, Tera};
use tracing::{info, warn};

use crate::protocol::{
    AuthCodeFlow, OpenIdMetadata, RequestedClaims, TokenCache, TokenError, TokenResponse, User,
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
/// Step 4 is in admin.rs. Steps 6 to 9, after the sign-in, are in auth_redirect.rs.
/// mod.rs lists all steps.
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
    // The claims that the next access token must have. Steps 2 and 3 can set them.
    let mut claims_challenge: Option<RequestedClaims> = None;

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

        // <ms_docref_acquire_token>
        // Step 2: token cache. Use the cached access token, or get a new one with the
        // refresh token. In MSAL, the library for other languages, this is
        // `acquire_token_silent`.
        let token_cache: Option<TokenCache> = session.get("token_cache").ok().flatten();
        let Some(mut token_cache) = token_cache else {
            break 'sign_in "the session has no tokens";
        };
        let seconds_left = token_cache.expires_on - now;
        let is_usable = token_cache.scope == settings.scope && seconds_left > 0;
        // After `refresh_on`, renew the token, although it is still valid.
        let refresh_is_due = token_cache.refresh_on.is_some_and(|refresh_on| refresh_on <= now);
        // Use the cached token if it is for this scope, valid for five more minutes, and
        // no refresh is due.
        if is_usable && seconds_left >= 300 && !refresh_is_due {
            info!("step 2: access token found in the cache, valid for {seconds_left} s");
        } else {
            // <ms_docref_refresh_token>
            // Send the refresh token to the token endpoint (RFC 6749 section 6). The
            // response may also contain an ID token, which this app ignores.
            info!("step 2: refreshing the access token at the token endpoint");
            let mut form = vec![
                ("client_id", settings.client_id.clone()),
                ("grant_type", "refresh_token".to_owned()),
                ("refresh_token", token_cache.refresh_token.clone()),
                ("scope", format!("openid profile offline_access {}", settings.scope)),
                // As in step 5: this app can answer claims challenges.
                ("claims", r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#.to_owned()),
            ];
            // Prove that this app sends the request. Add the client secret or, if the app
            // has a certificate, a client assertion: a short token that the private key
            // signs (RFC 6749 section 2.3.1, RFC 7523 section 2.2).
            form.extend(settings.client_credential.parameters(&metadata.token_endpoint)?);
            let answer = async {
                let post = http.post(metadata.token_endpoint.clone()).form(&form);
                let response = post.send().await?;
                info!("step 2: the token endpoint answered {}", response.status());
                response.json::<TokenResponse>().await
            };
            match answer.await {
                Ok(TokenResponse::Tokens(tokens)) => {
                    token_cache = TokenCache {
                        access_token: tokens.access_token,
                        scope: settings.scope.clone(),
                        expires_on: now + i64::from(tokens.expires_in),
                        refresh_on: tokens.refresh_in.map(|seconds| now + i64::from(seconds)),
                        // If the response has no refresh token, keep the old one.
                        refresh_token: tokens.refresh_token.unwrap_or(token_cache.refresh_token),
                    };
                    session.insert("token_cache", &token_cache)?;
                    info!("step 2: access token cached, valid for {} s", tokens.expires_in);
                }
                Ok(TokenResponse::Error(TokenError {
                    error, error_description, claims, ..
                })) => {
                    warn!("step 2: the refresh failed, {error:?}: {error_description:?}");
                    let needs_sign_in = matches!(
                        error.as_str(),
                        "invalid_grant"
                            | "interaction_required"
                            | "consent_required"
                            | "login_required"
                    );
                    // In the first minute after a sign-in, do not start another one. It
                    // could be a redirect loop. Go on below, with the cached token or an
                    // error.
                    if needs_sign_in && now - user.signed_in_on >= 60 {
                        claims_challenge = claims.and_then(|json| serde_json::from_str(&json).ok());
                        break 'sign_in "the refresh token was refused";
                    }
                    // If the cached token is still valid, go on with it.
                    if !is_usable {
                        return Err(ErrorBadGateway(format!(
                            "Microsoft Entra ID did not renew the access token. Try again in a \
                             minute. If this happens again, check CLIENT_ID, CLIENT_CREDENTIAL and \
                             SCOPE. {error}: {error_description}"
                        )));
                    }
                }
                Err(err) => {
                    warn!("step 2: the refresh failed, {err:?}");
                    if !is_usable {
                        return Err(ErrorBadGateway(
                            "Microsoft Entra ID sent no valid answer. Try again in a minute.",
                        ));
                    }
                }
            }
            // </ms_docref_refresh_token>
        }
        // </ms_docref_acquire_token>

        // <ms_docref_call_ms_graph>
        // Step 3: call Microsoft Graph as the user, with the access token in the
        // Authorization header (RFC 6750 section 2.1).
        let get = http.get(settings.endpoint.clone()).bearer_auth(&token_cache.access_token);
        let response = get.send().await.map_err(|err| {
            warn!("step 3: no response from Microsoft Graph: {err:?}");
            ErrorBadGateway("Microsoft Graph is not available. Try again in a minute.")
        })?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let graph_response: Value = response.json().await.unwrap_or_else(|err| {
            warn!("step 3: the response of Microsoft Graph is not JSON: {err:?}");
            Value::Null
        });
        info!("step 3: Microsoft Graph answered {status}");
        // </ms_docref_call_ms_graph>

        // <ms_docref_claims_challenge>
        // Microsoft Graph can refuse a token before it expires, for example after the
        // password was changed (continuous access evaluation). The response then has a
        // claims challenge in the header `WWW-Authenticate`: Base64-encoded JSON with the
        // claims that the next token must have. Step 5 requests these claims.
        for header in headers.get_all("www-authenticate") {
            let header = header.to_str().unwrap_or_default();
            for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| *key == name);
                    found.map(|(_, value)| value.to_unescaped()).unwrap_or_default()
                };
                if challenge.scheme.eq_ignore_ascii_case("Bearer")
                    && parameter("error") == "insufficient_claims"
                {
                    let json = BASE64_STANDARD.decode(parameter("claims")).unwrap_or_default();
                    claims_challenge = claims_challenge.or(serde_json::from_slice(&json).ok());
                }
            }
        }
        // If a sign-in in the last minute answered a challenge, do not start another one.
        // It could be a redirect loop. The error below follows.
        let is_loop = user.answered_challenge && now - user.signed_in_on < 60;
        if status == 401 && claims_challenge.is_some() && !is_loop {
            break 'sign_in "Microsoft Graph sent a claims challenge";
        }
        // </ms_docref_claims_challenge>

        // <ms_docref_graph_error>
        if status != 200 || !graph_response.is_object() {
            let request_id = headers.get("request-id");
            let error = &graph_response["error"];
            let code = error["code"].as_str().unwrap_or("no error code");
            let message = error["message"].as_str().unwrap_or("no message");
            warn!("step 3: {status}, {code:?}: {message:?}, request-id {request_id:?}");
            if status == 401 {
                // Do not use this access token again. The next visit refreshes it.
                token_cache.expires_on = 0;
                session.insert("token_cache", &token_cache)?;
            }
            let advice = match status {
                401 | 429 | 500.. => "Try again in a minute.",
                _ => "Check ENDPOINT, SCOPE and the permissions of the app.",
            };
            return Err(ErrorBadGateway(format!(
                "Microsoft Graph answered {status}. {code}: {message} {advice}"
            )));
        }
        // </ms_docref_graph_error>

        // <ms_docref_display_graph_response>
        let claims = &user.id_token_claims;
        let user_name = claims["name"].as_str().or(claims["preferred_username"].as_str());
        let mut context = Context::new();
        context.insert("user_name", user_name.unwrap_or("unknown user"));
        context.insert("graph_response", &serde_json::to_string_pretty(&graph_response)?);
        context.insert("expires_in", &(token_cache.expires_on - now));
        let page = templates.render("authenticated/graph.html", &context);
        let page = page.map_err(ErrorInternalServerError)?;
        return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
        // </ms_docref_display_graph_response>
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

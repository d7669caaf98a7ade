//! `GET /auth/redirect`: the second half of the authorization code flow. Microsoft Entra
//! ID redirects the browser to this address after the sign-in.

// <ms_docref_import_auth_redirect>
use std::time::{Duration, Instant};

use actix_session::Session;
use actix_web::cookie::time::OffsetDateTime;
use actix_web::cookie::{Cookie, CookieJar};
use actix_web::error::{
    Error, ErrorBadGateway, ErrorBadRequest, ErrorForbidden, ErrorUnauthorized,
};
use actix_web::http::header::LOCATION;
use actix_web::rt::time::timeout;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::protocol::{
    AuthCodeFlow, AuthorizationResponse, OpenIdMetadata, TokenCache, TokenError, TokenResponse,
    User,
};
use crate::settings::Settings;
// </ms_docref_import_auth_redirect>

/// The public keys that verify ID tokens, and the time of their download.
static SIGNING_KEYS: Mutex<Option<(Instant, JwkSet)>> = Mutex::const_new(None);

/// Completes a sign-in and redirects to the page that the user opened.
///
/// - Step 6, authorization response: check that this browser started the sign-in.
/// - Step 7, redeem the code for tokens at the token endpoint.
/// - Step 8, validate the ID token, which tells who signed in.
/// - Step 9, sign in: store the user and the tokens in the session.
///
/// # Errors
/// 400 if the response or the code cannot be used, 401 if the ID token is not valid, 403
/// if the sign-in was declined or is not complete, 502 if Microsoft Entra ID fails or
/// refuses this app, 500 if this app fails.
pub async fn auth_redirect(
    req: HttpRequest,
    query: Query<AuthorizationResponse>,
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    http: Data<Client>,
) -> Result<HttpResponse, Error> {
    let now = OffsetDateTime::now_utc().unix_timestamp(); // Unix time, in seconds

    // <ms_docref_authorization_response>
    // Step 6: authorization response (RFC 6749 section 4.1.2). Anyone can make a browser
    // open this address with any query.

    // <ms_docref_find_auth_code_flow>
    // Step 5 stored a cookie with `state` in its name. If this browser does not have
    // that cookie, refuse the response. Without this check, an attacker could send a
    // link with the attacker's own code, and the user would be signed in as the
    // attacker. A cookie can be decrypted only under its own name, so it cannot be
    // renamed to fit another `state`. Before this check, show nothing from the query.
    let flow_cookie_name = format!("{}-flow-{}", settings.cookie_prefix(), query.state);
    let flow: Option<AuthCodeFlow> = req
        .cookie(&flow_cookie_name)
        .and_then(|cookie| CookieJar::new().private(&settings.cookie_key).decrypt(cookie))
        .and_then(|cookie| serde_json::from_str(cookie.value()).ok());
    let Some(flow) = flow.filter(|flow| now < flow.expires_on) else {
        warn!("step 6: refused, this browser has no sign-in with this state, or it is too old");
        return Err(ErrorBadRequest(
            "This sign-in was not started in this browser, or it took too long. Sign in again.",
        ));
    };
    // </ms_docref_find_auth_code_flow>
    // If the response names its issuer, it must be our tenant (RFC 9207 section 2.4).
    if query.iss.as_ref().is_some_and(|iss| *iss != metadata.issuer) {
        warn!("step 6: refused, the response comes from another issuer, {:?}", query.iss);
        return Err(ErrorBadRequest("Another tenant answered. Sign in again."));
    }

    // <ms_docref_authorization_error>
    if let Some(error) = &query.error {
        let details = format!("{error}: {}", query.error_description);
        warn!("step 6: the sign-in failed, {details:?}");
        return Err(match error.as_str() {
            "access_denied" | "consent_required" => ErrorForbidden(format!(
                "The sign-in was declined. You or an administrator has to consent to the \
                 permissions of this app. {details}"
            )),
            "server_error" | "temporarily_unavailable" => ErrorBadGateway(format!(
                "Microsoft Entra ID is not available. Try again in a minute. {details}"
            )),
            _ => ErrorBadGateway(format!(
                "Microsoft Entra ID refused the sign-in. Check the app registration, SCOPE and \
                 AUTHORITY. {details}"
            )),
        });
    }
    // </ms_docref_authorization_error>
    let Some(code) = &query.code else {
        warn!("step 6: refused, the response has neither a code nor an error");
        return Err(ErrorBadRequest("Microsoft Entra ID sent no code. Sign in again."));
    };
    info!("step 6: authorization code received");
    // </ms_docref_authorization_response>

    // <ms_docref_redeem_auth_code>
    // Step 7: redeem the code for tokens (RFC 6749 section 4.1.3). This app calls the
    // token endpoint directly, so that no token passes through the browser.
    let mut form = vec![
        ("client_id", settings.client_id.clone()),
        ("grant_type", "authorization_code".to_owned()),
        ("code", code.clone()),
        // The proof that the code belongs to this sign-in (RFC 7636 section 4.5).
        ("code_verifier", flow.code_verifier),
        ("redirect_uri", settings.redirect_uri.clone()),
        ("scope", format!("openid profile offline_access {}", settings.scope)),
        ("claims", serde_json::to_string(&flow.requested_claims)?),
    ];
    // Prove that this app sends the request. Add the client secret or, if the app has a
    // certificate, a client assertion: a short token that the private key signs (RFC
    // 6749 section 2.3.1, RFC 7523 section 2.2).
    form.extend(settings.client_credential.parameters(&metadata.token_endpoint)?);
    let answer = async {
        let response = http.post(metadata.token_endpoint.clone()).form(&form).send().await?;
        info!("step 7: the token endpoint answered {}", response.status());
        response.json::<TokenResponse>().await
    };
    let tokens = match answer.await {
        Ok(TokenResponse::Tokens(tokens)) => tokens,
        Ok(TokenResponse::Error(TokenError { error, error_description, suberror, .. })) => {
            let details = format!("{error}: {error_description}");
            warn!("step 7: the code was refused, {details:?}");
            return Err(match error.as_str() {
                // Usually the code expired, or it was used before.
                "invalid_grant" if suberror.is_none() => {
                    ErrorBadRequest("This code does not work, or no longer works. Sign in again.")
                }
                // A suberror names another reason, for example a policy.
                "invalid_grant" => ErrorBadRequest(format!("Sign in again. {details}")),
                "interaction_required" | "consent_required" | "login_required" => {
                    ErrorForbidden(format!("The sign-in is not complete. Sign in again. {details}"))
                }
                "invalid_client" => ErrorBadGateway(format!(
                    "Microsoft Entra ID did not accept this app. Check CLIENT_ID and \
                     CLIENT_CREDENTIAL. For a secret, use its Value, not its Secret ID. The \
                     platform of the redirect URI must be Web. {details}"
                )),
                _ => ErrorBadGateway(format!(
                    "Microsoft Entra ID did not send tokens. Try again in a minute. If this \
                     happens again, check CLIENT_ID, CLIENT_CREDENTIAL, SCOPE and AUTHORITY. \
                     {details}"
                )),
            });
        }
        Err(err) => {
            warn!("step 7: no tokens from the token endpoint, {err:?}");
            return Err(ErrorBadGateway(
                "Microsoft Entra ID sent no valid answer. Try again in a minute.",
            ));
        }
    };
    let (Some(id_token), Some(refresh_token)) = (tokens.id_token, tokens.refresh_token) else {
        warn!("step 7: refused, the response has no ID token or no refresh token");
        return Err(ErrorBadGateway("Microsoft Entra ID did not send all tokens. Try again."));
    };
    // </ms_docref_redeem_auth_code>

    // <ms_docref_validate_id_token>
    // Step 8: validate the ID token (OIDC Core 3.1.3.7).
    let refuse = |check: &str| {
        warn!("step 8: refused, the ID token fails the check of {check}");
        ErrorUnauthorized(format!("The ID token is not valid. It fails the check of {check}."))
    };
    let header = jsonwebtoken::decode_header(&id_token).map_err(|_| refuse("the header"))?;
    // Microsoft Entra ID signs with RS256.
    if header.alg != Algorithm::RS256 {
        return Err(refuse("the algorithm"));
    }
    // `crit` lists extensions that the receiver must know (RFC 7515 section 4.1.11).
    // This app knows none.
    if header.crit.is_some() {
        return Err(refuse("crit"));
    }
    let kid = header.kid.unwrap_or_default();

    // <ms_docref_signing_keys>
    // Find the public key whose ID is in the header (`kid`). Microsoft Entra ID changes
    // its keys. Download them again after a day, or if this key is not among them.
    // Because of the lock, only one sign-in at a time downloads. The others wait, and
    // then use these keys.
    let started = Instant::now();
    let find_key = async {
        let mut signing_keys = SIGNING_KEYS.lock().await;
        let mut known_key = None;
        if let Some((downloaded, keys)) = &*signing_keys {
            known_key = keys.find(&kid).cloned();
            let is_recent = downloaded.elapsed() < Duration::from_secs(86_400);
            // Downloaded while this sign-in waited: do not download again.
            let is_new = *downloaded > started;
            if is_new || (is_recent && known_key.is_some()) {
                return Ok(known_key);
            }
        }
        info!("step 8: fetching the signing keys");
        let get = http.get(metadata.jwks_uri.clone()).timeout(Duration::from_secs(5));
        let download = async { get.send().await?.error_for_status()?.json::<JwkSet>().await };
        match download.await {
            Ok(keys) => {
                let key = keys.find(&kid).cloned();
                *signing_keys = Some((Instant::now(), keys));
                Ok(key)
            }
            Err(err) => {
                warn!("step 8: the signing keys are not available, {err:?}");
                // Use the key of the last download, if it is there.
                if known_key.is_some() { Ok(known_key) } else { Err(err) }
            }
        }
    };
    // Wait for the keys for at most 15 seconds.
    let Ok(Ok(key)) = timeout(Duration::from_secs(15), find_key).await else {
        warn!("step 8: refused, the signing keys are missing");
        return Err(ErrorBadGateway("The signing keys are not available. Try again in a minute."));
    };
    // </ms_docref_signing_keys>

    // <ms_docref_verify_signature>
    // The library verifies the signature. Its checks of claims are off. The list
    // `checks` below does them all.
    let key = key.ok_or_else(|| refuse("the key"))?;
    let key = DecodingKey::from_jwk(&key).map_err(|_| refuse("the key"))?;
    let mut signature_only = Validation::new(Algorithm::RS256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let token = jsonwebtoken::decode::<Value>(&id_token, &key, &signature_only);
    let claims = token.map_err(|_| refuse("the signature"))?.claims;
    // </ms_docref_verify_signature>

    // <ms_docref_check_claims>
    // Allow 120 seconds for clocks that differ.
    let time = |name: &str| claims[name].as_i64();
    let client_id = &settings.client_id;
    let checks = [
        // The token comes from our tenant, and is for this app only.
        ("iss", claims["iss"] == metadata.issuer),
        ("aud", claims["aud"] == *client_id || claims["aud"] == json!([client_id])),
        // The token has not expired, and was not issued in the future.
        ("exp", time("exp").is_some_and(|exp| exp > now - 120)),
        ("nbf", claims["nbf"].is_null() || time("nbf").is_some_and(|nbf| nbf <= now + 120)),
        ("iat", time("iat").is_some_and(|iat| iat <= now + 120)),
        // The token names a user.
        ("sub", claims["sub"].is_string()),
        // The token is for this sign-in.
        ("nonce", claims["nonce"] == flow.nonce),
    ];
    for (check, passed) in checks {
        if !passed {
            return Err(refuse(check));
        }
    }
    info!("step 8: ID token validated");
    // </ms_docref_check_claims>
    // </ms_docref_validate_id_token>

    // <ms_docref_sign_in>
    // Step 9: sign in. Store the user and the tokens, and nothing of a previous user.
    let token_cache = TokenCache {
        access_token: tokens.access_token,
        scope: settings.scope.clone(),
        expires_on: now + i64::from(tokens.expires_in),
        refresh_on: tokens.refresh_in.map(|seconds| now + i64::from(seconds)),
        refresh_token,
    };
    let user = User {
        id_token_claims: claims,
        signed_in_on: now,
        answered_challenge: flow.answers_challenge,
    };
    session.clear();
    session.insert("user", &user)?;
    session.insert("token_cache", token_cache)?;
    // Change the session ID. Otherwise an attacker who knows the old one is signed in
    // too (session fixation).
    session.renew();
    let oid = &user.id_token_claims["oid"];
    info!("step 9: signed in, oid {oid}, access token valid for {} s", tokens.expires_in);

    // <ms_docref_redirect_after_sign_in>
    // This sign-in is finished, so remove its cookie: send it with the same path and
    // `secure`.
    let mut used =
        Cookie::build(flow_cookie_name, "").path("/").secure(settings.is_https()).finish();
    used.make_removal();
    // Redirect only to a path of this app. If a route matches every path, an attacker
    // can link to "http://this-app//evil.example", and browsers take "//evil.example"
    // for another host.
    let page = flow.post_sign_in_url.as_str();
    let is_local = page.starts_with('/') && !page.starts_with("//") && !page.starts_with("/\\");
    let location = if is_local { page } else { "/" };
    Ok(HttpResponse::Found().insert_header((LOCATION, location)).cookie(used).finish())
    // </ms_docref_redirect_after_sign_in>
    // </ms_docref_sign_in>
}

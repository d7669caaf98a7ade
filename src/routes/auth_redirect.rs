//! `GET /auth/redirect`: the second half of the authorization code flow. Microsoft Entra ID
//! redirects the browser to this address after the sign-in.
//!
//! Specifications: RFC 6749 (OAuth 2.0) sections 4.1.2, 4.1.3 and 5, RFC 7515 (`crit`), RFC
//! 7523 (client assertions), RFC 7636 (PKCE), RFC 9207 (`iss`), OpenID Connect Core 1.0
//! section 3.1.3.7.

// <ms_docref_import_auth_redirect>
use actix_session::Session;
use actix_web::cookie::Cookie;
use actix_web::cookie::time::OffsetDateTime;
use actix_web::error::{
    Error, ErrorBadGateway, ErrorBadRequest, ErrorForbidden, ErrorUnauthorized,
};
use actix_web::http::header::{HeaderValue, LOCATION};
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use base64::prelude::*;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Client;
use tracing::{info, warn};

use crate::protocol::{
    AuthCodeFlow, AuthorizationResponse, ClientCredential, IdTokenClaims, OpenIdMetadata,
    SigningKeys, TokenCache, TokenError, Tokens, User,
};
use crate::settings::Settings;
// </ms_docref_import_auth_redirect>

/// Completes a sign-in and redirects to the page that the user opened.
///
/// - Step 6, authorization response: check that this browser started the sign-in.
/// - Step 7, redeem the code for tokens at the token endpoint.
/// - Step 8, validate the ID token, which tells who signed in.
/// - Step 9, sign in: store the user and the tokens in the session.
///
/// # Errors
/// 400 if the response or the code cannot be used, 401 if the ID token is not valid, 403 if
/// the sign-in was declined, 502 if Microsoft Entra ID fails or refuses this app, 500 if
/// this app fails.
pub async fn auth_redirect(
    req: HttpRequest,
    query: Query<AuthorizationResponse>,
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
    http: Data<Client>,
) -> Result<HttpResponse, Error> {
    let now = OffsetDateTime::now_utc().unix_timestamp(); // Unix time, in seconds

    // <ms_docref_find_auth_code_flow>
    // Step 6: authorization response. Anyone can make a browser open this address with any
    // query. Step 5 stored a cookie with `state` in its name. If this browser has no cookie
    // with that name, it did not start this sign-in. Without this check, an attacker could
    // send a link with the attacker's own code, and the user would be signed in as the
    // attacker.
    let flow_cookie_name = format!("{}-flow-{}", settings.cookie_prefix(), query.state);
    let flow: Option<AuthCodeFlow> = req
        .cookie(&flow_cookie_name)
        .and_then(|cookie| BASE64_URL_SAFE_NO_PAD.decode(cookie.value()).ok())
        .and_then(|json| serde_json::from_slice(&json).ok());
    let Some(flow) = flow else {
        return Err(ErrorBadRequest(
            "This sign-in was not started in this browser, or it took too long, or it has ended \
             already. Sign in again.",
        ));
    };
    info!("step 6: authorization response, this browser started the sign-in");
    // </ms_docref_find_auth_code_flow>

    // <ms_docref_response_issuer>
    // If the response names the tenant that it comes from, that must be ours. This matters
    // in apps with several tenants: they could send the code of one to the token endpoint
    // of another.
    if query.iss.as_ref().is_some_and(|iss| *iss != metadata.issuer) {
        return Err(ErrorBadRequest("Another tenant answered. Sign in again."));
    }
    // </ms_docref_response_issuer>

    // <ms_docref_authorization_error>
    // Show the texts of the query only here. Before the check of `state`, anyone could have
    // made this page show a text of their own.
    if let Some(error) = &query.error {
        let details = format!("{error}: {}", query.error_description);
        return Err(match error.as_str() {
            // The user or an administrator did not consent to what this app asks for.
            "access_denied" | "consent_required" => {
                ErrorForbidden(format!("The sign-in was declined. Sign in again. {details}"))
            }
            _ => ErrorBadGateway(format!(
                "Microsoft Entra ID did not complete the sign-in. Try again in a minute. If this \
                 happens again, give this text to the owner of this app: {details}"
            )),
        });
    }
    let Some(code) = &query.code else {
        return Err(ErrorBadRequest("Microsoft Entra ID sent no code. Sign in again."));
    };
    // </ms_docref_authorization_error>

    // <ms_docref_redeem_auth_code>
    // Step 7: redeem the code for tokens. This app calls the token endpoint directly, so
    // that no token passes through the browser.
    let mut form = vec![
        ("client_id", settings.client_id.clone()),
        ("grant_type", "authorization_code".to_owned()),
        ("code", code.clone()),
        // Microsoft Entra ID compares the hash of this value with that of step 5.
        ("code_verifier", flow.code_verifier),
        // The same as in step 5. Microsoft compares the address, and issues the access
        // token for this scope and with these claims.
        ("redirect_uri", settings.redirect_uri.to_string()),
        ("scope", format!("openid profile offline_access {}", settings.scope)),
        ("claims", serde_json::to_string(&flow.requested_claims)?),
    ];
    // Prove that this app sends the request: with the client secret, or with a client
    // assertion, a short signed statement from client_credential.rs.
    match &settings.client_credential {
        ClientCredential::Secret(secret) => form.push(("client_secret", secret.clone())),
        ClientCredential::Assertion(assertion) => form.extend([
            ("client_assertion_type", assertion.assertion_type()),
            ("client_assertion", assertion.make(&metadata.token_endpoint)?),
        ]),
    }
    let unavailable = |err: reqwest::Error| {
        warn!("step 7 or 8: no valid response from Microsoft Entra ID: {err:?}");
        ErrorBadGateway("Microsoft Entra ID is not available. Try again in a minute.")
    };
    let request = http.post(metadata.token_endpoint.clone()).form(&form);
    let response = request.send().await.map_err(unavailable)?;
    info!("step 7: redeem the code, the token endpoint answered {}", response.status());
    if !response.status().is_success() {
        let err: TokenError = response.json().await.map_err(unavailable)?;
        return Err(match err.error.as_str() {
            // A new sign-in can help. Usually the code has expired, or it was used before.
            "invalid_grant" | "interaction_required" | "consent_required" | "login_required" => {
                ErrorBadRequest(format!("Sign in again. {err}"))
            }
            _ => ErrorBadGateway(format!(
                "Microsoft Entra ID did not send tokens. Try again in a minute. If this happens \
                 again, give this text to the owner of this app: {err}"
            )),
        });
    }
    let tokens: Tokens = response.json().await.map_err(unavailable)?;
    let (Some(id_token), Some(refresh_token)) = (tokens.id_token, tokens.refresh_token) else {
        return Err(ErrorBadGateway("Microsoft Entra ID did not send all tokens. Try again."));
    };
    // </ms_docref_redeem_auth_code>

    // <ms_docref_id_token_header>
    // Step 8: validate the ID token. It is a JSON Web Token: a header, the claims, and a
    // signature over both. TLS already shows that Microsoft sent it. Verify the signature
    // all the same: where a token comes through a browser, it is the only proof.
    let refuse = |cause: &str| {
        ErrorUnauthorized(format!("The ID token is not valid: {cause}. You are not signed in."))
    };
    let header = jsonwebtoken::decode_header(&id_token).map_err(|err| refuse(&err.to_string()))?;
    let kid = header.kid.ok_or_else(|| refuse("it does not name its signing key"))?;
    // </ms_docref_id_token_header>

    // <ms_docref_signing_keys>
    // Step 8 continues: find the public key whose ID is in the header. Microsoft Entra ID
    // changes its keys at any time, so request them at each sign-in. An app with many
    // sign-ins a second would keep them for a day, and request them again if a key ID is
    // unknown.
    let response = http.get(metadata.jwks_uri.clone()).send().await.map_err(unavailable)?;
    let signing_keys: SigningKeys = response.json().await.map_err(unavailable)?;
    let Some(jwk) = signing_keys.keys.into_iter().find(|key| key["kid"] == kid) else {
        return Err(refuse("the signing key is unknown"));
    };
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|err| refuse(&err.to_string()))?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|err| refuse(&err.to_string()))?;
    info!("step 8: validate the ID token, its signing key is known");
    // </ms_docref_signing_keys>

    // <ms_docref_validate_id_token>
    // Step 8 continues: the library verifies the signature, which Microsoft Entra ID makes
    // with RS256. It checks that the token comes from our tenant (`iss`), is for this app
    // and not for another one (`aud`), has not expired (`exp`), and is not for later
    // (`nbf`). 120 s are for clocks that differ. A claim that is missing is not checked, so
    // `iss`, `aud` and `exp` are required, and also `sub`, the ID of the user for this app.
    // `nbf` is optional.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[&metadata.issuer]);
    validation.set_audience(&[&settings.client_id]);
    validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = 120;
    let token = jsonwebtoken::decode::<IdTokenClaims>(&id_token, &key, &validation)
        .map_err(|err| refuse(&err.to_string()))?;
    let claims = token.claims;
    // </ms_docref_validate_id_token>

    // <ms_docref_check_nonce>
    // Step 8 continues with what the library does not check. The token must be for this
    // sign-in.
    if claims.nonce != flow.nonce {
        return Err(refuse("it has the nonce of another sign-in"));
    }
    // Rare: a clock is wrong by more than two minutes.
    if claims.iat > now + 120 {
        return Err(refuse("it was issued in the future"));
    }
    // Rare: `crit` names header fields that a receiver must understand, or refuse the
    // token. This app knows none.
    if token.header.crit.is_some() {
        return Err(refuse("it has an extension in crit"));
    }
    info!("step 8: ID token validated");
    // </ms_docref_check_nonce>

    // <ms_docref_sign_in>
    // Step 9: sign in. Store the user and the tokens, and nothing of a previous user.
    let token_cache = TokenCache {
        access_token: tokens.access_token,
        scope: settings.scope.clone(),
        expires_on: now + i64::from(tokens.expires_in),
        refresh_token,
    };
    let name = claims.name.clone().or(claims.preferred_username.clone());
    let user = User {
        name: name.unwrap_or("unknown user".to_owned()),
        id_token_claims: claims,
        signed_in_on: now,
        is_repeated: flow.is_repeated,
    };
    session.clear();
    session.insert("user", &user)?;
    session.insert("token_cache", token_cache)?;
    // Change the session ID. Otherwise an attacker who knows the old one is signed in too
    // (session fixation).
    session.renew();
    let oid = user.id_token_claims.oid.as_deref().unwrap_or("unknown");
    info!("step 9: sign in, oid {oid:?}, access token valid for {} s", tokens.expires_in);
    // </ms_docref_sign_in>

    // <ms_docref_redirect_after_sign_in>
    // This sign-in is finished. To remove its cookie, set it again, with the same path and
    // `secure`, and without a value.
    let mut used =
        Cookie::build(flow_cookie_name, "").path("/").secure(settings.is_https()).finish();
    used.make_removal();
    // Redirect to the page that the user opened, but only within this app. The cookie may
    // have been changed to "//evil.example", another host. So resolve the address as
    // browsers do, and compare its origin with that of this app.
    let page = flow.post_sign_in_url.as_str();
    let resolved = settings.redirect_uri.join(page);
    let is_local = resolved.is_ok_and(|url| url.origin() == settings.redirect_uri.origin());
    let page = if is_local { page } else { "/" };
    // A HeaderValue has no line breaks, which could begin another header.
    let location = HeaderValue::from_str(page).unwrap_or(HeaderValue::from_static("/"));
    Ok(HttpResponse::Found().insert_header((LOCATION, location)).cookie(used).finish())
    // </ms_docref_redirect_after_sign_in>
}

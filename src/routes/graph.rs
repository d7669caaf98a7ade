//! `GET /graph`: for any signed-in user. Calls Microsoft Graph as that user
//! and shows what it answers.

use std::cmp::Reverse;
use std::collections::HashMap;

use actix_session::Session;
use actix_web::error::{
    Error, ErrorBadGateway, ErrorGatewayTimeout, ErrorInternalServerError, ErrorServiceUnavailable, ErrorUnauthorized,
};
use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::get_current_timestamp;
use reqwest::Client;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tera::{Context, Tera};
use tracing::{info, warn};
use url::Url;

use crate::settings::Settings;

/// Shows the user's Microsoft Graph profile, or redirects to the
/// authorization endpoint first.
///
/// # Errors
/// 401, 502, 503 or 504 if the identity platform or Microsoft Graph does
/// not do its part; the page says which and why.
pub async fn graph(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    http: Data<Client>,
    templates: Data<Tera>,
) -> Result<HttpResponse, Error> {
    // Seconds since 1970, as all times in tokens and in the token cache.
    let now = get_current_timestamp().cast_signed();

    // Steps 1 to 3 end with the page. Whatever on the way needs the user to
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

        // <ms_docref_acquire_token>
        // 2. Token-cache check, as MSAL's acquire_token_silent does it: an access
        // token from the cache if there is a good one, else a new one for a
        // refresh token. The cache is MSAL's own JSON, so that an app with MSAL
        // can go on with it: sections of entries, which are found by their fields.
        // Their keys are for replacing them.
        let token_cache: String = session.get("token_cache").ok().flatten().unwrap_or_default();
        let mut token_cache: Value = serde_json::from_str(&token_cache).unwrap_or_default();
        let sections = ["AccessToken", "IdToken", "RefreshToken", "AppMetadata"].map(|name| &token_cache[name]);
        let is_cache = sections.iter().all(|section| section.is_object() || section.is_null());
        let entries = |section: &str| token_cache[section].as_object().into_iter().flat_map(Map::values);
        // What counts are the entries of the user's account, which the sign-in put
        // there: `oid` is the user's id in the tenant, and `sub` stands in for it
        // where an identity platform has none.
        let id_token_claims = &user["id_token_claims"];
        let local_account_id = id_token_claims.get("oid").unwrap_or(&id_token_claims["sub"]);
        let account = entries("Account").find(|account| account["local_account_id"] == *local_account_id);
        let Some(account) = account.filter(|_| is_cache) else {
            break 'sign_in ("the token cache has no account of the user", None);
        };
        let [home_account_id, environment, realm] = ["home_account_id", "environment", "realm"]
            .map(|field| account[field].as_str().unwrap_or_default().to_owned());
        let is_of_account = |entry: &&Value| {
            entry["home_account_id"] == home_account_id
                && entry["environment"] == environment
                && entry["client_id"] == settings.client_id
        };
        // Times are strings of digits; a number is understood too.
        let time = |entry: &Value, field: &str| entry[field].as_i64().or_else(|| entry[field].as_str()?.parse().ok());

        // The access token that lasts longest. It may be for more scopes than are
        // needed, never for fewer. One with an ext_cache_key was asked for with
        // parameters that this app does not send.
        let has_scope = |entry: &&Value| {
            let target: Vec<&str> = entry["target"].as_str().unwrap_or_default().split_whitespace().collect();
            settings.scope.split_whitespace().all(|scope| target.contains(&scope))
        };
        let cached = (entries("AccessToken").filter(is_of_account).filter(has_scope))
            .filter(|entry| entry["realm"] == realm && entry["ext_cache_key"].is_null())
            .max_by_key(|entry| time(entry, "expires_on"))
            .cloned()
            .unwrap_or_default();
        let cached_access_token = cached["secret"].as_str().unwrap_or_default().to_owned();
        let cached_expires_in = time(&cached, "expires_on").unwrap_or(0).saturating_sub(now);
        // The identity platform may send a new refresh token with each access
        // token: the newest comes first.
        let mut refresh_tokens: Vec<Value> = entries("RefreshToken").filter(is_of_account).cloned().collect();
        refresh_tokens.sort_by_key(|entry| Reverse(time(entry, "last_modification_time")));
        let mut refresh_tokens = refresh_tokens.into_iter();
        // A sign-in that answered a challenge is noted in `user`, for one visit.
        // If that very visit is challenged again, another sign-in would only be
        // the next turn of a loop.
        let challenge_answered = !user["claims_challenge"].is_null();
        if challenge_answered {
            session.insert("user", json!({ "id_token": user["id_token"], "id_token_claims": id_token_claims }))?;
        }

        let (access_token, expires_in) = 'acquired: {
            // MSAL's margin: with five minutes left a token outlives the calls made
            // with it. Past `refresh_on` a token is good, but aging: better to renew
            // it now than to have to while the identity platform is out of order.
            let is_aging = time(&cached, "refresh_on").is_some_and(|refresh_on| refresh_on < now);
            if cached_expires_in >= 300 && !is_aging {
                info!("access token found in the cache, {cached_expires_in} s left");
                break 'acquired (cached_access_token, cached_expires_in);
            }
            let token_endpoint = settings.openid_metadata["token_endpoint"].as_str().unwrap_or_default();
            let mut scopes: Vec<&str> = settings.scope.split_whitespace().collect();
            scopes.extend(["openid", "profile", "offline_access"]);
            scopes.sort_unstable();
            let scope = &scopes.join(" ");
            // One round, as a rule: a second one only if the cache holds an older
            // refresh token.
            let (held_refresh_token, status, answer) = loop {
                let Some(held_refresh_token) = refresh_tokens.next() else {
                    if cached_expires_in > 0 {
                        info!("access token found in the cache, {cached_expires_in} s left, and no refresh token");
                        break 'acquired (cached_access_token, cached_expires_in);
                    }
                    break 'sign_in ("the token cache has neither an access token nor a refresh token", None);
                };
                // The refresh token grant (RFC 6749 section 6): server to server, the
                // user's browser has no part in it. This app authenticates with its client
                // secret (section 2.3.1).
                let lack = if is_aging { "aging access token" } else { "no access token with five minutes left" };
                info!("{lack} in the cache: refreshing it at the token endpoint");
                let grant = [
                    ("client_id", settings.client_id.as_str()),
                    ("client_secret", &settings.client_credential),
                    ("grant_type", "refresh_token"),
                    ("refresh_token", held_refresh_token["secret"].as_str().unwrap_or_default()),
                    ("scope", scope),
                    // As at the sign-in: say whose account it is, and this app understands
                    // claims challenges.
                    ("client_info", "1"),
                    ("claims", r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#),
                ];
                let sent = async {
                    let mut response = http.post(token_endpoint).form(&grant).send().await?;
                    let mut body = Vec::new();
                    // No honest answer is longer; what is cut off here is no JSON below.
                    while let Some(chunk) = response.chunk().await?.filter(|_| body.len() < 1_000_000) {
                        body.extend_from_slice(&chunk);
                    }
                    Ok((response.status().as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
                };
                // No answer counts as what a proxy in between would have said.
                let (status, answer): (u16, Value) = sent.await.unwrap_or_else(|err: reqwest::Error| {
                    warn!("no answer from the token endpoint: {err:?}");
                    (if err.is_timeout() { 504 } else { 502 }, Value::Null)
                });
                // What is wrong with this refresh token (RFC 6749 section 5.2) need not be
                // wrong with an older one, of which a cache that MSAL wrote may have some.
                if answer["error"] != "invalid_grant" || refresh_tokens.len() == 0 {
                    break (held_refresh_token, status, answer);
                }
                warn!("the token endpoint refused the newest refresh token: trying the one before it");
            };
            let error = answer["error"].as_str().unwrap_or_default();
            let description = answer["error_description"].as_str().unwrap_or_default();
            let is_bearer = answer["token_type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
            if status != 200 || !error.is_empty() {
                warn!("no tokens from the token endpoint: {status}, {error:?}: {description:?}");
            }
            // All that the token endpoint can answer (RFC 6749 sections 5.1 and 5.2),
            // and all that a network can.
            match (status, error) {
                (200, "") if answer["access_token"].is_string() && is_bearer => {}
                // The refresh token is dead, or a policy wants the user to come back. As
                // with MSAL it stays in the cache, which the sign-in replaces. Where no
                // claims are named, none are asked for.
                (..=499, "invalid_grant" | "interaction_required" | "consent_required" | "login_required")
                    if !challenge_answered =>
                {
                    let claims = answer["claims"].as_str().and_then(|claims| serde_json::from_str(claims).ok());
                    let claims_challenge = claims.filter(Value::is_object).unwrap_or_else(|| json!({}));
                    break 'sign_in ("the refresh token was refused", Some(claims_challenge));
                }
                // Nothing new to be had, but what is there has not expired.
                _ if cached_expires_in > 0 => {
                    info!("using the access token in the cache, {cached_expires_in} s left");
                    break 'acquired (cached_access_token, cached_expires_in);
                }
                (429 | 503, _) => {
                    return Err(ErrorServiceUnavailable("The identity platform is busy. Try again in a minute."));
                }
                (504, _) => {
                    return Err(ErrorGatewayTimeout("The identity platform did not answer in time. Try again."));
                }
                (400..=499, error) if !error.is_empty() => {
                    return Err(ErrorBadGateway(format!(
                        "The identity platform refused to renew the access token: {error}: {description} \
                         Look at CLIENT_ID, CLIENT_CREDENTIAL and SCOPE in the settings."
                    )));
                }
                _ => {
                    warn!("refused: the answer lacks an access token or the token type Bearer");
                    return Err(ErrorBadGateway("The identity platform is out of order. Try again in a minute."));
                }
            }

            // An id token in the answer must be of the user who signed in (OpenID
            // Connect Core section 12.2). It comes straight from the token endpoint,
            // over TLS, and decides nothing else, so its signature is left alone: that
            // is what is insecure about this decoding.
            if let Some(id_token) = answer["id_token"].as_str() {
                let claims: Value = insecure_decode_claims(id_token).unwrap_or_default();
                if let Some(check) = ["iss", "sub"].iter().find(|claim| claims[**claim] != id_token_claims[**claim]) {
                    warn!("refused: {check} of the refreshed id token is not that of the signed-in user");
                    return Err(ErrorUnauthorized(format!(
                        "The id token that came with a refresh cannot be trusted: its {check} is not that of the \
                         signed-in user."
                    )));
                }
            }
            // MSAL forgets expired access tokens when it comes by, or the cache would
            // grow with each set of scopes.
            if let Some(access_tokens) = token_cache["AccessToken"].as_object_mut() {
                access_tokens.retain(|_, entry| time(entry, "expires_on").is_some_and(|time| time >= now));
            }
            // <ms_docref_cache_tokens>
            // The unified cache schema of all MSALs: five sections of entries, each
            // under a lower-cased key made of its own fields, so that a new access
            // token replaces the one for the same scopes. Times are seconds since
            // 1970, as strings. What MSAL would write is written, whether this app
            // reads it again or not.
            //
            // What was granted need not be what was asked for; an answer without scope
            // grants just that (RFC 6749 section 5.1).
            let mut target: Vec<&str> = answer["scope"].as_str().unwrap_or(scope).split_whitespace().collect();
            target.sort_unstable();
            let target = target.join(" ");
            // A number (RFC 6749 section 5.1), or a text of one: both have been seen.
            let seconds = |field: &str| {
                let number = answer[field].as_f64().map(|seconds| seconds as i64);
                number.or_else(|| answer[field].as_str()?.trim().parse().ok())
            };
            let expires_in =
                seconds("expires_in").or_else(|| Some(seconds("expires_on")?.saturating_sub(now))).unwrap_or(600);
            let client_id = &settings.client_id;
            // extended_expires_on is for an identity platform that is out of order;
            // this app makes no use of it.
            let mut access_token = json!({
                "credential_type": "AccessToken",
                "secret": answer["access_token"],
                "home_account_id": home_account_id, "environment": environment, "realm": realm,
                "client_id": client_id,
                "target": target,
                "token_type": answer["token_type"],
                "cached_at": now.to_string(),
                "expires_on": now.saturating_add(expires_in).to_string(),
                "extended_expires_on": now.saturating_add(seconds("ext_expires_in").unwrap_or(expires_in)).to_string(),
            });
            // For long-lived tokens the identity platform says from when on a new one
            // would be welcome.
            if let Some(refresh_in) = seconds("refresh_in") {
                access_token["refresh_on"] = now.saturating_add(refresh_in).to_string().into();
            }
            let key =
                format!("{home_account_id}-{environment}-accesstoken-{client_id}-{realm}-{target}").to_lowercase();
            token_cache["AccessToken"][key] = access_token;
            // The raw id token, for whoever asks MSAL for it; the claims that this app
            // goes by are in `user`.
            if answer["id_token"].is_string() {
                let key = format!("{home_account_id}-{environment}-idtoken-{client_id}-{realm}-").to_lowercase();
                token_cache["IdToken"][key] = json!({
                    "credential_type": "IdToken",
                    "secret": answer["id_token"],
                    "home_account_id": home_account_id, "environment": environment, "realm": realm,
                    "client_id": client_id,
                });
            }
            // `foci` is there for Microsoft's own apps, which share their refresh
            // tokens with their family.
            let family = answer.get("foci");
            if answer["refresh_token"].is_string() {
                // A refresh token is for all scopes: a new one takes the place of the one
                // held, whatever the target of the answer.
                let mut refresh_token = held_refresh_token.clone();
                if refresh_token.is_null() {
                    refresh_token = json!({
                        "credential_type": "RefreshToken",
                        "home_account_id": home_account_id, "environment": environment,
                        "client_id": client_id,
                        "target": target,
                    });
                    if let Some(family) = family {
                        refresh_token["family_id"] = family.clone();
                    }
                }
                refresh_token["secret"] = answer["refresh_token"].clone();
                refresh_token["last_modification_time"] = now.to_string().into();
                let target = refresh_token["target"].as_str().unwrap_or_default();
                let key = format!("{home_account_id}-{environment}-refreshtoken-{client_id}--{target}").to_lowercase();
                token_cache["RefreshToken"][key] = refresh_token;
            }
            let mut app_metadata = json!({ "client_id": client_id, "environment": environment });
            if let Some(family) = family {
                app_metadata["family_id"] = family.clone();
            }
            token_cache["AppMetadata"][format!("appmetadata-{environment}-{client_id}")] = app_metadata;
            // </ms_docref_cache_tokens>
            // Into the session as it is now, which actix-session writes back when this
            // handler is done. Should the user have signed out meanwhile, the session
            // is gone and stays so.
            session.insert("token_cache", token_cache.to_string())?;
            info!("tokens refreshed and cached, access token valid for {expires_in} s");
            (answer["access_token"].as_str().unwrap_or_default().to_owned(), expires_in)
        };
        // </ms_docref_acquire_token>

        // <ms_docref_call_ms_graph>
        // 3. What the page is for: call Microsoft Graph as the user, with the
        // access token in the Authorization header (RFC 6750 section 2.1). The
        // token is Graph's to read and to validate; to this app it is an opaque
        // string.
        let sent = async {
            let mut response = http.get(&settings.endpoint).bearer_auth(&access_token).send().await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await?.filter(|_| body.len() < 1_000_000) {
                body.extend_from_slice(&chunk);
            }
            let answer = serde_json::from_slice(&body).unwrap_or_default();
            let challenges = response.headers().get_all("www-authenticate").into_iter().cloned().collect();
            Ok::<_, reqwest::Error>((response.status().as_u16(), answer, challenges))
        };
        let (status, answer, challenges): (u16, Value, Vec<_>) = sent.await.unwrap_or_else(|err: reqwest::Error| {
            warn!("no answer from Microsoft Graph: {err:?}");
            (if err.is_timeout() { 504 } else { 502 }, Value::Null, Vec::new())
        });
        // Graph may refuse a token that has not expired: the user was disabled,
        // the password changed, the network is another one. What a good token
        // would have to come with is then among the challenges of a header (RFC
        // 9110 section 11.6.1): a claims challenge, JSON in base64.
        let claims_challenge = (challenges.iter())
            .flat_map(|challenges| http_auth::parse_challenges(challenges.to_str().unwrap_or("")).unwrap_or_default())
            .filter(|challenge| challenge.scheme.eq_ignore_ascii_case("Bearer"))
            .map(|challenge| challenge.params.into_iter())
            .map(|params| params.map(|(name, value)| (name.to_ascii_lowercase(), value.to_unescaped())).collect())
            .filter(|params: &HashMap<_, _>| params.get("error").is_some_and(|error| error == "insufficient_claims"))
            .filter_map(|params| STANDARD_NO_PAD.decode(params.get("claims")?.trim_end_matches('=')).ok())
            .find_map(|json| serde_json::from_slice::<Value>(&json).ok().filter(Value::is_object));
        let code = answer["error"]["code"].as_str().unwrap_or("no error code");
        let message = answer["error"]["message"].as_str().unwrap_or("no message");
        if status != 200 || !answer.is_object() {
            warn!("nothing to show from Microsoft Graph: {status}, {code:?}: {message:?}");
        }
        // All that Graph can answer. Its code and message are shown: they say
        // which permission is missing.
        match (status, claims_challenge) {
            (200, _) if answer.is_object() => info!("Microsoft Graph answered {status}"),
            // Only the user can meet it, by signing in for those claims.
            (401, Some(claims_challenge)) if !challenge_answered => {
                break 'sign_in ("Microsoft Graph asks for more claims", Some(claims_challenge));
            }
            (401, _) => {
                // Not this token again: the next visit renews it.
                if let Some(access_tokens) = token_cache["AccessToken"].as_object_mut() {
                    access_tokens.retain(|_, entry| entry["secret"] != access_token);
                    session.insert("token_cache", token_cache.to_string())?;
                }
                return Err(ErrorBadGateway(format!("Microsoft Graph refused the access token: {code}: {message}")));
            }
            (429 | 503, _) => return Err(ErrorServiceUnavailable("Microsoft Graph is busy. Try again in a minute.")),
            (504, _) => return Err(ErrorGatewayTimeout("Microsoft Graph did not answer in time. Try again.")),
            (400..=499, _) => {
                return Err(ErrorBadGateway(format!(
                    "Microsoft Graph refused the call with {status}: {code}: {message} Look at ENDPOINT and SCOPE in \
                     the settings."
                )));
            }
            _ => return Err(ErrorBadGateway("Microsoft Graph is out of order. Try again in a minute.")),
        }
        // </ms_docref_call_ms_graph>

        // The template escapes whatever it is given, so names and answers with
        // markup in them are shown and not obeyed.
        let mut context = Context::new();
        let user_name = id_token_claims["name"].as_str().or(id_token_claims["preferred_username"].as_str());
        context.insert("user_name", user_name.unwrap_or("a user without a name"));
        context.insert("graph_response", &serde_json::to_string_pretty(&answer)?);
        context.insert("expires_in", &expires_in);
        let page = templates.render("authenticated/graph.html", &context).map_err(ErrorInternalServerError)?;
        return Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page));
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

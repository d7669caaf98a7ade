//! `GET /auth/redirect`: the second leg of the auth code flow. The browser
//! brings a code, which becomes tokens, which become a signed-in session,
//! if all checks hold; nothing is stored before they do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix_session::Session;
use actix_web::error::{
    Error, ErrorBadGateway, ErrorBadRequest, ErrorForbidden, ErrorGatewayTimeout, ErrorServiceUnavailable,
    ErrorUnauthorized,
};
use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, get_current_timestamp};
use reqwest::Client;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout_at;
use tracing::{info, warn};
use url::{Url, form_urlencoded};

use crate::settings::Settings;

/// The identity platform's signing keys (RFC 7517), and when they were
/// fetched: one copy for all sign-ins, for 24 hours.
static SIGNING_KEYS: Mutex<Option<(Instant, Vec<Value>)>> = Mutex::const_new(None);

/// Completes a sign-in and redirects to the page that it was started for.
///
/// # Errors
/// 400 if the sign-in was not started in this browser or is over, 403 if it
/// was declined, 401 if the id token fails a check, 502, 503 or 504 if the
/// identity platform does not do its part; the page says which and why.
pub async fn authorized(
    req: HttpRequest,
    session: Session,
    settings: Data<Settings>,
    http: Data<Client>,
) -> Result<HttpResponse, Error> {
    let started = Instant::now();
    // Seconds since 1970, as all times in tokens and in the token cache.
    let now = get_current_timestamp().cast_signed();

    // 5. The answer to the authorization request (RFC 6749 section 4.1.2),
    // which the identity platform sent by way of the browser: whoever made the
    // browser come here, and with what, has to be found out first.
    //
    // No parameter may be there twice (section 3.1): which of the two would a
    // proxy, a log or this app believe? Names and values are shown and logged
    // only as far as the steps below have found out whose they are.
    let mut query = HashMap::new();
    let mut repeated = false;
    for (name, value) in form_urlencoded::parse(req.query_string().as_bytes()) {
        repeated |= query.insert(name, value).is_some();
    }
    // The flow of this state, if this browser started one in the last ten
    // minutes (RFC 6749 section 10.12). It is taken out of the session,
    // whatever follows, so that no later callback can use it; of two at once,
    // the identity platform refuses the second code. Until here nothing is
    // known of who sent the query, so nothing of it is shown.
    let mut flows: Map<String, Value> = session.get("auth_code_flow").ok().flatten().unwrap_or_default();
    let flow = query.get("state").filter(|_| !repeated).and_then(|state| flows.shift_remove(&**state));
    if flow.is_some() {
        session.insert("auth_code_flow", &flows)?;
    }
    let Some(flow) = flow.filter(|flow| flow["expires_on"].as_i64().is_some_and(|expires_on| now < expires_on)) else {
        warn!("refused: no sign-in with this state is under way here, or it is too old, or a parameter is there twice");
        return Err(ErrorBadRequest("This sign-in was not started in this browser, or is over. Sign in again."));
    };
    // Which identity platform answers, where it says so (RFC 9207 section
    // 2.4): an app with several of them could be made to bring the code of one
    // to another.
    if query.get("iss").is_some_and(|iss| settings.openid_metadata["issuer"] != **iss) {
        warn!("refused: the answer comes from another issuer, {:?}", query["iss"]);
        return Err(ErrorBadRequest("This answer is not from the identity platform that was asked. Sign in again."));
    }
    // The user declined, or an administrator has to consent first, or a policy
    // forbids it (section 4.1.2.1).
    if let Some(error) = query.get("error") {
        let description = query.get("error_description").map(|description| &**description).unwrap_or_default();
        warn!("the identity platform says no, {error:?}: {description:?}");
        return Err(ErrorForbidden(format!("The sign-in was declined: {error}: {description}")));
    }
    let Some(code) = query.get("code").filter(|code| !code.is_empty()) else {
        warn!("refused: the answer has neither a code nor an error");
        return Err(ErrorBadRequest("The identity platform sent no code. Sign in again."));
    };

    // <ms_docref_redeem_auth_code>
    // 6. Redeem the code at the token endpoint (RFC 6749 section 4.1.3):
    // server to server, so that no token passes through the browser. This app
    // authenticates with its client secret (section 2.3.1), and shows with the
    // code_verifier that it is the one that asked for this code (RFC 7636
    // section 4.5). A real app would rather have a certificate, or a managed
    // identity, than a secret that can be copied.
    info!("code received, redeeming it at the token endpoint");
    let token_endpoint = settings.openid_metadata["token_endpoint"].as_str().unwrap_or_default();
    let [redirect_uri, scope, code_verifier, claims] =
        ["redirect_uri", "scope", "code_verifier", "claims"].map(|field| flow[field].as_str().unwrap_or_default());
    let grant = [
        ("client_id", settings.client_id.as_str()),
        ("client_secret", &settings.client_credential),
        ("grant_type", "authorization_code"),
        ("code", code),
        ("code_verifier", code_verifier),
        // The same as at the authorization endpoint, which the identity platform
        // compares, and MSAL repeats.
        ("redirect_uri", redirect_uri),
        ("scope", scope),
        ("claims", claims),
        ("client_info", "1"),
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
    let error = answer["error"].as_str().unwrap_or_default();
    let description = answer["error_description"].as_str().unwrap_or_default();
    let is_bearer = answer["token_type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
    if status != 200 || !error.is_empty() {
        warn!("no tokens from the token endpoint: {status}, {error:?}: {description:?}");
    }
    // All that the token endpoint can answer (RFC 6749 sections 5.1 and 5.2),
    // and all that a network can.
    match (status, error) {
        (200, "") if answer["access_token"].is_string() && answer["id_token"].is_string() && is_bearer => {}
        (429 | 503, _) => return Err(ErrorServiceUnavailable("The identity platform is busy. Try again in a minute.")),
        (504, _) => return Err(ErrorGatewayTimeout("The identity platform did not answer in time. Try again.")),
        // The code was used before, or is too old, as after a reload: a new one is
        // to be had by a new sign-in.
        (400..=499, "invalid_grant") => {
            return Err(ErrorBadRequest("The identity platform did not accept this sign-in's code. Sign in again."));
        }
        // A policy, or a consent that is missing: the user has to do something at
        // the identity platform.
        (400..=499, "interaction_required" | "consent_required" | "login_required") => {
            return Err(ErrorForbidden(format!("The identity platform asks for more: {error}: {description}")));
        }
        // The app itself is refused, which no user can mend: whoever registered it
        // has to know what to look at.
        (400..=499, error) if !error.is_empty() => {
            let settings = match error {
                "invalid_client" => "CLIENT_CREDENTIAL (a secret's Value, not its Secret ID; it expires) and CLIENT_ID",
                "unauthorized_client" => "CLIENT_ID and AUTHORITY",
                "invalid_scope" | "invalid_resource" => "SCOPE",
                _ => "CLIENT_ID, AUTHORITY, REDIRECT_URI and SCOPE",
            };
            // Microsoft's support asks for the two ids, which its descriptions end
            // with, too.
            let description = description.split("Trace ID:").next().unwrap_or_default().trim_end();
            return Err(ErrorBadGateway(format!(
                "The identity platform refused this app: {error}: {description} Look at {settings} in the settings. \
                 Trace ID: {}. Correlation ID: {}.",
                answer["trace_id"].as_str().unwrap_or("none"),
                answer["correlation_id"].as_str().unwrap_or("none"),
            )));
        }
        _ => {
            warn!("refused: the answer lacks an access token, an id token or the token type Bearer");
            return Err(ErrorBadGateway("The identity platform is out of order: its answer lacks the tokens."));
        }
    }
    // </ms_docref_redeem_auth_code>

    // <ms_docref_validate_id_token>
    // 7. Validate the id token (OpenID Connect Core section 3.1.3.7 and
    // Microsoft's rules): who signed in is what it says, so nothing in it
    // counts before its signature is verified. MSAL relies on TLS here, as the
    // section allows; the signature also holds where a proxy ends the TLS. The
    // algorithm is RS256, whatever its header says, and the key is one of the
    // identity platform's own (jwks_uri), never one that the token brings
    // along (RFC 8725 sections 3.1 and 3.10). Claims are checked further
    // below.
    let id_token = answer["id_token"].as_str().unwrap_or_default();
    let header = jsonwebtoken::decode_header(id_token).ok();
    let Some(header) = header.filter(|header| header.alg == Algorithm::RS256 && header.crit.is_none()) else {
        warn!("refused: the id token fails the check of alg");
        return Err(ErrorUnauthorized("The id token cannot be trusted: its header fails the check of alg."));
    };
    // Of the JWT library only the signature is wanted: its rules for claims
    // are laxer than those below.
    let mut signature_only = Validation::new(Algorithm::RS256);
    signature_only.required_spec_claims.clear();
    (signature_only.validate_exp, signature_only.validate_aud) = (false, false);
    // Keys change without notice: if none of those at hand can have signed the
    // token, new ones are fetched, once.
    let mut verified = None;
    for attempt in 0..2 {
        // However many sign-ins wait here, one of them fetches the keys, and none
        // waits more than 15 seconds.
        let deadline = Instant::now() + Duration::from_secs(15);
        let Ok(mut signing_keys) = timeout_at(deadline.into(), SIGNING_KEYS.lock()).await else {
            warn!("no signing keys in 15 seconds: another sign-in is still fetching them");
            return Err(ErrorGatewayTimeout("The identity platform did not answer in time. Try again."));
        };
        // After a day they are fetched anew in any case, and at the second attempt
        // unless another sign-in has just done so.
        let is_fresh = |(fetched, _): &(Instant, _)| {
            fetched.elapsed() < Duration::from_secs(86_400) && (attempt == 0 || *fetched > started)
        };
        if !signing_keys.as_ref().is_some_and(is_fresh) {
            info!("fetching the identity platform's signing keys");
            let jwks_uri = settings.openid_metadata["jwks_uri"].as_str().unwrap_or_default();
            let sent = async {
                let time_left = deadline.saturating_duration_since(Instant::now());
                let mut response = http.get(jwks_uri).timeout(time_left).send().await?;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await?.filter(|_| body.len() < 1_000_000) {
                    body.extend_from_slice(&chunk);
                }
                Ok((response.status().as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
            };
            let (status, jwks): (u16, Value) = sent.await.unwrap_or_else(|err: reqwest::Error| {
                warn!("no answer from the address of the signing keys: {err:?}");
                (if err.is_timeout() { 504 } else { 502 }, Value::Null)
            });
            if status != 200 || !jwks["keys"].is_array() {
                warn!("no signing keys from the identity platform: {status}");
            }
            // What cannot be had is tried again by the next sign-in: only a good
            // answer is kept.
            match (status, jwks["keys"].as_array()) {
                (200, Some(keys)) => *signing_keys = Some((Instant::now(), keys.clone())),
                (429 | 503, _) => {
                    return Err(ErrorServiceUnavailable("The identity platform is busy. Try again in a minute."));
                }
                (504, _) => {
                    return Err(ErrorGatewayTimeout("The identity platform did not answer in time. Try again."));
                }
                _ => {
                    return Err(ErrorBadGateway(
                        "The identity platform is out of order: it does not hand out its signing keys.",
                    ));
                }
            }
        }
        // The signature (RFC 7515 section 5.2) is over the header and the claims,
        // byte by byte, so a token that was changed anywhere fails here.
        //
        // RSA keys that are not for encryption: the one that the header names, or
        // each if it names none. Keys of other kinds are for somebody else.
        let keys = signing_keys.iter().flat_map(|(_, keys)| keys);
        verified = (keys.filter(|key| key["kty"] == "RSA" && key["use"] != "enc"))
            .filter(|key| header.kid.as_ref().is_none_or(|kid| key["kid"] == **kid))
            .find_map(|key| {
                let public_key = DecodingKey::from_rsa_components(key["n"].as_str()?, key["e"].as_str()?).ok()?;
                let token = jsonwebtoken::decode::<Value>(id_token, &public_key, &signature_only).ok()?;
                Some((token.claims, key["issuer"].as_str().map(str::to_owned)))
            });
        if verified.is_some() {
            break;
        }
    }
    let Some((id_token_claims, key_issuer)) = verified else {
        warn!("refused: the id token fails the check of its signature");
        return Err(ErrorUnauthorized("The id token cannot be trusted: its signature fails the check."));
    };

    // The claims, each against what this app knows by itself: its settings,
    // the metadata, its clock, this flow.
    //
    // An authority for several tenants has an issuer with a gap, {tenantid},
    // for the tenant of the user: a GUID, so that nothing else fits in. A key
    // may be good for one issuer only.
    let is_guid = |tid: &&str| {
        let is_hex_or_hyphen = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        tid.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && tid.bytes().all(is_hex_or_hyphen)
    };
    let tid = id_token_claims["tid"].as_str().filter(is_guid).unwrap_or("{tenantid}");
    let issuer = settings.openid_metadata["issuer"].as_str().unwrap_or_default().replace("{tenantid}", tid);
    let key_issuer = key_issuer.map_or_else(|| issuer.clone(), |key_issuer| key_issuer.replace("{tenantid}", tid));
    // Numeric dates (RFC 7519 section 2), with 120 seconds, because clocks
    // differ.
    let time = |claim: &str| id_token_claims[claim].as_f64();
    let (earliest, latest) = (now as f64 - 120.0, now as f64 + 120.0);
    let checks = [
        // Steps 2 and 3: it comes from the identity platform that was asked, and
        // is for this app and nobody else.
        ("iss", id_token_claims["iss"] == issuer && key_issuer == issuer && !issuer.contains('{')),
        ("aud", id_token_claims["aud"] == settings.client_id || id_token_claims["aud"] == json!([settings.client_id])),
        // Steps 9 and 10, and RFC 7519 section 4.1.5: it has not expired, and is
        // not of the future.
        ("exp", time("exp").is_some_and(|exp| exp > earliest)),
        ("nbf", id_token_claims.get("nbf").is_none() || time("nbf").is_some_and(|nbf| nbf <= latest)),
        ("iat", time("iat").is_some_and(|iat| iat <= latest)),
        // Section 2: it says who the user is, by the one name that nobody else has
        // at this issuer.
        ("sub", id_token_claims["sub"].is_string()),
        // Step 11: it was issued for this very sign-in.
        ("nonce", id_token_claims["nonce"].is_string() && id_token_claims["nonce"] == flow["nonce"]),
    ];
    // The first check that fails has its name on the page and in the log:
    // whoever sets up an app can tell a wrong CLIENT_ID from a slow clock.
    if let Some((check, _)) = checks.iter().find(|(_, holds)| !holds) {
        warn!("refused: the id token fails the check of {check}");
        let advice = if ["exp", "nbf", "iat"].contains(check) { " Is the clock of this computer right?" } else { "" };
        return Err(ErrorUnauthorized(format!(
            "The id token cannot be trusted: it fails the check of {check}.{advice}"
        )));
    }
    info!("id token validated: signature, iss, aud, exp, nbf, iat, sub and nonce");
    // </ms_docref_validate_id_token>

    // 8. The token cache. It is this user's alone and begins empty: a sign-in
    // leaves nothing of an earlier one. In MSAL's names the environment is the
    // host of the authority, the realm is the tenant that the token endpoint
    // is of, and the account is known by the client_info that came with the
    // tokens: a user (uid) of a home tenant (utid), who may be a guest in this
    // one. Without it the id token's subject has to do.
    let mut token_cache = json!({});
    // None is held yet; the block below is word for word that of graph.rs,
    // where one is.
    let held_refresh_token = Value::Null;
    let environment = Url::parse(&settings.authority).ok().and_then(|url| Some(url.host_str()?.to_owned()));
    let environment = environment.unwrap_or_default();
    let realm = Url::parse(token_endpoint).ok().and_then(|url| Some(url.path_segments()?.next()?.to_owned()));
    let realm = realm.unwrap_or_default();
    // Base64url, but the other alphabet and padding have been seen too.
    let client_info = answer["client_info"].as_str().map(|part| part.replace('+', "-").replace('/', "_"));
    let client_info: Value = (client_info.and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()))
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    let home_account_id = match (client_info["uid"].as_str(), client_info["utid"].as_str()) {
        (Some(uid), Some(utid)) => format!("{uid}.{utid}"),
        _ => id_token_claims["sub"].as_str().unwrap_or_default().to_owned(),
    };
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
    let expires_in = seconds("expires_in").or_else(|| Some(seconds("expires_on")?.saturating_sub(now))).unwrap_or(600);
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
    let key = format!("{home_account_id}-{environment}-accesstoken-{client_id}-{realm}-{target}").to_lowercase();
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
    // The account itself is written at the sign-in only: a refresh brings
    // nothing new about it. The username is for people and may change; what
    // says who the user is are the ids.
    let username = id_token_claims.get("preferred_username").unwrap_or(&id_token_claims["upn"]);
    token_cache["Account"][format!("{home_account_id}-{environment}-{realm}").to_lowercase()] = json!({
        "home_account_id": home_account_id, "environment": environment, "realm": realm,
        "local_account_id": id_token_claims.get("oid").unwrap_or(&id_token_claims["sub"]),
        "username": username.as_str().unwrap_or_default(),
        "authority_type": "MSSTS",
        "account_source": "authorization_code",
    });
    // Dead on arrival: tokens that the pages can neither use nor renew would
    // only send the user back here, again and again.
    let covers_scope = settings.scope.split_whitespace().all(|scope| target.split(' ').any(|granted| granted == scope));
    if !answer["refresh_token"].is_string() && (expires_in < 60 || !covers_scope) {
        warn!("refused: no refresh token, and an access token for {expires_in} s and {target:?}");
        return Err(ErrorBadGateway(
            "The identity platform sent an access token that is of no use, and none to renew it with. Look at SCOPE \
             in the settings.",
        ));
    }

    // 9. Signed in: only now, with every check behind it, is anything stored.
    // The session gets a new id, so that one that was planted in the browser
    // before is worth nothing (session fixation, OWASP ASVS 5.0 section
    // 7.2.4). Other tabs' flows stay.
    let mut user = json!({ "id_token": id_token, "id_token_claims": id_token_claims });
    if !flow["claims_challenge"].is_null() {
        user["claims_challenge"] = flow["claims_challenge"].clone();
    }
    session.insert("user", user)?;
    session.insert("token_cache", token_cache.to_string())?;
    session.renew();
    info!("tokens cached, access token valid for {expires_in} s");
    info!("signed in: {:?}, redirecting to the page asked for", id_token_claims["sub"].as_str().unwrap_or_default());

    // Back to the page asked for, which must be one of ours (RFC 9700 section
    // 4.11: no open redirector). A second slash, or the backslash that
    // browsers take for one, would begin another host's name, even after a tab
    // or line end, which they skip.
    let post_sign_in_url = flow["post_sign_in_url"].as_str().filter(|url| {
        url.starts_with('/') && !url[1..].starts_with(['/', '\\']) && url.bytes().all(|byte| byte.is_ascii_graphic())
    });
    Ok(HttpResponse::Found().insert_header((LOCATION, post_sign_in_url.unwrap_or("/"))).finish())
}

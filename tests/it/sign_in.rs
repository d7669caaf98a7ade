//! Steps 1 to 7 and 9: from a protected page to the identity platform and back, the token cache,
//! the call to Microsoft Graph, the app role, and the sign-out.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use actix_web::cookie::{Cookie, CookieJar, Key};
use base64::prelude::*;
use serde_json::{Value, json};
use url::Url;

use crate::harness::*;
use crate::platform::*;

/// The parameter `scope` of each request.
const SCOPES: &str = "openid profile offline_access https://graph.microsoft.com/User.Read";
/// The parameter `claims` of each request that does not answer a claims challenge.
const CLAIMS: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

type Edit<T> = fn(&mut T);

/// Opens an address with this header `Cookie`.
async fn get_with_cookie(app: &App, cookie: &str, url: &str) -> Page {
    let browser = app.browser();
    browser.send(browser.client.get(url).header("cookie", cookie)).await
}

/// The headers `Set-Cookie`.
fn set_cookies(page: &Page) -> Vec<&str> {
    let cookies = page.headers.get_all("set-cookie").iter();
    cookies.map(|cookie| cookie.to_str().unwrap()).collect()
}

/// The values in a flow cookie that the app encrypted with SECRET_KEY.
fn open_flow(cookie: &str) -> Value {
    let key = Key::derive_from(SECRET_KEY.as_bytes());
    let cookie = Cookie::parse(cookie.to_owned()).unwrap();
    let cookie = CookieJar::new().private(&key).decrypt(cookie).unwrap();
    serde_json::from_str(cookie.value()).unwrap()
}

/// Changes one value in a flow cookie that the app encrypted with SECRET_KEY.
fn change_flow(cookie: &str, name: &str, value: impl Into<Value>) -> String {
    let mut flow = open_flow(cookie);
    flow[name] = value.into();
    let (cookie_name, _) = cookie.split_once('=').unwrap();
    let key = Key::derive_from(SECRET_KEY.as_bytes());
    let mut jar = CookieJar::new();
    jar.private_mut(&key).add(Cookie::new(cookie_name.to_owned(), flow.to_string()));
    jar.delta().next().unwrap().stripped().to_string()
}

/// Asserts that a time is so many seconds from now. The test itself takes less than a minute.
#[track_caller]
fn assert_is_in(seconds: i64, time: &Value) {
    let left = time.as_i64().unwrap() - now();
    assert!((seconds - 60..=seconds).contains(&left), "{left} seconds, expected {seconds}");
}

#[tokio::test]
async fn step_5_sends_what_the_specifications_require() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let mut random_values = HashSet::new();
    for path in ["/graph", "/graph", "/admin", "/admin"] {
        let authorize = app.browser().get(app.at(path)).await;
        assert_eq!(authorize.status, 302);
        let url = Url::parse(authorize.location()).unwrap();
        assert_eq!(url.path(), format!("/{TENANT_ID}/oauth2/v2.0/authorize"));
        let mut sent: HashMap<String, String> = url.query_pairs().into_owned().collect();
        let [state, nonce, code_challenge] =
            ["state", "nonce", "code_challenge"].map(|name| sent.remove(name).unwrap());
        let (_, state) = state.split_once('-').unwrap();
        for random in [state, &nonce, &code_challenge] {
            assert_eq!(random.len(), 43, "32 bytes in Base64");
            assert!(random_values.insert(random.to_owned()), "{random} is used twice");
        }
        let expected = json!({
            "client_id": CLIENT_ID, "redirect_uri": app.at("/auth/redirect"),
            "response_type": "code", "code_challenge_method": "S256",
            "scope": SCOPES, "claims": CLAIMS,
        });
        assert_eq!(json!(sent), expected);
    }
    assert_eq!(app.session_files(), Vec::<PathBuf>::new(), "a visitor has no session");
}

#[tokio::test]
async fn a_sign_in_sends_the_code_and_stores_the_user_and_the_tokens() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| {
        answer.json["expires_in"] = 90_000.into();
        answer.json["refresh_in"] = 45_000.into();
    });
    let (app, browser) = platform.signed_in(&[]).await;
    // The platform has compared the code and the code verifier.
    let mut form = platform.token_forms().await.remove(0);
    assert!(form.remove("code").is_some() && form.remove("code_verifier").is_some());
    let expected = json!({
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
        "grant_type": "authorization_code", "redirect_uri": app.at("/auth/redirect"),
        "scope": SCOPES, "claims": CLAIMS,
    });
    assert_eq!(json!(form), expected);
    let session = app.session();
    let (user, cache) = (&session["user"], &session["token_cache"]);
    assert_eq!(user["id_token_claims"]["name"], "Cleo Example");
    assert_eq!(user["answered_challenge"], false);
    assert_is_in(0, &user["signed_in_on"]);
    assert_eq!(cache["scope"], SCOPE);
    assert_is_in(90_000, &cache["expires_on"]);
    assert_is_in(45_000, &cache["refresh_on"]);

    let page = browser.get(app.at("/graph")).await;
    assert!(page.status == 200 && page.body.contains("cleo@platform.example"), "{}", page.body);
    let (_, shown) = page.body.split_once("valid for another <strong>").unwrap();
    let seconds: i64 = shown.split(' ').next().unwrap().parse().unwrap();
    assert_is_in(90_000, &json!(now() + seconds));
}

/// With the values in the session, as in the Flask sample, all but one of the tabs would fail.
#[tokio::test]
async fn four_tabs_that_start_at_the_same_moment_all_arrive() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let tabs = ["/graph?tab=1", "/admin?tab=2", "/graph?tab=3", "/admin?tab=4"];
    for round in 0..20 {
        let browser = app.browser();
        // In every second round, the browser has signed out before.
        if round % 2 == 1 {
            platform.sign_in(&app, &browser, "/graph").await;
            browser.get(app.at("/logout")).await;
        }
        let open = |tab| {
            let (browser, url) = (browser.clone(), app.at(tab));
            tokio::spawn(async move { browser.get(url).await })
        };
        let mut callbacks = Vec::new();
        for tab in tabs.map(open) {
            callbacks.push(platform.callback(&tab.await.unwrap()));
        }
        let finish = |callback| {
            let browser = browser.clone();
            tokio::spawn(async move { browser.get(callback).await })
        };
        let arrivals: Vec<_> = callbacks.into_iter().map(finish).collect();
        for (arrival, tab) in arrivals.into_iter().zip(tabs) {
            let page = arrival.await.unwrap();
            assert_eq!((page.status, page.location()), (302, tab), "round {round}");
        }
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "round {round}");
    }
}

#[tokio::test]
async fn flow_cookies_are_safe_small_and_few() {
    let platform = Platform::start().await;
    let https = ("REDIRECT_URI", "https://app.example/auth/redirect");
    for (more, prefix, secure) in
        [(None, "rust-webapp-flow-", ""), (Some(https), "__Host-rust-webapp-flow-", " Secure;")]
    {
        let settings: Vec<_> = [("SECRET_KEY", SECRET_KEY)].into_iter().chain(more).collect();
        let app = platform.app(&settings).await;
        for path in ["/graph", "/admin"] {
            // A browser may send cookies in any order.
            let sent = [4, 1, 6, 2, 5, 3].map(|second| format!("{prefix}{second}-random=value"));
            let sent = format!("other-app-flow-1=value; {}", sent.join("; "));
            let url = app.at(&format!("{path}?q={}", "x".repeat(2_000)));
            let page = get_with_cookie(&app, &sent, &url).await;
            let cookies = set_cookies(&page);
            let (new, attributes) = cookies[0].split_once(';').unwrap();
            let expected = format!(" HttpOnly; SameSite=Lax;{secure} Path=/; Max-Age=900");
            assert_eq!(attributes, expected);
            // A page address that does not fit into a cookie is cut to its path.
            assert_eq!(open_flow(new)["post_sign_in_url"], path);
            assert_is_in(900, &open_flow(new)["expires_on"]);
            // The name contains the time, so this is the newest one.
            let (started_on, _) = new.strip_prefix(prefix).unwrap().split_once('-').unwrap();
            assert_is_in(0, &json!(started_on.parse::<i64>().unwrap()));
            assert!(new.len() < 1_000, "{new}");
            // The four newest of the others remain. The rest is removed.
            assert_eq!(cookies.len(), 3, "{cookies:?}");
            for (cookie, second) in cookies[1..].iter().zip([2, 1]) {
                let removal = format!("{prefix}{second}-random=;{secure} Path=/; Max-Age=0; ");
                assert!(cookie.starts_with(&removal), "{cookie}");
            }
            // A sign-in that has ended removes its own cookie.
            let callback = platform.callback(&page).replace("https://app.example", &app.url);
            let page = get_with_cookie(&app, new, &callback).await;
            let removal =
                format!("{}=;{secure} Path=/; Max-Age=0; ", new.split_once('=').unwrap().0);
            assert!(set_cookies(&page)[0].starts_with(&removal), "{page:?}");
        }
    }
}

#[tokio::test]
async fn step_6_accepts_a_response_once_and_only_in_the_browser_that_started_the_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let cookie = &authorize.cookies()[0];
    let (name, value) = cookie.split_once('=').unwrap();
    let state = authorize.location_parameter("state").unwrap();
    let good = format!("state={state}&code=secret-code");
    let expired = change_flow(cookie, "expires_on", now() - 1);
    let renamed = format!("rust-webapp-flow-another={value}");
    let plain = format!("{name}={}", open_flow(cookie));
    let (not_started, unreadable) = ("not started in this browser", "cannot read this request.");
    for (case, cookie, query, text) in [
        ("no cookie", "", &*good, not_started),
        ("another state", cookie, "state=another&code=secret-code", not_started),
        ("an expired cookie", &expired, &good, not_started),
        ("the cookie of another state", &renamed, "state=another&code=secret-code", not_started),
        ("not encrypted", &plain, &good, not_started),
        ("an error", "", &format!("state={state}&error=e&error_description=spam"), not_started),
        ("no state", cookie, "code=secret-code", unreadable),
        ("state twice", cookie, &format!("{good}&state={state}"), unreadable),
        ("code twice", cookie, &format!("{good}&code=secret-code"), unreadable),
        ("another issuer", cookie, &format!("{good}&iss=https://evil.example"), "Another tenant"),
        ("no code", cookie, &format!("state={state}"), "sent no code."),
    ] {
        let url = app.at(&format!("/auth/redirect?{query}"));
        let page = get_with_cookie(&app, cookie, &url).await;
        assert!(page.body.contains(text), "{case}: {}", page.body);
        page.assert_error(400, "Sign in again.");
        assert!(!page.body.contains("secret-code") && !page.body.contains("spam"), "{case}");
    }
    assert_eq!(platform.token_forms().await.len(), 0);
    platform.assert_nobody_is_signed_in(&app, &browser).await;

    let issuer = format!("{}/v2.0", platform.authority());
    let callback = format!("{}&iss={issuer}&session_state=x", platform.callback(&authorize));
    let page = browser.get(&callback).await;
    assert_eq!((page.status, page.location()), (302, "/graph"));
    // The cookie of this sign-in is removed.
    assert_eq!(page.cookies()[0], format!("{name}="));
    browser.get(&callback).await.assert_error(400, not_started);
    assert_eq!(platform.token_forms().await.len(), 1);
}

#[tokio::test]
async fn steps_6_and_7_say_what_to_do_when_the_identity_platform_returns_an_error() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let (consent, settings) = ("consent to the permissions of this app.", "SCOPE and AUTHORITY.");
    let not_complete = "The sign-in is not complete. Sign in again.";
    for (step, error, status, advice) in [
        (6, "access_denied", 403, consent),
        (6, "consent_required", 403, consent),
        (6, "server_error", 502, "is not available. Try again in a minute."),
        (6, "temporarily_unavailable", 502, "is not available. Try again in a minute."),
        (6, "invalid_scope", 502, settings),
        (7, "interaction_required", 403, not_complete),
        (7, "consent_required", 403, not_complete),
        (7, "login_required", 403, not_complete),
        (7, "invalid_client", 502, "The platform of the redirect URI must be Web."),
        (7, "invalid_scope", 502, settings),
    ] {
        platform.on(Endpoint::Token, move |answer| answer.refuse(400, error, "AADSTS1: Details"));
        let mut callback = platform.callback(&browser.get(app.at("/graph")).await);
        if step == 6 {
            callback += &format!("&error={error}&error_description=AADSTS1:+Details");
        }
        let before = app.log().len();
        let page = browser.get(callback).await;
        page.assert_error(status, &format!("{advice} {error}: AADSTS1: Details"));
        let log = app.log().split_off(before);
        assert!(log.contains(&format!("\"{error}: AADSTS1: Details\"")), "{log}");
        assert_eq!(log.contains("step 7"), step == 7, "{log}");
    }
    // Usually a code has expired. With a suberror, for example a policy, the user needs details.
    for (suberror, shows_details) in [(None, false), (Some("consent_required"), true)] {
        platform.on(Endpoint::Token, move |answer| {
            answer.refuse(400, "invalid_grant", "AADSTS1: Details");
            answer.json["suberror"] = suberror.into();
        });
        let page = platform.sign_in(&app, &browser, "/graph").await;
        page.assert_error(400, "Sign in again.");
        assert_eq!(page.body.contains("invalid_grant: AADSTS1: Details"), shows_details);
    }
    platform.assert_nobody_is_signed_in(&app, &browser).await;
}

#[tokio::test]
async fn step_7_refuses_a_response_without_all_tokens() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let cases: [(&str, &str, Edit<Value>); 5] = [
        ("another token type", "no valid answer", |json| json["token_type"] = "pop".into()),
        ("a huge time", "no valid answer", |json| json["expires_in"] = i64::MAX.into()),
        ("no refresh token", "not send all tokens", |json| json["refresh_token"] = Value::Null),
        ("no ID token", "not send all tokens", |json| json["id_token"] = Value::Null),
        ("tokens and an error", "not send tokens", |json| json["error"] = "server_error".into()),
    ];
    for (case, text, edit) in cases {
        platform.on(Endpoint::Token, move |answer| edit(&mut answer.json));
        let before = app.log().len();
        let page = platform.sign_in(&app, &browser, "/graph").await;
        assert!(page.body.contains(text), "{case}: {}", page.body);
        page.assert_error(502, "Try again");
        assert!(app.log()[before..].contains("step 7: "), "{case}");
    }
    platform.assert_nobody_is_signed_in(&app, &browser).await;
    platform.on(Endpoint::Token, |answer| answer.json["token_type"] = "bearer".into());
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
}

#[tokio::test]
async fn step_9_redirects_only_within_the_app() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    for (page, location) in [
        ("/admin?a=b", "/admin?a=b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
    ] {
        let authorize = app.browser().get(app.at("/graph")).await;
        let cookie = change_flow(&authorize.cookies()[0], "post_sign_in_url", page);
        let page = get_with_cookie(&app, &cookie, &platform.callback(&authorize)).await;
        assert_eq!((page.status, page.location()), (302, location));
    }
}

/// The rules of MSAL's `acquire_token_silent`.
#[tokio::test]
async fn step_2_refreshes_the_access_token_when_it_is_due() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let user = app.session()["user"].take();
    // The app ignores the ID token of a refresh.
    platform.on(Endpoint::Token, |answer| {
        answer.json["id_token"] = "not an ID token".into();
        answer.json["refresh_in"] = 1_800.into();
    });
    let mut refreshes = 0;
    let cases: [(&str, bool, Edit<Value>); 6] = [
        ("six minutes left", false, |cache| cache["expires_on"] = (now() + 360).into()),
        ("four minutes left", true, |cache| cache["expires_on"] = (now() + 240).into()),
        ("expired", true, |cache| cache["expires_on"] = (now() - 1).into()),
        ("refresh_on is later", false, |cache| cache["refresh_on"] = (now() + 60).into()),
        ("refresh_on has passed", true, |cache| cache["refresh_on"] = now().into()),
        ("another SCOPE", true, |cache| cache["scope"] = "another".into()),
    ];
    for (case, is_due, edit) in cases {
        app.edit_session(|session| edit(&mut session["token_cache"]));
        let before = app.session()["token_cache"].take();
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{case}");
        let cache = app.session()["token_cache"].take();
        let graph = platform.requests(Endpoint::Graph).await.pop().unwrap();
        let access_token = cache["access_token"].as_str().unwrap();
        assert_eq!(graph.headers["authorization"], format!("Bearer {access_token}"), "{case}");
        let forms = platform.token_forms().await;
        refreshes += usize::from(is_due);
        assert_eq!(forms.len(), 1 + refreshes, "{case}");
        if !is_due {
            assert_eq!(cache, before, "{case}");
            continue;
        }
        let expected = json!({
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "grant_type": "refresh_token", "refresh_token": before["refresh_token"],
            "scope": SCOPES, "claims": CLAIMS,
        });
        assert_eq!(json!(forms[refreshes]), expected, "{case}");
        assert_ne!(cache["refresh_token"], before["refresh_token"], "{case}");
        assert_eq!(cache["scope"], SCOPE, "{case}");
        assert_is_in(3_600, &cache["expires_on"]);
        assert_is_in(1_800, &cache["refresh_on"]);
    }
    // If no new refresh token comes, the app keeps the old one.
    let refresh_token = app.session()["token_cache"]["refresh_token"].take();
    platform.on(Endpoint::Token, |answer| answer.json["refresh_token"] = Value::Null);
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(app.session()["token_cache"]["refresh_token"], refresh_token);
    assert_eq!(app.session()["user"], user);
}

#[tokio::test]
async fn step_2_starts_a_sign_in_or_uses_the_cached_token_if_the_refresh_fails() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let set = |seconds_left: i64, seconds_since_sign_in: i64| {
        app.edit_session(|session| {
            session["token_cache"]["expires_on"] = (now() + seconds_left).into();
            session["user"]["signed_in_on"] = (now() - seconds_since_sign_in).into();
        });
    };
    let claims =
        r#"{"access_token":{"xms_cc":{"values":["cp1"]}},"id_token":{"acr":{"value":"1"}}}"#;
    for (error, challenge, claims) in [
        ("invalid_grant", r#"{"id_token":{"acr":{"value":"1"}}}"#, Some(claims)),
        ("interaction_required", r#"["not", "an object of objects"]"#, Some(CLAIMS)),
        ("consent_required", "", Some(CLAIMS)),
        ("login_required", "", Some(CLAIMS)),
        ("invalid_client", "", None),
    ] {
        platform.on(Endpoint::Token, move |answer| {
            answer.refuse(400, error, "AADSTS1: Details");
            answer.json["claims"] = challenge.into();
        });
        // In the first minute after a sign-in, another sign-in could be a redirect loop.
        set(200, 30);
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{error}");
        set(-1, 30);
        let text = format!("CLIENT_CREDENTIAL and SCOPE. {error}: AADSTS1: Details");
        browser.get(app.at("/graph")).await.assert_error(502, &text);
        let line = format!("step 2: the refresh failed, {error:?}: \"AADSTS1: Details\"");
        assert!(app.log().contains(&line), "{line}");
        // After that, a sign-in starts if it can help.
        for (seconds_left, status) in [(200, 200), (-1, 502)] {
            set(seconds_left, 60);
            let page = browser.get(app.at("/graph")).await;
            let status = if claims.is_some() { 302 } else { status };
            let requested = page.location_parameter("claims");
            assert_eq!((page.status, requested.as_deref()), (status, claims), "{error}");
        }
    }
    // The identity platform is not available. A token for another SCOPE is not used.
    platform.on(Endpoint::Token, |answer| answer.say(503, ""));
    for (seconds_left, scope, status) in [(200, SCOPE, 200), (-1, SCOPE, 502), (200, "other", 502)]
    {
        set(seconds_left, 60);
        app.edit_session(|session| session["token_cache"]["scope"] = scope.into());
        assert_eq!(browser.get(app.at("/graph")).await.status, status, "{seconds_left} {scope}");
    }
    // The user is still signed in.
    platform.on(Endpoint::Token, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

/// Makes Microsoft Graph refuse each token with this header `WWW-Authenticate`.
fn challenge(platform: &Platform, header: &str) {
    let header = header.to_owned();
    platform.on(Endpoint::Graph, move |answer| {
        answer.status = 401;
        answer.headers.push(("www-authenticate", header.clone()));
        answer.json = json!({ "error": { "code": "TheCode", "message": "<b>CAE</b>" } });
    });
}

#[tokio::test]
async fn step_3_answers_a_claims_challenge_once() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let claims = BASE64_STANDARD.encode(r#"{"access_token":{"nbf":{"value":"1635527790"}}}"#);
    let of_graph = "Bearer realm=\"\", client_id=\"00000003-0000-0000-c000-000000000000\"";
    let header = format!("{of_graph}, error=\"insufficient_claims\", claims=\"{claims}\"");
    challenge(&platform, &header);

    // The challenge is answered, even directly after a sign-in.
    let authorize = browser.get(app.at("/graph")).await;
    let claims = r#"{"access_token":{"nbf":{"value":"1635527790"},"xms_cc":{"values":["cp1"]}}}"#;
    assert_eq!(authorize.location_parameter("claims").as_deref(), Some(claims));
    let login_hint = authorize.location_parameter("login_hint");
    assert_eq!(login_hint.as_deref(), Some("cleo@platform.example"));
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    assert_eq!(platform.token_forms().await[1]["claims"], claims);
    assert_eq!(app.session()["user"]["answered_challenge"], true);

    // In the next minute, the same challenge is an error. The access token is not used again.
    app.edit_session(|session| session["user"]["signed_in_on"] = (now() - 30).into());
    browser.get(app.at("/graph")).await.assert_error(502, "&lt;b&gt;CAE");
    assert_eq!(app.session()["token_cache"]["expires_on"], 0);

    // A later challenge is answered again.
    app.edit_session(|session| session["user"]["signed_in_on"] = (now() - 60).into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);
}

#[tokio::test]
async fn step_3_finds_a_claims_challenge_only_where_one_is() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let claims = BASE64_STANDARD.encode(r#"{"access_token":{"nbf":{"value":"1"}}}"#);
    let good = format!("Bearer error=\"insufficient_claims\", claims=\"{claims}\"");
    let array = BASE64_STANDARD.encode("[1]");
    for (header, status) in [
        (good.clone(), 302),
        (format!("PoP nonce=\"x\", {good}"), 302),
        (format!("bearer claims=\"{claims}\", error=insufficient_claims, realm=\"\""), 302),
        (good.replace("Bearer", "PoP"), 502),
        (good.replace("insufficient_claims", "invalid_token"), 502),
        ("Bearer error=\"insufficient_claims\", claims=\"%%%\"".to_owned(), 502),
        (format!("Bearer error=\"insufficient_claims\", claims=\"{array}\""), 502),
        ("=\",,\"".to_owned(), 502),
    ] {
        challenge(&platform, &header);
        assert_eq!(browser.get(app.at("/graph")).await.status, status, "{header}");
    }
    // A challenge counts only with the status 401.
    platform.on(Endpoint::Graph, move |answer| {
        answer.headers.push(("www-authenticate", good.clone()));
    });
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn step_3_shows_what_microsoft_graph_answered() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (status, advice) in [
        (401, "Try again in a minute."),
        (403, "Check ENDPOINT, SCOPE and the permissions of the app."),
        (429, "Try again in a minute."),
        (500, "Try again in a minute."),
    ] {
        platform.on(Endpoint::Graph, move |answer| {
            answer.status = status;
            answer.headers.push(("request-id", "request-id-of-graph".into()));
            answer.json = json!({ "error": { "code": "TheCode", "message": "the <message>" } });
        });
        let text = format!("Graph answered {status}. TheCode: the &lt;message&gt; {advice}");
        browser.get(app.at("/graph")).await.assert_error(502, &text);
        let line = format!(
            "step 3: {status}, \"TheCode\": \"the <message>\", request-id \
             Some(\"request-id-of-graph\")"
        );
        assert!(app.log().contains(&line), "{line}");
        // Only a refused token is not used again.
        platform.on(Endpoint::Graph, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_eq!(platform.token_forms().await.len(), 2, "one sign-in, one refresh");
    }
    platform.on(Endpoint::Graph, |answer| answer.say(200, "[]"));
    let page = browser.get(app.at("/graph")).await;
    page.assert_error(502, "Microsoft Graph answered 200. no error code: no message");
}

#[tokio::test]
async fn an_expired_id_token_opens_graph_but_admin_starts_a_new_session() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let old_session = app.session_files();
    for (exp, login_hint, status, sent) in [
        (json!(now() - 60), None, 200, None),
        (json!(now() - 125), None, 302, Some("cleo@platform.example")),
        // The optional claim `login_hint` comes first.
        (Value::Null, Some("O.opaque"), 302, Some("O.opaque")),
    ] {
        app.edit_session(|session| {
            session["value"] = "of the old user".into();
            session["user"]["id_token_claims"]["exp"] = exp.clone();
            session["user"]["id_token_claims"]["login_hint"] = login_hint.into();
        });
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{exp}");
        let admin = browser.get(app.at("/admin")).await;
        assert_eq!(admin.status, status, "{exp}");
        assert_eq!(admin.location_parameter("login_hint").as_deref(), sent, "{exp}");
    }
    assert_eq!(platform.sign_in(&app, &browser, "/admin").await.location(), "/admin");
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    // The session ID is new, and the values of the old user are removed.
    assert_ne!(app.session_files(), old_session);
    assert_eq!(app.session()["value"], Value::Null);
}

#[tokio::test]
async fn step_4_requires_the_role_admin_as_an_element_of_roles() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (roles, refused) in [
        (json!(["reader", "admin"]), None),
        (Value::Null, Some("[]")),
        (json!("admin"), Some("[]")),
        (json!(["administrator"]), Some("[\"administrator\"]")),
        (json!(["Admin"]), Some("[\"Admin\"]")),
    ] {
        app.edit_session(|session| session["user"]["id_token_claims"]["roles"] = roles.clone());
        let page = browser.get(app.at("/admin")).await;
        let Some(shown) = refused else {
            assert_eq!(page.status, 200, "{roles}");
            continue;
        };
        let text = format!("Required role: \"admin\". Roles in your ID token: {shown}.");
        page.assert_error(403, &text.replace('"', "&quot;"));
        let line = format!("-oid-of-the-user\" does not have the app role admin, roles: {shown}");
        assert!(app.log().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn values_in_the_session_that_cannot_be_read_are_treated_as_missing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (key, value, admin_status) in [
        ("user", json!("text"), 302),
        ("user", json!({ "id_token_claims": {} }), 302),
        ("token_cache", json!([1]), 200),
    ] {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        app.edit_session(|session| session[key] = value.clone());
        for (path, status) in [("/", 200), ("/graph", 302), ("/admin", admin_status)] {
            assert_eq!(browser.get(app.at(path)).await.status, status, "{path} {key} {value}");
        }
        platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{key} {value}");
        app.edit_session(|session| session[key] = value.clone());
        assert_eq!(browser.get(app.at("/logout")).await.location(), "/", "{key} {value}");
    }
}

#[tokio::test]
async fn a_sign_out_ends_the_session_in_the_browser_and_on_the_server() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let signed_in = platform.sign_in(&app, &browser, "/graph").await;
    let cookie = signed_in.cookies().pop().unwrap();
    let page = browser.get(app.at("/logout")).await;
    assert_eq!((page.status, page.location()), (302, "/"));
    let removal = "rust-webapp-session=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0; ";
    assert!(set_cookies(&page)[0].starts_with(removal), "{page:?}");
    assert_eq!(app.session_files(), Vec::<PathBuf>::new());
    // A copy of the cookie no longer works.
    let page = get_with_cookie(&app, &cookie, &app.at("/graph")).await;
    assert_eq!((page.status, page.location_parameter("login_hint")), (302, None));

    // With SSO_LOGOUT, the identity platform gets the home page and the account.
    let app = platform.app(&[("SSO_LOGOUT", "true")]).await;
    for login_hint in [None, Some("O.opaque")] {
        platform.id_token(move |token| token.claims["login_hint"] = login_hint.into());
        platform.sign_in(&app, &browser, "/graph").await;
        let page = browser.get(app.at("/logout")).await;
        assert!(page.location().starts_with(&platform.authority()), "{}", page.location());
        assert_eq!(page.location_parameter("post_logout_redirect_uri"), Some(app.at("/")));
        assert_eq!(page.location_parameter("logout_hint").as_deref(), login_hint);
        assert_eq!(app.session_files(), Vec::<PathBuf>::new());
    }
    // An identity platform without this endpoint. The user is not signed in.
    platform.on(Endpoint::Metadata, |answer| answer.json["end_session_endpoint"] = Value::Null);
    let app = platform.app(&[("SSO_LOGOUT", "true")]).await;
    assert_eq!(browser.get(app.at("/logout")).await.location(), "/");
}

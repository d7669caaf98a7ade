//! Steps 1 to 7 and 9: from a protected page to the identity platform and back, the token cache,
//! the call to Microsoft Graph, the app role, and the sign-out.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

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

/// The values in a flow cookie.
fn open_flow(cookie: &str) -> Value {
    let (_, value) = cookie.split_once('=').unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(value).unwrap()).unwrap()
}

/// Changes one value in a flow cookie, as its user can.
fn change_flow(cookie: &str, name: &str, value: impl Into<Value>) -> String {
    let mut flow = open_flow(cookie);
    flow[name] = value.into();
    let (name, _) = cookie.split_once('=').unwrap();
    format!("{name}={}", BASE64_URL_SAFE_NO_PAD.encode(flow.to_string()))
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
        for random in [&state, &nonce, &code_challenge] {
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
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 90_000.into());
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
    assert_eq!(user["is_repeated"], false);
    assert_is_in(0, &user["signed_in_on"]);
    assert_eq!(cache["scope"], SCOPE);
    assert_is_in(90_000, &cache["expires_on"]);

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
async fn step_6_accepts_a_response_once_and_only_in_the_browser_that_started_the_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let cookie = &authorize.cookies()[0];
    let (name, _) = cookie.split_once('=').unwrap();
    let state = authorize.location_parameter("state").unwrap();
    let good = format!("state={state}&code=secret-code");
    let unreadable_cookie = format!("{name}={}", open_flow(cookie));
    let incomplete = change_flow(cookie, "nonce", Value::Null);
    let (not_started, unreadable) = ("not started in this browser", "cannot read this request.");
    for (case, cookie, query, text) in [
        ("no cookie", "", &*good, not_started),
        ("another state", cookie, "state=another&code=secret-code", not_started),
        ("not Base64", &unreadable_cookie, &good, not_started),
        ("no nonce", &incomplete, &good, not_started),
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
    let again = "Sign in again.";
    let owner =
        "Try again in a minute. If this happens again, give this text to the owner of this app:";
    for (step, error, status, advice) in [
        (6, "access_denied", 403, again),
        (6, "consent_required", 403, again),
        (6, "server_error", 502, owner),
        (6, "temporarily_unavailable", 502, owner),
        (6, "invalid_scope", 502, owner),
        (7, "invalid_grant", 400, again),
        (7, "interaction_required", 400, again),
        (7, "consent_required", 400, again),
        (7, "login_required", 400, again),
        (7, "invalid_client", 502, owner),
        (7, "temporarily_unavailable", 502, owner),
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
        // The text of the page is in the log once.
        assert_eq!(log.matches(&format!("{error}: AADSTS1: Details")).count(), 1, "{log}");
        assert_eq!(log.contains("step 7"), step == 7, "{log}");
    }
    platform.assert_nobody_is_signed_in(&app, &browser).await;
}

#[tokio::test]
async fn step_7_reads_what_identity_platforms_send_and_refuses_the_rest() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // Source of the texts in place of numbers: openidconnect-rs #106, oauth2-rs #151.
    for expires_in in [json!(3_599), json!("3599"), json!("0"), json!(u32::MAX)] {
        platform.on(Endpoint::Token, {
            let expires_in = expires_in.clone();
            move |answer| answer.json["expires_in"] = expires_in.clone()
        });
        let browser = app.browser();
        let page = platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!((page.status, page.location()), (302, "/graph"), "{expires_in}");
        // The refresh reads it in the same way.
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{expires_in}");
        browser.get(app.at("/logout")).await;
    }
    let visitor = app.browser();
    let (tokens, graph) = ("not send all tokens", platform.requests(Endpoint::Graph).await.len());
    let unavailable = "Microsoft Entra ID is not available.";
    let cases: [(&str, &str, &str, Edit<Value>); 9] = [
        ("no access token", unavailable, "missing field `access_token`", |json| {
            json.as_object_mut().unwrap().remove("access_token");
        }),
        ("no time", unavailable, "missing field `expires_in`", |json| {
            json.as_object_mut().unwrap().remove("expires_in");
        }),
        ("a huge time", unavailable, "number too large", |json| {
            json["expires_in"] = i64::MAX.into();
        }),
        ("a negative time", unavailable, "invalid digit", |json| json["expires_in"] = (-5).into()),
        ("a word", unavailable, "invalid digit", |json| json["expires_in"] = "soon".into()),
        ("null", unavailable, "invalid digit", |json| json["expires_in"] = Value::Null),
        ("an error with status 200", unavailable, "missing field", |json| {
            *json = json!({ "error": "server_error" });
        }),
        ("no refresh token", tokens, tokens, |json| json["refresh_token"] = Value::Null),
        ("no ID token", tokens, tokens, |json| json["id_token"] = Value::Null),
    ];
    for (case, text, cause, edit) in cases {
        platform.on(Endpoint::Token, move |answer| edit(&mut answer.json));
        let before = app.log().len();
        let page = platform.sign_in(&app, &visitor, "/graph").await;
        assert!(page.body.contains(text), "{case}: {}", page.body);
        page.assert_error(502, "Try again");
        assert!(app.log()[before..].contains(cause), "{case}: {}", app.log());
    }
    assert_eq!(visitor.get(app.at("/graph")).await.status, 302);
    assert_eq!(platform.requests(Endpoint::Graph).await.len(), graph);
}

#[tokio::test]
async fn step_9_redirects_only_within_the_app() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    for (page, location) in [
        ("/admin?a=b", "/admin?a=b"),
        ("/graph?q=\"a b'", "/graph?q=\"a b'"),
        ("//evil.example", "/"),
        ("///evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("\t//evil.example", "/"),
        (" //evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/graph\r\nX-Injected: injected", "/"),
        ("/graph\0", "/"),
        ("https://evil.example", "/"),
        ("https:evil.example", "/"),
        ("http:\\\\evil.example", "/"),
        ("http://user@evil.example:5000/graph", "/"),
        ("javascript:alert(1)", "/"),
        ("data:text/html,a", "/"),
        ("http://[", "/"),
    ] {
        let authorize = app.browser().get(app.at("/graph")).await;
        let cookie = change_flow(&authorize.cookies()[0], "post_sign_in_url", page);
        let page = get_with_cookie(&app, &cookie, &platform.callback(&authorize)).await;
        assert_eq!((page.status, page.location()), (302, location));
        assert_eq!(page.headers.get("x-injected"), None);
    }
}

/// The rules of MSAL's `acquire_token_silent`.
#[tokio::test]
async fn step_2_refreshes_the_access_token_when_it_is_due() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let user = app.session()["user"].take();
    // The app ignores the ID token of a refresh.
    platform.on(Endpoint::Token, |answer| answer.json["id_token"] = "not an ID token".into());
    let mut refreshes = 0;
    let cases: [(&str, bool, Edit<Value>); 4] = [
        ("six minutes left", false, |cache| cache["expires_on"] = (now() + 360).into()),
        ("four minutes left", true, |cache| cache["expires_on"] = (now() + 240).into()),
        ("expired", true, |cache| cache["expires_on"] = (now() - 1).into()),
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
async fn step_2_starts_a_sign_in_only_if_the_user_can_help() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 200).into());
    let claims =
        r#"{"access_token":{"xms_cc":{"values":["cp1"]}},"id_token":{"acr":{"value":"1"}}}"#;
    for (error, challenge, claims) in [
        ("invalid_grant", json!(r#"{"id_token":{"acr":{"value":"1"}}}"#), Some(claims)),
        ("interaction_required", json!(r#"["not", "an object of objects"]"#), Some(CLAIMS)),
        ("consent_required", Value::Null, Some(CLAIMS)),
        ("login_required", json!("text"), Some(CLAIMS)),
        ("login_required", json!({ "id_token": { "acr": {} } }), Some(CLAIMS)),
        ("invalid_client", json!(""), None),
        ("temporarily_unavailable", json!(7), None),
    ] {
        platform.on(Endpoint::Token, move |answer| {
            answer.refuse(400, error, "AADSTS1: Details");
            answer.json["claims"] = challenge.clone();
        });
        let before = app.log().len();
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.location_parameter("claims").as_deref(), claims, "{error}");
        if claims.is_none() {
            page.assert_error(502, &format!("the owner of this app: {error}: AADSTS1: Details"));
        }
        let log = app.log().split_off(before);
        assert_eq!(log.matches("AADSTS1: Details").count(), 1, "{log}");
        assert!(log.contains(error), "{log}");
    }
    // The error code is enough.
    platform.on(Endpoint::Token, |answer| {
        answer.status = 400;
        answer.json = json!({ "error": "invalid_grant", "error_description": null });
    });
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);
    // Without a usable token, the identity platform is needed.
    platform.on(Endpoint::Token, |answer| answer.say(503, ""));
    let page = browser.get(app.at("/graph")).await;
    page.assert_error(502, "Microsoft Entra ID is not available. Try again in a minute.");
    // The user is still signed in.
    platform.on(Endpoint::Token, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

/// Makes Microsoft Graph refuse each token with this header `WWW-Authenticate`.
fn challenge(platform: &Platform, header: impl Into<Vec<u8>>) {
    let header = header.into();
    platform.on(Endpoint::Graph, move |answer| {
        answer.status = 401;
        answer.raw_headers.push(("www-authenticate", header.clone()));
        answer.json = json!({ "error": { "code": "TheCode", "message": "<b>CAE</b>" } });
    });
}

#[tokio::test]
async fn step_3_answers_a_claims_challenge() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let claims = BASE64_STANDARD.encode(r#"{"access_token":{"nbf":{"value":"1635527790"}}}"#);
    let of_graph = "Bearer realm=\"\", client_id=\"00000003-0000-0000-c000-000000000000\"";
    let header = format!("{of_graph}, error=\"insufficient_claims\", claims=\"{claims}\"");
    challenge(&platform, header);

    let authorize = browser.get(app.at("/graph")).await;
    let claims = r#"{"access_token":{"nbf":{"value":"1635527790"},"xms_cc":{"values":["cp1"]}}}"#;
    assert_eq!(authorize.location_parameter("claims").as_deref(), Some(claims));
    let login_hint = authorize.location_parameter("login_hint");
    assert_eq!(login_hint.as_deref(), Some("cleo@platform.example"));
    assert!(
        app.log().contains("step 3: the access token was refused, \"TheCode\": \"<b>CAE</b>\"")
    );
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    assert_eq!(platform.token_forms().await[1]["claims"], claims);
    assert_eq!(app.session()["user"]["is_repeated"], true);
}

/// Opens /graph with single sign-on at the platform and follows all redirects. Returns how many
/// there were, and the page.
async fn follow(platform: &Platform, app: &App, browser: &Browser) -> (usize, Page) {
    let mut page = browser.get(app.at("/graph")).await;
    let mut redirects = 0;
    while page.status == 302 {
        assert!(redirects < 20, "the redirects do not end");
        if page.location().starts_with(&platform.authority()) {
            // The redirect to the platform, and the redirect of the platform.
            page = browser.get(platform.callback(&page)).await;
            redirects += 2;
        } else {
            page = browser.get(app.at(page.location())).await;
            redirects += 1;
        }
    }
    (redirects, page)
}

#[tokio::test]
async fn a_token_that_is_refused_again_and_again_ends_in_an_error_page() {
    type Fault = fn(&Platform);
    let faults: [(&str, Fault, &str); 3] = [
        ("401", |platform| challenge(platform, ""), "Microsoft Graph answered 401 "),
        (
            "a claims challenge",
            |platform| challenge(platform, "Bearer claims=\"eyJhY2Nlc3NfdG9rZW4iOnt9fQ==\""),
            "&lt;b&gt;CAE",
        ),
        (
            "refresh",
            |platform| {
                platform.on(Endpoint::Token, |answer| {
                    // Each sign-in works, but brings a token that is due at once.
                    answer.json["expires_in"] = 1.into();
                    if answer.grant_type == "refresh_token" {
                        answer.refuse(400, "invalid_grant", "AADSTS1: Details");
                    }
                });
            },
            "AADSTS1: Details",
        ),
    ];
    for (case, fault, text) in faults {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        let browser = app.browser();
        fault(&platform);
        // At the first sign-in: two sign-ins.
        let (redirects, page) = follow(&platform, &app, &browser).await;
        page.assert_error(502, text);
        assert_eq!(redirects, 6, "{case}");
        // A minute later: one sign-in.
        for (ago, expected) in [(50, 0), (60, 3), (-30, 0), (-3_600, 3)] {
            // The clock of another process may be ahead, or the clock was set back.
            app.edit_session(|session| session["user"]["signed_in_on"] = (now() - ago).into());
            let (redirects, page) = follow(&platform, &app, &browser).await;
            page.assert_error(502, text);
            assert_eq!(redirects, expected, "{case}, {ago} s ago");
        }
    }
}

/// Sources of the kinds: azure-sdk-for-python PR 17696 (padding), RFC 9110 section 11.2 (names).
#[tokio::test]
async fn step_3_finds_a_claims_challenge_wherever_it_is() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let json = r#"{"access_token":{"n":{"value":"a?>~~"}}}"#;
    let requested = r#"{"access_token":{"n":{"value":"a?>~~"},"xms_cc":{"values":["cp1"]}}}"#;
    let padded = BASE64_STANDARD.encode(json);
    let unpadded = BASE64_STANDARD_NO_PAD.encode(json);
    let url_safe = BASE64_URL_SAFE_NO_PAD.encode(json);
    assert!(padded.ends_with('=') && padded != url_safe);
    let good = format!("Bearer error=\"insufficient_claims\", claims=\"{padded}\"");
    for header in [
        good.clone(),
        good.replace(' ', "\t"),
        format!("{good}, claims=\"e30=\""),
        format!("Bearer claims=\"{unpadded}\""),
        format!("Bearer claims=\"{url_safe}\""),
        format!("bearer CLAIMS=\"{padded}\", error=insufficient_claims, realm=\"\""),
        format!("Bearer claims={padded},error=invalid_token"),
        format!("PoP nonce=\"x\", {good}"),
        format!("Bearer realm=\"a, {good}"),
        format!("=\",,\" {good}"),
        format!("{good}, claims=\"%%%\""),
        format!("claims=\"%%%\", {good}"),
        format!("Negotiate, Basic realm=\"claims=\", {good}"),
        format!("Bearer realm=\"\u{fc}\", {good}"),
    ] {
        challenge(&platform, &*header);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.location_parameter("claims").as_deref(), Some(requested), "{header}");
    }
    challenge(&platform, [b"Bearer realm=\"\xff\", ", good.as_bytes()].concat());
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.location_parameter("claims").as_deref(), Some(requested), "not UTF-8");
    // Without one that can be read, the user signs in again all the same.
    let long = format!("{{\"access_token\":{{\"n\":\"{}\"}}}}", "x".repeat(9_000));
    for json in ["[1]", "7", "null", "\"text\"", "{\"access_token\":\"text\"}", "{", "{}", &long] {
        challenge(&platform, format!("Bearer claims=\"{}\"", BASE64_STANDARD.encode(json)));
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.location_parameter("claims").as_deref(), Some(CLAIMS), "{json}");
        assert!(page.cookies()[0].len() < 740, "{json}");
    }
    assert!(app.log().contains("a claims challenge of 9"), "{}", app.log());
    for header in ["Bearer", "", "Bearer claims", "Bearer claims=", "Bearer claims=\"%%%\""] {
        challenge(&platform, header);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.location_parameter("claims").as_deref(), Some(CLAIMS), "{header}");
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
    // Source of `Retry-After`: msgraph-sdk-dotnet #250.
    for (status, retry_after, when) in [
        (403, None, "later"),
        (429, Some("610"), "in 610 seconds"),
        (429, Some("Fri, 31 Dec 1999 23:59:59 GMT"), "later"),
        (503, Some("-1"), "later"),
        (500, None, "later"),
        (204, None, "later"),
    ] {
        platform.on(Endpoint::Graph, move |answer| {
            answer.status = status;
            answer.headers.extend(retry_after.map(|value| ("retry-after", value.to_owned())));
            answer.json = json!({ "error": { "code": "TheCode", "message": "the <message>" } });
        });
        let before = app.log().len();
        let page = browser.get(app.at("/graph")).await;
        page.assert_error(502, &format!("Microsoft Graph answered {status} "));
        page.assert_error(502, &format!(". Try again {when}."));
        if status != 204 {
            page.assert_error(502, "TheCode: the &lt;message&gt;");
            let log = app.log().split_off(before);
            assert_eq!(log.matches("TheCode: the <message>").count(), 1, "{log}");
        }
    }
    // Source: hyper #2136, a body that ends too early.
    for body in ["", "<html>", "{\"displayName\":\"Cle"] {
        platform.on(Endpoint::Graph, move |answer| answer.say(200, body));
        let page = browser.get(app.at("/graph")).await;
        page.assert_error(502, "Microsoft Graph is not available. Try again in a minute.");
        assert!(!page.body.contains("ENDPOINT"), "{}", page.body);
    }
    platform.on(Endpoint::Graph, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(platform.token_forms().await.len(), 1, "one sign-in");
}

#[tokio::test]
async fn an_expired_id_token_opens_graph_but_admin_starts_a_new_session() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let old_session = app.session_files();
    for (exp, login_hint, status, sent) in [
        // Step 8 accepts a token until 120 s after its end. This page must not refuse it at once.
        (json!(now() - 125), None, 200, None),
        (json!(now() - 180), None, 302, Some("cleo@platform.example")),
        // The optional claim `login_hint` comes first.
        (json!(0), Some("O.opaque"), 302, Some("O.opaque")),
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
        (json!([]), Some("[]")),
        (json!(["administrator"]), Some("[\"administrator\"]")),
        (json!(["Admin"]), Some("[\"Admin\"]")),
    ] {
        app.edit_session(|session| session["user"]["id_token_claims"]["roles"] = roles.clone());
        let page = browser.get(app.at("/admin")).await;
        let Some(shown) = refused else {
            assert_eq!(page.status, 200, "{roles}");
            continue;
        };
        let text = format!(
            "Cleo Example, this page requires the app role \"admin\". Your ID token has the roles \
             {shown}."
        );
        page.assert_error(403, &text.replace('"', "&quot;"));
        let line = "oid \"9b1f4c68-oid-of-the-user\" has the role \"admin\": false";
        assert!(app.log().contains(line), "{line}");
    }
}

#[tokio::test]
async fn values_in_the_session_that_cannot_be_read_are_treated_as_missing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (key, value, admin_status) in [
        ("user", json!("text"), 302),
        ("user", json!({ "id_token_claims": {} }), 302),
        ("user", json!({ "id_token_claims": { "roles": "admin" } }), 302),
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

//! Steps 1 to 7 and 9: from a protected page to the identity platform and back, the token cache,
//! the call to Microsoft Graph, the app role, and the sign-out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use url::Url;

use crate::harness::*;
use crate::platform::*;

#[tokio::test]
async fn a_sign_in_sends_what_the_specifications_require() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();

    let authorize = browser.get(app.at("/graph?page=2")).await;
    assert_eq!(authorize.status, 302);
    let url = Url::parse(authorize.location()).unwrap();
    let sent: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let redirect_uri = app.at("/auth/redirect");
    for (name, value) in [
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("redirect_uri", &redirect_uri),
        ("scope", "openid profile offline_access https://graph.microsoft.com/User.Read"),
        ("claims", r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(sent[name], value, "{name}");
    }
    assert_eq!(sent["nonce"].len(), 43);
    assert_eq!(sent["state"].split_once('-').unwrap().1.len(), 43);
    assert_eq!(sent.len(), 9, "{sent:?}");
    assert_eq!(url.path(), format!("/{TENANT_ID}/oauth2/v2.0/authorize"));

    let signed_in = browser.get(platform.callback(&authorize)).await;
    assert_eq!((signed_in.status, signed_in.location()), (302, "/graph?page=2"));
    let form = platform.token_forms().await.remove(0);
    for (name, value) in [
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
        ("grant_type", "authorization_code"),
        ("redirect_uri", &redirect_uri),
        ("scope", sent["scope"].as_str()),
        ("claims", sent["claims"].as_str()),
    ] {
        assert_eq!(form[name], value, "{name}");
    }
    let hash = Sha256::digest(&form["code_verifier"]);
    assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(hash), sent["code_challenge"]);
    assert_eq!(form.len(), 8, "{form:?}");

    let page = browser.get(app.at("/graph")).await;
    assert!(page.status == 200 && page.body.contains("cleo@platform.example"), "{}", page.body);
    let (_, shown) = page.body.split_once("valid for another <strong>").unwrap();
    let seconds: i64 = shown.split(' ').next().unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&seconds), "{seconds}");
    let graph = platform.requests(Endpoint::Graph).await.remove(0);
    let session = app.session();
    let access_token = session["token_cache"]["access_token"].as_str().unwrap();
    assert_eq!(graph.headers["authorization"], format!("Bearer {access_token}"));
    assert_eq!(session["user"]["id_token_claims"]["name"], "Cleo Example");

    let log = app.log();
    for step in [
        "step 5: nobody is signed in",
        "step 6: authorization code received",
        "step 7: the token endpoint answered 200 OK",
        "step 8: ID token validated",
        "step 9: signed in, oid \"9b1f4c68-oid-of-the-user\"",
        "step 1: a user is signed in",
        "step 2: access token found in the cache",
        "step 3: Microsoft Graph answered 200",
    ] {
        assert!(log.contains(step), "{step} is not in\n{log}");
    }
}

#[tokio::test]
async fn each_sign_in_has_its_own_state_nonce_and_code_verifier() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (one, two) = (app.browser(), app.browser());
    let (one, two) = tokio::join!(one.get(app.at("/graph")), two.get(app.at("/graph")));
    for name in ["state", "nonce", "code_challenge"] {
        assert_ne!(one.location_parameter(name), two.location_parameter(name), "{name}");
    }
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
async fn a_thousand_visitors_who_do_not_sign_in_leave_no_session() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for _ in 0..50 {
        let visits = (0..20).map(|visit| {
            let (browser, url) = (app.browser(), app.at(["/graph", "/admin"][visit % 2]));
            tokio::spawn(async move { browser.get(url).await })
        });
        for visit in visits.collect::<Vec<_>>() {
            let page = visit.await.unwrap();
            assert_eq!(page.status, 302);
            for cookie in page.headers.get_all("set-cookie") {
                let cookie = cookie.to_str().unwrap();
                assert!(cookie.contains("Max-Age=900"), "{cookie}");
            }
        }
    }
    assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn forty_abandoned_sign_ins_leave_few_cookies_and_the_next_one_works() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let browser = Browser { client: client.no_proxy().build().unwrap(), ..app.browser() };
    // A cookie jar that shows what it contains. A browser may send cookies in any order.
    let mut jar: HashMap<String, String> = HashMap::new();
    jar.insert("other-app-flow-1".into(), "not ours".into());
    let mut callbacks = Vec::new();
    for _ in 0..41 {
        let cookies = jar.iter().map(|(name, value)| format!("{name}={value}"));
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        let request = browser.client.get(app.at("/graph")).header("cookie", &cookies);
        let page = browser.send(request).await;
        for cookie in page.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match cookie.contains("Max-Age=0;") {
                true => assert!(jar.remove(name).is_some() && cookie.contains("Path=/")),
                false => _ = jar.insert(name.to_owned(), value.to_owned()),
            }
        }
        callbacks.push(platform.callback(&page));
        let size: usize = jar.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
        assert!(size < 8_000, "{size} bytes");
        // The app tells old sign-ins from new ones by the second in which they started.
        let second = now();
        while callbacks.len() % 10 == 0 && now() == second {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(jar.len(), 6, "{:?}", jar.keys());
    assert!(jar.contains_key("other-app-flow-1"));
    let cookies = jar.iter().map(|(name, value)| format!("{name}={value}"));
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    let request = browser.client.get(callbacks.last().unwrap()).header("cookie", &cookies);
    assert_eq!(browser.send(request).await.location(), "/graph");
    // One of the first sign-ins was removed.
    let request = browser.client.get(&callbacks[0]).header("cookie", &cookies);
    browser.send(request).await.assert_error(400, "Sign in again.");
}

#[tokio::test]
async fn the_flow_cookie_is_safe_and_small() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let long = format!("/graph?q={}", "x".repeat(2_000));
    let page = app.browser().get(app.at(&long)).await;
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let nonce = page.location_parameter("nonce").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Lax; Path=/; Max-Age=900"), "{cookie}");
    assert!(!cookie.contains(&nonce) && cookie.len() < 1_000, "{cookie}");
    let https = [("REDIRECT_URI", "https://app.example/auth/redirect")];
    let app = platform.app(&https).await;
    let browser = app.browser();
    let page = browser.get(app.at("/graph")).await;
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-rust-webapp-flow-") && cookie.contains("; Secure"));
    // A page address that does not fit into a cookie is cut to its path.
    let app = platform.app(&[]).await;
    let browser = app.browser();
    assert_eq!(platform.sign_in(&app, &browser, &long).await.location(), "/graph");
}

#[tokio::test]
async fn the_flow_cookie_contains_what_the_later_steps_need_for_15_minutes() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    for path in ["/graph?page=2", "/admin?page=2"] {
        let page = app.browser().get(app.at(path)).await;
        let flow = open_flow_cookie(&page.cookies()[0]);
        let hash = Sha256::digest(flow["code_verifier"].as_str().unwrap());
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(hash);
        assert_eq!(page.location_parameter("code_challenge"), Some(challenge));
        assert_eq!(page.location_parameter("nonce").as_deref(), flow["nonce"].as_str());
        assert_eq!(flow["post_sign_in_url"], path);
        assert_eq!(flow["answers_challenge"], false);
        let expires_in = flow["expires_on"].as_i64().unwrap() - now();
        assert!((840..=900).contains(&expires_in), "{path}: {expires_in}");
    }
}

#[tokio::test]
async fn step_9_stores_when_the_access_token_expires_and_when_to_renew_it() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| {
        answer.json["expires_in"] = 90_000.into();
        answer.json["refresh_in"] = 45_000.into();
    });
    let (app, _) = platform.signed_in(&[]).await;
    let session = app.session();
    let cache = &session["token_cache"];
    let seconds = |name: &str| cache[name].as_i64().unwrap() - now();
    assert!((89_900..=90_000).contains(&seconds("expires_on")), "{cache}");
    assert!((44_900..=45_000).contains(&seconds("refresh_on")), "{cache}");
    assert_eq!(cache["scope"], SCOPE);
    assert_eq!(session["user"]["answered_challenge"], false);
}

#[tokio::test]
async fn step_6_refuses_a_response_that_does_not_belong_to_this_browser() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let mut expired = flow();
    expired["expires_on"] = (now() - 1).into();
    let cookies = [None, Some(flow_cookie(&flow())), Some(flow_cookie(&expired))];
    let tampered = flow_cookie(&flow()).replace("flow-s=", "flow-s=AAAA");
    let moved = flow_cookie(&flow()).replace("flow-s=", "flow-t=");
    let [none, valid, expired] = cookies;
    for (case, cookie, query) in [
        ("no cookie", none.clone(), "state=s&code=secret-code"),
        ("another state", valid.clone(), "state=t&code=secret-code"),
        ("no state", valid.clone(), "code=secret-code"),
        ("no query", valid.clone(), ""),
        ("an expired cookie", expired, "state=s&code=secret-code"),
        ("a changed cookie", Some(tampered), "state=s&code=secret-code"),
        ("a cookie for another state", Some(moved), "state=t&code=secret-code"),
        ("not encrypted", Some(format!("rust-webapp-flow-s={}", flow())), "state=s&code=c"),
        ("state twice", valid.clone(), "state=s&state=s&code=secret-code"),
        ("code twice", valid.clone(), "state=s&code=secret-code&code=secret-code"),
        ("iss twice", valid.clone(), "state=s&code=secret-code&iss=a&iss=a"),
        ("another issuer", valid.clone(), "state=s&code=secret-code&iss=https://evil.example"),
        ("no code", valid.clone(), "state=s"),
        ("an error for nobody", none, "state=s&error=access_denied&error_description=spam"),
    ] {
        let browser = app.browser();
        let request = browser.client.get(app.at(&format!("/auth/redirect?{query}")));
        let page = browser.send(request.header("cookie", cookie.unwrap_or_default())).await;
        page.assert_error(400, "Sign in again.");
        assert!(!page.body.contains("secret-code") && !page.body.contains("spam"), "{case}");
        assert_eq!(platform.token_forms().await.len(), 0, "{case}");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
    }
}

#[tokio::test]
async fn step_6_accepts_the_issuer_of_the_metadata_and_a_state_only_once() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let issuer = format!("{}/v2.0", platform.authority());
    let callback = format!("{}&iss={issuer}&session_state=x", platform.callback(&authorize));
    let page = browser.get(&callback).await;
    assert_eq!(page.location(), "/graph");
    assert!(page.headers.get_all("set-cookie").iter().any(|cookie| {
        let cookie = cookie.to_str().unwrap();
        cookie.starts_with("rust-webapp-flow-") && cookie.contains("Path=/; Max-Age=0")
    }));
    browser.get(&callback).await.assert_error(400, "Sign in again.");
    assert_eq!(platform.token_forms().await.len(), 1);
}

#[tokio::test]
async fn step_6_tells_three_kinds_of_errors_apart() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (error, status, text) in [
        ("access_denied", 403, "You or an administrator has to consent"),
        ("consent_required", 403, "You or an administrator has to consent"),
        ("server_error", 502, "Try again in a minute."),
        ("temporarily_unavailable", 502, "Try again in a minute."),
        ("invalid_scope", 502, "Check the app registration, SCOPE and AUTHORITY."),
        ("unauthorized_client", 502, "Check the app registration, SCOPE and AUTHORITY."),
    ] {
        let browser = app.browser();
        let authorize = browser.get(app.at("/graph")).await;
        let state = authorize.location_parameter("state").unwrap();
        let description = "AADSTS00000: <b>bold</b> Trace ID: 1a2b Correlation ID: 3c4d";
        let query = [("state", &*state), ("error", error), ("error_description", description)];
        let url = Url::parse_with_params(&app.at("/auth/redirect"), query).unwrap();
        let page = browser.get(url).await;
        page.assert_error(status, text);
        assert!(page.body.contains("AADSTS00000: &lt;b&gt;bold"), "{}", page.body);
        platform.assert_nobody_is_signed_in(&app, &browser).await;
        let log = app.log();
        assert!(log.contains(&format!("step 6: the sign-in failed, \"{error}: {description}\"")));
    }
}

#[tokio::test]
async fn step_7_says_what_to_do_when_the_code_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (error, suberror, status, text, shows_description) in [
        ("invalid_grant", None, 400, "no longer works. Sign in again.", false),
        ("invalid_grant", Some("consent_required"), 400, "Sign in again.", true),
        ("interaction_required", None, 403, "Sign in again.", true),
        ("consent_required", None, 403, "Sign in again.", true),
        ("login_required", None, 403, "Sign in again.", true),
        ("invalid_client", None, 502, "The platform of the redirect URI must be Web.", true),
        ("invalid_client", None, 502, "use its Value, not its Secret ID", true),
        ("invalid_scope", None, 502, "check CLIENT_ID, CLIENT_CREDENTIAL, SCOPE", true),
        ("temporarily_unavailable", None, 502, "did not send tokens", true),
    ] {
        platform.on(Endpoint::Token, move |answer| {
            let id = "Trace ID: 1a2b Correlation ID: 3c4d";
            answer.refuse(400, error, &format!("AADSTS00000: <b>bold</b> {id}"));
            answer.json["suberror"] = suberror.into();
        });
        let browser = app.browser();
        let page = platform.sign_in(&app, &browser, "/graph").await;
        page.assert_error(status, text);
        assert_eq!(page.body.contains("AADSTS00000: &lt;b&gt;"), shows_description, "{error}");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
        assert!(app.log().contains("Trace ID: 1a2b Correlation ID: 3c4d"));
    }
}

#[tokio::test]
async fn step_7_refuses_a_response_without_all_tokens() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 8] = [
        ("no access token", |json| _ = json.as_object_mut().unwrap().remove("access_token")),
        ("no refresh token", |json| json["refresh_token"] = Value::Null),
        ("no ID token", |json| json["id_token"] = Value::Null),
        ("another token type", |json| json["token_type"] = "pop".into()),
        ("no token type", |json| _ = json.as_object_mut().unwrap().remove("token_type")),
        ("a negative time", |json| json["expires_in"] = (-1).into()),
        ("a huge time", |json| json["expires_in"] = i64::MAX.into()),
        ("tokens and an error", |json| json["error"] = "server_error".into()),
    ];
    for (case, edit) in cases {
        platform.on(Endpoint::Token, move |answer| edit(&mut answer.json));
        let browser = app.browser();
        let page = platform.sign_in(&app, &browser, "/graph").await;
        page.assert_error(502, "Microsoft Entra ID");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
        assert!(app.log().contains("step 7: "), "{case}");
    }
    platform.on(Endpoint::Token, |answer| answer.json["token_type"] = "bearer".into());
    assert_eq!(platform.sign_in(&app, &app.browser(), "/graph").await.status, 302);
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
        ("https:evil.example", "/"),
        ("", "/"),
    ] {
        let mut flow = flow();
        flow["post_sign_in_url"] = page.into();
        platform.grant("secret-code-of-the-test", &flow);
        let browser = app.browser();
        let request =
            browser.client.get(app.at("/auth/redirect?state=s&code=secret-code-of-the-test"));
        let response = browser.send(request.header("cookie", flow_cookie(&flow))).await;
        assert_eq!((response.status, response.location()), (302, location), "{page}");
    }
}

#[tokio::test]
async fn a_new_sign_in_changes_the_session_id_and_removes_the_values_of_the_old_user() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let old_session = app.session_files();
    app.edit_session(|session| {
        session["cart"] = "of the old user".into();
        session["user"]["id_token_claims"]["exp"] = 0.into();
    });
    let authorize = browser.get(app.at("/admin")).await;
    browser.get(platform.callback(&authorize)).await;
    assert_ne!(app.session_files(), old_session);
    assert_eq!(app.session()["cart"], Value::Null);
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
}

/// The rules of MSAL's `acquire_token_silent`.
#[tokio::test]
async fn step_2_refreshes_the_access_token_when_it_is_due() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, bool); 6] = [
        ("six minutes left", |cache| cache["expires_on"] = (now() + 360).into(), false),
        ("four minutes left", |cache| cache["expires_on"] = (now() + 240).into(), true),
        ("expired", |cache| cache["expires_on"] = (now() - 1).into(), true),
        ("refresh_on has passed", |cache| cache["refresh_on"] = now().into(), true),
        ("refresh_on is later", |cache| cache["refresh_on"] = (now() + 60).into(), false),
        (
            "another SCOPE",
            |cache| cache["scope"] = "https://graph.microsoft.com/Mail.Read".into(),
            true,
        ),
    ];
    for (case, edit, is_due) in cases {
        app.edit_session(|session| edit(&mut session["token_cache"]));
        let before = (app.session()["token_cache"].clone(), platform.token_forms().await.len());
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{case}");
        let (cache, forms) = (app.session()["token_cache"].clone(), platform.token_forms().await);
        assert_eq!(cache != before.0, is_due, "{case}");
        assert_eq!(forms.len() - before.1, usize::from(is_due), "{case}");
        if !is_due {
            continue;
        }
        let form = &forms[before.1];
        let sent: Vec<&str> =
            ["client_id", "client_secret", "grant_type", "scope", "claims", "refresh_token"]
                .iter()
                .map(|name| form[*name].as_str())
                .collect();
        let scope = "openid profile offline_access https://graph.microsoft.com/User.Read";
        let claims = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;
        let refresh_token = before.0["refresh_token"].as_str().unwrap();
        assert_eq!(sent, [CLIENT_ID, CLIENT_SECRET, "refresh_token", scope, claims, refresh_token]);
        // The cache has the new tokens, and Microsoft Graph got the new access token.
        let seconds_left = cache["expires_on"].as_i64().unwrap() - now();
        assert!((3_590..=3_600).contains(&seconds_left), "{case}: {seconds_left}");
        assert_eq!(cache["scope"], SCOPE);
        assert_ne!(cache["refresh_token"], before.0["refresh_token"]);
        let graph = platform.requests(Endpoint::Graph).await.pop().unwrap();
        let access_token = cache["access_token"].as_str().unwrap();
        assert_eq!(graph.headers["authorization"], format!("Bearer {access_token}"), "{case}");
    }
}

#[tokio::test]
async fn step_2_keeps_the_old_refresh_token_if_no_new_one_comes_and_ignores_the_id_token() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let session = app.session();
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    platform.on(Endpoint::Token, |answer| {
        answer.json["refresh_token"] = Value::Null;
        answer.json["refresh_in"] = 1_800.into();
        answer.json["id_token"] = "not an ID token".into();
    });
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    let cache = &app.session()["token_cache"];
    assert_eq!(cache["refresh_token"], session["token_cache"]["refresh_token"]);
    assert_ne!(cache["access_token"], session["token_cache"]["access_token"]);
    let refresh_in = cache["refresh_on"].as_i64().unwrap() - now();
    assert!((1_700..=1_800).contains(&refresh_in), "{refresh_in}");
    assert_eq!(app.session()["user"], session["user"]);
}

#[tokio::test]
async fn step_2_starts_a_sign_in_if_the_refresh_token_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for error in ["invalid_grant", "interaction_required", "consent_required", "login_required"] {
        let browser = app.browser();
        platform.on(Endpoint::Token, |_| {});
        platform.sign_in(&app, &browser, "/graph").await;
        let forget = || {
            app.edit_session(|session| {
                session["token_cache"]["expires_on"] = 0.into();
                session["user"]["signed_in_on"] = (now() - 61).into();
            });
        };
        forget();
        platform.on(Endpoint::Token, move |answer| {
            answer.refuse(400, error, "AADSTS50173: The grant was revoked.");
            answer.json["claims"] = r#"{"id_token":{"auth_time":{"essential":true}}}"#.into();
        });
        let authorize = browser.get(app.at("/graph")).await;
        let claims = authorize.location_parameter("claims").unwrap();
        let claims: Value = serde_json::from_str(&claims).unwrap();
        assert_eq!(claims["id_token"]["auth_time"]["essential"], true, "{error}");
        assert_eq!(claims["access_token"]["xms_cc"]["values"], json!(["cp1"]), "{error}");
        let hint = authorize.location_parameter("login_hint");
        assert_eq!(hint.as_deref(), Some("cleo@platform.example"), "{error}");
        // A claims challenge that is not an object of objects is ignored.
        platform.on(Endpoint::Token, move |answer| {
            answer.refuse(400, error, "AADSTS50173: The grant was revoked.");
            answer.json["claims"] = r#"["not", "an object"]"#.into();
        });
        let authorize = browser.get(app.at("/graph")).await;
        let claims = authorize.location_parameter("claims").unwrap();
        assert_eq!(claims, r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#, "{error}");
        // Directly after a sign-in, another sign-in would start a loop.
        app.edit_session(|session| session["user"]["signed_in_on"] = now().into());
        let page = browser.get(app.at("/graph")).await;
        page.assert_error(502, "AADSTS50173");
        browser.get(app.at("/logout")).await;
    }
}

#[tokio::test]
async fn step_2_uses_the_cached_token_while_the_identity_platform_fails() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    type Edit = fn(&mut Answer);
    let cases: [(Edit, &str, &str); 3] = [
        (
            |answer| answer.refuse(401, "invalid_client", "AADSTS7000222: The secret expired."),
            "AADSTS7000222: The secret expired.",
            "check CLIENT_ID, CLIENT_CREDENTIAL and SCOPE",
        ),
        (
            |answer| answer.say(503, "Service Unavailable"),
            "503 Service Unavailable",
            "no valid answer",
        ),
        (
            |answer| answer.say(200, "{\"token_type\": \"Bearer\"}"),
            "did not match",
            "no valid answer",
        ),
    ];
    for (edit, cause, text) in cases {
        platform.on(Endpoint::Token, edit);
        app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 200).into());
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert!(app.log().contains(cause), "the cause is not in {}", app.log());
        app.edit_session(|session| session["token_cache"]["expires_on"] = (now() - 1).into());
        browser.get(app.at("/graph")).await.assert_error(502, text);
        // The session is kept, so the next visit succeeds.
        platform.on(Endpoint::Token, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    }
    // A token for another SCOPE is of no use.
    platform.on(Endpoint::Token, |answer| answer.say(503, ""));
    app.edit_session(|session| session["token_cache"]["scope"] = "another".into());
    browser.get(app.at("/graph")).await.assert_error(502, "no valid answer");
}

/// Makes Microsoft Graph refuse each token with a claims challenge.
fn challenge(platform: &Platform, header: &str) {
    let header = header.to_owned();
    platform.on(Endpoint::Graph, move |answer| {
        answer.status = 401;
        answer.headers.push(("www-authenticate", header.clone()));
        answer.headers.push(("request-id", "request-id-of-graph".into()));
        answer.json =
            json!({ "error": { "code": "InvalidAuthenticationToken", "message": "<b>CAE</b>" } });
    });
}

#[tokio::test]
async fn step_3_answers_a_claims_challenge_once() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let claims = r#"{"access_token":{"nbf":{"essential":true, "value":"1635527790"}}}"#;
    let challenge_header = format!(
        "Bearer realm=\"\", authorization_uri=\"https://login.microsoftonline.com/common/oauth2/authorize\", \
         client_id=\"00000003-0000-0000-c000-000000000000\", error=\"insufficient_claims\", claims=\"{}\"",
        BASE64_STANDARD.encode(claims)
    );
    challenge(&platform, &challenge_header);

    // The challenge is answered, even directly after a sign-in.
    let authorize = browser.get(app.at("/graph")).await;
    let requested = authorize.location_parameter("claims").unwrap();
    let requested: Value = serde_json::from_str(&requested).unwrap();
    assert_eq!(requested["access_token"]["nbf"]["value"], "1635527790");
    assert_eq!(requested["access_token"]["xms_cc"]["values"], json!(["cp1"]));
    assert_eq!(
        authorize.location_parameter("login_hint").as_deref(),
        Some("cleo@platform.example")
    );
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    let form = platform.token_forms().await.pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&form["claims"]).unwrap(), requested);
    assert_eq!(app.session()["user"]["answered_challenge"], true);

    // The same challenge at once is an error. The access token is not used again.
    let page = browser.get(app.at("/graph")).await;
    page.assert_error(502, "&lt;b&gt;CAE");
    assert!(app.log().contains("request-id-of-graph"));
    assert_eq!(app.session()["token_cache"]["expires_on"], 0);

    // A later challenge is answered again.
    app.edit_session(|session| session["user"]["signed_in_on"] = (now() - 61).into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);

    // After a sign-in, Microsoft Graph accepts the token.
    platform.on(Endpoint::Graph, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn step_3_finds_a_claims_challenge_only_where_one_is() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let claims = BASE64_STANDARD.encode(r#"{"access_token":{"nbf":{"value":"1"}}}"#);
    let good = format!("Bearer error=\"insufficient_claims\", claims=\"{claims}\"");
    let array = BASE64_STANDARD.encode("[1]");
    for (header, is_challenge) in [
        (good.clone(), true),
        (format!("PoP nonce=\"x\", {good}"), true),
        (format!("bearer claims=\"{claims}\", error=insufficient_claims, realm=\"\""), true),
        (good.replace("Bearer", "PoP"), false),
        (good.replace("insufficient_claims", "invalid_token"), false),
        ("Bearer error=\"insufficient_claims\"".to_owned(), false),
        ("Bearer error=\"insufficient_claims\", claims=\"%%%\"".to_owned(), false),
        (format!("Bearer error=\"insufficient_claims\", claims=\"{array}\""), false),
        ("Bearer".to_owned(), false),
        ("=\",,\"".to_owned(), false),
    ] {
        challenge(&platform, &header);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, if is_challenge { 302 } else { 502 }, "{header}");
    }
}

#[tokio::test]
async fn step_3_shows_what_microsoft_graph_answered() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (status, text) in [
        (401, "Microsoft Graph answered 401. TheCode: the &lt;message&gt; Try again in a minute."),
        (403, "403. TheCode: the &lt;message&gt; Check ENDPOINT, SCOPE and the permissions"),
        (404, "404. TheCode: the &lt;message&gt; Check ENDPOINT"),
        (429, "429. TheCode: the &lt;message&gt; Try again in a minute."),
        (500, "500. TheCode: the &lt;message&gt; Try again in a minute."),
        (503, "503. TheCode: the &lt;message&gt; Try again in a minute."),
    ] {
        platform.on(Endpoint::Graph, move |answer| {
            answer.status = status;
            answer.headers.push(("request-id", "request-id-of-graph".into()));
            answer.json = json!({ "error": { "code": "TheCode", "message": "the <message>" } });
        });
        let access_token = app.session()["token_cache"]["access_token"].clone();
        browser.get(app.at("/graph")).await.assert_error(502, text);
        let log = app.log();
        assert!(log.contains(&format!("step 3: {status}, \"TheCode\"")), "{log}");
        assert!(log.contains("request-id-of-graph"));
        // Only a refused token is not used again.
        platform.on(Endpoint::Graph, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        let is_new = app.session()["token_cache"]["access_token"] != access_token;
        assert_eq!(is_new, status == 401, "{status}");
    }
    for (status, body) in [(200, "not JSON"), (200, "[]"), (500, ""), (429, "Too Many Requests")] {
        platform.on(Endpoint::Graph, move |answer| answer.say(status, body));
        let text = format!("Microsoft Graph answered {status}. no error code: no message");
        browser.get(app.at("/graph")).await.assert_error(502, &text);
    }
}

#[tokio::test]
async fn an_expired_id_token_opens_graph_and_sends_admin_to_a_new_sign_in() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (exp, is_expired) in [
        (json!(now() - 60), false),
        (json!(now() - 125), true),
        (json!("4102444800"), true),
        (Value::Null, true),
        (json!(i64::MAX), false),
    ] {
        app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = exp.clone());
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{exp}");
        let admin = browser.get(app.at("/admin")).await;
        assert_eq!(admin.status, if is_expired { 302 } else { 200 }, "{exp}");
        if is_expired {
            let hint = admin.location_parameter("login_hint");
            assert_eq!(hint.as_deref(), Some("cleo@platform.example"));
        }
    }
    // The optional claim `login_hint` comes first.
    app.edit_session(|session| {
        session["user"]["id_token_claims"]["login_hint"] = "O.opaque".into();
        session["user"]["id_token_claims"]["exp"] = 0.into();
    });
    let admin = browser.get(app.at("/admin")).await;
    assert_eq!(admin.location_parameter("login_hint").as_deref(), Some("O.opaque"));
    assert_eq!(browser.get(platform.callback(&admin)).await.location(), "/admin");
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
}

#[tokio::test]
async fn step_4_wants_the_role_admin_as_an_element_of_roles() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (roles, is_admin) in [
        (json!(["admin"]), true),
        (json!(["reader", "admin"]), true),
        (json!([]), false),
        (Value::Null, false),
        (json!(["administrator"]), false),
        (json!(["Admin"]), false),
        (json!("admin"), false),
        (json!({ "admin": true }), false),
        (json!([["admin"]]), false),
    ] {
        app.edit_session(|session| session["user"]["id_token_claims"]["roles"] = roles.clone());
        let page = browser.get(app.at("/admin")).await;
        if is_admin {
            assert_eq!(page.status, 200, "{roles}");
            continue;
        }
        page.assert_error(403, "Required role: &quot;admin&quot;");
        let roles = if roles.is_array() { roles } else { json!([]) };
        assert!(page.body.contains("Enterprise apps") && page.body.contains("/logout"));
        let text = format!(
            "oid \"9b1f4c68-oid-of-the-user\" does not have the app role admin, roles: {roles}"
        );
        assert!(app.log().contains(&text), "{text}");
    }
    // The role does not help a user who is not signed in here.
    assert_eq!(app.browser().get(app.at("/admin")).await.status, 302);
}

#[tokio::test]
async fn values_in_the_session_that_cannot_be_read_are_treated_as_missing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (key, value) in [
        ("user", json!("text")),
        ("user", json!({ "id_token_claims": {} })),
        ("token_cache", json!([1])),
        ("token_cache", Value::Null),
    ] {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        app.edit_session(|session| session[key] = value.clone());
        assert_eq!(browser.get(app.at("/")).await.status, 200, "{key} {value}");
        let page = platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!(page.location(), "/graph", "{key} {value}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{key} {value}");
        browser.get(app.at("/logout")).await;
    }
}

#[tokio::test]
async fn a_sign_out_ends_the_session_in_the_browser_and_on_the_server() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let signed_in = platform.sign_in(&app, &browser, "/graph").await;
    let cookie = signed_in.cookies().pop().unwrap();
    assert!(cookie.starts_with("rust-webapp-session="));
    let page = browser.get(app.at("/logout")).await;
    assert_eq!((page.status, page.location()), (302, "/"));
    assert!(page.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new());
    // A copy of the cookie no longer works.
    let thief = app.browser();
    let page = thief.send(thief.client.get(app.at("/graph")).header("cookie", cookie)).await;
    assert_eq!(page.status, 302);
    assert_eq!(page.location_parameter("login_hint"), None);
    // A sign-out without a session works too.
    assert_eq!(browser.get(app.at("/logout")).await.location(), "/");
}

#[tokio::test]
async fn a_sign_out_with_sso_logout_names_the_home_page_and_the_account() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SSO_LOGOUT", "true")]).await;
    let browser = app.browser();
    for login_hint in [None, Some("O.opaque")] {
        platform.id_token(move |token| token.claims["login_hint"] = login_hint.into());
        platform.sign_in(&app, &browser, "/graph").await;
        let page = browser.get(app.at("/logout")).await;
        assert!(page.location().starts_with(&platform.authority()), "{}", page.location());
        assert_eq!(page.location_parameter("post_logout_redirect_uri"), Some(app.at("/")));
        assert_eq!(page.location_parameter("logout_hint").as_deref(), login_hint);
        assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new());
    }
    // An identity platform without this endpoint.
    platform.on(Endpoint::Metadata, |answer| answer.json["end_session_endpoint"] = Value::Null);
    let app = platform.app(&[("SSO_LOGOUT", "true")]).await;
    assert_eq!(app.browser().get(app.at("/logout")).await.location(), "/");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_wins_over_a_running_refresh() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for round in 0..20 {
        let browser = app.browser();
        platform.on(Endpoint::Token, |_| {});
        platform.sign_in(&app, &browser, "/graph").await;
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        // The refresh has arrived at the platform when the user signs out.
        let arrived = Arc::new(Notify::new());
        let arrival = arrived.clone();
        platform.on(Endpoint::Token, move |answer| {
            arrival.notify_one();
            answer.delay = Duration::from_millis(50);
        });
        let refresh = {
            let (browser, url) = (browser.clone(), app.at("/graph"));
            tokio::spawn(async move { browser.get(url).await })
        };
        arrived.notified().await;
        assert_eq!(browser.get(app.at("/logout")).await.status, 302);
        let page = refresh.await.unwrap();
        assert_eq!(page.status, 200, "the running request gets its page");
        assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new(), "round {round}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 302, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_visits_at_once_refresh_without_losing_the_session() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for round in 0..20 {
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        let visits = (0..8).map(|_| {
            let (browser, url) = (browser.clone(), app.at("/graph"));
            tokio::spawn(async move { browser.get(url).await.status })
        });
        for visit in visits.collect::<Vec<_>>() {
            assert_eq!(visit.await.unwrap(), 200, "round {round}");
        }
        assert_eq!(app.session()["user"]["id_token_claims"]["name"], "Cleo Example");
    }
}

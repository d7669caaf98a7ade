//! The authorization endpoint, single sign-on, the second factor, and the sign-out.

use serde_json::{Value, json};
use url::Url;

use crate::harness::*;

const NOBODY: &str = "nobody@demo-tenant.example";

#[tokio::test]
async fn the_authorization_endpoint_is_strict() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    let redirect_uri = demo.redirect_uri();
    // These show a page, because the redirect URI could belong to anyone.
    for (parameter, value, number) in [
        ("client_id", "", 900144),
        ("client_id", "4f2d8c1a-another-app", 700016),
        ("redirect_uri", "", 900971),
        ("redirect_uri", &redirect_uri.replace("redirect", "Redirect"), 50011),
        ("redirect_uri", &redirect_uri.replace("localhost", "127.0.0.1"), 50011),
        ("redirect_uri", "http://localhost/auth/redirect/", 50011),
        ("redirect_uri", "http://localhost:1@evil.example/auth/redirect", 50011),
        ("redirect_uri", "http://localhost.evil.example/auth/redirect", 50011),
    ] {
        let page = browser.get(demo.authorize(&[(parameter, value)])).await;
        assert_eq!(page.status, 400, "{parameter}={value}");
        assert!(page.body.contains(&format!("AADSTS{number}: ")), "{parameter}={value}");
    }
    let repeated = browser.get(format!("{}&state=again", demo.authorize(&[]))).await;
    assert!(repeated.status == 400 && repeated.body.contains("AADSTS9000411: "), "{repeated:?}");
    let unknown = browser.post(demo.authorize(&[]), &[("choice", NOBODY)]).await;
    assert!(unknown.status == 400 && unknown.body.contains("AADSTS50034: "), "{unknown:?}");
    // These go back to the app.
    for (parameter, value, error, number) in [
        ("response_type", "token", "unsupported_response_type", 70005),
        ("response_mode", "fragment", "invalid_request", 70007),
        ("prompt", "everything", "invalid_request", 90023),
        ("prompt", "none", "login_required", 50058),
        ("code_challenge", "", "invalid_request", 9002325),
        ("code_challenge", "too-short", "invalid_request", 501491),
        ("code_challenge_method", "", "invalid_request", 9002313),
        ("code_challenge_method", "plain", "invalid_request", 9002313),
        ("claims", "[]", "invalid_request", 9002313),
        ("scope", "", "invalid_request", 900144),
        ("scope", "openid Mail.Read", "invalid_scope", 70011),
    ] {
        let page = browser.get(demo.authorize(&[(parameter, value)])).await;
        let case = format!("{parameter}={value}");
        assert!(page.location().starts_with(&format!("{redirect_uri}?")), "{case}");
        let found = ["error", "error_uri", "state"].map(|name| page.location_parameter(name));
        let error_uri = format!("https://login.microsoftonline.com/error?code={number}");
        let expected = [error, &error_uri, "state-of-the-test"].map(|value| Some(value.to_owned()));
        assert_eq!((page.status, found), (303, expected), "{case}");
    }
    // Other sites must not choose a user, not even one on another port of localhost.
    let form = browser.client.post(demo.authorize(&[])).form(&[("choice", ADA)]);
    let page = browser.send(form.header("Sec-Fetch-Site", "same-site")).await;
    assert_eq!(page.status, 403, "{}", page.body);
}

#[tokio::test]
async fn single_sign_on_signs_the_user_in_unless_login_hint_or_prompt_asks_for_another() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    let page = browser.get(demo.authorize(&[("login_hint", BEN)])).await;
    let first_button = page.body.split_once("name=\"choice\" value=\"").unwrap().1;
    assert!(page.status == 200 && first_button.starts_with(BEN), "{}", page.body);
    assert!(page.body.contains("named by the app in <code>login_hint</code>"));

    let page = browser.post(demo.authorize(&[]), &[("choice", BEN)]).await;
    // All ports of localhost share their cookies. The path keeps this one away from the app.
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let path = Url::parse(&demo.at("/oauth2/v2.0")).unwrap().path().to_owned();
    let attributes = format!("HttpOnly; SameSite=Lax; Path={path}");
    assert_eq!(cookie.split_once("; ").unwrap().1, attributes);
    let (_, tokens) = demo.redeem(&page.location_parameter("code").unwrap(), &[]).await;
    let claims = claims(&tokens);
    for (login_hint, prompt, expected) in [
        ("", "", "code"),
        ("", "none", "code"),
        (&*BEN.to_uppercase(), "", "code"),
        (claims["login_hint"].as_str().unwrap(), "none", "code"),
        (ADA, "", "the sign-in page"),
        (ADA, "none", "error"),
        (NOBODY, "", "the sign-in page"),
        ("", "login", "the sign-in page"),
        ("", "select_account", "the sign-in page"),
        ("", "consent", "the sign-in page"),
    ] {
        let url = demo.authorize(&[("login_hint", login_hint), ("prompt", prompt)]);
        let page = browser.get(url).await;
        let found =
            ["code", "error"].into_iter().find(|name| page.location_parameter(name).is_some());
        assert_eq!(found.unwrap_or("the sign-in page"), expected, "{login_hint} {prompt}");
    }
}

#[tokio::test]
async fn a_sign_out_ends_single_sign_on_and_leads_only_to_a_registered_address() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    for (uri, status) in [
        (&*demo.home_page, 302),
        ("http://localhost:1/auth/redirect", 302),
        ("http://localhost:5000/graph", 200),
        ("https://evil.example/", 200),
        ("", 200),
    ] {
        let signed_in = browser.post(demo.authorize(&[]), &[("choice", ADA)]).await;
        let query = [("post_logout_redirect_uri", uri), ("logout_hint", "O.anything")];
        let url = Url::parse_with_params(&demo.at("/oauth2/v2.0/logout"), query).unwrap();
        let page = browser.get(url).await;
        assert_eq!(page.status, status, "{uri}");
        if status == 302 {
            assert_eq!(page.location(), uri);
        }
        // The browser is signed out, and a copy of its cookie does not work.
        assert_eq!(page.cookies(), ["demo-tenant-sso="]);
        let request = browser.client.get(demo.authorize(&[]));
        let page = browser.send(request.header("Cookie", signed_in.cookies().remove(0))).await;
        assert_eq!(page.status, 200, "{uri}");
    }
}

#[tokio::test]
async fn a_second_factor_is_asked_for_once_and_is_in_the_id_token() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    for (claims_parameter, is_asked, acrs) in [
        ("", false, Value::Null),
        (r#"{"id_token":{"acrs":{"essential":true,"value":"c1"}}}"#, true, json!(["c1"])),
        (r#"{"id_token":{"acrs":{"essential":true,"values":["c2"]}}}"#, false, json!(["c2"])),
        ("", false, Value::Null),
    ] {
        let url = demo.authorize(&[("claims", claims_parameter)]);
        // Without a page, the tenant cannot ask.
        let silent = browser.get(format!("{url}&prompt=none")).await;
        let mut page = browser.get(&url).await;
        if claims_parameter.is_empty() && page.status == 200 {
            page = browser.post(&url, &[("choice", ADA)]).await;
        }
        assert_eq!(page.status == 200, is_asked, "{claims_parameter}: {}", page.body);
        if is_asked {
            assert!(silent.location().contains("AADSTS50076"), "{}", silent.location());
            assert!(page.body.contains("value=\"second_factor\""), "{}", page.body);
            page = browser.post(&url, &[("choice", "second_factor")]).await;
        }
        let (_, tokens) = demo.redeem(&page.location_parameter("code").unwrap(), &[]).await;
        assert_eq!(claims(&tokens)["acrs"], acrs, "{claims_parameter}");
    }
    // A browser in which nobody is signed in has no second factor.
    let page = Browser::new().post(demo.authorize(&[]), &[("choice", "second_factor")]).await;
    assert!(page.status == 400 && page.body.contains("AADSTS50034: "), "{page:?}");
    // Another user needs a second factor of their own.
    let url = demo.authorize(&[("claims", r#"{"id_token":{"acrs":{"value":"c1"}}}"#)]);
    let page = browser.post(&url, &[("choice", BEN)]).await;
    assert!(page.body.contains("value=\"second_factor\""), "{}", page.body);
}

//! The token endpoint, and Microsoft Graph.

use std::time::Duration;

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn the_token_endpoint_is_strict() {
    let demo = Demo::start(3600);
    for (parameter, value, error, number) in [
        ("grant_type", "", "invalid_request", 900144),
        ("grant_type", "password", "unsupported_grant_type", 70003),
        ("client_id", "", "invalid_request", 900144),
        ("client_id", "4f2d8c1a-another-app", "unauthorized_client", 700016),
        ("client_secret", "", "invalid_client", 7000218),
        ("client_secret", "wrong", "invalid_client", 7000215),
        ("client_assertion", "x", "invalid_request", 900144),
        ("code", "unknown", "invalid_grant", 70000),
        ("redirect_uri", "http://localhost/", "invalid_client", 500112),
        ("code_verifier", "another-code-verifier-that-has-43-characters", "invalid_grant", 501481),
        ("scope", "openid email", "invalid_scope", 70011),
        ("claims", "text", "invalid_request", 9002313),
    ] {
        let refused = demo.redeem(&demo.code(&[]).await, &[(parameter, value)]).await;
        assert_refused(&format!("{parameter}={value}"), &refused, error, number);
    }
    let code = demo.code(&[("code_challenge", &hash("short"))]).await;
    let refused = demo.redeem(&code, &[("code_verifier", "short")]).await;
    assert_refused("a short code_verifier", &refused, "invalid_grant", 501481);

    // A code works once and for one redirect URI. The home page is registered too.
    let browser = Browser::new();
    let home = demo.home_page.clone();
    browser.post(demo.authorize(&[]), &[("choice", ADA)]).await;
    for uri in ["http://localhost:1234/auth/redirect", "http://localhost/auth/redirect", &home] {
        let changes = [("redirect_uri", uri)];
        let page = browser.get(demo.authorize(&changes)).await;
        assert!(page.location().starts_with(&format!("{uri}?code=")), "{}", page.location());
        let code = page.location_parameter("code").unwrap();
        assert_eq!(demo.redeem(&code, &changes).await.0, 200, "{uri}");
        assert_refused(uri, &demo.redeem(&code, &changes).await, "invalid_grant", 54005);
        // After an attempt that fails, the code does not work either.
        let code = demo.code(&changes).await;
        assert_refused(uri, &demo.redeem(&code, &[]).await, "invalid_client", 500112);
        assert_refused(uri, &demo.redeem(&code, &changes).await, "invalid_grant", 54005);
    }
}

#[tokio::test]
#[ignore = "waits for a minute"]
async fn a_code_works_for_one_minute() {
    let demo = Demo::start(3600);
    let code = demo.code(&[]).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_refused("old", &demo.redeem(&code, &[]).await, "invalid_grant", 70008);
}

#[tokio::test]
async fn a_refresh_returns_a_new_refresh_token_and_the_old_one_stays_valid() {
    let demo = Demo::start(7200);
    let (_, first) = demo.redeem(&demo.code(&[]).await, &[]).await;
    let (_, second) = demo.refresh(&first["refresh_token"], &[]).await;
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    for tokens in [&first, &second] {
        assert_eq!(tokens["expires_in"], 7200);
        assert_eq!(demo.refresh(&tokens["refresh_token"], &[]).await.0, 200);
        let profile = demo.graph(&bearer(tokens).replace("Bearer", "bearer")).await.json();
        assert_eq!(profile["userPrincipalName"], ADA);
    }
    let refused = demo.refresh(&json!("unknown"), &[]).await;
    assert_refused("unknown", &refused, "invalid_grant", 70000);
    // A refresh token belongs to the app too.
    let refused = demo.refresh(&second["refresh_token"], &[("client_secret", "wrong")]).await;
    assert_refused("secret", &refused, "invalid_client", 7000215);
}

#[tokio::test]
async fn microsoft_graph_requires_a_valid_access_token_with_the_permission() {
    let demo = Demo::start(1);
    let code = demo.code(&[("scope", "openid profile offline_access")]).await;
    let (_, tokens) = demo.redeem(&code, &[]).await;
    let page = demo.graph(&bearer(&tokens)).await;
    let error = &page.json()["error"];
    assert_eq!((page.status, &error["code"]), (403, &json!("Authorization_RequestDenied")));
    assert_eq!(tokens["expires_in"], 1);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    for authorization in [&*bearer(&tokens), "Bearer unknown", "Basic dTpw", "Bearer"] {
        let page = demo.graph(authorization).await;
        let error = &page.json()["error"];
        assert_eq!((page.status, &error["code"]), (401, &json!("InvalidAuthenticationToken")));
        let header = page.headers["www-authenticate"].to_str().unwrap();
        assert!(header.starts_with("Bearer ") && !header.contains("claims"), "{header}");
    }
}

//! Step 8: which ID tokens the app accepts, and where it gets the keys from. A case that begins
//! with `oidcc-client-test` does what this module of the OpenID Foundation's conformance suite
//! does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::*;

type Edit<T> = fn(&mut T);

/// Signs in. The ID token must be refused by this check and no other.
async fn assert_refused(platform: &Platform, app: &App, case: &str, check: &str) {
    let before = app.log().len();
    let browser = app.browser();
    let page = platform.sign_in(app, &browser, "/graph").await;
    assert_eq!(page.status, 401, "{case}: {}", page.body);
    page.assert_error(401, &format!("The ID token is not valid. It fails the check of {check}."));
    platform.assert_nobody_is_signed_in(app, &browser).await;
    let line = format!("step 8: refused, the ID token fails the check of {check}\n");
    assert_eq!(app.log()[before..].matches(&line).count(), 1, "{case}");
}

/// Signs in. The ID token must be accepted, and both protected pages must open.
async fn assert_accepted(platform: &Platform, app: &App, case: &str) {
    let browser = app.browser();
    let page = platform.sign_in(app, &browser, "/graph").await;
    assert_eq!(page.status, 302, "{case}: {}", page.body);
    for path in ["/graph", "/admin"] {
        assert_eq!(browser.get(app.at(path)).await.status, 200, "{case}");
    }
}

fn remove(object: &mut Value, name: &str) {
    object.as_object_mut().unwrap().remove(name).unwrap();
}

fn append_1(value: &mut Value) {
    *value = format!("{}1", value.as_str().unwrap()).into();
}

/// Makes the platform sign with the key of this number, and publish these keys.
fn sign_with(platform: &Platform, number: usize, keys: Value) {
    platform.id_token(move |token| {
        token.header["kid"] = kid(number).into();
        token.signed_with = Some(number);
    });
    platform.on(Endpoint::Keys, move |answer| answer.json = json!({ "keys": keys }));
}

#[tokio::test]
async fn an_id_token_with_a_wrong_claim_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let cases: [(&str, &str, Edit<Value>); 18] = [
        ("oidcc-client-test-invalid-iss", "iss", |claims| append_1(&mut claims["iss"])),
        ("no iss", "iss", |claims| remove(claims, "iss")),
        ("oidcc-client-test-invalid-aud", "aud", |claims| append_1(&mut claims["aud"])),
        ("aud of two apps", "aud", |claims| claims["aud"] = json!([CLIENT_ID, TENANT_ID])),
        ("aud of no app", "aud", |claims| claims["aud"] = json!([])),
        ("no aud", "aud", |claims| remove(claims, "aud")),
        ("exp has passed", "exp", |claims| claims["exp"] = (now() - 130).into()),
        ("exp as text", "exp", |claims| claims["exp"] = (now() + 600).to_string().into()),
        ("no exp", "exp", |claims| remove(claims, "exp")),
        ("nbf in the future", "nbf", |claims| claims["nbf"] = (now() + 180).into()),
        ("nbf as text", "nbf", |claims| claims["nbf"] = "0".into()),
        ("iat in the future", "iat", |claims| claims["iat"] = (now() + 180).into()),
        ("iat as text", "iat", |claims| claims["iat"] = now().to_string().into()),
        ("oidcc-client-test-missing-iat", "iat", |claims| remove(claims, "iat")),
        ("oidcc-client-test-missing-sub", "sub", |claims| remove(claims, "sub")),
        ("sub as a number", "sub", |claims| claims["sub"] = 7.into()),
        ("oidcc-client-test-nonce-invalid", "nonce", |claims| append_1(&mut claims["nonce"])),
        ("no nonce", "nonce", |claims| remove(claims, "nonce")),
    ];
    for (case, check, edit) in cases {
        platform.id_token(move |token| edit(&mut token.claims));
        assert_refused(&platform, &app, case, check).await;
    }
}

#[tokio::test]
async fn an_id_token_whose_claims_are_unusual_but_valid_is_accepted() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let cases: [(&str, Edit<Value>); 6] = [
        ("oidcc-client-test (base)", |_| {}),
        ("aud as an array of this app", |claims| claims["aud"] = json!([CLIENT_ID])),
        ("exp passed a minute ago", |claims| claims["exp"] = (now() - 60).into()),
        ("nbf in a minute", |claims| claims["nbf"] = (now() + 60).into()),
        ("no nbf", |claims| remove(claims, "nbf")),
        ("iat in a minute", |claims| claims["iat"] = (now() + 60).into()),
    ];
    for (case, edit) in cases {
        platform.id_token(move |token| edit(&mut token.claims));
        assert_accepted(&platform, &app, case).await;
    }
}

#[tokio::test]
async fn an_id_token_with_another_signature_or_header_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // The second key is a valid key of the platform, but not the key of the token.
    sign_with(&platform, 0, json!([public_key(0, &kid(0)), public_key(2, &kid(2))]));
    let cases: [(&str, &str, Edit<IdToken>); 9] = [
        ("oidcc-client-test-idtoken-sig-none", "the header", |token| {
            token.header = json!({ "alg": "none" });
            token.signed_with = None;
        }),
        ("HS256", "the algorithm", |token| token.header["alg"] = "HS256".into()),
        ("PS256", "the algorithm", |token| token.header["alg"] = "PS256".into()),
        ("oidcc-client-test-invalid-sig-rs256", "the signature", |token| {
            token.signed_with = Some(1);
        }),
        ("the kid of another key", "the signature", |token| token.header["kid"] = kid(2).into()),
        ("oidcc-client-test-kid-absent-multiple-jwks", "the key", |token| {
            remove(&mut token.header, "kid");
        }),
        ("an unknown kid", "the key", |token| token.header["kid"] = "unknown".into()),
        ("an extension in crit", "crit", |token| {
            token.header["crit"] = json!(["exp"]);
            token.header["exp"] = 0.into();
        }),
        ("the key of an attacker in the header", "the key", |token| {
            token.header["jwk"] = public_key(1, &kid(1));
            token.header["jku"] = "http://127.0.0.1:9/keys".into();
            token.header["x5u"] = "http://127.0.0.1:9/keys".into();
            token.header["kid"] = kid(1).into();
            token.signed_with = Some(1);
        }),
    ];
    for (case, check, edit) in cases {
        platform.id_token(edit);
        assert_refused(&platform, &app, case, check).await;
    }
    // The first sign-in fetched the keys, and so did each token whose key was not among them.
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 4);
}

#[tokio::test]
async fn new_keys_are_fetched_when_a_token_names_one() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Metadata, |answer| {
        let jwks_uri = format!("{}?appid=unusual", answer.json["jwks_uri"].as_str().unwrap());
        answer.json["jwks_uri"] = jwks_uri.into();
    });
    let app = platform.app(&[]).await;
    for _ in 0..3 {
        assert_accepted(&platform, &app, "oidcc-client-test-idtoken-sig-rs256").await;
    }
    // oidcc-client-test-discovery-jwks-uri-keys
    assert_eq!(platform.requests(Endpoint::Keys).await[0].url.query(), Some("appid=unusual"));
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 1, "the app keeps the keys");

    sign_with(&platform, 1, json!([public_key(1, &kid(1))]));
    assert_accepted(&platform, &app, "oidcc-client-test-signing-key-rotation").await;
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 2);

    // oidcc-client-test-signing-key-rotation-just-before-signing
    let browser = app.browser();
    let callback = platform.callback(&browser.get(app.at("/graph")).await);
    sign_with(&platform, 2, json!([public_key(1, &kid(1)), public_key(2, &kid(2))]));
    let page = browser.get(callback).await;
    assert_eq!((page.status, page.location()), (302, "/graph"));
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 3);

    // A key that the platform no longer publishes is not used.
    sign_with(&platform, 0, json!([public_key(2, &kid(2))]));
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(401, "the check of the key.");
}

#[tokio::test]
async fn keys_of_other_kinds_are_skipped() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let mut without_kid = public_key(1, "");
    remove(&mut without_kid, "kid");
    let keys = json!([
        { "kty": "EC", "crv": "P-256", "kid": "a", "x": "AQ", "y": "AQ", "use": "sig" },
        { "kty": "EC", "crv": "secp256k1", "kid": "b", "x": "AQ", "y": "AQ" },
        { "kty": "OKP", "crv": "Ed25519", "kid": "c", "x": "AQ" },
        { "kty": "OKP", "crv": "X25519", "kid": "d", "x": "AQ", "use": "enc" },
        { "kty": "unknown", "kid": "e", "n": 7 },
        { "kty": "RSA", "kid": "f" },
        without_kid,
        public_key(0, &kid(0)),
    ]);
    sign_with(&platform, 0, keys);
    assert_accepted(&platform, &app, "a mixed key set").await;
    for kid in ["a", "b", "c", "d", "e", "f"] {
        platform.id_token(move |token| token.header["kid"] = kid.into());
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        page.assert_error(401, "It fails the check of the ");
    }
    // oidcc-client-test-kid-absent-single-jwks: Microsoft Entra ID always sends a kid.
    platform.id_token(|token| remove(&mut token.header, "kid"));
    platform.on(Endpoint::Keys, |answer| remove(&mut answer.json["keys"][0], "kid"));
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(401, "the check of the key.");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sign_ins_at_once_fetch_the_keys_once() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.on(Endpoint::Keys, |answer| answer.delay = Duration::from_secs(2));
    for (round, known) in [(1, true), (2, false)] {
        if !known {
            platform.id_token(|token| token.header["kid"] = "unknown".into());
        }
        let mut sign_ins = JoinSet::new();
        for _ in 0..16 {
            let browser = app.browser();
            let callback = platform.callback(&browser.get(app.at("/graph")).await);
            sign_ins.spawn(async move { browser.get(callback).await });
        }
        // All of them wait for the keys.
        let started = Instant::now();
        while platform.token_forms().await.len() < 16 * round {
            assert!(started.elapsed() < PATIENCE && sign_ins.try_join_next().is_none());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sign_ins.try_join_next().is_none());
        while let Some(page) = sign_ins.join_next().await {
            assert_eq!(page.unwrap().status, if known { 302 } else { 401 });
        }
        assert_eq!(platform.requests(Endpoint::Keys).await.len(), round);
    }
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_an_error_of_the_identity_platform() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let cases: [(&str, Edit<Answer>); 3] = [
        ("status 404 with keys", |answer| answer.status = 404),
        ("HTML", |answer| answer.say(200, "<html>Welcome to the hotel</html>")),
        ("no keys", |answer| answer.json = json!({})),
    ];
    for (case, edit) in cases {
        platform.on(Endpoint::Keys, edit);
        let (browser, before) = (app.browser(), app.log().len());
        let page = platform.sign_in(&app, &browser, "/graph").await;
        page.assert_error(502, "The signing keys are not available.");
        let cause = "step 8: the signing keys are not available, reqwest::Error";
        assert!(app.log()[before..].contains(cause), "{case}");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
    }
    platform.on(Endpoint::Keys, |_| {});
    assert_accepted(&platform, &app, "the platform works again").await;
    // Only a token with another kid needs the platform.
    platform.on(Endpoint::Keys, |answer| answer.status = 500);
    assert_accepted(&platform, &app, "a known kid").await;
    platform.id_token(|token| token.header["kid"] = "unknown".into());
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(502, "The signing keys are not available.");
}

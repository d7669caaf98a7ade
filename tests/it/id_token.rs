//! Step 8: which ID tokens the app accepts, and where it gets the keys from. A case that begins
//! with `oidcc-client-test` does what this module of the OpenID Foundation's conformance suite
//! does.

use serde_json::{Value, json};

use crate::harness::*;
use crate::platform::*;

type Edit<T> = fn(&mut T);

const UNKNOWN: &str = "the signing key is unknown";

/// Signs in. The ID token must be refused for this cause and no other.
async fn assert_refused(platform: &Platform, app: &App, case: &str, cause: &str) {
    let before = app.log().len();
    let browser = app.browser();
    let page = platform.sign_in(app, &browser, "/graph").await;
    assert_eq!(page.status, 401, "{case}: {}", page.body);
    let text = format!("The ID token is not valid: {cause}");
    assert!(page.body.contains(&text), "{case}: {}", page.body);
    page.assert_error(401, "You are not signed in.");
    platform.assert_nobody_is_signed_in(app, &browser).await;
    assert_eq!(app.log()[before..].matches(&text).count(), 1, "{case}: {}", app.log());
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
    let cases: [(&str, &str, Edit<Value>); 23] = [
        ("oidcc-client-test-invalid-iss", "InvalidIssuer", |claims| append_1(&mut claims["iss"])),
        ("no iss", "JSON error: missing field", |claims| remove(claims, "iss")),
        ("iss as a list", "JSON error", |claims| claims["iss"] = json!([claims["iss"]])),
        ("oidcc-client-test-invalid-aud", "InvalidAudience", |claims| append_1(&mut claims["aud"])),
        ("aud of two apps", "JSON error", |claims| claims["aud"] = json!([CLIENT_ID, TENANT_ID])),
        ("aud as a list", "JSON error", |claims| claims["aud"] = json!([CLIENT_ID])),
        ("aud of no app", "JSON error", |claims| claims["aud"] = json!([])),
        ("no aud", "JSON error: missing field", |claims| remove(claims, "aud")),
        ("exp has passed", "ExpiredSignature", |claims| claims["exp"] = (now() - 130).into()),
        ("exp as text", "JSON error: invalid type", |claims| {
            claims["exp"] = (now() + 600).to_string().into();
        }),
        ("no exp", "JSON error: missing field", |claims| remove(claims, "exp")),
        ("exp is negative", "Missing required claim: exp", |claims| claims["exp"] = (-1).into()),
        ("exp is huge", "JSON error", |claims| claims["exp"] = u64::MAX.into()),
        ("nbf in the future", "ImmatureSignature", |claims| claims["nbf"] = (now() + 180).into()),
        ("nbf as text", "Invalid format for claim: nbf", |claims| claims["nbf"] = "0".into()),
        ("iat in the future", "it was issued in the future", |claims| {
            claims["iat"] = (now() + 180).into();
        }),
        ("iat as text", "JSON error", |claims| claims["iat"] = now().to_string().into()),
        ("oidcc-client-test-missing-iat", "JSON error: missing field", |claims| {
            remove(claims, "iat");
        }),
        ("oidcc-client-test-missing-sub", "Missing required claim: sub", |claims| {
            remove(claims, "sub");
        }),
        ("sub as a number", "Missing required claim: sub", |claims| claims["sub"] = 7.into()),
        ("oidcc-client-test-nonce-invalid", "it has the nonce of another sign-in", |claims| {
            append_1(&mut claims["nonce"]);
        }),
        ("no nonce", "JSON error: missing field", |claims| remove(claims, "nonce")),
        ("roles as text", "JSON error", |claims| claims["roles"] = "admin".into()),
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
        ("exp passed almost two minutes ago", |claims| claims["exp"] = (now() - 110).into()),
        ("exp at the end of time", |claims| claims["exp"] = i64::MAX.into()),
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
        ("oidcc-client-test-idtoken-sig-none", "JSON error", |token| {
            token.header = json!({ "alg": "none" });
            token.signed_with = None;
        }),
        ("HS256", "InvalidAlgorithm", |token| token.header["alg"] = "HS256".into()),
        ("PS256", "InvalidAlgorithm", |token| token.header["alg"] = "PS256".into()),
        ("oidcc-client-test-invalid-sig-rs256", "InvalidSignature", |token| {
            token.signed_with = Some(1);
        }),
        ("the kid of another key", "InvalidSignature", |token| token.header["kid"] = kid(2).into()),
        (
            "oidcc-client-test-kid-absent-multiple-jwks",
            "it does not name its signing key",
            |token| {
                remove(&mut token.header, "kid");
            },
        ),
        ("an unknown kid", UNKNOWN, |token| token.header["kid"] = "unknown".into()),
        ("an extension in crit", "it has an extension in crit", |token| {
            token.header["crit"] = json!(["exp"]);
            token.header["exp"] = 0.into();
        }),
        ("the key of an attacker in the header", UNKNOWN, |token| {
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
    // The keys are requested at each sign-in, so that none is used that the platform has withdrawn.
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 3);

    sign_with(&platform, 1, json!([public_key(1, &kid(1))]));
    assert_accepted(&platform, &app, "oidcc-client-test-signing-key-rotation").await;

    // oidcc-client-test-signing-key-rotation-just-before-signing
    let browser = app.browser();
    let callback = platform.callback(&browser.get(app.at("/graph")).await);
    sign_with(&platform, 2, json!([public_key(1, &kid(1)), public_key(2, &kid(2))]));
    let page = browser.get(callback).await;
    assert_eq!((page.status, page.location()), (302, "/graph"));

    // A key that the platform no longer publishes is not used.
    sign_with(&platform, 0, json!([public_key(2, &kid(2))]));
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(401, UNKNOWN);
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
        // RFC 7517 section 5: keys that the app cannot read do not harm the others.
        { "kty": "RSA", "kid": "f" },
        { "kty": 7, "kid": ["g"], "n": null },
        { "kid": "h", "key_ops": "sign", "alg": 7 },
        "text", null, 7, [],
        without_kid,
        public_key(0, &kid(0)),
    ]);
    sign_with(&platform, 0, keys);
    assert_accepted(&platform, &app, "a mixed key set").await;
    for kid in ["a", "b", "c", "d", "e", "f", "h"] {
        platform.id_token(move |token| token.header["kid"] = kid.into());
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        page.assert_error(401, "The ID token is not valid: ");
    }
    // oidcc-client-test-kid-absent-single-jwks: Microsoft Entra ID always sends a kid.
    platform.id_token(|token| remove(&mut token.header, "kid"));
    platform.on(Endpoint::Keys, |answer| remove(&mut answer.json["keys"][0], "kid"));
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(401, "it does not name its signing key");
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_an_error_of_the_identity_platform() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let cases: [(&str, Edit<Answer>); 4] = [
        ("an error", |answer| answer.refuse(503, "temporarily_unavailable", "AADSTS90033")),
        ("HTML", |answer| answer.say(200, "<html>Welcome to the hotel</html>")),
        ("no keys", |answer| answer.json = json!({})),
        ("keys that are not a list", |answer| answer.json = json!({ "keys": {} })),
    ];
    for (case, edit) in cases {
        platform.on(Endpoint::Keys, edit);
        let (browser, before) = (app.browser(), app.log().len());
        let page = platform.sign_in(&app, &browser, "/graph").await;
        page.assert_error(502, "Microsoft Entra ID is not available. Try again in a minute.");
        let cause = "no valid response from Microsoft Entra ID: reqwest::Error";
        assert!(app.log()[before..].contains(cause), "{case}");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
    }
    platform.on(Endpoint::Keys, |_| {});
    assert_accepted(&platform, &app, "the platform works again").await;
}

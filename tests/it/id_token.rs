//! Step 8: which ID tokens the app accepts, and where it gets the keys from. A case that begins
//! with `oidcc-client-test` does what this module of the OpenID Foundation's conformance suite
//! does.

use std::time::{Duration, Instant};

use base64::prelude::*;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::*;

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
        token.signed_with = Signature::Rsa(number);
    });
    platform.on(Endpoint::Keys, move |answer| answer.json = json!({ "keys": keys }));
}

#[tokio::test]
async fn an_id_token_with_a_wrong_claim_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    type Edit = fn(&mut Value);
    let cases: [(&str, &str, Edit); 31] = [
        ("oidcc-client-test-invalid-iss", "iss", |claims| append_1(&mut claims["iss"])),
        ("iss of another tenant", "iss", |claims| {
            let iss = claims["iss"].as_str().unwrap();
            claims["iss"] = iss.replace(TENANT_ID, "9188040d-6c67-4c5b-b112-36a304b66dad").into();
        }),
        ("iss with a slash", "iss", |claims| {
            claims["iss"] = format!("{}/", claims["iss"].as_str().unwrap()).into();
        }),
        ("iss as an array", "iss", |claims| claims["iss"] = json!([claims["iss"]])),
        ("no iss", "iss", |claims| remove(claims, "iss")),
        ("oidcc-client-test-invalid-aud", "aud", |claims| append_1(&mut claims["aud"])),
        ("aud of another app", "aud", |claims| claims["aud"] = TENANT_ID.into()),
        ("aud of two apps", "aud", |claims| claims["aud"] = json!([CLIENT_ID, TENANT_ID])),
        ("aud of this app twice", "aud", |claims| claims["aud"] = json!([CLIENT_ID, CLIENT_ID])),
        ("aud of no app", "aud", |claims| claims["aud"] = json!([])),
        ("aud in upper case", "aud", |claims| claims["aud"] = CLIENT_ID.to_uppercase().into()),
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
        ("sub is null", "sub", |claims| claims["sub"] = Value::Null),
        ("oidcc-client-test-nonce-invalid", "nonce", |claims| append_1(&mut claims["nonce"])),
        ("nonce is empty", "nonce", |claims| claims["nonce"] = "".into()),
        ("nonce is null", "nonce", |claims| claims["nonce"] = Value::Null),
        ("no nonce", "nonce", |claims| remove(claims, "nonce")),
        ("claims as an array", "the signature", |claims| *claims = json!(["iss"])),
        ("claims as text", "the signature", |claims| *claims = json!("text")),
        ("claims are null", "the signature", |claims| *claims = Value::Null),
        ("no claims", "iss", |claims| *claims = json!({})),
    ];
    for (case, check, edit) in cases {
        platform.id_token(move |token| edit(&mut token.claims));
        assert_refused(&platform, &app, case, check).await;
    }
}

#[tokio::test]
async fn an_id_token_with_the_nonce_of_another_sign_in_of_this_browser_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let (one, two) = (browser.get(app.at("/graph")).await, browser.get(app.at("/graph")).await);
    let nonce = one.location_parameter("nonce").unwrap();
    platform.id_token(move |token| token.claims["nonce"] = nonce.clone().into());
    browser.get(platform.callback(&two)).await.assert_error(401, "the check of nonce.");
    platform.assert_nobody_is_signed_in(&app, &browser).await;
}

#[tokio::test]
async fn an_id_token_whose_claims_are_unusual_but_valid_is_accepted() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 9] = [
        ("oidcc-client-test (base)", |_| {}),
        ("aud as an array of this app", |claims| claims["aud"] = json!([CLIENT_ID])),
        ("exp passed a minute ago", |claims| claims["exp"] = (now() - 60).into()),
        ("exp in the year 2100", |claims| claims["exp"] = 4_102_444_800_i64.into()),
        ("nbf in a minute", |claims| claims["nbf"] = (now() + 60).into()),
        ("no nbf", |claims| remove(claims, "nbf")),
        ("iat in a minute", |claims| claims["iat"] = (now() + 60).into()),
        ("iat a year ago", |claims| claims["iat"] = (now() - 31_536_000).into()),
        ("claims of other kinds", |claims| {
            claims["azp"] = json!([7]);
            claims["auth_time"] = "text".into();
            claims["tid"] = Value::Null;
        }),
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
    type Edit = fn(&mut IdToken);
    let cases: [(&str, &str, Edit); 19] = [
        ("oidcc-client-test-idtoken-sig-none", "the header", |token| {
            token.header = json!({ "alg": "none" });
            token.signed_with = Signature::Nothing;
        }),
        ("alg None", "the header", |token| token.header["alg"] = "None".into()),
        ("no alg", "the header", |token| token.header["alg"] = Value::Null),
        ("RS256 without a signature", "the signature", |token| {
            token.signed_with = Signature::Nothing;
        }),
        ("HS256 with the public key as its secret", "the algorithm", |token| {
            let modulus = public_key(0, "")["n"].as_str().unwrap().to_owned();
            token.header["alg"] = "HS256".into();
            token.signed_with = Signature::Hmac(BASE64_URL_SAFE_NO_PAD.decode(modulus).unwrap());
        }),
        ("HS256 with the client secret", "the algorithm", |token| {
            token.header["alg"] = "HS256".into();
            token.signed_with = Signature::Hmac(CLIENT_SECRET.into());
        }),
        ("RS256 with a signature of HS256", "the signature", |token| {
            token.signed_with = Signature::Hmac(CLIENT_SECRET.into());
        }),
        ("PS256", "the algorithm", |token| token.header["alg"] = "PS256".into()),
        ("RS384", "the algorithm", |token| token.header["alg"] = "RS384".into()),
        ("ES256", "the algorithm", |token| token.header["alg"] = "ES256".into()),
        ("oidcc-client-test-invalid-sig-rs256", "the signature", |token| {
            token.signed_with = Signature::Rsa(1);
        }),
        ("another key of the platform", "the signature", |token| {
            token.signed_with = Signature::Rsa(2);
        }),
        ("the kid of another key", "the signature", |token| token.header["kid"] = kid(2).into()),
        ("oidcc-client-test-kid-absent-multiple-jwks", "the key", |token| {
            remove(&mut token.header, "kid");
        }),
        ("an empty kid", "the key", |token| token.header["kid"] = "".into()),
        ("an unknown kid", "the key", |token| token.header["kid"] = "unknown".into()),
        ("kid as a number", "the header", |token| token.header["kid"] = 0.into()),
        ("an extension in crit", "crit", |token| {
            token.header["crit"] = json!(["exp"]);
            token.header["exp"] = 0.into();
        }),
        ("the key of an attacker in jwk", "the key", |token| {
            token.header["jwk"] = public_key(1, &kid(1));
            token.header["kid"] = kid(1).into();
            token.signed_with = Signature::Rsa(1);
        }),
    ];
    for (case, check, edit) in cases {
        platform.id_token(edit);
        assert_refused(&platform, &app, case, check).await;
    }
    // The first sign-in fetched the keys, and so did each token whose key was not among them.
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 5);
}

#[tokio::test]
async fn a_changed_id_token_is_refused() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    fn change(payload: &str) -> String {
        let claims = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
        let mut claims: Value = serde_json::from_slice(&claims).unwrap();
        claims["sub"] = "sub-of-somebody-else".into();
        BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
    }
    type Edit = fn([&str; 3]) -> String;
    let cases: [(&str, &str, Edit); 9] = [
        ("another payload", "the signature", |[a, b, c]| format!("{a}.{}.{c}", change(b))),
        ("another signature", "the signature", |[a, b, c]| {
            let first = if c.starts_with('A') { "B" } else { "A" };
            format!("{a}.{b}.{first}{}", &c[1..])
        }),
        ("a shorter signature", "the signature", |[a, b, c]| format!("{a}.{b}.{}", &c[4..])),
        ("a signature that is not Base64", "the signature", |[a, b, _]| format!("{a}.{b}.%%%")),
        ("no signature", "the header", |[a, b, _]| format!("{a}.{b}")),
        ("four parts", "the header", |[a, b, c]| format!("{a}.{b}.{c}.{c}")),
        ("an encrypted token", "the header", |[a, b, c]| format!("{a}.{b}.{c}.{b}.{c}")),
        ("not a JWT", "the header", |_| "not a JWT".to_owned()),
        ("an empty text", "the header", |_| String::new()),
    ];
    for (case, check, edit) in cases {
        platform.on(Endpoint::Token, move |answer| {
            let id_token = answer.json["id_token"].as_str().unwrap();
            let parts: Vec<&str> = id_token.split('.').collect();
            answer.json["id_token"] = edit([parts[0], parts[1], parts[2]]).into();
        });
        assert_refused(&platform, &app, case, check).await;
    }
}

#[tokio::test]
async fn keys_come_only_from_the_address_in_the_metadata() {
    let (platform, attacker) = (Platform::start().await, Platform::start().await);
    attacker.on(Endpoint::Keys, |answer| {
        answer.json = json!({ "keys": [public_key(1, &kid(1))] });
    });
    let app = platform.app(&[]).await;
    for name in ["jku", "x5u", "iss"] {
        let address = format!("{}/discovery/v2.0/keys", attacker.authority());
        platform.id_token(move |token| {
            token.header["kid"] = kid(1).into();
            token.header[name] = address.clone().into();
            token.signed_with = Signature::Rsa(1);
        });
        assert_refused(&platform, &app, name, "the key").await;
    }
    assert_eq!(attacker.requests(Endpoint::Keys).await.len(), 0);

    // oidcc-client-test-discovery-jwks-uri-keys
    let jwks_uri = format!("{}/discovery/v2.0/keys?appid=unusual", platform.authority());
    platform.on(Endpoint::Metadata, move |answer| {
        answer.json["jwks_uri"] = jwks_uri.clone().into();
    });
    platform.id_token(|_| {});
    let app = platform.app(&[]).await;
    assert_accepted(&platform, &app, "an unusual jwks_uri").await;
    let requests = platform.requests(Endpoint::Keys).await;
    assert_eq!(requests.last().unwrap().url.query(), Some("appid=unusual"));
}

#[tokio::test]
async fn new_keys_are_fetched_when_a_token_names_one() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for _ in 0..3 {
        assert_accepted(&platform, &app, "oidcc-client-test-idtoken-sig-rs256").await;
    }
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 1, "the app keeps the keys");

    sign_with(&platform, 1, json!([public_key(1, &kid(1))]));
    assert_accepted(&platform, &app, "oidcc-client-test-signing-key-rotation").await;
    assert_eq!(platform.requests(Endpoint::Keys).await.len(), 2);

    let browser = app.browser();
    let callback = platform.callback(&browser.get(app.at("/graph")).await);
    sign_with(&platform, 2, json!([public_key(1, &kid(1)), public_key(2, &kid(2))]));
    let page = browser.get(callback).await;
    let case = "oidcc-client-test-signing-key-rotation-just-before-signing";
    assert_eq!((page.status, page.location()), (302, "/graph"), "{case}");
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
    let mut encryption = public_key(1, "encryption");
    (encryption["use"], encryption["alg"]) = ("enc".into(), "RSA-OAEP".into());
    let mut unknown_alg = public_key(1, "unknown alg");
    unknown_alg["alg"] = "RS1024".into();
    let mut without_kid = public_key(1, "");
    remove(&mut without_kid, "kid");
    let mut with_certificate = public_key(0, &kid(0));
    with_certificate["x5c"] = json!(["MIIC"]);
    with_certificate["issuer"] = platform.authority().into();
    sign_with(
        &platform,
        0,
        json!([
            { "kty": "EC", "crv": "P-256", "kid": "a", "x": "AQ", "y": "AQ", "use": "sig" },
            { "kty": "EC", "crv": "secp256k1", "kid": "b", "x": "AQ", "y": "AQ" },
            { "kty": "OKP", "crv": "Ed25519", "kid": "c", "x": "AQ" },
            { "kty": "OKP", "crv": "X25519", "kid": "d", "x": "AQ", "use": "enc" },
            { "kty": "oct", "kid": "e", "k": "AQ" },
            { "kty": "unknown", "kid": "f", "n": 7 },
            { "kty": "RSA", "kid": "g" },
            encryption,
            unknown_alg,
            without_kid,
            with_certificate,
        ]),
    );
    assert_accepted(&platform, &app, "a mixed key set").await;
    for kid in ["a", "b", "c", "d", "e", "f", "g"] {
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
    type Edit = fn(&mut Answer);
    let cases: [(&str, Edit); 9] = [
        ("status 500", |answer| answer.say(500, "Internal Server Error")),
        ("status 404 with keys", |answer| answer.status = 404),
        ("status 429", |answer| answer.say(429, "Too Many Requests")),
        ("HTML", |answer| answer.say(200, "<html>Welcome to the hotel</html>")),
        ("an empty body", |answer| answer.say(200, "")),
        ("half of the body", |answer| answer.say(200, "{\"keys\":[{\"kty\":\"RSA\",")),
        ("an array", |answer| answer.json = json!([public_key(0, &kid(0))])),
        ("no keys", |answer| answer.json = json!({})),
        ("keys as an object", |answer| answer.json["keys"] = public_key(0, &kid(0))),
    ];
    for has_keys in [false, true] {
        for (case, edit) in cases {
            platform.on(Endpoint::Keys, edit);
            let before = app.log().len();
            let page = platform.sign_in(&app, &app.browser(), "/graph").await;
            page.assert_error(502, "The signing keys are not available.");
            let cause = "step 8: the signing keys are not available, reqwest::Error";
            assert!(app.log()[before..].contains(cause), "{case}");
            assert_eq!(app.session_files().len(), usize::from(has_keys), "{case}");
        }
        // The next sign-in works. After it, the app has keys, but not of each kid.
        if !has_keys {
            platform.on(Endpoint::Keys, |_| {});
            assert_accepted(&platform, &app, "the platform works again").await;
            platform.id_token(|token| token.header["kid"] = "unknown".into());
        }
    }
    // A key that the app has does not need the platform.
    platform.id_token(|_| {});
    assert_accepted(&platform, &app, "a known kid").await;
}

//! Nobody gets in who should not. Each test has the identity platform, or
//! the browser, do one thing wrong; those named after a module of the
//! OpenID Foundation's conformance suite do what that module does. Every
//! one starts at each protected page.

use base64::prelude::*;
use serde_json::{Value, json};

use crate::harness::*;
use crate::platform::Endpoint::{Graph, Keys, Metadata, Token};
use crate::platform::*;

/// The pages that need a sign-in.
pub const PROTECTED: [&str; 2] = ["/graph", "/admin"];

/// After a refusal nobody is signed in, nothing is cached, and ENDPOINT was
/// not called.
pub async fn assert_nobody_is_in(platform: &Platform, app: &App, browser: &Browser) {
    for file in app.session_files() {
        let session: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let keys: Vec<_> = session.as_object().unwrap().keys().collect();
        assert!(keys.iter().all(|key| ["auth_code_flow", "expires_on"].contains(&key.as_str())), "kept: {keys:?}");
    }
    assert!(!browser.get(app.at("/")).await.body.contains("Signed in"));
    for path in PROTECTED {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, 302, "{path}: {}", page.body);
        assert!(page.location().contains("/oauth2/v2.0/authorize?"), "{path}: {}", page.location());
    }
    assert_eq!(platform.requests(Graph).await.len(), 0, "ENDPOINT was called");
}

/// A sign-in at a platform that misbehaves so ends with a page of this
/// status that says so.
async fn refuses(status: u16, says: &str, misbehave: impl FnOnce(&Platform)) {
    let platform = Platform::start().await;
    misbehave(&platform);
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let page = platform.sign_in(&app, &browser, path).await;
        page.assert_error_page(status);
        assert!(page.body.contains(says), "{path}: {}", page.body);
        assert_nobody_is_in(&platform, &app, &browser).await;
    }
    // The log has every refusal, with its reason.
    if status == 401 {
        assert_eq!(app.log().matches("refused: the id token fails the check of").count(), PROTECTED.len());
    }
}

/// An id token edited so is refused with 401, by this check and no other.
async fn refuses_id_token(check: &str, edit: impl FnMut(&mut IdToken) + Send + 'static) {
    refuses(401, &format!("it fails the check of {check}."), |platform| platform.id_token(edit)).await;
}

/// A sign-in at a platform that behaves so is completed, and both pages are
/// there.
async fn accepts(behave: impl FnOnce(&Platform)) -> (Platform, App) {
    let platform = Platform::start().await;
    behave(&platform);
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        signs_in(&platform, &app, path).await;
    }
    (platform, app)
}

async fn signs_in(platform: &Platform, app: &App, path: &str) -> Browser {
    let browser = app.browser();
    let callback = platform.sign_in(app, &browser, path).await;
    assert_eq!((callback.status, callback.location()), (302, path), "{}", callback.body);
    for path in PROTECTED {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        assert!(page.body.contains("cleo@platform.example"));
    }
    browser
}

fn remove(token: &mut IdToken, claim: &str) {
    token.claims.as_object_mut().unwrap().remove(claim).unwrap();
}

// --- Sign-ins that are completed ----------------------------------------

#[tokio::test]
async fn idtoken_sig_rs256() {
    let (platform, _app) = accepts(|_| {}).await;
    // The keys are fetched once, for all sign-ins.
    assert_eq!(platform.requests(Keys).await.len(), 1);
    for form in platform.token_forms().await {
        assert_eq!(form["grant_type"], "authorization_code");
        assert_eq!(form["code_verifier"].len(), 43);
    }
}

#[tokio::test]
async fn scope_userinfo_claims() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let authorize = app.browser().get(app.at(path)).await;
        let scope = authorize.location_param("scope").unwrap();
        for expected in ["openid", "profile", "offline_access", SCOPE] {
            assert!(scope.split(' ').any(|scope| scope == expected), "{path}: {scope}");
        }
        // The suite warns of a nonce that is longer, or has characters that need
        // encoding.
        let nonce = authorize.location_param("nonce").unwrap();
        assert!(nonce.len() == 43 && BASE64_URL_SAFE_NO_PAD.decode(&nonce).is_ok(), "{path}: {nonce}");
        assert_eq!(authorize.location_param("code_challenge_method").unwrap(), "S256");
        // New each time.
        let another = app.browser().get(app.at(path)).await;
        for name in ["state", "nonce", "code_challenge"] {
            assert_ne!(authorize.location_param(name), another.location_param(name), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn kid_absent_single_jwks() {
    accepts(|platform| {
        platform.id_token(|token| _ = token.header.as_object_mut().unwrap().remove("kid"));
        platform.on(Keys, |answer| _ = answer.json["keys"][0].as_object_mut().unwrap().remove("kid"));
    })
    .await;
}

#[tokio::test]
async fn kid_absent_multiple_jwks() {
    accepts(|platform| {
        platform.id_token(|token| _ = token.header.as_object_mut().unwrap().remove("kid"));
        let keys = json!({ "keys": [public_key(2, "c"), public_key(1, "b"), public_key(0, "a")] });
        platform.on(Keys, move |answer| answer.json = keys.clone());
    })
    .await;
}

#[tokio::test]
async fn keys_of_other_kinds_are_skipped() {
    accepts(|platform| {
        platform.on(Keys, |answer| {
            let good = answer.json["keys"][0].clone();
            let mut for_encryption = public_key(1, &kid(0));
            for_encryption["use"] = "enc".into();
            let mut broken = public_key(1, &kid(0));
            broken["n"] = "*".into();
            answer.json["keys"] = json!([
                { "kty": "EC", "crv": "P-256", "kid": kid(0), "x": "AQ", "y": "AQ" },
                { "kty": "EC", "crv": "secp256k1", "kid": kid(0), "x": "AQ", "y": "AQ" },
                { "kty": "OKP", "crv": "Ed25519", "kid": kid(0), "x": "AQ" },
                { "kty": "oct", "kid": kid(0), "k": "AQ" },
                { "kty": "RSA", "kid": 7, "n": 7, "e": 7 },
                { "kty": "RSA", "kid": kid(0) },
                { "kty": 7 }, {}, null, "text", 7, [],
                for_encryption,
                broken,
                good,
            ]);
        });
    })
    .await;
}

#[tokio::test]
async fn discovery_openid_config() {
    let platform = Platform::start().await;
    let authority = platform.authority();
    let address = authority.clone();
    platform.on(Metadata, move |answer| {
        answer.json["authorization_endpoint"] = format!("{address}/elsewhere?p=a%20policy").into();
        answer.json["token_endpoint"] = format!("{address}/oauth2/v2.0/token?p=a_policy").into();
    });
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let authorize = app.browser().get(app.at(path)).await;
        assert!(authorize.location().starts_with(&format!("{authority}/elsewhere?p=a%20policy&client_id=")));
        signs_in(&platform, &app, path).await;
    }
    assert_eq!(platform.requests(Token).await[0].url.query(), Some("p=a_policy"));
}

#[tokio::test]
async fn discovery_jwks_uri_keys() {
    let (platform, _app) = accepts(|platform| {
        let address = platform.authority();
        platform.on(Metadata, move |answer| {
            answer.json["jwks_uri"] = format!("{address}/discovery/v2.0/keys?appid=unusual").into();
        });
    })
    .await;
    assert_eq!(platform.requests(Keys).await[0].url.query(), Some("appid=unusual"));
}

#[tokio::test]
async fn signing_key_rotation() {
    let (platform, app) = accepts(|_| {}).await;
    platform.id_token(|token| (token.header["kid"], token.signed_with) = (kid(1).into(), Signature::Rsa(1)));
    platform.on(Keys, |answer| answer.json = json!({ "keys": [public_key(1, &kid(1))] }));
    for path in PROTECTED {
        signs_in(&platform, &app, path).await;
    }
    assert_eq!(platform.requests(Keys).await.len(), 2);
}

#[tokio::test]
async fn signing_key_rotation_just_before_signing() {
    let (platform, app) = accepts(|_| {}).await;
    for (path, number) in PROTECTED.into_iter().zip(1..) {
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        let callback = platform.callback(&authorize);
        // The browser is on its way back while the keys change.
        platform.on(Keys, move |answer| answer.json = json!({ "keys": [public_key(number, &kid(number))] }));
        platform.id_token(move |token| {
            (token.header["kid"], token.signed_with) = (kid(number).into(), Signature::Rsa(number));
        });
        assert_eq!(browser.get(callback).await.location(), path);
        assert_eq!(platform.requests(Keys).await.len(), 1 + number);
    }
}

#[tokio::test]
async fn the_same_kid_for_a_new_key_is_found_too() {
    let (platform, app) = accepts(|_| {}).await;
    platform.id_token(|token| token.signed_with = Signature::Rsa(1));
    platform.on(Keys, |answer| answer.json = json!({ "keys": [public_key(1, &kid(0))] }));
    for path in PROTECTED {
        signs_in(&platform, &app, path).await;
    }
}

#[tokio::test]
async fn an_aud_array_of_this_app_alone_is_accepted() {
    accepts(|platform| platform.id_token(|token| token.claims["aud"] = json!([CLIENT_ID]))).await;
}

#[tokio::test]
async fn clocks_may_differ_by_two_minutes() {
    accepts(|platform| {
        platform.id_token(|token| {
            for claim in ["iat", "nbf"] {
                token.claims[claim] = (now() + 60).into();
            }
            token.claims["exp"] = (now() - 60).into();
        });
    })
    .await;
}

#[tokio::test]
async fn a_token_without_nbf_is_accepted() {
    accepts(|platform| platform.id_token(|token| remove(token, "nbf"))).await;
}

#[tokio::test]
async fn a_callback_with_the_right_iss_is_accepted() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        let callback = format!("{}&iss={}/v2.0", platform.callback(&authorize), platform.authority());
        assert_eq!(browser.get(callback).await.location(), path);
    }
}

#[tokio::test]
async fn an_issuer_for_all_tenants_is_accepted_with_the_tenant_of_the_token() {
    accepts(|platform| {
        issuer_for_all_tenants(platform);
        let issuer = issuer_with_gap(&platform.authority());
        platform.on(Keys, move |answer| answer.json["keys"][0]["issuer"] = issuer.clone().into());
    })
    .await;
}

// --- Id tokens that are refused -----------------------------------------

#[tokio::test]
async fn invalid_iss() {
    refuses_id_token("iss", |token| token.claims["iss"] = format!("{}1", token.claims["iss"].as_str().unwrap()).into())
        .await;
}

#[tokio::test]
async fn iss_missing() {
    refuses_id_token("iss", |token| remove(token, "iss")).await;
}

#[tokio::test]
async fn iss_an_array() {
    refuses_id_token("iss", |token| token.claims["iss"] = json!([token.claims["iss"]])).await;
}

#[tokio::test]
async fn iss_with_a_slash_more() {
    refuses_id_token("iss", |token| token.claims["iss"] = format!("{}/", token.claims["iss"].as_str().unwrap()).into())
        .await;
}

#[tokio::test]
async fn missing_sub() {
    refuses_id_token("sub", |token| remove(token, "sub")).await;
}

#[tokio::test]
async fn sub_of_another_type() {
    refuses_id_token("sub", |token| token.claims["sub"] = 7.into()).await;
}

#[tokio::test]
async fn invalid_aud() {
    refuses_id_token("aud", |token| token.claims["aud"] = format!("{CLIENT_ID}1").into()).await;
}

#[tokio::test]
async fn aud_missing() {
    refuses_id_token("aud", |token| remove(token, "aud")).await;
}

#[tokio::test]
async fn aud_an_array_with_others() {
    refuses_id_token("aud", |token| token.claims["aud"] = json!([CLIENT_ID, "another-app"])).await;
}

#[tokio::test]
async fn aud_an_empty_array() {
    refuses_id_token("aud", |token| token.claims["aud"] = json!([])).await;
}

#[tokio::test]
async fn missing_iat() {
    refuses_id_token("iat", |token| remove(token, "iat")).await;
}

#[tokio::test]
async fn iat_in_the_future() {
    refuses_id_token("iat", |token| token.claims["iat"] = (now() + 180).into()).await;
}

#[tokio::test]
async fn iat_as_text() {
    refuses_id_token("iat", |token| token.claims["iat"] = now().to_string().into()).await;
}

#[tokio::test]
async fn exp_missing() {
    refuses_id_token("exp", |token| remove(token, "exp")).await;
}

#[tokio::test]
async fn exp_past() {
    refuses_id_token("exp", |token| token.claims["exp"] = (now() - 121).into()).await;
    // To the second, as the pages have it: what the one accepts and the others
    // do not would be a loop.
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    loop {
        let second = now();
        platform.id_token(move |token| token.claims["exp"] = (second - 120).into());
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        if now() == second {
            page.assert_error_page(401);
            break;
        }
    }
}

#[tokio::test]
async fn exp_as_text() {
    refuses_id_token("exp", |token| token.claims["exp"] = (now() + 3600).to_string().into()).await;
}

#[tokio::test]
async fn nbf_in_the_future() {
    refuses_id_token("nbf", |token| token.claims["nbf"] = (now() + 180).into()).await;
}

#[tokio::test]
async fn nbf_as_text() {
    refuses_id_token("nbf", |token| token.claims["nbf"] = "0".into()).await;
}

#[tokio::test]
async fn nonce_invalid() {
    refuses_id_token("nonce", |token| {
        token.claims["nonce"] = format!("{}1", token.claims["nonce"].as_str().unwrap()).into();
    })
    .await;
}

#[tokio::test]
async fn nonce_missing() {
    refuses_id_token("nonce", |token| remove(token, "nonce")).await;
}

#[tokio::test]
async fn nonce_of_another_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let [first, second] = [browser.get(app.at(path)).await, browser.get(app.at(path)).await];
        let nonce = first.location_param("nonce").unwrap();
        platform.id_token(move |token| token.claims["nonce"] = nonce.clone().into());
        browser.get(platform.callback(&second)).await.assert_error_page(401);
        assert_nobody_is_in(&platform, &app, &browser).await;
    }
}

/// Refused with 401, because the signature is none of the platform's.
async fn refuses_signature(edit: impl FnMut(&mut IdToken) + Send + 'static) {
    refuses(401, "its signature fails the check.", |platform| platform.id_token(edit)).await;
}

/// Refused with 401, because the algorithm is not RS256, or cannot be told.
async fn refuses_header(edit: impl FnMut(&mut IdToken) + Send + 'static) {
    refuses(401, "its header fails the check of alg.", |platform| platform.id_token(edit)).await;
}

#[tokio::test]
async fn idtoken_sig_none() {
    refuses_header(|token| {
        token.header = json!({ "alg": "none" });
        token.signed_with = Signature::Nothing;
    })
    .await;
}

#[tokio::test]
async fn no_signature_under_the_name_of_rs256() {
    refuses_signature(|token| token.signed_with = Signature::Nothing).await;
}

#[tokio::test]
async fn hs256_signed_with_the_client_secret() {
    refuses_header(|token| {
        token.header["alg"] = "HS256".into();
        token.signed_with = Signature::Hmac(CLIENT_SECRET.into());
    })
    .await;
}

#[tokio::test]
async fn hs256_signed_with_the_public_key() {
    refuses_header(|token| {
        let public_key = public_key(0, &kid(0))["n"].as_str().unwrap().to_owned();
        token.header["alg"] = "HS256".into();
        token.signed_with = Signature::Hmac(BASE64_URL_SAFE_NO_PAD.decode(public_key).unwrap());
    })
    .await;
}

#[tokio::test]
async fn hs256_under_the_name_of_rs256() {
    refuses_signature(|token| token.signed_with = Signature::Hmac(CLIENT_SECRET.into())).await;
}

#[tokio::test]
async fn another_rsa_algorithm() {
    refuses_header(|token| token.header["alg"] = "RS512".into()).await;
}

#[tokio::test]
async fn alg_missing() {
    refuses_header(|token| _ = token.header.as_object_mut().unwrap().remove("alg")).await;
}

#[tokio::test]
async fn a_critical_header_parameter() {
    refuses_header(|token| (token.header["crit"], token.header["exp"]) = (json!(["exp"]), 0.into())).await;
}

#[tokio::test]
async fn kid_of_another_type() {
    refuses_header(|token| token.header["kid"] = 7.into()).await;
}

#[tokio::test]
async fn invalid_sig_rs256() {
    refuses_signature(|token| token.signed_with = Signature::Rsa(1)).await;
}

#[tokio::test]
async fn a_kid_that_is_not_the_signing_keys() {
    refuses(401, "its signature fails the check.", |platform| {
        platform.id_token(|token| token.header["kid"] = kid(1).into());
        platform.on(Keys, |answer| answer.json = json!({ "keys": [public_key(0, &kid(0)), public_key(1, &kid(1))] }));
    })
    .await;
}

#[tokio::test]
async fn a_key_for_encryption() {
    refuses(401, "its signature fails the check.", |platform| {
        platform.on(Keys, |answer| answer.json["keys"][0]["use"] = "enc".into());
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_kind() {
    refuses(401, "its signature fails the check.", |platform| {
        platform.on(Keys, |answer| answer.json["keys"][0]["kty"] = "EC".into());
    })
    .await;
}

#[tokio::test]
async fn keys_that_come_with_an_error_or_too_much_else() {
    refuses(502, "does not hand out its signing keys", |platform| platform.on(Keys, |answer| answer.status = 500))
        .await;
    refuses(502, "does not hand out its signing keys", |platform| {
        platform.on(Keys, |answer| answer.json["padding"] = "x".repeat(5_000_000).into());
    })
    .await;
}

#[tokio::test]
async fn unknown_kid_fetches_the_keys_once_more_and_no_more() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.id_token(|token| token.header["kid"] = "unknown".into());
    // One fetch each: at the first sign-in because there are no keys yet, at
    // the others because those at hand are older.
    for (path, fetched) in PROTECTED.into_iter().cycle().zip(1..=4) {
        platform.sign_in(&app, &app.browser(), path).await.assert_error_page(401);
        assert_eq!(platform.requests(Keys).await.len(), fetched);
    }
    platform.id_token(|_| {});
    signs_in(&platform, &app, "/graph").await;
    assert_eq!(platform.requests(Keys).await.len(), 4);
}

#[tokio::test]
async fn the_key_in_the_tokens_own_header() {
    refuses_signature(|token| {
        token.header = json!({ "alg": "RS256", "jwk": public_key(1, &kid(1)) });
        token.signed_with = Signature::Rsa(1);
    })
    .await;
}

#[tokio::test]
async fn the_address_of_keys_in_the_tokens_own_header() {
    let evil = Platform::start().await;
    evil.on(Keys, |answer| answer.json = json!({ "keys": [public_key(1, &kid(1))] }));
    let address = format!("{}/discovery/v2.0/keys", evil.authority());
    refuses_signature(move |token| {
        token.header = json!({ "alg": "RS256", "kid": kid(1), "jku": address, "x5u": address });
        token.signed_with = Signature::Rsa(1);
    })
    .await;
    assert_eq!(evil.requests(Keys).await.len(), 0);
}

/// Changes an id token after it was signed.
fn tamper(platform: &Platform, mut edit: impl FnMut([&str; 3]) -> String + Send + 'static) {
    platform.on(Token, move |answer| {
        let id_token = answer.json["id_token"].as_str().unwrap();
        let parts: Vec<&str> = id_token.split('.').collect();
        answer.json["id_token"] = edit([parts[0], parts[1], parts[2]]).into();
    });
}

#[tokio::test]
async fn a_tampered_payload() {
    refuses(401, "its signature fails the check.", |platform| {
        tamper(platform, |[header, payload, signature]| {
            let mut claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
            claims["sub"] = "somebody-else".into();
            format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
        });
    })
    .await;
}

#[tokio::test]
async fn an_id_token_of_two_parts() {
    refuses(401, "cannot be trusted", |platform| {
        tamper(platform, |[header, payload, _]| format!("{header}.{payload}"))
    })
    .await;
}

#[tokio::test]
async fn an_id_token_of_rubbish() {
    refuses(401, "its header fails the check of alg.", |platform| tamper(platform, |_| "rubbish".to_owned())).await;
}

#[tokio::test]
async fn claims_that_are_no_object() {
    for claims in [json!([]), json!(["iss"]), json!("text"), json!(7), json!(null)] {
        refuses(401, "cannot be trusted", move |platform| {
            platform.id_token(move |token| token.claims = claims.clone())
        })
        .await;
    }
}

fn issuer_with_gap(authority: &str) -> String {
    authority.replace(TENANT_ID, "{tenantid}") + "/v2.0"
}

/// What the metadata of `common` and `organizations` look like.
fn issuer_for_all_tenants(platform: &Platform) {
    let issuer = issuer_with_gap(&platform.authority());
    platform.on(Metadata, move |answer| answer.json["issuer"] = issuer.clone().into());
}

/// Tokens for this tenant, issuer included, from a platform for all
/// tenants.
async fn refuses_tenant(tid: &'static str) {
    refuses(401, "it fails the check of iss.", |platform| {
        issuer_for_all_tenants(platform);
        let issuer = platform.authority().replace(TENANT_ID, tid) + "/v2.0";
        platform
            .id_token(move |token| (token.claims["iss"], token.claims["tid"]) = (issuer.clone().into(), tid.into()));
    })
    .await;
}

#[tokio::test]
async fn a_tid_that_is_no_guid() {
    for tid in [
        "not-a-guid",
        "",
        "{tenantid}",
        "{no tenant}",
        "2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c54",
        "2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c54/",
    ] {
        refuses_tenant(tid).await;
    }
}

#[tokio::test]
async fn a_tid_that_is_not_the_issuers() {
    refuses(401, "it fails the check of iss.", |platform| {
        issuer_for_all_tenants(platform);
        platform.id_token(|token| token.claims["tid"] = "00000000-0000-4000-8000-000000000000".into());
    })
    .await;
}

#[tokio::test]
async fn a_tid_that_is_missing() {
    refuses(401, "it fails the check of iss.", |platform| {
        issuer_for_all_tenants(platform);
        platform.id_token(|token| remove(token, "tid"));
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_issuer() {
    refuses(401, "it fails the check of iss.", |platform| {
        platform.on(Keys, |answer| {
            answer.json["keys"][0]["issuer"] =
                "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0".into();
        });
    })
    .await;
}

// --- Token answers that are refused -------------------------------------

/// Refused with 502, because the answer lacks the tokens that were asked
/// for.
async fn refuses_answer(edit: impl FnMut(&mut Answer) + Send + 'static) {
    refuses(502, "its answer lacks the tokens", |platform| platform.on(Token, edit)).await;
}

#[tokio::test]
async fn an_answer_without_id_token() {
    refuses_answer(|answer| _ = answer.json.as_object_mut().unwrap().remove("id_token")).await;
}

#[tokio::test]
async fn an_answer_with_an_id_token_of_another_type() {
    refuses_answer(|answer| answer.json["id_token"] = json!({ "sub": "cleo" })).await;
}

#[tokio::test]
async fn an_answer_without_access_token() {
    refuses_answer(|answer| _ = answer.json.as_object_mut().unwrap().remove("access_token")).await;
}

#[tokio::test]
async fn an_answer_whose_token_type_is_not_bearer() {
    for token_type in [json!("mac"), json!("DPoP"), json!(""), json!(["Bearer"]), Value::Null] {
        refuses_answer(move |answer| answer.json["token_type"] = token_type.clone()).await;
    }
}

#[tokio::test]
async fn an_answer_with_both_tokens_and_an_error() {
    refuses_answer(|answer| answer.json["error"] = "server_error".into()).await;
}

#[tokio::test]
async fn an_answer_with_tokens_and_status_201() {
    refuses_answer(|answer| answer.status = 201).await;
}

#[tokio::test]
async fn an_answer_that_is_an_array() {
    refuses_answer(|answer| answer.json = json!([answer.json])).await;
}

#[tokio::test]
async fn an_answer_of_html_with_200() {
    refuses_answer(|answer| answer.say(200, "<html><body>Welcome to the hotel's network</body></html>")).await;
}

#[tokio::test]
async fn an_empty_answer() {
    refuses_answer(|answer| answer.say(200, "")).await;
}

#[tokio::test]
async fn an_answer_of_5_mb() {
    refuses_answer(|answer| answer.json["padding"] = "x".repeat(5_000_000).into()).await;
}

#[tokio::test]
async fn an_answer_nested_too_deeply() {
    refuses_answer(|answer| answer.say(200, "[".repeat(100_000))).await;
}

#[tokio::test]
async fn an_answer_that_redirects() {
    refuses_answer(|answer| {
        answer.say(307, "");
        answer.headers.push(("location", "/v1.0/me".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn tokens_that_are_dead_on_arrival() {
    // With no refresh token, either would send the user back here from the
    // page, again and again.
    for (field, value) in [("expires_in", json!(59)), ("scope", json!("openid profile"))] {
        refuses(502, "of no use", move |platform| {
            platform.on(Token, move |answer| {
                answer.json[field] = value.clone();
                answer.json.as_object_mut().unwrap().remove("refresh_token");
            });
        })
        .await;
    }
    // A minute is something.
    accepts(|platform| {
        platform.on(Token, |answer| {
            answer.json["expires_in"] = 60.into();
            answer.json.as_object_mut().unwrap().remove("refresh_token");
        });
    })
    .await;
}

#[tokio::test]
async fn a_code_that_the_platform_does_not_accept() {
    refuses(400, "Sign in again", |platform| {
        platform.on(Token, |answer| answer.refuse(400, "invalid_grant", "AADSTS70008: The code has expired."));
    })
    .await;
}

#[tokio::test]
async fn an_app_that_the_platform_does_not_accept() {
    for (status, error, setting) in [
        (401, "invalid_client", "Look at CLIENT_CREDENTIAL ("),
        (400, "unauthorized_client", "Look at CLIENT_ID and AUTHORITY in"),
        (400, "invalid_scope", "Look at SCOPE in"),
        (400, "invalid_resource", "Look at SCOPE in"),
        (400, "invalid_request", "Look at CLIENT_ID, AUTHORITY, REDIRECT_URI and SCOPE in"),
    ] {
        refuses(502, setting, move |platform| {
            platform.on(Token, move |answer| answer.refuse(status, error, "AADSTS7000222: The secret is over."));
        })
        .await;
    }
    // Without a reason there is none to show.
    refuses(502, "out of order", |platform| platform.on(Token, |answer| answer.say(404, "Not Found"))).await;
    // The ids that Microsoft's support asks for are there once, also if the
    // description ends with them.
    let platform = Platform::start().await;
    platform.on(Token, |answer| answer.refuse(401, "invalid_client", "AADSTS1: No. Trace ID: 0a1b2c3d-trace"));
    let app = platform.app(&[]).await;
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    assert_eq!(page.body.matches("0a1b2c3d-trace").count(), 1, "{}", page.body);
    for shown in ["invalid_client", "AADSTS7000222: The secret is over.", "0a1b2c3d-trace", "4e5f6a7b-correlation"] {
        refuses(502, shown, |platform| {
            platform.on(Token, |answer| answer.refuse(401, "invalid_client", "AADSTS7000222: The secret is over."));
        })
        .await;
    }
}

#[tokio::test]
async fn a_sign_in_of_which_the_platform_wants_more() {
    for error in ["interaction_required", "consent_required", "login_required"] {
        refuses(403, "AADSTS50076: One more factor.", move |platform| {
            platform.on(Token, move |answer| answer.refuse(400, error, "AADSTS50076: One more factor."));
        })
        .await;
    }
}

// --- Callbacks that are refused -----------------------------------------

/// What the page says whenever a callback cannot be told from one that an
/// attacker made.
const NOT_STARTED_HERE: &str = "not started in this browser";

/// Starts a sign-in at each protected page and sends the browser back with
/// another address, which is refused.
async fn refuses_callback(status: u16, says: &str, edit: impl Fn(&str) -> String) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        let page = browser.get(edit(&platform.callback(&authorize))).await;
        page.assert_error_page(status);
        assert!(page.body.contains(says), "{path}: {}", page.body);
        assert!(!page.body.contains("query-of-an-attacker"), "{path}: {}", page.body);
        assert_nobody_is_in(&platform, &app, &browser).await;
        assert_eq!(platform.requests(Token).await.len(), 0, "{path}: the code was redeemed");
    }
}

/// The address with another state, or none.
fn with_state(callback: &str, state: &str) -> String {
    format!("{}{state}", callback.split_once("&state=").unwrap().0)
}

#[tokio::test]
async fn a_callback_from_another_issuer() {
    for iss in ["https://evil.example", "", "query-of-an-attacker"] {
        refuses_callback(400, "not from the identity platform that was asked", |callback| {
            format!("{callback}&iss={iss}")
        })
        .await;
    }
}

#[tokio::test]
async fn a_callback_without_a_state() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| with_state(callback, "")).await;
}

#[tokio::test]
async fn a_callback_with_an_empty_state() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| with_state(callback, "&state=")).await;
}

#[tokio::test]
async fn a_callback_with_a_forged_state() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| with_state(callback, "&state=query-of-an-attacker")).await;
}

#[tokio::test]
async fn a_callback_with_the_state_twice() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| {
        format!("{callback}&state={}", callback.split_once("&state=").unwrap().1)
    })
    .await;
    refuses_callback(400, NOT_STARTED_HERE, |callback| format!("{callback}&state=another")).await;
}

#[tokio::test]
async fn a_callback_with_the_code_twice() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| format!("{callback}&code=query-of-an-attacker")).await;
}

#[tokio::test]
async fn an_error_with_a_forged_state_shows_nothing_of_the_query() {
    refuses_callback(400, NOT_STARTED_HERE, |callback| {
        let path = callback.split_once('?').unwrap().0;
        format!("{path}?error=query-of-an-attacker&error_description=query-of-an-attacker&state=query-of-an-attacker")
    })
    .await;
}

#[tokio::test]
async fn a_callback_with_neither_code_nor_error() {
    refuses_callback(400, "sent no code", |callback| {
        let (path, query) = callback.split_once('?').unwrap();
        format!("{path}?state={}", query.split_once("&state=").unwrap().1)
    })
    .await;
    refuses_callback(400, "sent no code", |callback| {
        let (path, query) = callback.split_once('?').unwrap();
        format!("{path}?code=&state={}", query.split_once("&state=").unwrap().1)
    })
    .await;
}

#[tokio::test]
async fn a_sign_in_that_was_declined() {
    refuses_callback(403, "access_denied: AADSTS65004: The user declined.", |callback| {
        let (path, query) = callback.split_once('?').unwrap();
        let state = query.split_once("&state=").unwrap().1;
        format!("{path}?error=access_denied&error_description=AADSTS65004:+The+user+declined.&state={state}")
    })
    .await;
}

#[tokio::test]
async fn a_declined_sign_in_is_declined_even_with_a_code() {
    refuses_callback(403, "access_denied", |callback| format!("{callback}&error=access_denied")).await;
}

#[tokio::test]
async fn the_state_of_another_browser() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let (attacker, victim) = (app.browser(), app.browser());
        let planted = platform.callback(&attacker.get(app.at(path)).await);
        // With no sign-in of its own under way, and with one.
        for _ in 0..2 {
            let page = victim.get(&planted).await;
            page.assert_error_page(400);
            assert!(page.body.contains(NOT_STARTED_HERE));
            assert_nobody_is_in(&platform, &app, &victim).await;
        }
    }
    assert_eq!(platform.requests(Token).await.len(), 0);
}

#[tokio::test]
async fn a_state_after_ten_minutes() {
    for path in PROTECTED {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        let state = authorize.location_param("state").unwrap();
        let ends = app.session()["auth_code_flow"][&state]["expires_on"].as_i64().unwrap();
        assert!((540..=600).contains(&(ends - now())), "{ends}");
        app.edit_session(|session| session["auth_code_flow"][&state]["expires_on"] = now().into());
        let page = browser.get(platform.callback(&authorize)).await;
        page.assert_error_page(400);
        assert!(page.body.contains(NOT_STARTED_HERE));
        assert_eq!(platform.requests(Token).await.len(), 0);
        assert_nobody_is_in(&platform, &app, &browser).await;
    }
}

#[tokio::test]
async fn a_callback_twice() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let callback = platform.callback(&browser.get(app.at(path)).await);
        assert_eq!(browser.get(&callback).await.location(), path);
        let redeemed = platform.requests(Token).await.len();
        let page = browser.get(&callback).await;
        page.assert_error_page(400);
        assert!(page.body.contains(NOT_STARTED_HERE));
        assert_eq!(platform.requests(Token).await.len(), redeemed);
        // Whoever reloads the callback is still signed in.
        assert_eq!(browser.get(app.at(path)).await.status, 200);
    }
}

#[tokio::test]
async fn a_state_is_used_up_by_a_refusal() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        browser.get(format!("{}&error=access_denied", platform.callback(&authorize))).await.assert_error_page(403);
        browser.get(platform.callback(&authorize)).await.assert_error_page(400);
        assert_nobody_is_in(&platform, &app, &browser).await;
    }
    assert_eq!(platform.requests(Token).await.len(), 0);
}

#[tokio::test]
async fn a_code_twice() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let callback = platform.callback(&browser.get(app.at(path)).await);
        assert_eq!(browser.get(&callback).await.location(), path);
        // An attacker starts a sign-in of his own, and gives the code that he saw
        // with his own state.
        let attacker = app.browser();
        let state = attacker.get(app.at(path)).await.location_param("state").unwrap();
        let page = attacker.get(with_state(&callback, &format!("&state={state}"))).await;
        page.assert_error_page(400);
        assert!(page.body.contains("did not accept"));
        assert!(!attacker.get(app.at("/")).await.body.contains("Signed in"));
        assert_eq!(attacker.get(app.at(path)).await.status, 302);
    }
}

#[tokio::test]
async fn a_stolen_code_is_worth_nothing_without_its_code_verifier() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let stolen = platform.callback(&app.browser().get(app.at(path)).await);
        let attacker = app.browser();
        let state = attacker.get(app.at(path)).await.location_param("state").unwrap();
        attacker.get(with_state(&stolen, &format!("&state={state}"))).await.assert_error_page(400);
        assert_nobody_is_in(&platform, &app, &attacker).await;
    }
}

// --- The way back -------------------------------------------------------

#[tokio::test]
async fn a_way_back_to_another_host_becomes_the_home_page() {
    let platform = Platform::start().await;
    for evil in [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https:evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "%2F%2Fevil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\nSet-Cookie: planted=1",
        "/\u{0}",
        " //evil.example",
        "/gr\u{e4}ph",
        "",
    ]
    .map(Value::from)
    .into_iter()
    .chain([json!(null), json!(7), json!(["/graph"])])
    {
        let app = platform.app(&[]).await;
        let browser = app.browser();
        let authorize = browser.get(app.at("/graph")).await;
        app.edit_session(|session| {
            for flow in session["auth_code_flow"].as_object_mut().unwrap().values_mut() {
                flow["post_sign_in_url"] = evil.clone();
            }
        });
        let page = browser.get(platform.callback(&authorize)).await;
        assert_eq!((page.status, page.location()), (302, "/"), "{evil}");
        assert_eq!(page.cookies().len(), 1, "{evil}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{evil}");
    }
}

#[tokio::test]
async fn the_way_back_keeps_path_and_query() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in ["/graph?a=1&b=%2F%2Fevil.example", "/admin?x=//evil.example", "/graph?"] {
        let page = platform.sign_in(&app, &app.browser(), path).await;
        assert_eq!(page.location(), path);
    }
}

// --- Metadata that are refused ------------------------------------------

/// The app does not start, and says that it is AUTHORITY's metadata, and
/// what about them.
async fn refuses_metadata(says: &str, mut edit: impl FnMut(&mut Value) + Send + 'static) {
    let platform = Platform::start().await;
    platform.on(Metadata, move |answer| edit(&mut answer.json));
    let stderr = platform.refused_by_the_app(&[]).await;
    assert!(stderr.contains("AUTHORITY = ") && stderr.contains(says) && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(platform.requests(Metadata).await.len(), 1);
}

#[tokio::test]
async fn discovery_issuer_mismatch() {
    refuses_metadata("another issuer", |metadata| {
        metadata["issuer"] = format!("{}INVALID", metadata["issuer"].as_str().unwrap()).into();
    })
    .await;
    refuses_metadata("another issuer", |metadata| {
        metadata["issuer"] = format!("https://login.evil.example/{TENANT_ID}/v2.0").into();
    })
    .await;
}

#[tokio::test]
async fn discovery_without_an_issuer() {
    refuses_metadata("names no issuer", |metadata| metadata["issuer"] = Value::Null).await;
    refuses_metadata("names no issuer", |metadata| *metadata = json!([])).await;
}

#[tokio::test]
async fn discovery_of_an_endpoint_without_tls() {
    for endpoint in ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"] {
        refuses_metadata(endpoint, move |metadata| metadata[endpoint] = "http://login.example/x".into()).await;
    }
    for endpoint in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
        refuses_metadata(endpoint, move |metadata| metadata[endpoint] = Value::Null).await;
    }
}

// --- Refreshed id tokens that are refused -------------------------------

/// A refresh that brings this id token is refused: nothing is cached, the
/// session is kept, ENDPOINT is not called.
async fn refuses_refresh(check: &str, edit: impl FnMut(&mut IdToken) + Send + 'static) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
    app.edit_token_cache(|cache| {
        for access_token in cache["AccessToken"].as_object_mut().unwrap().values_mut() {
            access_token["expires_on"] = (now() - 1).to_string().into();
        }
    });
    let before = app.session();
    platform.id_token(edit);
    let page = browser.get(app.at("/graph")).await;
    page.assert_error_page(401);
    assert!(page.body.contains(&format!("its {check} is not that of the signed-in user")), "{}", page.body);
    assert_eq!(platform.token_forms().await[1]["grant_type"], "refresh_token");
    assert_eq!(platform.requests(Graph).await.len(), 0);
    assert_eq!(app.session(), before);
    // The next answer is a good one.
    platform.id_token(|_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn refresh_token_invalid_issuer() {
    refuses_refresh("iss", |token| token.claims["iss"] = format!("{}1", token.claims["iss"].as_str().unwrap()).into())
        .await;
}

#[tokio::test]
async fn refresh_token_invalid_sub() {
    refuses_refresh("sub", |token| token.claims["sub"] = "somebody-else".into()).await;
    refuses_refresh("sub", |token| remove(token, "sub")).await;
    refuses_refresh("iss", |token| token.claims = json!(["iss", "sub"])).await;
}

#[tokio::test]
async fn a_refreshed_id_token_never_replaces_the_user() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.id_token(|token| remove(token, "roles"));
    platform.on(Token, |answer| {
        if answer.form["grant_type"] == "authorization_code" {
            answer.json["expires_in"] = 0.into();
        }
    });
    platform.sign_in(&app, &browser, "/admin").await;
    platform.id_token(|token| token.claims["roles"] = json!(["admin"]));
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    browser.get(app.at("/admin")).await.assert_error_page(403);
}

// --- Sessions and roles -------------------------------------------------

#[tokio::test]
async fn a_sign_in_ends_with_its_id_token() {
    for path in PROTECTED {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        let browser = app.browser();
        platform.sign_in(&app, &browser, path).await;
        for (ago, status) in [(110, 200), (121, 302)] {
            app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = (now() - ago).into());
            assert_eq!(browser.get(app.at(path)).await.status, status, "{path}, {ago} s after exp");
        }
        app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = (now() + 3600).to_string().into());
        assert_eq!(browser.get(app.at(path)).await.status, 302, "{path}, exp is a text");
    }
}

#[tokio::test]
async fn what_a_token_cache_holds_of_others_is_not_used() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let edit = |section: &str, field: &str, value: &str| {
        app.edit_token_cache(|cache| {
            for entry in cache[section].as_object_mut().unwrap().values_mut() {
                entry[field] = value.into();
            }
        });
    };
    // An access token of somebody or something else, or for other scopes, or
    // none that can be told: a refresh.
    for (field, value) in [
        ("home_account_id", "another"),
        ("environment", "login.example"),
        ("client_id", "another"),
        ("realm", "another"),
        ("target", "https://graph.microsoft.com/Mail.Read openid"),
        ("target", "https://graph.microsoft.com/User.ReadWrite openid"),
        ("expires_on", "text"),
    ] {
        let refreshed = platform.requests(Token).await.len();
        edit("AccessToken", field, value);
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{field}");
        assert_eq!(platform.requests(Token).await.len(), refreshed + 1, "{field} = {value}");
        app.edit_token_cache(|cache| {
            let good = |_: &String, entry: &mut Value| entry[field] != value;
            cache["AccessToken"].as_object_mut().unwrap().retain(good);
        });
    }
    // A refresh token of somebody or something else: a sign-in.
    let good = app.session();
    for (section, field) in [
        ("RefreshToken", "home_account_id"),
        ("RefreshToken", "environment"),
        ("RefreshToken", "client_id"),
        ("Account", "local_account_id"),
    ] {
        let refreshed = platform.requests(Token).await.len();
        edit("AccessToken", "expires_on", "0");
        edit(section, field, "another");
        assert_eq!(browser.get(app.at("/graph")).await.status, 302, "{field}");
        assert_eq!(platform.requests(Token).await.len(), refreshed, "{section} {field}");
        app.edit_session(|session| *session = good.clone());
    }
}

#[tokio::test]
async fn an_access_token_near_its_end_is_renewed() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    for (field, left, refreshes) in
        [("expires_on", 310, 0), ("expires_on", 295, 1), ("refresh_on", 10, 0), ("refresh_on", -10, 1)]
    {
        let refreshed = platform.requests(Token).await.len();
        app.edit_token_cache(|cache| {
            for entry in cache["AccessToken"].as_object_mut().unwrap().values_mut() {
                entry[field] = (now() + left).to_string().into();
            }
        });
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_eq!(platform.requests(Token).await.len(), refreshed + refreshes, "{field} in {left} s");
    }
}

#[tokio::test]
async fn of_nine_sign_ins_under_way_the_oldest_is_over() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let mut callbacks = Vec::new();
        for _ in 0..9 {
            callbacks.push(platform.callback(&browser.get(app.at(path)).await));
        }
        browser.get(&callbacks[0]).await.assert_error_page(400);
        for callback in &callbacks[1..] {
            assert_eq!(browser.get(callback).await.location(), path);
        }
    }
}

#[tokio::test]
async fn a_session_that_lacks_a_part_is_nobodys() {
    for path in PROTECTED {
        for part in ["user", "token_cache"] {
            let platform = Platform::start().await;
            let app = platform.app(&[]).await;
            let browser = app.browser();
            platform.sign_in(&app, &browser, path).await;
            app.edit_session(|session| _ = session.as_object_mut().unwrap().remove(part).unwrap());
            assert_eq!(browser.get(app.at(path)).await.status, 302, "{path} without {part}");
            // Here, and before the sign-in: the log tells why.
            assert_eq!(app.log().matches("nobody is signed in").count(), 2, "{path} without {part}");
        }
    }
}

#[tokio::test]
async fn a_planted_session_id_is_not_the_one_of_the_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let authorize = browser.get(app.at(path)).await;
        let planted = authorize.cookies().remove(0);
        let signed_in = browser.get(platform.callback(&authorize)).await;
        assert_ne!(signed_in.cookies()[0], planted, "{path}");
        let with_it = app.browser().client.get(app.at(path)).header("cookie", planted);
        assert_eq!(app.browser().send(with_it).await.status, 302, "{path}");
    }
}

#[tokio::test]
async fn only_the_role_itself_opens_the_admin_page() {
    for roles in [
        Value::Null,
        json!("admin"),
        json!("administrator"),
        json!(["administrator"]),
        json!(["Admin"]),
        json!([" admin"]),
        json!([["admin"]]),
        json!([]),
        json!({ "admin": true }),
        json!(true),
    ] {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        let browser = app.browser();
        let claim = roles.clone();
        platform.id_token(move |token| token.claims["roles"] = claim.clone());
        assert_eq!(platform.sign_in(&app, &browser, "/admin").await.location(), "/admin");
        let page = browser.get(app.at("/admin")).await;
        page.assert_error_page(403);
        assert!(page.body.contains("User is missing a required role"), "{roles}: {}", page.body);
        assert!(!page.body.contains("preferred_username"), "{roles}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    }
}

//! Client assertions.

use jsonwebtoken::Algorithm::{PS256, RS256};
use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use crate::harness::*;

/// A key and its certificate, in PEM, and the SHA-256 thumbprint of the certificate.
fn certificate() -> (String, String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    (key.serialize_pem(), certificate.pem(), hash(certificate.der()))
}

#[tokio::test]
async fn an_assertion_is_verified() {
    let (demo, now) = (Demo::start(3600), get_current_timestamp());
    let ((key, registered, thumbprint), (other_key, ..)) = (certificate(), certificate());
    demo.send_form("certificates", "certificate", &registered).await;
    let sign = |key: &str, algorithm, thumbprint: &str, claim: &str, value| {
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(thumbprint.to_owned());
        let mut claims = json!({
            "aud": demo.at("/oauth2/v2.0/token"), "iss": demo.registration.client_id, "sub": demo.registration.client_id,
            "jti": format!("{:x}", rand::random::<u64>()), "nbf": now, "exp": now + 300,
        });
        claims[claim] = value;
        let key = EncodingKey::from_rsa_pem(key.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let with = |claim, value| sign(&key, PS256, &thumbprint, claim, value);
    let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let redeem = async |assertion: &str| {
        let no_secret = [("client_secret", ""), ("client_assertion_type", jwt_bearer)];
        let changes = [&no_secret[..], &[("client_assertion", assertion)]].concat();
        demo.redeem(&demo.code(&[]).await, &changes).await
    };
    // The claim nbf is optional.
    let good = with("nbf", Value::Null);
    assert_eq!(redeem(&good).await.0, 200);
    for (case, assertion, number) in [
        ("used twice", good, 50013),
        ("not a JWT", "x.y.z".to_owned(), 50013),
        ("no jti", with("jti", Value::Null), 50013),
        ("another key", sign(&other_key, PS256, &thumbprint, "nbf", json!(now)), 700027),
        ("another certificate", sign(&key, PS256, "x", "nbf", json!(now)), 700027),
        ("RS256", sign(&key, RS256, &thumbprint, "nbf", json!(now)), 700027),
        ("another audience", with("aud", json!(demo.registration.authority)), 700023),
        ("another issuer", with("iss", json!("x")), 700021),
        ("another subject", with("sub", json!("x")), 700021),
        ("expired", with("exp", json!(now - 1)), 700024),
        ("too long", with("exp", json!(now + 700)), 700024),
        ("no end", with("exp", Value::Null), 700024),
        ("from the future", with("nbf", json!(now + 60)), 700024),
    ] {
        assert_refused(case, &redeem(&assertion).await, "invalid_client", number);
    }
}

//! How this app authenticates at the token endpoint: with a secret or with a certificate.

use std::fs;

use actix_web::cookie::time::OffsetDateTime;
use actix_web::error::{Error, ErrorInternalServerError};
use anyhow::{Context as _, bail};
use base64::prelude::*;
use jsonwebtoken::Algorithm::PS256;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

/// The settings CLIENT_ID and CLIENT_CREDENTIAL.
#[derive(Default)]
pub struct ClientCredential {
    client_id: String,
    /// The value of a client secret, unless there is a certificate.
    secret: String,
    /// The private key, and the SHA-256 thumbprint of its certificate in Base64url.
    certificate: Option<(EncodingKey, String)>,
}

impl ClientCredential {
    /// Takes the value of a client secret, or `file:` and the path of a PEM file.
    pub fn load(client_id: &str, setting: &str) -> anyhow::Result<Self> {
        let certificate = setting.strip_prefix("file:").map(load_certificate).transpose();
        let certificate = certificate.with_context(|| format!("{setting:?}"))?;
        Ok(Self { client_id: client_id.to_owned(), secret: setting.to_owned(), certificate })
    }

    /// The parameters of a token request that authenticate this app.
    pub fn parameters(&self, token_endpoint: &Url) -> Result<Vec<(&'static str, String)>, Error> {
        let Some((key, thumbprint)) = &self.certificate else {
            return Ok(vec![("client_secret", self.secret.clone())]);
        };
        // A signed statement in place of a secret (private_key_jwt, OIDC Core section 9).
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let mut header = Header::new(PS256);
        header.x5t_s256 = Some(thumbprint.clone());
        let claims = json!({
            "aud": token_endpoint,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
            "nbf": now,
            "exp": now + 300,
        });
        let assertion = jsonwebtoken::encode(&header, &claims, key);
        let assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        Ok(vec![
            ("client_assertion_type", assertion_type.to_owned()),
            ("client_assertion", assertion.map_err(ErrorInternalServerError)?),
        ])
    }
}

fn load_certificate(path: &str) -> anyhow::Result<(EncodingKey, String)> {
    let parts = pem::parse_many(fs::read(path)?)?;
    let key = parts.iter().find(|part| part.tag().ends_with("PRIVATE KEY"));
    let certificate = parts.iter().find(|part| part.tag() == "CERTIFICATE");
    let (Some(key), Some(certificate)) = (key, certificate) else {
        bail!("the file must contain a private key and a certificate");
    };
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.contents()));
    let (key, certificate) = (key.to_string(), certificate.to_string());
    // Sign once and verify, so that a wrong file shows now and not at the first sign-in.
    let key = EncodingKey::from_rsa_pem(key.as_bytes()).context("the private key is not RSA")?;
    let public_key = DecodingKey::from_rsa_pem(certificate.as_bytes())?;
    let token = jsonwebtoken::encode(&Header::new(PS256), &json!({ "exp": u32::MAX }), &key)?;
    jsonwebtoken::decode::<Value>(token, &public_key, &Validation::new(PS256))
        .context("the private key does not fit the certificate")?;
    Ok((key, thumbprint))
}

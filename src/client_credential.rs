//! How this app authenticates at the token endpoint: with a client secret, a certificate, or a
//! federated credential.
//!
//! Specifications: RFC 7523, OpenID Connect Core 1.0 section 9 (`private_key_jwt`).

use std::fs;
use std::path::PathBuf;

use actix_web::cookie::time::OffsetDateTime;
use actix_web::error::{Error, ErrorInternalServerError};
use anyhow::{Context as _, bail};
use base64::prelude::*;
use jsonwebtoken::Algorithm::PS256;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::protocol::ClientCredential;

/// Makes client assertions, which take the place of a client secret.
pub enum ClientAssertion {
    /// This app signs them with the key of its certificate.
    Certificate(Certificate),
    /// The platform on which this app runs signs them (federated credential). It writes them into
    /// this file, and replaces each before it expires.
    TokenFile(PathBuf),
}

pub struct Certificate {
    client_id: String,
    private_key: EncodingKey,
    /// The SHA-256 thumbprint of the certificate in Base64url. It tells the tenant which
    /// certificate verifies the signature.
    thumbprint: String,
}

impl ClientCredential {
    /// Takes the value of a client secret, or `file:` and the path of a PEM file or a token file.
    pub fn load(client_id: &str, setting: &str) -> anyhow::Result<Self> {
        let Some(path) = setting.strip_prefix("file:") else {
            return Ok(Self::Secret(setting.to_owned()));
        };
        let text = fs::read(path).with_context(|| format!("{setting:?}"))?;
        // The header of a JSON Web Token can be read without a key.
        if jsonwebtoken::decode_header(text.trim_ascii()).is_ok() {
            return Ok(Self::Assertion(ClientAssertion::TokenFile(path.into())));
        }
        let (private_key, thumbprint) =
            load_certificate(&text).with_context(|| format!("{setting:?}"))?;
        let client_id = client_id.to_owned();
        let certificate = Certificate { client_id, private_key, thumbprint };
        Ok(Self::Assertion(ClientAssertion::Certificate(certificate)))
    }
}

impl ClientAssertion {
    /// The parameter `client_assertion_type`.
    pub fn assertion_type(&self) -> String {
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()
    }

    /// The parameter `client_assertion`, for one request.
    pub fn make(&self, token_endpoint: &Url) -> Result<String, Error> {
        match self {
            Self::Certificate(certificate) => certificate.sign(token_endpoint),
            Self::TokenFile(path) => {
                let token = fs::read_to_string(path).map_err(ErrorInternalServerError)?;
                Ok(token.trim().to_owned())
            }
        }
    }
}

impl Certificate {
    /// A new client assertion, valid for five minutes.
    fn sign(&self, token_endpoint: &Url) -> Result<String, Error> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let mut header = Header::new(PS256);
        header.x5t_s256 = Some(self.thumbprint.clone());
        let claims = json!({
            "aud": token_endpoint,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
            "nbf": now,
            "exp": now + 300,
        });
        jsonwebtoken::encode(&header, &claims, &self.private_key).map_err(ErrorInternalServerError)
    }
}

/// Reads the private key from the text of a PEM file, and the thumbprint of the certificate that fits
/// it.
fn load_certificate(text: &[u8]) -> anyhow::Result<(EncodingKey, String)> {
    let parts = pem::parse_many(text)?;
    let key = parts.iter().find(|part| part.tag().ends_with("PRIVATE KEY"));
    let Some(key) = key else { bail!("the file contains no private key; add it as PEM") };
    if key.tag().starts_with("ENCRYPTED") || key.headers().get("DEK-Info").is_some() {
        bail!(
            "the private key is encrypted; decrypt it with `openssl pkey -in old.pem -out new.pem`"
        );
    }
    let key = EncodingKey::from_rsa_pem(key.to_string().as_bytes())
        .context("the private key is not RSA; make a certificate with an RSA key")?;
    // Sign once and verify, so that a wrong file shows now and not at the first sign-in.
    let token = jsonwebtoken::encode(&Header::new(PS256), &json!({ "exp": u32::MAX }), &key)?;
    let mut certificates = parts.iter().filter(|part| part.tag() == "CERTIFICATE").peekable();
    if certificates.peek().is_none() {
        bail!("the file contains no certificate; add it as PEM");
    }
    // In a chain, the certificate of the app need not be the first one.
    let certificate = certificates.find(|certificate| {
        let public_key = DecodingKey::from_rsa_pem(certificate.to_string().as_bytes());
        let verify = |key| jsonwebtoken::decode::<Value>(&token, &key, &Validation::new(PS256));
        public_key.and_then(verify).is_ok()
    });
    let certificate =
        certificate.context("the private key does not fit a certificate in the file")?;
    Ok((key, BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.contents()))))
}

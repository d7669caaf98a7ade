//! How this app authenticates at the token endpoint: with a client secret or with a
//! certificate.

use std::fs;

use actix_web::cookie::time::OffsetDateTime;
use actix_web::error::{Error, ErrorInternalServerError};
use base64::prelude::*;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
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
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub fn load(client_id: &str, setting: &str) -> Result<Self, String> {
        let certificate = setting.strip_prefix("file:").map(load_certificate).transpose()?;
        Ok(Self { client_id: client_id.to_owned(), secret: setting.to_owned(), certificate })
    }

    /// The parameters of a token request that authenticate this app.
    ///
    /// # Errors
    /// The private key cannot sign. The app checks this when it starts.
    pub fn parameters(&self, token_endpoint: &Url) -> Result<Vec<(&'static str, String)>, Error> {
        let Some((key, thumbprint)) = &self.certificate else {
            return Ok(vec![("client_secret", self.secret.clone())]);
        };
        // A signed statement in place of a secret (private_key_jwt, OIDC Core section 9).
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let mut header = Header::new(Algorithm::PS256);
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

fn load_certificate(path: &str) -> Result<(EncodingKey, String), String> {
    let file = fs::read(path).map_err(|err| format!("{path:?}: {err}"))?;
    let parts = pem::parse_many(file).map_err(|err| format!("{path:?}: {err}"))?;
    let key = parts.iter().find(|part| part.tag().ends_with("PRIVATE KEY"));
    let certificate = parts.iter().find(|part| part.tag() == "CERTIFICATE");
    let (Some(key), Some(certificate)) = (key, certificate) else {
        return Err(format!("{path:?} must contain a private key and a certificate"));
    };
    let not_a_pair = |_| format!("{path:?}: the private key (RSA) does not fit the certificate");
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.contents()));
    let public_key = DecodingKey::from_rsa_pem(certificate.to_string().as_bytes());
    let key = EncodingKey::from_rsa_pem(key.to_string().as_bytes()).map_err(not_a_pair)?;
    // Sign once and verify, so that a wrong file shows now and not at the first sign-in.
    let token = jsonwebtoken::encode(&Header::new(Algorithm::PS256), &json!({}), &key);
    let mut signature_only = Validation::new(Algorithm::PS256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    let (token, public_key) = (token.map_err(not_a_pair)?, public_key.map_err(not_a_pair)?);
    jsonwebtoken::decode::<Value>(token, &public_key, &signature_only).map_err(not_a_pair)?;
    Ok((key, thumbprint))
}

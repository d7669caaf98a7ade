//! Reads claims challenges. protocol.rs says what they are.

use base64::prelude::*;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use tracing::warn;

use crate::protocol::RequestedClaims;

impl RequestedClaims {
    /// Reads a claims challenge from JSON, and adds what this app always requests. Ignores
    /// one of over 300 bytes, for which the cookie of step 5 has no room. The next token is
    /// then refused too, and the user gets an error page.
    pub fn from_challenge(json: &[u8]) -> Option<Self> {
        let mut claims: Self = serde_json::from_slice(json).ok()?;
        claims.access_token.extend(Self::standard().access_token);
        let length = serde_json::to_string(&claims).ok()?.len();
        if length > 300 {
            warn!("a claims challenge of {length} bytes is too long, so it is ignored");
            return None;
        }
        Some(claims)
    }

    /// Finds a claims challenge in the response of an API, where it is in Base64. For
    /// example: `WWW-Authenticate: Bearer error="insufficient_claims",
    /// claims="eyJhY2Nlc3NfdG9rZW4iO…"`
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let header = String::from_utf8_lossy(header.as_bytes());
            for parameter in header.split([',', ' ', '\t']) {
                let (name, value) = parameter.split_once('=').unwrap_or_default();
                // Servers write Base64 in two alphabets, with and without padding.
                let base64 = value.trim_matches(['"', '=']).replace('+', "-").replace('/', "_");
                if name.eq_ignore_ascii_case("claims")
                    && let Ok(json) = BASE64_URL_SAFE_NO_PAD.decode(base64)
                    && let Some(challenge) = Self::from_challenge(&json)
                {
                    return Some(challenge);
                }
            }
        }
        None
    }
}

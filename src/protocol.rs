//! The shapes of the messages that this app gets, and of the values that it keeps. During a
//! sign-in, these are in a cookie, after it in the session. The handlers in routes decide
//! what to do with them.
//!
//! Specifications: RFC 6749 (OAuth 2.0), RFC 7517 (keys), RFC 7519 (ID tokens are JSON Web
//! Tokens), RFC 7636 (PKCE), RFC 9207 (`iss`), OpenID Connect Core 1.0 and Discovery 1.0.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use url::Url;

use crate::client_credential::ClientAssertion;

/// The addresses of the tenant. The app requests them when it starts.
#[derive(Deserialize)]
pub struct OpenIdMetadata {
    /// The URL that names the tenant. It is the claim `iss` of each ID token.
    pub issuer: String,
    /// Step 5 redirects the browser to this address, where the user signs in.
    pub authorization_endpoint: Url,
    /// Steps 2 and 7 get tokens from this address.
    pub token_endpoint: Url,
    /// Step 8 gets the public keys from this address. They verify ID tokens.
    pub jwks_uri: Url,
    /// The sign-out redirects the browser to this address, if there is one.
    pub end_session_endpoint: Option<Url>,
}

/// How this app proves its identity in a token request, in steps 2 and 7.
pub enum ClientCredential {
    /// The value of a client secret.
    Secret(String),
    /// A client assertion: a short signed statement, which is new in each request.
    Assertion(ClientAssertion),
}

/// What steps 6 to 9 need to know about a sign-in. Step 5 keeps it in a cookie, which is
/// not signed. With a changed `nonce` or `code_verifier`, the sign-in fails. Step 9 checks
/// the address. A change of `requested_claims` or `is_repeated` gains nobody anything.
#[derive(Serialize, Deserialize)]
pub struct AuthCodeFlow {
    /// A random value. Step 8 checks that the ID token contains it.
    pub nonce: String,
    /// A random value. Step 7 sends it, which makes a stolen code useless.
    pub code_verifier: String,
    /// The parameter `claims` of step 5. Step 7 sends the same.
    pub requested_claims: RequestedClaims,
    /// Whether a user was signed in already when step 5 started this sign-in.
    pub is_repeated: bool,
    /// The path and query of the page that the user opened. Step 9 redirects to it.
    pub post_sign_in_url: String,
}

/// The query of `/auth/redirect`. actix-web answers 400 if `state` is missing or a
/// parameter is repeated.
#[derive(Deserialize)]
pub struct AuthorizationResponse {
    /// The `state` of step 5.
    pub state: String,
    /// The authorization code, unless the sign-in failed.
    pub code: Option<String>,
    /// The error code, if the sign-in failed.
    pub error: Option<String>,
    /// An explanation of the error for administrators.
    #[serde(default)]
    pub error_description: String,
    /// The issuer of the response, if the response names it.
    pub iss: Option<String>,
}

/// Tokens, the response of the token endpoint in steps 2 and 7.
#[derive(Deserialize)]
pub struct Tokens {
    /// Step 3 sends it to Microsoft Graph. This app does not read it.
    pub access_token: String,
    /// How long the access token is valid, in seconds.
    #[serde(deserialize_with = "number_or_text")]
    pub expires_in: u32,
    /// Step 2 exchanges it for a new access token.
    pub refresh_token: Option<String>,
    /// Tells this app who signed in. Step 8 validates it.
    pub id_token: Option<String>,
}

/// Accepts 3599 and "3599". Azure AD B2C, a tenant for customers, sends the number as text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(D::Error::custom)
}

/// An error, the response of the token endpoint in steps 2 and 7.
#[derive(Deserialize)]
pub struct TokenError {
    /// The error code.
    pub error: String,
    /// An explanation for administrators. It contains the trace ID and the correlation ID,
    /// which Microsoft's support asks for.
    pub error_description: Option<String>,
    /// A claims challenge, see `RequestedClaims`: JSON in a text. Any other value is
    /// ignored.
    #[serde(default)]
    pub claims: Value,
}

/// The text for people: the error code and the explanation.
impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let description = self.error_description.as_deref().unwrap_or("no description");
        write!(f, "{}: {description}", self.error)
    }
}

/// The public keys of the tenant. Each is any JSON, because one key of an unknown kind must
/// not make all of them unreadable.
#[derive(Deserialize)]
pub struct SigningKeys {
    pub keys: Vec<Value>,
}

/// The claims of an ID token: those that this app reads, and all others. A token without
/// one of the first five is refused, because it does not fit into this type. /admin shows
/// the claims as they came, so those that are missing are not written as `null`.
#[derive(Serialize, Deserialize)]
pub struct IdTokenClaims {
    /// The issuer: the tenant that issued the token.
    pub iss: String,
    /// The audience: the client ID of the app for which the token was issued.
    pub aud: String,
    /// When the token expires, in Unix time.
    pub exp: i64,
    /// When the token was issued, in Unix time.
    pub iat: i64,
    /// The `nonce` of step 5.
    pub nonce: String,
    /// The ID of the user in the tenant. Use it as the key of a user, and not a name or an
    /// address, which can change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oid: Option<String>,
    /// The app roles of the user. A user without a role has no such claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The name of the user, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The sign-in name of the user, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    /// Names the account at a later sign-in or sign-out, so that the user need not choose
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_hint: Option<String>,
    #[serde(flatten)]
    pub other_claims: Map<String, Value>,
}

/// The session value `user`. If the session has this value, a user is signed in.
#[derive(Serialize, Deserialize)]
pub struct User {
    /// How the pages call the user.
    pub name: String,
    /// The claims of the validated ID token.
    pub id_token_claims: IdTokenClaims,
    /// When the user signed in, in Unix time.
    pub signed_in_on: i64,
    /// Whether a user was signed in already when step 5 started this sign-in. If a token is
    /// refused within a minute after such a sign-in, steps 2 and 3 show an error, and do
    /// not start another one.
    pub is_repeated: bool,
}

/// The session value `token_cache`: the tokens for Microsoft Graph. An app that calls
/// another API too needs another value for its tokens.
#[derive(Serialize, Deserialize)]
pub struct TokenCache {
    /// The access token.
    pub access_token: String,
    /// What the access token is for: the value of SCOPE when it was requested. After a
    /// change of SCOPE, step 2 gets another token.
    pub scope: String,
    /// When the access token expires, in Unix time.
    pub expires_on: i64,
    /// Step 2 exchanges it for the next access token.
    pub refresh_token: String,
}

/// The word "claims" has a second meaning: the parameter `claims` of steps 2, 5 and 7 says
/// what the next tokens must contain besides the usual.
///
/// Microsoft can refuse a token before it expires, for example after a change of the
/// password. Its answer can contain a claims challenge: JSON of this shape, which the app
/// must send with the next sign-in. For example,
/// `{"access_token":{"nbf":{"value":"1635527790"}}}` requires an access token that was
/// issued after this time. claims_challenge.rs reads challenges.
#[derive(Serialize, Deserialize)]
pub struct RequestedClaims {
    #[serde(default)]
    pub access_token: Map<String, Value>,
    /// Used by challenges that require, for example, a second factor.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub id_token: Map<String, Value>,
}

impl RequestedClaims {
    /// What this app always requests, also with a challenge. The value `cp1` in `xms_cc`
    /// tells Microsoft that this app understands claims challenges. Only then can Microsoft
    /// Graph refuse a token early.
    pub fn standard() -> Self {
        let capabilities = ("xms_cc".to_owned(), json!({ "values": ["cp1"] }));
        Self { access_token: Map::from_iter([capabilities]), id_token: Map::new() }
    }
}

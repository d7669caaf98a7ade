//! The messages between this app, the browser and Microsoft Entra ID, and the values in
//! the session. These types have no logic. The handlers decide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

/// The addresses of the tenant (OpenID Connect Discovery 1.0 section 3).
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

/// The `claims` parameter: for each token, the claims that the app asks for (OIDC Core
/// 5.5). For example: `{"access_token": {"xms_cc": {"values": ["cp1"]}}}`, which step 5
/// explains. An API can refuse an access token and say which claims the next one must
/// have. This is a claims challenge. It has the same format.
pub type RequestedClaims = BTreeMap<String, Map<String, Value>>;

/// What steps 6 to 9 need. Step 5 stores it in an encrypted cookie.
#[derive(Serialize, Deserialize)]
pub struct AuthCodeFlow {
    /// A random value. Step 8 checks that the ID token contains it.
    pub nonce: String,
    /// A secret. Step 7 sends it to prove that the code is for this sign-in (RFC 7636).
    pub code_verifier: String,
    /// The `claims` parameter of step 5. Step 7 sends the same value.
    pub requested_claims: RequestedClaims,
    /// Whether this sign-in answers a claims challenge.
    pub answers_challenge: bool,
    /// The path and query of the page that the user opened. Step 9 redirects to it.
    pub post_sign_in_url: String,
    /// Unix time. Step 6 refuses a response after this time.
    pub expires_on: i64,
}

/// The query of `/auth/redirect` (RFC 6749 sections 4.1.2 and 4.1.2.1). If `state` is
/// missing or a parameter is repeated, actix-web answers 400 before the handler runs.
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
    /// The issuer of the response, if the response names it (RFC 9207).
    pub iss: Option<String>,
}

/// The response of the token endpoint. If it has the field `error`, it is an error.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum TokenResponse {
    /// The request failed.
    Error(TokenError),
    /// The request succeeded.
    Tokens(Tokens),
}

/// An error (RFC 6749 section 5.2). Microsoft Entra ID adds `suberror` and `claims`.
#[derive(Deserialize)]
pub struct TokenError {
    /// The error code.
    pub error: String,
    /// An explanation for administrators. It contains the trace ID and the correlation
    /// ID, which Microsoft's support asks for.
    #[serde(default)]
    pub error_description: String,
    /// A more specific error code, for example `consent_required`.
    pub suberror: Option<String>,
    /// A claims challenge, as JSON text.
    pub claims: Option<String>,
}

/// Tokens (RFC 6749 section 5.1, OIDC Core 3.1.3.3).
#[derive(Deserialize)]
pub struct Tokens {
    /// Step 3 sends it to Microsoft Graph. This app does not read it.
    pub access_token: String,
    /// `Bearer` or `bearer`. Any other value fails to parse.
    #[expect(dead_code, reason = "it only has to parse")]
    pub token_type: TokenType,
    /// How long the access token is valid, in seconds.
    pub expires_in: u32,
    /// After how many seconds to renew the access token, even if it is still valid.
    pub refresh_in: Option<u32>,
    /// Step 2 exchanges it for a new access token.
    pub refresh_token: Option<String>,
    /// Tells this app who signed in. Step 8 validates it.
    pub id_token: Option<String>,
}

/// The only type of access token that this app can use (RFC 6750).
#[derive(Deserialize)]
pub enum TokenType {
    /// Anyone who has the token can use it.
    #[serde(alias = "bearer")]
    Bearer,
}

/// The session value `user`. If the session has this value, a user is signed in.
#[derive(Serialize, Deserialize)]
pub struct User {
    /// The claims of the validated ID token.
    pub id_token_claims: Value,
    /// When the user signed in, in Unix time.
    pub signed_in_on: i64,
    /// Whether the sign-in at `signed_in_on` answered a claims challenge. Step 3 then
    /// starts no other sign-in for a minute, to avoid a redirect loop.
    pub answered_challenge: bool,
}

/// The session value `token_cache`: the tokens for SCOPE. Store the access token for
/// another API under another name. Under the same name, each would replace the other.
#[derive(Serialize, Deserialize)]
pub struct TokenCache {
    /// The access token.
    pub access_token: String,
    /// The setting SCOPE for which the access token was requested.
    pub scope: String,
    /// When the access token expires, in Unix time.
    pub expires_on: i64,
    /// When to renew the access token although it is valid, in Unix time.
    pub refresh_on: Option<i64>,
    /// Step 2 exchanges it for the next access token.
    pub refresh_token: String,
}

//! The five routes, one handler in each file.
//!
//! The app signs a user in with OpenID Connect, which is built on OAuth 2.0: the browser goes
//! to Microsoft, the user signs in there, and the browser comes back with a code. This app
//! exchanges the code for tokens. The steps have the same numbers in all files and in the log:
//!
//! 1. Session lookup: find the signed-in user (graph.rs, admin.rs).
//! 2. Token cache: get an access token from the session, or refresh it (graph.rs).
//! 3. Call Microsoft Graph with the access token (graph.rs).
//! 4. Role inspection: check that the user has the app role `admin` (admin.rs).
//! 5. Redirect to authorize: send the browser to Microsoft Entra ID (graph.rs, admin.rs).
//! 6. Authorization response: the browser comes back with a code (auth_redirect.rs).
//! 7. Redeem the code for tokens (auth_redirect.rs).
//! 8. Validate the ID token, which tells who signed in (auth_redirect.rs).
//! 9. Sign in: store the user and the tokens in the session (auth_redirect.rs).
//!
//! The order in time, on the first visit to /graph: 1, 5, the user signs in at Microsoft,
//! 6, 7, 8, 9, redirect to /graph, 1, 2, 3. On later visits: 1, 2, 3, and at /admin 1, 4.
//! There is no page for the sign-in: each protected page starts one if it needs one.
//!
//! Words:
//!
//! - Microsoft Entra ID: Microsoft's service where users sign in. Microsoft Graph: its API for
//!   the data of users.
//! - tenant: the directory of one organization in Microsoft Entra ID, with its users and apps.
//! - client ID: the name of this app in the tenant. The app proves its identity with a client
//!   secret, or with a client assertion: a statement that it signs with the key of its
//!   certificate.
//! - authorization endpoint and token endpoint: two addresses of the tenant. The browser goes
//!   to the first one for a code. This app calls the second one to exchange it.
//! - authorization code: what the browser brings back from Microsoft. It works once.
//! - ID token: tells this app who signed in. A claim is one statement in it, such as `name`.
//! - access token: lets this app call an API for the user, here Microsoft Graph. Only the API
//!   reads it.
//! - refresh token: gets new access tokens without the user.
//! - scope: what this app asks to do for the user. The user consents to it.
//! - app role: a name that the tenant gives to users of this app, such as `admin`.
//! - claims challenge: the answer of an API that refuses an access token. It says what the
//!   next token must contain, for example a second factor.

pub mod admin;
pub mod auth_redirect;
pub mod graph;
pub mod index;
pub mod logout;

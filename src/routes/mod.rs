//! The five routes, one handler in each file.
//!
//! The steps of the protocol have the same numbers in all files and in the log:
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

pub mod admin;
pub mod auth_redirect;
pub mod graph;
pub mod index;
pub mod logout;

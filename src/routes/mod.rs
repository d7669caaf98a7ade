//! The five routes, one handler in each file: `/` (index.rs), `/graph`, `/admin`,
//! `/auth/redirect` and `/logout`.
//!
//! The app signs a user in with OpenID Connect, which is built on OAuth 2.0: the browser
//! goes to Microsoft, the user signs in there, and the browser comes back with a code. This
//! app exchanges the code for tokens.
//!
//! Words:
//!
//! - Microsoft Entra ID: Microsoft's service where users sign in. Microsoft Graph: its API
//!   for the data of users.
//! - tenant: the part of Microsoft Entra ID that belongs to one organization, with its
//!   users and apps.
//! - app registration: what the tenant knows about this app. It contains the client ID,
//!   which names the app, and the redirect URI, the address to which the browser comes
//!   back.
//! - client secret: proves the identity of this app, as a password does. Instead of a
//!   secret, an app with a certificate sends a client assertion: a short statement that it
//!   signs with its key.
//! - authorization endpoint, token endpoint: two addresses of the tenant. The browser goes
//!   to the first one for a code. This app calls the second one to exchange the code.
//! - authorization code: what the browser brings back from Microsoft. It works once.
//! - ID token: tells this app who signed in. It consists of claims. A claim is one
//!   statement, such as `name`.
//! - access token: lets this app call an API for the user, here Microsoft Graph. Only the
//!   API reads it.
//! - refresh token: gets new access tokens without the user.
//! - scope: what this app asks to do for the user, such as `User.Read`. The user consents
//!   to it.
//! - app role: a name that the tenant gives to users of this app, such as `admin`.
//! - `state`, `nonce`, `code_verifier`: three random values that protect a sign-in. Step 5
//!   explains them.
//! - claims challenge: JSON with which Microsoft says what the next token must contain.
//!   Rare, see `RequestedClaims` in protocol.rs.
//! - session: the values that this app stores on the server for one browser. The browser
//!   has only the session ID, in a cookie.
//! - single sign-on: a user who is signed in at Microsoft does not have to type a password
//!   again. So a sign-in can pass without a prompt, also after a sign-out of this app.
//!
//! The steps have the same numbers in all files and in the log. If step 1 finds nobody, or
//! if step 2, 3 or 4 finds that the user must sign in again, steps 5 to 9 follow.
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
//! The order in time:
//!
//! - first visit to /graph: 1, 5, the user signs in at Microsoft, 6, 7, 8, 9, redirect to
//!   /graph, 1, 2, 3. Later: 1, 2, 3
//! - first visit to /admin: 1, 5 to 9, redirect to /admin, 1, 4. Later: 1, 4
//! - Microsoft refuses the access token: 1, 2, 3, 5 to 9, redirect to /graph, 1, 2, 3
//! - Microsoft refuses the refresh token: 1, 2, 5 to 9, redirect to /graph, 1, 2, 3
//! - the ID token has expired: 1, 4, 5 to 9, redirect to /admin, 1, 4
//!
//! There is no page for the sign-in. Each protected page starts one if it needs one, and
//! step 9 redirects back to that page. With single sign-on, all of this can pass without a
//! prompt, so it must not go on in a loop:
//!
//! - A sign-in is repeated if a user was signed in already when it started. If Microsoft
//!   refuses a token less than a minute after a repeated sign-in, steps 2 and 3 show an
//!   error.
//! - Step 4 accepts an ID token for longer than step 8, so a token that step 8 has just
//!   accepted does not lead back to step 5.
//!
//! Nothing here stops another loop: if several processes of this app do not share the
//! sessions, step 1 finds nobody after step 9.
//!
//! Names in capitals, such as SCOPE (`settings.scope`), are settings. Comments in angle
//! brackets mark blocks that documentation shows. Where two files have the same block, it
//! is a copy on purpose: each handler can be read alone. docs/your-app.md says what a
//! handler needs in another app.

pub mod admin;
pub mod auth_redirect;
pub mod graph;
pub mod index;
pub mod logout;

//! `GET /logout`: signs the user out of this app and, with SSO_LOGOUT, of Microsoft Entra
//! ID.
//!
//! Specifications: OpenID Connect RP-Initiated Logout 1.0 section 2.

// <ms_docref_import_logout>
use actix_session::Session;
use actix_web::HttpResponse;
use actix_web::error::{Error, ErrorInternalServerError};
use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use tracing::info;

use crate::protocol::{OpenIdMetadata, User};
use crate::settings::Settings;
// </ms_docref_import_logout>

/// Ends the session. Redirects to the home page or, with SSO_LOGOUT, to Microsoft Entra ID.
/// A link on another site can sign a user out too, which is only a nuisance.
///
/// # Errors
/// 500 if this app fails.
pub async fn logout(
    session: Session,
    settings: Data<Settings>,
    metadata: Data<OpenIdMetadata>,
) -> Result<HttpResponse, Error> {
    // <ms_docref_logout_user>
    // Read the user before the session is deleted. SSO_LOGOUT uses the claim `login_hint`.
    let user: Option<User> = session.get("user").unwrap_or_default();
    // Delete the session on the server and the cookie in the browser. A copied cookie no
    // longer works.
    session.purge();
    info!("signed out of this app");

    // Microsoft Entra ID has a session of its own in this browser, for all apps (single
    // sign-on). End it only with SSO_LOGOUT.
    let mut url = match metadata.end_session_endpoint.clone() {
        Some(url) if settings.sso_logout => url,
        _ => return Ok(HttpResponse::Found().insert_header((LOCATION, "/")).finish()),
    };
    // </ms_docref_logout_user>

    // <ms_docref_sso_logout>
    // Microsoft Entra ID sends the browser back only to a registered redirect URI. Register
    // the home page for that.
    let home_page = settings.redirect_uri.join("/").map_err(ErrorInternalServerError)?;
    url.query_pairs_mut().append_pair("post_logout_redirect_uri", home_page.as_str());
    // Name the account. Otherwise Microsoft Entra ID asks which account to sign out. ID
    // tokens have the claim `login_hint` only if it is added in the app registration under
    // Token configuration.
    if let Some(login_hint) = user.and_then(|user| user.id_token_claims.login_hint) {
        url.query_pairs_mut().append_pair("logout_hint", &login_hint);
    }
    info!("redirecting to the end session endpoint");
    Ok(HttpResponse::Found().insert_header((LOCATION, url.as_str())).finish())
    // </ms_docref_sso_logout>
}

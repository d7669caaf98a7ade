//! `GET /logout`: forgets the user here and, if SSO_LOGOUT says so, at
//! Microsoft Entra ID too.

use actix_session::Session;
use actix_web::HttpResponse;
use actix_web::error::{Error, ErrorInternalServerError};
use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use tracing::info;
use url::Url;

use crate::settings::Settings;

/// Signs the user out.
///
/// # Errors
/// 500 if the end session endpoint or REDIRECT_URI is no URL; both were
/// checked at start.
pub async fn logout(session: Session, settings: Data<Settings>) -> Result<HttpResponse, Error> {
    // <ms_docref_logout_user>
    // The session goes with all that it holds (user, token cache, flows not
    // yet come back), on the server and as a cookie: a copy of the cookie is
    // worth nothing from now on, and no request still under way brings it
    // back.
    session.purge();

    // Microsoft Entra ID has a session of its own with this browser, for all
    // apps. As long as it lasts, the next sign-in here asks for nothing, which
    // is what single sign-on is for. On a shared computer it should end as
    // well.
    let end_session_endpoint =
        settings.openid_metadata["end_session_endpoint"].as_str().filter(|_| settings.sso_logout);
    let Some(end_session_endpoint) = end_session_endpoint else {
        info!("signed out here; single sign-on goes on, without SSO_LOGOUT or an end session endpoint");
        return Ok(HttpResponse::Found().insert_header((LOCATION, "/")).finish());
    };

    // OpenID Connect RP-Initiated Logout 1.0 section 2. The browser is sent
    // back only to an address that is registered as a redirect URI: register
    // this app's home page for that.
    let mut url = Url::parse(end_session_endpoint).map_err(ErrorInternalServerError)?;
    let home_page =
        Url::parse(&settings.redirect_uri).and_then(|url| url.join("/")).map_err(ErrorInternalServerError)?;
    url.query_pairs_mut().append_pair("post_logout_redirect_uri", home_page.as_str());
    info!("signed out here; redirecting to the end session endpoint");
    Ok(HttpResponse::Found().insert_header((LOCATION, url.as_str())).finish())
    // </ms_docref_logout_user>
}

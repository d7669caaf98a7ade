//! The end session endpoint (OpenID Connect RP-Initiated Logout 1.0). It ends single sign-on in
//! this browser. The app ends its own session.

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use tracing::info;
use url::form_urlencoded;

use super::authorize::set_cookie;
use crate::tenant::Tenant;
use crate::wire::SSO_COOKIE;

pub async fn logout(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    if let Some(cookie) = request.cookie(SSO_COOKIE) {
        tenant.sessions.remove(cookie.value());
        info!("signed out");
    }
    let mut query = form_urlencoded::parse(request.query_string().as_bytes());
    let uri = query.find(|(name, _)| name == "post_logout_redirect_uri");
    let uri = uri.and_then(|(_, uri)| tenant.registration.redirect_uri(&uri));
    let mut response = match uri {
        Some(uri) => HttpResponse::Found().insert_header((LOCATION, uri.as_str())).finish(),
        None => tenant.message(StatusCode::OK, "You signed out", "You can close this window."),
    };
    set_cookie(&mut response, "");
    response
}

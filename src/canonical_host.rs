//! Redirects from another name of this computer to the host of REDIRECT_URI.

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::Error;
use actix_web::http::header::{HOST, LOCATION};
use actix_web::middleware::Next;
use actix_web::web::Data;
use url::Url;

use crate::settings::{Settings, is_loopback};

/// Redirects, for example, from 127.0.0.1 to localhost, where the sign-in ends. Browsers keep
/// separate cookies for the two.
pub async fn canonical_host(
    settings: Data<Settings>,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let mut home = settings.redirect_uri.clone();
    let host = req.headers().get(HOST).and_then(|host| host.to_str().ok());
    if let Ok(requested) = Url::parse(&format!("http://{}", host.unwrap_or_default()))
        && [&requested, &home].iter().all(|url| url.host_str().is_some_and(is_loopback))
        && requested.host() != home.host()
        && requested.port_or_known_default() == home.port_or_known_default()
    {
        home.set_path(req.path());
        home.set_query(req.uri().query());
        let location = (LOCATION, home.as_str());
        return Ok(req.into_response(HttpResponse::Found().insert_header(location).finish()));
    }
    Ok(next.call(req).await?.map_into_boxed_body())
}

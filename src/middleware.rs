//! How responses look. Nothing here decides who gets in.

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::{Error, InternalError};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use tera::{Context, Tera};
use tracing::{error, info};
use url::Url;

use crate::settings::{Settings, is_loopback};

// <ms_docref_security_headers>
/// The headers of every response. Pages load nothing but the stylesheet of this app, run
/// no script, and are not shown in frames of other sites (RFC 9700 section 4.16).
/// Browsers keep no copy of a page, and send its address to no other site.
pub const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];
// </ms_docref_security_headers>

/// Logs each request, and turns each error into a page.
pub async fn error_pages(
    templates: Data<Tera>,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // Without the query, which can contain a code.
    let request = format!("{} {:?}", req.method(), req.path());
    match next.call(req).await {
        Ok(response) => {
            let status = response.status();
            info!("{request}: {status}");
            if !status.is_client_error() && !status.is_server_error() {
                return Ok(response.map_into_boxed_body());
            }
            let err = response.response().error();
            let message = err.and_then(message_of);
            if let (Some(err), None) = (err, &message) {
                error!("{request}: {err:?}");
            }
            // The Allow header of 405 stays.
            let page = error_page(&templates, status, message);
            Ok(response.map_body(|head, _| {
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                head.headers_mut().insert(header::CONTENT_TYPE, html);
                BoxBody::new(page)
            }))
        }
        // The session middleware failed.
        Err(err) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            error!("{request}: {status}, the session store failed: {err:?}");
            let message = "The session store is not available. Try again in a minute.".to_owned();
            let mut response = HttpResponse::build(status);
            response.content_type(ContentType::html());
            for header in HEADERS {
                response.insert_header(header);
            }
            let page = response.body(error_page(&templates, status, Some(message)));
            Err(InternalError::from_response(err, page).into())
        }
    }
}

/// The sentence that a handler wrote for the browser. Other errors are only for the log.
fn message_of(err: &Error) -> Option<String> {
    let text = err.as_error::<InternalError<String>>().map(ToString::to_string);
    text.or_else(|| err.as_error::<InternalError<&'static str>>().map(ToString::to_string))
}

fn error_page(templates: &Tera, status: StatusCode, message: Option<String>) -> String {
    let mut context = Context::new();
    context.insert("status", &status.as_u16());
    context.insert("reason", status.canonical_reason().unwrap_or("Error"));
    context.insert("message", &message);
    templates.render("error.html", &context).unwrap_or_else(|err| {
        error!("error.html: {err:?}");
        status.to_string()
    })
}

/// Redirects from another name of this computer to the host of REDIRECT_URI, where the
/// sign-in ends. Browsers keep separate cookies for localhost and 127.0.0.1.
pub async fn canonical_host(
    settings: Data<Settings>,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let host = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let requested = Url::parse(&format!("http://{}", host.unwrap_or_default()));
    if let (Ok(requested), Ok(mut home)) = (requested, Url::parse(&settings.redirect_uri))
        && [&requested, &home].iter().all(|url| url.host_str().is_some_and(is_loopback))
        && requested.host() != home.host()
        && requested.port_or_known_default() == home.port_or_known_default()
    {
        home.set_path(req.path());
        home.set_query(req.uri().query());
        let location = (header::LOCATION, home.as_str());
        return Ok(req.into_response(HttpResponse::Found().insert_header(location).finish()));
    }
    Ok(next.call(req).await?.map_into_boxed_body())
}

/// Removes each cookie from a response that the request has already. actix-session sends
/// the session cookie again after each change of the session. A late response would bring
/// back the old cookie after a sign-out or sign-in in another tab.
pub async fn remove_repeated_cookies(
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let sent: Vec<HeaderValue> = req.headers().get_all(header::COOKIE).cloned().collect();
    let mut response = next.call(req).await?;
    let headers = response.headers_mut();
    for cookie in headers.remove(header::SET_COOKIE) {
        let name_and_value = cookie.as_bytes().split(|byte| *byte == b';').next();
        let mut sent = sent.iter().flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
        if !sent.any(|sent| Some(sent.trim_ascii()) == name_and_value) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    Ok(response)
}

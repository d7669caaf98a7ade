//! How responses look: security headers, errors as pages, and one log line for each request.
//! Nothing here decides who gets in.

use actix_session::storage::{SaveError, UpdateError};
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::{Error, InternalError};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use tera::{Context, Tera};
use tracing::{error, info, warn};

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

/// Logs each request with the status and, if it failed, with the text of the page or the cause.
/// Turns each error into a page.
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
            let err = response.response().error();
            let message = err.and_then(message_of);
            match (&message, err) {
                (Some(message), _) => warn!("{request}: {status}, {message:?}"),
                (None, Some(err)) => error!("{request}: {status}, {err:?}"),
                (None, None) => info!("{request}: {status}"),
            }
            if !status.is_client_error() && !status.is_server_error() {
                return Ok(response.map_into_boxed_body());
            }
            // The Allow header of 405 stays.
            let page = error_page(&templates, status, message);
            Ok(response.map_body(|head, _| {
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                head.headers_mut().insert(header::CONTENT_TYPE, html);
                BoxBody::new(page)
            }))
        }
        // A middleware failed. The session middleware wraps the errors of its store like this.
        Err(err) => {
            let is_session_store = err.as_error::<InternalError<anyhow::Error>>().is_some()
                || err.as_error::<InternalError<SaveError>>().is_some()
                || err.as_error::<InternalError<UpdateError>>().is_some();
            let (status, message) = if is_session_store {
                let text = "The session store is not available. Try again in a minute.";
                (StatusCode::SERVICE_UNAVAILABLE, Some(text.to_owned()))
            } else {
                (err.as_response_error().status_code(), None)
            };
            error!("{request}: {status}, {}: {err:?}", message.as_deref().unwrap_or("failed"));
            let mut response = HttpResponse::build(status);
            response.content_type(ContentType::html());
            for header in HEADERS {
                response.insert_header(header);
            }
            let page = response.body(error_page(&templates, status, message));
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

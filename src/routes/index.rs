//! `GET /`: the home page, for everyone.

// <ms_docref_import_index>
use actix_session::Session;
use actix_web::HttpResponse;
use actix_web::error::{Error, ErrorInternalServerError};
use actix_web::http::header::ContentType;
use actix_web::web::Data;
use tera::{Context, Tera};

use crate::protocol::User;
// </ms_docref_import_index>

// <ms_docref_unprotected_app_route>
/// Shows the home page, and who is signed in.
///
/// # Errors
/// 500 if the template fails.
pub async fn index(session: Session, templates: Data<Tera>) -> Result<HttpResponse, Error> {
    // Reading the session does not start one. A new visitor gets no cookie.
    let user: Option<User> = session.get("user").unwrap_or_default();
    let mut context = Context::new();
    if let Some(user) = user {
        context.insert("user_name", &user.name);
    }
    let page = templates.render("public/index.html", &context).map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page))
}
// </ms_docref_unprotected_app_route>

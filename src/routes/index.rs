//! `GET /`: public. The links on the page lead to the protected ones, which
//! start a sign-in by themselves.

use actix_session::Session;
use actix_web::HttpResponse;
use actix_web::error::{Error, ErrorInternalServerError};
use actix_web::http::header::ContentType;
use actix_web::web::Data;
use serde_json::Value;
use tera::{Context, Tera};

// <ms_docref_unprotected_app_route>
/// The home page, for anyone: it shows who is signed in, if someone is.
///
/// # Errors
/// 500 if the page cannot be rendered.
pub async fn index(session: Session, templates: Data<Tera>) -> Result<HttpResponse, Error> {
    let mut context = Context::new();
    // Reading the session does not start one: a new visitor gets no cookie.
    if let Ok(Some(user)) = session.get::<Value>("user") {
        let claims = &user["id_token_claims"];
        let user_name =
            claims["name"].as_str().or(claims["preferred_username"].as_str()).unwrap_or("a user without a name");
        context.insert("user_name", user_name);
    }
    let page = templates.render("public/index.html", &context).map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page))
}
// </ms_docref_unprotected_app_route>

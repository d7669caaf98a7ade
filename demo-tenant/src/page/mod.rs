//! The page that shows the messages and makes things go wrong.

mod agreement;
mod curl;
mod explanations;
mod faults;
mod forms;
pub mod jwt;
mod message;
mod outcome;
mod parameters;
mod timeline;

use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, LOCATION};
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use tera::context;
use url::form_urlencoded;

use self::explanations::{STEPS, WORDS, step_of};
use crate::attacks::{ATTACKS, Attack};
use crate::recorder::MOST_VISITS;
use crate::tenant::{CLIENT_ID, TENANT_ID, Tenant};

pub fn routes(app: &mut web::ServiceConfig) {
    app.service(web::resource("/").get(page))
        .service(web::resource("/faults").post(forms::choose))
        .service(web::resource("/attacks").post(forms::attack))
        .service(web::resource("/certificates").post(forms::register_certificate))
        .service(web::resource("/style.css").get(style))
        .default_service(web::to(not_found));
}

/// The form that changes the user, below the path of the single sign-on cookie.
pub fn other_user(app: &mut web::ServiceConfig) {
    let path = format!("/{TENANT_ID}/oauth2/v2.0/other_user");
    app.service(web::resource(path).post(forms::other_user));
}

async fn style() -> HttpResponse {
    let css = include_str!("../../templates/style.css");
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(css)
}

async fn not_found(tenant: Data<Tenant>) -> HttpResponse {
    tenant.message(StatusCode::NOT_FOUND, "Not found", "The demo tenant has no such page.")
}

/// `GET /`: the messages, the faults, and the form for a certificate.
async fn page(request: HttpRequest, tenant: Data<Tenant>) -> HttpResponse {
    // The forms work only under this name.
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if tenant.origin.strip_prefix("http://") != host {
        let address = format!("{}/", tenant.origin);
        return HttpResponse::Found().insert_header((LOCATION, address)).finish();
    }
    let attempt = form_urlencoded::parse(request.query_string().as_bytes())
        .find(|(name, _)| name == "attempt")
        .and_then(|(_, name)| attempt_view(&tenant, &name));
    let steps = STEPS[1..].iter().map(|step| json!({ "name": step.name, "meaning": step.meaning }));
    let attacks = ATTACKS.iter().map(attack_view);
    let context = context! {
        title => "What app and tenant say to each other",
        app => tenant.home_page.as_str(),
        stories => &timeline::stories(&tenant),
        attempt => &attempt,
        most_visits => &MOST_VISITS,
        attacks => &attacks.collect::<Vec<_>>(),
        steps => &steps.collect::<Vec<_>>(),
        words => &WORDS,
        buttons => &faults::buttons(tenant.faults.active()),
        thumbprints => &Vec::from_iter(tenant.certificates().keys()),
        authority => &tenant.authority,
        client_id => CLIENT_ID,
        endpoint => &format!("{}/v1.0/me", tenant.origin),
    };
    tenant.page(StatusCode::OK, "recorder.html", &context)
}

fn attack_view(attack: &Attack) -> Value {
    json!({ "name": attack.name, "title": attack.title, "goal": attack.goal, "does": attack.does,
            "control": attack.control, "step": attack.step })
}

/// The result of an attack, and the block that refused.
fn attempt_view(tenant: &Tenant, name: &str) -> Option<Value> {
    let attempts = tenant.attempts();
    let attempt = attempts.iter().find(|attempt| attempt.attack == name)?;
    let attack = ATTACKS.iter().find(|attack| attack.name == attempt.attack)?;
    let kept = tenant.recorder.lock();
    let visit = kept.visits.iter().find(|visit| Some(visit.number) == attempt.visit);
    let refusal = visit.and_then(|visit| outcome::refusal(&tenant.recorder, visit));
    let mut sources = tenant.recorder.sources.iter();
    let (is_refused, message, code) = match refusal {
        // Another error is not a defense against this attack.
        Some(refusal) => {
            let marker = refusal.code.as_ref().map(|code| code.name);
            let is_expected = refusal.step == Some(attack.step)
                && marker == Some(attack.marker)
                && refusal.message.contains(attack.error);
            (is_expected, refusal.message, refusal.code)
        }
        // The app did what was asked, but in a safe way.
        None if attempt.is_answered && attempt.is_led_home => {
            (true, String::new(), sources.find_map(|source| source.block(attack.marker, 0)))
        }
        None => (false, String::new(), None),
    };
    Some(json!({
        "attack": attack_view(attack), "is_refused": is_refused, "is_answered": attempt.is_answered,
        "step": attack.step, "step_name": step_of(Some(attack.step)).name,
        "is_by_tenant": attack.error.starts_with("AADSTS"), "fault": attempt.fault.map(faults::label),
        "answer": attempt.answer, "message": message, "code": code,
        "control": attempt.control, "has_control_succeeded": attempt.has_control_succeeded,
        "story": visit.map(|visit| visit.story),
    }))
}

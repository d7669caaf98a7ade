//! Sees the app from outside: each visit of a browser, and each line of its log.

use std::sync::{Arc, OnceLock};

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, LOCATION, SET_COOKIE};
use actix_web::middleware::Next;
use tracing::field::{Field, Visit as FieldVisit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Instrument as _, Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use url::{Url, form_urlencoded};

use crate::events::{Line, Name, NewVisit, Outcome};
use crate::recorder::Recorder;
use crate::source::step_of_text;
use crate::wire::{ACTOR, Fields, cookies, find};

/// A process has one app and one log, so it has one recorder of them.
static RECORDER: OnceLock<Arc<Recorder>> = OnceLock::new();

/// Lets the app write to this recorder. Only the first call counts.
pub fn write_to(recorder: &Arc<Recorder>) {
    let _ = RECORDER.set(recorder.clone());
}

/// The tracing layer that brings the app's log lines to the page. Lines that the app writes while
/// it answers a request belong to this request, also if it answers several at once.
pub fn steps<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Steps.with_filter(LevelFilter::INFO)
}

struct Steps;

/// The number of a visit, kept in its span.
struct Number(usize);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Steps {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Text::default();
        attributes.record(&mut fields);
        if attributes.metadata().target() == module_path!()
            && let (Some(span), Some(number)) = (context.span(id), fields.number)
        {
            span.extensions_mut().insert(Number(number));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (Some(recorder), Some(scope)) = (RECORDER.get(), context.event_scope(event)) else {
            return;
        };
        let number = scope.from_root().find_map(|span| {
            let extensions = span.extensions();
            extensions.get::<Number>().map(|number| number.0)
        });
        let metadata = event.metadata();
        let path = metadata.file().unwrap_or_default().replace('\\', "/");
        let source = recorder.sources.iter().find(|source| path.ends_with(source.file));
        if let (Some(number), Some(source)) = (number, source) {
            let mut fields = Text::default();
            event.record(&mut fields);
            let line = metadata.line().unwrap_or_default() as usize;
            let step = step_of_text(&fields.message);
            recorder.line(number, Line { file: source.file, line, step, text: fields.message });
        }
    }
}

/// The fields of an event or a span.
#[derive(Default)]
struct Text {
    message: String,
    number: Option<usize>,
}

impl FieldVisit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "number" {
            self.number = usize::try_from(value).ok();
        }
    }
}

/// Ends a visit whose browser closed the connection.
struct Open<'a> {
    recorder: &'a Recorder,
    number: usize,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.recorder.abandon(self.number);
    }
}

/// The middleware that keeps each visit of a browser to the app. It changes nothing.
///
/// # Errors
/// Those of the app.
pub async fn visit<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let Some(recorder) = RECORDER.get() else { return next.call(request).await };
    let query = form_urlencoded::parse(request.query_string().as_bytes());
    let query: Fields = query.into_owned().collect();
    let sent = cookies(request.headers());
    let mut names = Vec::new();
    names.extend(find(&query, "state").map(|state| Name::State(state.to_owned())));
    names.extend(find(&query, "code").map(|code| Name::Code(code.to_owned())));
    names.extend(sent.iter().map(|(_, value)| Name::Cookie(value.clone())));
    let actor = request.headers().get(ACTOR).and_then(|actor| actor.to_str().ok());
    // Without the query, which can contain a code.
    let number = recorder.begin(NewVisit {
        actor: actor.map(str::to_owned),
        is_of_app: true,
        method: request.method().to_string(),
        path: request.path().to_owned(),
        address: request.uri().to_string(),
        cookies: sent.into_iter().map(|(name, _)| name).collect(),
        names,
    });
    let _open = Open { recorder, number };
    let span = info_span!("visit", number);
    match next.call(request).instrument(span).await {
        Ok(response) => {
            let (mut outcome, names) = outcome(response.headers());
            outcome.status = response.status().as_u16();
            outcome.message = response.response().error().map(ToString::to_string);
            recorder.end(number, outcome, names);
            Ok(response)
        }
        Err(err) => {
            let status = err.as_response_error().status_code().as_u16();
            let message = Some(err.to_string());
            recorder.end(number, Outcome { status, message, ..Outcome::default() }, Vec::new());
            Err(err)
        }
    }
}

/// What the headers of a response say, and the values by which the next request is recognized.
fn outcome(headers: &HeaderMap) -> (Outcome, Vec<Name>) {
    let (mut outcome, mut names) = (Outcome::default(), Vec::new());
    if let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok()) {
        outcome.location = Some(location.to_owned());
        let url = Url::parse(location).ok();
        let state = url
            .and_then(|url| Some(url.query_pairs().find(|pair| pair.0 == "state")?.1.into_owned()));
        names.extend(state.map(Name::State));
    }
    for header in headers.get_all(SET_COOKIE) {
        let pair = header.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        match pair.split_once('=') {
            Some((name, "")) => outcome.removed_cookies.push(name.to_owned()),
            Some((name, value)) => {
                outcome.set_cookies.push(name.to_owned());
                outcome.values.push(Name::Cookie(value.to_owned()));
            }
            None => {}
        }
    }
    names.extend(outcome.values.iter().cloned());
    (outcome, names)
}

//! What happened, as the page shows it: stories of visits, and in each visit its messages and log
//! lines in the order of time.

use serde::Serialize;

use super::agreement::Place;
use super::curl;
use super::explanations::{About, MESSAGES, step_of};
use super::faults::label;
use super::message::{Check, Table, short, tables};
use super::outcome::{self, Refusal};
use crate::events::{Entry, Line, Message, Visit};
use crate::recorder::Recorder;
use crate::source::Code;
use crate::tenant::Tenant;

#[derive(Serialize)]
pub struct StoryView {
    id: usize,
    title: String,
    is_bad: bool,
    actor: Option<String>,
    time: String,
    has_fault: bool,
    ticks: Vec<Tick>,
    visits: Vec<VisitView>,
}

#[derive(Serialize)]
struct Tick {
    step: usize,
    name: &'static str,
    /// `done`, `stopped`, `refused` if the tenant or Microsoft Graph refused and another sign-in
    /// follows, or `missing` for a step that was not reached.
    state: &'static str,
}

#[derive(Serialize)]
struct VisitView {
    id: String,
    /// Who made the request.
    who: String,
    is_of_app: bool,
    request: String,
    cookies: String,
    entries: Vec<EntryView>,
    answer: Option<Answer>,
    refusal: Option<RefusalView>,
}

#[derive(Serialize)]
struct Answer {
    status: String,
    location: Option<String>,
    set_cookies: String,
    removed_cookies: String,
    /// The code that sets the session cookie, after a sign-in.
    code: Option<Code>,
}

#[derive(Serialize)]
struct RefusalView {
    id: String,
    step: Option<usize>,
    step_name: &'static str,
    message: String,
    code: Option<Code>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum EntryView {
    Line(LineView),
    Message(MessageView),
}

#[derive(Serialize)]
struct LineView {
    id: String,
    step: Option<usize>,
    step_name: &'static str,
    text: String,
    /// Whether the visit has no earlier line of this step.
    is_first: bool,
    meaning: &'static str,
    code: Option<Code>,
}

#[derive(Serialize)]
struct MessageView {
    id: String,
    title: &'static str,
    route: &'static str,
    /// The step of the app that sends or handles it.
    step: Option<usize>,
    meaning: &'static str,
    is_request: bool,
    is_late: bool,
    first_line: String,
    fields: usize,
    tables: Vec<Table>,
    checks: Vec<Check>,
    refusal: Option<String>,
    fault: Option<&'static str>,
    forgery: Option<&'static str>,
    curl: Option<String>,
    code: Option<Code>,
}

/// The stories, the newest first.
pub fn stories(tenant: &Tenant) -> Vec<StoryView> {
    let kept = tenant.recorder.lock();
    let visits: Vec<&Visit> = kept.visits.iter().filter(|visit| !visit.is_hidden()).collect();
    let mut numbers: Vec<_> = visits.iter().map(|visit| visit.story).collect();
    // A story is as new as its last visit.
    numbers.reverse();
    let mut newest_first = Vec::new();
    for number in numbers {
        if !newest_first.contains(&number) {
            newest_first.push(number);
        }
    }
    newest_first.into_iter().map(|number| story(tenant, &visits, number)).collect()
}

fn story(tenant: &Tenant, all: &[&Visit], number: usize) -> StoryView {
    let own: Vec<&Visit> = all.iter().filter(|visit| visit.story == number).copied().collect();
    let title = outcome::title(&tenant.recorder, all, &own);
    let visits: Vec<_> = own.iter().map(|visit| visit_view(tenant, all, visit)).collect();
    StoryView {
        id: number,
        title: title.text,
        is_bad: title.is_bad,
        actor: own.iter().find_map(|visit| visit.actor.clone()),
        time: own.first().map_or(String::new(), |visit| visit.time.clone()),
        has_fault: own.iter().flat_map(|visit| visit.messages()).any(|one| one.fault.is_some()),
        ticks: ticks(&visits),
        visits,
    }
}

fn visit_view(tenant: &Tenant, all: &[&Visit], visit: &Visit) -> VisitView {
    let recorder = &tenant.recorder;
    let id = format!("v{}", visit.number);
    let mut entries = Vec::new();
    let (mut position, mut lines) = (0, 0);
    for entry in &visit.entries {
        match entry {
            Entry::Line(line) => {
                let id = format!("{id}-line{lines}");
                let is_first = visit.lines().take(lines).all(|earlier| earlier.step != line.step);
                entries.push(EntryView::Line(line_view(recorder, &id, line, is_first)));
                lines += 1;
            }
            Entry::Message(message) => {
                let place = Place { visits: all, visit, position };
                entries.push(EntryView::Message(message_view(tenant, &place, message)));
                position += 1;
            }
        }
    }
    let refusal = outcome::refusal(recorder, visit).map(|Refusal { step, message, code }| {
        let step_name = step_of(step).name;
        RefusalView { id: format!("{id}-stop"), step, step_name, message, code }
    });
    let answer = visit.outcome.as_ref().map(|outcome| {
        let signed_in = visit.lines().any(|line| line.step == Some(9));
        let code = recorder.sources.iter().find_map(|source| source.block("session_cookie", 0));
        Answer {
            status: outcome::status_text(outcome.status),
            location: outcome.location.as_deref().map(without_query),
            set_cookies: outcome.set_cookies.join(", "),
            removed_cookies: outcome.removed_cookies.join(", "),
            code: code.filter(|_| signed_in),
        }
    });
    let is_of_browser = |message: &Message| message.endpoint.is_of_browser();
    let is_of_browser = visit.is_of_app || visit.messages().any(is_of_browser);
    let browser = || visit.actor.clone().unwrap_or("browser".to_owned());
    VisitView {
        id,
        who: if is_of_browser { browser() } else { "app".to_owned() },
        is_of_app: visit.is_of_app,
        request: format!("{} {}", visit.method, short(&visit.path)),
        cookies: visit.cookies.join(", "),
        entries,
        answer,
        refusal,
    }
}

fn without_query(location: &str) -> String {
    match location.split_once('?') {
        Some((address, _)) => format!("{}?…", short(address)),
        None => short(location),
    }
}

fn line_view(recorder: &Recorder, id: &str, line: &Line, is_first: bool) -> LineView {
    let source = recorder.source(line.file);
    let step = step_of(line.step);
    LineView {
        id: id.to_owned(),
        step: line.step,
        step_name: step.name,
        text: line.text.clone(),
        is_first,
        meaning: step.meaning,
        code: source.and_then(|source| source.block_at(line.line)),
    }
}

fn message_view(tenant: &Tenant, place: &Place<'_>, message: &Message) -> MessageView {
    let about = MESSAGES.iter().find(|about| about.title == message.title);
    let about = about.unwrap_or(&MESSAGES[0]);
    let outcome = place.visit.outcome.as_ref();
    let tables = tables(message, place);
    let code = code_of_message(&tenant.recorder, place, about);
    let source = code.as_ref().and_then(|code| tenant.recorder.source(code.file));
    MessageView {
        id: format!("v{}-message{}", place.visit.number, place.position),
        title: message.title,
        route: about.route,
        meaning: about.meaning,
        is_request: message.is_request,
        is_late: place.visit.is_late(place.position) && outcome.is_some(),
        first_line: short(&message.first_line),
        fields: message.fields.len(),
        checks: tables.iter().flat_map(Table::checks).collect(),
        tables,
        refusal: message.refusal.clone(),
        fault: message.fault.map(label),
        forgery: message.forgery,
        curl: curl::command(tenant, message),
        step: code.as_ref().and_then(|code| source?.step_at(code.first)),
        code,
    }
}

/// The block that sent or handles a message. Step 5 has the same block in two files, so look into
/// the file of the log line first.
fn code_of_message(recorder: &Recorder, place: &Place<'_>, about: &About) -> Option<Code> {
    let story = place.visits.iter().filter(|visit| visit.story == place.visit.story);
    let lines = story.flat_map(|visit| visit.lines());
    let logged = lines.filter(|line| line.step == Some(5)).map(|line| line.file).next();
    let mut sources: Vec<_> = recorder.sources.iter().collect();
    sources.sort_by_key(|source| (Some(source.file) != logged, source.file != about.file));
    sources.iter().find_map(|source| source.block(about.marker, 0))
}

/// The steps of a story in the order of time. After a refused sign-in, the rest is missing.
fn ticks(visits: &[VisitView]) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    let mut add = |step: Option<usize>, state| {
        let is_new = |last: &Tick| Some(last.step) != step || last.state != state;
        if let Some(step) = step.filter(|_| ticks.last().is_none_or(is_new)) {
            ticks.push(Tick { step, name: step_of(Some(step)).name, state });
        }
    };
    let mut stopped = None;
    for visit in visits {
        for entry in &visit.entries {
            if let EntryView::Line(line) = entry {
                let is_refused =
                    matches!(line.step, Some(2 | 3)) && line.text.contains(" was refused, ");
                add(line.step, if is_refused { "refused" } else { "done" });
            }
        }
        if let Some(refusal) = &visit.refusal {
            add(refusal.step, "stopped");
            stopped = refusal.step;
        }
    }
    for step in stopped.filter(|step| (6..9).contains(step)).unwrap_or(9) + 1..=9 {
        add(Some(step), "missing");
    }
    // An earlier line of a step that was stopped or refused is not a success.
    let mut shown: Vec<Tick> = Vec::new();
    for tick in ticks {
        if ["stopped", "refused"].contains(&tick.state)
            && shown.last().is_some_and(|last| last.step == tick.step)
        {
            shown.pop();
        }
        shown.push(tick);
    }
    shown
}

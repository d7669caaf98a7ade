//! What came of a visit and of a story, in the app.

use actix_web::http::StatusCode;

use super::jwt::id_token_claims;
use crate::events::Visit;
use crate::recorder::Recorder;
use crate::source::Code;

/// Why the app did not do what was asked.
pub struct Refusal {
    pub step: Option<usize>,
    pub message: String,
    /// The block that refused, with the line.
    pub code: Option<Code>,
}

pub struct Title {
    pub text: String,
    pub is_bad: bool,
}

pub fn status_text(status: u16) -> String {
    let name = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    format!("{status} {}", name.unwrap_or_default())
}

/// The refusal of a visit to the app: the error page says a text of the source.
pub fn refusal(recorder: &Recorder, visit: &Visit) -> Option<Refusal> {
    let outcome = visit.outcome.as_ref().filter(|outcome| outcome.status >= 400)?;
    let message = outcome.message.clone().unwrap_or_default();
    let last = visit.lines().last();
    // The file of the handler, or any file if the handler wrote no line.
    let files =
        recorder.sources.iter().filter(|source| last.is_none_or(|line| line.file == source.file));
    for source in files {
        if let Some(line) = source.line_of_message(&message, last.map_or(0, |line| line.line)) {
            return Some(Refusal {
                step: source.step_at(line),
                message,
                code: source.block_at(line),
            });
        }
    }
    Some(Refusal { step: last.and_then(|line| line.step), message, code: None })
}

/// The name of the user in the ID token of a story.
fn user_of_token(visits: &[&Visit]) -> Option<String> {
    let claims = visits.iter().flat_map(|visit| visit.messages()).filter_map(id_token_claims);
    claims.filter_map(|claims| claims["name"].as_str().map(str::to_owned)).last()
}

/// The user whom the app knows in the browser of this visit.
fn user_of_session(all: &[&Visit], visit: &Visit) -> Option<String> {
    let signed_in = |earlier: &&&Visit| {
        earlier.number < visit.number
            && earlier.lines().any(|line| line.step == Some(9))
            && visit.sends_cookie_of(earlier)
    };
    let sign_in = all.iter().rev().find(signed_in)?;
    user_of_token(&[*sign_in])
}

/// Whether step 1 found a user, also one of a sign-in that the page no longer shows.
fn finds_user(visit: &Visit) -> bool {
    visit.lines().any(|line| line.step == Some(1) && line.text.ends_with(": true"))
}

/// What came of an attack and of its control, if both have the same `state`.
fn attack_and_control(recorder: &Recorder, story: &[&Visit]) -> Option<Title> {
    let responses = story.iter().filter(|visit| visit.actor.is_some() && visit.brings_response);
    let results: Vec<String> = responses
        .map(|visit| {
            let is_control = visit.actor.as_ref().is_some_and(|actor| actor.contains("control"));
            let part = if is_control { "Control" } else { "Attack" };
            let result = match refusal(recorder, visit) {
                Some(Refusal { step: Some(step), .. }) => format!("stopped at step {step}"),
                Some(_) => "stopped".to_owned(),
                None if visit.lines().any(|line| line.step == Some(9)) => "signed in".to_owned(),
                None => "not answered".to_owned(),
            };
            format!("{part}: {result}")
        })
        .collect();
    (results.len() > 1).then(|| Title { text: results.join(". "), is_bad: false })
}

/// What came of a story.
pub fn title(recorder: &Recorder, all: &[&Visit], story: &[&Visit]) -> Title {
    let good = |text: String| Title { text, is_bad: false };
    let bad = |text: String| Title { text, is_bad: true };
    if let Some(title) = attack_and_control(recorder, story) {
        return title;
    }
    let token_user = user_of_token(story);
    let signed_in = story.iter().any(|visit| visit.lines().any(|line| line.step == Some(9)));
    let Some(last) = story.iter().rev().find(|visit| visit.is_of_app) else {
        return without_app(story, token_user);
    };
    let request = format!("{} {}", last.method, last.path);
    let known = story.iter().any(|visit| finds_user(visit)).then(|| "a signed-in user".to_owned());
    let session_user = user_of_session(all, last).or(known);
    let Some(outcome) = &last.outcome else {
        return good(format!("{request}: the app has not answered yet"));
    };
    if let Some(refusal) = refusal(recorder, last) {
        let what = if outcome.status < 500 { "refused" } else { "failed" };
        let step = refusal.step.map_or(String::new(), |step| format!(" at step {step}"));
        if signed_in || !last.brings_response {
            let user = token_user.filter(|_| signed_in).or(session_user);
            let user = user.map_or(String::new(), |user| format!(" for {user}"));
            let status = status_text(outcome.status);
            return bad(format!("{request} {what}{step}{user}: {status}"));
        }
        let token = token_user.map_or(String::new(), |user| format!("; the ID token says {user}"));
        let rest = match session_user {
            Some(user) => format!("{user} stays signed in"),
            None => "nobody is signed in".to_owned(),
        };
        return bad(format!("Sign-in {what}{step}{token}; {rest}"));
    }
    let name = || token_user.clone().or(session_user.clone()).unwrap_or("somebody".to_owned());
    if signed_in {
        let again =
            story.iter().any(|visit| visit.messages().any(|one| one.title == "Claims challenge"));
        let again = if again { " again, after a claims challenge" } else { "" };
        // The browser may not have followed the redirect to the page.
        let opened = match last.brings_response {
            true => String::new(),
            false => format!(", and opened {}", last.path),
        };
        return good(format!("{} signed in{again}{opened}", name()));
    }
    let refused = story.iter().any(|visit| visit.messages().any(|one| one.title == "Error page"));
    if refused {
        return bad("Sign-in refused by the demo tenant; nobody is signed in".to_owned());
    }
    if outcome.location.as_ref().is_some_and(|location| location.starts_with("http"))
        && last.lines().any(|line| line.step == Some(5))
    {
        return good("Sign-in that is not complete: the demo tenant asks who you are".to_owned());
    }
    match last.lines().last() {
        Some(line) if line.step.is_none() => good(format!("{request}: {}", line.text)),
        _ => {
            let name = session_user.unwrap_or("nobody".to_owned());
            let name = name.replace("a signed-in", "A signed-in").replace("nobody", "Nobody");
            good(format!("{name} opened {}: {}", last.path, status_text(outcome.status)))
        }
    }
}

/// The title of messages that no visit to the app caused.
fn without_app(story: &[&Visit], token_user: Option<String>) -> Title {
    let mut messages = story.iter().flat_map(|visit| visit.messages());
    let first = messages.next().map_or("", |message| message.title);
    let is_bad = messages.any(|message| message.refusal.is_some());
    let text = match (first, token_user) {
        ("Metadata request", _) => "The app starts".to_owned(),
        (_, Some(user)) => format!("Tokens for {user}, without a visit to this app"),
        (first, None) => format!("{first}, without a visit to this app"),
    };
    Title { text, is_bad }
}

//! What happens: visits with their messages and log lines. A visit is a request of the browser to
//! the app or to the demo tenant, with all that it caused, in the order of time.

use actix_web::cookie::time::OffsetDateTime;

use crate::faults::Fault;
use crate::wire::{Endpoint, Fields, timestamp};

/// A value by which later requests are recognized.
#[derive(Clone, PartialEq, Eq)]
pub enum Name {
    State(String),
    Code(String),
    /// An access token or a refresh token.
    Token(String),
    Cookie(String),
}

pub struct Message {
    pub endpoint: Endpoint,
    pub is_request: bool,
    /// The title of a row of `MESSAGES`.
    pub title: &'static str,
    /// The method and the address, or the status.
    pub first_line: String,
    pub fields: Fields,
    pub refusal: Option<String>,
    pub fault: Option<Fault>,
    /// How an attacker changed it.
    pub forgery: Option<&'static str>,
}

/// A line of the app's log.
pub struct Line {
    pub file: &'static str,
    pub line: usize,
    pub step: Option<usize>,
    pub text: String,
}

pub enum Entry {
    Message(Message),
    Line(Line),
}

/// How the app answered.
#[derive(Default)]
pub struct Outcome {
    pub status: u16,
    pub location: Option<String>,
    /// What the error page says.
    pub message: Option<String>,
    pub set_cookies: Vec<String>,
    /// The values of these cookies. The page does not show them.
    pub values: Vec<Name>,
    pub removed_cookies: Vec<String>,
}

pub struct Visit {
    pub number: usize,
    /// The number of the first visit of the story.
    pub story: usize,
    /// A browser of the demo tenant's own, which plays a part in an attack.
    pub actor: Option<String>,
    pub is_of_app: bool,
    pub method: String,
    pub path: String,
    /// Where a redirect to this page leads: a path of the app, or an address of the demo tenant.
    pub address: String,
    pub time: String,
    pub entries: Vec<Entry>,
    /// The names of the cookies that the browser sent.
    pub cookies: Vec<String>,
    /// There is none before the app has answered.
    pub outcome: Option<Outcome>,
    /// Whether the app still works on it.
    pub is_open: bool,
    pub names: Vec<Name>,
    /// Whether the visit brings an authorization response.
    pub brings_response: bool,
    /// How many messages there were when the app answered.
    pub messages_before_answer: Option<usize>,
}

pub struct NewVisit {
    pub actor: Option<String>,
    pub is_of_app: bool,
    pub method: String,
    pub path: String,
    pub address: String,
    pub cookies: Vec<String>,
    pub names: Vec<Name>,
}

impl Visit {
    /// A visit that has just begun. It is a story of its own.
    pub fn new(number: usize, new: NewVisit) -> Self {
        Self {
            number,
            story: number,
            actor: new.actor,
            is_of_app: new.is_of_app,
            method: new.method,
            path: new.path,
            address: new.address,
            time: timestamp(OffsetDateTime::now_utc())[11..19].to_owned(),
            entries: Vec::new(),
            cookies: new.cookies,
            outcome: None,
            is_open: true,
            brings_response: new.is_of_app
                && new.names.iter().any(|name| matches!(name, Name::State(_))),
            names: new.names,
            messages_before_answer: None,
        }
    }

    pub fn shares(&self, names: &[Name]) -> bool {
        self.names.iter().any(|name| names.contains(name))
    }

    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Message(message) => Some(message),
            Entry::Line(_) => None,
        })
    }

    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Line(line) => Some(line),
            Entry::Message(_) => None,
        })
    }

    /// Whether nothing has happened yet that the page shows.
    pub fn is_hidden(&self) -> bool {
        self.entries.is_empty() && self.outcome.is_none()
    }

    /// Whether the visit brings the authorization response with this `state`.
    pub fn brings_response_of(&self, state: &str) -> bool {
        self.brings_response
            && self.names.iter().any(|name| matches!(name, Name::State(own) if own == state))
    }

    /// Whether the message at this position came after the app had answered.
    pub fn is_late(&self, position: usize) -> bool {
        self.messages_before_answer.is_some_and(|count| position >= count)
    }

    /// Whether the browser sends a cookie that it got in `earlier`.
    pub fn sends_cookie_of(&self, earlier: &Self) -> bool {
        earlier.outcome.as_ref().is_some_and(|outcome| self.shares(&outcome.values))
    }

    /// Whether both visits sent or got the same cookie.
    pub fn is_of_same_browser(&self, other: &Self) -> bool {
        let cookies = self.names.iter().filter(|name| matches!(name, Name::Cookie(_)));
        cookies.into_iter().any(|cookie| other.names.contains(cookie))
    }
}

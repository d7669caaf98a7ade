//! The flight recorder: it keeps the last visits. Visits that belong together, such as those of one
//! sign-in, are a story.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::events::{Entry, Line, Message, Name, NewVisit, Outcome, Visit};
use crate::source::Source;
use crate::wire::{Endpoint, find};

/// A sign-in has about five visits.
pub const MOST_VISITS: usize = 50;

pub struct Recorder {
    pub sources: Vec<Source>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
pub struct Kept {
    count: usize,
    pub visits: VecDeque<Visit>,
}

impl Recorder {
    pub fn new(sources: Vec<Source>) -> Self {
        Self { sources, kept: Mutex::default() }
    }

    pub fn source(&self, file: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.file == file)
    }

    pub fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clear(&self) {
        self.lock().visits.clear();
    }

    /// A browser asks the app or the demo tenant for a page. Returns the number of the visit.
    pub fn begin(&self, new: NewVisit) -> usize {
        self.lock().begin(new)
    }

    /// The app answered.
    pub fn end(&self, number: usize, outcome: Outcome, names: Vec<Name>) {
        let mut kept = self.lock();
        // An answer with a new `state` starts a sign-in, which is a story of its own.
        let starts_sign_in = names.iter().any(|name| matches!(name, Name::State(_)));
        let Some(visit) = kept.visit(number) else { return };
        visit.is_open = false;
        visit.messages_before_answer = Some(visit.messages().count());
        visit.outcome = Some(outcome);
        visit.names.extend(names);
        if starts_sign_in {
            visit.story = number;
        }
        // Other pages, such as the home page and the stylesheet, are no part of a lesson.
        let is_kept = !visit.entries.is_empty()
            || visit.names.iter().any(|name| matches!(name, Name::State(_)));
        if !is_kept {
            kept.visits.retain(|visit| visit.number != number);
        }
    }

    /// The app gave up, because the browser closed the connection.
    pub fn abandon(&self, number: usize) {
        if let Some(visit) = self.lock().visit(number) {
            visit.is_open = false;
        }
    }

    pub fn line(&self, number: usize, line: Line) {
        let mut kept = self.lock();
        if line.step == Some(8) {
            kept.bring_keys(number);
        }
        if let Some(visit) = kept.visit(number) {
            visit.entries.push(Entry::Line(line));
        }
    }

    /// The app, or a browser, sent a request to the demo tenant. A request of the app belongs to
    /// the visit that caused it. Returns the number of the visit.
    pub fn request(&self, message: Message, new: NewVisit) -> usize {
        let mut kept = self.lock();
        let visit = match message.endpoint {
            Endpoint::Authorize | Endpoint::Logout | Endpoint::Metadata => None,
            Endpoint::Keys => kept.waiting_for_keys(),
            Endpoint::Token | Endpoint::Graph => kept.cause_of(&new.names),
        };
        let number = visit.unwrap_or_else(|| kept.begin(new));
        if let Some(visit) = kept.visit(number) {
            visit.entries.push(Entry::Message(message));
        }
        number
    }

    /// The demo tenant answered.
    pub fn response(&self, number: usize, message: Message) {
        let mut kept = self.lock();
        let Some(visit) = kept.visit(number) else { return };
        let value = |name| find(&message.fields, name).map(str::to_owned);
        visit.names.extend(value("code").map(Name::Code));
        visit.names.extend(value("access_token").map(Name::Token));
        visit.names.extend(value("refresh_token").map(Name::Token));
        if !visit.is_of_app {
            visit.is_open = false;
        }
        visit.entries.push(Entry::Message(message));
    }
}

impl Kept {
    fn visit(&mut self, number: usize) -> Option<&mut Visit> {
        self.visits.iter_mut().find(|visit| visit.number == number)
    }

    fn begin(&mut self, new: NewVisit) -> usize {
        self.count += 1;
        let number = self.count;
        let mut visit = Visit::new(number, new);
        if let Some(earlier) = self.earlier(&visit) {
            visit.story = earlier.story;
            visit.actor = visit.actor.or_else(|| earlier.actor.clone());
        }
        // Forget the oldest story as a whole.
        if self.visits.len() >= MOST_VISITS {
            let oldest = self.visits.front().map(|visit| visit.story);
            self.visits.retain(|visit| Some(visit.story) != oldest);
        }
        self.visits.push_back(visit);
        number
    }

    /// The visit that this one continues: it has the same `state`, code or token, or the app
    /// redirected the same browser from there to here.
    fn earlier(&self, visit: &Visit) -> Option<&Visit> {
        // `state` comes first: a stolen code belongs to another sign-in.
        let strong = visit.names.iter().filter(|name| !matches!(name, Name::Cookie(_)));
        let same_value = strong
            .into_iter()
            .find_map(|name| self.visits.iter().rev().find(|earlier| earlier.names.contains(name)));
        // The demo tenant does not get the cookies of the app.
        let could_be_redirected = |earlier: &&Visit| {
            earlier.is_of_app && (!visit.is_of_app || visit.is_of_same_browser(earlier))
        };
        let redirected = self.visits.iter().rev().find(could_be_redirected).filter(|earlier| {
            let location = earlier.outcome.as_ref().and_then(|outcome| outcome.location.as_ref());
            location == Some(&visit.address)
        });
        same_value.or(redirected)
    }

    /// The open visit to the app in which a token request or a call to Microsoft Graph was made.
    fn cause_of(&self, names: &[Name]) -> Option<usize> {
        let open = || self.visits.iter().filter(|visit| visit.is_open && visit.is_of_app);
        // The code is in the address of the visit.
        let mut cause = open().find(|visit| visit.shares(names));
        // A token belongs to the session of the browser that got it.
        let owner = self.visits.iter().rev().find(|visit| visit.shares(names));
        if let (None, Some(owner)) = (cause, owner) {
            // A visit that waits for an answer sends nothing.
            let is_ready = |visit: &&Visit| matches!(visit.entries.last(), Some(Entry::Line(_)));
            cause = open().filter(is_ready).find(|visit| visit.is_of_same_browser(owner));
        } else if cause.is_none() {
            cause = open().next().filter(|_| open().count() == 1);
        }
        cause.map(|visit| visit.number)
    }

    /// Nothing in a request for the keys says which visit caused it. If several visits wait for
    /// keys, one can get the request of another. A visit that validates its ID token has got keys,
    /// so bring them from the visit that does not use them yet.
    fn bring_keys(&mut self, number: usize) {
        let Some(visit) = self.visit(number) else { return };
        if visit.messages().any(|message| message.endpoint == Endpoint::Keys) {
            return;
        }
        let is_keys = |entry: &Entry| matches!(entry, Entry::Message(message) if message.endpoint == Endpoint::Keys);
        let has_unused_keys = |visit: &&mut Visit| {
            visit.entries.iter().rev().take(2).filter(|entry| is_keys(entry)).count() == 2
        };
        let Some(other) = self.visits.iter_mut().find(has_unused_keys) else { return };
        let keys = other.entries.split_off(other.entries.len() - 2);
        if let Some(visit) = self.visit(number) {
            visit.entries.extend(keys);
        }
    }

    /// The open visit that has redeemed its code, and has no keys yet. All visits get the same
    /// keys.
    fn waiting_for_keys(&self) -> Option<usize> {
        let is_waiting = |visit: &&Visit| {
            let has_keys = visit.messages().any(|message| message.endpoint == Endpoint::Keys);
            visit.is_open && visit.lines().any(|line| line.step == Some(7)) && !has_keys
        };
        self.visits.iter().find(is_waiting).map(|visit| visit.number)
    }
}

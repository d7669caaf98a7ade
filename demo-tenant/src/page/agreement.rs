//! Values that must agree with an earlier message: the page says whether they do, and links to the
//! earlier one.

use base64::prelude::*;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::jwt::open_jwt;
use crate::events::{Message, Visit};
use crate::wire::find;

#[derive(Serialize, Clone)]
pub struct Agreement {
    holds: bool,
    text: String,
    /// The id of the row of the earlier value.
    link: String,
}

/// Where a message is: in which visit, and after which messages.
pub struct Place<'a> {
    pub visits: &'a [&'a Visit],
    pub visit: &'a Visit,
    /// The position of the message in the visit.
    pub position: usize,
}

/// An earlier message.
struct Earlier<'a> {
    message: &'a Message,
    visit: &'a Visit,
    position: usize,
}

impl<'a> Place<'a> {
    pub fn row_id(&self, inside: &str, name: &str) -> String {
        row_id(self.visit.number, self.position, inside, name)
    }

    /// Compares a value with the earlier one that it must agree with.
    pub fn agreement(&self, inside: &str, name: &str, value: &str) -> Option<Agreement> {
        let own = Some(self.visit.story);
        match (inside, name) {
            ("Redirect with the code" | "Redirect with an error", "state") => {
                let earlier = self.find(own, "Authorization request", "state", None)?;
                Some(earlier.compare("state", value, "the state of the authorization request"))
            }
            ("Token request", "code") => {
                let earlier = self.find(None, "Redirect with the code", "code", Some(value))?;
                Some(earlier.compare("code", value, "the code that the browser brought"))
            }
            ("Token request", "code_verifier") => {
                let code = self.message()?;
                let code = find(&code.fields, "code");
                let issued = self.find(None, "Redirect with the code", "code", code)?;
                let story = Some(issued.visit.story);
                let asked = self.find(story, "Authorization request", "code_challenge", None)?;
                let hash = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(value));
                let what = "the code_challenge with which this code was requested";
                let mut agreement = asked.compare("code_challenge", &hash, what);
                agreement.text = format!("Its SHA-256 hash {hash}: {}", agreement.text);
                Some(agreement)
            }
            ("id_token", "nonce") => {
                let earlier = self.find(own, "Authorization request", "nonce", None)?;
                Some(earlier.compare("nonce", value, "the nonce of the authorization request"))
            }
            ("id_token", "aud") => {
                let earlier = self.find(own, "Authorization request", "client_id", None)?;
                Some(earlier.compare("client_id", value, "client_id, the app"))
            }
            ("keys", "kid") => {
                let earlier = self.find(own, "Token response", "id_token", None)?;
                let kid = open_jwt(find(&earlier.message.fields, "id_token")?)?.header;
                let kid = kid["kid"].as_str().unwrap_or("missing");
                let id = row_id(earlier.visit.number, earlier.position, "id_token", "kid");
                Some(Agreement::new(kid == value, kid, "kid in the header of the ID token", id))
            }
            ("Call to Microsoft Graph", "Authorization") => {
                let token = value.strip_prefix("Bearer ");
                self.issued("access_token", token)
            }
            ("Refresh request", "refresh_token") => self.issued("refresh_token", Some(value)),
            _ => None,
        }
    }

    /// The message that issued a token.
    fn issued(&self, name: &str, value: Option<&str>) -> Option<Agreement> {
        let earlier = self
            .find(None, "Token response", name, value)
            .or_else(|| self.find(None, "Refreshed tokens", name, value))?;
        Some(earlier.compare(name, value?, &format!("{name} of an earlier response")))
    }

    pub fn message(&self) -> Option<&'a Message> {
        self.visit.messages().nth(self.position)
    }

    /// The newest earlier message with this title and field, in one story or in all.
    fn find(
        &self,
        story: Option<usize>,
        title: &str,
        name: &str,
        value: Option<&str>,
    ) -> Option<Earlier<'a>> {
        for visit in self.visits.iter().rev() {
            if visit.number > self.visit.number || story.is_some_and(|story| story != visit.story) {
                continue;
            }
            let found = visit.messages().enumerate().find(|(_, message)| {
                let found = find(&message.fields, name);
                message.title == title && found.is_some() && (value.is_none() || found == value)
            });
            if let Some((position, message)) = found {
                return Some(Earlier { message, visit, position });
            }
        }
        None
    }
}

impl Earlier<'_> {
    fn compare(&self, name: &str, value: &str, what: &str) -> Agreement {
        let earlier = find(&self.message.fields, name).unwrap_or_default();
        let id = row_id(self.visit.number, self.position, self.message.title, name);
        Agreement::new(earlier == value, earlier, what, id)
    }
}

impl Agreement {
    fn new(holds: bool, earlier: &str, what: &str, link: String) -> Self {
        let text = if holds {
            format!("equal to {what}")
        } else {
            format!("not equal to {what}, {earlier}")
        };
        Self { holds, text, link }
    }
}

fn row_id(visit: usize, position: usize, inside: &str, name: &str) -> String {
    let id = format!("v{visit}-{position}-{inside}-{name}");
    id.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

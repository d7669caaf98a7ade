//! A browser of the demo tenant: it keeps cookies and does not follow redirects.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use url::Url;

use crate::directory::User;
use crate::tenant::Tenant;
use crate::wire::{ACTOR, SSO_COOKIE};

pub const CONTROL: &str = "the browser of the control";

pub struct Browser<'a> {
    tenant: &'a Tenant,
    client: Client,
    /// Whom this browser plays. The page shows it.
    actor: &'static str,
    cookies: BTreeMap<String, String>,
}

/// The answer to a request.
pub struct Answer {
    pub status: u16,
    /// Where a redirect leads, or "".
    pub location: String,
    /// The number of the visit, if the request brought an authorization response.
    pub visit: Option<usize>,
}

impl<'a> Browser<'a> {
    pub fn new(tenant: &'a Tenant, actor: &'static str) -> anyhow::Result<Self> {
        let client = Client::builder().redirect(Policy::none()).no_proxy();
        let client = client.timeout(Duration::from_secs(30)).build()?;
        Ok(Self { tenant, client, actor, cookies: BTreeMap::new() })
    }

    /// Opens a protected page of the app. Returns the address of the authorization request.
    pub async fn open(&mut self, page: &str) -> anyhow::Result<Url> {
        let answer = self.get(&self.tenant.home_page.join(page)?).await?;
        Url::parse(&answer.location).with_context(|| format!("{page}: {answer}"))
    }

    /// Chooses a user on the sign-in page. Returns the link to the app, with the code.
    pub async fn choose(&mut self, asked: &Url, user: &User) -> anyhow::Result<Url> {
        self.get(asked).await?;
        let form = self.client.post(asked.clone()).form(&[("choice", user.username)]);
        let answer = self.send(form, asked).await?;
        Url::parse(&answer.location).with_context(|| format!("sign-in page: {answer}"))
    }

    /// What this browser does from now on is the control.
    pub fn play_control(&mut self) {
        self.actor = CONTROL;
    }

    pub async fn get(&mut self, url: &Url) -> anyhow::Result<Answer> {
        self.send(self.client.get(url.clone()), url).await
    }

    async fn send(&mut self, request: RequestBuilder, url: &Url) -> anyhow::Result<Answer> {
        // The cookie of the demo tenant has a path, so the app does not get it.
        let is_of_tenant = url.as_str().starts_with(&self.tenant.authority);
        let cookies = self.cookies.iter().filter(|(name, _)| (*name == SSO_COOKIE) == is_of_tenant);
        let cookies: Vec<_> = cookies.map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header(ACTOR, self.actor).header(COOKIE, cookies.join("; "));
        let response = request.send().await?;
        for header in response.headers().get_all(SET_COOKIE) {
            let pair = header.to_str()?.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap_or_default();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let location = response.headers().get(LOCATION).map(|location| location.to_str());
        let state = url.query_pairs().find(|(name, _)| name == "state");
        // The recorder keeps a visit before the app sends its answer.
        let kept = self.tenant.recorder.lock();
        let mut visits = kept.visits.iter().rev();
        let visit = state.and_then(|(_, state)| visits.find(|one| one.brings_response_of(&state)));
        Ok(Answer {
            status: response.status().as_u16(),
            location: location.transpose()?.unwrap_or_default().to_owned(),
            visit: visit.map(|visit| visit.number),
        })
    }

    pub fn copy_cookies(&mut self, other: &Self) {
        self.cookies = other.cookies.clone();
    }

    pub fn change_cookies(&mut self, change: impl Fn(&str) -> Option<String>) {
        for value in self.cookies.values_mut() {
            if let Some(changed) = change(value) {
                *value = changed;
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location.split('?').next() {
            Some("") | None => write!(f, "{}", self.status),
            Some(address) => write!(f, "{}, redirect to {address}", self.status),
        }
    }
}

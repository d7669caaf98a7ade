//! Starts a demo tenant, and sends requests as an app and as a browser do.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use actix_web::rt::System;
use base64::prelude::*;
use demo_tenant::Registration;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

pub const ADA: &str = "ada@demo-tenant.example";
pub const BEN: &str = "ben@demo-tenant.example";
pub const VERIFIER: &str = "an-obviously-invented-code-verifier-of-43-characters";
pub const SCOPE: &str = "openid profile offline_access https://graph.microsoft.com/User.Read";
const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

/// A demo tenant for an app that does not run.
pub struct Demo {
    pub registration: Registration,
    pub home_page: String,
}

impl Demo {
    /// Starts a demo tenant on a free port. It ends with the process.
    pub fn start(token_lifetime: u32) -> Self {
        let (sender, receiver) = mpsc::channel();
        let home_page = "http://localhost:5000/".to_owned();
        let redirect_uri: Url = format!("{home_page}auth/redirect").parse().unwrap();
        thread::spawn(move || {
            System::new().block_on(async move {
                let listeners = vec![TcpListener::bind("127.0.0.1:0").unwrap()];
                let started = demo_tenant::start(listeners, &redirect_uri, token_lifetime, &[]);
                sender.send(started.unwrap()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        Self { registration: receiver.recv().unwrap(), home_page }
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.registration.authority)
    }

    pub fn redirect_uri(&self) -> String {
        format!("{}auth/redirect", self.home_page)
    }

    /// The address of an authorization request with changes. The demo tenant treats an empty
    /// parameter as missing.
    pub fn authorize(&self, changes: &[(&str, &str)]) -> Url {
        let (redirect_uri, challenge) = (self.redirect_uri(), hash(VERIFIER));
        let mut parameters = BTreeMap::from([
            ("client_id", self.registration.client_id.as_str()),
            ("response_type", "code"),
            ("redirect_uri", &redirect_uri),
            ("scope", SCOPE),
            ("state", "state-of-the-test"),
            ("nonce", "nonce-of-the-test"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        parameters.extend(changes.iter().copied());
        Url::parse_with_params(&self.at("/oauth2/v2.0/authorize"), parameters).unwrap()
    }

    /// A new authorization code for Ada.
    pub async fn code(&self, changes: &[(&str, &str)]) -> String {
        let page = Browser::new().post(self.authorize(changes), &[("choice", ADA)]).await;
        page.location_parameter("code").unwrap_or_else(|| panic!("no code: {page:?}"))
    }

    /// The response of the token endpoint to the redemption of a code, with changes.
    pub async fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> (u16, Value) {
        let redirect_uri = self.redirect_uri();
        let mut form = BTreeMap::from([
            ("client_id", self.registration.client_id.as_str()),
            ("client_secret", &self.registration.client_secret),
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", VERIFIER),
            ("claims", CP1),
        ]);
        form.extend(changes.iter().copied());
        let url = self.at("/oauth2/v2.0/token");
        let page = Browser::new().post(url, &Vec::from_iter(form)).await;
        (page.status, page.json())
    }

    pub async fn refresh(&self, token: &Value, changes: &[(&str, &str)]) -> (u16, Value) {
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())];
        self.redeem("", &[&refresh, changes].concat()).await
    }

    /// The response of Microsoft Graph.
    pub async fn graph(&self, authorization: &str) -> Page {
        let browser = Browser::new();
        let request = browser.client.get(self.registration.endpoint.clone());
        browser.send(request.header("Authorization", authorization)).await
    }

    /// Sends a form of the page.
    pub async fn send_form(&self, path: &str, name: &str, value: &str) -> Page {
        let browser = Browser::new();
        let page = &self.registration.page;
        let form = browser.client.post(format!("{page}{path}")).form(&[(name, value)]);
        let form = form.header("Origin", page.trim_end_matches('/'));
        browser.send(form.header("Sec-Fetch-Site", "same-origin")).await
    }
}

/// A browser with cookies that does not follow redirects.
pub struct Browser {
    pub client: Client,
}

#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Browser {
    pub fn new() -> Self {
        let client = Client::builder().cookie_store(true).redirect(Policy::none()).no_proxy();
        Self { client: client.build().unwrap() }
    }

    pub async fn get(&self, url: impl AsRef<str>) -> Page {
        self.send(self.client.get(url.as_ref())).await
    }

    pub async fn post(&self, url: impl AsRef<str>, form: &[(&str, &str)]) -> Page {
        self.send(self.client.post(url.as_ref()).form(form)).await
    }

    pub async fn send(&self, request: RequestBuilder) -> Page {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Page { status, headers, body: response.text().await.unwrap() }
    }
}

impl Page {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Where a redirect leads.
    #[track_caller]
    pub fn location(&self) -> &str {
        let location = self.headers.get("location");
        location.unwrap_or_else(|| panic!("no redirect: {self:?}")).to_str().unwrap()
    }

    /// A parameter of the address where a redirect leads.
    pub fn location_parameter(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.headers.get("location")?.to_str().unwrap()).unwrap();
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The cookies that this response sets, as `name=value`.
    pub fn cookies(&self) -> Vec<String> {
        let cookies = self.headers.get_all("set-cookie").iter();
        cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().into()).collect()
    }
}

pub fn hash(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

pub fn bearer(tokens: &Value) -> String {
    format!("Bearer {}", tokens["access_token"].as_str().unwrap())
}

/// The claims of the ID token in a token response.
pub fn claims(tokens: &Value) -> Value {
    let part = tokens["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Asserts that an error response has this OAuth error and AADSTS number.
#[track_caller]
pub fn assert_refused(case: &str, (status, body): &(u16, Value), error: &str, number: u32) {
    let expected_status = if error == "invalid_client" { 401 } else { 400 };
    let description = body["error_description"].as_str().unwrap().split("\r\n");
    let lines: Vec<_> = description.map(|line| line.split_once(": ").unwrap().0).collect();
    let expected_lines = [&*format!("AADSTS{number}"), "Trace ID", "Correlation ID", "Timestamp"];
    assert_eq!((*status, &body["error"]), (expected_status, &json!(error)), "{case}: {body}");
    assert_eq!((&body["error_codes"], &*lines), (&json!([number]), &expected_lines[..]), "{case}");
}

//! An identity platform and Microsoft Graph for one test. Both behave well until the test changes
//! an answer with `on`, or an ID token with `id_token`. They record every request.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::prelude::*;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::{Url, form_urlencoded};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::harness::*;

pub const TENANT_ID: &str = "2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542";
pub const CLIENT_ID: &str = "e4a6f813-70c9-4d2b-b5e1-3c98d07a26f4";
pub const CLIENT_SECRET: &str = "obviously~invented-client-secret_0";
pub const SCOPE: &str = "https://graph.microsoft.com/User.Read";

/// RSA keys for all tests. A platform signs with the first one and publishes only that.
static RSA_KEYS: LazyLock<[EncodingKey; 3]> = LazyLock::new(|| {
    [(); 3].map(|()| {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem();
        EncodingKey::from_rsa_pem(key.as_bytes()).unwrap()
    })
});

/// An address of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Metadata,
    Keys,
    Token,
    Graph,
}

/// An answer before it is sent.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Headers that are not UTF-8.
    pub raw_headers: Vec<(&'static str, Vec<u8>)>,
    /// The body, unless `text` is given.
    pub json: Value,
    pub text: Option<Vec<u8>>,
    /// `grant_type` of the request, if it came to the token endpoint.
    pub grant_type: String,
    /// How long to wait before it is sent.
    pub delay: Duration,
}

impl Answer {
    /// Makes the answer an error, as Microsoft Entra ID writes it.
    pub fn refuse(&mut self, status: u16, error: &str, description: &str) {
        self.status = status;
        self.json = json!({ "error": error, "error_description": description });
    }

    /// Replaces the JSON by text.
    pub fn say(&mut self, status: u16, text: impl Into<Vec<u8>>) {
        self.status = status;
        self.text = Some(text.into());
    }
}

/// An ID token before it is signed.
pub struct IdToken {
    pub header: Value,
    pub claims: Value,
    /// The number of the RSA key. Without one, the signature is empty.
    pub signed_with: Option<usize>,
}

type Edit<T> = Box<dyn FnMut(&mut T) + Send>;

/// The identity platform and Graph of one test.
pub struct Platform {
    server: MockServer,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    origin: String,
    answer_edits: Mutex<HashMap<Endpoint, Edit<Answer>>>,
    id_token_edit: Mutex<Option<Edit<IdToken>>>,
    /// `code_challenge` and `nonce` of each code that was not redeemed yet.
    codes: Mutex<HashMap<String, (String, String)>>,
    /// The access tokens and refresh tokens that were issued.
    tokens: Mutex<HashSet<String>>,
    secrets: Mutex<Vec<Secrets>>,
}

impl Platform {
    /// Starts a platform that behaves well.
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let state = Arc::new(State { origin: server.uri(), ..State::default() });
        let responder = state.clone();
        let respond = move |request: &Request| responder.respond(request);
        Mock::given(any()).respond_with(respond).mount(&server).await;
        Self { server, state }
    }

    /// Starts the app with this platform and these settings.
    pub async fn app(&self, settings: &[(&str, &str)]) -> App {
        self.app_in(Arc::new(TempDir::new().unwrap()), settings).await
    }

    /// The same in a folder that may contain sessions of an earlier start.
    pub async fn app_in(&self, folder: Arc<TempDir>, settings: &[(&str, &str)]) -> App {
        let ours = self.settings();
        let mut all: Vec<_> = ours.iter().map(|(key, value)| (*key, value.as_str())).collect();
        all.extend_from_slice(settings);
        let app = App::start_in(folder, &all).await;
        self.state.secrets.lock().unwrap().push(app.secrets.clone());
        app
    }

    /// Starts the app with these settings and signs a user in.
    pub async fn signed_in(&self, settings: &[(&str, &str)]) -> (App, Browser) {
        let app = self.app(settings).await;
        let browser = app.browser();
        assert_eq!(self.sign_in(&app, &browser, "/graph").await.location(), "/graph");
        (app, browser)
    }

    /// The settings of the app registration.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("CLIENT_ID", CLIENT_ID.to_owned()),
            ("CLIENT_CREDENTIAL", CLIENT_SECRET.to_owned()),
            ("AUTHORITY", self.authority()),
            ("ENDPOINT", self.endpoint()),
        ]
    }

    /// Starts the app, which must refuse to start. Returns the lines on stderr.
    pub async fn refused_by_the_app(&self, settings: &[(&str, &str)]) -> Vec<String> {
        self.refused_by_the_app_in(TempDir::new().unwrap().path(), settings).await
    }

    /// The same in a folder that may contain sessions.
    pub async fn refused_by_the_app_in(
        &self,
        folder: &Path,
        settings: &[(&str, &str)],
    ) -> Vec<String> {
        let ours = self.settings();
        let mut all: Vec<_> = ours.iter().map(|(key, value)| (*key, value.as_str())).collect();
        all.extend_from_slice(settings);
        refusal(folder, &all).await
    }

    /// For the setting AUTHORITY.
    pub fn authority(&self) -> String {
        format!("{}/{TENANT_ID}", self.state.origin)
    }

    /// For the setting ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("{}/v1.0/me", self.state.origin)
    }

    /// Edits each answer of this endpoint from now on.
    pub fn on(&self, endpoint: Endpoint, edit: impl FnMut(&mut Answer) + Send + 'static) {
        self.state.answer_edits.lock().unwrap().insert(endpoint, Box::new(edit));
    }

    /// Edits each ID token before it is signed. To change a signed ID token, edit the answer of
    /// `Token`.
    pub fn id_token(&self, edit: impl FnMut(&mut IdToken) + Send + 'static) {
        *self.state.id_token_edit.lock().unwrap() = Some(Box::new(edit));
    }

    /// Signs a user in and returns the address to which the platform redirects the browser.
    pub fn callback(&self, authorize: &Page) -> String {
        let sent = |name| authorize.location_parameter(name).expect(name);
        let code = self.state.secret();
        let granted = (sent("code_challenge"), sent("nonce"));
        self.state.codes.lock().unwrap().insert(code.clone(), granted);
        let mut callback = Url::parse(&sent("redirect_uri")).unwrap();
        callback.query_pairs_mut().append_pair("code", &code).append_pair("state", &sent("state"));
        callback.into()
    }

    /// Opens a protected page, signs in, and returns the response of /auth/redirect.
    pub async fn sign_in(&self, app: &App, browser: &Browser, path: &str) -> Page {
        let authorize = browser.get(app.at(path)).await;
        browser.get(self.callback(&authorize)).await
    }

    /// Makes each visit to /graph refresh the access token, which changes the session.
    pub fn refresh_at_each_visit(&self) {
        self.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    }

    /// Opens /graph four times at the same moment, and signs out while these visits change the
    /// session. After that, the session must have ended.
    pub async fn sign_out_during_updates(&self, apps: [&App; 2], pause: Duration) {
        let browser = apps[0].browser();
        self.refresh_at_each_visit();
        let signed_in = self.sign_in(apps[0], &browser, "/graph").await;
        let cookie = signed_in.cookies().pop().unwrap();
        let arrived = Arc::new(Notify::new());
        let arrival = arrived.clone();
        self.on(Endpoint::Token, move |answer| {
            arrival.notify_one();
            answer.json["expires_in"] = 1.into();
            answer.delay = Duration::from_micros(rand::random_range(0..20_000));
        });
        let mut visits = JoinSet::new();
        for app in [apps, apps].concat() {
            let (browser, graph) = (browser.clone(), app.at("/graph"));
            visits.spawn(async move { browser.get(graph).await.status });
        }
        timeout(PATIENCE, arrived.notified()).await.unwrap();
        // After some of the pauses, updates are being written.
        tokio::time::sleep(pause).await;
        assert_eq!(browser.get(apps[1].at("/logout")).await.status, 302);
        for status in visits.join_all().await {
            assert!([200, 302].contains(&status), "{status}");
        }
        for app in apps {
            let thief = app.browser();
            let page = thief.send(thief.client.get(app.at("/")).header("cookie", &cookie)).await;
            assert_eq!(page.user(), None);
        }
    }

    /// Asserts that this browser is not signed in, and that Microsoft Graph was not called.
    pub async fn assert_nobody_is_signed_in(&self, app: &App, browser: &Browser) {
        assert_eq!(browser.get(app.at("/graph")).await.status, 302);
        assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new());
        assert_eq!(self.requests(Endpoint::Graph).await.len(), 0);
    }

    /// The requests that came to this endpoint.
    pub async fn requests(&self, endpoint: Endpoint) -> Vec<Request> {
        let requests = self.server.received_requests().await.unwrap();
        requests.into_iter().filter(|request| endpoint_of(request) == Some(endpoint)).collect()
    }

    /// The forms that came to the token endpoint.
    pub async fn token_forms(&self) -> Vec<HashMap<String, String>> {
        self.requests(Endpoint::Token).await.iter().map(form_of).collect()
    }
}

fn endpoint_of(request: &Request) -> Option<Endpoint> {
    let endpoints = [
        ("/v2.0/.well-known/openid-configuration", Endpoint::Metadata),
        ("/discovery/v2.0/keys", Endpoint::Keys),
        ("/oauth2/v2.0/token", Endpoint::Token),
        ("/v1.0/me", Endpoint::Graph),
    ];
    let found = endpoints.into_iter().find(|(path, _)| request.url.path().ends_with(path));
    found.map(|(_, endpoint)| endpoint)
}

fn form_of(request: &Request) -> HashMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

/// The public part of the RSA key of this number, as a JWK with this `kid`.
pub fn public_key(number: usize, kid: &str) -> Value {
    let key = json!(Jwk::from_encoding_key(&RSA_KEYS[number], Algorithm::RS256).unwrap());
    json!({ "kty": "RSA", "use": "sig", "kid": kid, "n": key["n"], "e": key["e"] })
}

/// The `kid` that the platform gives the key of this number.
pub fn kid(number: usize) -> String {
    format!("key-{number}")
}

pub fn now() -> i64 {
    jsonwebtoken::get_current_timestamp().cast_signed()
}

impl State {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut answer = Answer {
            status: 200,
            headers: vec![("content-type", "application/json; charset=utf-8".to_owned())],
            ..Answer::default()
        };
        let Some(endpoint) = endpoint_of(request) else { return ResponseTemplate::new(404) };
        match endpoint {
            Endpoint::Metadata => answer.json = self.metadata(),
            Endpoint::Keys => answer.json = json!({ "keys": [public_key(0, &kid(0))] }),
            Endpoint::Token => self.token(&form_of(request), &mut answer),
            Endpoint::Graph => self.graph(request, &mut answer),
        }
        if let Some(edit) = self.answer_edits.lock().unwrap().get_mut(&endpoint) {
            edit(&mut answer);
        }
        let body = answer.text.unwrap_or_else(|| answer.json.to_string().into_bytes());
        let mut response = ResponseTemplate::new(answer.status).set_delay(answer.delay);
        for (name, value) in answer.headers {
            response = response.insert_header(name, value);
        }
        for (name, value) in answer.raw_headers {
            response = response.insert_header(name, HeaderValue::from_bytes(&value).unwrap());
        }
        response.set_body_bytes(body)
    }

    fn metadata(&self) -> Value {
        let authority = format!("{}/{TENANT_ID}", self.origin);
        json!({
            "issuer": format!("{authority}/v2.0"),
            "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
            "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
            "end_session_endpoint": format!("{authority}/oauth2/v2.0/logout"),
        })
    }

    fn token(&self, form: &HashMap<String, String>, answer: &mut Answer) {
        let sent = |name: &str| form.get(name).map_or("", String::as_str);
        answer.grant_type = sent("grant_type").to_owned();
        // A test checks the client assertion.
        let has_credential =
            sent("client_secret") == CLIENT_SECRET || form.contains_key("client_assertion");
        if sent("client_id") != CLIENT_ID || !has_credential {
            return answer.refuse(
                401,
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided.",
            );
        }
        // A code works once, and only with its code verifier.
        let code_challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(sent("code_verifier")));
        let code = self.codes.lock().unwrap().remove(sent("code"));
        let can_refresh = self.tokens.lock().unwrap().contains(sent("refresh_token"));
        let nonce = match (sent("grant_type"), code) {
            ("authorization_code", Some(code)) if code.0 == code_challenge => Some(code.1),
            ("refresh_token", None) if can_refresh => None,
            _ => return answer.refuse(400, "invalid_grant", "AADSTS70000: The grant is invalid."),
        };
        let (access_token, refresh_token) = (self.secret(), self.secret());
        self.tokens.lock().unwrap().extend([access_token.clone(), refresh_token.clone()]);
        answer.json = json!({
            "token_type": "Bearer",
            "scope": format!("{SCOPE} openid profile email"),
            "expires_in": 3600,
            "access_token": access_token,
            "refresh_token": refresh_token,
            "id_token": self.make_id_token(nonce),
        });
    }

    fn make_id_token(&self, nonce: Option<String>) -> String {
        let iat = now() - 300;
        let claims = json!({
            "aud": CLIENT_ID, "tid": TENANT_ID, "ver": "2.0",
            "iss": format!("{}/{TENANT_ID}/v2.0", self.origin),
            "iat": iat, "nbf": iat, "exp": iat + 3900,
            "oid": "9b1f4c68-oid-of-the-user", "sub": "sub-of-cleo",
            "name": "Cleo Example", "preferred_username": "cleo@platform.example",
            "nonce": nonce, "roles": ["admin"],
        });
        let header = json!({ "typ": "JWT", "alg": "RS256", "kid": kid(0) });
        let mut id_token = IdToken { header, claims, signed_with: Some(0) };
        if let Some(edit) = &mut *self.id_token_edit.lock().unwrap() {
            edit(&mut id_token);
        }
        let [header, claims] = [id_token.header, id_token.claims]
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        let input = format!("{header}.{claims}");
        let signature = id_token.signed_with.map(|number| {
            let (key, algorithm) = (&RSA_KEYS[number], Algorithm::RS256);
            jsonwebtoken::crypto::sign(input.as_bytes(), key, algorithm).unwrap()
        });
        let id_token = format!("{input}.{}", signature.unwrap_or_default());
        self.keep_out_of_the_log(&id_token);
        id_token
    }

    fn graph(&self, request: &Request, answer: &mut Answer) {
        let header = request.headers.get("authorization").map(|header| header.to_str().unwrap());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        if token.is_some_and(|token| self.tokens.lock().unwrap().contains(token)) {
            answer.json = json!({ "userPrincipalName": "cleo@platform.example" });
        } else {
            answer.status = 401;
            answer.json = json!({ "error": { "code": "InvalidAuthenticationToken" } });
        }
    }

    /// A random value that must not be in the log.
    fn secret(&self) -> String {
        let secret = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        self.keep_out_of_the_log(&secret);
        secret
    }

    fn keep_out_of_the_log(&self, secret: &str) {
        for secrets in &*self.secrets.lock().unwrap() {
            secrets.add(secret);
        }
    }
}

/// A server that answers each request with these bytes and then keeps the client waiting.
pub async fn hanging_server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            // The request has arrived, so that the client does not see a reset connection.
            let _ = connection.read(&mut [0; 10_000]).await;
            let _ = connection.write_all(answer).await;
            waiting.push(connection);
        }
    });
    address
}

/// The setting SECRET_KEY of tests that make cookies of their own.
pub const SECRET_KEY: &str = "an-obviously-invented-secret-key-0123";

//! The demo tenant with the app: its page, the faults that its buttons make, and the attacks. What
//! needs no app is tested in the crate.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use base64::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use url::Url;

use crate::harness::*;
use crate::platform::now;

mod page;

const VERIFIER: &str = "an-obviously-invented-code-verifier-of-43-characters";
const SCOPE: &str = "openid profile offline_access https://graph.microsoft.com/User.Read";
const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

/// The app with its demo tenant.
struct Demo {
    app: App,
    /// The page that shows the messages, `http://localhost:PORT/`.
    recorder: String,
    authority: String,
    client_id: String,
    client_secret: String,
}

impl Demo {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let app = App::start(settings).await;
        let log = app.log();
        let recorder = word_after("see the messages between the two at ", &log);
        let authority = word_after("the app uses its demo tenant ", &log);
        // The recorder shows the client ID and the secret of the app.
        let browser = app.browser();
        browser.sign_in(&app, "/graph", BEN).await;
        let page = browser.get(&recorder).await.body;
        let [client_id, client_secret] = ["client_id", "client_secret"]
            .map(|name| word_after(&format!("<code>{name}</code></th><td><code>"), &page));
        app.secrets.add(&client_secret);
        browser.get(app.at("/logout")).await;
        let demo = Self { app, recorder, authority, client_id, client_secret };
        demo.press("reset").await;
        demo
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.authority)
    }

    /// Sends a form of the recorder's page.
    async fn send_form(&self, path: &str, name: &str, value: &str) -> Page {
        let browser = self.app.browser();
        let form = browser.client.post(format!("{}{path}", self.recorder)).form(&[(name, value)]);
        let form = form.header("Origin", self.recorder.trim_end_matches('/'));
        browser.send(form.header("Sec-Fetch-Site", "same-origin")).await
    }

    /// Presses a button of the recorder's page.
    async fn press(&self, fault: &str) {
        let page = self.send_form("faults", "fault", fault).await;
        assert_eq!((page.status, page.location()), (303, "/"), "{fault}: {}", page.body);
    }

    /// Tries an attack. Returns the page, and its part with the result.
    async fn attack(&self, attack: &str) -> (String, String) {
        let page = self.send_form("attacks", "attack", attack).await;
        let result = page.location().trim_start_matches('/');
        let page = self.app.browser().get(format!("{}{result}", self.recorder)).await.body;
        let (_, result) = page.split_once("id=\"attempt\"").unwrap();
        let (result, _) = result.split_once("</section>").unwrap();
        let result = result.to_owned();
        (page, result)
    }

    /// The recorder's page. It explains each parameter.
    async fn page(&self) -> String {
        let page = self.app.browser().get(&self.recorder).await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert!(!page.body.contains("This sample does not use it."), "{}", page.body);
        page.body
    }

    /// The address of an authorization request with changes. The demo tenant treats an empty
    /// parameter as missing.
    fn authorize(&self, changes: &[(&str, &str)]) -> Url {
        let (redirect_uri, challenge) = (self.app.at("/auth/redirect"), hash(VERIFIER));
        let mut parameters = BTreeMap::from([
            ("client_id", self.client_id.as_str()),
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
    async fn code(&self, changes: &[(&str, &str)]) -> String {
        let page = self.app.browser().post(self.authorize(changes), &[("choice", ADA)]).await;
        page.location_parameter("code").unwrap_or_else(|| panic!("no code: {page:?}"))
    }

    /// The response of the token endpoint to the redemption of a code, with changes.
    async fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> (u16, Value) {
        let redirect_uri = self.app.at("/auth/redirect");
        let mut form = BTreeMap::from([
            ("client_id", self.client_id.as_str()),
            ("client_secret", &self.client_secret),
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", VERIFIER),
            ("claims", CP1),
        ]);
        form.extend(changes.iter().copied());
        let url = self.at("/oauth2/v2.0/token");
        let page = self.app.browser().post(url, &Vec::from_iter(form)).await;
        (page.status, json_of(&page))
    }

    async fn refresh(&self, token: &Value, changes: &[(&str, &str)]) -> (u16, Value) {
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())];
        self.redeem("", &[&refresh, changes].concat()).await
    }

    /// The response of Microsoft Graph.
    async fn graph(&self, authorization: &str) -> Page {
        let browser = self.app.browser();
        let request = browser.client.get(format!("{}v1.0/me", self.recorder));
        browser.send(request.header("Authorization", authorization)).await
    }

    /// Opens a protected page. Single sign-on signs the user in. Returns the response of the app
    /// to the code.
    async fn single_sign_on(&self, browser: &Browser, path: &str) -> Page {
        let authorize = browser.get(self.app.at(path)).await;
        let code = browser.get(authorize.location()).await;
        browser.get(code.location()).await
    }
}

fn word_after(start: &str, text: &str) -> String {
    let (_, rest) = text.split_once(start).unwrap();
    rest.split([' ', '\n', '<', '"']).next().unwrap().to_owned()
}

fn hash(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

fn json_of(page: &Page) -> Value {
    serde_json::from_str(&page.body).unwrap()
}

fn bearer(tokens: &Value) -> String {
    format!("Bearer {}", tokens["access_token"].as_str().unwrap())
}

/// Asserts that an error response has this OAuth error and AADSTS number.
#[track_caller]
fn assert_refused(case: &str, (status, body): &(u16, Value), error: &str, number: u32) {
    let expected_status = if error == "invalid_client" { 401 } else { 400 };
    let description = body["error_description"].as_str().unwrap().split("\r\n");
    let lines: Vec<_> = description.map(|line| line.split_once(": ").unwrap().0).collect();
    let expected_lines = [&*format!("AADSTS{number}"), "Trace ID", "Correlation ID", "Timestamp"];
    assert_eq!((*status, &body["error"]), (expected_status, &json!(error)), "{case}: {body}");
    assert_eq!((&body["error_codes"], &*lines), (&json!([number]), &expected_lines[..]), "{case}");
}

/// A part of the page: a sign-in, or a visit.
#[derive(Clone)]
struct Story {
    html: String,
}

impl Story {
    /// The stories of the page, the newest first.
    fn all(page: &str) -> Vec<Self> {
        let (page, _) = page.split_once("<div class=\"side\">").unwrap();
        let parts = page.split("<details class=\"story").skip(1);
        parts.map(|html| Self { html: html.to_owned() }).collect()
    }

    fn title(&self) -> String {
        texts(&self.html, "<h3>", "</h3>").remove(0)
    }

    /// The steps at its head, such as "1 done".
    fn ticks(&self) -> Vec<String> {
        let ticks = self.html.split("<span class=\"tick ").skip(1);
        let words = ticks.map(|tick| {
            let (state, rest) = tick.split_once("\">").unwrap();
            format!("{} {state}", rest.split(' ').next().unwrap())
        });
        words.collect()
    }

    /// The titles of messages and log lines, in the order of the page.
    fn entries(&self) -> Vec<String> {
        texts(&self.html, "<h5>", " <span")
    }

    /// The block that refused, and the line.
    fn refused_by(&self) -> (String, String) {
        let stop = self.html.split_once("<div class=\"entry stop\"").unwrap().1;
        let name = texts(stop, "<span><code>", "</code>").remove(0);
        (name, texts(stop, "class=\"here\">", "</li>").remove(0))
    }
}

/// The texts between two marks, without tags.
fn texts(html: &str, start: &str, end: &str) -> Vec<String> {
    let found = html.split(start).skip(1).map(|rest| rest.split(end).next().unwrap());
    found.map(text).collect()
}

/// What a person reads.
fn text(html: &str) -> String {
    let mut text = String::new();
    for (number, part) in html.split('<').enumerate() {
        text += if number == 0 { part } else { part.split_once('>').map_or("", |part| part.1) };
    }
    let text = text.replace("&quot;", "\"").replace("&#39;", "'").replace("&lt;", "<");
    text.replace("&gt;", ">").replace("&amp;", "&").trim().to_owned()
}

#[tokio::test]
async fn both_users_sign_in_and_only_ada_has_the_role_until_it_is_taken_away() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let see_the_messages = format!("<a href=\"{}\">See the messages</a>", demo.recorder);
    for (user, name, admin) in [(BEN, "Ben Example", 403), (ADA, "Ada Example", 200)] {
        browser.get(demo.app.at("/logout")).await;
        let page = browser.sign_in(&demo.app, "/graph", user).await;
        assert_eq!(page.user(), Some(name));
        assert!(page.body.contains(user) && page.body.contains(&see_the_messages), "{page:?}");
        assert_eq!(browser.get(demo.app.at("/admin")).await.status, admin, "{name}");
    }
    for (fault, before, after) in [("NoRole", 200, 403), ("none", 403, 200)] {
        demo.press(fault).await;
        // Until the user signs in again, the app uses the old ID token.
        assert_eq!(browser.get(demo.app.at("/admin")).await.status, before, "{fault}");
        browser.get(demo.app.at("/logout")).await;
        demo.single_sign_on(&browser, "/admin").await;
        assert_eq!(browser.get(demo.app.at("/admin")).await.status, after, "{fault}");
    }
}

/// A key and its certificate, in PEM, and the SHA-256 thumbprint of the certificate.
fn certificate() -> (String, String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    (key.serialize_pem(), certificate.pem(), hash(certificate.der()))
}

#[tokio::test]
async fn an_app_signs_in_with_a_registered_certificate() {
    let demo = Demo::start(&[]).await;
    let (key, certificate, thumbprint) = certificate();
    let both = format!("{key}{certificate}");
    for (text, status, message) in [
        ("text", 400, "does not contain a certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 400, "no RSA key"),
        (&both, 400, "a private key"),
        (&certificate, 303, ""),
    ] {
        let page = demo.send_form("certificates", "certificate", text).await;
        assert_eq!(page.status, status, "{text}");
        assert!(page.body.contains(message), "{message}: {}", page.body);
    }

    // A second app, with the values that the page shows.
    assert!(demo.page().await.contains("CLIENT_CREDENTIAL=file:app.pem"));
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("app.pem"), both).unwrap();
    let settings = [
        ("CLIENT_ID", &*demo.client_id),
        ("CLIENT_CREDENTIAL", "file:app.pem"),
        ("AUTHORITY", &demo.authority),
        ("ENDPOINT", &format!("{}v1.0/me", demo.recorder)),
    ];
    let second = App::start_in(Arc::new(folder), &settings).await;
    let browser = second.browser();
    browser.sign_in(&second, "/graph", ADA).await;
    assert!(demo.page().await.contains(&format!("Signature: PS256 with key {thumbprint}")));

    // After a reset, the certificate is not registered.
    demo.press("reset").await;
    second.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    browser.get(second.at("/graph")).await.assert_error(502, "AADSTS700027");
}

#[tokio::test]
async fn a_sign_in_shows_all_steps_messages_and_log_lines_in_the_order_of_time() {
    let demo = Demo::start(&[("SSO_LOGOUT", "true")]).await;
    let browser = demo.app.browser();
    assert!(demo.page().await.contains("Nothing yet."));
    let authorize = browser.get(demo.app.at("/graph?a=1")).await;
    browser.get(authorize.location()).await;
    let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
    let signed_in = browser.get(callback.location()).await;
    browser.get(demo.app.at(signed_in.location())).await;

    let page = demo.page().await;
    let [story] = &Story::all(&page)[..] else { panic!("one story: {page}") };
    assert_eq!(story.title(), "Ada Example signed in, and opened /graph");
    let done = [1, 5, 6, 7, 8, 9, 1, 2, 3].map(|step| format!("{step} done"));
    assert_eq!(story.ticks(), done);
    assert_eq!(
        story.entries(),
        [
            "Step 1: session lookup",
            "Step 5: redirect to authorize",
            "The app answers 302 Found",
            "Authorization request",
            "Sign-in page",
            "Choice of a user",
            "Redirect with the code",
            "Step 6: authorization response",
            "Token request",
            "Token response",
            "Step 7: redeem the code",
            "Request for the signing keys",
            "Signing keys",
            "Step 8: validate the ID token",
            "Step 8: validate the ID token",
            "Step 9: sign in",
            "The app answers 302 Found",
            "Step 1: session lookup",
            "Step 2: token cache",
            "Call to Microsoft Graph",
            "Response of Microsoft Graph",
            "Step 3: call Microsoft Graph",
            "The app answers 200 OK",
        ]
    );
    // Values that must agree with an earlier message link to it.
    let checks = texts(&story.html, "<p class=\"agrees\">", "See it");
    for name in ["state", "code ", "code_verifier", "nonce", "aud", "kid", "Authorization"] {
        assert!(checks.iter().any(|check| check.contains(name)), "{name}: {checks:?}");
    }
    assert!(!story.html.contains("class=\"differs\""), "{}", story.html);
    for link in story.html.split("<a href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(story.html.contains(&format!("id=\"{id}\"")), "{id}");
    }

    // Later visits are stories of their own. The newest is above, and is the one that is open.
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    browser.get(demo.app.at("/graph")).await;
    browser.get(demo.app.at("/admin")).await;
    let logout = browser.get(demo.app.at("/logout")).await;
    assert_eq!(browser.get(logout.location()).await.location(), demo.app.at("/"));
    let declined = browser.choose(&demo.app, "/graph", "decline").await;
    browser.get(declined.location()).await.assert_error(403, "access_denied: AADSTS65004");
    let page = demo.page().await;
    let stories = Story::all(&page);
    let titles: Vec<_> = stories.iter().map(Story::title).collect();
    assert_eq!(
        titles,
        [
            "Sign-in refused at step 6; nobody is signed in",
            "GET /logout: redirecting to the end session endpoint",
            "Ada Example opened /admin: 200 OK",
            "Ada Example opened /graph: 200 OK",
            "Ada Example signed in, and opened /graph",
        ]
    );
    assert_eq!(stories[2].ticks(), ["1 done", "4 done"]);
    assert_eq!(stories[1].entries().last().unwrap(), "Redirect after the sign-out");
    let refresh = stories[3].entries();
    assert!(refresh.contains(&"Refreshed tokens".to_owned()), "{refresh:?}");
    assert_eq!(page.matches("<details class=\"story bad\" id=").count(), 1);
    let open = stories.iter().map(|story| story.html.split_once('>').unwrap().0);
    assert_eq!(open.filter(|tag| tag.ends_with(" open")).count(), 1);
    assert!(stories[0].html.split_once('>').unwrap().0.ends_with(" open"));
}

/// What admin.rs sent names admin.rs.
#[tokio::test]
async fn each_entry_shows_the_block_of_the_file_that_ran() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    for (page, file) in [("/graph", "src/routes/graph.rs"), ("/admin", "src/routes/admin.rs")] {
        browser.get(demo.app.at("/logout")).await;
        let authorize = browser.get(demo.app.at(page)).await;
        browser.get(authorize.location()).await;
        let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
        browser.get(callback.location()).await;
        browser.get(demo.app.at(page)).await;
        let html = demo.page().await;
        let story = Story::all(&html).remove(0);
        let entries: Vec<_> = story.html.split("<div class=\"entry").skip(1).collect();
        for (title, block) in [
            ("Step 5: redirect to authorize", "build_auth_code_flow"),
            ("Authorization request", "build_auth_code_flow"),
            ("Step 1: session lookup", "require_authentication"),
        ] {
            let entry = entries.iter().find(|entry| entry.contains(title)).unwrap();
            assert!(entry.contains(&format!("<code>{file}</code>")), "{page}: {title}");
            assert!(entry.contains(&format!("<code>{block}</code>")), "{page}: {title}");
        }
        // Each line of a block is a line of the file.
        let source = read(file);
        let lines: Vec<_> = source.lines().collect();
        let entry = entries.iter().find(|entry| entry.contains("Step 5: ")).unwrap();
        let numbered = entry.split("<li value=\"").skip(1);
        for item in numbered.clone() {
            let number: usize = item.split('"').next().unwrap().parse().unwrap();
            let shown = text(item.split_once('>').unwrap().1.split("</li>").next().unwrap());
            assert_eq!(shown, lines[number - 1].trim(), "{file}:{number}");
        }
        assert!(numbered.count() > 20);
        let here = texts(entry, "class=\"here\">", "</li>");
        assert!(here[0].contains("info!(\"step 5: "), "{here:?}");
    }
}

#[tokio::test]
async fn a_revoked_session_leads_to_a_claims_challenge_and_a_new_sign_in() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    let (_, old) = demo.redeem(&demo.code(&[]).await, &[]).await;
    let (_, without_cp1) = demo.redeem(&demo.code(&[]).await, &[("claims", "")]).await;
    demo.press("Revoked").await;
    assert!(demo.page().await.contains("Waiting to happen: Revoke all sessions"));

    // Tokens from before do not work, unless the app cannot answer a challenge.
    let page = demo.graph(&bearer(&old)).await;
    let header = page.headers["www-authenticate"].to_str().unwrap();
    assert!(header.contains("error=\"insufficient_claims\", claims=\""), "{header}");
    assert_eq!((page.status, demo.graph(&bearer(&without_cp1)).await.status), (401, 200));
    let refused = demo.refresh(&old["refresh_token"], &[]).await;
    assert_refused("revoked", &refused, "invalid_grant", 50173);
    assert_eq!(refused.1["suberror"], "bad_token");
    // The fault has worked.
    assert!(!demo.page().await.contains("Waiting to happen"));

    // The app answers the challenge. Single sign-on has ended.
    let authorize = browser.get(demo.app.at("/graph")).await;
    assert_eq!(browser.get(authorize.location()).await.status, 200, "the sign-in page");
    let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
    browser.get(callback.location()).await;
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    // The refusal is in the same story as the sign-in that it caused.
    let page = demo.page().await;
    let story = Story::all(&page).remove(0);
    let title = "Ada Example signed in again, after a claims challenge, and opened /graph";
    assert_eq!(story.title(), title);
    let mut steps = [1, 2, 3, 5, 6, 7, 8, 9, 1, 2, 3].map(|step| format!("{step} done"));
    steps[2] = "3 refused".to_owned();
    assert_eq!(story.ticks(), steps);
    assert!(story.html.contains("claims, decoded from Base64"));
}

#[tokio::test]
async fn a_wrong_id_token_is_refused_once_and_the_page_names_the_block() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    for (fault, label, message, block) in [
        (
            "UnknownKey",
            "Sign the next ID token with an unknown key",
            "signing key is unknown",
            "signing_keys",
        ),
        (
            "OtherAudience",
            "Issue the next ID token for another app",
            "InvalidAudience",
            "validate_id_token",
        ),
        ("OtherNonce", "Change the nonce of the next ID token", "nonce of another", "check_nonce"),
    ] {
        demo.press(fault).await;
        browser.get(demo.app.at("/logout")).await;
        demo.single_sign_on(&browser, "/graph").await.assert_error(401, message);
        let page = demo.page().await;
        let story = Story::all(&page).remove(0);
        let title = "Sign-in refused at step 8; the ID token says Ada Example; nobody is signed in";
        assert_eq!(story.title(), title, "{fault}");
        let ticks = ["1 done", "5 done", "6 done", "7 done", "8 stopped", "9 missing"];
        assert_eq!(story.ticks(), ticks, "{fault}");
        assert_eq!(story.refused_by().0, block, "{fault}");
        assert!(story.html.contains(&format!("You asked for this: {label}.")), "{fault}");
        // The value that does not agree with an earlier one.
        assert!(story.html.contains("class=\"differs\""), "{fault}");
        assert!(!page.contains("Waiting to happen"), "{fault}");
        assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph", "{fault}");
    }
}

#[tokio::test]
async fn a_tenant_that_fails_is_an_error_page_once() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let newest = async || Story::all(&demo.page().await).remove(0);
    // Without tokens, the sign-in cannot be completed.
    demo.press("Unavailable").await;
    let callback = browser.choose(&demo.app, "/graph", ADA).await;
    browser.get(callback.location()).await.assert_error(502, "AADSTS90033");
    assert!(demo.app.log().contains("the token endpoint answered 503"));
    assert_eq!(newest().await.title(), "Sign-in failed at step 7; nobody is signed in");
    browser.sign_in(&demo.app, "/graph", ADA).await;
    // The app waits for a slow profile for 15 seconds.
    for (fault, text) in [
        ("Unavailable", "serviceNotAvailable"),
        ("Slow", "Microsoft Graph is not available. Try again in a minute."),
    ] {
        demo.press(fault).await;
        browser.get(demo.app.at("/graph")).await.assert_error(502, text);
        let story = newest().await;
        let title = "GET /graph failed at step 3 for Ada Example: 502 Bad Gateway";
        assert_eq!(
            (story.title(), story.ticks()[2].as_str()),
            (title.into(), "3 stopped"),
            "{fault}"
        );
        assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200, "{fault}");
    }
    // An access token that is refused leads to another sign-in.
    demo.press("Expired").await;
    assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph");
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 200).into());
    demo.press("Unavailable").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, "AADSTS90033");
    assert!(newest().await.entries().contains(&"Refresh error".to_owned()));
    // The profile of the fault `Slow` came when nobody waited for it.
    until_late(&demo).await;
}

/// Waits until the page says that an answer came too late.
async fn until_late(demo: &Demo) {
    let started = std::time::Instant::now();
    while !demo.page().await.contains("This came too late.") {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_short_access_token_is_refreshed_and_a_refused_refresh_leads_to_a_sign_in() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    demo.press("ShortToken").await;
    assert_eq!(browser.sign_in(&demo.app, "/graph", ADA).await.status, 200);
    let page = demo.page().await;
    let story = Story::all(&page).remove(0);
    assert!(story.entries().contains(&"Refreshed tokens".to_owned()), "{:?}", story.entries());

    demo.press("NoRefresh").await;
    browser.get(demo.app.at("/logout")).await;
    demo.single_sign_on(&browser, "/graph").await;
    // This visit to /graph begins with step 1 and ends with another sign-in.
    assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph");
    assert!(demo.app.log().contains("step 5: the refresh token was refused"));
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    let page = demo.page().await;
    let story = Story::all(&page).remove(0);
    let mut steps = [1, 2, 5, 6, 7, 8, 9, 1, 2, 3].map(|step| format!("{step} done"));
    steps[1] = "2 refused".to_owned();
    assert_eq!(story.ticks(), steps);
    assert!(!page.contains("Waiting to happen"));
}

/// Many browsers sign in at the same time. Each log line must be in the story of its browser.
#[tokio::test(flavor = "multi_thread")]
async fn at_many_browsers_at_once_no_line_stands_in_the_wrong_story() {
    let demo = Demo::start(&[]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (browser, url) = (demo.app.browser(), demo.app.url.clone());
        tasks.spawn(async move {
            let (path, user) = if number % 2 == 0 { ("/graph", ADA) } else { ("/admin", BEN) };
            let authorize = browser.get(format!("{url}{path}")).await;
            let callback = browser.post(authorize.location(), &[("choice", user)]).await;
            browser.get(callback.location()).await;
            browser.get(format!("{url}{path}")).await;
        });
    }
    tasks.join_all().await;
    let page = demo.page().await;
    let stories = Story::all(&page);
    let titles: Vec<_> = stories.iter().map(|story| (story.title(), story.entries())).collect();
    assert_eq!(stories.len(), 8, "{titles:#?}");
    for story in stories {
        let is_ada = story.title().contains("Ada Example");
        let (title, last) = if is_ada {
            ("Ada Example signed in, and opened /graph", &["2 done", "3 done"][..])
        } else {
            ("GET /admin refused at step 4 for Ben Example: 403 Forbidden", &["4 stopped"][..])
        };
        assert_eq!(story.title(), title);
        let first = ["1 done", "5 done", "6 done", "7 done", "8 done", "9 done", "1 done"];
        assert_eq!(story.ticks(), [&first, last].concat());
        let oid = if is_ada { "3d9f6a20-7b18" } else { "c51e0b94-26fd" };
        let lines = texts(&story.html, "<p class=\"log\">", "</p>");
        let signed_in = lines.iter().find(|line| line.starts_with("step 9: ")).unwrap();
        assert!(signed_in.contains(oid), "{signed_in}");
        // Each request of the app is in the visit that caused it.
        let count = |title: &str| story.entries().iter().filter(|entry| *entry == title).count();
        assert_eq!([count("Token request"), count("Request for the signing keys")], [1, 1]);
        assert_eq!(count("Call to Microsoft Graph"), usize::from(is_ada));
    }
}

/// The lines come from the log, so they have no secret. The page must not show cookies of the app
/// either, because anyone who has one is signed in.
#[tokio::test]
async fn the_page_shows_no_cookie_of_the_app_and_only_lines_of_the_log() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let authorize = browser.get(demo.app.at("/graph")).await;
    let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
    let signed_in = browser.get(callback.location()).await;
    browser.get(demo.app.at("/graph")).await;
    let page = demo.page().await;
    let cookies = [authorize.cookies(), signed_in.cookies()].concat();
    let names: Vec<_> = cookies.iter().map(|cookie| cookie.split_once('=').unwrap()).collect();
    assert!(names.iter().any(|(name, _)| *name == "rust-webapp-session"), "{names:?}");
    for (name, value) in names.into_iter().filter(|(_, value)| !value.is_empty()) {
        assert!(page.contains(name), "{name}");
        assert!(!page.contains(value), "the value of {name}");
    }
    let log = demo.app.log();
    let lines = texts(&page, "<p class=\"log\">", "</p>");
    assert!(lines.len() > 8);
    for line in lines {
        assert!(log.contains(&line), "{line}");
    }
}

#[tokio::test]
async fn the_curl_commands_work() {
    let demo = Demo::start(&[]).await;
    demo.app.browser().sign_in(&demo.app, "/graph", ADA).await;
    let page = demo.page().await;
    let commands = texts(&page, "with curl</summary>", "</details>");
    assert_eq!(commands.len(), 2, "{commands:?}");
    for (command, expected) in commands.iter().zip(["\"access_token\":", ADA]) {
        let mut shell = tokio::process::Command::new("sh");
        let output =
            shell.args(["-c", command]).env("NO_PROXY", "localhost").output().await.unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.contains(expected), "{command}\n{answer}");
    }
}

#[test]
fn each_marker_and_each_step_on_the_page_is_in_the_code() {
    let table = read("demo-tenant/src/page/explanations.rs");
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix("about(\""));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split(", ").collect()).collect();
    assert_eq!(rows.len(), 26);
    for row in rows {
        let [_, _, file, marker, ..] = row[..] else { panic!("{row:?}") };
        if file == "\"\"" {
            continue;
        }
        let file = word_after(&format!("const {file}: &str = \""), &table);
        let marker = marker.trim_matches(['"', ',']);
        assert!(read(&file).contains(&format!("// <ms_docref_{marker}>\n")), "{file}: {marker}");
    }
    assert!(read("src/server.rs").contains("// <ms_docref_session_cookie>\n"));
    let handlers =
        ["admin", "auth_redirect", "graph"].map(|name| read(&format!("src/routes/{name}.rs")));
    let code = handlers.join("\n").to_lowercase();
    let (_, steps) = table.split_once("STEPS: [Step; 10] = [\n").unwrap();
    let names = steps.lines().filter_map(|line| line.trim().strip_prefix("step(\"")).skip(1);
    assert_eq!(names.clone().count(), 9);
    for (number, name) in (1..).zip(names) {
        let comment = format!("// step {number}: {}", name.trim_end_matches("\",").to_lowercase());
        assert!(code.contains(&comment), "{comment}");
    }
}

/// Each attack is refused by the block that its row names, and its control succeeds.
#[tokio::test]
async fn each_attack_is_refused_by_its_block_and_its_control_succeeds() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let refused = "The app answered 400. This sign-in was not started in this browser";
    for (attack, step, answer, block, control) in [
        ("link", 6, refused, "find_auth_code_flow", "302, redirect to /graph"),
        (
            "code",
            7,
            "400. Sign in again. invalid_grant: AADSTS501481",
            "redeem_auth_code",
            "302, redirect to /graph",
        ),
        (
            "nonce",
            8,
            "401. The ID token is not valid: it has the nonce of another sign-in",
            "check_nonce",
            "302, redirect to /graph",
        ),
        ("role", 8, "401. The ID token is not valid: InvalidSignature", "validate_id_token", "200"),
        (
            "none",
            8,
            "401. The ID token is not valid: JSON error: unknown variant `none`",
            "id_token_header",
            "200",
        ),
        ("hmac", 8, "401. The ID token is not valid: InvalidAlgorithm", "validate_id_token", "200"),
        (
            "twice",
            7,
            "400. Sign in again. invalid_grant: AADSTS54005",
            "redeem_auth_code",
            "302, redirect to /graph",
        ),
        (
            "issuer",
            6,
            "400. Another tenant answered.",
            "response_issuer",
            "302, redirect to /graph",
        ),
        ("return", 9, "302, redirect to /.", "redirect_after_sign_in", "302, redirect to /graph"),
    ] {
        let (page, result) = demo.attack(attack).await;
        let shown = text(&result);
        assert!(shown.contains("The attack failed: "), "{attack}: {shown}");
        assert!(shown.contains(&format!("✓ Step {step} (")), "{attack}: {shown}");
        assert!(shown.contains(answer), "{attack}: {shown}");
        assert!(
            result.contains(&format!("<span><code>{block}</code></span>")),
            "{attack}: {shown}"
        );
        assert!(shown.contains("✓ Control."), "{attack}: {shown}");
        assert!(shown.contains(&format!("It succeeded: the app answered {control}.")), "{attack}");
        // The page of the stolen code shows both hashes, and that of the replay both values.
        let differs = ["code", "nonce"].contains(&attack);
        assert!(!differs || page.contains("class=\"differs\""), "{attack}");
    }
    // None of this is in the user's own browser.
    assert_eq!(browser.get(demo.app.at("/")).await.user(), None);
}

#[tokio::test]
async fn the_example_app_starts_the_demo_tenant_if_it_has_no_tenant() {
    // Cargo builds examples before it runs tests.
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().with_file_name("examples").join("host_app");
    let listener = std::net::TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://localhost:{port}");
    drop(listener);
    let folder = TempDir::new().unwrap();
    let mut command = tokio::process::Command::new(&program);
    for key in ["CLIENT_ID", "CLIENT_CREDENTIAL", "AUTHORITY", "ENDPOINT"] {
        command.env_remove(key);
    }
    command.env("NO_PROXY", "localhost").env("PORT", port.to_string());
    command.current_dir(folder.path()).stdout(std::process::Stdio::null()).kill_on_drop(true);
    let mut app = command.spawn().unwrap();
    let browser = Browser::new(Secrets::default());
    let started = std::time::Instant::now();
    while browser.try_send(browser.client.get(&url)).await.is_err() {
        assert!(app.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let authorize = browser.get(format!("{url}/graph")).await;
    let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/graph");
    let page = browser.get(format!("{url}/graph")).await;
    assert!(page.body.contains("Hello Ada Example"), "{}", page.body);
    app.kill().await.unwrap();
}

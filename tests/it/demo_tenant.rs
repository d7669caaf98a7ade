//! The demo tenant: as strict as Microsoft Entra ID, the page that shows the messages, and the
//! faults that its buttons make.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::*;
use jsonwebtoken::Algorithm::{PS256, RS256};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use url::Url;

use crate::harness::*;
use crate::platform::now;

const VERIFIER: &str = "an-obviously-invented-code-verifier-of-43-characters";
const SCOPE: &str = "openid profile offline_access https://graph.microsoft.com/User.Read";
const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;
const NOBODY: &str = "nobody@demo-tenant.example";

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

#[tokio::test]
async fn the_authorization_endpoint_is_strict() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let redirect_uri = demo.app.at("/auth/redirect");
    // These show a page, because the redirect URI could belong to anyone.
    for (parameter, value, number) in [
        ("client_id", "", 900144),
        ("client_id", "4f2d8c1a-another-app", 700016),
        ("redirect_uri", "", 900971),
        ("redirect_uri", &redirect_uri.replace("redirect", "Redirect"), 50011),
        ("redirect_uri", &redirect_uri.replace("localhost", "127.0.0.1"), 50011),
        ("redirect_uri", "http://localhost/auth/redirect/", 50011),
        ("redirect_uri", "http://localhost:1@evil.example/auth/redirect", 50011),
        ("redirect_uri", "http://localhost.evil.example/auth/redirect", 50011),
    ] {
        let page = browser.get(demo.authorize(&[(parameter, value)])).await;
        assert_eq!(page.status, 400, "{parameter}={value}");
        assert!(page.body.contains(&format!("AADSTS{number}: ")), "{parameter}={value}");
    }
    let repeated = browser.get(format!("{}&state=again", demo.authorize(&[]))).await;
    assert!(repeated.status == 400 && repeated.body.contains("AADSTS9000411: "), "{repeated:?}");
    let unknown = browser.post(demo.authorize(&[]), &[("choice", NOBODY)]).await;
    assert!(unknown.status == 400 && unknown.body.contains("AADSTS50034: "), "{unknown:?}");
    // These go back to the app.
    for (parameter, value, error, number) in [
        ("response_type", "token", "unsupported_response_type", 70005),
        ("response_mode", "fragment", "invalid_request", 70007),
        ("prompt", "everything", "invalid_request", 90023),
        ("prompt", "none", "login_required", 50058),
        ("code_challenge", "", "invalid_request", 9002325),
        ("code_challenge", "too-short", "invalid_request", 501491),
        ("code_challenge_method", "", "invalid_request", 9002313),
        ("code_challenge_method", "plain", "invalid_request", 9002313),
        ("claims", "[]", "invalid_request", 9002313),
        ("scope", "", "invalid_request", 900144),
        ("scope", "openid Mail.Read", "invalid_scope", 70011),
    ] {
        let page = browser.get(demo.authorize(&[(parameter, value)])).await;
        let case = format!("{parameter}={value}");
        assert!(page.location().starts_with(&format!("{redirect_uri}?")), "{case}");
        let found = ["error", "error_uri", "state"].map(|name| page.location_parameter(name));
        let error_uri = format!("https://login.microsoftonline.com/error?code={number}");
        let expected = [error, &error_uri, "state-of-the-test"].map(|value| Some(value.to_owned()));
        assert_eq!((page.status, found), (303, expected), "{case}");
    }
    // Other sites must not choose a user, not even one on another port of localhost.
    let form = browser.client.post(demo.authorize(&[])).form(&[("choice", ADA)]);
    let page = browser.send(form.header("Sec-Fetch-Site", "same-site")).await;
    assert_eq!(page.status, 403, "{}", page.body);
}

#[tokio::test]
async fn the_token_endpoint_is_strict() {
    let demo = Demo::start(&[]).await;
    for (parameter, value, error, number) in [
        ("grant_type", "", "invalid_request", 900144),
        ("grant_type", "password", "unsupported_grant_type", 70003),
        ("client_id", "", "invalid_request", 900144),
        ("client_id", "4f2d8c1a-another-app", "unauthorized_client", 700016),
        ("client_secret", "", "invalid_client", 7000218),
        ("client_secret", "wrong", "invalid_client", 7000215),
        ("client_assertion", "x", "invalid_request", 900144),
        ("code", "unknown", "invalid_grant", 70000),
        ("redirect_uri", "http://localhost/", "invalid_client", 500112),
        ("code_verifier", "another-code-verifier-that-has-43-characters", "invalid_grant", 501481),
        ("scope", "openid email", "invalid_scope", 70011),
        ("claims", "text", "invalid_request", 9002313),
    ] {
        let refused = demo.redeem(&demo.code(&[]).await, &[(parameter, value)]).await;
        assert_refused(&format!("{parameter}={value}"), &refused, error, number);
    }
    let code = demo.code(&[("code_challenge", &hash("short"))]).await;
    let refused = demo.redeem(&code, &[("code_verifier", "short")]).await;
    assert_refused("a short code_verifier", &refused, "invalid_grant", 501481);

    // A code works once and for one redirect URI. The home page is registered too.
    let browser = demo.app.browser();
    let home = demo.app.at("/");
    browser.post(demo.authorize(&[]), &[("choice", ADA)]).await;
    for uri in ["http://localhost:1234/auth/redirect", "http://localhost/auth/redirect", &home] {
        let changes = [("redirect_uri", uri)];
        let page = browser.get(demo.authorize(&changes)).await;
        assert!(page.location().starts_with(&format!("{uri}?code=")), "{}", page.location());
        let code = page.location_parameter("code").unwrap();
        assert_eq!(demo.redeem(&code, &changes).await.0, 200, "{uri}");
        assert_refused(uri, &demo.redeem(&code, &changes).await, "invalid_grant", 54005);
        // After an attempt that fails, the code does not work either.
        let code = demo.code(&changes).await;
        assert_refused(uri, &demo.redeem(&code, &[]).await, "invalid_client", 500112);
        assert_refused(uri, &demo.redeem(&code, &changes).await, "invalid_grant", 54005);
    }
}

#[tokio::test]
#[ignore = "waits for a minute"]
async fn a_code_works_for_one_minute() {
    let demo = Demo::start(&[]).await;
    let code = demo.code(&[]).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_refused("old", &demo.redeem(&code, &[]).await, "invalid_grant", 70008);
}

#[tokio::test]
async fn a_refresh_returns_a_new_refresh_token_and_the_old_one_stays_valid() {
    let demo = Demo::start(&[("DEMO_TOKEN_LIFETIME", "7200")]).await;
    let (_, first) = demo.redeem(&demo.code(&[]).await, &[]).await;
    let (_, second) = demo.refresh(&first["refresh_token"], &[]).await;
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    for tokens in [&first, &second] {
        assert_eq!((&tokens["expires_in"], &tokens["refresh_in"]), (&json!(7200), &json!(3600)));
        assert_eq!(demo.refresh(&tokens["refresh_token"], &[]).await.0, 200);
        let profile = json_of(&demo.graph(&bearer(tokens).replace("Bearer", "bearer")).await);
        assert_eq!(profile["userPrincipalName"], ADA);
    }
    let refused = demo.refresh(&json!("unknown"), &[]).await;
    assert_refused("unknown", &refused, "invalid_grant", 70000);
    // A refresh token belongs to the app too.
    let refused = demo.refresh(&second["refresh_token"], &[("client_secret", "wrong")]).await;
    assert_refused("secret", &refused, "invalid_client", 7000215);
}

#[tokio::test]
async fn microsoft_graph_requires_a_valid_access_token_with_the_permission() {
    let demo = Demo::start(&[("DEMO_TOKEN_LIFETIME", "1")]).await;
    let code = demo.code(&[("scope", "openid profile offline_access")]).await;
    let (_, tokens) = demo.redeem(&code, &[]).await;
    let page = demo.graph(&bearer(&tokens)).await;
    let error = &json_of(&page)["error"];
    assert_eq!((page.status, &error["code"]), (403, &json!("Authorization_RequestDenied")));
    // Only long-lived access tokens are renewed early.
    assert_eq!((&tokens["expires_in"], &tokens["refresh_in"]), (&json!(1), &Value::Null));
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    for authorization in [&*bearer(&tokens), "Bearer unknown", "Basic dTpw", "Bearer"] {
        let page = demo.graph(authorization).await;
        let error = &json_of(&page)["error"];
        assert_eq!((page.status, &error["code"]), (401, &json!("InvalidAuthenticationToken")));
        let header = page.headers["www-authenticate"].to_str().unwrap();
        assert!(header.starts_with("Bearer ") && !header.contains("claims"), "{header}");
    }
}

#[tokio::test]
async fn single_sign_on_signs_the_user_in_unless_login_hint_or_prompt_asks_for_another() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let page = browser.get(demo.authorize(&[("login_hint", BEN)])).await;
    assert_eq!((page.status, &*word_after("name=\"choice\" value=\"", &page.body)), (200, BEN));
    assert!(page.body.contains("named by the app in <code>login_hint</code>"));

    let page = browser.choose(&demo.app, "/graph", BEN).await;
    // All ports of localhost share their cookies. The path keeps this one away from the app.
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let path = Url::parse(&demo.at("/oauth2/v2.0")).unwrap().path().to_owned();
    let attributes = format!("HttpOnly; SameSite=Lax; Path={path}");
    assert_eq!(cookie.split_once("; ").unwrap().1, attributes);
    browser.get(page.location()).await;
    let claims = &demo.app.session()["user"]["id_token_claims"];
    for (login_hint, prompt, expected) in [
        ("", "", "code"),
        ("", "none", "code"),
        (&*BEN.to_uppercase(), "", "code"),
        (claims["login_hint"].as_str().unwrap(), "none", "code"),
        (ADA, "", "the sign-in page"),
        (ADA, "none", "error"),
        (NOBODY, "", "the sign-in page"),
        ("", "login", "the sign-in page"),
        ("", "select_account", "the sign-in page"),
        ("", "consent", "the sign-in page"),
    ] {
        let url = demo.authorize(&[("login_hint", login_hint), ("prompt", prompt)]);
        let page = browser.get(url).await;
        let found =
            ["code", "error"].into_iter().find(|name| page.location_parameter(name).is_some());
        assert_eq!(found.unwrap_or("the sign-in page"), expected, "{login_hint} {prompt}");
    }
}

#[tokio::test]
async fn a_sign_out_ends_single_sign_on_and_leads_only_to_a_registered_address() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    for (uri, status) in [
        (&*demo.app.at("/"), 302),
        ("http://localhost:1/auth/redirect", 302),
        (&demo.app.at("/graph"), 200),
        ("https://evil.example/", 200),
        ("", 200),
    ] {
        let signed_in = browser.post(demo.authorize(&[]), &[("choice", ADA)]).await;
        let query = [("post_logout_redirect_uri", uri), ("logout_hint", "O.anything")];
        let url = Url::parse_with_params(&demo.at("/oauth2/v2.0/logout"), query).unwrap();
        let page = browser.get(url).await;
        assert_eq!(page.status, status, "{uri}");
        if status == 302 {
            assert_eq!(page.location(), uri);
        }
        // The browser is signed out, and a copy of its cookie does not work.
        assert_eq!(page.cookies(), ["demo-tenant-sso="]);
        let request = browser.client.get(demo.authorize(&[]));
        let page = browser.send(request.header("Cookie", signed_in.cookies().remove(0))).await;
        assert_eq!(page.status, 200, "{uri}");
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
async fn an_assertion_is_verified() {
    let demo = Demo::start(&[]).await;
    let ((key, registered, thumbprint), (other_key, ..)) = (certificate(), certificate());
    demo.send_form("certificates", "certificate", &registered).await;
    let sign = |key: &str, algorithm, thumbprint: &str, claim: &str, value| {
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(thumbprint.to_owned());
        let mut claims = json!({
            "aud": demo.at("/oauth2/v2.0/token"), "iss": demo.client_id, "sub": demo.client_id,
            "jti": format!("{:x}", rand::random::<u64>()), "nbf": now(), "exp": now() + 300,
        });
        claims[claim] = value;
        let key = EncodingKey::from_rsa_pem(key.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let with = |claim, value| sign(&key, PS256, &thumbprint, claim, value);
    let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let redeem = async |assertion: &str| {
        let no_secret = [("client_secret", ""), ("client_assertion_type", jwt_bearer)];
        let changes = [&no_secret[..], &[("client_assertion", assertion)]].concat();
        demo.redeem(&demo.code(&[]).await, &changes).await
    };
    // The claim nbf is optional.
    let good = with("nbf", Value::Null);
    assert_eq!(redeem(&good).await.0, 200);
    for (case, assertion, number) in [
        ("used twice", good, 50013),
        ("not a JWT", "x.y.z".to_owned(), 50013),
        ("no jti", with("jti", Value::Null), 50013),
        ("another key", sign(&other_key, PS256, &thumbprint, "nbf", json!(now())), 700027),
        ("another certificate", sign(&key, PS256, "x", "nbf", json!(now())), 700027),
        ("RS256", sign(&key, RS256, &thumbprint, "nbf", json!(now())), 700027),
        ("another audience", with("aud", json!(demo.authority)), 700023),
        ("another issuer", with("iss", json!("x")), 700021),
        ("another subject", with("sub", json!("x")), 700021),
        ("expired", with("exp", json!(now() - 1)), 700024),
        ("too long", with("exp", json!(now() + 700)), 700024),
        ("no end", with("exp", Value::Null), 700024),
        ("from the future", with("nbf", json!(now() + 60)), 700024),
    ] {
        assert_refused(case, &redeem(&assertion).await, "invalid_client", number);
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
    assert!(demo.page().await.contains("Active: Revoke all sessions."));

    // Tokens from before do not work, unless the app cannot answer a challenge.
    let page = demo.graph(&bearer(&old)).await;
    let header = page.headers["www-authenticate"].to_str().unwrap();
    assert!(header.contains("error=\"insufficient_claims\", claims=\""), "{header}");
    assert_eq!((page.status, demo.graph(&bearer(&without_cp1)).await.status), (401, 200));
    let refused = demo.refresh(&old["refresh_token"], &[]).await;
    assert_refused("revoked", &refused, "invalid_grant", 50173);
    assert_eq!(refused.1["suberror"], "bad_token");

    // The app answers the challenge. Single sign-on has ended.
    let authorize = browser.get(demo.app.at("/graph")).await;
    assert_eq!(browser.get(authorize.location()).await.status, 200, "the sign-in page");
    browser.sign_in(&demo.app, "/graph", ADA).await;
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    let page = demo.page().await;
    for text in ["answers a claims challenge", "claims, decoded from Base64", "AADSTS50173: "] {
        assert!(page.contains(text), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_id_token_is_refused_once() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    for (fault, label, check) in [
        ("UnknownKey", "Sign the next ID token with an unknown key", "signing key is unknown"),
        ("OtherAudience", "Issue the next ID token for another app", "InvalidAudience"),
        ("OtherNonce", "Change the nonce of the next ID token", "nonce of another"),
    ] {
        demo.press(fault).await;
        browser.get(demo.app.at("/logout")).await;
        let page = demo.single_sign_on(&browser, "/graph").await;
        page.assert_error(401, check);
        let page = demo.page().await;
        assert!(page.contains(&format!("You asked for this: {label}.")), "{fault}");
        assert!(!page.contains("Active:"), "{fault}");
        assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph", "{fault}");
    }
}

#[tokio::test]
async fn a_tenant_that_fails_is_an_error_page_once() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    // Without tokens, the sign-in cannot be completed.
    demo.press("Unavailable").await;
    let callback = browser.choose(&demo.app, "/graph", ADA).await;
    browser.get(callback.location()).await.assert_error(502, "AADSTS90033");
    assert!(demo.app.log().contains("the token endpoint answered 503"));
    browser.sign_in(&demo.app, "/graph", ADA).await;
    // The app waits for a slow profile for 15 seconds.
    for (fault, text) in [
        ("Unavailable", "serviceNotAvailable"),
        ("Slow", "Microsoft Graph is not available. Try again in a minute."),
    ] {
        demo.press(fault).await;
        browser.get(demo.app.at("/graph")).await.assert_error(502, text);
        assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200, "{fault}");
    }
    // An access token that is refused leads to another sign-in.
    demo.press("Expired").await;
    assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph");
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 200).into());
    demo.press("Unavailable").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, "AADSTS90033");
    let page = demo.page().await;
    for title in ["No response", "Refresh error"] {
        assert!(page.contains(&format!("<h4>{title}</h4>")), "{title}");
    }
    // If the refresh token is refused, the app asks for another sign-in.
    demo.press("NoRefresh").await;
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    demo.app.edit_session(|session| session["user"]["signed_in_on"] = (now() - 300).into());
    assert_eq!(demo.single_sign_on(&browser, "/graph").await.location(), "/graph");
    assert!(demo.app.log().contains("step 5: the refresh token was refused"));
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn only_forms_of_the_page_itself_are_accepted() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let own = demo.recorder.trim_end_matches('/');
    for (path, form) in [("faults", ("fault", "Revoked")), ("certificates", ("certificate", "x"))] {
        let url = format!("{}{path}", demo.recorder);
        for (origin, site) in [
            ("https://evil.example", "cross-site"),
            (&demo.app.url, "same-site"),
            (&own.replace("localhost", "127.0.0.1"), "same-origin"),
            (own, "same-site"),
        ] {
            let request = browser.client.post(&url).form(&[form]).header("Origin", origin);
            let page = browser.send(request.header("Sec-Fetch-Site", site)).await;
            assert_eq!(page.status, 403, "{path}: {origin}, {site}");
        }
        assert_eq!(browser.post(&url, &[form]).await.status, 403, "{path}: no origin");
        // GET changes nothing.
        browser.get(format!("{url}?{}={}", form.0, form.1)).await;
    }
    assert!(!demo.page().await.contains("Active:"));
    assert_eq!(demo.send_form("faults", "fault", "unknown").await.status, 400);
    // A name that an attacker chose for this address leads to the page's own name.
    let request = browser.client.get(&demo.recorder).header("Host", "evil.example");
    assert_eq!(browser.send(request).await.location(), demo.recorder);
    let page = browser.get(&demo.recorder).await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
    assert!(!page.body.contains("<script") && !page.body.contains("style="));
}

#[tokio::test]
async fn the_page_explains_each_message_and_each_parameter() {
    let demo = Demo::start(&[("SSO_LOGOUT", "true")]).await;
    let browser = demo.app.browser();
    assert!(demo.page().await.contains("No messages yet."));
    let authorize = browser.get(demo.app.at("/graph")).await;
    browser.get(authorize.location()).await;
    let callback = browser.post(authorize.location(), &[("choice", ADA)]).await;
    browser.get(callback.location()).await;
    browser.get(demo.app.at("/graph")).await;
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    browser.get(demo.app.at("/graph")).await;
    let logout = browser.get(demo.app.at("/logout")).await;
    assert_eq!(browser.get(logout.location()).await.location(), demo.app.at("/"));
    let page = demo.page().await;
    // The order in which it happened. Demo::start signed in before, so the app has the keys.
    let titles = page.split("<h4>").skip(1).map(|rest| rest.split("</h4>").next().unwrap());
    let expected = "Authorization request, Sign-in page, Choice of a user, \
        Redirect with the code, Token request, Token response, \
        Request for the signing keys, Signing keys, \
        Call to Microsoft Graph, Response of Microsoft Graph, Refresh request, Refreshed tokens, \
        Call to Microsoft Graph, Response of Microsoft Graph, \
        Sign-out request, Redirect after the sign-out";
    assert_eq!(Vec::from_iter(titles).join(", "), expected);
    for step in [2, 3, 5, 6, 7] {
        assert!(page.contains(&format!("<strong>Step {step}: ")), "step {step}");
    }
    assert!(page.contains("Signature: RS256 with key ") && page.contains("claims, as JSON"));

    // A newer sign-in is above, and is the one that is open.
    let declined = browser.choose(&demo.app, "/graph", "decline").await;
    browser.get(declined.location()).await.assert_error(403, "access_denied: AADSTS65004");
    let page = demo.page().await;
    let newest = page.find("<h3>Sign-in that failed</h3>").unwrap();
    assert!(newest < page.find("<h3>Sign-in of Ada Example</h3>").unwrap());
    assert_eq!(page.matches("<details class=\"sign-in\" open>").count(), 1);
    assert!(page.contains("1 refused") && page.contains("AADSTS65004: The user declined"));
}

#[tokio::test]
async fn each_marker_and_each_step_on_the_page_is_in_the_handlers() {
    let table = read("src/demo_tenant/explanations.rs");
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix("About(\""));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split(", ").collect()).collect();
    assert_eq!(rows.len(), 26);
    for row in rows {
        let [_, _, _, file, marker] = row[..] else { panic!("{row:?}") };
        if file == "\"\"" {
            continue;
        }
        let file = word_after(&format!("const {file}: &str = \""), &table);
        let marker = marker.trim_matches(['"', ',']);
        assert!(read(&file).contains(&format!("// <ms_docref_{marker}>\n")), "{file}: {marker}");
    }
    let handlers =
        ["admin", "auth_redirect", "graph"].map(|name| read(&format!("src/routes/{name}.rs")));
    let code = handlers.join("\n").to_lowercase();
    let (_, names) = table.split_once("STEPS: [&str; 10] = [\n    \"\",\n").unwrap();
    for (number, name) in (1..10).zip(names.lines()) {
        let name = name.trim().trim_matches(['"', ',']).to_lowercase();
        let comments = [": ", ", "].map(|separator| format!("step {number}{separator}{name}"));
        assert!(comments.iter().any(|comment| code.contains(comment)), "{comments:?}");
    }
}

#[tokio::test]
async fn the_page_shows_at_most_a_hundred_messages_and_escapes_what_is_in_them() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let markup = "<script>'</script><b>&amp;";
    for visit in 0..60 {
        let state = format!("{visit}{markup}");
        browser.get(demo.authorize(&[("state", &state), (markup, markup)])).await;
    }
    demo.redeem(markup, &[]).await;
    demo.graph(&format!("Bearer {markup}")).await;
    browser.get(demo.authorize(&[("redirect_uri", markup)])).await;
    let unknown_tenant = format!("{}%3Cb%3E/v2.0/.well-known/openid-configuration", demo.recorder);
    let page = browser.get(unknown_tenant).await;
    let refused = (page.status, json_of(&page));
    assert_refused("an unknown tenant", &refused, "invalid_tenant", 90002);
    let page = browser.get(&demo.recorder).await.body;
    assert_eq!(page.matches("<li class=\"re").count(), 100);
    assert!(!page.contains("<script") && !page.contains("<b>"));
    for text in ["AADSTS50011: ", "AADSTS70000: ", "AADSTS90002: ", "<code>59&lt;script&gt;"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<code>0&lt;script&gt;"), "the oldest messages are gone");
}

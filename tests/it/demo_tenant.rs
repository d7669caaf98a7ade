//! The demo tenant: as strict as Microsoft Entra ID, the page that shows the messages, and the
//! faults that its buttons make.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::time::Duration;

use base64::prelude::*;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::harness::*;
use crate::platform::now;

const VERIFIER: &str = "an-obviously-invented-code-verifier-of-43-characters";
const SCOPE: &str = "openid profile offline_access https://graph.microsoft.com/User.Read";
const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

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
        let (_, address) = log.split_once("see the messages between the two at ").unwrap();
        let recorder = address.split_whitespace().next().unwrap().to_owned();
        let authorize = app.browser().get(app.at("/graph")).await;
        let (authority, _) = authorize.location().split_once("/oauth2/").unwrap();
        let (authority, client_id) =
            (authority.to_owned(), authorize.location_parameter("client_id").unwrap());
        let mut demo = Self { app, recorder, authority, client_id, client_secret: String::new() };
        // The recorder shows the secret of the app.
        let browser = demo.app.browser();
        browser.sign_in(&demo.app, "/graph", BEN).await;
        let rows = demo.rows().await;
        demo.client_secret = rows.iter().find(|row| row.0 == "client_secret").unwrap().1.clone();
        demo.app.secrets.add(&demo.client_secret);
        browser.get(demo.app.at("/logout")).await;
        demo.press("reset").await;
        demo
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.authority)
    }

    fn form<'a>(&self, browser: &Browser, path: &str, form: &'a [(&'a str, &'a str)]) -> Request {
        let origin = self.recorder.trim_end_matches('/').to_owned();
        let request = browser.client.post(format!("{origin}{path}")).form(form);
        request.header("Origin", origin).header("Sec-Fetch-Site", "same-origin")
    }

    /// Presses a button of the recorder's page.
    async fn press(&self, fault: &str) {
        let browser = self.app.browser();
        let page = browser.send(self.form(&browser, "/faults", &[("fault", fault)])).await;
        assert_eq!((page.status, page.location()), (303, "/"), "{fault}: {}", page.body);
    }

    /// Registers a certificate on the recorder's page.
    async fn register(&self, certificate: &str) -> Page {
        let browser = self.app.browser();
        browser.send(self.form(&browser, "/certificates", &[("certificate", certificate)])).await
    }

    async fn page(&self) -> String {
        let page = self.app.browser().get(&self.recorder).await;
        assert_eq!(page.status, 200, "{}", page.body);
        page.body
    }

    /// The names, values and meanings in the tables of the recorder's page.
    async fn rows(&self) -> Vec<(String, String, String)> {
        let page = self.page().await;
        let rows = page.split("<th scope=\"row\"><code>").skip(1);
        let cells = rows.map(|row| {
            let (name, row) = row.split_once("</code></th><td><code>").unwrap();
            let (value, row) = row.split_once("</code>").unwrap();
            let meaning = row.split_once("<td>").unwrap().1.split_once(" <cite>").unwrap().0;
            (name.to_owned(), unescape(value), meaning.to_owned())
        });
        cells.collect()
    }

    /// The response to an authorization request, with some parameters changed or, if they are
    /// empty, left out.
    async fn authorize(&self, browser: &Browser, changes: &[(&str, &str)]) -> Page {
        browser.get(self.authorize_url(changes)).await
    }

    fn authorize_url(&self, changes: &[(&str, &str)]) -> Url {
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let redirect_uri = self.app.at("/auth/redirect");
        let parameters = [
            ("client_id", self.client_id.as_str()),
            ("response_type", "code"),
            ("redirect_uri", &redirect_uri),
            ("scope", SCOPE),
            ("state", "state-of-the-test"),
            ("nonce", "nonce-of-the-test"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        Url::parse_with_params(&self.at("/oauth2/v2.0/authorize"), change(&parameters, changes))
            .unwrap()
    }

    /// A new authorization code for Ada.
    async fn code(&self, changes: &[(&str, &str)]) -> String {
        let url = self.authorize_url(changes);
        let page = self.app.browser().post(url, &[("choice", ADA)]).await;
        page.location_parameter("code").unwrap_or_else(|| panic!("no code: {page:?}"))
    }

    /// The response of the token endpoint to the redemption of a code, with changes.
    async fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> (u16, Value) {
        let redirect_uri = self.app.at("/auth/redirect");
        let form = [
            ("client_id", self.client_id.as_str()),
            ("client_secret", &self.client_secret),
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", VERIFIER),
            ("claims", CP1),
        ];
        let form = change(&form, changes);
        let page = self.app.browser().post(self.at("/oauth2/v2.0/token"), &form).await;
        (page.status, serde_json::from_str(&page.body).unwrap())
    }

    async fn refresh(&self, token: &Value) -> (u16, Value) {
        let token = token.as_str().unwrap();
        let changes = [("grant_type", "refresh_token"), ("refresh_token", token), ("code", "")];
        self.redeem("", &changes).await
    }

    /// The status and the body of Microsoft Graph, and the header WWW-Authenticate.
    async fn graph(&self, authorization: &str) -> (u16, Value, String) {
        let browser = self.app.browser();
        let request = browser.client.get(format!("{}v1.0/me", self.recorder));
        let page = browser.send(request.header("Authorization", authorization)).await;
        let header = page.headers.get("www-authenticate").map(|header| header.to_str().unwrap());
        let header = header.unwrap_or_default().to_owned();
        (page.status, serde_json::from_str(&page.body).unwrap(), header)
    }
}

type Request = reqwest::RequestBuilder;

fn unescape(html: &str) -> String {
    let html = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    html.replace("&#39;", "'").replace("&amp;", "&")
}

/// The parameters with some of them changed or added. An empty value removes one.
fn change<'a>(
    all: &[(&'a str, &'a str)],
    changes: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let kept = all.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

/// Asserts that an error response has this OAuth error and AADSTS number.
#[track_caller]
fn assert_refused(case: &str, (status, body): &(u16, Value), error: &str, number: u32) {
    let expected = if error == "invalid_client" { 401 } else { 400 };
    assert_eq!((*status, &body["error"]), (expected, &json!(error)), "{case}: {body}");
    assert_eq!(body["error_codes"], json!([number]), "{case}: {body}");
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with(&format!("AADSTS{number}: ")), "{case}: {description}");
}

#[tokio::test]
async fn both_users_sign_in_and_only_ada_has_the_role() {
    let demo = Demo::start(&[]).await;
    for (user, name, admin) in [(ADA, "Ada Example", 200), (BEN, "Ben Example", 403)] {
        let browser = demo.app.browser();
        let page = browser.sign_in(&demo.app, "/graph", user).await;
        assert!(page.body.contains(user) && page.body.contains(name), "{}", page.body);
        assert_eq!(browser.get(demo.app.at("/admin")).await.status, admin);
        // The notice links to the messages.
        let link = format!("<a href=\"{}\">See the messages</a>", demo.recorder);
        assert!(page.body.contains(&link), "{}", page.body);
    }
    let browser = demo.app.browser();
    let declined = browser.choose(&demo.app, "/graph", "decline").await;
    browser.get(declined.location()).await.assert_error(403, "access_denied: AADSTS65004");
    let page = browser.choose(&demo.app, "/graph", "nobody@demo-tenant.example").await;
    assert!(page.status == 400 && page.body.contains("AADSTS50034"), "{}", page.body);
}

#[tokio::test]
async fn the_authorization_endpoint_is_strict() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let home = demo.app.at("/");
    let other_path = demo.app.at("/auth/Redirect");
    let port = Url::parse(&home).unwrap().port().unwrap();
    let by_address = format!("http://127.0.0.1:{port}/auth/redirect");
    // These show a page, because the redirect URI could belong to anyone.
    for (parameter, value, number) in [
        ("client_id", "", 900144),
        ("client_id", "4f2d8c1a-another-app", 700016),
        ("redirect_uri", "", 900971),
        ("redirect_uri", other_path.as_str(), 50011),
        ("redirect_uri", &by_address, 50011),
        ("redirect_uri", "https://localhost/auth/redirect", 50011),
        ("redirect_uri", "http://localhost/auth/redirect/", 50011),
        ("redirect_uri", "http://localhost/auth/redirect?x=1", 50011),
        ("redirect_uri", "http://localhost:1@evil.example/auth/redirect", 50011),
        ("redirect_uri", "http://localhost.evil.example/auth/redirect", 50011),
        ("redirect_uri", "http://localhost:99999/auth/redirect", 50011),
    ] {
        let page = demo.authorize(&browser, &[(parameter, value)]).await;
        assert_eq!(page.status, 400, "{parameter}={value}");
        assert!(page.body.contains(&format!("AADSTS{number}: ")), "{parameter}={value}");
    }
    // These go back to the app.
    for (parameter, value, error, number) in [
        ("response_type", "", "unsupported_response_type", 70005),
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
        let page = demo.authorize(&browser, &[(parameter, value)]).await;
        let case = format!("{parameter}={value}");
        assert_eq!(page.status, 303, "{case}: {}", page.body);
        assert!(page.location().starts_with(&demo.app.at("/auth/redirect?")), "{case}");
        assert_eq!(page.location_parameter("error").as_deref(), Some(error), "{case}");
        let description = page.location_parameter("error_description").unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")), "{case}: {description}");
        let state = page.location_parameter("state");
        assert_eq!(state.as_deref(), Some("state-of-the-test"), "{case}");
    }
    let repeated = format!("{}&state=again", demo.authorize_url(&[]));
    let page = browser.get(repeated).await;
    assert!(page.status == 400 && page.body.contains("AADSTS9000411"), "{}", page.body);
    // Other sites must not choose a user, not even one on another port of localhost.
    for site in ["same-site", "cross-site", "none"] {
        let form = browser.client.post(demo.authorize_url(&[])).form(&[("choice", ADA)]);
        let page = browser.send(form.header("Sec-Fetch-Site", site)).await;
        assert_eq!(page.status, 403, "{site}");
    }
}

#[tokio::test]
async fn the_port_of_localhost_does_not_count_but_a_code_is_for_one_redirect_uri() {
    let demo = Demo::start(&[]).await;
    for uri in ["http://localhost:1234/auth/redirect", "http://localhost/auth/redirect"] {
        let page = demo
            .app
            .browser()
            .post(demo.authorize_url(&[("redirect_uri", uri)]), &[("choice", ADA)])
            .await;
        assert!(page.location().starts_with(&format!("{uri}?code=")), "{}", page.location());
        let code = page.location_parameter("code").unwrap();
        let other = demo.redeem(&code, &[]).await;
        assert_refused(uri, &other, "invalid_client", 500112);
        let code = demo.code(&[("redirect_uri", uri)]).await;
        assert_eq!(demo.redeem(&code, &[("redirect_uri", uri)]).await.0, 200);
    }
    // The home page is registered too, for the sign-out.
    let home = demo.app.at("/");
    let code = demo.code(&[("redirect_uri", &home)]).await;
    assert_eq!(demo.redeem(&code, &[("redirect_uri", &home)]).await.0, 200);
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
        ("code", "", "invalid_grant", 70000),
        ("code", "unknown", "invalid_grant", 70000),
        ("redirect_uri", "", "invalid_client", 500112),
        ("redirect_uri", "http://localhost/", "invalid_client", 500112),
        ("code_verifier", "", "invalid_grant", 501481),
        ("code_verifier", "another-code-verifier-that-has-43-characters", "invalid_grant", 501481),
        ("scope", "openid email", "invalid_scope", 70011),
        ("claims", "text", "invalid_request", 9002313),
        ("client_assertion", "x", "invalid_request", 900144),
    ] {
        let code = demo.code(&[]).await;
        let refused = demo.redeem(&code, &[(parameter, value)]).await;
        assert_refused(&format!("{parameter}={value}"), &refused, error, number);
    }
    let code = demo.code(&[]).await;
    assert_eq!(demo.redeem(&code, &[]).await.0, 200);
    assert_refused("redeemed", &demo.redeem(&code, &[]).await, "invalid_grant", 54005);
    let page = demo.app.browser().get(demo.at("/oauth2/v2.0/token")).await;
    assert_eq!(page.status, 405);
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
    let demo = Demo::start(&[]).await;
    let (_, first) = demo.redeem(&demo.code(&[]).await, &[]).await;
    let (_, second) = demo.refresh(&first["refresh_token"]).await;
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    for tokens in [&first, &second] {
        assert_eq!(demo.refresh(&tokens["refresh_token"]).await.0, 200);
        let bearer = format!("bearer {}", tokens["access_token"].as_str().unwrap());
        let (status, profile, _) = demo.graph(&bearer).await;
        assert_eq!((status, &profile["userPrincipalName"]), (200, &json!(ADA)));
    }
    let unknown = demo.refresh(&json!("unknown")).await;
    assert_refused("unknown", &unknown, "invalid_grant", 70000);
    // A refresh token belongs to the app too.
    let token = second["refresh_token"].as_str().unwrap();
    let changes =
        [("grant_type", "refresh_token"), ("refresh_token", token), ("client_secret", "wrong")];
    assert_refused("secret", &demo.redeem("", &changes).await, "invalid_client", 7000215);
}

#[tokio::test]
async fn only_long_lived_access_tokens_come_with_refresh_in() {
    for (lifetime, refresh_in) in [(3600, Value::Null), (86_400, json!(43_200))] {
        let demo = Demo::start(&[("DEMO_TOKEN_LIFETIME", &lifetime.to_string())]).await;
        let (_, tokens) = demo.redeem(&demo.code(&[]).await, &[]).await;
        assert_eq!((&tokens["expires_in"], &tokens["refresh_in"]), (&json!(lifetime), &refresh_in));
    }
}

#[tokio::test]
async fn microsoft_graph_requires_a_valid_access_token_with_the_permission() {
    let demo = Demo::start(&[("DEMO_TOKEN_LIFETIME", "1")]).await;
    let scope = "openid profile offline_access";
    let tokens = demo.redeem(&demo.code(&[("scope", scope)]).await, &[]).await.1;
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let (status, body, _) = demo.graph(&bearer).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("Authorization_RequestDenied")));
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    for authorization in [bearer.as_str(), "Bearer unknown", "Basic dTpw", "Bearer"] {
        let (status, body, header) = demo.graph(authorization).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("InvalidAuthenticationToken")));
        assert!(header.starts_with("Bearer ") && !header.contains("claims"), "{header}");
    }
}

/// What Microsoft Entra ID answered in November 2026, from recordings and Microsoft Learn.
fn real_metadata() -> Value {
    let tenant = "https://login.microsoftonline.com/8a1f3c52-0d4e-4b6a-9c77-1e2d3f405162";
    json!({
        "token_endpoint": format!("{tenant}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{tenant}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{tenant}/v2.0"),
        "request_uri_parameter_supported": false,
        "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
        "authorization_endpoint": format!("{tenant}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{tenant}/oauth2/v2.0/devicecode"),
        "http_logout_supported": true,
        "frontchannel_logout_supported": true,
        "end_session_endpoint": format!("{tenant}/oauth2/v2.0/logout"),
        "claims_supported": ["sub", "iss", "cloud_instance_name", "cloud_instance_host_name",
            "cloud_graph_host_name", "msgraph_host", "aud", "exp", "iat", "auth_time", "acr",
            "nonce", "preferred_username", "name", "tid", "ver", "at_hash", "c_hash", "email"],
        "kerberos_endpoint": format!("{tenant}/kerberos"),
        "tenant_region_scope": "NA",
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    })
}

#[tokio::test]
async fn metadata_keys_claims_and_errors_are_a_subset_of_the_real_ones() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let get = async |path| -> Value {
        serde_json::from_str(&browser.get(demo.at(path)).await.body).unwrap()
    };
    let (ours, real) = (get("/v2.0/.well-known/openid-configuration").await, real_metadata());
    for (name, value) in ours.as_object().unwrap() {
        match (value, &real[name]) {
            (Value::Array(ours), Value::Array(real)) => {
                assert!(ours.iter().all(|value| real.contains(value)), "{name}: {ours:?}");
            }
            (Value::String(ours), Value::String(real)) if ours.starts_with("http") => {
                let end = |url: &str| Url::parse(url).unwrap().path()[37..].to_owned();
                assert_eq!(end(ours), end(real), "{name}");
            }
            (ours, real) => assert_eq!(ours, real, "{name}"),
        }
    }
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let is_subset = |value: &Value, real: &str| {
        let real: BTreeSet<_> = real.split(' ').map(str::to_owned).collect();
        let ours = names(value);
        assert!(ours.is_subset(&real), "not in a real one: {:?}", ours.difference(&real));
    };
    let keys = get("/discovery/v2.0/keys").await;
    let key = &keys["keys"][0];
    is_subset(key, "kty use kid x5t n e x5c issuer");
    assert_eq!((&key["kid"], &key["issuer"]), (&key["x5t"], &ours["issuer"]));

    let (_, tokens) = demo.redeem(&demo.code(&[]).await, &[]).await;
    is_subset(
        &tokens,
        "token_type scope expires_in ext_expires_in refresh_in access_token refresh_token \
         id_token client_info",
    );
    let id_token = tokens["id_token"].as_str().unwrap();
    let key =
        DecodingKey::from_rsa_components(key["n"].as_str().unwrap(), key["e"].as_str().unwrap());
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[&demo.client_id]);
    validation.set_issuer(&[ours["issuer"].as_str().unwrap()]);
    let id_token = jsonwebtoken::decode::<Value>(id_token, &key.unwrap(), &validation).unwrap();
    assert_eq!(id_token.header.kid.as_deref(), keys["keys"][0]["kid"].as_str());
    let claims = id_token.claims;
    is_subset(
        &claims,
        "aud iss iat nbf exp aio name nonce oid preferred_username rh sid sub tid uti ver \
         idp email roles groups auth_time login_hint",
    );
    assert_eq!(claims["nonce"], "nonce-of-the-test");
    assert_eq!((&claims["roles"], &claims["preferred_username"]), (&json!(["admin"]), &json!(ADA)));
    assert!(claims["login_hint"].as_str().unwrap().starts_with("O."));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3900);

    let (_, error) = demo.redeem("unknown", &[]).await;
    is_subset(
        &error,
        "error error_description error_codes timestamp trace_id correlation_id error_uri \
         suberror claims password_change_url",
    );
    let description = error["error_description"].as_str().unwrap();
    let lines: Vec<_> =
        description.split("\r\n").map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["AADSTS70000", "Trace ID", "Correlation ID", "Timestamp"]);

    let other = browser.get(demo.recorder.clone() + "common/v2.0/.well-known/openid-configuration");
    let other = other.await;
    let error: Value = serde_json::from_str(&other.body).unwrap();
    assert_refused("another tenant", &(other.status, error), "invalid_tenant", 90002);
    assert_eq!(browser.get(demo.at("/nothing")).await.status, 404);
}

#[tokio::test]
async fn login_hint_signs_in_or_preselects_the_user() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let first_user = |page: &Page| {
        let (_, rest) = page.body.split_once("name=\"choice\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let page = demo.authorize(&browser, &[("login_hint", BEN)]).await;
    assert_eq!((page.status, first_user(&page).as_str()), (200, BEN));
    assert!(page.body.contains("named by the app in <code>login_hint</code>"));

    // Single sign-on, with the name or the claim `login_hint` of the user, or without a hint.
    browser.post(demo.authorize_url(&[]), &[("choice", BEN)]).await;
    let code = demo.authorize(&browser, &[]).await.location_parameter("code").unwrap();
    let (_, tokens) = demo.redeem(&code, &[]).await;
    let claims = tokens["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    for hint in ["", BEN, &BEN.to_uppercase(), claims["login_hint"].as_str().unwrap()] {
        for prompt in ["", "none"] {
            let page = demo.authorize(&browser, &[("login_hint", hint), ("prompt", prompt)]).await;
            assert!(page.location_parameter("code").is_some(), "{hint} {prompt}");
        }
    }
    // Another user has to sign in.
    for (hint, first) in [(ADA, ADA), ("nobody@demo-tenant.example", ADA)] {
        let page = demo.authorize(&browser, &[("login_hint", hint)]).await;
        assert_eq!((page.status, first_user(&page).as_str()), (200, first), "{hint}");
        let page = demo.authorize(&browser, &[("login_hint", hint), ("prompt", "none")]).await;
        assert_eq!(page.location_parameter("error").as_deref(), Some("login_required"));
    }
    for prompt in ["login", "select_account", "consent"] {
        assert_eq!(demo.authorize(&browser, &[("prompt", prompt)]).await.status, 200, "{prompt}");
    }
}

#[tokio::test]
async fn a_sign_out_ends_single_sign_on_and_leads_only_to_a_registered_address() {
    let demo = Demo::start(&[("SSO_LOGOUT", "true")]).await;
    let browser = demo.app.browser();
    let home = demo.app.at("/");
    for (uri, is_registered) in [
        (home.as_str(), true),
        ("http://localhost:1/auth/redirect", true),
        (&demo.app.at("/graph"), false),
        ("https://evil.example/", false),
        ("", false),
    ] {
        browser.post(demo.authorize_url(&[]), &[("choice", ADA)]).await;
        let query = [("post_logout_redirect_uri", uri), ("logout_hint", "O.anything")];
        let url = Url::parse_with_params(&demo.at("/oauth2/v2.0/logout"), query).unwrap();
        let page = browser.get(url).await;
        match is_registered {
            true => assert_eq!((page.status, page.location()), (302, uri)),
            false => assert!(page.status == 200 && page.body.contains("You signed out"), "{uri}"),
        }
        assert_eq!(demo.authorize(&browser, &[]).await.status, 200, "{uri}");
    }
    // The app sends the claim `login_hint` and comes back to its home page.
    browser.sign_in(&demo.app, "/graph", ADA).await;
    let logout = browser.get(demo.app.at("/logout")).await;
    assert!(logout.location_parameter("logout_hint").unwrap().starts_with("O."));
    assert_eq!(browser.get(logout.location()).await.location(), home);
    let page = demo.page().await;
    assert!(page.contains("Sign-out request") && page.contains("ms_docref_sso_logout"), "{page}");
}

/// A key and its certificate, in PEM, and the SHA-256 thumbprint of the certificate.
fn certificate() -> (String, String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(certificate.der()));
    (key.serialize_pem(), certificate.pem(), thumbprint)
}

#[tokio::test]
async fn an_app_signs_in_with_a_registered_certificate() {
    let demo = Demo::start(&[]).await;
    let (key, certificate, thumbprint) = certificate();
    for (text, message) in [
        ("text", "does not contain a certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no RSA key"),
        (&*format!("{key}{certificate}"), "a private key"),
    ] {
        let page = demo.register(text).await;
        assert!(page.status == 400 && page.body.contains(message), "{text}: {}", page.body);
    }
    assert_eq!(demo.register(&certificate).await.location(), "/");
    let page = demo.page().await;
    assert!(page.contains(&thumbprint) && page.contains("CLIENT_CREDENTIAL=file:app.pem"));

    // A second app, with the values that the page shows.
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("app.pem");
    fs::write(&file, format!("{key}{certificate}")).unwrap();
    let credential = format!("file:{}", file.display());
    let endpoint = format!("{}v1.0/me", demo.recorder);
    let second = App::start(&[
        ("CLIENT_ID", &demo.client_id),
        ("CLIENT_CREDENTIAL", &credential),
        ("AUTHORITY", &demo.authority),
        ("ENDPOINT", &endpoint),
    ])
    .await;
    let browser = second.browser();
    let page = browser.sign_in(&second, "/graph", ADA).await;
    assert!(page.status == 200 && page.body.contains(ADA), "{}", page.body);
    let rows = demo.rows().await;
    for name in ["client_assertion", "x5t#S256", "jti"] {
        assert!(rows.iter().any(|row| row.0 == name), "{name} is not in {rows:?}");
    }
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
    demo.register(&registered).await;
    let assertion = |key: &str, algorithm, thumbprint: &str, changes: Value| {
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(thumbprint.to_owned());
        let mut claims = json!({
            "aud": demo.at("/oauth2/v2.0/token"), "iss": demo.client_id, "sub": demo.client_id,
            "jti": format!("{:x}", rand::random::<u64>()), "nbf": now(), "exp": now() + 300,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let key = EncodingKey::from_rsa_pem(key.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let redeem = async |assertion: &str| {
        let code = demo.code(&[]).await;
        let changes = [
            ("client_secret", ""),
            ("client_assertion", assertion),
            ("client_assertion_type", JWT_BEARER),
        ];
        demo.redeem(&code, &changes).await
    };
    let ours = |changes| assertion(&key, Algorithm::PS256, &thumbprint, changes);
    let good = ours(json!({}));
    assert_eq!(redeem(&good).await.0, 200);
    for (case, assertion, number) in [
        ("used twice", good, 50013),
        ("not a JWT", "x.y.z".to_owned(), 50013),
        ("no jti", ours(json!({ "jti": null })), 50013),
        ("another key", assertion(&other_key, Algorithm::PS256, &thumbprint, json!({})), 700027),
        ("another certificate", assertion(&key, Algorithm::PS256, "x", json!({})), 700027),
        ("RS256", assertion(&key, Algorithm::RS256, &thumbprint, json!({})), 700027),
        ("another audience", ours(json!({ "aud": demo.authority })), 700023),
        ("another issuer", ours(json!({ "iss": "x" })), 700021),
        ("another subject", ours(json!({ "sub": "x" })), 700021),
        ("Expired", ours(json!({ "exp": now() - 1 })), 700024),
        ("too long", ours(json!({ "exp": now() + 700 })), 700024),
        ("no end", ours(json!({ "exp": null })), 700024),
        ("from the future", ours(json!({ "nbf": now() + 60 })), 700024),
    ] {
        assert_refused(case, &redeem(&assertion).await, "invalid_client", number);
    }
}

/// Signs Ada in. The sign-in seems to be a few minutes old, because the app answers some errors
/// in the first minute with a page and not with another sign-in.
async fn signed_in_for_minutes(demo: &Demo, browser: &Browser) {
    browser.sign_in(&demo.app, "/graph", ADA).await;
    demo.app.edit_session(|session| session["user"]["signed_in_on"] = (now() - 300).into());
}

#[tokio::test]
async fn a_revoked_session_leads_to_a_claims_challenge_and_a_new_sign_in() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    signed_in_for_minutes(&demo, &browser).await;
    let (_, old) = demo.redeem(&demo.code(&[]).await, &[]).await;
    let (_, without_cp1) = demo.redeem(&demo.code(&[]).await, &[("claims", "")]).await;
    demo.press("Revoked").await;
    assert!(demo.page().await.contains("Active: Revoke all sessions."));

    // Tokens from before do not work, unless the app cannot answer a challenge.
    let bearer = |tokens: &Value| format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let (status, _, header) = demo.graph(&bearer(&old)).await;
    assert!(
        status == 401 && header.contains("error=\"insufficient_claims\", claims=\""),
        "{header}"
    );
    assert_eq!(demo.graph(&bearer(&without_cp1)).await.0, 200);
    let refused = demo.refresh(&old["refresh_token"]).await;
    assert_refused("Revoked", &refused, "invalid_grant", 50173);
    assert_eq!(refused.1["suberror"], "bad_token");

    // The app answers the challenge. Single sign-on has ended, and Ada is preselected.
    let authorize = browser.get(demo.app.at("/graph")).await;
    let claims: Value =
        serde_json::from_str(&authorize.location_parameter("claims").unwrap()).unwrap();
    let nbf = claims["access_token"]["nbf"]["value"].as_str().unwrap();
    assert!((now() - nbf.parse::<i64>().unwrap()).abs() < 60, "{claims}");
    assert!(demo.app.log().contains("step 5: Microsoft Graph sent a claims challenge"));
    let choice = browser.post(authorize.location(), &[("choice", ADA)]).await;
    assert_eq!(browser.get(choice.location()).await.location(), "/graph");
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    let page = demo.page().await;
    for text in [
        "answers a claims challenge",
        "ms_docref_claims_challenge",
        "Claims challenge",
        "claims, decoded from Base64",
        "TokenIssuedBeforeRevocationTimestamp",
        "AADSTS50173",
    ] {
        assert!(page.contains(text), "{text}");
    }

    // In the first minute, a second challenge is an error page.
    demo.press("Revoked").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, "TokenIssuedBeforeRevocation");
}

#[tokio::test]
async fn expired_access_tokens_and_refused_refresh_tokens() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    signed_in_for_minutes(&demo, &browser).await;
    demo.press("Expired").await;
    let text =
        "Microsoft Graph answered 401. InvalidAuthenticationToken: Lifetime validation failed";
    browser.get(demo.app.at("/graph")).await.assert_error(502, text);
    assert!(demo.app.log().contains("step 3: 401, \"InvalidAuthenticationToken\""));
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    assert!(demo.app.log().contains("step 2: access token cached"));
    let page = demo.page().await;
    assert!(page.contains("Refreshed tokens") && page.contains("ms_docref_refresh_token"));

    demo.press("NoRefresh").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, text);
    let authorize = browser.get(demo.app.at("/graph")).await;
    assert_eq!(authorize.location_parameter("login_hint").unwrap().get(..2), Some("O."));
    assert!(demo.app.log().contains("step 2: the refresh failed, \"invalid_grant\""));
    assert!(demo.app.log().contains("step 5: the refresh token was refused"));
    // Single sign-on signs the user in again, and the new tokens work.
    let code = browser.get(authorize.location()).await;
    assert_eq!(browser.get(code.location()).await.location(), "/graph");
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    assert!(demo.page().await.contains("AADSTS70008"));

    // In the first minute after a sign-in, the app shows an error page.
    demo.press("NoRefresh").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, text);
    browser.get(demo.app.at("/graph")).await.assert_error(502, "AADSTS70008");
}

#[tokio::test]
async fn a_wrong_id_token_is_refused_once() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    for (fault, label, status, text, log) in [
        (
            "UnknownKey",
            "Sign the next ID token with an unknown key",
            401,
            "the check of the key",
            "fails the check of the key",
        ),
        (
            "OtherAudience",
            "Issue the next ID token for another app",
            401,
            "the check of aud",
            "fails the check of aud",
        ),
        (
            "OtherNonce",
            "Change the nonce of the next ID token",
            401,
            "the check of nonce",
            "fails the check of nonce",
        ),
    ] {
        demo.press(fault).await;
        browser.get(demo.app.at("/logout")).await;
        for is_wrong in [true, false] {
            let authorize = browser.get(demo.app.at("/graph")).await;
            let code = browser.get(authorize.location()).await;
            let page = browser.get(code.location()).await;
            if is_wrong {
                page.assert_error(status, text);
                let log_now = demo.app.log();
                assert!(log_now.contains(&format!("step 8: refused, the ID token {log}")));
                assert_eq!(browser.get(demo.app.at("/graph")).await.status, 302);
                let page = demo.page().await;
                assert!(page.contains(&format!("You asked for this: {label}.")), "{fault}");
                assert!(!page.contains("Active:"), "{fault}");
            } else {
                assert_eq!(page.location(), "/graph", "{fault}");
            }
        }
    }
}

#[tokio::test]
async fn adas_role_is_taken_away_and_given_back() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/admin", ADA).await;
    let sign_in_again = async || {
        browser.get(demo.app.at("/logout")).await;
        let authorize = browser.get(demo.app.at("/admin")).await;
        let code = browser.get(authorize.location()).await;
        browser.get(code.location()).await;
        browser.get(demo.app.at("/admin")).await
    };
    demo.press("NoRole").await;
    assert!(demo.page().await.contains("Give the role back"));
    // The old ID token still has the role.
    assert_eq!(browser.get(demo.app.at("/admin")).await.status, 200);
    sign_in_again().await.assert_error(403, "Required role: &quot;admin&quot;");
    assert!(demo.app.log().contains("step 4: refused"));
    demo.press("none").await;
    assert_eq!(browser.get(demo.app.at("/admin")).await.status, 403);
    assert_eq!(sign_in_again().await.status, 200);
}

#[tokio::test]
async fn an_unavailable_tenant_is_an_error_page_once() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    // For tokens: the sign-in cannot be completed.
    demo.press("Unavailable").await;
    let callback = browser.choose(&demo.app, "/graph", ADA).await;
    browser.get(callback.location()).await.assert_error(502, "AADSTS90033");
    assert!(demo.app.log().contains("step 7: the token endpoint answered 503"));
    assert!(demo.page().await.contains("You asked for this: Be unavailable for the next request."));
    browser.sign_in(&demo.app, "/graph", ADA).await;
    // For the profile.
    demo.press("Unavailable").await;
    let page = browser.get(demo.app.at("/graph")).await;
    page.assert_error(502, "Microsoft Graph answered 503. serviceNotAvailable");
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    // For a refresh. The cached access token is still valid.
    demo.app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 200).into());
    demo.press("Unavailable").await;
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
    assert!(demo.app.log().contains("step 2: the refresh failed, \"temporarily_unavailable\""));
    assert!(demo.page().await.contains("Refresh error"));
}

#[tokio::test]
async fn a_slow_tenant_is_an_error_page_after_fifteen_seconds() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    demo.press("Slow").await;
    let page = browser.get(demo.app.at("/graph")).await;
    page.assert_error(502, "Microsoft Graph is not available. Try again in a minute.");
    assert!(demo.app.log().contains("step 3: no response from Microsoft Graph"));
    assert!(demo.page().await.contains("No response"));
    assert_eq!(browser.get(demo.app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn only_forms_of_the_page_itself_are_accepted() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let origin = demo.recorder.trim_end_matches('/');
    let app = demo.app.url.as_str();
    let by_address = origin.replace("localhost", "127.0.0.1");
    for (case, origin_header, site) in [
        ("another site", Some("https://evil.example"), Some("cross-site")),
        ("another port", Some(app), Some("same-site")),
        ("another name", Some(by_address.as_str()), Some("same-origin")),
        ("a hidden origin", Some("null"), Some("cross-site")),
        ("no origin", None, Some("same-origin")),
        ("no header", None, None),
        ("headers that differ", Some(origin), Some("same-site")),
    ] {
        for (path, form) in
            [("faults", ("fault", "Revoked")), ("certificates", ("certificate", "x"))]
        {
            let mut request = browser.client.post(format!("{}{path}", demo.recorder)).form(&[form]);
            if let Some(origin) = origin_header {
                request = request.header("Origin", origin);
            }
            if let Some(site) = site {
                request = request.header("Sec-Fetch-Site", site);
            }
            let page = browser.send(request).await;
            assert_eq!(page.status, 403, "{case}: {}", page.body);
        }
    }
    // GET changes nothing.
    for path in ["faults?fault=Revoked", "certificates?certificate=x", "?fault=Revoked"] {
        browser.get(format!("{}{path}", demo.recorder)).await;
    }
    assert!(!demo.page().await.contains("Active:"));
    let unknown = browser.send(demo.form(&browser, "/faults", &[("fault", "unknown")])).await;
    assert_eq!(unknown.status, 400);
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
    browser.get(logout.location()).await;
    let page = demo.page().await;
    // The order in which it happened.
    let titles: Vec<_> =
        page.split("<h4>").skip(1).map(|rest| rest.split("</h4>").next().unwrap()).collect();
    assert_eq!(
        titles,
        [
            "Authorization request",
            "Sign-in page",
            "Choice of a user",
            "Redirect with the code",
            "Token request",
            "Token response",
            // Demo::start signed in before, so the app has the signing keys.
            "Call to Microsoft Graph",
            "Response of Microsoft Graph",
            "Refresh request",
            "Refreshed tokens",
            "Call to Microsoft Graph",
            "Response of Microsoft Graph",
            "Sign-out request",
            "Redirect after the sign-out",
        ]
    );
    for step in [2, 3, 5, 6, 7] {
        assert!(page.contains(&format!("<strong>Step {step}: ")), "step {step}");
    }
    assert!(page.contains("<h3>Sign-in of Ada Example</h3>"));
    assert!(page.contains("Signature: RS256 with key "));
    assert!(page.contains("claims, as JSON"));

    // A newer sign-in is above, and is the one that is open.
    let declined = browser.choose(&demo.app, "/graph", "decline").await;
    browser.get(declined.location()).await;
    let page = demo.page().await;
    let newest = page.find("<h3>Sign-in that failed</h3>").unwrap();
    assert!(newest < page.find("<h3>Sign-in of Ada Example</h3>").unwrap());
    assert_eq!(page.matches("<details class=\"sign-in\" open>").count(), 1);
    assert!(page.contains("1 refused") && page.contains("AADSTS65004: The user declined"));

    for (name, value, meaning) in demo.rows().await {
        assert_ne!(meaning, "This sample does not use it.", "{name} = {value}");
    }
}

#[tokio::test]
async fn each_marker_on_the_page_is_in_the_file() {
    let table = read("src/demo_tenant/explanations.rs");
    let files: HashMap<_, _> = table
        .lines()
        .filter_map(|line| line.strip_prefix("const ")?.split_once(": &str = \"src/"))
        .map(|(name, path)| (name, format!("src/{}", path.trim_end_matches("\";"))))
        .collect();
    let mut steps = BTreeSet::new();
    for line in table.lines().filter_map(|line| line.trim().strip_prefix("About(\"")) {
        let row: Vec<_> = line.split(", ").collect();
        let [_, _, step, file, marker] = row[..] else { panic!("{row:?}") };
        let marker = marker.trim_matches(['"', ',']);
        if marker.is_empty() {
            continue;
        }
        let code = read(&files[file]);
        let marked = code.split_once(&format!("// <ms_docref_{marker}>\n"));
        let marked = marked.unwrap_or_else(|| panic!("{marker} is not in {file}")).1;
        assert!(marked.contains(&format!("// </ms_docref_{marker}>\n")), "{marker}");
        steps.insert(step);
    }
    assert_eq!(Vec::from_iter(steps), ["0", "2", "3", "5", "6", "7", "8"]);
    // The names of the steps are those of the comments in the handlers.
    let handlers =
        ["admin", "auth_redirect", "graph"].map(|name| read(&format!("src/routes/{name}.rs")));
    let code = handlers.join("\n").to_lowercase();
    let (_, names) =
        table.split_once("pub(super) const STEPS: [&str; 10] = [\n    \"\",\n").unwrap();
    for (number, name) in names.lines().take(9).enumerate() {
        let name = name.trim().trim_matches(['"', ',']).to_lowercase();
        assert!(
            code.contains(&format!("step {}: {name}", number + 1))
                || code.contains(&format!("step {}, {name}", number + 1)),
            "{number} {name}"
        );
    }
}

#[tokio::test]
async fn the_page_shows_at_most_a_hundred_messages_and_escapes_what_is_in_them() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let markup = "<script>alert('1')</script><b>&amp;";
    for visit in 0..60 {
        let state = format!("{visit}{markup}");
        let changes = [("state", state.as_str()), (markup, markup), ("login_hint", markup)];
        demo.authorize(&browser, &changes).await;
    }
    demo.redeem(markup, &[("code_verifier", markup)]).await;
    demo.authorize(&browser, &[("redirect_uri", markup)]).await;
    demo.graph(&format!("Bearer {markup}")).await;
    let strange = format!("{}{}/v2.0/.well-known/openid-configuration", demo.recorder, "%3Cb%3E");
    browser.get(strange).await;
    let page = demo.page().await;
    assert_eq!(page.matches("<li class=\"re").count(), 100);
    assert!(!page.contains("<script") && !page.contains("<b>"));
    assert!(page.contains("&lt;script&gt;") && unescape(&page).contains(markup));
    for number in [50011, 70000, 90002] {
        assert!(page.contains(&format!("AADSTS{number}: ")), "{number}");
    }
    assert!(page.contains("10&lt;script&gt;") || page.contains("59&lt;script&gt;"));
    assert!(!page.contains("<code>0&lt;script&gt;"), "the oldest messages are gone");
}

//! The identity platform or Microsoft Graph is down, slow, or returns something else. The user
//! gets a page that says so, the log has the cause, and the app goes on.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::*;

const TOKEN_PAGE: &str = "Microsoft Entra ID sent no valid answer. Try again in a minute.";
const KEYS_PAGE: &str = "The signing keys are not available.";
const GRAPH_PAGE: &str = "Microsoft Graph is not available. Try again in a minute.";

/// The beginning of a response.
const HALF: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";

type Edit = fn(&mut Answer);

/// Responses that are not what an endpoint returns when it works.
const FAILURES: [(u16, Edit); 9] = [
    (429, |answer| {
        answer.say(429, "Too Many Requests");
        answer.headers.push(("retry-after", "60".to_owned()));
    }),
    (500, |answer| answer.say(500, "<html>Internal Server Error</html>")),
    (502, |answer| answer.say(502, "")),
    (503, |answer| answer.say(503, "Service Unavailable")),
    (200, |answer| answer.say(200, "<html>Welcome to the network of the hotel</html>")),
    (200, |answer| answer.say(200, "")),
    (200, |answer| answer.say(200, r#"{"access_token":"#)),
    (200, |answer| answer.say(200, "[".repeat(100_000))),
    (200, |answer| answer.json = json!([answer.json])),
];

#[tokio::test]
async fn a_token_endpoint_that_fails_leads_to_an_error_page_at_the_sign_in_and_at_a_refresh() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let user = app.browser();
    for (status, edit) in FAILURES {
        platform.on(Endpoint::Token, edit);
        let browser = app.browser();
        let before = app.log().len();
        platform.sign_in(&app, &browser, "/graph").await.assert_error(502, TOKEN_PAGE);
        let log = app.log().split_off(before);
        assert!(log.contains(&format!("step 7: the token endpoint answered {status}")), "{log}");
        assert!(log.contains("step 7: no tokens from the token endpoint, reqwest::Error"), "{log}");
        platform.assert_nobody_is_signed_in(&app, &browser).await;
    }
    platform.on(Endpoint::Token, |_| {});
    platform.sign_in(&app, &user, "/graph").await;
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    let session = app.session();
    for (status, edit) in FAILURES {
        platform.on(Endpoint::Token, edit);
        let before = app.log().len();
        user.get(app.at("/graph")).await.assert_error(502, TOKEN_PAGE);
        let log = app.log().split_off(before);
        assert!(log.contains(&format!("step 2: the token endpoint answered {status}")), "{log}");
        assert!(log.contains("step 2: the refresh failed, reqwest::Error"), "{log}");
        // The user stays signed in.
        assert_eq!(app.session(), session, "{status}");
        assert_eq!(user.get(app.at("/admin")).await.status, 200, "{status}");
    }
    assert_eq!(platform.requests(Endpoint::Graph).await.len(), 0);
    platform.on(Endpoint::Token, |_| {});
    assert_eq!(user.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn a_failure_of_microsoft_graph_leads_to_an_error_page() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let session = app.session();
    for (status, edit) in FAILURES {
        platform.on(Endpoint::Graph, edit);
        let before = app.log().len();
        let page = browser.get(app.at("/graph")).await;
        let advice = if status == 200 { "Check ENDPOINT" } else { "Try again in a minute." };
        let text = format!("Microsoft Graph answered {status}. no error code: no message {advice}");
        page.assert_error(502, &text);
        assert!(!page.body.contains("hotel") && !page.body.contains("Internal"), "{}", page.body);
        let log = app.log().split_off(before);
        assert!(log.contains(&format!("step 3: {status}, \"no error code\"")), "{log}");
        assert_eq!(app.session(), session, "{status}");
        assert_eq!(browser.get(app.at("/admin")).await.status, 200, "{status}");
    }
    platform.on(Endpoint::Graph, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

/// Asserts that no request came to this platform.
async fn assert_was_not_asked(platform: &Platform) {
    for endpoint in [Endpoint::Metadata, Endpoint::Keys, Endpoint::Token, Endpoint::Graph] {
        assert_eq!(platform.requests(endpoint).await.len(), 0, "{endpoint:?}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed_so_secrets_and_tokens_go_nowhere_else() {
    let (platform, other) = (Platform::start().await, Platform::start().await);
    let app = platform.app(&[]).await;
    let redirect = |endpoint, status: u16, location: String| {
        platform.on(endpoint, move |answer| {
            answer.say(status, "");
            answer.headers.push(("location", location.clone()));
        });
    };
    for status in [301, 302, 303, 307, 308] {
        let user = app.browser();
        for (endpoint, path, text) in [
            (Endpoint::Token, "oauth2/v2.0/token", TOKEN_PAGE),
            (Endpoint::Keys, "discovery/v2.0/keys", KEYS_PAGE),
        ] {
            platform.id_token(move |token| token.header["kid"] = format!("new-{status}").into());
            redirect(endpoint, status, format!("{}/{path}", other.authority()));
            platform.sign_in(&app, &app.browser(), "/graph").await.assert_error(502, text);
            platform.on(endpoint, |_| {});
        }
        platform.id_token(|_| {});
        platform.sign_in(&app, &user, "/graph").await;
        redirect(Endpoint::Graph, status, other.endpoint());
        let text = format!("Microsoft Graph answered {status}.");
        user.get(app.at("/graph")).await.assert_error(502, &text);
        platform.on(Endpoint::Graph, |_| {});
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        redirect(Endpoint::Token, status, format!("{}/oauth2/v2.0/token", other.authority()));
        user.get(app.at("/graph")).await.assert_error(502, TOKEN_PAGE);
        platform.on(Endpoint::Token, |_| {});
        assert_eq!(user.get(app.at("/graph")).await.status, 200);
        user.get(app.at("/logout")).await;

        let metadata = format!("{}/v2.0/.well-known/openid-configuration", other.authority());
        redirect(Endpoint::Metadata, status, metadata);
        let lines = platform.refused_by_the_app(&[]).await;
        assert!(lines[0].contains(&format!("answered {status} ")), "{lines:?}");
    }
    assert_was_not_asked(&other).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_with_http_leads_to_an_error_page() {
    // The port is bound, so that no other program gets it. Nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    for (case, address) in [
        ("refused", format!("http://{}", socket.local_addr().unwrap())),
        ("closed at once", broken_server(b"", false).await),
        ("another protocol", broken_server(b"SSH-2.0-OpenSSH_9.9\r\n", false).await),
        ("closed in the body", broken_server(HALF, false).await),
    ] {
        let platform = Platform::start().await;
        for (name, text, cause) in [
            ("token_endpoint", TOKEN_PAGE, "step 7: no tokens from the token endpoint, reqwest"),
            ("jwks_uri", KEYS_PAGE, "step 8: the signing keys are not available, reqwest"),
        ] {
            let address = address.clone();
            platform
                .on(Endpoint::Metadata, move |answer| answer.json[name] = address.clone().into());
            let app = platform.app(&[]).await;
            let browser = app.browser();
            platform.sign_in(&app, &browser, "/graph").await.assert_error(502, text);
            assert!(app.log().contains(cause), "{case}: {}", app.log());
            platform.assert_nobody_is_signed_in(&app, &browser).await;
        }
        platform.on(Endpoint::Metadata, |_| {});
        let app = platform.app(&[("ENDPOINT", &address)]).await;
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        let page = browser.get(app.at("/graph")).await;
        let (text, cause) = match case {
            "closed in the body" => ("Microsoft Graph answered 200.", "step 3: the response of"),
            _ => (GRAPH_PAGE, "step 3: no response from Microsoft Graph: reqwest::Error"),
        };
        page.assert_error(502, text);
        assert!(app.log().contains(cause), "{case}: {}", app.log());
        assert_eq!(browser.get(app.at("/admin")).await.status, 200, "{case}");

        let authority = format!("{address}/{TENANT_ID}");
        let lines = platform.refused_by_the_app(&[("AUTHORITY", &authority)]).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("is not available, check the spelling and the network"),
            "{case}"
        );
    }
}

/// More than the app has worker threads. If a request that waits held a thread, no other request
/// would get a response.
const MANY: usize = 8;

/// Opens all of these pages at once, which wait for a slow endpoint. Meanwhile, other requests get
/// their pages. After these seconds at the earliest, each page is an error page with this text.
async fn assert_waits(
    app: &App,
    pages: Vec<(Browser, String)>,
    seconds: u64,
    text: &str,
    cause: &str,
) {
    let started = Instant::now();
    let before = app.log().len();
    let mut waiting = JoinSet::new();
    for (browser, address) in pages {
        waiting.spawn(async move { browser.get(address).await });
    }
    let visitor = app.browser();
    while started.elapsed() < Duration::from_secs(seconds) {
        for (path, status) in [("/", 200), ("/graph", 302), ("/admin", 302), ("/style.css", 200)] {
            assert_eq!(visitor.get(app.at(path)).await.status, status, "{path}");
        }
        assert!(waiting.try_join_next().is_none(), "a page did not wait");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    while let Some(page) = waiting.join_next().await {
        page.unwrap().assert_error(502, text);
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    let log = app.log().split_off(before);
    assert!(log.contains(cause), "{cause} is not in {log}");
}

/// Browsers that are on their way back from the identity platform.
async fn callbacks(platform: &Platform, app: &App) -> Vec<(Browser, String)> {
    let mut pages = Vec::new();
    for _ in 0..MANY {
        let browser = app.browser();
        let callback = platform.callback(&browser.get(app.at("/graph")).await);
        pages.push((browser, callback));
    }
    pages
}

async fn slow_sign_ins(endpoint: Endpoint, seconds: u64, text: &str, cause: &str) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.on(endpoint, |answer| answer.delay = Duration::from_secs(60));
    let pages = callbacks(&platform, &app).await;
    let browser = pages[0].0.clone();
    assert_waits(&app, pages, seconds, text, cause).await;
    platform.assert_nobody_is_signed_in(&app, &browser).await;
    platform.on(endpoint, |_| {});
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
}

async fn slow_pages(endpoint: Endpoint, expires_in: i64, text: &str, cause: &str) {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    app.edit_session(|session| {
        session["token_cache"]["expires_on"] = (now() + expires_in).into();
    });
    let session = app.session();
    platform.on(endpoint, |answer| answer.delay = Duration::from_secs(60));
    let pages = vec![(browser.clone(), app.at("/graph")); MANY];
    assert_waits(&app, pages, 10, text, cause).await;
    assert_eq!(app.session(), session);
    platform.on(endpoint, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

/// A response whose body does not end.
async fn slow_body() {
    let address = broken_server(HALF, true).await;
    let platform = Platform::start().await;
    let app = platform.app(&[("ENDPOINT", &address)]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let pages = vec![(browser, app.at("/graph"))];
    assert_waits(&app, pages, 10, "Microsoft Graph answered 200.", "TimedOut").await;
}

async fn slow_start() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Metadata, |answer| answer.delay = Duration::from_secs(60));
    let started = Instant::now();
    let lines = platform.refused_by_the_app(&[]).await;
    assert!(lines.len() == 1 && lines[0].contains("is not available, check"), "{lines:?}");
    assert!(started.elapsed() < Duration::from_secs(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_leads_to_an_error_page_and_delays_nobody_else() {
    let token_cause = "step 7: no tokens from the token endpoint, reqwest::Error";
    tokio::join!(
        slow_sign_ins(Endpoint::Token, 10, TOKEN_PAGE, token_cause),
        slow_sign_ins(Endpoint::Keys, 4, KEYS_PAGE, "step 8: the signing keys are not available"),
        slow_pages(Endpoint::Token, -1, TOKEN_PAGE, "step 2: the refresh failed, reqwest::Error"),
        slow_pages(Endpoint::Graph, 3600, GRAPH_PAGE, "step 3: no response from Microsoft Graph"),
        slow_body(),
        slow_start(),
    );
}

#[tokio::test]
async fn the_app_does_not_start_with_unsafe_metadata() {
    let platform = Platform::start().await;
    let another_issuer = "the metadata is for another issuer";
    let all_tenants = platform.authority().replace(TENANT_ID, "{tenantid}");
    let other_scheme = platform.authority().replace("http:", "https:");
    for (name, value, text) in [
        // oidcc-client-test-discovery-issuer-mismatch
        ("issuer", "https://evil.example/v2.0", "issuer, \"https://evil.example/v2.0\""),
        ("issuer", "http://127.0.0.1:1/v2.0", another_issuer),
        ("issuer", &other_scheme, another_issuer),
        ("issuer", &all_tenants, "this is for all tenants; accepted is one tenant"),
        ("issuer", "http://contoso.ciamlogin.com/v2.0", another_issuer),
        ("issuer", "https://evil-ciamlogin.com/v2.0", another_issuer),
        ("issuer", "https://x.ciamlogin.com.evil.example/v2.0", another_issuer),
        ("authorization_endpoint", "http://login.example/a", "not https: http://login.example/a"),
        ("authorization_endpoint", "javascript:alert(1)", "not https: javascript:alert(1)"),
        ("token_endpoint", "http://login.example/t", "not https: http://login.example/t"),
        ("token_endpoint", "/oauth2/v2.0/token", "relative URL without a base"),
        ("jwks_uri", "http://login.example/k", "not https: http://login.example/k"),
        ("jwks_uri", "file:///etc/passwd", "not https: file:///etc/passwd"),
        ("end_session_endpoint", "http://login.example/s", "not https: http://login.example/s"),
        ("issuer", "contoso", "the issuer in the metadata is not a URL"),
        // An empty value stands for a missing one.
        ("issuer", "", "missing field `issuer`"),
        ("authorization_endpoint", "", "missing field `authorization_endpoint`"),
        ("token_endpoint", "", "missing field `token_endpoint`"),
        ("jwks_uri", "", "missing field `jwks_uri`"),
    ] {
        let new = value.to_owned();
        platform.on(Endpoint::Metadata, move |answer| {
            answer.json[name] = new.clone().into();
            if new.is_empty() {
                answer.json.as_object_mut().unwrap().remove(name);
            }
        });
        let lines = platform.refused_by_the_app(&[]).await;
        assert!(lines.len() == 1 && lines[0].contains(text), "{name} {value}: {lines:?}");
        let beginning = format!("rust-webapp: AUTHORITY = {:?}: ", platform.authority());
        assert!(lines[0].starts_with(&beginning), "{name} {value}: {lines:?}");
    }
}

#[tokio::test]
async fn the_app_does_not_start_without_metadata_and_shows_what_the_platform_answered() {
    let platform = Platform::start().await;
    let unknown = r#"{"error":"invalid_tenant","error_description":"AADSTS90002: 'x' not found."}"#;
    for (status, body, text) in [
        (400, unknown, "answered 400 Bad Request: \"AADSTS90002: 'x' not found.\""),
        (404, "Not Found", "answered 404 Not Found: \"no OpenID metadata\""),
        (500, "", "answered 500 Internal Server Error: \"no OpenID metadata"),
        (503, "[]", "answered 503 Service Unavailable: \"no OpenID metadata"),
        (200, "<html>\nWelcome\n</html>", "answered 200 OK: \"no OpenID metadata\""),
        (200, "{\"issuer\":\"https://", "answered 200 OK: \"no OpenID metadata\""),
        (200, "{\"issuer\":7}", "(invalid type: integer `7`, expected a string"),
    ] {
        platform.on(Endpoint::Metadata, move |answer| answer.say(status, body));
        let lines = platform.refused_by_the_app(&[]).await;
        assert!(lines.len() == 1 && lines[0].contains(text), "{text}: {lines:?}");
        assert!(lines[0].starts_with("rust-webapp: AUTHORITY = "), "{lines:?}");
    }
}

#[tokio::test]
async fn the_app_uses_the_addresses_and_the_issuer_of_the_metadata() {
    // oidcc-client-test-discovery-openid-config
    let platform = Platform::start().await;
    let authority = platform.authority();
    platform.on(Endpoint::Metadata, move |answer| {
        answer.json["issuer"] = "https://contoso.ciamlogin.com/contoso/v2.0".into();
        answer.json["authorization_endpoint"] = format!("{authority}/unusual?p=a%20policy").into();
        answer.json["token_endpoint"] = format!("{authority}/oauth2/v2.0/token?p=b").into();
        answer.json["end_session_endpoint"] = format!("{authority}/sign-out?p=c").into();
    });
    let settings = [("CLIENT_ID", &*CLIENT_ID.to_uppercase()), ("SSO_LOGOUT", "true")];
    let app = platform.app(&settings).await;
    // The metadata of an app with signing keys of its own names these keys. The claim `aud` has
    // lower-case letters.
    let metadata = platform.requests(Endpoint::Metadata).await;
    assert_eq!(metadata.len(), 1);
    assert_eq!(metadata[0].url.query(), Some(&*format!("appid={CLIENT_ID}")));

    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await.assert_error(401, "the check of iss.");
    platform.id_token(|token| {
        token.claims["iss"] = "https://contoso.ciamlogin.com/contoso/v2.0".into();
    });
    let authorize = browser.get(app.at("/graph")).await;
    let unusual = format!("{}/unusual?p=a%20policy&client_id={CLIENT_ID}&", platform.authority());
    assert!(authorize.location().starts_with(&unusual), "{}", authorize.location());
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    let token = platform.requests(Endpoint::Token).await.pop().unwrap();
    assert_eq!(token.url.query(), Some("p=b"));
    let page = browser.get(app.at("/logout")).await;
    let sign_out = format!("{}/sign-out?p=c&post_logout_redirect_uri=", platform.authority());
    assert!(page.location().starts_with(&sign_out), "{}", page.location());
}

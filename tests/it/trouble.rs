//! The identity platform or Microsoft Graph in trouble: everyone gets a
//! page, within the time limits, and nobody is signed in or out by it.

use std::time::{Duration, Instant};

use base64::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::Endpoint::{Graph, Keys, Metadata, Token};
use crate::platform::*;
use crate::refusals::{PROTECTED, assert_nobody_is_in};

/// The access token in the cache has this many seconds left from now on.
fn leave(app: &App, seconds: i64) {
    app.edit_token_cache(|cache| {
        for access_token in cache["AccessToken"].as_object_mut().unwrap().values_mut() {
            access_token["expires_on"] = (now() + seconds).to_string().into();
        }
    });
}

/// Signs in to `/graph` and stops there; the callback made one request to
/// the token endpoint, and none to Graph.
async fn signed_in(platform: &Platform, app: &App) -> Browser {
    let browser = app.browser();
    let callback = platform.sign_in(app, &browser, "/graph").await;
    assert_eq!((callback.status, callback.location()), (302, "/graph"), "{}", callback.body);
    browser
}

async fn grant_types(platform: &Platform) -> Vec<String> {
    platform.token_forms().await.into_iter().map(|mut form| form.remove("grant_type").unwrap()).collect()
}

#[track_caller]
fn assert_says(page: &Page, status: u16, says: &str) {
    page.assert_error_page(status);
    assert!(page.body.contains(says), "{}", page.body);
}

const IDENTITY_PLATFORM: &str = "The identity platform";
const MICROSOFT_GRAPH: &str = "Microsoft Graph";

// --- Addresses where nobody answers as HTTP has it ----------------------

/// Refuses connections: bound, so that nobody else gets the port, and not
/// listening.
fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = format!("http://{}", socket.local_addr().unwrap());
    (socket, address)
}

/// Answers each request with the beginning of an answer, then a byte each
/// second for as long as the pause lasts, and ends the connection.
async fn cutting(pause: Duration) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 10_000];
                let _ = connection.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
                let _ = connection.write_all(head.as_bytes()).await;
                let started = Instant::now();
                while started.elapsed() < pause && connection.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    address
}

/// Takes no connection and refuses none: its queue is full. (Other systems
/// than Linux may refuse then.)
async fn full() -> (TcpListener, Vec<TcpStream>, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
    }
    (listener, waiting, format!("http://{address}"))
}

/// A sign-in at each protected page, with this address in the metadata.
async fn sign_ins_end_with(status: u16, member: &'static str, address: &str) {
    let platform = Platform::start().await;
    let address = address.to_owned();
    platform.on(Metadata, move |answer| answer.json[member] = address.clone().into());
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        let page = platform.sign_in(&app, &browser, path).await;
        assert_says(&page, status, IDENTITY_PLATFORM);
        assert_nobody_is_in(&platform, &app, &browser).await;
    }
}

/// A refresh at this address: the platform moved while the app was not
/// running.
async fn a_refresh_ends_with(status: u16, address: &str) {
    let platform = Platform::start().await;
    let key = [("SECRET_KEY", "0123456789-0123456789-0123456789")];
    let mut before = platform.app(&key).await;
    let browser = signed_in(&platform, &before).await;
    leave(&before, 0);
    // Its log, to the end, before the process is gone.
    before.log();
    before.kill();
    let session = before.session();
    let address = address.to_owned();
    platform.on(Metadata, move |answer| answer.json["token_endpoint"] = address.clone().into());
    let app = platform.app_in(before.folder.clone(), &key).await;
    assert_says(&browser.get(app.at("/graph")).await, status, IDENTITY_PLATFORM);
    assert_eq!(app.session(), session);
    // What has not expired is still used.
    leave(&app, 200);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

/// A call of Graph at this address; returns how long it took.
async fn graph_ends_with(status: u16, address: &str) -> Duration {
    let platform = Platform::start().await;
    let app = platform.app(&[("ENDPOINT", address)]).await;
    let browser = signed_in(&platform, &app).await;
    let session = app.session();
    let started = Instant::now();
    assert_says(&browser.get(app.at("/graph")).await, status, MICROSOFT_GRAPH);
    let took = started.elapsed();
    assert_eq!(app.session(), session);
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    took
}

/// Every call that the app makes after its start, at this address.
async fn every_call_ends_with(status: u16, address: &str) {
    tokio::join!(
        sign_ins_end_with(status, "token_endpoint", address),
        sign_ins_end_with(status, "jwks_uri", address),
        a_refresh_ends_with(status, address),
        graph_ends_with(status, address),
    );
}

#[tokio::test]
async fn refused_connections() {
    let (_socket, address) = refusing();
    every_call_ends_with(502, &address).await;
}

#[tokio::test]
async fn answers_that_are_cut() {
    every_call_ends_with(502, &cutting(Duration::ZERO).await).await;
}

// --- Hanging ------------------------------------------------------------

/// More than there are workers: if a call that waits held one, nothing else
/// would be served.
const MANY: usize = 8;

/// Has many browsers ask for a page that hangs at this endpoint. All get a
/// page of status 504 when 15 seconds are over; meanwhile others get
/// theirs.
async fn hangs(platform: &Platform, app: &App, endpoint: Endpoint, pages: Vec<(Browser, String)>, says: &str) {
    let before = platform.requests(endpoint).await.len();
    let started = Instant::now();
    let mut hanging = JoinSet::new();
    for (browser, address) in pages {
        hanging.spawn(async move { browser.get(address).await });
    }
    while platform.requests(endpoint).await.len() == before {
        assert!(started.elapsed() < PATIENCE && hanging.try_join_next().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = app.browser();
    for _ in 0..MANY {
        assert_eq!(other.get(app.at("/")).await.status, 200);
        for path in PROTECTED {
            assert_eq!(other.get(app.at(path)).await.status, 302);
        }
    }
    assert!(hanging.try_join_next().is_none(), "the others were not served meanwhile");
    while let Some(page) = hanging.join_next().await {
        assert_says(&page.unwrap(), 504, says);
    }
    let took = started.elapsed();
    assert!((14..30).contains(&took.as_secs()), "{took:?}");
}

/// Callbacks of many browsers.
async fn callbacks(platform: &Platform, app: &App) -> Vec<(Browser, String)> {
    let mut pages = Vec::new();
    for path in PROTECTED.into_iter().cycle().take(MANY) {
        let browser = app.browser();
        let callback = platform.callback(&browser.get(app.at(path)).await);
        pages.push((browser, callback));
    }
    pages
}

async fn sign_ins_hang(endpoint: Endpoint) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.on(endpoint, |answer| answer.delay = Duration::from_secs(60));
    let pages = callbacks(&platform, &app).await;
    let browser = pages[0].0.clone();
    hangs(&platform, &app, endpoint, pages, IDENTITY_PLATFORM).await;
    assert_nobody_is_in(&platform, &app, &browser).await;
}

async fn a_refresh_hangs() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    let session = app.session();
    platform.on(Token, |answer| answer.delay = Duration::from_secs(60));
    let pages = vec![(browser, app.at("/graph")); MANY];
    hangs(&platform, &app, Token, pages, IDENTITY_PLATFORM).await;
    let kept = app.session_files().into_iter().map(|file| std::fs::read(file).unwrap());
    assert!(kept.map(|file| serde_json::from_slice::<Value>(&file).unwrap()).any(|kept| kept == session));
}

async fn graph_hangs() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    platform.on(Graph, |answer| answer.delay = Duration::from_secs(60));
    let pages = vec![(browser.clone(), app.at("/graph")); MANY];
    hangs(&platform, &app, Graph, pages, MICROSOFT_GRAPH).await;
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
}

/// An answer that comes in drops is over at the same time as one that does
/// not come.
async fn graph_drips() {
    let address = cutting(Duration::from_secs(60)).await;
    let took = graph_ends_with(504, &address).await;
    assert!((14..30).contains(&took.as_secs()), "{took:?}");
}

/// A connection that does not come about is given up after 5 seconds.
async fn graph_does_not_connect() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let (_listener, _waiting, address) = full().await;
    let took = graph_ends_with(504, &address).await;
    assert!((4..14).contains(&took.as_secs()), "{took:?}");
}

async fn metadata_hang() {
    let platform = Platform::start().await;
    platform.on(Metadata, |answer| answer.delay = Duration::from_secs(60));
    let stderr = platform.refused_by_the_app(&[]).await;
    assert!(stderr.contains("AUTHORITY = ") && stderr.contains("timed out"), "{stderr}");
    assert_eq!(platform.requests(Metadata).await.len(), 3);
}

#[tokio::test]
async fn hanging_calls_end_in_time_and_others_are_served_meanwhile() {
    tokio::join!(
        sign_ins_hang(Token),
        sign_ins_hang(Keys),
        a_refresh_hangs(),
        graph_hangs(),
        graph_drips(),
        graph_does_not_connect(),
        metadata_hang(),
    );
}

// --- Answers that are none ----------------------------------------------

/// What an endpoint in trouble answers, and the status of the page.
const TROUBLES: [(u16, &str, u16); 9] = [
    (429, "Too Many Requests", 503),
    (429, r#"{"error":{"code":"TooManyRequests","message":"slow down"}}"#, 503),
    (503, "Service Unavailable", 503),
    (503, r#"{"error":"temporarily_unavailable","error_description":"AADSTS90033: later"}"#, 503),
    (500, "Internal Server Error", 502),
    (502, "<html>Bad Gateway</html>", 502),
    (504, "Gateway Timeout", 504),
    (200, "<html>Welcome</html>", 502),
    (302, "", 502),
];

/// From now on the endpoint is in this trouble.
fn in_trouble(platform: &Platform, endpoint: Endpoint, status: u16, text: &'static str) {
    platform.on(endpoint, move |answer| {
        answer.say(status, text);
        answer.headers.push(("retry-after", "1".to_owned()));
        answer.headers.push(("location", "https://evil.example/".to_owned()));
    });
}

#[tokio::test]
async fn a_platform_in_trouble_at_a_sign_in() {
    for endpoint in [Keys, Token] {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        for (answered, text, status) in TROUBLES {
            in_trouble(&platform, endpoint, answered, text);
            for path in PROTECTED {
                let browser = app.browser();
                let page = platform.sign_in(&app, &browser, path).await;
                assert_says(&page, status, IDENTITY_PLATFORM);
                assert_nobody_is_in(&platform, &app, &browser).await;
            }
        }
        // When it is over, it is over.
        platform.on(endpoint, |_| {});
        signed_in(&platform, &app).await;
    }
}

#[tokio::test]
async fn a_platform_in_trouble_at_a_refresh() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    for (answered, text, status) in TROUBLES {
        in_trouble(&platform, Token, answered, text);
        // The token that has not expired is used, the one that has is not, and the
        // session stays.
        leave(&app, 200);
        let session = app.session();
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{answered}");
        leave(&app, 0);
        let calls = platform.requests(Graph).await.len();
        assert_says(&browser.get(app.at("/graph")).await, status, IDENTITY_PLATFORM);
        assert_eq!(platform.requests(Graph).await.len(), calls);
        assert_eq!(app.session()["user"], session["user"]);
        assert_eq!(
            app.token_cache()["RefreshToken"],
            serde_json::from_str::<Value>(session["token_cache"].as_str().unwrap()).unwrap()["RefreshToken"]
        );
        assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    }
    platform.on(Token, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn graph_in_trouble() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    let session = app.session();
    let more: [(u16, &str, u16); 6] = [
        (200, "[]", 502),
        (200, "", 502),
        (204, "", 502),
        (403, r#"{"error":{"code":"Authorization_RequestDenied","message":"Insufficient privileges."}}"#, 502),
        (404, r#"{"error":{"code":"Request_ResourceNotFound","message":"No such user."}}"#, 502),
        (400, r#"{"error":"text"}"#, 502),
    ];
    for (answered, text, status) in TROUBLES.into_iter().chain(more) {
        in_trouble(&platform, Graph, answered, text);
        let page = browser.get(app.at("/graph")).await;
        assert_says(&page, status, MICROSOFT_GRAPH);
        if let Ok(answer) = serde_json::from_str::<Value>(text)
            && let Some(code) = answer["error"]["code"].as_str()
            && status == 502
        {
            assert_says(&page, 502, &format!("{code}: {}", answer["error"]["message"].as_str().unwrap()));
        }
        assert_eq!(app.session(), session);
        assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    }
    platform.on(Graph, |answer| answer.json["padding"] = "x".repeat(5_000_000).into());
    assert_says(&browser.get(app.at("/graph")).await, 502, MICROSOFT_GRAPH);
    platform.on(Graph, |_| {});
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(grant_types(&platform).await, ["authorization_code"]);
}

#[tokio::test]
async fn the_log_has_the_cause_of_each_trouble_and_of_nothing_else() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert!(!app.log().contains("WARN"), "{}", app.log());

    let tokens = r#"{"error":"","id_token":"x","access_token":"x","token_type":"Bearer"}"#;
    for (endpoint, answered, text, cause) in [
        (Token, 500, tokens, "no tokens from the token endpoint: 500"),
        (Token, 200, r#"{"error":"odd"}"#, "no tokens from the token endpoint: 200, \"odd\""),
        (Token, 200, "[]", "refused: the answer lacks"),
        (Keys, 500, r#"{"keys":[]}"#, "no signing keys from the identity platform: 500"),
        (Keys, 200, "[]", "no signing keys from the identity platform: 200"),
        (Graph, 500, "{}", "nothing to show from Microsoft Graph: 500"),
        (Graph, 200, "[]", "nothing to show from Microsoft Graph: 200"),
    ] {
        platform.on(endpoint, move |answer| answer.say(answered, text));
        if endpoint != Graph {
            // It has no keys yet.
            let app = platform.app(&[]).await;
            platform.sign_in(&app, &app.browser(), "/graph").await.assert_error_page(502);
            assert!(app.log().contains(cause), "{cause}: {}", app.log());
        }
        if endpoint != Keys {
            leave(&app, 0);
            let before = app.log().len();
            browser.get(app.at("/graph")).await.assert_error_page(502);
            assert!(app.log()[before..].contains(cause), "{cause}: {}", &app.log()[before..]);
        }
        platform.on(endpoint, |_| {});
    }
}

#[tokio::test]
async fn metadata_in_trouble_at_start() {
    let mut starts = JoinSet::new();
    for (answered, text, tries) in [
        (429, "Too Many Requests", 3),
        (503, "Service Unavailable", 3),
        (500, "Internal Server Error", 3),
        (200, "<html>Welcome</html>", 3),
        // There is no such tenant, which stays so.
        (400, r#"{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant not found."}"#, 1),
        (404, "", 1),
        (302, "", 1),
    ] {
        starts.spawn(async move {
            let platform = Platform::start().await;
            in_trouble(&platform, Metadata, answered, text);
            let stderr = platform.refused_by_the_app(&[]).await;
            assert!(stderr.contains("AUTHORITY = ") && stderr.lines().count() == 1, "{stderr}");
            assert!(!text.contains("AADSTS") || stderr.contains("AADSTS90002: Tenant not found."), "{stderr}");
            assert_eq!(platform.requests(Metadata).await.len(), tries, "{answered}");
        });
    }
    let (socket, refused) = refusing();
    for address in [refused, cutting(Duration::ZERO).await] {
        starts.spawn(async move {
            let platform = Platform::start().await;
            let stderr = platform.refused_by_the_app(&[("AUTHORITY", &format!("{address}/{TENANT_ID}"))]).await;
            assert!(stderr.contains("it cannot be reached") && stderr.lines().count() == 1, "{stderr}");
        });
    }
    while let Some(done) = starts.join_next().await {
        done.unwrap();
    }
    drop(socket);
}

#[tokio::test]
async fn metadata_that_come_at_the_third_try_are_good() {
    let platform = Platform::start().await;
    let mut tries = 0;
    platform.on(Metadata, move |answer| {
        tries += 1;
        if tries < 3 {
            answer.say(503, "");
        }
    });
    let app = platform.app(&[]).await;
    signed_in(&platform, &app).await;
}

// --- Refused refresh tokens ---------------------------------------------

/// The `claims` that a redirect to the authorization endpoint asks for.
fn claims_asked_for(page: &Page) -> Value {
    assert_eq!(page.status, 302, "{}", page.body);
    serde_json::from_str(&page.location_param("claims").unwrap()).unwrap()
}

const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

#[tokio::test]
async fn a_dead_refresh_token_leads_to_a_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    for error in ["invalid_grant", "interaction_required", "consent_required", "login_required"] {
        // With time left or not: the identity platform wants to see the user.
        for left in [0, 200] {
            leave(&app, left);
            platform.on(Token, move |answer| {
                if answer.form["grant_type"] == "refresh_token" {
                    answer.refuse(400, error, "AADSTS50173: The grant was revoked.");
                }
            });
            let authorize = browser.get(app.at("/graph")).await;
            assert_eq!(claims_asked_for(&authorize), serde_json::from_str::<Value>(CP1).unwrap());
            assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
            assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        }
    }
}

#[tokio::test]
async fn claims_that_the_token_endpoint_asks_for_are_asked_for_at_the_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    for (claims, asked_for) in [
        (
            json!(r#"{"access_token":{"capolids":{"essential":true,"values":["x"]}}}"#),
            json!({ "access_token": { "capolids": { "essential": true, "values": ["x"] }, "xms_cc": { "values": ["cp1"] } } }),
        ),
        (
            json!(r#"{"id_token":{"a":null}}"#),
            json!({ "id_token": { "a": null }, "access_token": { "xms_cc": { "values": ["cp1"] } } }),
        ),
        // What is no JSON object asks for nothing.
        (json!("access_token"), serde_json::from_str(CP1).unwrap()),
        (json!("[]"), serde_json::from_str(CP1).unwrap()),
        (json!({ "access_token": 1 }), serde_json::from_str(CP1).unwrap()),
        (json!(r#"{"access_token":"text"}"#), serde_json::from_str(CP1).unwrap()),
    ] {
        platform.on(Token, move |answer| {
            if answer.form["grant_type"] == "refresh_token" {
                answer.refuse(400, "interaction_required", "AADSTS50076: Use multi-factor authentication.");
                answer.json["claims"] = claims.clone();
            }
        });
        let authorize = browser.get(app.at("/graph")).await;
        assert_eq!(claims_asked_for(&authorize), asked_for);
        // The redemption asks for the same.
        assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
        let sent = platform.token_forms().await.pop().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&sent["claims"]).unwrap(), asked_for);
        leave(&app, 0);
        app.edit_session(|session| _ = session["user"].as_object_mut().unwrap().remove("claims_challenge"));
    }
}

#[tokio::test]
async fn a_refresh_refused_again_and_again_is_no_loop() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // Each sign-in brings an access token that is over at once, and a refresh
    // token that is dead.
    platform.on(Token, |answer| {
        if answer.form["grant_type"] == "refresh_token" {
            answer.refuse(400, "invalid_grant", "AADSTS700082: The refresh token has expired.");
        } else {
            answer.json["expires_in"] = 0.into();
        }
    });
    let browser = signed_in(&platform, &app).await;
    let authorize = browser.get(app.at("/graph")).await;
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    let page = browser.get(app.at("/graph")).await;
    assert_says(&page, 502, "AADSTS700082");
    assert_eq!(platform.requests(Graph).await.len(), 0);
}

#[tokio::test]
async fn an_app_that_is_refused_at_a_refresh_is_told_so() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    let session = app.session();
    platform.on(Token, |answer| answer.refuse(401, "invalid_client", "AADSTS7000222: The secret has expired."));
    let page = browser.get(app.at("/graph")).await;
    assert_says(&page, 502, "AADSTS7000222: The secret has expired.");
    assert_says(&page, 502, "CLIENT_CREDENTIAL");
    assert_eq!(app.session(), session);
    // Without a reason there is none to show.
    platform.on(Token, |answer| answer.say(404, "Not Found"));
    assert_says(&browser.get(app.at("/graph")).await, 502, "out of order");
}

#[tokio::test]
async fn a_refresh_whose_answer_is_odd_caches_nothing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    let session = app.session();
    let edits: [fn(&mut Answer); 8] = [
        |answer| _ = answer.json.as_object_mut().unwrap().remove("access_token"),
        |answer| answer.json["access_token"] = json!(["token"]),
        |answer| answer.json["token_type"] = "mac".into(),
        |answer| answer.json["error"] = "server_error".into(),
        |answer| answer.json = json!([answer.json]),
        |answer| answer.status = 201,
        |answer| answer.json["padding"] = "x".repeat(5_000_000).into(),
        |answer| answer.say(200, "[".repeat(100_000)),
    ];
    for edit in edits {
        platform.on(Token, edit);
        assert_says(&browser.get(app.at("/graph")).await, 502, IDENTITY_PLATFORM);
        assert_eq!(app.session(), session);
    }
    assert_eq!(platform.requests(Graph).await.len(), 0);
}

#[tokio::test]
async fn without_a_refresh_token_the_access_token_is_used_to_its_end() {
    let platform = Platform::start().await;
    platform.on(Token, |answer| _ = answer.json.as_object_mut().unwrap().remove("refresh_token"));
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 60);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    leave(&app, 0);
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);
    assert_eq!(grant_types(&platform).await, ["authorization_code"]);
}

// --- What Graph refuses -------------------------------------------------

/// Graph's claims challenge, as it is recorded.
fn challenge(claims: &str) -> String {
    format!(
        r#"Bearer realm="", authorization_uri="https://login.example/authorize", client_id="00000003-0000-0000-c000-000000000000", error="insufficient_claims", claims="{}""#,
        BASE64_STANDARD.encode(claims)
    )
}

/// From now on Graph refuses every token, with these WWW-Authenticate
/// headers.
fn graph_refuses(platform: &Platform, challenge: &str) {
    let challenge = challenge.to_owned();
    platform.on(Graph, move |answer| {
        answer.status = 401;
        answer.json = json!({ "error": { "code": "InvalidAuthenticationToken", "message": "Not this one." } });
        answer.headers.push(("www-authenticate", challenge.clone()));
    });
}

const CHALLENGED: &str = r#"{"access_token":{"nbf":{"essential":true, "value":"1635527790"}}}"#;

#[tokio::test]
async fn a_claims_challenge_leads_to_a_sign_in_once() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    graph_refuses(&platform, &challenge(CHALLENGED));
    let asked_for = json!({ "access_token": {
        "nbf": { "essential": true, "value": "1635527790" }, "xms_cc": { "values": ["cp1"] } } });
    for _ in 0..2 {
        let authorize = browser.get(app.at("/graph?a=1")).await;
        assert_eq!(claims_asked_for(&authorize), asked_for);
        assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph?a=1");
        let sent = platform.token_forms().await.pop().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&sent["claims"]).unwrap(), asked_for);
        // Challenged again, the very sign-in that answered it: no loop.
        assert_says(&browser.get(app.at("/graph")).await, 502, "InvalidAuthenticationToken: Not this one.");
    }
    // Satisfied by the sign-in, it is forgotten.
    let authorize = browser.get(app.at("/graph")).await;
    platform.on(Graph, |_| {});
    assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    graph_refuses(&platform, &challenge(CHALLENGED));
    assert_eq!(claims_asked_for(&browser.get(app.at("/graph")).await), asked_for);
}

#[tokio::test]
async fn a_claims_challenge_is_found_among_others() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    let claims = BASE64_STANDARD.encode(CHALLENGED);
    for challenges in [
        format!(r#"PoP realm="x", error="insufficient_claims", claims="e30=", {}"#, challenge(CHALLENGED)),
        format!(r#"{}, PoP realm="x""#, challenge(CHALLENGED)),
        format!("bearer Error=insufficient_claims, Claims=\"{}\"", claims.trim_end_matches('=')),
        format!(r#"Bearer claims="{claims}" ,error="insufficient_claims",, Negotiate"#),
    ] {
        graph_refuses(&platform, &challenges);
        let authorize = browser.get(app.at("/graph")).await;
        assert_eq!(claims_asked_for(&authorize)["access_token"]["nbf"]["value"], "1635527790", "{challenges}");
        assert_eq!(browser.get(platform.callback(&authorize)).await.location(), "/graph");
        platform.on(Graph, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    }
}

#[tokio::test]
async fn a_plain_401_takes_the_access_token_out_of_the_cache() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    let claims = BASE64_STANDARD.encode(CHALLENGED);
    for challenges in [
        r#"Bearer realm="", authorization_uri="https://login.example/authorize""#.to_owned(),
        // No claims challenge either: another error, another scheme, claims that
        // are none.
        format!(r#"Bearer error="invalid_token", claims="{claims}""#),
        format!(r#"Bearer claims="{claims}""#),
        format!(r#"PoP error="insufficient_claims", claims="{claims}""#),
        r#"Bearer error="insufficient_claims", claims="***""#.to_owned(),
        r#"Bearer error="insufficient_claims", claims="W10=""#.to_owned(),
        r#"Bearer error="insufficient_claims""#.to_owned(),
        r#"Bearer error="insufficient_claims, claims=""#.to_owned(),
        String::new(),
    ] {
        let refreshed = platform.requests(Token).await.len();
        graph_refuses(&platform, &challenges);
        let page = browser.get(app.at("/graph")).await;
        assert_says(&page, 502, "InvalidAuthenticationToken: Not this one.");
        assert_eq!(app.token_cache()["AccessToken"], json!({}), "{challenges}");
        assert_eq!(browser.get(app.at("/admin")).await.status, 200);
        // The next visit renews it.
        platform.on(Graph, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_eq!(platform.requests(Token).await.len(), refreshed + 1);
        assert_eq!(grant_types(&platform).await.pop().unwrap(), "refresh_token");
    }
}

// --- Many at once -------------------------------------------------------

#[tokio::test]
async fn fifty_requests_with_an_expired_access_token_all_get_their_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = signed_in(&platform, &app).await;
    leave(&app, 0);
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (browser, address) = (browser.clone(), app.at("/graph"));
        requests.spawn(async move { browser.get(address).await });
    }
    while let Some(page) = requests.join_next().await {
        let page = page.unwrap();
        assert_eq!(page.status, 200, "{}", page.body);
        assert!(page.body.contains("cleo@platform.example"));
    }
    // And what the last one wrote is a session like any other.
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
}

#[tokio::test]
async fn the_keys_are_fetched_once_for_many_sign_ins_at_once() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let mut sign_ins = JoinSet::new();
    for (browser, callback) in callbacks(&platform, &app).await {
        sign_ins.spawn(async move { browser.get(callback).await });
    }
    while let Some(page) = sign_ins.join_next().await {
        assert_eq!(page.unwrap().status, 302);
    }
    assert_eq!(platform.requests(Keys).await.len(), 1);
}

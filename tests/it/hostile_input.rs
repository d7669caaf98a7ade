//! What attackers can send: addresses, headers and cookies, and text from Microsoft Entra ID or
//! Microsoft Graph that a browser or a terminal would take for something else.

use actix_web::cookie::{Cookie, CookieJar, Key};
use serde_json::json;
use url::Url;

use crate::harness::*;
use crate::platform::*;

/// A GET request for `App::raw`. Each header ends with CR LF.
fn get(app: &App, target: &str, headers: &str) -> String {
    let host = app.url.trim_start_matches("http://");
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}")
}

#[tokio::test]
async fn no_request_changes_where_the_sign_in_leads() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let page_address = "/graph?%FF=%0d%0aX-Injected:injected&=&";
    let absolute = format!("http://evil.example{page_address}");
    let host = app.url.trim_start_matches("http://");
    let forwarded = "X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\n";
    for (target, host, headers) in [
        (page_address, "evil.example", ""),
        (page_address, "\u{fc}", ""),
        (page_address, host, forwarded),
        (&absolute, host, ""),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}");
        let authorize = app.raw(&request).await;
        assert_eq!(authorize.status, 302, "{request}: {}", authorize.body);
        assert!(authorize.location().starts_with(&platform.authority()), "{request}");
        let redirect_uri = authorize.location_parameter("redirect_uri");
        assert_eq!(redirect_uri, Some(app.at("/auth/redirect")), "{request}");
        let browser = app.browser();
        let callback = browser.client.get(platform.callback(&authorize));
        let page = browser.send(callback.header("cookie", &authorize.cookies()[0])).await;
        assert_eq!((page.status, page.location()), (302, page_address), "{request}");
    }
}

/// A session cookie that is signed with this key.
fn session_cookie(key: &str, id: &str) -> String {
    let mut jar = CookieJar::new();
    let cookie = Cookie::new("rust-webapp-session", id.to_owned());
    jar.signed_mut(&Key::derive_from(key.as_bytes())).add(cookie);
    jar.delta().next().unwrap().encoded().stripped().to_string()
}

/// Asserts that nobody is signed in with this header `Cookie`.
async fn assert_opens_nothing(app: &App, cookie: impl AsRef<[u8]>) {
    let cookie = cookie.as_ref();
    for (path, status) in [("/", 200), ("/graph", 302), ("/admin", 302)] {
        let request = [get(app, path, "Cookie: ").as_bytes(), cookie, b"\r\n"].concat();
        let page = app.raw(request).await;
        assert_eq!((page.status, page.user()), (status, None), "{path}, {}", cookie.escape_ascii());
    }
}

#[tokio::test]
async fn a_forged_session_cookie_opens_nothing() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let browser = app.browser();
    let cookie = platform.sign_in(&app, &browser, "/graph").await.cookies().pop().unwrap();
    let (name, value) = cookie.split_once('=').unwrap();
    let (signature, id) = value.split_at(value.len() - 64);
    // The test can sign cookies.
    assert_eq!(session_cookie(SECRET_KEY, id), cookie);
    let file = app.session_files()[0].file_stem().unwrap().to_str().unwrap().to_owned();
    let flow = app.browser().get(app.at("/graph")).await.cookies().remove(0);
    let (_, flow) = flow.split_once('=').unwrap();
    for forged in [
        format!("{name}={id}"),
        format!("{name}={signature}{}", id.to_lowercase()),
        format!("{name}={value}x"),
        // The same key encrypts the cookies of sign-ins.
        format!("{name}={flow}"),
        session_cookie("another-secret-key-of-32-bytes-or-more", id),
        // Signed with the right key.
        session_cookie(SECRET_KEY, &"a".repeat(64)),
        session_cookie(SECRET_KEY, &file),
    ] {
        assert_opens_nothing(&app, forged).await;
    }
    assert_opens_nothing(&app, b"rust-webapp-session=\xff\xfe\xc3\x28").await;
    assert_opens_nothing(&app, format!("rust-webapp-session={}", "x".repeat(60_000))).await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200, "the real cookie still works");
}

#[tokio::test]
async fn a_session_cookie_from_before_the_sign_in_is_not_signed_in_after_it() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // An attacker signs in and puts the session cookie into the browser of a victim.
    let cookie = platform.sign_in(&app, &app.browser(), "/graph").await.cookies().pop().unwrap();
    platform.id_token(|token| token.claims["name"] = "Victim".into());
    // The ID token of the attacker has expired, so that the victim signs in.
    app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = 0.into());
    let victim = app.browser();
    let authorize =
        victim.send(victim.client.get(app.at("/admin")).header("cookie", &cookie)).await;
    let cookies = format!("{cookie}; {}", authorize.cookies()[0]);
    let callback = victim.client.get(platform.callback(&authorize)).header("cookie", cookies);
    let page = victim.send(callback).await;
    assert_eq!((page.status, page.location()), (302, "/admin"), "{}", page.body);
    assert_eq!(victim.get(app.at("/")).await.user(), Some("Victim"));
    assert_opens_nothing(&app, cookie).await;
}

/// HTML, template code, new lines, and escape sequences of terminals.
const HOSTILE: &str = "<script>alert(\"x\")</script>'\"&{{ 7*1234567 }}</pre>\r\nFORGED LINE\n\
    \u{1b}[31m\u{1b}]0;title\u{7}\u{9b}2J\u{8}\u{c}\u{7f}\u{85}FORGED LINE\0";

/// Asserts that a page shows HOSTILE as text.
#[track_caller]
fn assert_is_text(page: &Page) {
    let body = &page.body;
    assert!(body.contains("&lt;script&gt;alert("), "the text is not shown: {body}");
    for text in ["<script", "alert(\"", "'\"", "8641969", "</pre>\r\n"] {
        assert!(!body.contains(text), "{text:?} is in {body}");
    }
}

/// Asserts that each line of the log comes from the app, and that a terminal shows it as text.
#[track_caller]
fn assert_log_is_text(app: &App) {
    let log = app.log();
    assert!(log.contains("FORGED LINE"), "the text is not in the log: {log}");
    for line in log.split_terminator('\n') {
        assert!(line.starts_with("20") && line.contains("src/"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[tokio::test]
async fn names_and_claims_are_shown_as_text() {
    let platform = Platform::start().await;
    platform.id_token(|token| {
        for claim in ["name", "oid", "preferred_username", HOSTILE] {
            token.claims[claim] = HOSTILE.into();
        }
    });
    platform.on(Endpoint::Graph, |answer| answer.json = json!({ HOSTILE: HOSTILE }));
    let (app, browser) = platform.signed_in(&[]).await;
    for path in ["/", "/graph", "/admin"] {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, 200, "{path}");
        assert_is_text(&page);
        // The element `bdi` keeps a change of direction inside of the name.
        assert!(page.body.contains("<bdi>&lt;script&gt;"), "{path}: {}", page.body);
    }
    app.edit_session(|session| session["user"]["id_token_claims"]["roles"] = json!([HOSTILE]));
    let page = browser.get(app.at("/admin")).await;
    page.assert_error(403, "&lt;script&gt;");
    assert_is_text(&page);
    assert_log_is_text(&app);
}

#[tokio::test]
async fn texts_of_errors_are_shown_as_text_and_stay_one_line_of_the_log() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    // Step 3.
    platform.on(Endpoint::Graph, |answer| {
        answer.status = 403;
        answer.headers.push(("request-id", "\u{9b}FORGED LINE".to_owned()));
        answer.json = json!({ "error": { "code": HOSTILE, "message": HOSTILE } });
    });
    assert_is_text(&browser.get(app.at("/graph")).await);
    // Step 2.
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    platform.on(Endpoint::Token, |answer| answer.refuse(400, HOSTILE, HOSTILE));
    assert_is_text(&browser.get(app.at("/graph")).await);
    // Step 7.
    let visitor = app.browser();
    assert_is_text(&platform.sign_in(&app, &visitor, "/graph").await);
    // Step 6.
    for (name, status) in [("error", 502), ("iss", 400)] {
        let callback = platform.callback(&visitor.get(app.at("/graph")).await);
        let parameters = [(name, HOSTILE), ("error_description", HOSTILE)];
        let callback = Url::parse_with_params(&callback, parameters).unwrap();
        let page = visitor.get(callback).await;
        assert!(page.status == status && !page.body.contains("<script"), "{}", page.body);
    }
    assert_log_is_text(&app);
    // The app does not start.
    platform.on(Endpoint::Metadata, |answer| answer.refuse(400, "invalid_tenant", HOSTILE));
    let lines = platform.refused_by_the_app(&[]).await;
    assert!(lines.len() == 1 && lines[0].contains("FORGED LINE"), "{lines:?}");
    assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
}

/// The app checks for secrets in the log when it is dropped.
#[tokio::test]
async fn the_level_trace_logs_no_secret() {
    let platform = Platform::start().await;
    let settings = [("RUST_LOG", "trace"), ("SECRET_KEY", SECRET_KEY)];
    let (app, browser) = platform.signed_in(&settings).await;
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    let secret = "secret-of-a-request-that-fails";
    app.secrets.add(secret);
    let headers = format!("Cookie: rust-webapp-session={secret}\r\nAuthorization: {secret}\r\n");
    let page = app.raw(get(&app, &format!("/auth/redirect?code={secret}"), &headers)).await;
    page.assert_error(400, "The app cannot read this request.");
    assert_eq!(browser.get(app.at("/logout")).await.status, 302);
    assert!(app.log().contains(" TRACE "), "the level has no lines");
}

//! Bad input, from browsers, from the identity platform and Microsoft
//! Graph, and from session files: whatever it is, there is a page, nothing
//! panics, and nobody gets in by it.

use std::fs;
use std::sync::Arc;

use base64::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::harness::*;
use crate::platform::Endpoint::{Graph, Keys, Metadata, Token};
use crate::platform::*;
use crate::refusals::PROTECTED;

/// Sends these very bytes, which no HTTP client would.
async fn raw(app: &App, request: &[u8]) -> Page {
    let port = app.url.rsplit(':').next().unwrap();
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
    // What is too long may be answered, and the connection ended, before all
    // of it is sent.
    let _ = connection.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await;
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
    assert!(read.is_ok(), "no answer to {shown:?}");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?} to {shown:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let page = Page { status, headers, body: body.to_owned() };
    for cookie in page.cookies() {
        app.secrets().add(cookie.split_once('=').unwrap().1);
    }
    page
}

/// A GET of this target with these header lines, each with its line end.
fn get(app: &App, target: &[u8], headers: &[u8]) -> Vec<u8> {
    let host = app.url.strip_prefix("http://").unwrap();
    [b"GET ", target, b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\nConnection: close\r\n", headers, b"\r\n"].concat()
}

/// A page of the app, in its layout, or a redirect.
#[track_caller]
fn assert_is_page(page: &Page) {
    match page.status {
        200 => assert!(page.title().ends_with(" - Rust actix-web"), "{}", page.body),
        302 => assert!(page.headers.contains_key("content-security-policy")),
        status => {
            assert!(status < 500, "{}", page.body);
            page.assert_error_page(status);
        }
    }
    // Nothing of the input became a header.
    assert!(!page.cookies().iter().any(|cookie| cookie.contains("planted")), "{:?}", page.headers);
}

#[tokio::test]
async fn rubbish_in_paths_and_queries() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let targets: [&[u8]; 24] = [
        b"/?%",
        b"/?%zz=%FF&&&===&%00",
        b"/graph?%",
        b"/graph?%FF%FE=%00&=&&",
        b"/graph?//evil.example",
        b"/admin?%0d%0aSet-Cookie:planted=1",
        b"/logout?%0d%0aSet-Cookie:planted=1",
        b"/auth/redirect",
        b"/auth/redirect?",
        b"/auth/redirect?state",
        b"/auth/redirect?state=%00%FF%zz%&code=%C3%28",
        b"/auth/redirect?state=..%2F..%2Fetc%2Fpasswd&code=x",
        b"/auth/redirect?state[]=x&code[]=y&code=%E2%80%AE",
        b"/auth/redirect?error=%0d%0aSet-Cookie:planted=1&state=x",
        b"/auth/redirect#state=x",
        b"/%",
        b"/%FF%00",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/../../etc/passwd",
        b"/style.css/../../default_settings.toml",
        b"/default_settings.toml",
        b"/graph/",
        b"//graph",
        b"/gr%61ph%00",
    ];
    for target in targets {
        for target in [target.to_vec(), [target, b"&x=", &b"y".repeat(60_000)].concat()] {
            assert_is_page(&raw(&app, &get(&app, &target, b"")).await);
        }
    }
    // Other forms of a target: absolute, and with another host.
    for request in [
        "GET http://evil.example/graph HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET /graph HTTP/1.0\r\nHost: x\r\n\r\n",
        "GET /graph HTTP/1.1\r\nHost: \u{fc}\r\nConnection: close\r\n\r\n",
        "GET /graph HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n",
        "GET /graph HTTP/1.1\r\nHost: localhost:99999\r\nConnection: close\r\n\r\n",
        "GET //evil.example/graph HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /graph HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n",
    ] {
        let page = raw(&app, request.as_bytes()).await;
        assert_is_page(&page);
        let location = page.headers.get("location").map_or("", |location| location.to_str().unwrap());
        assert!(!location.starts_with("http://evil") && !location.starts_with("//"), "{location}");
        assert!(!location.contains("redirect_uri=http%3A%2F%2Fevil"), "{location}");
    }
}

#[tokio::test]
async fn long_targets_and_headers() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for path in PROTECTED {
        let browser = app.browser();
        // A query too long to be kept is left out; the page is the same.
        let long = app.at(&format!("{path}?{}", "x".repeat(60_000)));
        let authorize = browser.get(long).await;
        assert_eq!(browser.get(platform.callback(&authorize)).await.location(), path);
        assert_eq!(browser.get(app.at(path)).await.status, 200);
    }
    // The sessions do not grow with them.
    assert!(app.session_files().iter().all(|file| fs::metadata(file).unwrap().len() < 20_000));
    let header = |name: &str, length| format!("{name}: {}\r\n", "x".repeat(length)).into_bytes();
    for headers in [header("X-Long", 60_000), header("Cookie", 60_000), b"X-Many: 1\r\n".repeat(90)] {
        assert_eq!(raw(&app, &get(&app, b"/", &headers)).await.status, 200);
        assert_is_page(&raw(&app, &get(&app, b"/unknown", &headers)).await);
    }
    // Beyond its own limits, and what HTTP allows, actix-http answers by
    // itself, with nothing, before any of our code runs.
    let longer = [b"/?", &b"x".repeat(70_000)[..]].concat();
    for (request, status) in [
        (get(&app, b"/", &header("X-Long", 140_000)), 431),
        (get(&app, b"/", &b"X-Many: 1\r\n".repeat(100)), 431),
        (get(&app, b"/", b"X-Odd: \x00\r\n"), 400),
        (get(&app, &longer, b""), 400),
        (get(&app, b"/graph?\xc3\xbc", b""), 400),
        (get(&app, b"/graph?<script>", b""), 400),
        (get(&app, b"/graph?\x01", b""), 400),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), 400),
        (b"rubbish\r\n\r\n".to_vec(), 400),
    ] {
        let page = raw(&app, &request).await;
        assert_eq!((page.status, page.body.as_str()), (status, ""));
    }
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
}

#[tokio::test]
async fn wrong_methods_and_unknown_paths() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    for path in ["/", "/graph", "/admin", "/auth/redirect", "/logout", "/style.css"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let request = browser.client.request(method.parse().unwrap(), app.at(path)).body("state=x&code=y");
            let page = browser.send(request).await;
            page.assert_error_page(405);
            assert_eq!(page.headers["allow"], "GET");
        }
    }
    for path in ["/unknown", "/graph/", "/Graph", "/auth", "/auth/redirect/x", "/index.html", "/.env", "/sessions"] {
        browser.get(app.at(path)).await.assert_error_page(404);
    }
    assert!(app.session_files().is_empty());
}

// --- Cookies ------------------------------------------------------------

/// Signs in, and returns the cookie's name and value.
async fn signed_in(platform: &Platform, app: &App) -> (Browser, String, String) {
    let browser = app.browser();
    let callback = platform.sign_in(app, &browser, "/graph").await;
    let cookie = callback.cookies().remove(0);
    let (name, value) = cookie.split_once('=').unwrap();
    (browser, name.to_owned(), value.to_owned())
}

/// With this Cookie header nobody is signed in, and there are pages.
async fn is_nobodys(app: &App, cookie: &[u8]) {
    let header = [b"Cookie: ", cookie, b"\r\n"].concat();
    let home = raw(app, &get(app, b"/", &header)).await;
    assert_is_page(&home);
    assert!(home.status == 200 && !home.body.contains("Signed in"), "{cookie:?}: {}", home.body);
    for path in PROTECTED {
        let page = raw(app, &get(app, path.as_bytes(), &header)).await;
        assert_is_page(&page);
        assert_eq!(page.status, 302, "{cookie:?}: {}", page.body);
    }
    let callback = raw(app, &get(app, b"/auth/redirect?state=x&code=y", &header)).await;
    assert_is_page(&callback);
    assert_eq!(callback.status, 400);
}

#[tokio::test]
async fn cookies_of_attackers() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (_, name, value) = signed_in(&platform, &app).await;
    let (signature, id) = value.split_at(value.len() - 64);
    let half = &value[..value.len() / 2];
    let file = app.session_files()[0].file_stem().unwrap().to_str().unwrap().to_owned();
    for cookie in [
        String::new(),
        format!("{name}="),
        format!("{name}={half}"),
        format!("{name}={id}"),
        format!("{name}={signature}"),
        format!("{name}={value}x"),
        format!("{name}=x{value}"),
        format!("{name}={signature}{file}"),
        format!("{name}={signature}../../../../etc/passwd"),
        format!("{name}=../sessions/{file}"),
        format!("{name}={signature}%2e%2e%2f{file}"),
        format!("{name}={signature}{}", "A".repeat(64)),
        format!("{name}={}", "x".repeat(60_000)),
        format!("{name}=%FF%FE%00"),
        format!("{name}=\"{value}"),
        format!("Another-{name}={value}"),
        format!("{name}x={value}"),
        name.clone(),
        "=;=;;;==".to_owned(),
        format!("{name}=x; {}", "a=b; ".repeat(5_000)),
    ] {
        is_nobodys(&app, cookie.as_bytes()).await;
    }
    is_nobodys(&app, &[name.as_bytes(), b"=\xff\xfe\xc3\x28"].concat()).await;
}

/// What a Cookie or WWW-Authenticate header may hold, as far as it gets
/// through to the app.
fn header_bytes() -> impl Strategy<Value = u8> {
    prop_oneof![0x20..=0x7e_u8, 0x80..=0xff_u8]
}

/// What a query may hold: all else actix-http refuses, see above.
fn query_bytes() -> impl Strategy<Value = u8> {
    (0x21..=0x7e_u8).prop_filter("not in a URI", |byte| !b"\"<>".contains(byte))
}

/// Runs a property on a runtime of its own, this often.
fn check<S: Strategy>(cases: u32, strategy: S, runtime: &Runtime, property: impl AsyncFn(S::Value)) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let checked = TestRunner::new(config).run(&strategy, |value| {
        runtime.block_on(property(value));
        Ok::<_, TestCaseError>(())
    });
    if let Err(err) = checked {
        panic!("{err}");
    }
}

/// Rubbish of these bytes between what the parsers look for.
fn mixture(
    words: &'static [&'static str],
    bytes: impl Strategy<Value = u8> + 'static,
) -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec());
    let rubbish = prop::collection::vec(bytes, 0..8);
    prop::collection::vec(prop_oneof![3 => word, 1 => rubbish], 0..40).prop_map(|parts| parts.concat())
}

#[test]
fn any_query_gets_a_page() {
    let runtime = Runtime::new().unwrap();
    let platform = runtime.block_on(Platform::start());
    let app = runtime.block_on(platform.app(&[]));
    let words: &[&str] = &[
        "state",
        "code",
        "error",
        "error_description",
        "iss",
        "=",
        "=",
        "&",
        "&",
        "%",
        "+",
        "%00",
        "%0d%0a",
        "%C3",
        "%ff",
        ";",
        "[]",
        "?",
    ];
    check(200, mixture(words, query_bytes()), &runtime, async |query| {
        let header = b"Cookie: rust-webapp-session=x\r\n";
        let callback = raw(&app, &get(&app, &[b"/auth/redirect?", &query[..]].concat(), header)).await;
        assert_is_page(&callback);
        assert_eq!(callback.status, 400);
        let graph = raw(&app, &get(&app, &[b"/graph?", &query[..]].concat(), header)).await;
        assert_is_page(&graph);
        assert_eq!(graph.status, 302);
    });
}

#[test]
fn any_query_with_a_state_of_ours_gets_a_page() {
    let runtime = Runtime::new().unwrap();
    let platform = runtime.block_on(Platform::start());
    let app = runtime.block_on(platform.app(&[]));
    let words: &[&str] = &[
        "code=x",
        "error=x",
        "error_description=",
        "iss=x",
        "=",
        "&",
        "&",
        "%",
        "+",
        "%00",
        "%0d%0a",
        "%C3",
        "%E2%80%AE",
        "%3Cscript%3E",
    ];
    check(100, mixture(words, query_bytes()), &runtime, async |query| {
        let authorize = app.browser().get(app.at("/admin")).await;
        let header = format!("Cookie: {}\r\n", authorize.cookies()[0]);
        let state = authorize.location_param("state").unwrap();
        let target = [format!("/auth/redirect?state={state}&").as_bytes(), &query[..]].concat();
        let callback = raw(&app, &get(&app, &target, header.as_bytes())).await;
        assert_is_page(&callback);
        assert!([400, 403].contains(&callback.status), "{}", callback.body);
    });
}

#[test]
fn any_cookie_but_the_users_own_is_nobodys() {
    let runtime = Runtime::new().unwrap();
    let platform = runtime.block_on(Platform::start());
    let app = runtime.block_on(platform.app(&[]));
    let (_, name, value) = runtime.block_on(signed_in(&platform, &app));
    let words: &[&str] = &["rust-webapp-session", "=", "=", ";", "; ", "%", "%00", "..", "/", "\"", ",", "."];
    check(100, mixture(words, header_bytes()), &runtime, async |cookie| is_nobodys(&app, &cookie).await);
    // The right one, with one byte changed.
    let changes = (0..value.len(), header_bytes());
    check(100, changes, &runtime, async |(at, byte)| {
        let mut changed = value.clone().into_bytes();
        if changed[at] != byte {
            changed[at] = byte;
            is_nobodys(&app, &[name.as_bytes(), b"=", &changed].concat()).await;
        }
    });
}

#[test]
fn any_www_authenticate_header_gets_a_page() {
    let runtime = Runtime::new().unwrap();
    let platform = Arc::new(runtime.block_on(Platform::start()));
    let app = runtime.block_on(platform.app(&[]));
    let (browser, ..) = runtime.block_on(signed_in(&platform, &app));
    let words: &[&str] = &[
        "Bearer ",
        "PoP",
        " ",
        ",",
        ", ",
        "=",
        "\"",
        "\\",
        "\t",
        "error=\"insufficient_claims\"",
        "claims=\"e30=\"",
        "error",
        "claims",
        "insufficient_claims",
        "realm=\"\"",
        "W10",
        "bnVsbA==",
        // {"access_token":"text"} and {"access_token":{"xms_cc":7}}
        "claims=\"eyJhY2Nlc3NfdG9rZW4iOiJ0ZXh0In0=\"",
        "claims=eyJhY2Nlc3NfdG9rZW4iOnsieG1zX2NjIjo3fX0",
    ];
    check(200, mixture(words, header_bytes()), &runtime, async |header| {
        platform.on(Graph, move |answer| {
            answer.status = 401;
            answer.headers.push(("www-authenticate", String::from_utf8_lossy(&header).into_owned()));
        });
        let page = browser.get(app.at("/graph")).await;
        assert!([302, 502].contains(&page.status), "{} {}", page.status, page.body);
    });
    platform.on(Graph, |_| {});
    assert_eq!(runtime.block_on(browser.get(app.at("/graph"))).status, 200);
}

// --- JSON of other shapes -----------------------------------------------

fn oddities() -> Vec<Value> {
    vec![Value::Null, json!(true), json!(-7), json!(1e300), json!("text"), json!(["text"]), json!({ "a": 1 })]
}

/// The JSON pointers of all nodes.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    if let Value::Object(fields) = value {
        for (name, field) in fields {
            pointers(field, &format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), found);
        }
    }
}

/// The value with each of its nodes replaced by each oddity in turn, and
/// where that was.
fn variants(value: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    all.iter()
        .flat_map(|pointer| {
            oddities().into_iter().map(move |odd| {
                let mut variant = value.clone();
                let shown = format!("{pointer} = {odd}");
                *variant.pointer_mut(pointer).unwrap() = odd;
                (shown, variant)
            })
        })
        .collect()
}

/// After a sign-in that was completed each page is one: neither 500, which
/// nobody thought of, nor the next turn of a loop.
async fn pages_follow(app: &App, browser: &Browser, callback: &Page, odd: &str) {
    for path in ["/", "/graph", "/admin"] {
        let page = browser.get(app.at(path)).await;
        assert!([200, 302, 401, 403, 502].contains(&page.status), "{path}, {odd}: {} {}", page.status, page.body);
        assert!(callback.status != 302 || page.status != 302, "{path}, {odd}: a loop");
    }
}

/// What the app finds in its session, with the access token still good, or
/// to be refreshed.
async fn any_session_gets_a_page(access_token_is_good: bool) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (browser, name, value) = signed_in(&platform, &app).await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    let cookie = format!("{name}={value}");
    if !access_token_is_good {
        app.edit_token_cache(|cache| {
            for access_token in cache["AccessToken"].as_object_mut().unwrap().values_mut() {
                access_token["expires_on"] = "0".into();
            }
        });
    }
    let file = app.session_files().remove(0);
    let session = app.session();
    let write = |session: &Value| fs::write(&file, session_file(session)).unwrap();
    let mut sessions: Vec<(_, _, &[&str])> = Vec::new();
    for (odd, session) in variants(&session) {
        sessions.push((odd, session, &["/", "/graph", "/admin"]));
    }
    // Only one page looks into the token cache.
    for (odd, token_cache) in variants(&app.token_cache()) {
        let mut with_it = session.clone();
        with_it["token_cache"] = token_cache.to_string().into();
        sessions.push((format!("token_cache{odd}"), with_it, &["/graph"]));
    }
    for (odd, session, paths) in &sessions {
        for path in *paths {
            write(session);
            // The same cookie each time, whatever the pages before have set.
            let page = raw(&app, &get(&app, path.as_bytes(), format!("Cookie: {cookie}\r\n").as_bytes())).await;
            assert!([200, 302, 401, 403, 502].contains(&page.status), "{path}, {odd}: {} {}", page.status, page.body);
        }
    }
    // The session as it was is still one.
    write(&session);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn any_session_gets_a_page_with_a_good_access_token() {
    any_session_gets_a_page(true).await;
}

#[tokio::test]
async fn any_session_gets_a_page_with_an_access_token_to_be_refreshed() {
    any_session_gets_a_page(false).await;
}

#[tokio::test]
async fn any_flow_gets_a_page_at_the_callback() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let authorize = app.browser().get(app.at("/graph")).await;
    let cookie = authorize.cookies().remove(0);
    let (session, file) = (app.session(), app.session_files().remove(0));
    for (odd, session) in variants(&session) {
        fs::write(&file, session_file(&session)).unwrap();
        let browser = app.browser();
        let callback = browser.client.get(platform.callback(&authorize)).header("cookie", &cookie);
        let page = browser.send(callback).await;
        assert!([302, 400, 401].contains(&page.status), "{odd}: {} {}", page.status, page.body);
    }
}

#[tokio::test]
async fn any_token_answer_gets_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let fields = [
        "token_type",
        "scope",
        "expires_in",
        "ext_expires_in",
        "access_token",
        "refresh_token",
        "id_token",
        "client_info",
        "refresh_in",
        "expires_on",
        "foci",
        "error",
        "error_description",
        "trace_id",
        "claims",
    ];
    for grant_type in ["authorization_code", "refresh_token"] {
        for field in fields {
            for odd in oddities() {
                let shown = format!("{grant_type}: {field} = {odd}");
                platform.on(Token, move |answer| {
                    if answer.form["grant_type"] == grant_type {
                        answer.json[field] = odd.clone();
                    } else {
                        answer.json["expires_in"] = 0.into();
                    }
                });
                let browser = app.browser();
                let callback = platform.sign_in(&app, &browser, "/graph").await;
                assert!([302, 401, 502].contains(&callback.status), "{shown}: {} {}", callback.status, callback.body);
                let page = browser.get(app.at("/graph")).await;
                let expected: &[u16] = if callback.status == 302 { &[200, 401, 502] } else { &[302] };
                assert!(expected.contains(&page.status), "{shown}: {} {}", page.status, page.body);
            }
        }
    }
}

#[tokio::test]
async fn any_client_info_and_any_claim_gets_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (odd, client_info) in variants(&json!({ "uid": "u", "utid": "t" })) {
        platform.on(Token, move |answer| {
            answer.json["client_info"] = BASE64_URL_SAFE_NO_PAD.encode(client_info.to_string()).into();
        });
        let browser = app.browser();
        let callback = platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!(callback.status, 302);
        pages_follow(&app, &browser, &callback, &odd).await;
    }
    platform.on(Token, |_| {});
    for claim in
        ["aud", "iss", "iat", "nbf", "exp", "name", "oid", "preferred_username", "roles", "sub", "tid", "nonce", "upn"]
    {
        for odd in oddities() {
            let shown = format!("{claim} = {odd}");
            platform.id_token(move |token| token.claims[claim] = odd.clone());
            let browser = app.browser();
            let callback = platform.sign_in(&app, &browser, "/graph").await;
            assert!([302, 401].contains(&callback.status), "{shown}: {} {}", callback.status, callback.body);
            pages_follow(&app, &browser, &callback, &shown).await;
        }
    }
}

#[tokio::test]
async fn any_keys_get_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let key = json!({ "keys": { "0": public_key(0, &kid(0)) } });
    for (odd, mut keys) in variants(&key) {
        if let Some(key) = keys["keys"]["0"].as_object().cloned() {
            keys["keys"] = json!([key]);
        }
        platform.on(Keys, move |answer| answer.json = keys.clone());
        platform.id_token(|token| token.header["kid"] = "unknown".into());
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        assert!([401, 502].contains(&page.status), "{odd}: {} {}", page.status, page.body);
    }
}

#[tokio::test]
async fn any_graph_answer_and_any_challenge_gets_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (browser, ..) = signed_in(&platform, &app).await;
    for (odd, error) in variants(&json!({ "error": { "code": "c", "message": "m", "innerError": {} } })) {
        for status in [200, 401, 403] {
            let error = error.clone();
            platform.on(Graph, move |answer| (answer.status, answer.json) = (status, error.clone()));
            let page = browser.get(app.at("/graph")).await;
            assert!([200, 502].contains(&page.status), "{odd}: {}", page.body);
        }
    }
    for (odd, claims) in
        variants(&json!({ "access_token": { "xms_cc": { "values": ["cp1"] }, "nbf": { "value": "1" } } }))
    {
        platform.on(Graph, move |answer| {
            answer.status = 401;
            let claims = BASE64_STANDARD.encode(claims.to_string());
            answer
                .headers
                .push(("www-authenticate", format!(r#"Bearer error="insufficient_claims", claims="{claims}""#)));
        });
        let page = browser.get(app.at("/graph")).await;
        assert!([302, 502].contains(&page.status), "{odd}: {}", page.body);
    }
}

// --- Escaping -----------------------------------------------------------

/// HTML, quotes, template syntax, a line of its own for the log, terminal
/// colours, and marks that turn the direction of text.
const HOSTILE: &str = "<script>alert(\"x\")</script>'\"&{{ 7*1234567 }}\r\nFORGED LINE\u{85}FORGED LINE\u{2028}FORGED LINE\u{1b}[31m\u{202e}\u{2066}\u{200f}\u{0}";

/// Nothing of it works in a page.
#[track_caller]
fn assert_inert(page: &Page) {
    assert!(page.body.contains("&lt;script&gt;alert("), "it is not shown: {}", page.body);
    assert!(
        !page.body.contains("<script") && !page.body.contains("alert(\"") && !page.body.contains("'\""),
        "{}",
        page.body
    );
    assert!(!page.body.contains("8641969"), "{}", page.body);
}

/// Ends a line, colours it, or turns its direction.
fn is_active(char: char) -> bool {
    char.is_control() || ('\u{200b}'..='\u{206f}').contains(&char)
}

/// Every line of the log begins as the app's own do, and holds nothing that
/// a terminal or an editor acts on.
#[track_caller]
fn assert_log_is_inert(app: &App) {
    let log = app.log();
    assert!(log.contains("FORGED LINE"), "nothing of it is in the log: {log}");
    for line in log.lines() {
        assert!(line.starts_with("20") && line.contains(" src/"), "{line:?}");
        let odd = line.chars().find(|char| is_active(*char));
        assert!(odd.is_none(), "{odd:?} in {line:?}");
    }
}

#[tokio::test]
async fn hostile_names_and_claims_are_inert() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    platform.id_token(|token| {
        for claim in ["name", "sub", "preferred_username", "oid"] {
            token.claims[claim] = HOSTILE.into();
        }
        token.claims[HOSTILE] = HOSTILE.into();
    });
    platform.on(Graph, |answer| answer.json = json!({ HOSTILE: HOSTILE, "displayName": HOSTILE }));
    let browser = app.browser();
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
    for path in ["/", "/graph", "/admin"] {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, 200);
        assert_inert(&page);
        // The name turns no text around that is not its own.
        assert!(page.body.contains("<bdi>&lt;script"), "{}", page.body);
    }
    assert_log_is_inert(&app);
}

#[tokio::test]
async fn hostile_roles_are_inert() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for roles in [json!([HOSTILE]), json!(HOSTILE), json!({ HOSTILE: HOSTILE })] {
        platform.id_token(move |token| token.claims["roles"] = roles.clone());
        let browser = app.browser();
        assert_eq!(platform.sign_in(&app, &browser, "/admin").await.status, 302);
        let page = browser.get(app.at("/admin")).await;
        page.assert_error_page(403);
        assert_inert(&page);
    }
    assert_log_is_inert(&app);
}

#[tokio::test]
async fn hostile_errors_are_inert() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // In the callback.
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let mut callback = url::Url::parse(&platform.callback(&authorize)).unwrap();
    callback.query_pairs_mut().append_pair("error", HOSTILE).append_pair("error_description", HOSTILE);
    let page = browser.get(callback).await;
    page.assert_error_page(403);
    assert_inert(&page);
    let mut callback = url::Url::parse(&platform.callback(&browser.get(app.at("/graph")).await)).unwrap();
    callback.query_pairs_mut().append_pair("iss", HOSTILE);
    browser.get(callback).await.assert_error_page(400);
    // At the token endpoint, for the code.
    for error in ["invalid_grant", HOSTILE] {
        platform.on(Token, move |answer| {
            answer.refuse(400, error, HOSTILE);
            (answer.json["trace_id"], answer.json["correlation_id"]) = (HOSTILE.into(), HOSTILE.into());
        });
        let page = platform.sign_in(&app, &browser, "/graph").await;
        if error == HOSTILE {
            page.assert_error_page(502);
            assert_inert(&page);
        }
    }
    // At the token endpoint, for a refresh token.
    platform.on(Token, |answer| answer.json["expires_in"] = 0.into());
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
    for error in [HOSTILE, "invalid_grant"] {
        platform.on(Token, move |answer| answer.refuse(400, error, HOSTILE));
        let page = browser.get(app.at("/graph")).await;
        if error == HOSTILE {
            page.assert_error_page(502);
            assert_inert(&page);
        }
    }
    // At Graph.
    platform.on(Token, |_| {});
    for status in [401, 403] {
        platform.on(Graph, move |answer| {
            (answer.status, answer.json) = (status, json!({ "error": { "code": HOSTILE, "message": HOSTILE } }));
        });
        let page = browser.get(app.at("/graph")).await;
        page.assert_error_page(502);
        assert_inert(&page);
    }
    assert_log_is_inert(&app);
}

#[tokio::test]
async fn hostile_metadata_are_inert() {
    let platform = Platform::start().await;
    platform.on(Metadata, |answer| answer.refuse(400, "invalid_tenant", HOSTILE));
    let refused = platform.refused_by_the_app(&[]).await;
    platform.on(Metadata, |answer| answer.json["issuer"] = HOSTILE.into());
    let issuer = platform.refused_by_the_app(&[]).await;
    platform.on(Metadata, |answer| answer.json["jwks_uri"] = HOSTILE.into());
    let address = platform.refused_by_the_app(&[]).await;
    for stderr in [refused, issuer, address] {
        assert!(stderr.contains("FORGED LINE") && stderr.lines().count() == 1, "{stderr:?}");
        assert!(!stderr.trim_end().chars().any(is_active), "{stderr:?}");
    }
}

#[tokio::test]
async fn hostile_requests_are_inert() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let page = app.browser().get(app.at("/%3Cscript%3E%0d%0aFORGED LINE%E2%80%AE")).await;
    page.assert_error_page(404);
    assert!(!page.body.contains("script"), "{}", page.body);
    let host = "GET /graph HTTP/1.1\r\nHost: 127.0.0.1\t\u{202e}FORGED LINE\r\nConnection: close\r\n\r\n";
    assert_is_page(&raw(&app, host.as_bytes()).await);
    let log = app.log();
    assert!(log.lines().all(|line| line.starts_with("20") && !line.contains('\u{202e}')), "{log}");
}

//! What browsers and attackers can send: requests, cookies, and text that is not what it seems.

use actix_web::cookie::{Cookie, CookieJar, Key};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use url::Url;

use crate::harness::*;
use crate::platform::*;

/// Asserts that a response is a page or a redirect of the app, and not an error of the app.
#[track_caller]
fn assert_is_of_the_app(page: &Page, case: &str) {
    match page.status {
        200 => assert!(page.body.contains(" - Rust actix-web</title>"), "{case}: {}", page.body),
        302 => assert_eq!(page.headers["cross-origin-opener-policy"], "same-origin", "{case}"),
        status => {
            assert!(status < 500, "{case}: {}", page.body);
            page.assert_error(status, "");
        }
    }
    let headers = format!("{:?}", page.headers).to_lowercase();
    assert!(!headers.contains("injected\""), "{case}: {headers}");
}

/// A GET request for `App::raw`. Each header ends with CR LF.
fn get(app: &App, target: impl AsRef<[u8]>, headers: impl AsRef<[u8]>) -> Vec<u8> {
    let host = format!(" HTTP/1.1\r\nHost: {}\r\n", app.url.trim_start_matches("http://"));
    [b"GET ", target.as_ref(), host.as_bytes(), headers.as_ref()].concat()
}

#[tokio::test]
async fn unusual_requests_get_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for (status, targets) in [
        (200, "/?% /?%zz=%FF&&&===&%00"),
        (302, "/graph?%FF%FE=%00&=&& /graph?//evil.example /admin?%0d%0aX-Injected:injected"),
        (302, "/logout?%0d%0aX-Injected:injected"),
        (400, "/auth/redirect?state /auth/redirect?state=%00%FF%zz%&code=%C3%28"),
        (400, "/auth/redirect?state=..%2F..%2Fetc%2Fpasswd&code=x /auth/redirect?state[]=x"),
        (400, "/auth/redirect?state=%0d%0aX-Injected:injected&code=x"),
        (400, "/auth/redirect?error=access_denied&state=x"),
        (404, "/% /%FF%00 /%2e%2e/%2e%2e/etc/passwd /../../etc/passwd /gr%61ph%00"),
        (404, "/style.css/../../default_settings.toml /\\evil.example /%5Cevil.example"),
        (404, "//evil.example //evil.example/graph"),
    ] {
        for target in targets.split(' ') {
            for target in [target.to_owned(), format!("{target}&x={}", "y".repeat(60_000))] {
                let case = &target[..target.len().min(100)];
                let page = app.raw(get(&app, &target, "")).await;
                assert_is_of_the_app(&page, case);
                assert_eq!(page.status, status, "{case}: {}", page.body);
            }
        }
    }
    let header = |name: &str, length| format!("{name}: {}\r\n", "x".repeat(length));
    for headers in [header("X-Long", 60_000), header("Cookie", 60_000), "X-Many: 1\r\n".repeat(90)]
    {
        let page = app.raw(get(&app, "/", &headers)).await;
        assert_eq!(page.status, 200);
        assert_is_of_the_app(&app.raw(get(&app, "/unknown", &headers)).await, "a long header");
    }
    // actix-http refuses what HTTP does not allow, before the app sees the request.
    let long = format!("/?{}", "x".repeat(70_000));
    for (request, status) in [
        (get(&app, "/", header("X-Long", 140_000)), 431),
        (get(&app, "/", "X-Many: 1\r\n".repeat(100)), 431),
        (get(&app, "/", "X-Zero: \0\r\n"), 400),
        (get(&app, "/", "Host: evil.example\r\n"), 400),
        (get(&app, "/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
        (get(&app, long, ""), 400),
        (get(&app, "/graph?\u{fc}", ""), 400),
        (get(&app, "/graph?<script>", ""), 400),
        (get(&app, "/graph?\x01", ""), 400),
        (b"GET / HTTP/1.1\r\n".to_vec(), 400),
        (b"GET / HTTP/9.9\r\n".to_vec(), 400),
        (b"not HTTP\r\n".to_vec(), 400),
    ] {
        let page = app.raw(&request).await;
        let request = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        assert_eq!((page.status, page.body.as_str()), (status, ""), "{request}");
    }
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
}

#[tokio::test]
async fn no_request_changes_where_a_redirect_leads() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let redirect_uri = app.at("/auth/redirect");
    let port = app.url.rsplit(':').next().unwrap();
    let own = format!("Host: localhost:{port}\r\n");
    for (target, headers) in [
        ("/graph HTTP/1.1", "Host: evil.example\r\n"),
        ("/graph HTTP/1.1", &format!("Host: evil.example:{port}\r\n")),
        ("/graph HTTP/1.1", &format!("{own}X-Forwarded-Host: evil.example\r\n")),
        ("/graph HTTP/1.1", &format!("{own}Forwarded: host=evil.example;proto=https\r\n")),
        ("/graph HTTP/1.1", "Host: \u{fc}\r\n"),
        ("/graph HTTP/1.1", "Host: [::1\r\n"),
        ("/graph HTTP/1.1", "Host: localhost:99999\r\n"),
        ("/graph HTTP/1.1", "Host: \r\n"),
        ("/graph HTTP/1.0", ""),
        ("http://evil.example/graph HTTP/1.1", &own),
        ("https://evil.example/graph HTTP/1.1", "Host: evil.example\r\n"),
    ] {
        let request = format!("GET {target}\r\n{headers}");
        let authorize = app.raw(&request).await;
        assert_eq!(authorize.status, 302, "{request}: {}", authorize.body);
        assert!(authorize.location().starts_with(&platform.authority()), "{request}");
        assert_eq!(authorize.location_parameter("redirect_uri").as_ref(), Some(&redirect_uri));
        let browser = app.browser();
        let callback = browser.client.get(platform.callback(&authorize));
        let page = browser.send(callback.header("cookie", &authorize.cookies()[0])).await;
        assert_eq!((page.status, page.location()), (302, "/graph"), "{request}");
    }
    // The redirect from another name of this computer.
    for (target, host) in [
        ("//evil.example/graph", "127.0.0.1"),
        ("http://evil.example/graph", "127.0.0.1"),
        ("/\\evil.example", "127.0.0.1"),
        ("/graph", "evil.example@127.0.0.1"),
        ("/graph", "evil.example:x@127.0.0.1"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        let page = app.raw(&request).await;
        let location = Url::parse(page.location()).unwrap();
        assert_eq!(location.origin(), Url::parse(&app.url).unwrap().origin(), "{request}");
        assert_eq!(location.username(), "", "{request}");
    }
}

/// A browser that is signed in, and its session cookie.
async fn signed_in(platform: &Platform, app: &App) -> (Browser, String) {
    let browser = app.browser();
    let page = platform.sign_in(app, &browser, "/graph").await;
    let cookie = page.cookies().into_iter().find(|cookie| cookie.contains("-session="));
    (browser, cookie.unwrap())
}

/// Asserts that nobody is signed in with this `Cookie` header, and that the app answers.
async fn assert_opens_nothing(app: &App, cookie: &[u8]) {
    let header = [b"Cookie: ", cookie, b"\r\n"].concat();
    let case = String::from_utf8_lossy(&cookie[..cookie.len().min(300)]).into_owned();
    for (target, status) in
        [("/", 200), ("/graph", 302), ("/admin", 302), ("/auth/redirect?state=s&code=c", 400)]
    {
        let page = app.raw(get(app, target, &header)).await;
        assert_is_of_the_app(&page, &case);
        assert_eq!(page.status, status, "{target}, {case}: {}", page.body);
        assert!(!page.body.contains("Signed in"), "{target}, {case}");
    }
}

/// A session cookie that is signed with this key.
fn session_cookie(key: &str, id: &str) -> String {
    let mut jar = CookieJar::new();
    let cookie = Cookie::new("rust-webapp-session", id.to_owned());
    jar.signed_mut(&Key::derive_from(key.as_bytes())).add(cookie);
    jar.delta().next().unwrap().encoded().stripped().to_string()
}

#[tokio::test]
async fn a_forged_session_cookie_opens_nothing() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let (browser, cookie) = signed_in(&platform, &app).await;
    let (name, value) = cookie.split_once('=').unwrap();
    let (signature, id) = value.split_at(value.len() - 64);
    // The test can sign cookies.
    assert_eq!(session_cookie(SECRET_KEY, id), cookie);
    let file = app.session_files()[0].file_stem().unwrap().to_str().unwrap().to_owned();
    let flow = app.browser().get(app.at("/graph")).await.cookies().remove(0);
    let (_, flow) = flow.split_once('=').unwrap();
    for forged in [
        String::new(),
        name.to_owned(),
        format!("{name}="),
        format!("{name}={id}"),
        format!("{name}={signature}"),
        format!("{name}={}", &value[..value.len() / 2]),
        format!("{name}={value}x"),
        format!("{name}=x{value}"),
        format!("{name}={signature}{}", id.to_lowercase()),
        format!("{name}={signature}{file}"),
        format!("{name}={}", "x".repeat(60_000)),
        format!("{name}=%FF%FE%00"),
        format!("{name}=\"{value}"),
        format!("other-{name}={value}"),
        format!("{name}x={value}"),
        // The same key encrypts the cookies of sign-ins.
        format!("{name}={flow}"),
        format!("rust-webapp-flow-s={value}"),
        session_cookie("another-secret-key-of-32-bytes-or-more", id),
        // Signed with the right key.
        session_cookie(SECRET_KEY, ""),
        session_cookie(SECRET_KEY, &"a".repeat(64)),
        session_cookie(SECRET_KEY, &file),
        session_cookie(SECRET_KEY, &format!("../sessions/{file}")),
        session_cookie(SECRET_KEY, &format!("{id}\0")),
        session_cookie(SECRET_KEY, &"a".repeat(5_000)),
        "=;=;;;==".to_owned(),
        format!("{name}=x; {}", "a=b; ".repeat(5_000)),
        format!("{name}=x; {}", (0..1_000).map(|n| format!("c{n}=; ")).collect::<String>()),
    ] {
        assert_opens_nothing(&app, forged.as_bytes()).await;
    }
    assert_opens_nothing(&app, &[name.as_bytes(), b"=\xff\xfe\xc3\x28"].concat()).await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200, "the real cookie still works");
}

#[tokio::test]
async fn a_session_cookie_from_before_the_sign_in_is_not_signed_in_after_it() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    // An attacker signs in and puts the session cookie into the browser of a victim.
    let (_, of_attacker) = signed_in(&platform, &app).await;
    for planted in [of_attacker, session_cookie(SECRET_KEY, &"a".repeat(64))] {
        platform.id_token(|token| token.claims["name"] = "Victim".into());
        let victim = app.browser();
        // The ID token of the attacker has expired, so that the victim signs in.
        for file in app.session_files() {
            let session = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, session.replace("\"exp\":", "\"exp\":-")).unwrap();
        }
        let request = victim.client.get(app.at("/admin")).header("cookie", &planted);
        let authorize = victim.send(request).await;
        let cookies = format!("{planted}; {}", authorize.cookies()[0]);
        let request = victim.client.get(platform.callback(&authorize)).header("cookie", cookies);
        let page = victim.send(request).await;
        assert_eq!((page.status, page.location()), (302, "/admin"), "{}", page.body);
        assert!(victim.get(app.at("/")).await.body.contains("<bdi>Victim</bdi>"));
        assert_opens_nothing(&app, planted.as_bytes()).await;
    }
}

#[tokio::test]
async fn cookies_of_other_apps_do_not_prevent_a_sign_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for cookies in [
        "a; b=; =c; ;;; d=%zz; e=\"f; g=\u{fc}; {\"h\":1}".to_owned(),
        (0..300).map(|number| format!("app-{number}=value; ")).collect(),
        (0..9).map(|number| format!("rust-webapp-flow-{number}=value; ")).collect(),
        (0..9).map(|n| format!("rust-webapp-flow-%0d%0aX-Injected:injected{n}=v; ")).collect(),
        "rust-webapp-session=x; rust-webapp-session=y; rust-webapp-flow-=z".to_owned(),
    ] {
        let authorize = app.raw(get(&app, "/graph", format!("Cookie: {cookies}\r\n"))).await;
        assert_is_of_the_app(&authorize, &cookies);
        assert_eq!(authorize.status, 302, "{cookies}: {}", authorize.body);
        let flow = authorize.cookies().remove(0);
        let callback = Url::parse(&platform.callback(&authorize)).unwrap();
        let target = format!("{}?{}", callback.path(), callback.query().unwrap());
        let page = app.raw(get(&app, target, format!("Cookie: {cookies}; {flow}\r\n"))).await;
        assert_eq!((page.status, page.location()), (302, "/graph"), "{cookies}: {}", page.body);
    }
}

/// Random text: words that a parser looks for, and random bytes between them.
fn random_text(random: &mut StdRng, words: &str, is_allowed: fn(u8) -> bool) -> Vec<u8> {
    let (words, mut text) = (words.split(' ').collect::<Vec<_>>(), Vec::new());
    for _ in 0..random.random_range(0..40) {
        if random.random_bool(0.7) {
            text.extend_from_slice(words[random.random_range(0..words.len())].as_bytes());
        } else {
            text.extend((0..8).map(|_| random.random::<u8>()).filter(|byte| is_allowed(*byte)));
        }
    }
    text
}

#[tokio::test]
async fn random_cookies_sign_nobody_in_and_random_queries_get_a_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (_, cookie) = signed_in(&platform, &app).await;
    let mut random = StdRng::seed_from_u64(7);
    let in_cookies = |byte: u8| byte >= b' ' && byte != 0x7f;
    let in_queries = |byte: u8| byte.is_ascii_graphic() && !b"\"<>#".contains(&byte);
    let cookie_words = "rust-webapp-session rust-webapp-flow- s = = ; % %00 %0d%0a .. / \" , \t";
    let query_words = "state code error error_description iss = = & & % + %00 %0d%0a %C3 %E2%80%AE \
                       %3Cscript%3E ; [] ? x";
    for round in 0..100 {
        assert_opens_nothing(&app, &random_text(&mut random, cookie_words, in_cookies)).await;
        // One byte of the real cookie changes.
        let mut changed = cookie.clone().into_bytes();
        let at = random.random_range("rust-webapp-session=".len()..changed.len());
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert_opens_nothing(&app, &changed).await;

        let query = random_text(&mut random, query_words, in_queries);
        let case = format!("round {round}: {:?}", String::from_utf8_lossy(&query));
        let page = app.raw(get(&app, [b"/graph?", &query[..]].concat(), "")).await;
        assert_is_of_the_app(&page, &case);
        // The state of this browser, and a random query after it.
        let state = page.location_parameter("state").unwrap();
        let target = [format!("/auth/redirect?state={state}&").as_bytes(), &query].concat();
        let header = format!("Cookie: {}\r\n", page.cookies()[0]);
        let page = app.raw(get(&app, target, header)).await;
        if page.status != 502 {
            assert_is_of_the_app(&page, &case);
        }
        assert!([400, 403, 502].contains(&page.status), "{case}: {}", page.body);
    }
    assert!(!app.log().contains("ERROR src/routes"));
    assert_eq!(app.session_files().len(), 1);
}

/// HTML, template code, new lines, escape sequences of terminals, and characters that change the
/// direction of text.
const HOSTILE: &str = "<script>alert(\"x\")</script>'\"&{{ 7*1234567 }}</pre>\r\nFORGED LINE\n\
    \u{1b}[31m\u{1b}]0;title\u{7}\u{9b}2J\u{8}\u{c}\u{7f}\u{85}FORGED LINE\0\
    \u{2028}\u{202e}\u{2066}\u{200f}";

/// The last characters of HOSTILE, which end a line or change its direction in some programs.
const DIRECTION_MARKS: &str = "\u{2028}\u{202e}\u{2066}\u{200f}";

/// Asserts that a page shows HOSTILE as text.
#[track_caller]
fn assert_is_text(page: &Page) {
    let body = &page.body;
    assert!(body.contains("&lt;script&gt;alert("), "the text is not shown: {body}");
    for text in ["<script", "alert(\"", "'\"", "8641969", "</pre>\n\u{1b}"] {
        assert!(!body.contains(text), "{text:?} is in {body}");
    }
    assert_eq!(body.matches("</pre>").count(), body.matches("<pre>").count(), "{body}");
}

/// Asserts that each line of the log comes from the app, and that a terminal shows it as text.
#[track_caller]
fn assert_log_is_text(app: &App) {
    let log = app.log();
    assert!(log.contains("FORGED LINE"), "the text is not in the log: {log}");
    for line in log.split_terminator('\n') {
        assert!(line.starts_with("20") && line.contains("src/"), "{line:?}");
        let mut chars = line.chars();
        let is_odd = |char: char| char.is_control() || DIRECTION_MARKS.contains(char);
        assert!(!chars.any(is_odd), "{line:?}");
    }
}

#[tokio::test]
async fn names_and_claims_are_shown_as_text() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    // The log contains `oid` and `roles`.
    let logged = HOSTILE.strip_suffix(DIRECTION_MARKS).unwrap();
    platform.id_token(move |token| {
        for claim in ["name", "sub", "preferred_username", HOSTILE] {
            token.claims[claim] = HOSTILE.into();
        }
        token.claims["oid"] = logged.into();
    });
    platform.on(Endpoint::Graph, |answer| answer.json = json!({ HOSTILE: HOSTILE }));
    let browser = app.browser();
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
    for path in ["/", "/graph", "/admin"] {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, 200, "{path}");
        assert_is_text(&page);
        // The element `bdi` keeps a change of direction inside of the name.
        assert!(page.body.contains("<bdi>&lt;script&gt;"), "{path}: {}", page.body);
    }
    app.edit_session(|session| session["user"]["id_token_claims"]["roles"] = json!([logged]));
    let page = browser.get(app.at("/admin")).await;
    page.assert_error(403, "&lt;script&gt;");
    assert_is_text(&page);
    assert_log_is_text(&app);

    let app = platform.app(&[]).await;
    for name in ["x".repeat(100_000), "\u{202e}".repeat(1_000), "\u{0}".into(), "علي 李 é".into()]
    {
        let claim = name.clone();
        platform.id_token(move |token| token.claims["name"] = claim.clone().into());
        let browser = app.browser();
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
        for path in ["/", "/graph", "/admin"] {
            let page = browser.get(app.at(path)).await;
            assert!(page.status == 200 && page.body.contains(&format!("<bdi>{name}</bdi>")));
        }
    }
}

#[tokio::test]
async fn texts_of_errors_are_shown_as_text_and_stay_one_line_of_the_log() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    // Step 6.
    for error in [HOSTILE, "access_denied", "server_error"] {
        let authorize = browser.get(app.at("/graph")).await;
        let mut callback = Url::parse(&platform.callback(&authorize)).unwrap();
        callback
            .query_pairs_mut()
            .append_pair("error", error)
            .append_pair("error_description", HOSTILE);
        assert_is_text(&browser.get(callback).await);
    }
    let authorize = browser.get(app.at("/graph")).await;
    let mut callback = Url::parse(&platform.callback(&authorize)).unwrap();
    callback.query_pairs_mut().append_pair("iss", HOSTILE);
    browser.get(callback).await.assert_error(400, "Another tenant answered.");
    // Step 7.
    for error in [HOSTILE, "invalid_client", "interaction_required"] {
        platform.on(Endpoint::Token, move |answer| answer.refuse(400, error, HOSTILE));
        assert_is_text(&platform.sign_in(&app, &browser, "/graph").await);
    }
    // Step 8.
    platform.on(Endpoint::Token, |_| {});
    platform.id_token(|token| token.header["kid"] = HOSTILE.into());
    platform.sign_in(&app, &browser, "/graph").await.assert_error(401, "the key");
    // Step 2.
    platform.id_token(|_| {});
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
    let access_token = app.session()["token_cache"]["access_token"].clone();
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    platform.on(Endpoint::Token, |answer| answer.refuse(400, HOSTILE, HOSTILE));
    assert_is_text(&browser.get(app.at("/graph")).await);
    // Step 3.
    app.edit_session(|session| session["token_cache"]["expires_on"] = (now() + 600).into());
    assert_eq!(app.session()["token_cache"]["access_token"], access_token);
    for status in [200, 403, 500] {
        platform.on(Endpoint::Graph, move |answer| {
            answer.status = status;
            answer.headers.push(("request-id", "\u{9b}FORGED LINE".to_owned()));
            answer.json = json!({ "error": { "code": HOSTILE, "message": HOSTILE } });
        });
        assert_is_text(&browser.get(app.at("/graph")).await);
    }
    // Requests.
    let page = browser.get(app.at("/%3Cscript%3E%0d%0aFORGED%20LINE%E2%80%AE%1b[31m")).await;
    page.assert_error(404, "This app has no such page.");
    assert!(!page.body.contains("script"), "{}", page.body);
    app.raw("GET /graph HTTP/1.1\r\nHost: 127.0.0.1\t\u{202e}FORGED LINE\r\n").await;
    app.raw(get(&app, "/", "Cookie: rust-webapp-session=\u{202e}FORGED LINE\r\n")).await;
    assert_log_is_text(&app);
}

#[tokio::test]
async fn texts_of_the_metadata_stay_one_line_when_the_app_does_not_start() {
    let platform = Platform::start().await;
    let edits: [fn(&mut Answer); 3] = [
        |answer| answer.refuse(400, "invalid_tenant", HOSTILE),
        |answer| answer.json["issuer"] = format!("https://evil.example/{HOSTILE}").into(),
        |answer| answer.json["jwks_uri"] = HOSTILE.into(),
    ];
    for edit in edits {
        platform.on(Endpoint::Metadata, edit);
        let lines = platform.refused_by_the_app(&[]).await;
        assert!(lines.len() == 1 && lines[0].contains("FORGED LINE"), "{lines:?}");
        assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
    }
}

/// The app checks for secrets in the log when it is dropped.
#[tokio::test]
async fn no_secret_is_in_the_log_at_any_level() {
    let platform = Platform::start().await;
    for level in ["debug", "trace"] {
        let app = platform.app(&[("RUST_LOG", level), ("SECRET_KEY", SECRET_KEY)]).await;
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        // Secrets in requests that fail.
        let secret = "secret-of-a-request-that-fails";
        app.secrets.add(secret);
        for target in [
            format!("/auth/redirect?code={secret}"),
            format!("/auth/redirect?state={secret}&code={secret}&code={secret}"),
            format!("/graph/unknown?access_token={secret}"),
        ] {
            let header =
                format!("Cookie: rust-webapp-session={secret}\r\nAuthorization: {secret}\r\n");
            let page = app.raw(get(&app, target, header)).await;
            assert!(page.status >= 400 && !page.body.contains(secret));
        }
        platform.on(Endpoint::Token, |answer| answer.json["token_type"] = "mac".into());
        platform.sign_in(&app, &app.browser(), "/graph").await.assert_error(502, "");
        platform.on(Endpoint::Token, |_| {});
        platform.id_token(|token| token.claims["iss"] = Value::Null);
        platform.sign_in(&app, &app.browser(), "/graph").await.assert_error(401, "");
        platform.id_token(|_| {});
        assert_eq!(browser.get(app.at("/logout")).await.status, 302);
        let log = app.log();
        assert!(log.contains(&format!(" {} ", level.to_uppercase())), "the level has no lines");
    }
}

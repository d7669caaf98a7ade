//! What browsers get: pages, headers, cookies, and the redirect to the host of REDIRECT_URI.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;
use crate::platform::*;

/// The headers of every response. style.css has another `cache-control`.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];

/// Asserts that a response has these headers, besides those of HTTP itself.
#[track_caller]
fn assert_headers(page: &Page, case: &str, expected: &[(&str, &str)]) {
    let of_http = ["content-length", "content-type", "date", "connection"];
    let headers = page.headers.iter().filter(|(name, _)| !of_http.contains(&name.as_str()));
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let mut expected = expected.to_vec();
    headers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(headers, expected, "{case}");
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    for (path, status) in [("/", 200), ("/auth/redirect", 400), ("/unknown", 404)] {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.status, status, "{path}");
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8", "{path}");
        // A visitor gets no cookie.
        assert_headers(&page, path, &HEADERS);
    }
    let page = browser.get(app.at("/logout")).await;
    assert_headers(&page, "a redirect", &[&HEADERS[..], &[("location", "/")]].concat());
    let page = browser.get(app.at("/graph")).await;
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let more = [("location", page.location()), ("set-cookie", cookie)];
    assert_headers(&page, "a redirect with a cookie", &[&HEADERS[..], &more].concat());
    let page = browser.get(app.at("/graph").replace("localhost", "127.0.0.1")).await;
    let graph = app.at("/graph");
    assert_headers(&page, "another host", &[&HEADERS[..], &[("location", &graph)]].concat());
    let page = browser.post(app.at("/logout"), &[]).await;
    assert_headers(&page, "another method", &[&HEADERS[..], &[("allow", "GET")]].concat());

    let page = browser.get(app.at("/style.css")).await;
    assert_eq!((page.status, &page.body), (200, &read("templates/style.css")));
    assert_eq!(page.headers["content-type"], "text/css; charset=utf-8");
    let mut headers = HEADERS;
    headers[4].1 = "max-age=3600";
    assert_headers(&page, "style.css", &headers);
}

#[tokio::test]
async fn a_session_store_that_fails_leads_to_an_error_page() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let file = app.session_files().remove(0);
    let session = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for path in ["/", "/graph", "/admin", "/logout", "/auth/redirect?state=s"] {
        let page = browser.get(app.at(path)).await;
        page.assert_error(503, "The session store is not available. Try again in a minute.");
        assert_headers(&page, path, &HEADERS);
    }
    let log = app.log();
    assert!(log.contains("the session store failed") && log.contains("\": 503 "), "{log}");
    // Pages without a session are not affected, and neither are other visitors.
    assert_eq!(browser.get(app.at("/style.css")).await.status, 200);
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, session).unwrap();
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

#[tokio::test]
async fn only_get_is_accepted_and_head_at_the_home_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let page = browser.send(browser.client.head(app.at("/"))).await;
    assert_eq!((page.status, page.body.as_str()), (200, ""));
    assert_headers(&page, "HEAD", &HEADERS);
    for path in ["/", "/graph", "/admin", "/auth/redirect", "/logout", "/style.css"] {
        for method in ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            if (method, path) == ("HEAD", "/") {
                continue;
            }
            let request = browser.client.request(method.parse().unwrap(), app.at(path));
            let page = browser.send(request.body("state=s&code=c")).await;
            let allowed = if path == "/" { "GET, HEAD" } else { "GET" };
            assert_eq!((page.status, &page.headers["allow"]), (405, &allowed.parse().unwrap()));
            if method != "HEAD" {
                page.assert_error(405, "This address accepts only GET requests.");
            }
        }
    }
    assert_eq!(app.session_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn an_unknown_address_leads_to_an_error_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let paths = "/unknown /graph/ /Graph //graph /auth /auth/redirect/more /index.html /style.css/ \
                 /default_settings.toml /.env /sessions /%3Cscript%3E";
    for path in paths.split(' ') {
        let page = browser.get(app.at(path)).await;
        page.assert_error(404, "This app has no such page.");
        assert!(!page.body.contains("The log of the app") && !page.body.contains("script"));
    }
}

#[tokio::test]
async fn each_error_page_says_what_to_do_and_the_log_shows_the_request_without_its_query() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let page = browser.get(app.at("/auth/redirect?code=secret-in-the-query")).await;
    page.assert_error(400, "The app cannot read this request. Sign in again.");
    let page = browser.get(app.at("/auth/redirect?state=secret-in-the-query")).await;
    page.assert_error(400, "This sign-in was not started in this browser, or it took too long.");
    platform.id_token(|token| token.claims["roles"] = json!([]));
    platform.sign_in(&app, &browser, "/admin?secret-in-the-query").await;
    let page = browser.get(app.at("/admin?secret-in-the-query")).await;
    page.assert_error(403, "<a href=\"/logout\">sign out</a> first.");
    assert!(!page.body.contains("The log of the app"));
    let log = app.log();
    assert!(log.contains("ERROR src/middleware.rs") && log.contains("missing field `state`"));
    for line in ["GET \"/auth/redirect\": 400 Bad Request", "GET \"/admin\": 403 Forbidden"] {
        assert!(log.contains(line), "{line} is not in {log}");
    }
    assert!(!log.contains("secret-in-the-query"), "{log}");
}

#[tokio::test]
async fn another_name_of_this_computer_is_redirected_to_the_host_of_redirect_uri() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let port = app.url.rsplit(':').next().unwrap();
    for (host, target, location) in [
        (format!("127.0.0.1:{port}"), "/", Some("/")),
        (format!("127.0.0.1:{port}"), "/graph?a=1&b=%2F%3C#c", Some("/graph?a=1&b=%2F%3C")),
        (format!("127.0.0.1:{port}"), "/unknown", Some("/unknown")),
        (format!("127.0.0.1:{port}"), "/style.css?", Some("/style.css?")),
        (format!("127.0.0.2:{port}"), "/admin", Some("/admin")),
        (format!("[::1]:{port}"), "/admin", Some("/admin")),
        (format!("localhost:{port}"), "/style.css", None),
        (format!("LOCALHOST:{port}"), "/style.css", None),
        // Behind a proxy or a forwarded port, and names of other computers.
        ("127.0.0.1:1".to_owned(), "/style.css", None),
        ("127.0.0.1".to_owned(), "/style.css", None),
        (format!("127.0.0.1.example:{port}"), "/style.css", None),
        (format!("app.example:{port}"), "/style.css", None),
        (format!("192.0.2.1:{port}"), "/style.css", None),
        ("not a host".to_owned(), "/style.css", None),
    ] {
        let target = target.split('#').next().unwrap();
        let page = app.raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n")).await;
        let Some(location) = location else {
            assert_eq!(page.status, 200, "{host}");
            continue;
        };
        assert_eq!((page.status, page.location()), (302, &*app.at(location)), "{host}");
    }
    // If browsers reach the app with a name of another computer, the app does not redirect.
    let app = platform.app(&[("REDIRECT_URI", "https://app.example:1/auth/redirect")]).await;
    assert_eq!(app.raw("GET /style.css HTTP/1.1\r\nHost: 127.0.0.1:1\r\n").await.status, 200);
    // REDIRECT_URI may name the address.
    let app = platform.app(&[("REDIRECT_URI", "http://127.0.0.1:1/auth/redirect")]).await;
    let page = app.raw("GET /graph HTTP/1.1\r\nHost: localhost:1\r\n").await;
    assert_eq!((page.status, page.location()), (302, "http://127.0.0.1:1/graph"));
}

/// Asserts that a page runs no script, has no style of its own, and loads only style.css.
#[track_caller]
fn assert_nothing_inline(page: &Page, case: &str) {
    let body = page.body.to_lowercase();
    for text in ["<script", "<style", " style=", "javascript:", "<iframe", "<form", " src="] {
        assert!(!body.contains(text), "{case} contains {text:?}: {}", page.body);
    }
    for tag in body.split('<').filter_map(|tag| tag.split('>').next()) {
        assert!(!tag.contains(" on"), "{case} has an event handler: {tag}");
    }
    let is_local = |link: &&str| link.starts_with('/') || link.starts_with("data:image/svg+xml,");
    let links: Vec<&str> =
        body.split(" href=\"").skip(1).map(|link| link.split('"').next().unwrap()).collect();
    assert!(links.contains(&"/style.css") && links.iter().all(is_local), "{case}: {links:?}");
}

#[tokio::test]
async fn every_page_has_its_title_the_name_of_the_user_and_a_way_on() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (visitor, user) = (app.browser(), app.browser());
    platform.sign_in(&app, &user, "/graph").await;
    let name = "Signed in as <strong><bdi>Cleo Example</bdi></strong>";
    for (browser, path, title, is_named) in [
        (&visitor, "/", "Home", false),
        (&user, "/", "Home", true),
        (&user, "/graph", "Graph Access", true),
        (&user, "/admin", "Graph Access as Admin", true),
        (&user, "/unknown", "404 Not Found", false),
        (&visitor, "/auth/redirect", "400 Bad Request", false),
    ] {
        let page = browser.get(app.at(path)).await;
        let title = format!("<title>{title} - Rust actix-web</title>");
        assert!(page.body.contains(&title), "{path}: {}", page.body);
        assert_nothing_inline(&page, path);
        for link in ["/graph", "/admin"] {
            assert!(page.body.contains(&format!("<a href=\"{link}\">")), "{path}: {link}");
        }
        assert_eq!(page.body.contains(name), is_named, "{path}");
        assert_eq!(page.body.contains("<a href=\"/logout\">Sign out</a>"), is_named, "{path}");
        assert_eq!(page.body.contains("<a href=\"/\">Return to home</a>"), path != "/", "{path}");
        let is_protected = ["/graph", "/admin"].contains(&path);
        assert_eq!(page.body.matches("(You are here.)").count(), usize::from(is_protected));
        assert!(!page.body.contains("demo tenant"), "{path}");
    }
    let graph = user.get(app.at("/graph")).await;
    assert!(graph.body.contains(" seconds</strong>. It is in the token cache"), "{}", graph.body);
    let admin = user.get(app.at("/admin")).await;
    assert!(admin.body.contains("sub-of-cleo"), "{}", admin.body);

    // The claim `name` is optional.
    for (claims, name) in [
        (json!({ "preferred_username": "cleo@example.com" }), "cleo@example.com"),
        (json!({ "name": 7, "preferred_username": "cleo@example.com" }), "cleo@example.com"),
        (json!({ "name": "" }), ""),
        (json!({ "name": null, "preferred_username": ["cleo"] }), "unknown user"),
    ] {
        app.edit_session(|session| {
            let exp = session["user"]["id_token_claims"]["exp"].take();
            session["user"]["id_token_claims"] = claims.clone();
            session["user"]["id_token_claims"]["exp"] = exp;
            session["user"]["id_token_claims"]["roles"] = json!(["admin"]);
        });
        for path in ["/", "/graph", "/admin"] {
            let page = user.get(app.at(path)).await;
            assert!(page.body.contains(&format!("<bdi>{name}</bdi>")), "{path}: {}", page.body);
        }
    }
    // With the demo tenant, each page names it.
    let app = App::start(&[]).await;
    for path in ["/", "/unknown"] {
        let page = app.browser().get(app.at(path)).await;
        assert!(page.body.contains("This app uses its demo tenant, not Microsoft."), "{path}");
    }
}

#[tokio::test]
async fn json_has_colors_and_is_only_text() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    for (value, class, text) in [
        (json!("a"), "s", "&quot;a&quot;"),
        (json!(-1.5e300), "n", "-1.5e+300"),
        (json!(true), "b", "true"),
        (json!(false), "b", "false"),
        (Value::Null, "z", "null"),
        (json!([]), "", "[]"),
        (json!({}), "", "{}"),
        (json!("\"</pre><b>"), "s", "&quot;\\&quot;&lt;/pre&gt;&lt;b&gt;&quot;"),
        (json!("a\\"), "s", "&quot;a\\\\&quot;"),
        (json!("\\\"\\"), "s", "&quot;\\\\\\&quot;\\\\&quot;"),
        (json!("{{ 7 * 7 }} & '"), "s", "&quot;{{ 7 * 7 }} &amp; &#39;&quot;"),
        (json!("null, \"k\": 1"), "s", "&quot;null, \\&quot;k\\&quot;: 1&quot;"),
        (json!("\n\0"), "s", "&quot;\\n\\u0000&quot;"),
        (json!("\u{202e}é\u{1f600}"), "s", "&quot;\u{202e}é\u{1f600}&quot;"),
    ] {
        let html = match class {
            "" => text.to_owned(),
            class => format!("<span class=\"{class}\">{text}</span>"),
        };
        let answer_value = value.clone();
        platform.on(Endpoint::Graph, move |answer| {
            answer.json = json!({ "<b>:": answer_value, "last": 1 });
        });
        let page = browser.get(app.at("/graph")).await;
        let key = "<span class=\"k\">&quot;&lt;b&gt;:&quot;</span>";
        let text = format!("<pre><code>{{\n  {key}: {html},\n  <span class=\"k\">&quot;last");
        assert!(page.body.contains(&text), "{value}: {text} is not in {}", page.body);
    }
}

#[tokio::test]
async fn the_session_cookie_is_for_this_app_only() {
    let platform = Platform::start().await;
    for (settings, name, secure) in [
        (vec![], "rust-webapp-session", ""),
        (
            vec![("REDIRECT_URI", "https://app.example/auth/redirect")],
            "__Host-rust-webapp-session",
            "; Secure",
        ),
    ] {
        let app = platform.app(&settings).await;
        let browser = app.browser();
        let authorize = browser.get(app.at("/graph")).await;
        let callback = platform.callback(&authorize).replace("https://app.example", &app.url);
        // The client does not send a cookie that is `Secure` with http.
        let request = browser.client.get(callback).header("cookie", &authorize.cookies()[0]);
        let page = browser.send(request).await;
        assert_eq!(page.status, 302, "{}", page.body);
        let cookies = page.headers.get_all("set-cookie").iter();
        let cookie = cookies.map(|cookie| cookie.to_str().unwrap()).find(|it| it.starts_with(name));
        let (value, attributes) = cookie.unwrap().split_once(';').unwrap();
        // Without a lifetime, so that it ends with the browser, and without a domain.
        assert_eq!(attributes, format!(" HttpOnly; SameSite=Lax{secure}; Path=/"));
        assert!(value.len() < 200 && !value.contains("eyJ"), "{value}");
    }
}

#[tokio::test]
async fn a_response_does_not_repeat_a_cookie_of_the_request() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let signed_in = platform.sign_in(&app, &browser, "/graph").await;
    let cookie = signed_in.cookies().into_iter().find(|it| it.contains("session")).unwrap();
    let expire = || app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    let client = app.browser();
    // A refresh changes the session, and actix-session sends the cookie again.
    for header in [
        cookie.clone(),
        format!("a=b; {cookie}"),
        format!("{cookie}; a=b"),
        format!("a=\u{fc}; {cookie}"),
    ] {
        expire();
        let request = client.client.get(app.at("/graph")).header("cookie", header.as_bytes());
        let page = client.send(request).await;
        assert_eq!((page.status, page.cookies()), (200, vec![]), "{header}");
    }
    // If the user signs out during a refresh, its response does not bring the cookie back.
    expire();
    let before = platform.token_forms().await.len();
    platform.on(Endpoint::Token, |answer| answer.delay = Duration::from_millis(500));
    let refresh = tokio::spawn({
        let (browser, url) = (browser.clone(), app.at("/graph"));
        async move { browser.get(url).await }
    });
    while platform.token_forms().await.len() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let signed_out = browser.get(app.at("/logout")).await;
    assert_eq!(signed_out.cookies(), ["rust-webapp-session="]);
    let page = refresh.await.unwrap();
    assert_eq!((page.status, page.cookies()), (200, vec![]));
    assert!(!browser.get(app.at("/")).await.body.contains("Signed in"));
}

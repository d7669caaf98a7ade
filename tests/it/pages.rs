//! What browsers get: pages, headers, cookies, and the redirect to the host of REDIRECT_URI.

use std::fs;

use serde_json::{Value, json};

use crate::harness::*;
use crate::platform::*;

/// The headers of every response. Only style.css has another `cache-control`.
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

/// Asserts that a response has HEADERS, with this `cache-control`, and besides them only those of
/// HTTP itself and those with these names.
#[track_caller]
fn assert_headers(page: &Page, cache_control: &str, others: &[&str]) {
    let others = [&["connection", "content-length", "content-type", "date"], others].concat();
    let headers = page.headers.iter().filter(|(name, _)| !others.contains(&name.as_str()));
    let mut found: Vec<_> =
        headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let mut expected = HEADERS;
    expected[0].1 = cache_control;
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_response_has_the_security_headers_and_a_visitor_gets_no_cookie() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let another_host = app.url.replace("localhost", "127.0.0.1");
    for (url, status, cache_control, content_type, others) in [
        (app.at("/"), 200, "no-store", "text/html; charset=utf-8", vec![]),
        (app.at("/auth/redirect"), 400, "no-store", "text/html; charset=utf-8", vec![]),
        (app.at("/unknown"), 404, "no-store", "text/html; charset=utf-8", vec![]),
        (app.at("/style.css"), 200, "max-age=3600", "text/css; charset=utf-8", vec![]),
        (app.at("/logout"), 302, "no-store", "", vec!["location"]),
        (app.at("/graph"), 302, "no-store", "", vec!["location", "set-cookie"]),
        (another_host, 302, "no-store", "", vec!["location"]),
    ] {
        let page = browser.get(&url).await;
        let found = page.headers.get("content-type").map_or("", |found| found.to_str().unwrap());
        assert_eq!((page.status, found), (status, content_type), "{url}");
        assert_headers(&page, cache_control, &others);
    }
    assert_eq!(browser.get(app.at("/style.css")).await.body, read("templates/style.css"));
}

#[tokio::test]
async fn only_get_is_accepted_and_head_at_the_home_page() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    for path in ["/", "/graph", "/admin", "/auth/redirect", "/logout", "/style.css"] {
        let (allowed, status) = if path == "/" { ("GET, HEAD", 200) } else { ("GET", 405) };
        for method in ["POST", "OPTIONS"] {
            let request = browser.client.request(method.parse().unwrap(), app.at(path));
            let page = browser.send(request.body("state=s&code=c")).await;
            page.assert_error(405, "This address accepts only GET requests.");
            assert_eq!(page.headers["allow"], allowed, "{path}");
        }
        let page = browser.send(browser.client.head(app.at(path))).await;
        assert_eq!(page.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_session_store_that_fails_leads_to_an_error_page() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let file = app.session_files().remove(0);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for path in ["/", "/graph", "/admin", "/logout", "/auth/redirect?state=s"] {
        let page = browser.get(app.at(path)).await;
        page.assert_error(503, "The session store is not available. Try again in a minute.");
        assert!(page.body.contains("The log of the app shows the cause."), "{}", page.body);
        assert_headers(&page, "no-store", &[]);
    }
    let log = app.log();
    let line = "GET \"/\": 503 Service Unavailable, The session store is not available.";
    assert!(log.contains(line), "{log}");
    // Pages without a session are not affected, and neither are other visitors.
    assert_eq!(browser.get(app.at("/style.css")).await.status, 200);
    assert_eq!(app.browser().get(app.at("/")).await.status, 200);
}

#[tokio::test]
async fn an_error_page_says_what_to_do_and_the_query_is_neither_on_it_nor_in_the_log() {
    let platform = Platform::start().await;
    platform.id_token(|token| token.claims["roles"] = json!([]));
    let (app, browser) = platform.signed_in(&[]).await;
    let not_started = "This sign-in was not started in this browser, or it took too long, ";
    for (target, status, text) in [
        ("/auth/redirect?code=<secret>", 400, "The app cannot read this request. Sign in again."),
        ("/auth/redirect?state[]=<secret>", 400, "The app cannot read this request."),
        ("/auth/redirect?state=<secret>%00%FF%zz%&code=%C3%28", 400, not_started),
        ("/auth/redirect?state=<secret>&error=<secret>", 400, not_started),
        ("/admin?<secret>", 403, "<a href=\"/logout\">sign out</a> first."),
        ("/unknown?<secret>", 404, "This app has no such page."),
        ("/%3Cscript%3E%FF%00%", 404, "This app has no such page."),
        ("/graph/", 404, "This app has no such page."),
        ("//graph", 404, "This app has no such page."),
    ] {
        let page = browser.get(app.at(target)).await;
        page.assert_error(status, text);
        for text in ["secret", "script", "The log of the app"] {
            assert!(!page.body.contains(text), "{target}: {text} is in {}", page.body);
        }
    }
    let log = app.log();
    for text in [
        "ERROR src/error_pages.rs",
        "missing field `state`",
        "GET \"/auth/redirect\": 400 Bad Request",
        "GET \"/admin\": 403 Forbidden",
    ] {
        assert!(log.contains(text), "{text} is not in {log}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn another_name_of_this_computer_is_redirected_to_the_host_of_redirect_uri() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let (_, port) = app.url.rsplit_once(':').unwrap();
    for (host, target, path) in [
        ("127.0.0.1:{port}", "/graph?a=1&b=%2F%3C", "/graph?a=1&b=%2F%3C"),
        ("[::1]:{port}", "/style.css", "/style.css"),
        // Nothing in the request changes the host.
        ("127.0.0.1:{port}", "//evil.example/graph", "//evil.example/graph"),
        ("127.0.0.1:{port}", "http://evil.example/graph", "/graph"),
        ("evil.example:x@127.0.0.1:{port}", "/graph", "/graph"),
    ] {
        let host = host.replace("{port}", port);
        let page = app.raw(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n")).await;
        assert_eq!((page.status, page.location()), (302, &*app.at(path)), "{host} {target}");
    }
    // The same host, a forwarded port, another computer, and a host that is not one.
    for host in ["LOCALHOST:{port}", "127.0.0.1:1", "192.0.2.1:{port}", "not a host"] {
        let host = host.replace("{port}", port);
        let page = app.raw(format!("GET /style.css HTTP/1.1\r\nHost: {host}\r\n")).await;
        assert_eq!(page.status, 200, "{host}");
    }
    // If browsers reach the app with a name of another computer, the app does not redirect.
    let app = platform.app(&[("REDIRECT_URI", "https://app.example:1/auth/redirect")]).await;
    assert_eq!(app.raw("GET /style.css HTTP/1.1\r\nHost: 127.0.0.1:1\r\n").await.status, 200);
    // REDIRECT_URI may name the address.
    let app = platform.app(&[("REDIRECT_URI", "http://127.0.0.1:1/auth/redirect")]).await;
    let page = app.raw("GET /graph HTTP/1.1\r\nHost: localhost:1\r\n").await;
    assert_eq!((page.status, page.location()), (302, "http://127.0.0.1:1/graph"));
}

#[tokio::test]
async fn every_page_has_its_title_the_name_of_the_user_and_a_way_on() {
    let platform = Platform::start().await;
    let (app, user) = platform.signed_in(&[]).await;
    let visitor = app.browser();
    for (browser, path, title, name) in [
        (&visitor, "/", "Home", None),
        (&user, "/", "Home", Some("Cleo Example")),
        (&user, "/graph", "Graph Access", Some("Cleo Example")),
        (&user, "/admin", "Graph Access as Admin", Some("Cleo Example")),
        (&user, "/unknown", "404 Not Found", None),
    ] {
        let page = browser.get(app.at(path)).await;
        assert_eq!(page.user(), name, "{path}");
        for (html, is_expected) in [
            (&*format!("<title>{title} - Rust actix-web</title>"), true),
            ("<link rel=\"stylesheet\" href=\"/style.css\">", true),
            ("<a href=\"/graph\">", true),
            ("<a href=\"/admin\">", true),
            ("<a href=\"/logout\">Sign out</a>", name.is_some()),
            ("<a href=\"/\">Return to home</a>", path != "/"),
            ("(You are here.)", ["/graph", "/admin"].contains(&path)),
            ("demo tenant", false),
        ] {
            let count = page.body.matches(html).count();
            assert_eq!(count, usize::from(is_expected), "{path} {html}: {}", page.body);
        }
    }
    // The claims `name` and `preferred_username` are optional.
    for (preferred_username, name) in
        [(json!("cleo@example.com"), "cleo@example.com"), (Value::Null, "unknown user")]
    {
        platform.id_token(move |token| {
            token.claims["name"] = Value::Null;
            token.claims["preferred_username"] = preferred_username.clone();
        });
        let user = app.browser();
        platform.sign_in(&app, &user, "/graph").await;
        for path in ["/", "/graph", "/admin"] {
            assert_eq!(user.get(app.at(path)).await.user(), Some(name), "{path}");
        }
    }
}

#[cfg(feature = "demo-tenant")]
#[tokio::test]
async fn with_the_demo_tenant_each_page_names_it() {
    let app = App::start(&[]).await;
    let page = app.browser().get(app.at("/unknown")).await;
    assert!(page.body.contains("This app uses its demo tenant, not Microsoft."), "{}", page.body);
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
        (json!("\"</pre><b>"), "s", "&quot;\\&quot;&lt;/pre&gt;&lt;b&gt;&quot;"),
        (json!("\\\"\\"), "s", "&quot;\\\\\\&quot;\\\\&quot;"),
        (json!("null, \"k\": 1"), "s", "&quot;null, \\&quot;k\\&quot;: 1&quot;"),
        (json!("\u{202e}é\u{1f600}"), "s", "&quot;\u{202e}é\u{1f600}&quot;"),
    ] {
        let html = format!("<span class=\"{class}\">{text}</span>");
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
    for (redirect_uri, name, secure) in [
        ("", "rust-webapp-session=", ""),
        ("https://app.example/auth/redirect", "__Host-rust-webapp-session=", "; Secure"),
    ] {
        let app = platform.app(&[("REDIRECT_URI", redirect_uri)]).await;
        let browser = app.browser();
        let authorize = browser.get(app.at("/graph")).await;
        let callback = platform.callback(&authorize).replace("https://app.example", &app.url);
        // The client does not send a cookie that is `Secure` with http.
        let request = browser.client.get(callback).header("cookie", &authorize.cookies()[0]);
        let page = browser.send(request).await;
        assert_eq!(page.status, 302, "{}", page.body);
        let mut cookies = page.headers.get_all("set-cookie").iter();
        let cookie = cookies.next_back().unwrap().to_str().unwrap();
        let (_, attributes) = cookie.split_once(';').unwrap();
        // Without a lifetime, so that it ends with the browser, and without a domain.
        assert_eq!(attributes, format!(" HttpOnly; SameSite=Lax{secure}; Path=/"));
        assert!(cookie.starts_with(name), "{cookie}");
    }
}

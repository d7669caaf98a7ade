//! The whole app against its demo tenant, as a newcomer sees it.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::harness::*;

/// The pages that need a sign-in, and their titles.
const PROTECTED: [(&str, &str); 2] = [("/graph", "Graph Access"), ("/admin", "Graph Access as Admin")];

const H1: &str = "<h1>User authentication with Microsoft Entra ID in Rust actix-web</h1>";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// A request with this cookie, and no other, from a browser of its own.
async fn get_with_cookie(app: &App, path: &str, cookie: &str) -> Page {
    let browser = app.browser();
    browser.send(browser.client.get(app.at(path)).header("Cookie", cookie)).await
}

/// How often the demo tenant has issued tokens so far, at sign-ins and
/// refreshes.
fn tokens_issued(app: &App) -> usize {
    app.log().matches("demo tenant: tokens issued").count()
}

/// An entry of the token cache, of a section that has one.
fn entry(token_cache: &Value, section: &str) -> Value {
    let entries = token_cache[section].as_object().unwrap();
    assert_eq!(entries.len(), 1, "{section}: {entries:?}");
    entries.values().next().unwrap().clone()
}

/// Changes the end of the cached access token, in seconds from now.
fn set_expires_in(app: &App, seconds: i64) {
    app.edit_token_cache(|token_cache| {
        for entry in token_cache["AccessToken"].as_object_mut().unwrap().values_mut() {
            entry["expires_on"] = (now() + seconds).to_string().into();
        }
    });
}

/// The answer of the demo tenant to a request for authorization, with some
/// of its parameters changed or, as None, left out.
async fn authorize(browser: &Browser, valid: &str, changes: &[(&str, Option<&str>)]) -> Page {
    let mut url = Url::parse(valid).unwrap();
    let kept: Vec<_> = url.query_pairs().into_owned().collect();
    let kept = kept.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let changed = changes.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
    url.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(changed);
    browser.get(url).await
}

/// The origin and the authority of the app's demo tenant.
async fn tenant(app: &App) -> (String, String) {
    let home = app.browser().get(app.at("/")).await;
    let (_, rest) = home.body.split_once("demo tenant at <code>").unwrap();
    let authority = rest.split_once("</code>").unwrap().0.replace("&#x2F;", "/");
    (Url::parse(&authority).unwrap().origin().ascii_serialization(), authority)
}

// --- The pages ----------------------------------------------------------

#[tokio::test]
async fn a_sign_in_by_http_alone_leads_to_the_graph_page() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let page = browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.title(), "Graph Access - Rust actix-web");
    for part in [H1, "<h2>Graph Access</h2>", "ada@demo-tenant.example", "Administrator of examples", r#"href="/">"#] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    // The token is as good as new.
    let (_, rest) = page.body.split_once("valid for another <strong>").unwrap();
    let seconds: i64 = rest.split_once(' ').unwrap().0.parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn the_home_page_is_for_anyone_and_sets_no_cookie() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let home = browser.get(app.at("/")).await;
    assert_eq!(home.status, 200);
    assert_eq!(home.title(), "Home - Rust actix-web");
    assert_eq!(home.headers["content-type"], "text/html; charset=utf-8");
    for part in [H1, "<h2>Home</h2>", r#"href="/graph""#, r#"href="/admin""#, "<code>admin</code>", "demo tenant"] {
        assert!(home.body.contains(part), "{part}: {}", home.body);
    }
    for part in ["Signed in as", "/logout"] {
        assert!(!home.body.contains(part), "{part}: {}", home.body);
    }
    assert_eq!(home.cookies(), [""; 0]);
    assert!(app.session_files().is_empty());
    // A cookie that this app did not make is worth no more.
    let page = get_with_cookie(&app, "/", &format!("rust-webapp-session={}", "A".repeat(108))).await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("Signed in as"));
}

#[tokio::test]
async fn the_home_page_shows_who_is_signed_in() {
    let app = App::start(&[]).await;
    for (user, name) in [(ADA_WITH_THE_ROLE, "Ada Example"), (BEN_WITHOUT_ROLE, "Ben Example")] {
        let browser = app.browser();
        browser.sign_in(&app, "/graph", user).await;
        let home = browser.get(app.at("/")).await;
        assert_eq!(home.title(), "Home - Rust actix-web");
        assert!(home.body.contains(&format!("Signed in as <strong><bdi>{name}</bdi></strong>")), "{}", home.body);
        assert!(home.body.contains(r#"href="/logout""#), "{}", home.body);
        assert_eq!(home.cookies(), [""; 0]);
    }
}

#[tokio::test]
async fn protected_pages_send_a_signed_out_visitor_to_the_authorization_endpoint() {
    let app = App::start(&[]).await;
    let (_, authority) = tenant(&app).await;
    for (path, _) in PROTECTED {
        let page = app.browser().get(app.at(path)).await;
        assert_eq!(page.status, 302);
        assert_eq!(page.body, "");
        assert!(page.location().starts_with(&format!("{authority}/oauth2/v2.0/authorize?")), "{}", page.location());
        let url = Url::parse(page.location()).unwrap();
        let parameters: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(parameters.len(), url.query_pairs().count());
        assert_eq!(parameters["response_type"], "code");
        assert_eq!(parameters["redirect_uri"], app.at("/auth/redirect"));
        assert_eq!(parameters["scope"], "https://graph.microsoft.com/User.Read offline_access openid profile");
        assert_eq!(parameters["code_challenge_method"], "S256");
        assert_eq!(parameters["client_info"], "1");
        assert_eq!(parameters["claims"], r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#);
        // 32 bytes each, and new each time.
        let again = app.browser().get(app.at(path)).await;
        for name in ["state", "nonce", "code_challenge"] {
            assert_eq!(parameters[name].len(), 43, "{name}");
            assert_ne!(again.location_param(name).unwrap(), parameters[name]);
        }
    }
}

#[tokio::test]
async fn the_user_with_the_role_sees_both_protected_pages() {
    let app = App::start(&[]).await;
    for (path, title) in PROTECTED {
        let browser = app.browser();
        let page = browser.sign_in(&app, path, ADA_WITH_THE_ROLE).await;
        assert_eq!((page.status, page.title()), (200, format!("{title} - Rust actix-web").as_str()));
        for part in [
            H1,
            &format!("<h2>{title}</h2>"),
            "Signed in as <strong><bdi>Ada Example</bdi></strong>",
            r#"href="/graph""#,
            r#"href="/admin""#,
            r#"href="/logout""#,
            r#"<a href="/">Return to home</a>"#,
        ] {
            assert!(page.body.contains(part), "{part}: {}", page.body);
        }
        // This page's link, and no other, is marked.
        let marked: Vec<_> = page.body.lines().filter(|line| line.contains("You are here")).collect();
        assert!(matches!(marked[..], [line] if line.contains(&format!("href=\"{path}\""))), "{marked:?}");
    }
}

#[tokio::test]
async fn the_admin_page_shows_the_claims_of_the_id_token() {
    let app = App::start(&[]).await;
    let page = app.browser().sign_in(&app, "/admin", ADA_WITH_THE_ROLE).await;
    let claims = app.session()["user"]["id_token_claims"].clone();
    assert_eq!(claims["roles"], json!(["admin"]));
    for claim in claims.as_object().unwrap().keys() {
        assert!(page.body.contains(&format!("&quot;{claim}&quot;")), "{claim}: {}", page.body);
    }
    assert!(!page.body.contains(app.session()["user"]["id_token"].as_str().unwrap()));
}

#[tokio::test]
async fn the_user_without_the_role_sees_the_graph_page_only() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let refused = browser.sign_in(&app, "/admin", BEN_WITHOUT_ROLE).await;
    refused.assert_error_page(403);
    for part in ["User is missing a required role.", "&quot;admin&quot;", "are none.", r#"href="/logout""#] {
        assert!(refused.body.contains(part), "{part}: {}", refused.body);
    }
    assert!(!refused.body.contains("id_token_claims") && !refused.body.contains("tid"), "{}", refused.body);
    let graph = browser.get(app.at("/graph")).await;
    assert_eq!(graph.status, 200);
    for part in ["Signed in as <strong><bdi>Ben Example</bdi></strong>", "ben@demo-tenant.example"] {
        assert!(graph.body.contains(part), "{part}: {}", graph.body);
    }
    assert!(!graph.body.contains("ada@"));
}

#[tokio::test]
async fn json_is_coloured_and_whatever_is_in_it_is_escaped() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let graph = browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    for part in [
        r#"  <span class="k">&quot;displayName&quot;</span>: <span class="s">&quot;Ada Example&quot;</span>,"#,
        r#"  <span class="k">&quot;mobilePhone&quot;</span>: <span class="z">null</span>,"#,
    ] {
        assert!(graph.body.contains(part), "{part}: {}", graph.body);
    }
    app.edit_session(|session| {
        let claims = &mut session["user"]["id_token_claims"];
        claims["name"] = r#"<script>alert("1")</script>"#.into();
        claims["<b>key</b>\":"] = json!([-1.5e3, true, "a \\\" : \\", { "k&": false }]);
    });
    let admin = browser.get(app.at("/admin")).await;
    assert_eq!(admin.status, 200);
    for part in [
        r#"<span class="k">&quot;&lt;b&gt;key&lt;"#,
        r#"<span class="n">-1500.0</span>"#,
        r#"<span class="b">true</span>"#,
        r#"<span class="b">false</span>"#,
        r#"<span class="s">&quot;a \\\&quot; : \\&quot;</span>,"#,
        r#"<span class="k">&quot;k&amp;&quot;</span>: "#,
    ] {
        assert!(admin.body.contains(part), "{part}: {}", admin.body);
    }
    for path in ["/", "/graph", "/admin"] {
        let page = browser.get(app.at(path)).await;
        assert!(page.body.contains("&lt;script&gt;"), "{path}: {}", page.body);
        assert!(!page.body.contains("<script") && !page.body.contains("<b>"), "{path}: {}", page.body);
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_and_nothing_of_another_host() {
    let app = App::start(&[]).await;
    let signed_in = app.browser();
    signed_in.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await;
    let signed_out = app.browser();
    let mut statuses = Vec::new();
    for browser in [&signed_out, &signed_in] {
        for path in ["/", "/graph", "/admin", "/auth/redirect", "/no-such-page", "/style.css", "/logout"] {
            let page = browser.get(app.at(path)).await;
            statuses.push(page.status);
            assert_headers(&page, path);
            if path != "/style.css" {
                assert_eq!(page.headers["cache-control"], "no-store", "{path}");
            }
            for part in ["src=", "href=\"http", "url(", "@import", "<script", "style=\"", "javascript:"] {
                assert!(!page.body.contains(part), "{path}, {part}: {}", page.body);
            }
        }
    }
    assert_eq!(statuses, [200, 302, 302, 400, 404, 200, 302, 200, 200, 403, 400, 404, 200, 302]);
    let browser = app.browser();
    let elsewhere = browser.client.get(app.at("/graph").replace("localhost", "127.0.0.1"));
    assert_headers(&browser.send(elsewhere).await, "to localhost");
    assert_headers(&browser.post(app.at("/graph"), &[]).await, "wrong method");
}

fn assert_headers(page: &Page, what: &str) {
    let policy: Vec<_> = page.headers["content-security-policy"].to_str().unwrap().split("; ").collect();
    for directive in ["default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(&directive), "{what}: {policy:?}");
    }
    assert!(policy.iter().all(|directive| !directive.contains("unsafe") && !directive.contains("http")), "{policy:?}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff", "{what}");
    assert_eq!(page.headers["referrer-policy"], "no-referrer", "{what}");
    assert!(page.headers.contains_key("cache-control"), "{what}");
}

#[tokio::test]
async fn unknown_pages_and_wrong_methods_have_their_error_pages() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    for path in ["/no-such-page", "/graph/", "/GRAPH", "/auth", "/auth/redirect/x", "//graph", "/%00", "/..%2Fgraph"] {
        browser.get(app.at(path)).await.assert_error_page(404);
    }
    for path in ["/", "/graph", "/admin", "/auth/redirect", "/logout"] {
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let page = browser.send(browser.client.request(method, app.at(path))).await;
            page.assert_error_page(405);
            assert_eq!(page.cookies(), [""; 0]);
        }
    }
    // A link or a form elsewhere cannot sign anyone out by another method.
    browser.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await;
    browser.post(app.at("/logout"), &[]).await.assert_error_page(405);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

// --- Signing in ---------------------------------------------------------

#[tokio::test]
async fn after_the_sign_in_comes_the_page_first_asked_for_with_its_query() {
    let app = App::start(&[]).await;
    for (path, _) in PROTECTED {
        for query in ["", "?", "?a=1&b=2&a=3", "?q=%2F%2Fevil.example%2F+%C3%A4;x", "?next=https://evil.example/"] {
            let page = app.browser().sign_in(&app, &format!("{path}{query}"), ADA_WITH_THE_ROLE).await;
            assert_eq!(page.status, 200);
        }
        // One that is too long for a session comes back without its query.
        let longest = format!("{path}?{}", "x".repeat(2000 - path.len() - 1));
        app.browser().sign_in(&app, &longest, ADA_WITH_THE_ROLE).await;
        let browser = app.browser();
        let callback = browser.choose(&app, &format!("{longest}x"), ADA_WITH_THE_ROLE).await;
        assert_eq!(browser.get(callback.location()).await.location(), path);
    }
}

#[tokio::test]
async fn declining_shows_error_and_description() {
    let app = App::start(&[]).await;
    for (path, _) in PROTECTED {
        let browser = app.browser();
        let callback = browser.choose(&app, path, DECLINE).await;
        assert!(callback.location().starts_with(&app.at("/auth/redirect?")), "{}", callback.location());
        let page = browser.get(callback.location()).await;
        page.assert_error_page(403);
        for part in ["access_denied", "AADSTS65004: The user declined to consent."] {
            assert!(page.body.contains(part), "{part}: {}", page.body);
        }
        // The sign-in is over, and nobody is signed in.
        browser.get(callback.location()).await.assert_error_page(400);
        assert_eq!(browser.get(app.at(path)).await.status, 302);
        assert!(!browser.get(app.at("/")).await.body.contains("Signed in as"));
        // The next try may go another way.
        assert_eq!(browser.sign_in(&app, path, ADA_WITH_THE_ROLE).await.status, 200);
    }
}

#[tokio::test]
async fn the_session_cookie_has_its_attributes() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let callback = browser.choose(&app, "/graph", BEN_WITHOUT_ROLE).await;
    let signed_in = browser.get(callback.location()).await;
    let cookie = signed_in.cookies().remove(0);
    for page in [authorize, signed_in] {
        let cookies: Vec<_> = page.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies.len(), 1, "{cookies:?}");
        let mut attributes = cookies[0].to_str().unwrap().split("; ");
        let value = attributes.next().unwrap().strip_prefix("rust-webapp-session=").unwrap();
        // A signature of 32 bytes in base64, and an id of 64 letters and digits:
        // nothing of the user.
        assert!(value.len() < 200, "{value}");
        let mut attributes: Vec<_> = attributes.collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax"]);
    }
    // It is signed: whoever guessed an id would have to sign it too.
    assert_eq!(get_with_cookie(&app, "/graph", &cookie).await.status, 200);
    let (name, signature_and_id) = cookie.split_once('=').unwrap();
    let other = if signature_and_id.starts_with('A') { "B" } else { "A" };
    for forged in [format!("{other}{}", &signature_and_id[1..]), cookie[cookie.len() - 64..].to_owned()] {
        assert_eq!(get_with_cookie(&app, "/graph", &format!("{name}={forged}")).await.status, 302);
    }
}

#[tokio::test]
async fn with_an_https_redirect_uri_the_cookie_is_for_https_and_this_host_only() {
    let app = App::start(&[("REDIRECT_URI", "https://app.example.com/auth/redirect")]).await;
    let browser = app.browser();
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.location_param("redirect_uri").unwrap(), "https://app.example.com/auth/redirect");
    let cookie = page.headers["set-cookie"].to_str().unwrap();
    let mut attributes: Vec<_> = cookie.split("; ").skip(1).collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);
    let cookie = &page.cookies()[0];
    assert!(cookie.starts_with("__Host-rust-webapp-session="), "{cookie}");

    // As the proxy would hand it on. The name of the host is whatever the
    // proxy makes of it.
    let callback = browser.post(page.location(), &[("choice", ADA_WITH_THE_ROLE)]).await;
    let query = callback.location().strip_prefix("https://app.example.com/auth/redirect").unwrap();
    let signed_in = get_with_cookie(&app, &format!("/auth/redirect{query}"), cookie).await;
    assert_eq!((signed_in.status, signed_in.location()), (302, "/graph"), "{}", signed_in.body);
    assert_eq!(get_with_cookie(&app, "/graph", &signed_in.cookies()[0]).await.status, 200);
    // The name without the prefix, which any other host of the domain could
    // set, is not looked at.
    let planted = signed_in.cookies()[0].replace("__Host-", "");
    assert_eq!(get_with_cookie(&app, "/graph", &planted).await.status, 302);
}

#[tokio::test]
async fn the_sign_in_gives_the_session_a_new_id() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let planted = browser.get(app.at("/graph")).await;
    let cookie = &planted.cookies()[0];
    let callback = browser.post(planted.location(), &[("choice", ADA_WITH_THE_ROLE)]).await;
    let signed_in = browser.get(callback.location()).await;
    let new_cookie = &signed_in.cookies()[0];
    assert_ne!(new_cookie, cookie);
    assert_eq!(get_with_cookie(&app, "/graph", new_cookie).await.status, 200);
    assert!(!get_with_cookie(&app, "/", cookie).await.body.contains("Signed in as"));
    // Signing in a second time renews it again, and the first one is worth
    // nothing.
    app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = 1.into());
    let authorize = browser.get(app.at("/graph")).await;
    let callback = browser.get(authorize.location()).await;
    browser.get(callback.location()).await;
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    for cookie in [cookie, new_cookie] {
        assert_eq!(get_with_cookie(&app, "/graph", cookie).await.status, 302);
    }
}

#[tokio::test]
async fn two_tabs_that_sign_in_at_once_both_arrive() {
    let app = App::start(&[]).await;
    for first_to_finish in [0, 1] {
        let browser = app.browser();
        let paths = ["/graph?tab=1", "/admin?tab=2"];
        let authorize = [browser.get(app.at(paths[0])).await, browser.get(app.at(paths[1])).await];
        let mut callbacks = Vec::new();
        for page in &authorize {
            callbacks.push(browser.post(page.location(), &[("choice", ADA_WITH_THE_ROLE)]).await);
        }
        for at in [first_to_finish, 1 - first_to_finish] {
            let signed_in = browser.get(callbacks[at].location()).await;
            assert_eq!((signed_in.status, signed_in.location()), (302, paths[at]), "{}", signed_in.body);
            assert_eq!(browser.get(app.at(paths[at])).await.status, 200);
        }
    }
}

#[tokio::test]
async fn of_more_than_eight_sign_ins_the_oldest_is_dropped() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let mut callbacks = Vec::new();
    for tab in 0..10 {
        let path = format!("/graph?tab={tab}");
        callbacks.push((browser.choose(&app, &path, ADA_WITH_THE_ROLE).await, path));
    }
    assert_eq!(app.session()["auth_code_flow"].as_object().unwrap().len(), 8);
    for (at, (callback, path)) in callbacks.iter().enumerate() {
        let page = browser.get(callback.location()).await;
        if at < 2 {
            page.assert_error_page(400);
        } else {
            assert_eq!((page.status, page.location()), (302, path.as_str()), "{}", page.body);
        }
    }
    assert_eq!(app.session()["auth_code_flow"], json!({}));
}

#[tokio::test]
async fn single_sign_on_answers_the_next_sign_in_without_a_choice() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    // The id token is as old as it may be with 120 s for clocks that differ,
    // and then older.
    app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = (now() - 60).into());
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    app.edit_session(|session| session["user"]["id_token_claims"]["exp"] = (now() - 120).into());
    let authorize = browser.get(app.at("/admin")).await;
    let callback = browser.get(authorize.location()).await;
    assert!(callback.location().starts_with(&app.at("/auth/redirect?code=")), "{}", callback.status);
    assert_eq!(browser.get(callback.location()).await.location(), "/admin");
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    assert!(app.session()["user"]["id_token_claims"]["exp"].as_i64().unwrap() > now());
    // Another browser is asked.
    let authorize = app.browser().get(app.at("/admin")).await;
    assert_eq!(app.browser().get(authorize.location()).await.title(), "Choose a user - Demo tenant");
}

// --- One name for this machine ------------------------------------------

#[tokio::test]
async fn other_names_of_this_machine_lead_to_the_one_in_redirect_uri() {
    let app = App::start(&[]).await;
    let port = Url::parse(&app.url).unwrap().port().unwrap();
    let browser = app.browser();
    for host in ["127.0.0.1", "[::1]", "127.0.0.2"] {
        for path in [
            "/",
            "/graph?a=%2F&b=c+d",
            "/no-such-page",
            "/logout",
            "//evil.example/%2F..?x=//evil.example",
            "/%5Cevil.example",
        ] {
            let request = browser.client.get(app.at(path)).header("Host", format!("{host}:{port}"));
            let page = browser.send(request).await;
            assert_eq!((page.status, page.location()), (302, app.at(path).as_str()), "{host}");
            assert_eq!(page.cookies(), [""; 0]);
        }
    }
    // What is no other name of this machine is served as it is, and shown
    // nowhere.
    for host in ["app.example.com", "localhost", "LOCALHOST:1", "evil.example:80", "127.0.0.1.evil.example"] {
        let page = browser.send(browser.client.get(app.at("/graph")).header("Host", host)).await;
        assert_eq!(page.location_param("redirect_uri").unwrap(), app.at("/auth/redirect"), "{host}");
        assert!(!page.location().contains("evil"));
        let page = browser.send(browser.client.get(app.at("/no-such-page")).header("Host", host)).await;
        page.assert_error_page(404);
        assert!(!page.body.contains("evil"));
    }
}

#[tokio::test]
async fn what_proxies_say_of_the_request_is_not_believed() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let request = browser.client.get(app.at("/graph"));
    let request = request.header("X-Forwarded-Host", "evil.example").header("X-Forwarded-Proto", "https");
    let request = request.header("Forwarded", "host=evil.example;proto=https").header("X-Forwarded-Port", "1");
    let page = browser.send(request).await;
    assert_eq!(page.location_param("redirect_uri").unwrap(), app.at("/auth/redirect"));
    let request = browser.client.get(app.at("/graph")).header("X-Forwarded-Host", "127.0.0.1");
    assert!(browser.send(request).await.location().contains("/authorize?"));
    let request = browser.client.get(app.at("/logout")).header("X-Forwarded-Host", "evil.example");
    assert_eq!(browser.send(request).await.location(), "/");
}

#[tokio::test]
async fn a_visitor_of_127_0_0_1_signs_in_by_way_of_localhost() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let page = browser.get(app.at("/graph?x=1").replace("localhost", "127.0.0.1")).await;
    assert_eq!(page.location(), app.at("/graph?x=1"));
    let authorize = browser.get(page.location()).await;
    let callback = browser.post(authorize.location(), &[("choice", BEN_WITHOUT_ROLE)]).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/graph?x=1");
    assert_eq!(browser.get(app.at("/graph?x=1")).await.status, 200);
}

// --- The token cache ----------------------------------------------------

#[tokio::test]
async fn a_cached_access_token_is_used_without_a_token_request() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let session = app.session();
    assert_eq!(tokens_issued(&app), 1);
    for expires_in in [3000, 310] {
        set_expires_in(&app, expires_in);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("ada@demo-tenant.example"));
    }
    browser.get(app.at("/admin")).await;
    browser.get(app.at("/")).await;
    assert_eq!(tokens_issued(&app), 1);
    assert_eq!(app.session()["user"], session["user"]);
    // It is that one, and no other, that Graph gets.
    app.edit_token_cache(|token_cache| {
        for entry in token_cache["AccessToken"].as_object_mut().unwrap().values_mut() {
            entry["secret"] = "not-a-token-of-this-tenant".into();
        }
    });
    let page = browser.get(app.at("/graph")).await;
    page.assert_error_page(502);
    assert!(page.body.contains("InvalidAuthenticationToken"), "{}", page.body);
    assert_eq!(tokens_issued(&app), 1);
}

#[tokio::test]
async fn an_access_token_with_less_than_five_minutes_is_refreshed_in_silence() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let before = (app.session()["user"].clone(), app.token_cache());
    set_expires_in(&app, 298);
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("ada@demo-tenant.example"));
    assert_eq!(tokens_issued(&app), 2);
    let after = (app.session()["user"].clone(), app.token_cache());
    assert_eq!(after.0, before.0);
    for section in ["AccessToken", "RefreshToken"] {
        let [old, new] =
            [&before.1, &after.1].map(|cache| entry(cache, section)["secret"].as_str().unwrap().to_owned());
        assert_ne!(old, new, "{section}");
        app.secrets().add(old);
    }
    let expires_on: i64 = entry(&after.1, "AccessToken")["expires_on"].as_str().unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&(expires_on - now())));
    // The new one is in the cache now.
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(tokens_issued(&app), 2);
    // /admin needs no access token, and renews none.
    set_expires_in(&app, -1);
    assert_eq!(browser.get(app.at("/admin")).await.status, 200);
    assert_eq!(tokens_issued(&app), 2);
}

#[tokio::test]
async fn each_refresh_uses_the_newest_refresh_token() {
    let app = App::start(&[("DEMO_TOKEN_LIFETIME", "299")]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await;
    let mut seen = Vec::new();
    for visit in 0..3 {
        let refresh_token = entry(&app.token_cache(), "RefreshToken")["secret"].clone();
        assert!(!seen.contains(&refresh_token), "visit {visit} did not keep the new refresh token");
        app.secrets().add(refresh_token.as_str().unwrap());
        seen.push(refresh_token);
        let page = browser.get(app.at("/graph")).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains("ben@demo-tenant.example"));
    }
    assert_eq!(tokens_issued(&app), 1 + 4);
    // Of two, the one that came last. The demo tenant knows nothing of the
    // other.
    let add = |secret: &str, age: i64| {
        let mut entry = entry(&app.token_cache(), "RefreshToken");
        let newest: i64 = entry["last_modification_time"].as_str().unwrap().parse().unwrap();
        entry["secret"] = secret.into();
        entry["target"] = "other".into();
        entry["last_modification_time"] = (newest - age).to_string().into();
        app.edit_token_cache(|token_cache| token_cache["RefreshToken"]["a-other"] = entry);
    };
    let refused = || app.log().matches("demo tenant: refused, invalid_grant").count();
    add("an-old-refresh-token", 10);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(refused(), 0);
    // A newer one is tried first. Refused, it leaves the turn to the older
    // one.
    app.edit_token_cache(|cache| _ = cache["RefreshToken"].as_object_mut().unwrap().shift_remove("a-other"));
    add("a-new-refresh-token", -10);
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(refused(), 1);
    // With none that is any good, the user signs in again.
    app.edit_token_cache(|token_cache| {
        for entry in token_cache["RefreshToken"].as_object_mut().unwrap().values_mut() {
            entry["secret"] = "not-a-refresh-token-of-this-tenant".into();
        }
    });
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.status, 302);
    assert_eq!(refused(), 3);
    // Single sign-on puts it right, with no loop.
    let callback = browser.get(page.location()).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/graph");
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
}

// --- Signing out --------------------------------------------------------

#[tokio::test]
async fn signing_out_ends_the_session_on_the_server_too() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let cookie = browser.get(callback.location()).await.cookies().remove(0);
    assert_eq!(get_with_cookie(&app, "/graph", &cookie).await.status, 200);
    assert_eq!(app.session_files().len(), 1);

    let signed_out = browser.get(app.at("/logout")).await;
    assert_eq!((signed_out.status, signed_out.location()), (302, "/"));
    let removal = signed_out.headers["set-cookie"].to_str().unwrap();
    assert!(removal.starts_with("rust-webapp-session=;") && removal.contains("Max-Age=0"), "{removal}");
    assert!(removal.contains("Path=/"), "{removal}");
    assert!(app.session_files().is_empty());
    for path in ["/graph", "/admin"] {
        assert_eq!(get_with_cookie(&app, path, &cookie).await.status, 302);
        assert_eq!(browser.get(app.at(path)).await.status, 302);
    }
    assert!(!get_with_cookie(&app, "/", &cookie).await.body.contains("Signed in as"));

    // Single sign-on is still there: the next sign-in asks for nothing.
    let authorize = browser.get(app.at("/graph")).await;
    let callback = browser.get(authorize.location()).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/graph");
    // Nobody is signed in? Then nothing happens.
    let nobody = app.browser().get(app.at("/logout")).await;
    assert_eq!((nobody.status, nobody.location()), (302, "/"));
}

#[tokio::test]
async fn sso_logout_ends_single_sign_on() {
    let app = App::start(&[("SSO_LOGOUT", "true")]).await;
    let (_, authority) = tenant(&app).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let signed_out = browser.get(app.at("/logout")).await;
    assert_eq!(signed_out.status, 302);
    assert!(signed_out.location().starts_with(&format!("{authority}/oauth2/v2.0/logout?")));
    assert_eq!(signed_out.location_param("post_logout_redirect_uri").unwrap(), app.at("/"));
    assert!(app.session_files().is_empty());
    let home = browser.get(signed_out.location()).await;
    assert_eq!((home.status, home.location()), (302, app.at("/").as_str()));
    let authorize = browser.get(app.at("/graph")).await;
    assert_eq!(browser.get(authorize.location()).await.title(), "Choose a user - Demo tenant");
}

// --- Session files ------------------------------------------------------

#[tokio::test]
async fn a_session_is_one_readable_private_file() {
    let app = App::start(&[("SESSION_FILE_DIR", "data/sessions")]).await;
    let browser = app.browser();
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let cookie = browser.get(callback.location()).await.cookies().remove(0);
    let folder = app.folder.path().join("data").join("sessions");
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files[0]), 0o600);
        assert_eq!(mode(&folder), 0o700);
    }

    // The id is what the cookie ends with, after its signature; the file is
    // not called by it, and does not hold it.
    let value = cookie.split_once('=').unwrap().1.replace("%3D", "=").replace("%2F", "/").replace("%2B", "+");
    let (_signature, id) = value.split_at(44);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{value}");
    let name = files[0].file_name().unwrap().to_str().unwrap();
    let json = fs::read_to_string(&files[0]).unwrap();
    assert!(name.len() == 69 && name.ends_with(".json"), "{name}");
    assert!(!name.contains(id) && !json.contains(id));
    app.secrets().add(id);

    let session: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(session["user"]["id_token_claims"]["name"], "Ada Example");
    let expires_in = session["expires_on"].as_i64().unwrap() - now();
    assert!((86_000..=86_400).contains(&expires_in), "{expires_in}");
    assert!(json.lines().count() > 5, "{json}");
    for line in ["\n  \"user\": {", "\n  \"auth_code_flow\": {}", "\n  \"token_cache\": \"{"] {
        assert!(json.contains(line), "{line}: {json}");
    }

    let mut others: Vec<_> = fs::read_dir(app.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    others.sort_unstable();
    assert_eq!(others, ["data", "default_settings.toml", "log"]);
    add_secrets_of(&app, &session);
}

/// What the harness does with sessions in their usual folder.
fn add_secrets_of(app: &App, session: &Value) {
    app.secrets().add(session["user"]["id_token"].as_str().unwrap());
    let token_cache: Value = serde_json::from_str(session["token_cache"].as_str().unwrap()).unwrap();
    for section in ["AccessToken", "RefreshToken", "IdToken"] {
        app.secrets().add(entry(&token_cache, section)["secret"].as_str().unwrap());
    }
}

// --- The demo tenant itself ---------------------------------------------

#[tokio::test]
async fn the_demo_tenant_refuses_wrong_authorization_requests() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let valid = browser.get(app.at("/graph")).await;
    let page = authorize(&browser, valid.location(), &[]).await;
    assert_eq!((page.status, page.title()), (200, "Choose a user - Demo tenant"));

    // Of the wrong client or redirect URI nothing is sent to the app.
    let redirect_uri = app.at("/auth/redirect");
    let other_port = format!("http://localhost:1{}", "/auth/redirect");
    for (name, value, number) in [
        ("client_id", None, 900_144),
        ("client_id", Some("00000000-0000-0000-0000-000000000000"), 700_016),
        ("redirect_uri", None, 900_971),
        ("redirect_uri", Some(&*format!("{redirect_uri}/")), 50011),
        ("redirect_uri", Some(&redirect_uri.to_uppercase()), 50011),
        ("redirect_uri", Some(&format!("{redirect_uri}?a=b")), 50011),
        ("redirect_uri", Some(&other_port), 50011),
        ("redirect_uri", Some("https://evil.example/auth/redirect"), 50011),
    ] {
        let page = authorize(&browser, valid.location(), &[(name, value)]).await;
        assert_eq!(page.status, 400, "{name} = {value:?}");
        assert!(page.body.contains(&format!("AADSTS{number}:")), "{name} = {value:?}: {}", page.body);
        assert!(!page.headers.contains_key("location"));
    }
    let page = authorize(&browser, &format!("{}&state=twice", valid.location()), &[]).await;
    assert_eq!(page.status, 400);

    let state = valid.location_param("state").unwrap();
    let short = "A".repeat(42);
    for (name, value, error, number) in [
        ("response_type", Some("token"), "unsupported_response_type", 70005),
        ("response_type", None, "unsupported_response_type", 70005),
        ("response_mode", Some("fragment"), "invalid_request", 70007),
        ("prompt", Some("none"), "login_required", 50058),
        ("prompt", Some("please"), "invalid_request", 90023),
        ("code_challenge", None, "invalid_request", 9_002_325),
        ("code_challenge", Some(short.as_str()), "invalid_request", 501_491),
        ("code_challenge_method", Some("plain"), "invalid_request", 9_002_313),
        ("code_challenge_method", None, "invalid_request", 9_002_313),
        ("claims", Some("cp1"), "invalid_request", 9_002_313),
        ("scope", None, "invalid_request", 900_144),
        ("scope", Some("openid https://graph.microsoft.com/Mail.Read"), "invalid_scope", 70011),
    ] {
        let page = authorize(&browser, valid.location(), &[(name, value)]).await;
        assert_eq!(page.status, 303, "{name} = {value:?}: {}", page.body);
        assert!(page.location().starts_with(&format!("{redirect_uri}?")));
        assert_eq!(page.location_param("error").unwrap(), error, "{name} = {value:?}");
        assert_eq!(page.location_param("state").unwrap(), state);
        let description = page.location_param("error_description").unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")), "{name} = {value:?}: {description}");
    }

    // The form of another site, or of another port of this machine, signs
    // nobody in.
    for site in ["cross-site", "same-site", "none"] {
        let form = browser.client.post(valid.location()).form(&[("choice", ADA_WITH_THE_ROLE)]);
        let page = browser.send(form.header("Sec-Fetch-Site", site)).await;
        assert_eq!((page.status, page.cookies().len()), (403, 0), "{site}");
    }
    assert_eq!(browser.post(valid.location(), &[("choice", "eve@demo-tenant.example")]).await.status, 400);
}

#[tokio::test]
async fn the_demo_tenants_single_sign_on_heeds_prompt() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let valid = browser.get(app.at("/graph")).await;
    browser.post(valid.location(), &[("choice", BEN_WITHOUT_ROLE)]).await;
    for prompt in [None, Some("none")] {
        let page = authorize(&browser, valid.location(), &[("prompt", prompt)]).await;
        assert!(page.location_param("code").is_some(), "{prompt:?}");
    }
    for prompt in ["login", "select_account", "consent"] {
        let page = authorize(&browser, valid.location(), &[("prompt", Some(prompt))]).await;
        assert_eq!((page.status, page.title()), (200, "Choose a user - Demo tenant"), "{prompt}");
    }
}

#[tokio::test]
async fn the_demo_tenants_token_endpoint_refuses_wrong_clients() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let (_, authority) = tenant(&app).await;
    let token_endpoint = format!("{authority}/oauth2/v2.0/token");
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let code = callback.location_param("code").unwrap();
    let client_id = browser.get(app.at("/graph")).await.location_param("client_id").unwrap();
    let valid = [
        ("grant_type", "authorization_code"),
        ("client_id", client_id.as_str()),
        ("client_secret", "not-the-secret"),
        ("code", code.as_str()),
    ];
    for (name, value, status, error, number) in [
        ("", "", 401, "invalid_client", 7_000_215),
        ("client_secret", "", 401, "invalid_client", 7_000_218),
        ("client_id", "", 400, "invalid_request", 900_144),
        ("client_id", "00000000-0000-0000-0000-000000000000", 400, "unauthorized_client", 700_016),
        ("grant_type", "", 400, "invalid_request", 900_144),
    ] {
        let form = valid.map(|(field, old)| (field, if field == name { value } else { old }));
        let page = browser.post(&token_endpoint, &form).await;
        let answer: Value = serde_json::from_str(&page.body).unwrap();
        assert_eq!((page.status, answer["error"].as_str()), (status, Some(error)), "{name} = {value:?}: {answer}");
        assert_eq!(answer["error_codes"], json!([number]));
        let description = answer["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{number}: ")), "{answer}");
        for field in ["timestamp", "trace_id", "correlation_id"] {
            assert!(description.contains(answer[field].as_str().unwrap()), "{field}: {answer}");
        }
    }
    // None of that has used the code up: the app is let in with it.
    assert_eq!(browser.get(callback.location()).await.status, 302);
    assert_eq!(browser.get(&token_endpoint).await.status, 405);
}

#[tokio::test]
async fn the_demo_tenants_token_endpoint_refuses_wrong_codes() {
    let app = App::start(&[]).await;
    for (field, wrong, status, number) in [
        ("code_verifier", "A".repeat(43), 400, 501_481),
        ("code_verifier", String::new(), 400, 501_481),
        ("redirect_uri", app.at("/auth/redirect/"), 502, 500_112),
        ("redirect_uri", String::new(), 502, 500_112),
        ("scope", "openid https://graph.microsoft.com/Mail.Read".to_owned(), 502, 70011),
    ] {
        let browser = app.browser();
        let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
        app.edit_session(|session| {
            for flow in session["auth_code_flow"].as_object_mut().unwrap().values_mut() {
                flow[field] = wrong.clone().into();
            }
        });
        browser.get(callback.location()).await.assert_error_page(status);
        assert!(app.log().contains(&format!("AADSTS{number}: ")), "{field} = {wrong:?}");
        browser.get(app.at("/logout")).await;
    }
    let browser = app.browser();
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let unknown = callback.location().replace("code=", "code=x");
    browser.get(unknown).await.assert_error_page(400);
    assert!(app.log().contains(r#"AADSTS70000: "code is unknown"#));
    browser.get(app.at("/logout")).await;

    // A code is used once: the same browser comes back with the same session
    // as before, as no browser would.
    let browser = app.browser();
    let authorize = browser.get(app.at("/graph")).await;
    let callback = browser.post(authorize.location(), &[("choice", ADA_WITH_THE_ROLE)]).await;
    let (file, session) = (app.session_files().remove(0), app.session());
    assert_eq!(browser.get(callback.location()).await.status, 302);
    fs::write(&file, session_file(&session)).unwrap();
    let query = callback.location().strip_prefix(&app.url).unwrap();
    get_with_cookie(&app, query, &authorize.cookies()[0]).await.assert_error_page(400);
    assert!(app.log().contains("AADSTS54005"));
}

#[tokio::test]
async fn the_demo_tenant_leaves_an_old_refresh_token_valid_and_knows_no_other() {
    let app = App::start(&[("DEMO_TOKEN_LIFETIME", "299")]).await;
    let browser = app.browser();
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    browser.get(callback.location()).await;
    let first = entry(&app.token_cache(), "RefreshToken")["secret"].as_str().unwrap().to_owned();
    app.secrets().add(&*first);
    let put_back = |secret: &str| {
        app.edit_token_cache(|token_cache| {
            for entry in token_cache["RefreshToken"].as_object_mut().unwrap().values_mut() {
                entry["secret"] = secret.into();
            }
        });
    };
    for _ in 0..2 {
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        assert_ne!(entry(&app.token_cache(), "RefreshToken")["secret"], *first);
        put_back(&first);
    }
    put_back("no-refresh-token-of-this-tenant");
    assert_eq!(browser.get(app.at("/graph")).await.status, 302);
}

#[tokio::test]
async fn the_demo_tenants_id_tokens_verify_against_its_keys() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let (_, authority) = tenant(&app).await;
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let address = format!("{authority}/v2.0/.well-known/openid-configuration");
    let metadata: Value = serde_json::from_str(&browser.get(address).await.body).unwrap();
    assert_eq!(metadata["issuer"], format!("{authority}/v2.0"));
    let jwks_uri = metadata["jwks_uri"].as_str().unwrap();
    let keys: Value = serde_json::from_str(&browser.get(jwks_uri).await.body).unwrap();
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["use"]), (&json!("RSA"), &json!("sig")));

    let session = app.session();
    let id_token = session["user"]["id_token"].as_str().unwrap();
    let header = jsonwebtoken::decode_header(id_token).unwrap();
    assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::RS256, key["kid"].as_str()));
    let public_key = DecodingKey::from_rsa_components(key["n"].as_str().unwrap(), key["e"].as_str().unwrap()).unwrap();
    let client_id = entry(&app.token_cache(), "AccessToken")["client_id"].as_str().unwrap().to_owned();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[&client_id]);
    validation.set_issuer(&[format!("{authority}/v2.0")]);
    validation.validate_nbf = true;
    let claims = jsonwebtoken::decode::<Value>(id_token, &public_key, &validation).unwrap().claims;
    assert_eq!(claims, session["user"]["id_token_claims"]);
    assert_eq!((&claims["ver"], &claims["preferred_username"]), (&json!("2.0"), &json!(ADA_WITH_THE_ROLE)));
    assert_eq!(authority.rsplit('/').next(), claims["tid"].as_str());
    let changed = id_token.replace(&id_token[id_token.len() - 9..id_token.len() - 5], "AAAA");
    assert!(jsonwebtoken::decode::<Value>(changed, &public_key, &validation).is_err());
}

#[tokio::test]
async fn the_demo_tenants_graph_wants_a_good_access_token() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let (origin, authority) = tenant(&app).await;
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let [token, refresh_token] = ["AccessToken", "RefreshToken"]
        .map(|section| entry(&app.token_cache(), section)["secret"].as_str().unwrap().to_owned());
    let page = me(&browser, &origin, &format!("Bearer {token}")).await;
    assert_eq!(page.status, 200);
    let profile: Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(profile["userPrincipalName"], ADA_WITH_THE_ROLE);
    for wrong in ["", "Bearer", "Bearer x", &format!("Basic {token}"), &format!("Bearer {refresh_token}"), &token] {
        let page = me(&browser, &origin, wrong).await;
        assert_eq!(page.status, 401);
        let answer: Value = serde_json::from_str(&page.body).unwrap();
        assert_eq!(answer["error"]["code"], "InvalidAuthenticationToken");
        let challenge = page.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer ") && challenge.contains(&authority), "{challenge}");
    }
}

/// Microsoft Graph's answer, with this Authorization header.
async fn me(browser: &Browser, origin: &str, authorization: &str) -> Page {
    browser.send(browser.client.get(format!("{origin}/v1.0/me")).header("Authorization", authorization)).await
}

#[tokio::test]
async fn the_demo_tenants_access_tokens_expire() {
    let app = App::start(&[("DEMO_TOKEN_LIFETIME", "1")]).await;
    let browser = app.browser();
    let (origin, _) = tenant(&app).await;
    let callback = browser.choose(&app, "/graph", ADA_WITH_THE_ROLE).await;
    browser.get(callback.location()).await;
    let token = entry(&app.token_cache(), "AccessToken")["secret"].as_str().unwrap().to_owned();
    let started = Instant::now();
    while me(&browser, &origin, &format!("Bearer {token}")).await.status != 401 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_demo_tenants_graph_wants_the_permission() {
    let app = App::start(&[("SCOPE", "email")]).await;
    let page = app.browser().sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    page.assert_error_page(502);
    assert!(page.body.contains("Authorization_RequestDenied"), "{}", page.body);
}

#[tokio::test]
async fn the_demo_tenant_is_one_tenant_and_sends_nobody_elsewhere() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let (origin, authority) = tenant(&app).await;
    for path in ["v2.0/.well-known/openid-configuration", "oauth2/v2.0/authorize", "discovery/v2.0/keys"] {
        let page = browser.get(format!("{origin}/00000000-0000-0000-0000-000000000000/{path}")).await;
        assert_eq!(page.status, 400);
        assert!(page.body.contains("AADSTS90002"), "{}", page.body);
    }
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    for elsewhere in ["https://evil.example/", "http://localhost:1/", "//evil.example", "javascript:alert(1)"] {
        let mut url = Url::parse(&format!("{authority}/oauth2/v2.0/logout")).unwrap();
        url.query_pairs_mut().append_pair("post_logout_redirect_uri", elsewhere);
        let page = browser.get(url).await;
        assert_eq!((page.status, page.headers.contains_key("location")), (200, false), "{elsewhere}");
    }
}

#[tokio::test]
async fn a_cookie_that_the_browser_has_is_not_sent_again() {
    let app = App::start(&[("DEMO_TOKEN_LIFETIME", "299")]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    // This visit changes the session, by a refresh. Its answer may come after
    // a sign-out in another tab.
    let before = app.token_cache();
    let page = browser.get(app.at("/graph")).await;
    assert_eq!((page.status, page.cookies()), (200, Vec::<String>::new()));
    assert_ne!(app.token_cache(), before);
}

#[tokio::test]
async fn a_proxy_on_this_machine_is_not_sent_round_in_circles() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let page = browser.send(browser.client.get(&app.url).header("Host", "127.0.0.1:1")).await;
    assert_eq!(page.status, 200);
}

// --- The log ------------------------------------------------------------

#[tokio::test]
async fn the_log_tells_the_sign_in_step_by_step() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    browser.get(app.at("/graph")).await;
    let log = app.log();
    let mut rest = log.as_str();
    for (file, step) in [
        ("main.rs", "using the demo tenant"),
        ("main.rs", "a restart signs everyone out"),
        ("main.rs", "open http://localhost:"),
        ("routes/graph.rs", "sign-in needed, nobody is signed in: redirecting to the authorization endpoint"),
        ("routes/auth_redirect.rs", "code received, redeeming it at the token endpoint"),
        ("routes/auth_redirect.rs", "fetching the identity platform's signing keys"),
        ("routes/auth_redirect.rs", "id token validated"),
        ("routes/auth_redirect.rs", "signed in: "),
        ("routes/graph.rs", "access token found in the cache, 3"),
        ("routes/graph.rs", "Microsoft Graph answered 200"),
        ("main.rs", "GET \"/graph\": 200"),
        ("routes/graph.rs", "access token found in the cache, 3"),
    ] {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} does not follow:\n{rest}\nin:\n{log}"));
        let line = rest[..at].rsplit('\n').next().unwrap();
        assert!(line.contains(&format!("src/{file}:")), "{line}{step}");
        rest = &rest[at..];
    }
}

//! src/cookies.rs: the cookies of this app among those of others, in a browser with many tabs.

use std::time::Duration;

use base64::prelude::*;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::*;

/// The cookies of one browser in the order in which browsers send them: the oldest first.
#[derive(Clone, Default)]
struct Jar(Vec<(String, String)>);

impl Jar {
    /// Keeps and removes cookies as the page says.
    fn apply(&mut self, page: &Page) {
        for cookie in page.cookies() {
            let (name, value) = cookie.split_once('=').unwrap();
            let known = self.0.iter().position(|(known, _)| known == name);
            match (known, value.is_empty()) {
                (Some(known), true) => _ = self.0.remove(known),
                (Some(known), false) => self.0[known].1 = value.to_owned(),
                (None, true) => {}
                (None, false) => self.0.push((name.to_owned(), value.to_owned())),
            }
        }
    }

    /// The header `Cookie`.
    fn header(&self) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }
}

/// Opens a path of the app with this header `Cookie`, which may contain any bytes.
async fn get(app: &App, path: &str, cookie: impl AsRef<[u8]>) -> Page {
    let host = app.url.trim_start_matches("http://");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: ");
    app.raw([request.as_bytes(), cookie.as_ref(), b"\r\n"].concat()).await
}

/// The path and query of the callback.
fn callback(platform: &Platform, authorize: &Page) -> String {
    let callback = platform.callback(authorize);
    callback[callback.find("/auth/redirect").unwrap()..].to_owned()
}

/// Length of the head of a response: each header, a colon, a space, CR and LF.
fn head_length(page: &Page) -> usize {
    page.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

const HTTPS: (&str, &str) = ("REDIRECT_URI", "https://app.example/auth/redirect");

#[tokio::test]
async fn cookies_of_other_apps_change_nothing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let good = platform.sign_in(&app, &browser, "/graph").await.cookies().pop().unwrap();
    let many = |count: usize, value: &str| {
        let cookies: Vec<_> = (0..count).map(|number| format!("other{number}={value}")).collect();
        cookies.join("; ").into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        // cookie-rs #116, actix-web #734: Chromium keeps such cookies.
        ("Latin-1", b"name=M\xfcller".to_vec()),
        ("a byte", b"\xff".to_vec()),
        ("not UTF-8 in a name", b"\xc3\x28=x".to_vec()),
        ("percent-encoded", b"name=%FF%FE; %FF=x; rust-webapp-other=%FF".to_vec()),
        ("with our prefix", b"rust-webapp-other=M\xfcller; rust-webapp=\x80".to_vec()),
        ("odd pairs", "a; b=; =c; ;;; d=%zz; e=\"f; g=\u{fc}; {\"h\":1}; i=j=k".into()),
        ("60 KB", [b"large=", &*b"x".repeat(60_000)].concat()),
        ("180 cookies", many(180, "value")),
        ("empty", b" ; ;".to_vec()),
        ("a tab", b"tab=a\tb".to_vec()),
        // mod_auth_openidc #560, oauth2-proxy #2606: browsers send the cookie for `/` last.
        ("a stale session", b"rust-webapp-session=stale".to_vec()),
        ("two stale sessions", b"rust-webapp-session=; rust-webapp-session=\xff".to_vec()),
        ("a flow without a state", b"rust-webapp-flow-=z; rust-webapp-flow=y".to_vec()),
    ];
    for (case, cookies) in cases {
        // At the beginning and, unless the last one of a name counts, at the end.
        let good_last = [&*cookies, b"; ", good.as_bytes()].concat();
        let good_first = [good.as_bytes(), b"; ", &*cookies].concat();
        let is_repeated = String::from_utf8_lossy(&cookies).contains("rust-webapp-session=");
        for cookie in [good_last, good_first].into_iter().take(2 - usize::from(is_repeated)) {
            assert_eq!(get(&app, "/graph", &cookie).await.status, 200, "{case}");
            assert_eq!(get(&app, "/", &cookie).await.user(), Some("Cleo Example"), "{case}");
        }
        // A sign-in from the beginning to the end, and the sign-out.
        let authorize = get(&app, "/graph", &cookies).await;
        let flow = authorize.cookies().remove(0);
        let page = get(
            &app,
            &callback(&platform, &authorize),
            [&*cookies, b"; ", flow.as_bytes()].concat(),
        )
        .await;
        assert_eq!((page.status, page.location()), (302, "/graph"), "{case}: {}", page.body);
        let session = page.cookies().pop().unwrap();
        let cookie = [&*cookies, b"; ", session.as_bytes()].concat();
        assert_eq!(get(&app, "/logout", &cookie).await.status, 302, "{case}");
        assert_eq!(get(&app, "/", &cookie).await.user(), None, "{case}");
    }
    // Of two sessions, the last one counts, also if it is the one of another user.
    let (name, value) = good.split_once('=').unwrap();
    let page = get(&app, "/", format!("{good}; {name}=stale")).await;
    assert_eq!(page.user(), None);
    let page = get(&app, "/", format!("{name}={value}x; {good}")).await;
    assert_eq!(page.user(), Some("Cleo Example"));
    // In several headers, as HTTP/2 may send them.
    let page = get(&app, "/", format!("a=b\r\nCookie: \u{fc}=c; {good}\r\nCookie: d=e")).await;
    assert_eq!(page.user(), Some("Cleo Example"));
}

/// Browsers let other subdomains set these names, because they do not begin with `__Host-`.
#[tokio::test]
async fn only_names_that_browsers_protect_sign_a_user_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[HTTPS]).await;
    let authorize = get(&app, "/graph", "").await;
    let flow = authorize.cookies().remove(0);
    let (flow_name, flow_value) = flow.split_once('=').unwrap();
    let state = flow_name.strip_prefix("__Host-").unwrap();
    let disguises =
        ["%5F_Host-", "%5f%5fHost-", "_%5FHost-", "__Host%2D", "__%48ost-", "\u{2000}__Host-"];
    for disguise in disguises {
        let cookie = format!("{disguise}{state}={flow_value}");
        let page = get(&app, &callback(&platform, &authorize), &cookie).await;
        page.assert_error(400, "not started in this browser");
    }
    let page = get(&app, &callback(&platform, &authorize), &flow).await;
    let session = page.cookies().pop().unwrap();
    let value = session.strip_prefix("__Host-rust-webapp-session=").unwrap();
    assert_eq!(get(&app, "/", &session).await.user(), Some("Cleo Example"));
    for disguise in disguises {
        let cookie = format!("{disguise}rust-webapp-session={value}");
        assert_eq!(get(&app, "/", &cookie).await.user(), None, "{cookie}");
        assert_eq!(get(&app, "/graph", &cookie).await.status, 302, "{cookie}");
        let cookie = format!("{session}; {disguise}rust-webapp-session=stale");
        assert_eq!(get(&app, "/", &cookie).await.user(), Some("Cleo Example"), "{cookie}");
    }
    // Without the prefix, the name is that of an app with http.
    let cookie = format!("rust-webapp-session={value}");
    assert_eq!(get(&app, "/", &cookie).await.user(), None);
}

/// vouch-proxy #349, otobo #4393: a browser restores its tabs.
#[tokio::test]
async fn of_twenty_tabs_that_open_within_a_second_the_ten_newest_arrive() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for finish_newest_first in [false, true] {
        let mut jar = Jar::default();
        let mut tabs = Vec::new();
        for number in 0..20 {
            let path = format!("/{}?tab={number}", if number % 2 == 0 { "graph" } else { "admin" });
            let authorize = get(&app, &path, jar.header()).await;
            jar.apply(&authorize);
            tabs.push((number, path, callback(&platform, &authorize)));
        }
        assert_eq!(jar.0.len(), 10);
        if finish_newest_first {
            tabs.reverse();
        }
        for (number, path, callback) in tabs {
            let page = get(&app, &callback, jar.header()).await;
            jar.apply(&page);
            if number < 10 {
                page.assert_error(400, "not started in this browser");
            } else {
                assert_eq!((page.status, page.location()), (302, &*path), "tab {number}");
            }
        }
        assert_eq!(get(&app, "/graph", jar.header()).await.status, 200);
    }
}

/// Tabs that a browser opens at the same moment do not know the cookies of each other.
#[tokio::test(flavor = "multi_thread")]
async fn ten_tabs_that_open_at_the_same_moment_all_arrive_in_any_order() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for round in 0..10 {
        let mut opening = JoinSet::new();
        for number in 0..10 {
            let (browser, url) = (app.browser(), app.at(&format!("/graph?tab={number}")));
            opening.spawn(async move { browser.get(url).await });
        }
        let mut jar = Jar::default();
        let mut callbacks = Vec::new();
        for page in opening.join_all().await {
            jar.apply(&page);
            callbacks.push(platform.callback(&page));
        }
        let mut finishing = JoinSet::new();
        for callback in callbacks {
            let (browser, cookies) = (app.browser(), jar.header());
            finishing.spawn(async move {
                browser.send(browser.client.get(callback).header("cookie", cookies)).await
            });
        }
        for page in finishing.join_all().await {
            assert_eq!(page.status, 302, "round {round}: {}", page.body);
            assert!(page.location().starts_with("/graph?tab="), "{}", page.location());
        }
    }
}

/// mod_auth_openidc #331, dotnet/aspnetcore #43041: proxies refuse cookies over 8 KB.
#[tokio::test]
async fn the_cookies_of_given_up_sign_ins_stay_small() {
    let platform = Platform::start().await;
    let long_challenge = json!({ "access_token": { "n": { "value": "x".repeat(9_000) } } });
    let challenge = json!({ "access_token": { "c": { "values": ["<id>".repeat(50)] } } });
    for settings in [&[][..], &[HTTPS]] {
        let app = platform.app(settings).await;
        // Also as a user who must sign in again, with a claims challenge.
        let authorize = get(&app, "/graph", "").await;
        let mut user = Jar::default();
        user.apply(&authorize);
        user.apply(&get(&app, &callback(&platform, &authorize), user.header()).await);
        for claims in [None, Some(&challenge), Some(&long_challenge)] {
            let header = claims.map(|claims| BASE64_STANDARD.encode(claims.to_string()));
            let header = header.map(|claims| format!("Bearer claims=\"{claims}\""));
            platform.on(Endpoint::Graph, move |answer| {
                answer.status = 401;
                answer.headers.extend(header.clone().map(|header| ("www-authenticate", header)));
            });
            for query in ["", "x", "%22", "\\", "'", "%F0%9F%98%80", "&a=b", "|"] {
                let path = format!("/graph?{}", query.repeat(990 / query.len().max(1)));
                for mut jar in [Jar::default(), user.clone()] {
                    for _ in 0..14 {
                        let page = get(&app, &path, jar.header()).await;
                        assert_eq!(page.status, 302, "{query}: {}", page.body);
                        jar.apply(&page);
                        let length = head_length(&page);
                        assert!(length < 4_000, "{query}: a head of {length} bytes: {page:?}");
                    }
                    let length = jar.header().len();
                    assert!(length < 7_600, "{query}: cookies of {length} bytes");
                    let flow = jar.0.last().unwrap();
                    let flow = BASE64_URL_SAFE_NO_PAD.decode(&flow.1).unwrap();
                    let flow: Value = serde_json::from_slice(&flow).unwrap();
                    let short = if query.is_empty() { "/graph?" } else { "/graph" };
                    assert_eq!(flow["post_sign_in_url"], short, "{query}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_cookie_header_of_any_size_gets_a_small_answer() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let authorize = get(&app, "/graph?first", "").await;
    let flow = authorize.cookies().remove(0);
    let many: String = (0..5_000).map(|n| format!("rust-webapp-flow-{n}=v; ")).collect();
    let hostile: String = (0..190)
        .map(|n| format!("rust-webapp-flow-%0d%0aX-Injected:{n}{}=v; ", "x".repeat(400)))
        .collect();
    for cookies in [many, hostile] {
        for path in ["/", "/graph", "/admin", "/logout"] {
            let page = get(&app, path, &cookies).await;
            assert!(page.status == 200 || page.status == 302, "{path}");
            assert!(head_length(&page) < 8_000, "{path}: {}", head_length(&page));
            assert_eq!(page.headers.get("x-injected"), None);
            // Only a new sign-in removes others: the oldest.
            let starts = ["/graph", "/admin"].contains(&path);
            let (oldest, _) = cookies.split_once('=').unwrap();
            assert_eq!(page.cookies().len(), if starts { 6 } else { 0 }, "{path}");
            assert!(!starts || page.cookies()[1] == format!("{oldest}="), "{page:?}");
        }
        // The newest one still works.
        let page = get(&app, &callback(&platform, &authorize), format!("{cookies}{flow}")).await;
        assert_eq!((page.status, page.location()), (302, "/graph?first"));
    }
}

#[tokio::test]
async fn the_cookie_of_a_sign_in_is_for_this_app_only_and_is_removed_at_its_end() {
    let platform = Platform::start().await;
    for (settings, prefix, secure) in
        [(&[][..], "rust-webapp-flow-", ""), (&[HTTPS], "__Host-rust-webapp-flow-", " Secure;")]
    {
        let app = platform.app(settings).await;
        for path in ["/graph", "/admin"] {
            let authorize = get(&app, path, "").await;
            let cookie = authorize.headers["set-cookie"].to_str().unwrap();
            let (flow, attributes) = cookie.split_once(';').unwrap();
            assert!(flow.starts_with(prefix), "{flow}");
            let expected = format!(" HttpOnly; SameSite=Lax;{secure} Path=/; Max-Age=900");
            assert_eq!(attributes, expected);
            let page = get(&app, &callback(&platform, &authorize), flow).await;
            let removal =
                format!("{}=;{secure} Path=/; Max-Age=0; ", flow.split_once('=').unwrap().0);
            let removed = page.headers["set-cookie"].to_str().unwrap();
            assert!(removed.starts_with(&removal), "{removed}");
        }
    }
}

/// A late response would bring back the old cookie after a sign-out in another tab.
#[tokio::test]
async fn a_response_does_not_repeat_a_cookie_of_the_request() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let cookie = platform.sign_in(&app, &app.browser(), "/graph").await.cookies().pop().unwrap();
    for header in [cookie.clone(), format!("{cookie}; a=b"), format!("a=\u{fc}; {cookie}")] {
        // A refresh changes the session, and actix-session sends the cookie again.
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        let page = get(&app, "/graph", &header).await;
        assert_eq!((page.status, page.cookies()), (200, vec![]), "{header}");
    }
}

/// The user signs out in one tab while another tab waits for a refresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_response_does_not_sign_a_user_in_again() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let cookie = platform.sign_in(&app, &browser, "/graph").await.cookies().pop().unwrap();
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    platform.on(Endpoint::Token, |answer| answer.delay = Duration::from_secs(1));
    let (late, url) = (browser.clone(), app.at("/graph"));
    let late = tokio::spawn(async move { late.get(url).await });
    let refreshes = || async { platform.token_forms().await.len() };
    while refreshes().await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    browser.get(app.at("/logout")).await;
    let page = late.await.unwrap();
    assert_eq!((page.status, page.cookies()), (200, vec![]));
    assert_eq!(browser.get(app.at("/")).await.user(), None);
    assert_eq!(get(&app, "/", &cookie).await.user(), None);
}

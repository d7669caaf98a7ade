//! The page, without an app.

use crate::harness::*;

#[tokio::test]
async fn only_forms_of_the_page_itself_are_accepted() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    let own = demo.registration.page.trim_end_matches('/');
    for (path, form) in [
        ("faults", ("fault", "Revoked")),
        ("attacks", ("attack", "link")),
        ("certificates", ("certificate", "x")),
        (&*demo.at("/oauth2/v2.0/other_user").replace(own, "").replacen('/', "", 1), ("x", "x")),
    ] {
        let url = format!("{}{path}", demo.registration.page);
        for (origin, site) in [
            ("https://evil.example", "cross-site"),
            ("http://localhost:5000", "same-site"),
            (&own.replace("localhost", "127.0.0.1"), "same-origin"),
            (own, "same-site"),
        ] {
            let request = browser.client.post(&url).form(&[form]).header("Origin", origin);
            let page = browser.send(request.header("Sec-Fetch-Site", site)).await;
            assert_eq!(page.status, 403, "{path}: {origin}, {site}");
        }
        assert_eq!(browser.post(&url, &[form]).await.status, 403, "{path}: no origin");
        // GET changes nothing.
        browser.get(format!("{url}?{}={}", form.0, form.1)).await;
    }
    let page = browser.get(&demo.registration.page).await.body;
    assert!(!page.contains("Waiting to happen"), "{page}");
    for (path, name) in [("faults", "fault"), ("attacks", "attack")] {
        assert_eq!(demo.send_form(path, name, "unknown").await.status, 400, "{path}");
    }
    // A name that an attacker chose for this address leads to the page's own name.
    let request = browser.client.get(&demo.registration.page).header("Host", "evil.example");
    assert_eq!(browser.send(request).await.location(), demo.registration.page);
    let page = browser.get(&demo.registration.page).await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
    assert!(!page.body.contains("<script") && !page.body.contains("style="));
}

#[tokio::test]
async fn the_page_shows_at_most_fifty_visits_and_escapes_what_is_in_them() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    let markup = "<script>'</script><b>&amp;";
    for visit in 0..60 {
        let state = format!("{visit}{markup}");
        browser.get(demo.authorize(&[("state", &state), (markup, markup)])).await;
    }
    demo.redeem(markup, &[]).await;
    demo.graph(&format!("Bearer {markup}")).await;
    browser.get(demo.authorize(&[("redirect_uri", markup)])).await;
    let unknown_tenant =
        format!("{}%3Cb%3E/v2.0/.well-known/openid-configuration", demo.registration.page);
    let page = browser.get(unknown_tenant).await;
    let refused = (page.status, page.json());
    assert_refused("an unknown tenant", &refused, "invalid_tenant", 90002);
    let page = browser.get(&demo.registration.page).await.body;
    assert_eq!(page.matches("<div class=\"visit\"").count(), 50);
    assert!(!page.contains("<script") && !page.contains("<b>"));
    for text in ["AADSTS50011: ", "AADSTS70000: ", "AADSTS90002: ", "<code>59&lt;script&gt;"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<code>0&lt;script&gt;"), "the oldest messages are gone");
}

/// The app of this demo tenant does not run.
#[tokio::test]
async fn an_attack_without_an_app_is_an_error_page() {
    let demo = Demo::start(3600);
    let page = demo.send_form("attacks", "attack", "link").await;
    assert_eq!(page.status, 502, "{}", page.body);
    assert!(page.body.contains("Is the app running?"), "{}", page.body);
}

#[tokio::test]
async fn a_change_of_the_user_ends_single_sign_on_and_signs_out_of_the_app() {
    let demo = Demo::start(3600);
    let browser = Browser::new();
    browser.post(demo.authorize(&[]), &[("choice", ADA)]).await;
    assert_eq!(browser.get(demo.authorize(&[])).await.status, 303, "single sign-on");
    let form = browser.client.post(demo.at("/oauth2/v2.0/other_user"));
    let page =
        browser.send(form.header("Origin", demo.registration.page.trim_end_matches('/'))).await;
    assert_eq!(page.location(), format!("{}logout", demo.home_page));
    assert_eq!(browser.get(demo.authorize(&[])).await.status, 200, "the sign-in page");
}

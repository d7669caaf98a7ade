//! The identity platform or Microsoft Graph is down, slow, or returns something else. The user
//! gets a page that says so, the log has the cause, and the app goes on.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::platform::*;

const ENTRA_PAGE: &str = "Microsoft Entra ID is not available. Try again in a minute.";
const GRAPH_PAGE: &str = "Microsoft Graph is not available. Try again in a minute.";
/// A delay that is longer than a test waits.
const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn an_endpoint_that_fails_leads_to_an_error_page_and_the_user_stays_signed_in() {
    type Edit = fn(&mut Answer);
    let failures: [(u16, Edit); 3] = [
        (429, |answer| answer.say(429, "Too Many Requests")),
        (503, |answer| answer.say(503, "<html>Service Unavailable</html>")),
        (200, |answer| answer.say(200, "<html>Welcome to the network of the hotel</html>")),
    ];
    for (status, edit) in failures {
        let platform = Platform::start().await;
        let app = platform.app(&[]).await;
        let browser = app.browser();
        // Step 7, at the sign-in.
        platform.on(Endpoint::Token, edit);
        platform.sign_in(&app, &browser, "/graph").await.assert_error(502, ENTRA_PAGE);
        platform.assert_nobody_is_signed_in(&app, &browser).await;
        // Step 3.
        platform.on(Endpoint::Token, |_| {});
        platform.sign_in(&app, &browser, "/graph").await;
        let session = app.session();
        platform.on(Endpoint::Graph, edit);
        let text = match status {
            200 => GRAPH_PAGE.to_owned(),
            _ => format!("Microsoft Graph answered {status} "),
        };
        browser.get(app.at("/graph")).await.assert_error(502, &text);
        assert_eq!(app.session(), session, "{status}");
        // Step 2.
        platform.on(Endpoint::Graph, |_| {});
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        let session = app.session();
        platform.on(Endpoint::Token, edit);
        browser.get(app.at("/graph")).await.assert_error(502, ENTRA_PAGE);
        assert_eq!(app.session(), session, "{status}");
        assert_eq!(browser.get(app.at("/admin")).await.status, 200, "{status}");
        // The next visit works.
        platform.on(Endpoint::Token, |_| {});
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{status}");
        let log = app.log();
        for line in [
            &format!("step 7: redeem the code, the token endpoint answered {status}"),
            "no valid response from Microsoft Entra ID: reqwest::Error",
            &format!("step 3: Microsoft Graph answered {status}"),
            &format!("step 2: refresh, the token endpoint answered {status}"),
            "step 2: no valid response from the token endpoint: reqwest::Error",
        ] {
            assert!(log.contains(line), "{line:?} is not in {log}");
        }
    }
}

/// A redirect with status 307 would send the secret or the token to the other address.
#[tokio::test]
async fn redirects_are_not_followed_so_secrets_and_tokens_go_nowhere_else() {
    let (platform, other) = (Platform::start().await, Platform::start().await);
    let app = platform.app(&[]).await;
    let redirect = |endpoint, location: String| {
        platform.on(endpoint, move |answer| {
            answer.say(307, "");
            answer.headers.push(("location", location.clone()));
        });
    };
    for (endpoint, location, text) in [
        (Endpoint::Token, other.authority() + "/oauth2/v2.0/token", ENTRA_PAGE),
        (Endpoint::Keys, other.authority() + "/discovery/v2.0/keys", ENTRA_PAGE),
        (Endpoint::Graph, other.endpoint(), "Microsoft Graph answered 307 "),
    ] {
        redirect(endpoint, location);
        let browser = app.browser();
        let mut page = platform.sign_in(&app, &browser, "/graph").await;
        if endpoint == Endpoint::Graph {
            page = browser.get(app.at("/graph")).await;
        }
        page.assert_error(502, text);
        platform.on(endpoint, |_| {});
    }
    redirect(Endpoint::Metadata, other.authority() + "/v2.0/.well-known/openid-configuration");
    assert_refused(&platform, "answered 307 ").await;
    for endpoint in [Endpoint::Metadata, Endpoint::Keys, Endpoint::Token, Endpoint::Graph] {
        assert_eq!(other.requests(endpoint).await.len(), 0, "{endpoint:?}");
    }
}

/// Opens eight pages that wait for this endpoint, more than the app has threads. Each must become
/// an error page, not before `seconds`. Meanwhile, other pages must arrive.
async fn slow(endpoint: Endpoint, is_sign_in: bool, seconds: u64, text: &str, cause: &str) {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let mut pages = Vec::new();
    if is_sign_in {
        for browser in [(); 8].map(|()| app.browser()) {
            let callback = platform.callback(&browser.get(app.at("/graph")).await);
            pages.push((browser, callback));
        }
    } else {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
        pages = vec![(browser, app.at("/graph")); 8];
    }
    platform.on(endpoint, |answer| answer.delay = NEVER);
    let started = Instant::now();
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
    for page in waiting.join_all().await {
        page.assert_error(502, text);
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert!(app.log().contains(cause), "{}", app.log());
    platform.on(endpoint, |_| {});
    platform.sign_in(&app, &visitor, "/graph").await;
    assert_eq!(visitor.get(app.at("/graph")).await.status, 200);
}

/// A response whose body does not end.
async fn slow_body() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let address = hanging_server(half).await;
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[("ENDPOINT", &address)]).await;
    let page = browser.get(app.at("/graph")).await;
    page.assert_error(502, GRAPH_PAGE);
}

async fn slow_start() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Metadata, |answer| answer.delay = NEVER);
    assert_refused(&platform, "is not available, check the spelling and the network").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_leads_to_an_error_page_and_delays_nobody_else() {
    tokio::join!(
        slow(Endpoint::Token, true, 10, ENTRA_PAGE, "no valid response from Microsoft Entra ID"),
        slow(Endpoint::Keys, true, 10, ENTRA_PAGE, "no valid response from Microsoft Entra ID"),
        slow(Endpoint::Token, false, 10, ENTRA_PAGE, "step 2: no valid response"),
        slow(
            Endpoint::Graph,
            false,
            10,
            GRAPH_PAGE,
            "step 3: no valid response from Microsoft Graph"
        ),
        slow_body(),
        slow_start(),
    );
}

/// Starts the app, which must refuse to start with one line that contains this text.
async fn assert_refused(platform: &Platform, text: &str) {
    let lines = platform.refused_by_the_app(&[]).await;
    let start = format!("rust-webapp: AUTHORITY = {:?}: ", platform.authority());
    assert!(lines.len() == 1 && lines[0].starts_with(&start), "{text}: {lines:?}");
    assert!(lines[0].contains(text), "{text}: {lines:?}");
}

#[tokio::test]
async fn the_app_does_not_start_with_unsafe_or_missing_metadata_and_says_why() {
    let platform = Platform::start().await;
    let another_issuer = "the metadata is for another issuer";
    let many_tenants = "this is not one tenant; accepted is the address of one tenant";
    for (name, value, text) in [
        // oidcc-client-test-discovery-issuer-mismatch
        ("issuer", "https://evil.example/v2.0", "another issuer, \"https://evil.example/v2.0\""),
        ("issuer", "http://127.0.0.1:1/v2.0", another_issuer),
        ("issuer", "http://contoso.ciamlogin.com/v2.0", another_issuer),
        ("issuer", "https://evil-ciamlogin.com/v2.0", another_issuer),
        ("issuer", "https://x.ciamlogin.com.evil.example/v2.0", another_issuer),
        ("issuer", "https://x.ciamlogin.com:8443/v2.0", another_issuer),
        ("issuer", "http://login.microsoftonline.com/contoso/v2.0", another_issuer),
        ("issuer", "https://login.microsoftonline.com:8443/contoso/v2.0", another_issuer),
        ("issuer", "https://login.microsoftonline.com.evil.example/v2.0", another_issuer),
        ("issuer", "https://login.microsoftonline.com@evil.example/v2.0", another_issuer),
        ("issuer", "https://evil.login.microsoftonline.com/v2.0", another_issuer),
        ("issuer", "https://loginmicrosoftonline.com/v2.0", another_issuer),
        ("issuer", "https://login.microsoftonline.cn/v2.0", another_issuer),
        ("issuer", "https://evilb2clogin.com/v2.0", another_issuer),
        ("issuer", "https://x.b2clogin.com.evil.example/v2.0", another_issuer),
        ("issuer", "http://x.b2clogin.com/v2.0", another_issuer),
        ("issuer", "https://x.ciamlogin.com/{tenantid}/v2.0", many_tenants),
        ("issuer", "https://login.microsoftonline.com/{tenantid}/v2.0", many_tenants),
        // QuickMail #233, with a custom domain as AUTHORITY.
        (
            "issuer",
            "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
            many_tenants,
        ),
        ("issuer", "contoso", "the issuer in the metadata is not a URL"),
        ("authorization_endpoint", "http://login.example/a", "not https: http://login.example/a"),
        ("token_endpoint", "http://login.example/t", "not https: http://login.example/t"),
        ("jwks_uri", "http://login.example/k", "not https: http://login.example/k"),
        ("end_session_endpoint", "http://login.example/s", "not https: http://login.example/s"),
    ] {
        platform.on(Endpoint::Metadata, move |answer| answer.json[name] = value.into());
        assert_refused(&platform, text).await;
    }
    let unknown = r#"{"error":"invalid_tenant","error_description":"AADSTS90002: 'x' not found."}"#;
    for (status, body, text) in [
        (400, unknown, "answered 400 Bad Request: \"AADSTS90002: 'x' not found.\""),
        (404, "Not Found", "answered 404 Not Found: \"no OpenID metadata\""),
        (200, "<html>\nWelcome\n</html>", "answered 200 OK: \"no OpenID metadata\""),
        (200, "{\"issuer\":7}", "(invalid type: integer `7`, expected a string"),
    ] {
        platform.on(Endpoint::Metadata, move |answer| answer.say(status, body));
        assert_refused(&platform, text).await;
    }
}

#[tokio::test]
async fn the_app_uses_the_addresses_and_the_issuer_of_the_metadata() {
    // oidcc-client-test-discovery-openid-config
    let platform = Platform::start().await;
    let authority = platform.authority();
    // AUTHORITY is a custom domain (msal-dotnet #5927).
    for issuer in [
        "https://login.microsoftonline.com/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://login.microsoftonline.us/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://login.partner.microsoftonline.cn/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://login.sovcloud-identity.fr/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://login.sovcloud-identity.de/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://login.sovcloud-identity.sg/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0",
        "https://contoso.b2clogin.com/2c7e90d4-1b5f-4a38-9d06-e8f3a1b7c542/v2.0/",
    ] {
        platform.on(Endpoint::Metadata, move |answer| answer.json["issuer"] = issuer.into());
        platform.id_token(move |token| token.claims["iss"] = issuer.into());
        platform.signed_in(&[]).await;
    }
    platform.on(Endpoint::Metadata, move |answer| {
        answer.json["issuer"] = "https://contoso.ciamlogin.com/v2.0".into();
        answer.json["authorization_endpoint"] = format!("{authority}/unusual?p=a%20policy").into();
        answer.json["token_endpoint"] = format!("{authority}/oauth2/v2.0/token?p=b").into();
        answer.json["end_session_endpoint"] = format!("{authority}/sign-out?p=c").into();
    });
    let app = platform.app(&[("SSO_LOGOUT", "true")]).await;
    // The metadata of an app with signing keys of its own names these keys.
    let metadata = platform.requests(Endpoint::Metadata).await;
    assert_eq!(metadata[7].url.query(), Some(&*format!("appid={CLIENT_ID}")));

    let browser = app.browser();
    platform.id_token(|token| token.claims["iss"] = "https://contoso.ciamlogin.com/v2.0".into());
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

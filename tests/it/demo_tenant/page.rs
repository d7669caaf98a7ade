//! What the page says, where a reader could take it for something else.

use super::*;

#[tokio::test]
async fn an_attack_takes_back_a_fault_that_has_not_worked_yet() {
    let demo = Demo::start(&[]).await;
    for (fault, label) in [
        ("Unavailable", "Be unavailable for the next request"),
        ("OtherNonce", "Change the nonce of the next ID token"),
        ("NoRole", "Take Ada's role away"),
    ] {
        demo.press(fault).await;
        let (page, result) = demo.attack("role").await;
        let shown = text(&result);
        let notice = format!("You had asked for a fault: {label}. It could have changed");
        assert!(shown.contains(&notice), "{shown}");
        assert!(shown.contains("The attack failed: ") && shown.contains("✓ Control."), "{shown}");
        assert!(!page.contains("Waiting to happen") && !page.contains("In force"), "{fault}");
        assert!(!text(&demo.attack("role").await.1).contains("You had asked"), "{fault}");
    }
    // The tokens are as if nobody had asked for the fault.
    let (_, tokens) = demo.redeem(&demo.code(&[]).await, &[]).await;
    for fault in ["Revoked", "Expired"] {
        demo.press(fault).await;
        demo.attack("link").await;
        assert_eq!(demo.graph(&bearer(&tokens)).await.status, 200, "{fault}");
    }
}

#[tokio::test]
async fn another_error_does_not_count_as_a_defense() {
    let demo = Demo::start(&[]).await;
    // The app cannot store a session.
    let folder = demo.app.folder.path().join("sessions");
    let _ = fs::remove_dir_all(&folder);
    fs::write(&folder, "").unwrap();
    for attack in ["return", "nonce", "twice"] {
        let (_, result) = demo.attack(attack).await;
        let shown = text(&result);
        if attack == "return" {
            assert!(shown.contains("The attack has no result: "), "{shown}");
            assert!(shown.contains("✗ This is not the error that stops this attack"), "{shown}");
        }
        assert!(shown.contains("✗ Control.") && shown.contains("It failed"), "{shown}");
    }
}

#[tokio::test]
async fn after_a_reset_the_title_does_not_call_a_signed_in_user_nobody() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    browser.sign_in(&demo.app, "/graph", ADA).await;
    demo.press("reset").await;
    browser.get(demo.app.at("/admin")).await;
    let page = demo.page().await;
    assert_eq!(Story::all(&page)[0].title(), "A signed-in user opened /admin: 200 OK");
    assert!(text(&page).contains("You stay signed in to the app until you sign out"));
    demo.press("Unavailable").await;
    browser.get(demo.app.at("/graph")).await;
    let title = "GET /graph failed at step 3 for a signed-in user: 502 Bad Gateway";
    assert_eq!(Story::all(&demo.page().await)[0].title(), title);
}

#[tokio::test]
async fn a_title_says_that_a_page_was_opened_only_if_it_was() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let callback = browser.choose(&demo.app, "/graph", ADA).await;
    browser.get(callback.location()).await;
    assert_eq!(Story::all(&demo.page().await)[0].title(), "Ada Example signed in");
    browser.get(demo.app.at("/graph")).await;
    let title = "Ada Example signed in, and opened /graph";
    assert_eq!(Story::all(&demo.page().await)[0].title(), title);
}

#[tokio::test]
async fn a_story_with_an_attack_and_its_control_names_both() {
    let demo = Demo::start(&[]).await;
    for (attack, title) in [
        ("link", "Attack: stopped at step 6. Control: signed in"),
        ("issuer", "Attack: stopped at step 6. Control: signed in"),
        ("twice", "Control: signed in. Attack: stopped at step 7"),
    ] {
        demo.attack(attack).await;
        let story = Story::all(&demo.page().await).remove(0);
        assert_eq!(story.title(), title, "{attack}");
        assert!(!story.html.starts_with(" bad"), "{attack}");
    }
}

/// The title of the message with the label of a fault.
fn message_with_fault(story: &Story, label: &str) -> Vec<String> {
    let messages = story.html.split("<div class=\"entry message").skip(1);
    let label = format!("You asked for this: {label}.");
    let found = messages.filter(|message| text(message).contains(&label));
    found.map(|message| texts(message, "<h5>", " <span").remove(0)).collect()
}

#[tokio::test]
async fn the_label_of_a_fault_is_at_the_message_that_it_changes() {
    let demo = Demo::start(&[]).await;
    let browser = demo.app.browser();
    let newest = async || Story::all(&demo.page().await).remove(0);
    demo.press("NoRefresh").await;
    browser.sign_in(&demo.app, "/graph", ADA).await;
    browser.get(demo.app.at("/graph")).await;
    let titles = Story::all(&demo.page().await);
    let label = "Refuse the next refresh token";
    let found = titles.iter().flat_map(|story| message_with_fault(story, label));
    assert_eq!(found.collect::<Vec<_>>(), ["Refresh error"]);

    demo.press("NoRole").await;
    browser.get(demo.app.at("/logout")).await;
    demo.single_sign_on(&browser, "/admin").await;
    assert_eq!(browser.get(demo.app.at("/admin")).await.status, 403);
    let found = message_with_fault(&newest().await, "Take Ada's role away");
    assert_eq!(found, ["Token response"]);

    demo.press("none").await;
    browser.get(demo.app.at("/logout")).await;
    demo.single_sign_on(&browser, "/graph").await;
    demo.press("Slow").await;
    browser.get(demo.app.at("/graph")).await.assert_error(502, "Microsoft Graph is not available");
    let found = message_with_fault(&newest().await, "Answer the next request too late");
    assert_eq!(found, ["Call to Microsoft Graph"]);
}

#[tokio::test]
async fn a_changed_id_token_does_not_look_like_one_of_the_tenant() {
    let demo = Demo::start(&[]).await;
    let forged = "✗ Not a signature of the tenant.";
    for (attack, note, is_forged) in [
        ("nonce", "Changed by the attacker on its way: an old ID token", false),
        ("role", "✗ Changed by the attacker on its way: the role admin", true),
        ("none", "✗ Changed by the attacker on its way: the role admin", true),
        ("hmac", "✗ Changed by the attacker on its way: the role admin", true),
    ] {
        demo.press("reset").await;
        demo.attack(attack).await;
        let stories = Story::all(&demo.page().await);
        let changed: Vec<_> =
            stories.iter().filter(|story| text(&story.html).contains(note)).collect();
        assert_eq!(changed.len(), 1, "{attack}");
        assert_eq!(text(&changed[0].html).contains(forged), is_forged, "{attack}");
        // The control has a signature of the tenant.
        let count = stories.iter().filter(|story| text(&story.html).contains(forged)).count();
        assert_eq!(count, usize::from(is_forged), "{attack}");
    }
}

#[tokio::test]
async fn the_page_says_what_a_learner_would_otherwise_miss() {
    let demo = Demo::start(&[]).await;
    demo.press("Expired").await;
    let page = text(&demo.page().await);
    for words in [
        "it does not end your sign-in at the tenant",
        "Change the user ends both.",
        "nonce is a second lock against the same attack",
        "The page keeps about the last 50 requests of browsers",
        "If you do this again within a minute, the app shows an error page (502)",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("each against another attack"));
    for attack in ["code", "twice"] {
        let shown = text(&demo.attack(attack).await.1);
        let by_tenant = "stopped it: the tenant refused the code, and the app reports it.";
        assert!(shown.contains(by_tenant), "{shown}");
    }
    assert!(!text(&demo.attack("nonce").await.1).contains("the tenant refused the code"));
}

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

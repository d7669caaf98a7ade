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

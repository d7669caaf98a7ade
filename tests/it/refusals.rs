//! Nobody gets in who should not: whatever is wrong with an answer of the identity platform, or with the callback, is refused.

use crate::harness::*;
use crate::platform::*;

#[tokio::test]
async fn a_well_behaved_platform_signs_in_and_graph_answers() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let callback = platform.sign_in(&app, &browser, "/graph").await;
    assert_eq!((callback.status, callback.location()), (302, "/graph"), "{}", callback.body);
    let page = browser.get(app.at("/graph")).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("cleo@platform.example"));
    assert_eq!(platform.requests(Endpoint::Graph).await.len(), 1);
    assert_eq!(platform.token_forms().await[0]["grant_type"], "authorization_code");
}

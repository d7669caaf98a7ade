//! The whole app against its demo tenant, as a newcomer sees it.

use crate::harness::*;

#[tokio::test]
async fn a_sign_in_by_http_alone_leads_to_the_graph_page() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    let page = browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.title(), "Graph Access - Rust actix-web");
    assert!(page.body.contains("ada@demo-tenant.example"));
}

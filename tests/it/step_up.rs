//! The recipe for a second factor in docs/your-app.md: it compiles in a copy of this repository, and
//! the demo tenant answers it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::*;

/// Copies a folder without what Cargo, Git and npm make.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if ["target", ".git", "sessions", "node_modules"].contains(&name.to_str().unwrap()) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(path, to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "compiles the app again"]
async fn the_recipe_for_a_second_factor_works() {
    let folder = tempfile::TempDir::new().unwrap();
    copy(Path::new(env!("CARGO_MANIFEST_DIR")), folder.path());
    let page = read("docs/your-app.md");
    let (_, recipe) = page.split_once("## A second factor for one page").unwrap();
    let blocks: Vec<_> = recipe.split("```rust\n").skip(1).take(2).collect();
    let [request, check] = [blocks[0], blocks[1]].map(|block| block.split("```").next().unwrap());
    let admin = read("src/routes/admin.rs");
    let line = "    let requested_claims = RequestedClaims::default();\n";
    let end = "// </ms_docref_require_admin_role_authNZ>\n";
    assert!(recipe.contains(line.trim()) && admin.contains(line) && admin.contains(end));
    let admin = admin.replace(line, request).replace(end, &format!("{end}{check}"));
    fs::write(folder.path().join("src/routes/admin.rs"), admin).unwrap();

    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("step-up");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--bin", "rust-webapp", "--target-dir"]).arg(&target);
    cargo.current_dir(folder.path()).env("CARGO_PROFILE_DEV_DEBUG", "0");
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let app = App::start_program(&target.join("debug/rust-webapp")).await;
    let browser = app.browser();
    // A sign-in at another page has no second factor.
    browser.sign_in(&app, "/graph", ADA).await;
    let authorize = browser.get(app.at("/admin")).await;
    let sent = authorize.location_parameter("claims").unwrap();
    assert!(sent.contains(r#""acrs":{"essential":true,"value":"c1"}"#), "{sent}");
    assert!(app.log().contains("step 5: this page requires a second factor"));
    let page = browser.get(authorize.location()).await;
    assert!(page.body.contains("Use the second factor"), "{}", page.body);
    let callback = browser.post(authorize.location(), &[("choice", "second_factor")]).await;
    assert_eq!(browser.get(callback.location()).await.location(), "/admin");
    let page = browser.get(app.at("/admin")).await;
    assert!(page.status == 200 && page.body.contains("acrs"), "{}", page.body);

    // Without the claim, the second try is an error page, and not a loop.
    app.edit_session(|session| session["user"]["id_token_claims"]["acrs"] = "other".into());
    browser.get(app.at("/admin")).await.assert_error(403, "the authentication context c1");
}

//! The route files can be copied into another app. How is what README.md
//! says, and this does what README.md says.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::harness::*;
use crate::readme::{code, section};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The demo tenant as a program of its own. The app that the handlers are
/// copied to has none.
const TENANT: &str = r#"
#[path = "../demo_tenant/mod.rs"]
mod demo_tenant;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let listeners = vec![std::net::TcpListener::bind("127.0.0.1:0")?];
    let redirect_uri = std::env::args().nth(1).expect("a redirect URI");
    let tenant = demo_tenant::start(listeners, &redirect_uri, 3600)?;
    println!("{} {} {} {}", tenant.client_id, tenant.client_credential, tenant.authority, tenant.endpoint);
    tenant.server.await
}
"#;

/// Ends a process when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(output.status.success(), "{command:?}:\n{stdout}{stderr}");
}

async fn wait_for<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ready().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
#[ignore = "builds another app, which takes minutes"]
async fn the_route_files_work_in_another_app() {
    let readme = section("## Use a handler in your app");
    let (shell, toml, rust) = (code(&readme, "sh"), code(&readme, "toml"), code(&readme, "rust"));
    let (&[copies], &[dependencies], &[settings, main]) = (&shell[..], &toml[..], &rust[..]) else {
        panic!("README.md has other blocks than expected");
    };

    // What the README says, done beside a copy of this sample.
    let folder = tempfile::tempdir().unwrap();
    let sample = folder.path().join("rust-webapp");
    for part in ["src", "templates"] {
        copy(&Path::new(ROOT).join(part), &sample.join(part));
    }
    run(Command::new("sh").args(["-ec", copies]).current_dir(&sample).env("CARGO_NET_OFFLINE", "true"));
    let my_app = folder.path().join("my-app");
    let manifest = fs::read_to_string(my_app.join("Cargo.toml")).unwrap();
    let (package, rest) = manifest.split_once("[dependencies]").unwrap();
    fs::write(my_app.join("Cargo.toml"), format!("{package}{dependencies}\n{rest}")).unwrap();
    fs::write(my_app.join("src/settings.rs"), settings).unwrap();
    fs::write(my_app.join("src/main.rs"), main).unwrap();
    for file in ["index", "graph", "admin", "auth_redirect", "logout"] {
        let (pasted, original) = (my_app.join(format!("src/{file}.rs")), format!("{ROOT}/src/routes/{file}.rs"));
        assert_eq!(fs::read(pasted).unwrap(), fs::read(original).unwrap(), "{file}");
    }
    // Built with the versions that this sample is built with, in a folder that
    // the next run finds warm.
    fs::copy(format!("{ROOT}/Cargo.lock"), my_app.join("Cargo.lock")).unwrap();
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(arguments).current_dir(&my_app).env("CARGO_TARGET_DIR", format!("{ROOT}/target/paste"));
        cargo
    };

    // One route file after the other, each with what it needs: protected pages
    // need the callback.
    for file in ["index", "logout", "auth_redirect", "graph", "admin"] {
        let needed = |line: &&str| {
            let handlers = ["index", "graph", "admin", "auth_redirect", "logout"];
            let callback = if ["graph", "admin"].contains(&file) { "auth_redirect" } else { file };
            !handlers.iter().any(|handler| {
                let is_its_line = *line == format!("mod {handler};") || line.contains(&format!(".get({handler}::"));
                is_its_line && *handler != file && *handler != callback
            })
        };
        let only: Vec<&str> = main.lines().filter(needed).collect();
        assert_eq!(only.len() + if ["graph", "admin"].contains(&file) { 6 } else { 8 }, main.lines().count());
        fs::write(my_app.join("src/main.rs"), only.join("\n")).unwrap();
        run(&mut cargo(&["build", "--quiet"]));
    }

    // All of them, served: the tenant that they sign in to is the demo tenant.
    fs::write(my_app.join("src/main.rs"), main).unwrap();
    copy(&sample.join("src/demo_tenant"), &my_app.join("src/demo_tenant"));
    fs::create_dir(my_app.join("src/bin")).unwrap();
    fs::write(my_app.join("src/bin/tenant.rs"), TENANT).unwrap();
    run(&mut cargo(&[
        "add",
        "--quiet",
        "--offline",
        "aws-lc-rs",
        "--no-default-features",
        "--features",
        "aws-lc-sys,ring-io",
    ]));
    run(&mut cargo(&["build", "--quiet"]));

    let free_port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = free_port().to_string();
    let url = format!("http://localhost:{port}");
    let redirect_uri = format!("{url}/auth/redirect");
    let start = |command: &mut Command, log: &str| {
        let log = fs::File::create(folder.path().join(format!("{log}.log"))).unwrap();
        Process(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    };
    let _tenant = start(Command::new(format!("{ROOT}/target/paste/debug/tenant")).arg(&redirect_uri), "tenant");
    let registration = wait_for("the demo tenant", async || {
        let said = fs::read_to_string(folder.path().join("tenant.log")).unwrap();
        said.split_once('\n').map(|(line, _)| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    });
    let registration = registration.await;
    let mut my_app = Command::new(format!("{ROOT}/target/paste/debug/my-app"));
    for (key, value) in ["CLIENT_ID", "CLIENT_CREDENTIAL", "AUTHORITY", "ENDPOINT"].iter().zip(&registration) {
        my_app.env(key, value);
    }
    my_app.current_dir(folder.path()).env("SECRET_KEY", "k".repeat(64));
    let _my_app = start(my_app.env("REDIRECT_URI", &redirect_uri).env("PORT", &port), "my-app");
    wait_for("the app", async || reqwest::get(&url).await.ok()).await;

    let browser = Browser::new(Secrets::default());
    let authorize = browser.get(format!("{url}/graph")).await;
    assert_eq!(authorize.status, 302);
    assert!(authorize.location().starts_with(&format!("{}/oauth2/v2.0/authorize?", registration[2])));
    let callback = browser.post(authorize.location(), &[("choice", ADA_WITH_THE_ROLE)]).await;
    let signed_in = browser.get(callback.location()).await;
    assert_eq!((signed_in.status, signed_in.location()), (302, "/graph"));
    let graph = browser.get(format!("{url}/graph")).await;
    assert_eq!(graph.title(), "Graph Access - Rust actix-web");
    assert!(graph.body.contains(ADA_WITH_THE_ROLE));
    let admin = browser.get(format!("{url}/admin")).await;
    assert_eq!(admin.title(), "Graph Access as Admin - Rust actix-web");
    assert!(browser.get(&url).await.body.contains("/logout"));
    assert_eq!(browser.get(format!("{url}/logout")).await.location(), "/");
    assert_eq!(browser.get(format!("{url}/graph")).await.status, 302);
}

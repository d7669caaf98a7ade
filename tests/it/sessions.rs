//! Session files: what they contain, when they end, and what happens when something fails. Also
//! what happens when nobody reads the log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::*;
use crate::platform::*;

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// The names of the files in a folder, sorted.
fn names_in(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Makes a folder that only this user can open.
fn make_private_folder(path: &Path) {
    fs::create_dir(path).unwrap();
    #[cfg(unix)]
    {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(path, permissions).unwrap();
    }
}

/// Writes a file whose time is two days ago.
fn write_old_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    File::options().write(true).open(path).unwrap().set_modified(two_days_ago).unwrap();
}

#[tokio::test]
async fn a_session_is_a_file_for_this_user_only_without_the_session_id_and_jq_can_rewrite_it() {
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let before = now();
    let signed_in = platform.sign_in(&app, &browser, "/graph").await;
    let cookie = signed_in.cookies().pop().unwrap();
    let (_, session_id) = cookie.split_once("%3D").unwrap();
    let folder = app.folder.path().join("sessions");
    let file = folder.join(format!("session-{:x}.json", Sha256::digest(session_id)));
    assert_eq!((app.session_files(), names_in(&folder).len()), (vec![file.clone()], 1));
    let session = read_json(&file);
    assert!(!session.to_string().contains(session_id));
    assert_eq!(session["values"]["user"]["id_token_claims"]["name"], "Cleo Example");
    let expires_on = session["expires_on"].as_i64().unwrap();
    assert!((before + 86_400..=now() + 86_400).contains(&expires_on), "{session}");
    #[cfg(unix)]
    for (path, mode) in [(&folder, 0o700), (&file, 0o600)] {
        let permissions = fs::metadata(path).unwrap().permissions();
        let permissions = std::os::unix::fs::PermissionsExt::mode(&permissions);
        assert_eq!(permissions & 0o777, mode, "{path:?}");
    }

    let edit = "jq . \"$0\" > \"$0.new\" && mv \"$0.new\" \"$0\"";
    let edited = Command::new("sh").args(["-c", edit]).arg(&file).status();
    // Without jq, write what jq writes.
    if !edited.is_ok_and(|status| status.success()) {
        fs::write(&file, format!("{session:#}\n")).unwrap();
    }
    assert_eq!(read_json(&file), session);
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
    let changed = read_json(&file);
    assert_eq!(changed["expires_on"], session["expires_on"]);
    assert_ne!(changed["values"]["token_cache"], session["values"]["token_cache"]);
}

#[tokio::test]
async fn without_a_secret_key_a_restart_ends_all_sessions() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let folder = app.folder.clone();
    drop(app);
    let app = platform.app_in(folder, &[]).await;
    assert_eq!(browser.get(app.at("/")).await.user(), None);
}

#[tokio::test]
async fn a_session_ends_with_its_lifetime_although_it_is_used() {
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    let (app, browser) = platform.signed_in(&[("PERMANENT_SESSION_LIFETIME", "2")]).await;
    let expires_on = read_json(&app.session_files()[0])["expires_on"].as_i64().unwrap();
    assert!(expires_on <= now() + 2, "{expires_on}");
    let mut visits = 0;
    while browser.get(app.at("/graph")).await.status == 200 {
        visits += 1;
        assert!(now() <= expires_on + 10, "the session has not ended");
    }
    assert!(now() >= expires_on && visits > 1, "{visits} visits");
    assert_eq!(browser.get(app.at("/")).await.user(), None);
    until("the sweep removes the file", || app.session_files().is_empty()).await;
}

#[tokio::test]
async fn the_sweep_removes_sessions_that_have_ended_and_remains_of_a_crash_and_nothing_else() {
    let folder = Arc::new(TempDir::new().unwrap());
    let sessions = folder.path().join("sessions");
    make_private_folder(&sessions);
    let name = |number: u32, end: &str| format!("session-{number:064x}{end}");
    let session = |expires_on: i64| format!("{{\"expires_on\": {expires_on}, \"values\": {{}}}}");
    // A session that ended while the app was not running, a damaged one, and what a crash leaves.
    fs::write(sessions.join(name(1, ".json")), session(now() - 1)).unwrap();
    write_old_file(&sessions.join(name(2, ".json")), "{}");
    write_old_file(&sessions.join(name(3, ".tmp")), &session(now() + 1_000));
    write_old_file(&sessions.join(name(4, ".tmp")), "{");
    // Sessions of an app with a longer lifetime, and files that an app may be writing.
    write_old_file(&sessions.join(name(5, ".json")), &session(now() + 1_000));
    fs::write(sessions.join(name(6, ".json")), "{").unwrap();
    fs::write(sessions.join(name(7, ".tmp")), "{").unwrap();
    // Files of other apps.
    let others = [name(8, ""), name(8, ".txt"), name(8, ".json.bak"), name(8, "0.json")];
    let others = others.iter().map(String::as_str);
    let short = ["session-0123abcd.json", "session-.json", "notes.json", "my-session-1.json"];
    let others: Vec<_> = others.chain(short).collect();
    for other in &others {
        write_old_file(&sessions.join(other), &session(now() - 1_000));
    }
    let mut expected: Vec<OsString> = others.iter().map(Into::into).collect();
    expected.extend([name(5, ".json"), name(6, ".json"), name(7, ".tmp")].map(Into::into));
    expected.sort();
    let platform = Platform::start().await;
    let _app = platform.app_in(folder, &[("PERMANENT_SESSION_LIFETIME", "1")]).await;
    // After another two files are gone one after the other, each file was looked at.
    for number in 10..12 {
        fs::write(sessions.join(name(number, ".json")), session(now() - 1)).unwrap();
        until("the sweep", || !sessions.join(name(number, ".json")).exists()).await;
    }
    assert_eq!(names_in(&sessions), expected);
}

#[tokio::test]
async fn an_app_with_a_shorter_lifetime_in_the_same_folder_removes_only_its_own_sessions() {
    let platform = Platform::start().await;
    let folder = Arc::new(TempDir::new().unwrap());
    let app = platform.app_in(folder.clone(), &[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let session = app.session_files();
    let other = platform.app_in(folder, &[("PERMANENT_SESSION_LIFETIME", "1")]).await;
    for _ in 0..2 {
        platform.sign_in(&other, &other.browser(), "/graph").await;
        assert_eq!(app.session_files().len(), 2);
        until("the session of the other app ends", || app.session_files().len() == 1).await;
    }
    assert_eq!(app.session_files(), session);
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_other_users_can_open_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    for mode in [0o755, 0o750, 0o701, 0o1777, 0o700, 0o2700] {
        let folder = TempDir::new().unwrap();
        let sessions = folder.path().join("sessions");
        fs::create_dir(&sessions).unwrap();
        fs::set_permissions(&sessions, fs::Permissions::from_mode(mode)).unwrap();
        if mode & 0o77 == 0 {
            Platform::start().await.app_in(Arc::new(folder), &[]).await;
            continue;
        }
        let lines = Platform::start().await.refused_by_the_app_in(folder.path(), &[]).await;
        let start = "rust-webapp: SESSION_FILE_DIR = \"sessions\": accepted is a folder";
        let is_named = lines.len() == 1 && lines[0].starts_with(start);
        assert!(is_named && lines[0].contains("`chmod 700`"), "{mode:o}: {lines:?}");
        assert_eq!(names_in(&sessions), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_does_not_fail_while_sessions_come_and_go() {
    let platform = Arc::new(Platform::start().await);
    let app = Arc::new(platform.app(&[("PERMANENT_SESSION_LIFETIME", "1")]).await);
    let mut users = JoinSet::new();
    for _ in 0..8 {
        let (platform, app) = (platform.clone(), app.clone());
        users.spawn(async move {
            loop {
                let browser = app.browser();
                platform.sign_in(&app, &browser, "/graph").await;
                browser.get(app.at("/logout")).await;
            }
        });
    }
    let sessions = app.folder.path().join("sessions");
    for _sweep in 1..=3 {
        for number in 0..500 {
            write_old_file(&sessions.join(format!("session-{number:064x}.tmp")), "{}");
        }
        until("a sweep", || names_in(&sessions).len() < 100).await;
    }
    assert!(users.try_join_next().is_none(), "a user failed");
    users.shutdown().await;
    assert!(!app.log().contains("cannot be removed"), "{}", app.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_none_of_500_sessions() {
    const SESSIONS: usize = 500;
    let platform = Arc::new(Platform::start().await);
    let folder = Arc::new(TempDir::new().unwrap());
    let settings = [("SECRET_KEY", SECRET_KEY)];
    let mut app = platform.app_in(folder.clone(), &settings).await;
    let url = Arc::new(Mutex::new(app.url.clone()));
    let signed_in = Arc::new(Mutex::new(Vec::new()));
    let mut users = JoinSet::new();
    for _ in 0..8 {
        let (platform, url, signed_in) = (platform.clone(), url.clone(), signed_in.clone());
        users.spawn(async move {
            while signed_in.lock().unwrap().len() < SESSIONS {
                let browser = Browser::new(Secrets::default());
                let graph = url.lock().unwrap().clone() + "/graph";
                // If the app is killed before it answers, this sign-in does not count.
                let authorize = browser.try_send(browser.client.get(graph)).await;
                let Ok(authorize) = authorize else { continue };
                let callback = browser.client.get(platform.callback(&authorize));
                let Ok(page) = browser.try_send(callback).await else { continue };
                assert_eq!((page.status, page.location()), (302, "/graph"), "{}", page.body);
                signed_in.lock().unwrap().push(browser);
            }
        });
    }
    for kill in 1..=6 {
        until("sign-ins", || signed_in.lock().unwrap().len() >= kill * SESSIONS / 7).await;
        app.kill();
        app = platform.app_in(folder.clone(), &settings).await;
        *url.lock().unwrap() = app.url.clone();
    }
    users.join_all().await;
    let browsers = signed_in.lock().unwrap().clone();
    for browser in browsers {
        assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_finds_half_a_session() {
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    // A large session takes longer to write.
    platform.id_token(|token| token.claims["groups"] = vec!["a group"; 2_000].into());
    let (app, browser) = platform.signed_in(&[]).await;
    let mut users = JoinSet::new();
    for _ in 0..8 {
        let (browser, graph) = (browser.clone(), app.at("/graph"));
        users.spawn(async move {
            for visit in 0..20 {
                assert_eq!(browser.get(&graph).await.status, 200, "visit {visit}");
            }
        });
    }
    let file = app.session_files().remove(0);
    let mut reads = 0;
    while !users.is_empty() {
        let session = read_json(&file);
        assert_eq!(session["values"]["user"]["id_token_claims"]["name"], "Cleo Example");
        reads += 1;
        if let Some(user) = users.try_join_next() {
            user.unwrap();
        }
    }
    assert!(reads > 100, "{reads}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sign_outs_at_the_same_moment_all_succeed() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    for round in 0..20 {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        let mut sign_outs = JoinSet::new();
        for _ in 0..8 {
            let (browser, logout) = (browser.clone(), app.at("/logout"));
            sign_outs.spawn(async move { browser.get(logout).await.status });
        }
        assert_eq!(sign_outs.join_all().await, [302; 8], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_wins_over_many_running_updates() {
    let platform = Platform::start().await;
    // A large session takes longer to write.
    platform.id_token(|token| token.claims["groups"] = vec!["a group"; 10_000].into());
    let app = platform.app(&[]).await;
    for round in 0..12 {
        platform.sign_out_during_updates([&app, &app], Duration::from_millis(10 * round)).await;
        assert_eq!(app.session_files(), Vec::<PathBuf>::new(), "round {round}");
    }
}

/// Runs `mount` or `umount` with this folder. Returns whether it succeeded.
#[cfg(target_os = "linux")]
fn run_as_root(command: &str, folder: &Path) -> bool {
    let command = format!("{command} \"$0\" || sudo -n {command} \"$0\"");
    let output = Command::new("sh").args(["-c", &command]).arg(folder).output();
    output.unwrap().status.success()
}

/// A mounted disk. When it is dropped, it is unmounted.
#[cfg(target_os = "linux")]
struct Disk<'a>(&'a Path);

#[cfg(target_os = "linux")]
impl Drop for Disk<'_> {
    fn drop(&mut self) {
        run_as_root("umount -l", self.0);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "mounts a disk, which needs root"]
async fn on_a_full_or_read_only_disk_changes_fail_and_sessions_remain() {
    let folder = Arc::new(TempDir::new().unwrap());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    let mount = "mount -t tmpfs -o size=64k,mode=0700,uid=$(id -u) tmpfs";
    assert!(run_as_root(mount, &sessions), "run this test as root, or allow sudo");
    let _disk = Disk(&sessions);
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    let app = platform.app_in(folder.clone(), &[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let before = app.session();
    let filler = sessions.join("filler");
    for disk in ["full", "read-only"] {
        if disk == "full" {
            fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        } else {
            fs::remove_file(&filler).unwrap();
            assert!(run_as_root("mount -o remount,ro", &sessions));
            browser.get(app.at("/logout")).await.assert_error(503, NOT_AVAILABLE);
        }
        let files = names_in(&sessions);
        assert_eq!(browser.get(app.at("/admin")).await.user(), Some("Cleo Example"));
        browser.get(app.at("/graph")).await.assert_error(503, NOT_AVAILABLE);
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        page.assert_error(503, NOT_AVAILABLE);
        // No temporary file remains.
        assert_eq!((app.session(), names_in(&sessions)), (before.clone(), files), "{disk}");
        assert!(app.log().contains(NOT_AVAILABLE), "{}", app.log());
    }
    assert!(run_as_root("mount -o remount,rw", &sessions));
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(browser.get(app.at("/logout")).await.status, 302);
    assert_eq!(names_in(&sessions), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_is_gone_is_made_again_and_a_file_in_its_place_gives_503() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let sessions = app.folder.path().join("sessions");
    fs::remove_dir_all(&sessions).unwrap();
    assert_eq!(browser.get(app.at("/")).await.user(), None);
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");

    fs::remove_dir_all(&sessions).unwrap();
    fs::write(&sessions, "not a folder").unwrap();
    let page = platform.sign_in(&app, &app.browser(), "/graph").await;
    page.assert_error(503, NOT_AVAILABLE);
    // Windows says that there are no files in a file.
    #[cfg(unix)]
    for path in ["/", "/graph", "/admin", "/logout"] {
        browser.get(app.at(path)).await.assert_error(503, NOT_AVAILABLE);
    }
}

#[tokio::test]
async fn a_broken_session_file_is_treated_as_missing() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    for broken in [
        &br#"{"expires_on": 9999999999, "values": {"#[..],
        br#"{"expires_on": 9999999999, "values": 1}"#,
        br#"{"values": {}}"#,
        br#"{"expires_on": "hidden-token", "values": {}}"#,
        br#"{"expires_on": 9999999999, "values": "hidden-token"}"#,
        b"not UTF-8: \xff",
    ] {
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
        let file = app.session_files().remove(0);
        fs::write(&file, broken).unwrap();
        let before = app.log().len();
        assert_eq!(browser.get(app.at("/")).await.user(), None);
        let log = app.log().split_off(before);
        let damaged = "is damaged at line 1, column ";
        assert!(log.contains(damaged) && log.contains(", and is treated as missing"), "{log}");
        assert!(!log.contains("hidden-token"), "{log}");
        fs::remove_file(&file).unwrap();
    }
    assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
}

#[cfg(unix)]
#[tokio::test]
async fn an_app_whose_log_nobody_reads_goes_on_and_ends_with_ctrl_c() {
    let folder = TempDir::new().unwrap();
    // Programs that ask for any free port get a higher one.
    let port = rand::random_range(10_000..30_000).to_string();
    let mut app = command(folder.path(), &[("RUST_LOG", "trace"), ("PORT", &port)]);
    let platform = Platform::start().await;
    app.envs(platform.settings());
    let mut app = tokio::process::Command::from(app);
    let mut process = app.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let address = format!("localhost:{port}");
    until("the app listens", || std::net::TcpStream::connect(&address).is_ok()).await;
    // These are more lines than the 128,000 that the log keeps in memory.
    let browser = Browser::new(Secrets::default());
    for _ in 0..12_000 {
        assert_eq!(browser.get(format!("http://{address}")).await.status, 200);
    }
    // Ctrl+C sends this signal.
    signal(process.id().unwrap(), "-INT");
    let ended = tokio::time::timeout(Duration::from_secs(10), process.wait()).await;
    assert!(ended.expect("the app did not end").unwrap().success());
}

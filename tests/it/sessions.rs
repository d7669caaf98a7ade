//! Session files: what they contain, when they end, and what happens when something fails. Also
//! what happens when nobody reads the log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use actix_web::cookie::{Cookie, CookieJar, Key};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::harness::*;
use crate::platform::*;

/// Makes each visit to /graph refresh the access token, which changes the session.
pub fn refresh_at_each_visit(platform: &Platform) {
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Sets the time at which a file was changed to two days ago.
fn make_old(path: &Path) {
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    File::open(path).unwrap().set_modified(two_days_ago).unwrap();
}

/// Opens the home page with this header `Cookie`.
async fn home_with(app: &App, cookie: &str) -> Page {
    let browser = app.browser();
    browser.send(browser.client.get(app.at("/")).header("cookie", cookie)).await
}

#[tokio::test]
async fn a_session_is_a_file_for_this_user_only_and_does_not_contain_the_session_id() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let before = now();
    let signed_in = platform.sign_in(&app, &browser, "/graph").await;
    let cookie = signed_in.cookies().pop().unwrap();
    let (_, session_id) = cookie.split_once("%3D").unwrap();
    assert_eq!(session_id.len(), 64);
    let folder = app.folder.path().join("sessions");
    let file = folder.join(format!("session-{:x}.json", Sha256::digest(session_id)));
    assert_eq!(app.session_files(), std::slice::from_ref(&file));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert!(!fs::read_to_string(&file).unwrap().contains(session_id));
    let session = read_json(&file);
    let expires_on = session["expires_on"].as_i64().unwrap();
    assert!((before + 86_400..=now() + 86_400).contains(&expires_on), "{session}");
    assert_eq!(session["values"]["user"]["id_token_claims"]["name"], "Cleo Example");
    #[cfg(unix)]
    for (path, mode) in [(&folder, 0o700), (&file, 0o600)] {
        let permissions = fs::metadata(path).unwrap().permissions();
        let permissions = std::os::unix::fs::PermissionsExt::mode(&permissions);
        assert_eq!(permissions & 0o777, mode, "{path:?}");
    }
}

#[tokio::test]
async fn a_session_file_that_jq_has_rewritten_is_still_a_session() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let file = app.session_files().remove(0);
    let before = read_json(&file);
    let edit = "jq . \"$0\" > \"$0.new\" && mv \"$0.new\" \"$0\"";
    if !Command::new("sh").args(["-c", edit]).arg(&file).status().is_ok_and(|it| it.success()) {
        fs::write(&file, format!("{before:#}\n")).unwrap();
    }
    assert_eq!(read_json(&file), before);
    assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"));
    refresh_at_each_visit(&platform);
    app.edit_session(|session| session["token_cache"]["expires_on"] = 0.into());
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_eq!(read_json(&file)["expires_on"], before["expires_on"]);
    assert_ne!(read_json(&file)["values"]["token_cache"], before["values"]["token_cache"]);
}

#[tokio::test]
async fn a_restart_keeps_sessions_only_with_the_same_secret_key() {
    let platform = Platform::start().await;
    for (key, user) in [(SECRET_KEY, Some("Cleo Example")), ("", None)] {
        let (app, browser) = platform.signed_in(&[("SECRET_KEY", key)]).await;
        let folder = app.folder.clone();
        drop(app);
        let app = platform.app_in(folder, &[("SECRET_KEY", key)]).await;
        assert_eq!(browser.get(app.at("/")).await.user(), user);
    }
}

#[tokio::test]
async fn a_session_ends_with_its_lifetime_although_it_is_used() {
    let platform = Platform::start().await;
    refresh_at_each_visit(&platform);
    let (app, browser) = platform.signed_in(&[("PERMANENT_SESSION_LIFETIME", "2")]).await;
    let expires_on = read_json(&app.session_files()[0])["expires_on"].as_i64().unwrap();
    let mut visits = 0;
    while browser.get(app.at("/graph")).await.status == 200 {
        visits += 1;
        assert!(now() <= expires_on + 10, "the session has not ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(now() >= expires_on && visits > 3, "{visits} visits");
    assert_eq!(browser.get(app.at("/")).await.user(), None);
    until("the sweep removes the file", || app.session_files().is_empty()).await;
}

#[tokio::test]
async fn the_sweep_removes_old_sessions_and_temporary_files_and_nothing_else() {
    let folder = Arc::new(TempDir::new().unwrap());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    let session = format!("session-{:x}.json", Sha256::digest("a session ID"));
    let temporary = ["session-1aB2c3", "session-4dE5f6"];
    let foreign = ["notes.json", "my-session-1.json", ".session-1.json"];
    for name in [&foreign[..], &[&session, temporary[0], temporary[1]]].concat() {
        fs::write(sessions.join(name), "{}").unwrap();
        make_old(&sessions.join(name));
    }
    // A folder is not a session.
    fs::create_dir(sessions.join("session-folder")).unwrap();
    make_old(&sessions.join("session-folder"));
    // The app may be writing this file.
    fs::write(sessions.join(temporary[1]), "{").unwrap();
    let _app = App::start_in(folder, &[]).await;
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&sessions).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    until("the sweep removes the old files", || names().len() == 5).await;
    let mut left = names();
    left.sort();
    let [one, two, three] = foreign;
    assert_eq!(left, [three, two, one, temporary[1], "session-folder"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_does_not_fail_while_sessions_come_and_go() {
    let platform = Arc::new(Platform::start().await);
    let app = Arc::new(platform.app(&[("PERMANENT_SESSION_LIFETIME", "1")]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let users = [(); 8].map(|()| {
        let (platform, app, stop) = (platform.clone(), app.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let browser = app.browser();
                platform.sign_in(&app, &browser, "/graph").await;
                browser.get(app.at("/logout")).await;
            }
        })
    });
    for sweep in 1..=3 {
        let old = (0..500).map(|number| {
            app.folder.path().join(format!("sessions/session-{sweep}-{number}.json"))
        });
        let old: Vec<_> = old.collect();
        for path in &old {
            fs::write(path, "{}").unwrap();
            make_old(path);
        }
        until("a sweep", || old.iter().all(|path| !path.exists())).await;
    }
    stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.unwrap();
    }
    assert!(!app.log().contains("cannot be removed"), "{}", app.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_none_of_500_sessions() {
    const SESSIONS: usize = 500;
    let platform = Arc::new(Platform::start().await);
    let folder = Arc::new(TempDir::new().unwrap());
    let key = [("SECRET_KEY", SECRET_KEY)];
    let mut app = platform.app_in(folder.clone(), &key).await;
    let url = Arc::new(Mutex::new(app.url.clone()));
    let signed_in = Arc::new(Mutex::new(Vec::new()));
    let users = [(); 8].map(|()| {
        let (platform, url, signed_in) = (platform.clone(), url.clone(), signed_in.clone());
        tokio::spawn(async move {
            while signed_in.lock().unwrap().len() < SESSIONS {
                let browser = Browser::new(Secrets::default());
                let graph = url.lock().unwrap().clone() + "/graph";
                // If the app is killed before it answers, this sign-in does not count.
                let Ok(authorize) = browser.try_send(browser.client.get(graph)).await else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let callback = browser.client.get(platform.callback(&authorize));
                let Ok(page) = browser.try_send(callback).await else { continue };
                assert_eq!((page.status, page.location()), (302, "/graph"), "{}", page.body);
                signed_in.lock().unwrap().push(browser);
            }
        })
    });
    for kill in 1..=6 {
        let enough = || signed_in.lock().unwrap().len() >= kill * SESSIONS / 7;
        until("sign-ins", enough).await;
        app.kill();
        for file in app.session_files() {
            assert!(read_json(&file)["expires_on"].is_u64(), "{file:?}");
        }
        app = platform.app_in(folder.clone(), &key).await;
        *url.lock().unwrap() = app.url.clone();
    }
    for user in users {
        user.await.unwrap();
    }
    let browsers = signed_in.lock().unwrap().clone();
    assert!(browsers.len() >= SESSIONS);
    for (number, browser) in browsers.iter().enumerate() {
        let home = browser.get(app.at("/")).await;
        assert_eq!(home.user(), Some("Cleo Example"), "session {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_finds_half_a_session() {
    let platform = Platform::start().await;
    refresh_at_each_visit(&platform);
    // A large session takes longer to write.
    platform.id_token(|token| token.claims["groups"] = vec!["a group"; 2_000].into());
    let (app, browser) = platform.signed_in(&[]).await;
    let file = app.session_files().remove(0);
    let stop = Arc::new(AtomicBool::new(false));
    let has_ended = stop.clone();
    let reader = std::thread::spawn(move || {
        let mut sizes = 0..0;
        while !has_ended.load(Ordering::Relaxed) {
            let session = fs::read(&file).unwrap();
            assert_eq!((session[0], session.last()), (b'{', Some(&b'}')));
            assert!(session.len() > 20_000, "{} bytes", session.len());
            sizes.end += 1;
        }
        sizes.len()
    });
    for round in 0..20 {
        let visits = [(); 8].map(|()| {
            let (browser, graph, home) = (browser.clone(), app.at("/graph"), app.at("/"));
            tokio::spawn(async move {
                assert_eq!(browser.get(graph).await.status, 200, "round {round}");
                let home = browser.get(home).await;
                assert_eq!(home.user(), Some("Cleo Example"), "round {round}");
            })
        });
        for visit in visits {
            visit.await.unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 100);
    app.session();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_wins_over_many_running_updates() {
    let platform = Platform::start().await;
    // A large session takes longer to write.
    platform.id_token(|token| token.claims["groups"] = vec!["a group"; 10_000].into());
    let app = platform.app(&[]).await;
    for round in 0..12 {
        let browser = app.browser();
        refresh_at_each_visit(&platform);
        let signed_in = platform.sign_in(&app, &browser, "/graph").await;
        let cookie = signed_in.cookies().pop().unwrap();
        let arrived = Arc::new(Notify::new());
        let arrival = arrived.clone();
        platform.on(Endpoint::Token, move |answer| {
            arrival.notify_one();
            answer.json["expires_in"] = 1.into();
            answer.delay = Duration::from_micros(rand::random_range(0..20_000));
        });
        let visits = [(); 4].map(|()| {
            let (browser, graph) = (browser.clone(), app.at("/graph"));
            tokio::spawn(async move { browser.get(graph).await.status })
        });
        arrived.notified().await;
        // At this time, some of the updates are being written.
        tokio::time::sleep(Duration::from_millis(10 * round)).await;
        assert_eq!(browser.get(app.at("/logout")).await.status, 302);
        for visit in visits {
            assert!([200, 302].contains(&visit.await.unwrap()), "round {round}");
        }
        assert_eq!(app.session_files(), Vec::<PathBuf>::new(), "round {round}");
        assert_eq!(browser.get(app.at("/")).await.user(), None, "round {round}");
        assert_eq!(home_with(&app, &cookie).await.user(), None, "round {round}");
    }
}

/// A file system of its own, which can become full or read-only.
#[cfg(target_os = "linux")]
struct Disk(PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    /// Mounts a disk of 64 KB. Without the right to do this, prints that the test is skipped.
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let disk = Self(at);
        if disk.run(&["mount", "-t", "tmpfs", "-o", "size=64k,mode=0777", "tmpfs"]) {
            return Some(disk);
        }
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this user cannot mount a disk");
        eprintln!("SKIPPED: this user cannot mount a disk");
        std::mem::forget(disk);
        None
    }

    fn remount(&self, option: &str) {
        assert!(self.run(&["mount", "-o", option]));
    }

    fn run(&self, arguments: &[&str]) -> bool {
        [&[][..], &["sudo", "-n"]].iter().any(|sudo| {
            let arguments = [sudo, arguments].concat();
            let mut command = Command::new(arguments[0]);
            command.args(&arguments[1..]).arg(&self.0);
            command.output().is_ok_and(|output| output.status.success())
        })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        self.run(&["umount", "-l"]);
    }
}

const NOT_AVAILABLE: &str = "The session store is not available. Try again in a minute.";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn on_a_full_or_read_only_disk_changes_fail_and_sessions_remain() {
    let folder = Arc::new(TempDir::new().unwrap());
    let Some(disk) = Disk::mount(folder.path().join("sessions")) else { return };
    let platform = Platform::start().await;
    refresh_at_each_visit(&platform);
    let app = platform.app_in(folder, &[]).await;
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    let before = app.session();
    for is_full in [true, false] {
        if is_full {
            let full = fs::write(disk.0.join("filler"), vec![0; 1 << 20]).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        } else {
            disk.remount("remount,ro");
            browser.get(app.at("/logout")).await.assert_error(503, NOT_AVAILABLE);
        }
        assert_eq!(browser.get(app.at("/admin")).await.user(), Some("Cleo Example"));
        browser.get(app.at("/graph")).await.assert_error(503, NOT_AVAILABLE);
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        page.assert_error(503, NOT_AVAILABLE);
        assert_eq!(page.cookies(), Vec::<String>::new());
        // No temporary file remains.
        let files = fs::read_dir(&disk.0).unwrap().count();
        assert_eq!((app.session(), files), (before.clone(), 1 + usize::from(is_full)));
        assert!(app.log().contains("the session store failed: "), "{}", app.log());
        if is_full {
            fs::remove_file(disk.0.join("filler")).unwrap();
        } else {
            disk.remount("remount,rw");
        }
    }
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_ne!(app.session(), before);
    assert_eq!(browser.get(app.at("/logout")).await.status, 302);
    assert_eq!(app.session_files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_folder_that_is_gone_is_made_again_and_a_file_in_its_place_gives_503() {
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&[]).await;
    let sessions = app.folder.path().join("sessions");
    let aside = app.folder.path().join("aside");
    for is_file in [false, true] {
        fs::rename(&sessions, &aside).unwrap();
        if is_file {
            fs::write(&sessions, "not a folder").unwrap();
            for path in ["/", "/graph", "/admin", "/logout"] {
                browser.get(app.at(path)).await.assert_error(503, NOT_AVAILABLE);
            }
            fs::remove_file(&sessions).unwrap();
        } else {
            assert_eq!(browser.get(app.at("/")).await.user(), None);
            let page = platform.sign_in(&app, &app.browser(), "/graph").await;
            assert_eq!(page.location(), "/graph");
            assert_eq!(app.session_files().len(), 1);
            fs::remove_dir_all(&sessions).unwrap();
        }
        assert_eq!(app.browser().get(app.at("/")).await.status, 200);
        fs::rename(&aside, &sessions).unwrap();
        assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        assert_eq!(page.location(), "/graph");
    }
}

#[tokio::test]
async fn a_broken_session_file_is_treated_as_missing() {
    let platform = Platform::start().await;
    let (app, other) = platform.signed_in(&[]).await;
    let file_of_other = app.session_files().remove(0);
    type Damage = fn(&str) -> Vec<u8>;
    let damages: [(&str, Damage); 8] = [
        ("empty", |_| Vec::new()),
        ("cut in the middle", |text| text[..text.len() / 2].into()),
        ("without the last byte", |text| text[..text.len() - 1].into()),
        ("not UTF-8", |text| text.bytes().map(|byte| byte | 0x80).collect()),
        ("another JSON value", |_| b"[1, 2]".into()),
        ("without a time", |text| text.replace("expires_on", "expired_on").into()),
        ("a time that is not a number", |text| text.replace("\"expires_on\": ", "$0-").into()),
        ("values that are not an object", |_| br#"{"expires_on": 9999999999, "values": 1}"#.into()),
    ];
    for (damage, spoil) in damages {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        let mut files = app.session_files();
        files.retain(|file| *file != file_of_other);
        fs::write(&files[0], spoil(&fs::read_to_string(&files[0]).unwrap())).unwrap();
        let lines = app.log().matches("is not a session and is treated as missing").count();
        assert_eq!(browser.get(app.at("/")).await.user(), None, "{damage}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 302, "{damage}");
        assert!(app.log().matches("is not a session and is treated as missing").count() > lines);
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{damage}");
        assert_eq!(other.get(app.at("/")).await.user(), Some("Cleo Example"), "{damage}");
        browser.get(app.at("/logout")).await;
        let _ = fs::remove_file(&files[0]);
    }
}

#[tokio::test]
async fn a_session_id_cannot_name_another_file() {
    let platform = Platform::start().await;
    let app = platform.app(&[("SECRET_KEY", SECRET_KEY)]).await;
    let signed_in = platform.sign_in(&app, &app.browser(), "/graph").await;
    let cookie = signed_in.cookies().pop().unwrap();
    let (_, session_id) = cookie.split_once("%3D").unwrap();
    let file = app.session_files().remove(0);
    let name = file.file_stem().unwrap().to_str().unwrap();
    let outside = app.folder.path().join("outside");
    fs::copy(&file, outside.with_extension("json")).unwrap();
    fs::copy(&file, file.with_file_name("session-inside.json")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&file, file.with_file_name("session-link.json")).unwrap();
    let hash = format!("{:x}", Sha256::digest(session_id));
    let key = Key::derive_from(SECRET_KEY.as_bytes());
    let signed = |session_id: &str, key| {
        let mut jar = CookieJar::new();
        jar.signed_mut(key).add(Cookie::new("rust-webapp-session", session_id.to_owned()));
        jar.delta().next().unwrap().stripped().to_string()
    };
    // This test signs cookies as the app does.
    assert_eq!(home_with(&app, &signed(session_id, &key)).await.user(), Some("Cleo Example"));
    for forged in [
        name,
        &hash,
        &format!("{name}.json"),
        "session-inside",
        "inside",
        "session-link",
        "link",
        "../outside",
        "../outside.json",
        "x/../../outside",
        outside.to_str().unwrap(),
        "",
        &"x".repeat(3_000),
    ] {
        assert_eq!(home_with(&app, &signed(forged, &key)).await.user(), None, "{forged}");
    }
    let unsigned = format!("rust-webapp-session={session_id}");
    for cookie in [unsigned, signed(session_id, &Key::generate())] {
        assert_eq!(home_with(&app, &cookie).await.user(), None, "{cookie}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_app_whose_log_nobody_reads_goes_on_and_ends_on_a_signal() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpStream;
    for (name, level, pages) in [
        ("-TERM", "info", 3_000),
        // These are more lines than the 128,000 that the log keeps in memory.
        ("-INT", "trace", 12_000),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = command(folder.path(), &[("RUST_LOG", level)]);
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Read until the app has started. Then keep the pipe open, and do not read.
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().unwrap().contains("open http://")).unwrap();
        let line = line.unwrap();
        let address = line.split_once("open http://").unwrap().1.split_once(' ').unwrap().0;
        let mut connection = BufReader::new(TcpStream::connect(address).unwrap());
        connection.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("HEAD / HTTP/1.1\r\nHost: {address}\r\n\r\n");
        for _ in 0..pages {
            connection.get_mut().write_all(request.as_bytes()).unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(connection.read_line(&mut head).unwrap(), 0, "{head}");
            }
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        }
        drop(connection);

        let signaled = std::time::Instant::now();
        signal(process.id(), name);
        while process.try_wait().unwrap().is_none() {
            if signaled.elapsed() > Duration::from_secs(10) {
                process.kill().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(process.wait().unwrap().success(), "{level} {name}: the app did not end");
    }
}

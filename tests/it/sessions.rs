//! Sessions on files: what they look like, when they end, and that they
//! hold under faults.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::*;
use crate::platform::*;
use crate::refusals::PROTECTED;

/// A SECRET_KEY, so that a cookie outlives the process that made it.
pub const KEY: (&str, &str) = ("SECRET_KEY", "obviously-invented-secret-key-of-the-tests");

/// Waits until this is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Signs in at the platform, and returns the session cookie.
pub async fn signed_in(platform: &Platform, app: &App, browser: &Browser) -> String {
    let page = platform.sign_in(app, browser, "/graph").await;
    assert_eq!((page.status, page.location()), (302, "/graph"), "{}", page.body);
    page.cookies().remove(0)
}

/// Who the home page says is signed in.
pub fn user_of(page: &Page) -> Option<&str> {
    assert_eq!(page.status, 200, "{}", page.body);
    Some(page.body.split_once("Signed in as <strong><bdi>")?.1.split_once('<')?.0)
}

/// Starts the app, which must end with 2, and returns what it said, on
/// stderr and in its log.
pub fn refused_start(folder: &Path, settings: &[(&str, &str)]) -> (String, String) {
    let mut command = command(folder, settings);
    let mut process = command.env("PORT", "0").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            process.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
    let (error, log) = (String::from_utf8(stderr).unwrap(), String::from_utf8(stdout).unwrap());
    assert_eq!((status.code(), error.lines().count()), (Some(2), 1), "{error}{log}");
    (error, log)
}

/// The files of a folder, whatever they are.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map_or(Vec::new(), |files| files.map(|file| file.unwrap().path()).collect())
}

fn sessions_of(app: &App) -> PathBuf {
    app.folder.path().join("sessions")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_session_is_a_private_file_that_a_person_can_read_and_that_does_not_tell_its_id() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    assert!(browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.body.contains("Ada Example"));

    assert_eq!(mode(&sessions_of(&app)), 0o700);
    let file = app.session_files().remove(0);
    assert_eq!(mode(&file), 0o600);
    let session = app.session();
    assert_eq!(session["user"]["id_token_claims"]["name"], "Ada Example");
    // Its time is its end, so that the sweep need not read it before.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(session["expires_on"].as_u64().unwrap());
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), end);

    // The cookie is the id after its signature, which is 44 characters of
    // base64.
    let replaced = browser.get(app.at("/auth/redirect?state=nobodys")).await;
    assert_eq!((replaced.status, replaced.cookies().len()), (400, 0));
    let page = app.browser().get(app.at("/graph")).await;
    let cookie = page.cookies().remove(0);
    let id = &cookie[cookie.len() - 64..];
    let name = format!("{:x}.json", Sha256::digest(id));
    assert!(sessions_of(&app).join(&name).exists(), "no {name} among {:?}", app.session_files());
    for file in app.session_files() {
        assert!(!file.to_string_lossy().contains(id) && !fs::read_to_string(&file).unwrap().contains(id));
    }
    assert!(!app.log().contains("others may write"));
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_is_warned_of() {
    let folder = Arc::new(folder());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    fs::set_permissions(&sessions, fs::Permissions::from_mode(0o770)).unwrap();
    let app = App::start_in(folder, &[]).await;
    assert!(app.log().contains("others may write to it, and who writes a session can be anyone"));
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_refused_at_start() {
    let folder = folder();
    fs::write(folder.path().join("taken"), "a file").unwrap();
    let (error, log) = refused_start(folder.path(), &[("SESSION_FILE_DIR", "taken")]);
    // What came before is in the log, although the app ended at once.
    assert!(log.contains("OpenID metadata loaded"), "{log}");
    assert!(error.contains("SESSION_FILE_DIR = \"taken\": Not a directory"), "{error}");
}

/// Holds back what the token endpoint answers to this grant, until each is
/// let go. Access tokens live for a second, so that every /graph needs a
/// refresh.
pub struct Held {
    arrivals: mpsc::UnboundedReceiver<()>,
    release: std::sync::mpsc::Sender<()>,
}

impl Held {
    pub fn new(platform: &Platform, grant_type: &'static str) -> Self {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel();
        platform.on(Endpoint::Token, move |answer| {
            answer.json["expires_in"] = 1.into();
            if answer.form["grant_type"] == grant_type {
                arrived.send(()).unwrap();
                released.recv_timeout(PATIENCE).unwrap();
            }
        });
        Self { arrivals, release }
    }

    pub async fn arrival(&mut self) {
        timeout(PATIENCE, self.arrivals.recv()).await.unwrap().unwrap();
    }

    pub fn let_go(&self) {
        self.release.send(()).unwrap();
    }
}

/// Signs out while a refresh waits at the token endpoint: first so that
/// /graph ends after /logout, then 40 times so that they race. `sessions`
/// counts what is in the store.
pub async fn sign_out_wins(platform: &Platform, app: &App, sessions: impl Fn() -> usize) {
    let mut refreshes = Held::new(platform, "refresh_token");
    for round in 0..41 {
        let browser = app.browser();
        let cookie = signed_in(platform, app, &browser).await;
        assert_eq!(sessions(), 1);
        let (graph_browser, graph_url) = (browser.clone(), app.at("/graph"));
        let graph = tokio::spawn(async move { graph_browser.get(graph_url).await });
        refreshes.arrival().await;
        let logout = if round == 0 {
            let logout = browser.get(app.at("/logout")).await;
            refreshes.let_go();
            logout
        } else {
            let (early, late) = (rand::random_range(0..3000), rand::random_range(0..3000));
            let let_go = async {
                sleep(Duration::from_micros(early)).await;
                refreshes.let_go();
            };
            let logout = async {
                sleep(Duration::from_micros(late)).await;
                browser.get(app.at("/logout")).await
            };
            tokio::join!(let_go, logout).1
        };
        assert_eq!((logout.status, logout.location()), (302, "/"));
        let graph = graph.await.unwrap();
        assert_eq!(graph.status, 200, "{}", graph.body);

        assert_eq!(sessions(), 0, "round {round}: the session is back");
        let anyone = app.browser();
        let home = anyone.send(anyone.client.get(app.at("/")).header("cookie", cookie)).await;
        assert_eq!(user_of(&home), None);
        assert_eq!(user_of(&browser.get(app.at("/")).await), None);
    }
}

#[tokio::test]
async fn sign_out_wins_over_a_refresh_under_way() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    sign_out_wins(&platform, &app, || app.session_files().len()).await;
}

#[tokio::test]
async fn a_sign_in_outlives_the_session_that_it_was_begun_in() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let mut codes = Held::new(&platform, "authorization_code");
    let callback = platform.callback(&browser.get(app.at("/graph")).await);
    let (callback_browser, begun_in) = (browser.clone(), app.session_files().remove(0));
    let signed_in = tokio::spawn(async move { callback_browser.get(callback).await });
    codes.arrival().await;
    // As the sweep does after ten minutes.
    fs::remove_file(begun_in).unwrap();
    codes.let_go();
    let signed_in = signed_in.await.unwrap();
    assert_eq!(signed_in.status, 302, "{}", signed_in.body);
    assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
}

/// Signs in, as far as the app lives to answer: Err when it does not.
async fn try_sign_in(platform: &Platform, browser: &Browser, url: &mut watch::Receiver<String>) -> reqwest::Result<()> {
    let base = url.borrow().clone();
    let authorize = browser.try_send(browser.client.get(format!("{base}/graph"))).await?;
    assert_eq!(authorize.status, 302, "{}", authorize.body);
    let callback = platform.callback(&authorize);
    let query = callback.split_once('?').unwrap().1;
    // Answered, so it must outlive the process: the second leg goes to
    // whatever process there is now.
    loop {
        let base = url.borrow().clone();
        let request = browser.client.get(format!("{base}/auth/redirect?{query}"));
        match browser.try_send(request).await {
            Ok(page) => {
                assert_eq!((page.status, page.location()), (302, "/graph"), "{}", page.body);
                return Ok(());
            }
            // Not even connected: nothing has happened yet.
            Err(err) if err.is_connect() => {
                timeout(PATIENCE, url.wait_for(|url| *url != base)).await.unwrap().unwrap();
            }
            Err(err) => return Err(err),
        }
    }
}

#[tokio::test]
async fn kill_9_during_500_sign_ins_loses_no_session() {
    const SIGN_INS: usize = 500;
    let platform = Arc::new(Platform::start().await);
    // Each visit to /graph refreshes, and so replaces its session.
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    let folder = Arc::new(folder());
    let mut app = platform.app_in(folder.clone(), &[KEY]).await;
    let (new_url, url) = watch::channel(app.url.clone());

    let (begun, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut drivers = JoinSet::new();
    for _ in 0..12 {
        let (platform, begun, answered, mut url) = (platform.clone(), begun.clone(), answered.clone(), url.clone());
        let browser = app.browser();
        drivers.spawn(async move {
            let mut done = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < SIGN_INS {
                let browser = browser.anew();
                loop {
                    let base = url.borrow().clone();
                    if try_sign_in(&platform, &browser, &mut url).await.is_ok() {
                        break;
                    }
                    timeout(PATIENCE, url.wait_for(|url| *url != base)).await.unwrap().unwrap();
                }
                answered.fetch_add(1, Ordering::Relaxed);
                done.push(browser);
                for browser in done.iter().rev().take(3) {
                    let base = url.borrow().clone();
                    let _ = browser.try_send(browser.client.get(format!("{base}/graph"))).await;
                }
            }
            done
        });
    }
    let (mut kills, mut unfinished, mut torn) = (0, 0, 0);
    let mut whole = HashSet::new();
    let mut browsers = Vec::new();
    while !drivers.is_empty() {
        // After some sign-ins more, and at whatever it is doing then.
        let enough = answered.load(Ordering::Relaxed) + rand::random_range(1..35);
        until("sign-ins", || answered.load(Ordering::Relaxed) >= enough.min(SIGN_INS)).await;
        sleep(Duration::from_millis(rand::random_range(0..20))).await;
        app.kill();
        kills += 1;
        let mut not_whole = Vec::new();
        for file in files_in(&sessions_of(&app)) {
            let session: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap_or_default();
            if file.extension().unwrap() == "tmp" {
                unfinished += 1;
            } else if session["expires_on"].is_u64() {
                whole.insert(file);
            } else {
                assert!(!whole.contains(&file), "a browser's session is torn: {session}");
                not_whole.push(file);
            }
        }
        torn += not_whole.len();
        app = platform.app_in(folder.clone(), &[KEY]).await;
        until("what is not whole to go", || !not_whole.iter().any(|file| file.exists())).await;
        new_url.send_replace(app.url.clone());
        while let Some(done) = drivers.try_join_next() {
            browsers.extend(done.unwrap());
        }
    }
    assert_eq!(browsers.len(), SIGN_INS);
    let mut lost = 0;
    for browser in &browsers {
        if user_of(&browser.get(app.at("/")).await) != Some("Cleo Example") {
            lost += 1;
        }
    }
    let files = app.session_files().len();
    println!(
        "kill -9: {kills} kills, {} sessions answered, lost: {lost}; {files} files, {unfinished} unfinished ones seen, {torn} torn",
        browsers.len()
    );
    assert_eq!(lost, 0);
    assert!(kills >= 5, "too few kills to show anything: {kills}");
}

/// A small file system, if this user may mount one.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"]).arg(at).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here");
        None
    }

    fn remount(&self, option: &str) {
        assert!(Command::new("mount").args(["-o", option]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_a_503_and_no_session() {
    let folder = Arc::new(folder());
    let Some(disk) = Tmpfs::mount(&folder.path().join("sessions")) else { return };
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    let app = platform.app_in(folder, &[]).await;
    let browser = app.browser();
    signed_in(&platform, &app, &browser).await;
    let before = fs::read(&app.session_files()[0]).unwrap();

    let filler = disk.0.join("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    app.browser().get(app.at("/graph")).await.assert_error_page(503);
    // This one was refreshed, and the new tokens cannot be kept; the old ones
    // are.
    browser.get(app.at("/graph")).await.assert_error_page(503);
    assert_eq!(fs::read(&app.session_files()[0]).unwrap(), before);
    assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
    assert_eq!(files_in(&disk.0).len(), 2, "{:?}", files_in(&disk.0));
    let (error, _) = refused_start(app.folder.path(), &[]);
    assert!(error.contains("SESSION_FILE_DIR = \"sessions\": No space left on device"), "{error}");

    fs::remove_file(filler).unwrap();
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    assert_ne!(fs::read(&app.session_files()[0]).unwrap(), before);
}

#[tokio::test]
async fn on_a_read_only_disk_pages_are_read_and_a_sign_out_that_did_not_happen_is_not_claimed() {
    let folder = Arc::new(folder());
    let Some(disk) = Tmpfs::mount(&folder.path().join("sessions")) else { return };
    let app = App::start_in(folder.clone(), &[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;

    disk.remount("remount,ro");
    assert_eq!(browser.get(app.at("/graph")).await.status, 200);
    app.browser().get(app.at("/graph")).await.assert_error_page(503);
    let logout = browser.get(app.at("/logout")).await;
    logout.assert_error_page(503);
    assert!(logout.cookies().is_empty());
    assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Ada Example"));
    let (error, _) = refused_start(folder.path(), &[]);
    assert!(error.contains("SESSION_FILE_DIR = \"sessions\": Read-only file system"), "{error}");

    disk.remount("remount,rw");
    assert_eq!(browser.get(app.at("/logout")).await.status, 302);
    assert_eq!(user_of(&browser.get(app.at("/")).await), None);
}

#[tokio::test]
async fn a_folder_that_goes_away_or_becomes_something_else_stops_nobody_for_good() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    let sessions = sessions_of(&app);

    fs::remove_dir_all(&sessions).unwrap();
    assert_eq!(user_of(&browser.get(app.at("/")).await), None);
    assert_eq!(browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
    assert_eq!(mode(&sessions), 0o700);

    fs::remove_dir_all(&sessions).unwrap();
    fs::write(&sessions, "no folder").unwrap();
    browser.get(app.at("/")).await.assert_error_page(503);
    app.browser().get(app.at("/graph")).await.assert_error_page(503);
    assert_eq!(user_of(&app.browser().get(app.at("/")).await), None);

    fs::remove_file(&sessions).unwrap();
    assert_eq!(browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
}

#[tokio::test]
async fn a_damaged_file_means_signing_in_again_and_nobody_elses_session() {
    let app = App::start(&[]).await;
    let ben = app.browser();
    ben.sign_in(&app, "/graph", BEN_WITHOUT_ROLE).await;
    let bens_file = app.session_files().remove(0);
    let ada = app.browser();
    let later = now() + 1000;
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 10] = [
        ("cut in the middle", &|whole| whole[..whole.len() / 2].to_vec()),
        ("without its last byte", &|whole| whole[..whole.len() - 1].to_vec()),
        ("empty", &|_| Vec::new()),
        ("zeros", &|whole| vec![0; whole.len()]),
        ("no UTF-8", &|whole| whole.iter().map(|byte| byte | 0x80).collect()),
        ("other JSON", &|_| b"[1, 2]".to_vec()),
        ("without its end", &|_| {
            br#"{"user": {"id_token_claims": {"name": "Ada Example"}}, "token_cache": "{}"}"#.to_vec()
        }),
        ("of other types", &|_| {
            session_file(&json!({ "expires_on": later, "user": 5, "token_cache": [7], "auth_code_flow": "" }))
                .into_bytes()
        }),
        ("longer than any session", &|whole| {
            let padding = format!("{{\n  \"padding\": \"{}\",\n", "x".repeat(10_000_000));
            str::from_utf8(whole).unwrap().replacen("{\n", &padding, 1).into_bytes()
        }),
        ("with values of rubbish", &|whole| str::from_utf8(whole).unwrap().replace(": {", ": [").into_bytes()),
    ];
    let mut damaged = Vec::new();
    let rounds = damages.iter().flat_map(|damage| PROTECTED.map(|path| (path, damage)));
    for (path, (damage, spoil)) in rounds {
        assert_eq!(ada.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
        let mut files = app.session_files();
        files.retain(|file| *file != bens_file && !damaged.contains(file));
        assert_eq!(files.len(), 1);
        let whole = fs::read(&files[0]).unwrap();
        fs::write(&files[0], spoil(&whole)).unwrap();
        damaged.extend(files);
        let home = user_of(&ada.get(app.at("/")).await).map(str::to_owned);
        assert!(home.is_none() || home.as_deref() == Some("a user without a name"), "{damage}: {home:?}");
        ada.get(app.at("/auth/redirect?state=nobodys&code=none")).await.assert_error_page(400);
        let page = ada.get(app.at(path)).await;
        assert_eq!(page.status, 302, "{path}, {damage}: {}", page.body);
        assert!(page.location().contains("/authorize?"), "{path}, {damage}");
        assert_eq!(user_of(&ben.get(app.at("/")).await), Some("Ben Example"), "{damage}");
    }

    // What cannot be read at all may come back, so its user is not sent to
    // sign in.
    assert_eq!(ada.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
    let file = app.session_files().into_iter().find(|file| *file != bens_file && !damaged.contains(file)).unwrap();
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).unwrap();
    fs::create_dir(&file).unwrap();
    for path in ["/", "/graph", "/logout"] {
        ada.get(app.at(path)).await.assert_error_page(503);
    }
    assert_eq!(user_of(&ben.get(app.at("/")).await), Some("Ben Example"));
    fs::remove_dir(&file).unwrap();
    fs::rename(&aside, &file).unwrap();
    assert_eq!(user_of(&ada.get(app.at("/")).await), Some("Ada Example"));
}

#[tokio::test]
async fn a_session_that_ends_later_than_clocks_go_stops_nobody() {
    let app = App::start(&[]).await;
    let ada = app.browser();
    ada.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    // A session that is written again and keeps its end.
    app.edit_session(|session| {
        session["expires_on"] = u64::MAX.into();
        session["user"]["id_token_claims"]["exp"] = 1.into();
    });
    assert_eq!(ada.get(app.at("/graph")).await.status, 302);
    assert_eq!(app.session()["expires_on"], u64::MAX);
    assert_eq!(ada.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
}

fn is_of(file: &Path, name: &str) -> bool {
    let session: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap_or_default();
    session["user"]["id_token_claims"]["name"] == name
}

/// Writes a file as if it were that old.
fn write_aged(path: &Path, text: &str, age: u64) {
    fs::write(path, text).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
}

#[tokio::test]
async fn what_has_ended_and_what_a_crash_left_is_swept_up_and_nothing_else() {
    let folder = Arc::new(folder());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    let session = |ends_in: i64| session_file(&json!({ "expires_on": now() + ends_in, "user": {} }));
    let name = |letter: &str| letter.repeat(64);
    let gone = [
        (format!("{}.json", name("a")), session(-1)),
        (format!("{}.json", name("b")), "rubb".to_owned()),
        (format!("{}.0123456789abcdef.tmp", name("c")), session(1000)),
    ];
    // A new one that was being written when the app was killed, just now.
    let torn = sessions.join(format!("{}.json", name("f")));
    fs::write(&torn, "").unwrap();
    let kept = [
        (format!("{}.json", name("d")), session(1000), 1000),
        // A write under way.
        (format!("{}.0123456789abcdef.tmp", name("c")).replace("cdef", "cdee"), session(1000), 1),
        // Somebody else's.
        ("notes.json".to_owned(), "rubb".to_owned(), 1000),
        ("notes.tmp".to_owned(), "rubb".to_owned(), 1000),
        ("feed.json".to_owned(), "rubb".to_owned(), 1000),
        (format!("{}.txt", name("e")), "rubb".to_owned(), 1000),
        (format!("{}.json", name("x")), "rubb".to_owned(), 1000),
    ];
    for (name, text) in &gone {
        write_aged(&sessions.join(name), text, 1000);
    }
    for (name, text, age) in &kept {
        write_aged(&sessions.join(name), text, *age);
    }
    let app = App::start_in(folder, &[]).await;
    until("the sweep at start", || app.log().contains("removed 4 expired sessions")).await;
    let mut left = files_in(&sessions);
    let mut expected: Vec<_> = kept.iter().map(|(name, ..)| sessions.join(name)).collect();
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn what_is_being_written_is_not_swept_up() {
    let folder = Arc::new(folder());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    let path = |letter: &str| sessions.join(format!("{}.json", letter.repeat(64)));
    write_aged(&path("a"), "rubb", 1000);
    let _app = App::start_in(folder.clone(), &[("PERMANENT_SESSION_LIFETIME", "5")]).await;
    until("the sweep at start", || !path("a").exists()).await;
    fs::write(path("a"), "").unwrap();
    write_aged(&path("b"), "rubb", 1000);
    until("another sweep", || {
        // Just now, again and again; it fails if the file is gone.
        fs::File::options().write(true).open(path("a")).unwrap().set_modified(SystemTime::now()).unwrap();
        !path("b").exists()
    })
    .await;
    // Whoever was writing it is gone.
    until("one more sweep", || !path("a").exists()).await;
}

#[tokio::test]
async fn a_session_ends_with_its_lifetime_however_busy_it_is() {
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    let app = platform.app(&[("PERMANENT_SESSION_LIFETIME", "4")]).await;
    let browser = app.browser();
    let before = now();
    signed_in(&platform, &app, &browser).await;
    let after = now();
    let expires_on = app.session()["expires_on"].as_i64().unwrap();
    assert!((before + 4..=after + 4).contains(&expires_on), "{before} {expires_on} {after}");

    let mut writes = 0;
    loop {
        let token_cache = app.session_files().first().map(|file| fs::read(file).unwrap_or_default());
        let graph = browser.get(app.at("/graph")).await;
        if graph.status == 302 {
            assert!(now() >= expires_on, "too early");
            break;
        }
        // It was refreshed, so the session was written, unless it ended meanwhile.
        assert_eq!(graph.status, 200, "{}", graph.body);
        if let (Some(old), Some(file)) = (token_cache, app.session_files().first()) {
            let new = fs::read(file).unwrap_or_default();
            writes += usize::from(old != new);
            let new: Value = serde_json::from_slice(&new).unwrap_or_else(|_| json!({ "expires_on": expires_on }));
            assert_eq!(new["expires_on"], expires_on);
        }
        assert!(now() <= expires_on + 2, "it does not end");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(writes > 3);
    until("the files to go", || app.session_files().is_empty()).await;
}

#[tokio::test]
async fn a_session_ends_at_its_second() {
    let app = App::start(&[]).await;
    let browser = app.browser();
    browser.sign_in(&app, "/graph", ADA_WITH_THE_ROLE).await;
    // Until the clock has not moved on between the edit and the answer.
    loop {
        let second = now();
        app.edit_session(|session| session["expires_on"] = second.into());
        let home = browser.get(app.at("/")).await;
        if now() == second {
            assert_eq!(user_of(&home), None);
            break;
        }
    }
}

#[tokio::test]
async fn a_session_that_nobody_signs_in_to_ends_after_ten_minutes() {
    let platform = Platform::start().await;
    let app = platform.app(&[]).await;
    let browser = app.browser();
    let before = now();
    let first = browser.get(app.at("/graph")).await;
    let after = now();
    let expires_on = app.session()["expires_on"].as_i64().unwrap();
    assert!((before + 600..=after + 600).contains(&expires_on), "{before} {expires_on} {after}");

    // One second before, in another tab, it begins anew; one second after it
    // is over.
    app.edit_session(|session| session["expires_on"] = (now() + 5).into());
    let second = browser.get(app.at("/graph")).await;
    let expires_on = app.session()["expires_on"].as_i64().unwrap();
    assert!((before + 600..=now() + 600).contains(&expires_on), "{before} {expires_on}");
    assert_eq!(browser.get(platform.callback(&first)).await.status, 302);
    let other = app.browser();
    let third = other.get(app.at("/graph")).await;
    let file = app.session_files().into_iter().find(|file| !is_of(file, "Cleo Example")).unwrap();
    let mut session: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    session["expires_on"] = (now() - 1).into();
    fs::write(&file, session_file(&session)).unwrap();
    other.get(platform.callback(&third)).await.assert_error_page(400);
    assert_eq!(browser.get(platform.callback(&second)).await.status, 302);

    // The sign-in is what the whole lifetime is for.
    for file in app.session_files().into_iter().filter(|file| is_of(file, "Cleo Example")) {
        let session: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert!(session["expires_on"].as_i64().unwrap() >= before + 86_400);
    }
}

#[tokio::test]
async fn ten_thousand_visits_without_a_cookie_leave_nothing_behind() {
    const VISITS: usize = 10_000;
    let app = Arc::new(App::start(&[("PERMANENT_SESSION_LIFETIME", "3")]).await);
    let begun = Arc::new(AtomicUsize::new(0));
    let mut visitors = JoinSet::new();
    for _ in 0..16 {
        let (app, begun) = (app.clone(), begun.clone());
        visitors.spawn(async move {
            // Without a cookie jar.
            let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([]).build();
            let client = client.unwrap();
            while begun.fetch_add(1, Ordering::Relaxed) < VISITS {
                let response = client.get(app.at("/graph")).send().await.unwrap();
                let cookies = response.headers().get_all("set-cookie").iter().count();
                assert_eq!((response.status().as_u16(), cookies), (302, 1));
            }
        });
    }
    visitors.join_all().await;
    let removed = || -> usize {
        let log = app.log();
        let counts = log.lines().filter_map(|line| line.split_once("removed ")?.1.split_once(" expired sessions"));
        counts.map(|(count, _)| count.parse::<usize>().unwrap()).sum()
    };
    until("all of them to go", || removed() >= VISITS).await;
    assert_eq!((removed(), files_in(&sessions_of(&app)).len()), (VISITS, 0));
}

/// Memory of a process, in KiB.
fn memory(app: &App) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{}/status", app.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[tokio::test]
async fn a_hundred_thousand_sessions_on_disk_change_nothing_and_sweeping_stalls_nobody() {
    const SESSIONS: usize = 100_000;
    const ENDED: usize = 2_000;
    let folder = Arc::new(folder());
    let sessions = folder.path().join("sessions");
    fs::create_dir(&sessions).unwrap();
    let session =
        |ends_in: i64| session_file(&json!({ "expires_on": now() + ends_in, "user": {}, "token_cache": "{}" }));
    let path = |number: usize| sessions.join(format!("{number:064x}.json"));
    for number in 1..=ENDED {
        fs::write(path(number), session(-1)).unwrap();
    }
    // Links, because files take long; a file system allows only so many to one
    // file.
    for number in ENDED + 1..=SESSIONS {
        let of = number - number % 20_000;
        if number % 20_000 == 0 || number == ENDED + 1 {
            fs::write(path(number), session(86_400)).unwrap();
        } else {
            fs::hard_link(path(of.max(ENDED + 1)), path(number)).unwrap();
        }
    }

    // Until it serves, compared with an app that has no sessions: the machine
    // may be busy with other things.
    let started = Instant::now();
    let few = App::start(&[]).await;
    let start_up_with_none = started.elapsed();
    let started = Instant::now();
    let many = App::start_in(folder.clone(), &[]).await;
    let start_up = started.elapsed();
    // A sign-in replaces a session, so it waits for its turn among the changes
    // that the sweep makes.
    let mut sign_ins = 0;
    while !many.log().contains(&format!("removed {ENDED} expired sessions")) {
        assert_eq!(many.browser().sign_in(&many, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
        sign_ins += 1;
        assert!(started.elapsed() < PATIENCE * 2, "the sweep does not end");
    }
    assert!(sign_ins >= 5, "the sweep let only {sign_ins} sign-ins pass");
    for app in [&few, &many] {
        let browser = app.browser();
        assert_eq!(browser.sign_in(app, "/graph", ADA_WITH_THE_ROLE).await.status, 200);
        for _ in 0..50 {
            assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Ada Example"));
        }
    }
    assert_eq!(many.session_files().len(), SESSIONS - ENDED + sign_ins + 1);
    println!(
        "{SESSIONS} sessions: start-up in {start_up:?}, with none {start_up_with_none:?}; {sign_ins} sign-ins during a sweep"
    );
    let mut start_ups = vec![start_up];
    while start_ups.iter().min() > Some(&(start_up_with_none + Duration::from_secs(1))) {
        assert!(start_ups.len() < 5, "start-up in {start_ups:?}, with none {start_up_with_none:?}");
        let started = Instant::now();
        drop(App::start_in(folder.clone(), &[]).await);
        start_ups.push(started.elapsed());
    }
    if let (Some(few), Some(many)) = (memory(&few), memory(&many)) {
        println!("memory: {many} KiB, with few sessions {few} KiB");
        assert!(many < few + (16 << 10), "memory: {many} KiB, with few sessions {few} KiB");
    }
}

#[tokio::test]
async fn two_hundred_browsers_at_once_see_their_own_name_and_no_5xx() {
    const BROWSERS: usize = 200;
    let app = Arc::new(App::start(&[]).await);
    let mut users = JoinSet::new();
    for number in 0..BROWSERS {
        let (app, browsers) = (app.clone(), [app.browser(), app.browser()]);
        users.spawn(async move {
            let (choice, name, other) = if number % 2 == 0 {
                (ADA_WITH_THE_ROLE, "Ada Example", "Ben Example")
            } else {
                (BEN_WITHOUT_ROLE, "Ben Example", "Ada Example")
            };
            for browser in browsers {
                let graph = browser.sign_in(&app, "/graph", choice).await;
                assert_eq!(graph.status, 200, "{}", graph.body);
                assert!(graph.body.contains(choice) && !graph.body.contains(other));
                for path in ["/", "/admin", "/graph", "/"] {
                    let page = browser.get(app.at(path)).await;
                    let expected = if path == "/admin" && number % 2 == 1 { 403 } else { 200 };
                    assert_eq!(page.status, expected, "{}", page.body);
                    assert!(expected == 403 || page.body.contains(name), "{path} without {name}: {}", page.body);
                    assert!(!page.body.contains(other), "{path} with {other}: {}", page.body);
                }
                assert_eq!(browser.get(app.at("/logout")).await.status, 302);
                assert_eq!(user_of(&browser.get(app.at("/")).await), None);
            }
        });
    }
    let started = Instant::now();
    while let Some(user) = timeout(PATIENCE * 2, users.join_next()).await.expect("a bounded while") {
        user.unwrap();
    }
    assert!(app.session_files().is_empty());
    println!("{BROWSERS} browsers signed in, browsed and signed out twice in {:?}", started.elapsed());
}

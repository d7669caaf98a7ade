//! How fast the app is: `cargo bench` starts the real binary, an identity
//! platform beside it, and bare actix-web as the limit of what can be had,
//! and prints one table. A figure is the app's; the ratio behind it is to
//! the limit's figure, measured in turns with it. With 2 cores for all of
//! them, ratios say more than figures.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::LocalSet;
use url::Url;

use load::{Answer, Connection, Sample, Server};

mod load;
mod servers;

/// Many and short: other programs disturb some of them, and both sides
/// alike.
const ROUNDS: usize = 25;
const ROUND: Duration = Duration::from_millis(200);
const SIGN_INS: usize = 10_000;
const SESSIONS_ON_DISK: usize = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["platform"] => servers::platform(),
        ["limit", platform, folder] => servers::limit(platform.to_owned(), folder.into()),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, measure());
        }
    }
}

async fn measure() {
    let started = Instant::now();
    let platform = beside(&["platform"]);
    let origin = format!("http://{}", platform.address);
    let limit_folder = folder();
    let limit = beside(&["limit", &origin, limit_folder.path().to_str().unwrap()]);
    let app_folder = folder();
    let app = start(app_folder.path(), &origin, &[]);
    let cookie = sign_in(&mut Connection::open(&app.address).await).await;

    println!("| work | requests/s | p50, µs | p99, µs | processor time, µs | memory, MiB | to reach |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (work, path, cookie, bare, goal) in [
        ("GET /, signed out", "/", "", "", "0.8 of the limit's requests/s"),
        ("GET /, signed in", "/", &*cookie, "", "0.5"),
        ("GET /admin, signed in", "/admin", &cookie, "", "0.5"),
        ("GET /graph, token cached", "/graph", &cookie, "/graph", "0.5"),
    ] {
        let answer = Connection::open(&app.address).await.get(path, cookie).await;
        // The limit's page is as long; a redirect is a header, and the page
        // without it.
        let bare = if bare.is_empty() { format!("/page?{}", answer.body.len()) } else { bare.to_owned() };
        let (measured, at_best) = in_turns((&app, path, cookie), (&limit, &bare, "")).await;
        row(work, &measured, &at_best, goal);
    }
    // The whole sign-in: redirect to authorize, callback, page.
    let many_folder = folder();
    let many = start(many_folder.path(), &origin, &[]);
    let memory_at_start = many.memory();
    let (mut early, mut measured) = (Sample::default(), Sample::default());
    sign_ins(&many, SIGN_INS / 10, &mut early).await;
    let mut cookies = sign_ins(&many, SIGN_INS, &mut measured).await;
    let (memory_early, memory) = (early.memory, measured.memory);
    let left = Cell::new(SIGN_INS);
    let mut at_best = Sample::default();
    let visit = async move |connection: &mut Connection| {
        if left.get() == 0 {
            return false;
        }
        left.set(left.get() - 1);
        assert_eq!(connection.get("/sign-in", "").await.body, "signed in");
        true
    };
    at_best.add(&limit, Duration::MAX, visit).await;
    row("whole sign-in", &measured.sort(), &at_best.sort(), "under 2000 µs of processor time");
    println!(
        "| memory after {SIGN_INS} sign-ins | | | | | {} (at start {}, after {} sign-ins {}) | under 25, and flat |",
        figure(memory),
        figure(memory_at_start),
        SIGN_INS / 10,
        figure(memory_early)
    );

    // The sessions of these sign-ins, and links to them, against an app with a
    // few sessions.
    let sessions = many_folder.path().join("sessions");
    let files: Vec<_> = fs::read_dir(&sessions).unwrap().map(|file| file.unwrap().path()).collect();
    for number in files.len()..SESSIONS_ON_DISK {
        fs::hard_link(&files[number % files.len()], sessions.join(format!("{number:064x}.json"))).unwrap();
    }
    let few_folder = folder();
    let few = start(few_folder.path(), &origin, &[]);
    let few_cookies = sign_ins(&few, 100, &mut Sample::default()).await;
    let (mut many_sample, mut few_sample) = (Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        many_sample.add(&many, ROUND, each("/admin", cookies.clone())).await;
        few_sample.add(&few, ROUND, each("/admin", few_cookies.clone())).await;
        // A round is too short for all of them.
        cookies.rotate_left(SIGN_INS / ROUNDS);
    }
    row(
        &format!("GET /admin, {SESSIONS_ON_DISK} sessions on disk, to that with 100"),
        &many_sample.sort(),
        &few_sample.sort(),
        "1.1 at most",
    );
    let (mut many_sample, mut few_sample) = (Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        sign_ins(&many, 96, &mut many_sample).await;
        sign_ins(&few, 96, &mut few_sample).await;
    }
    row(
        &format!("whole sign-in, {SESSIONS_ON_DISK} sessions on disk, to that with 100"),
        &many_sample.sort(),
        &few_sample.sort(),
        "1.1 at most",
    );
    let mut starts = Vec::new();
    for _ in 0..11 {
        starts.push(start_time(&origin).await);
    }
    starts.sort_unstable();
    println!(
        "| start to first answer | | {} ms, at most {} ms | | | | under 50 ms |",
        starts[5].as_millis(),
        starts[10].as_millis()
    );

    if let Some(redis) = redis() {
        let redis_folder = folder();
        let settings = [
            ("SESSION_TYPE", "redis"),
            ("SESSION_REDIS", &*format!("redis://{}", redis.address)),
            ("SECRET_KEY", "a key of at least thirty-two bytes"),
        ];
        let app = start(redis_folder.path(), &origin, &settings);
        let cookie = sign_in(&mut Connection::open(&app.address).await).await;
        let (measured, files) = in_turns((&app, "/admin", &cookie), (&few, "/admin", &few_cookies[0])).await;
        row("GET /admin, sessions in redis, to that in files", &measured, &files, "reported");
    }

    // Last, because it leaves the most files, and file systems may be slow for
    // minutes after many were removed.
    let (measured, at_best) = in_turns((&app, "/graph", ""), (&limit, "/page?0", "")).await;
    row("GET /graph, signed out", &measured, &at_best, "0.25");
    println!("\n{} s in all, {} connections", started.elapsed().as_secs(), load::CONNECTIONS);
}

/// Loads two servers in turns, so that whatever else the machine does hits
/// both.
async fn in_turns(app: (&Server, &str, &str), limit: (&Server, &str, &str)) -> (Sample, Sample) {
    let mut samples = [Sample::default(), Sample::default()];
    for round in 0..=ROUNDS {
        for (sample, (server, path, cookie)) in samples.iter_mut().zip([app, limit]) {
            sample.add(server, ROUND, each(path, vec![cookie.to_owned()])).await;
        }
        // The first one warms up.
        if round == 0 {
            samples = Default::default();
        }
    }
    let [measured, at_best] = samples.map(Sample::sort);
    (measured, at_best)
}

/// Visits a page with these cookies in turn. A page is right if it is what
/// the first visit got.
fn each(path: &str, cookies: Vec<String>) -> impl AsyncFn(&mut Connection) -> bool + 'static {
    let path = path.to_owned();
    let (next, expected) = (Cell::new(0), Cell::new(None));
    async move |connection| {
        let cookie = &cookies[next.get() % cookies.len()];
        next.set(next.get() + 1);
        let Answer { status, body, .. } = connection.get(&path, cookie).await;
        assert!(status == 200 || status == 302, "{path}: {status}");
        let got = (status, body.len());
        assert_eq!(expected.replace(Some(got)).unwrap_or(got), got, "{path}");
        true
    }
}

/// Signs in as a browser does, with the platform's part left out, and
/// returns the session cookie.
async fn sign_in(connection: &mut Connection) -> String {
    let authorize = connection.get("/admin", "").await;
    let url = Url::parse(authorize.location()).unwrap();
    let sent = |name| url.query_pairs().find(|(key, _)| key == name).unwrap().1;
    let callback = format!("/auth/redirect?code={}&state={}", sent("nonce"), sent("state"));
    let signed_in = connection.get(&callback, &authorize.cookie()).await;
    assert_eq!(signed_in.location(), "/admin");
    let cookie = signed_in.cookie();
    let page = connection.get("/admin", &cookie).await;
    assert!(page.status == 200 && page.body.contains("Dora Example"));
    cookie
}

/// Signs so many users in, adds what that took to the sample, and returns
/// the session cookies.
async fn sign_ins(app: &Server, count: usize, sample: &mut Sample) -> Vec<String> {
    let cookies = Rc::new(RefCell::new(Vec::new()));
    let (left, got) = (Cell::new(count), cookies.clone());
    let visit = async move |connection: &mut Connection| {
        if left.get() == 0 {
            return false;
        }
        left.set(left.get() - 1);
        let cookie = sign_in(connection).await;
        got.borrow_mut().push(cookie);
        true
    };
    sample.add(app, Duration::MAX, visit).await;
    cookies.take()
}

/// One line of the table.
fn row(work: &str, measured: &Sample, limit: &Sample, goal: &str) {
    let cell = |figure: fn(&Sample) -> Option<f64>| match (figure(measured), figure(limit)) {
        (Some(figure), Some(limit)) if figure < 100.0 => format!("{figure:.1} ({:.2})", figure / limit),
        (Some(figure), Some(limit)) => format!("{figure:.0} ({:.2})", figure / limit),
        _ => "-".to_owned(),
    };
    println!(
        "| {work} | {} | {} | {} | {} | {} | {goal} |",
        cell(|sample| Some(sample.per_second())),
        cell(|sample| Some(sample.percentile(50))),
        cell(|sample| Some(sample.percentile(99))),
        cell(Sample::processor_time),
        cell(|sample| sample.memory),
    );
}

fn figure(memory: Option<f64>) -> String {
    memory.map_or_else(|| "-".to_owned(), |memory| format!("{memory:.1}"))
}

/// A folder to start in, on disk and not in memory, with the settings file.
fn folder() -> TempDir {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("default_settings.toml");
    fs::copy(settings, folder.path().join("default_settings.toml")).unwrap();
    folder
}

/// The app, registered with the platform. It logs to a file.
fn command(folder: &Path, platform: &str, settings: &[(&str, &str)]) -> Command {
    let log = File::create(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rust-webapp"));
    command
        .current_dir(folder)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .env("CLIENT_ID", servers::CLIENT_ID)
        .env("CLIENT_CREDENTIAL", "obviously invented")
        .env("AUTHORITY", format!("{platform}/{}", servers::TENANT_ID))
        .env("ENDPOINT", format!("{platform}/v1.0/me"))
        .env("LISTEN_HOST", "127.0.0.1")
        .env("PORT", "0")
        .env("NO_PROXY", "127.0.0.1")
        .envs(settings.iter().copied());
    command
}

/// Starts the app and waits until it says where it is.
fn start(folder: &Path, platform: &str, settings: &[(&str, &str)]) -> Server {
    let address = |process: &mut Child| loop {
        assert_eq!(process.try_wait().unwrap(), None, "{}", fs::read_to_string(folder.join("log")).unwrap());
        let log = fs::read_to_string(folder.join("log")).unwrap();
        if let Some((_, address)) = log.split_once("open http://")
            && let Some((address, _)) = address.split_once(' ')
        {
            return address.to_owned();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Server::start(command(folder, platform, settings), address)
}

/// From the start of the process to its first answer.
async fn start_time(platform: &str) -> Duration {
    let folder = folder();
    let address = free_address();
    let command = command(folder.path(), platform, &[("PORT", address.rsplit_once(':').unwrap().1)]);
    let started = Instant::now();
    let app = Server::start(command, |_| wait_for(address));
    let answer = Connection::open(&app.address).await.get("/", "").await;
    assert_eq!(answer.status, 200);
    started.elapsed()
}

/// A server of servers.rs.
fn beside(arguments: &[&str]) -> Server {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).stdout(Stdio::piped());
    Server::start(command, |process| {
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        address.trim().to_owned()
    })
}

/// A Redis that keeps nothing, if it is installed.
fn redis() -> Option<Server> {
    let address = free_address();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", address.rsplit_once(':')?.1, "--save", ""]).stdout(Stdio::null());
    Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().ok()?;
    Some(Server::start(command, |_| wait_for(address)))
}

fn free_address() -> String {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string()
}

/// Waits until something listens there.
fn wait_for(address: String) -> String {
    while TcpStream::connect(&address).is_err() {
        std::thread::sleep(Duration::from_micros(200));
    }
    address
}

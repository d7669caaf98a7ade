//! Sessions in Redis: several processes share them, and Redis may fail. Each test starts a Redis
//! of its own: `cargo test --features redis -- --ignored redis`.

#![cfg(all(unix, feature = "redis"))]

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::{Cmd, FromRedisValue, cmd};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::*;
use crate::platform::*;

/// How long a page may take while Redis fails.
const LIMIT: Duration = Duration::from_secs(3);

/// A Redis that writes each change to disk, so that a restart keeps the sessions.
struct Redis {
    command: Command,
    process: Child,
    port: u16,
    address: String,
    folder: TempDir,
}

impl Redis {
    /// Starts Redis with more options. `{port}` in an option is its port.
    async fn start(options: &str) -> Self {
        // Programs that ask for any free port get a higher one.
        let port = rand::random_range(10_000..30_000);
        let always = "--bind 127.0.0.1 --port {port} --logfile log --appendonly yes";
        let options = format!("{always} --appendfsync always {options}");
        let options = options.replace("{port}", &port.to_string());
        let folder = TempDir::new().unwrap();
        let mut command = Command::new("redis-server");
        command.args(options.split_whitespace()).current_dir(&folder);
        let process = command.spawn().expect("install redis-server");
        let address = format!("redis://127.0.0.1:{port}");
        let redis = Self { command, process, port, address, folder };
        redis.is_ready().await;
        redis
    }

    async fn is_ready(&self) {
        let log = self.folder.path().join("log");
        let is_ready = |log: String| log.contains("Ready to accept connections");
        until("Redis is ready", || fs::read_to_string(&log).is_ok_and(is_ready)).await;
        // The next start writes another log.
        fs::remove_file(log).unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = self.command.spawn().unwrap();
        self.is_ready().await;
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let client = redis::Client::open(&*self.address).unwrap();
        command.query(&mut client.get_connection().unwrap()).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        self.ask(cmd("KEYS").arg("*"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Settings for the Redis at this address. All apps have the same SECRET_KEY.
fn at(address: &str) -> [(&str, &str); 3] {
    [("SESSION_TYPE", "redis"), ("SESSION_REDIS", address), ("SECRET_KEY", SECRET_KEY)]
}

/// Starts the app, which must refuse to start within seconds. Returns the line on stderr.
async fn refused(platform: &Platform, settings: &[(&str, &str)]) -> String {
    let lines = timeout(LIMIT, platform.refused_by_the_app(settings)).await;
    let mut lines = lines.expect("the app did not refuse to start");
    assert_eq!(lines.len(), 1, "{settings:?}: {lines:?}");
    lines.remove(0)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn two_processes_share_sessions_and_the_time_of_expiry_stays() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    let settings = at(&redis.address);
    let (one, two) = (platform.app(&settings).await, platform.app(&settings).await);
    // Browsers do not separate the cookies of two ports.
    let browser = one.browser();
    let authorize = browser.get(one.at("/graph")).await;
    assert_eq!(redis.keys(), [""; 0], "a visitor has no session");
    let callback = platform.callback(&authorize).replace(&one.url, &two.url);
    let signed_in = browser.get(callback).await;
    assert_eq!((signed_in.status, signed_in.location()), (302, "/graph"));
    let cookie = signed_in.cookies().pop().unwrap();
    let (_, session_id) = cookie.split_once("%3D").unwrap();
    let key = format!("rust-webapp:session-{:x}", Sha256::digest(session_id));
    assert_eq!(redis.keys(), std::slice::from_ref(&key));
    let mut session: String = redis.ask(cmd("GET").arg(&key));
    let seconds_left = || redis.ask::<i64>(cmd("TTL").arg(&key));
    assert!((86_300..=86_400).contains(&seconds_left()), "{}", seconds_left());

    // Each visit changes the session, and none of them extends it.
    redis.ask::<()>(cmd("EXPIRE").arg((&key, 5_000)));
    for app in [&one, &two, &one] {
        assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
        let changed: String = redis.ask(cmd("GET").arg(&key));
        assert_ne!(session, changed);
        session = changed;
    }
    assert!((4_900..=5_000).contains(&seconds_left()), "{}", seconds_left());

    assert_eq!(browser.get(two.at("/logout")).await.status, 302);
    assert_eq!(redis.keys(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_sign_out_wins_over_running_updates_of_another_process() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    let settings = at(&redis.address);
    let (one, two) = (platform.app(&settings).await, platform.app(&settings).await);
    for round in 0..15 {
        platform.sign_out_during_updates([&one, &two], Duration::ZERO).await;
        assert_eq!(redis.keys(), [""; 0], "round {round}");
    }
}

/// Opens pages while Redis fails. Each of them must be an error page, and soon.
async fn assert_not_available(app: &App, browser: &Browser) {
    let mut pages = JoinSet::new();
    for path in ["/", "/graph", "/admin", "/logout"].repeat(3) {
        let (browser, url) = (browser.clone(), app.at(path));
        pages.spawn(async move {
            let page = timeout(LIMIT, browser.get(url)).await;
            page.expect(path).assert_error(503, NOT_AVAILABLE);
        });
    }
    // These pages need no session, so they do not wait for Redis.
    for path in ["/", "/style.css"] {
        let page = timeout(Duration::from_secs(1), app.browser().get(app.at(path))).await;
        assert_eq!(page.expect(path).status, 200, "{path}");
    }
    pages.join_all().await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn while_redis_fails_pages_are_503_and_the_first_page_after_that_works() {
    let mut redis = Redis::start("").await;
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&at(&redis.address)).await;
    for round in 0..3 {
        redis.kill();
        assert_not_available(&app, &browser).await;
        assert!(app.log().contains(NOT_AVAILABLE), "{}", app.log());
        redis.start_again().await;
        assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"), "{round}");

        // The app notices only at the next command that the connection is broken.
        redis.kill();
        redis.start_again().await;
        assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"), "{round}");

        // A Redis that does not answer.
        signal(redis.process.id(), "-STOP");
        assert_not_available(&app, &browser).await;
        signal(redis.process.id(), "-CONT");
        assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"), "{round}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_damaged_session_is_treated_as_missing_and_a_redis_that_only_reads_gives_503() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    platform.refresh_at_each_visit();
    let (app, browser) = platform.signed_in(&at(&redis.address)).await;
    for (damage, offset, bytes) in [("not JSON", 0, &b"text"[..]), ("not UTF-8", 5, b"\xff")] {
        for key in redis.keys() {
            redis.ask::<()>(cmd("SETRANGE").arg((key, offset, bytes)));
        }
        let before = app.log().len();
        assert_eq!(browser.get(app.at("/")).await.user(), None, "{damage}");
        let log = app.log().split_off(before);
        assert!(log.contains("is damaged at line 1, column "), "{log}");
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
    }
    redis.ask::<()>(cmd("REPLICAOF").arg(("127.0.0.1", 1)));
    platform.sign_in(&app, &app.browser(), "/graph").await.assert_error(503, NOT_AVAILABLE);
    for path in ["/graph", "/logout"] {
        browser.get(app.at(path)).await.assert_error(503, NOT_AVAILABLE);
    }
    assert_eq!(app.log().matches(NOT_AVAILABLE).count(), 3, "{}", app.log());
    assert_eq!(browser.get(app.at("/admin")).await.user(), Some("Cleo Example"));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_redis_that_the_app_cannot_use_is_refused_at_start_without_its_password() {
    let platform = Platform::start().await;
    let reader = "--user reader on >hidden-secret ~* +@read";
    let writer = "--user writer on >hidden-secret ~rust-webapp:session-* +@all";
    let redis = Redis::start(&format!("--requirepass hidden-secret-0 {reader} {writer}")).await;
    // It accepts connections, and does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let url = |user: &str, port: u16| format!("redis://{user}@127.0.0.1:{port}");
    for (case, address, cause) in [
        ("nobody listens", url(":hidden-secret", 1), "Connection refused"),
        ("no answer", url(":hidden-secret", silent_port), "timed out"),
        ("no password", redis.address.clone(), "NOAUTH"),
        ("a wrong password", url("writer:hidden-secret-9", redis.port), "Password authentication"),
        ("only reads", url("reader:hidden-secret", redis.port), "NoPerm"),
    ] {
        let line = refused(&platform, &at(&address)).await;
        let start = "rust-webapp: SESSION_REDIS: accepted is a Redis 6 or newer";
        assert!(line.starts_with(start) && line.contains(cause), "{case}: {line}");
    }
    // The right password, and a database.
    let address = url("writer:hidden-secret", redis.port) + "/3";
    let (app, browser) = platform.signed_in(&at(&address)).await;
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
    assert!(!app.log().contains(HIDDEN), "{}", app.log());
}

/// node-redis #3256
#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_of_a_cluster_is_refused_and_the_reason_is_named() {
    let platform = Platform::start().await;
    // This user may not ask about the cluster.
    let limited = "--user limited on >hidden-secret ~* +@all -cluster";
    let redis = Redis::start(&format!("--cluster-enabled yes {limited}")).await;
    let limited = format!("redis://limited:hidden-secret@127.0.0.1:{}", redis.port);
    let assert_refused = async |address: &str| {
        let line = refused(&platform, &at(address)).await;
        let reason =
            "this is a node of a cluster, which this app cannot use; choose a Redis without";
        assert!(line.contains(reason) && line.contains("on Azure Managed Redis"), "{line}");
    };
    // A node that has no keys, and one that has all of them for now.
    assert_refused(&redis.address).await;
    assert_refused(&limited).await;
    redis.ask::<()>(cmd("CLUSTER").arg(("ADDSLOTSRANGE", 0, 16_383)));
    assert_refused(&redis.address).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_password_with_special_characters_works_when_it_is_encoded() {
    let platform = Platform::start().await;
    let redis = Redis::start("--requirepass hidden-secret@1#2/3?4%41").await;
    let port = redis.port;
    for (password, is_right) in [
        ("hidden-secret%401%232%2F3%3F4%2541", true),
        ("hidden-secret%401%232%2F3%3F4%41", false),
        ("hidden-secret@1#2/3?4%41", false),
        ("hidden-secret@1", false),
    ] {
        let address = format!("redis://:{password}@127.0.0.1:{port}");
        if is_right {
            platform.signed_in(&at(&address)).await;
        } else {
            let line = refused(&platform, &at(&address)).await;
            assert!(line.contains("in a password, write @ as %40, # as %23"), "{password}: {line}");
        }
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn rediss_uses_tls_and_trusts_the_certificates_of_ssl_cert_file() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &ca).unwrap();
    let folder = TempDir::new().unwrap();
    let write = |name: &str, pem: String| {
        let file = folder.path().join(name);
        fs::write(&file, pem).unwrap();
        file.into_os_string().into_string().unwrap()
    };
    let ca = write("ca.pem", ca.pem());
    let key = write("key.pem", key.serialize_pem());
    let chain = write("chain.pem", certificate.pem());
    let files = format!("--tls-ca-cert-file {ca} --tls-key-file {key} --tls-cert-file {chain}");
    let tls = "--port 0 --tls-port {port} --tls-auth-clients no";
    let redis = Redis::start(&format!("{tls} {files}")).await;
    let platform = Platform::start().await;
    let address = redis.address.replace("redis://", "rediss://");
    let ca = ("SSL_CERT_FILE", &*ca);
    let (app, browser) = platform.signed_in(&[&at(&address)[..], &[ca]].concat()).await;
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));

    // Without this file, the app does not trust the certificate.
    let line = refused(&platform, &at(&address)).await;
    assert!(line.contains("certificate"), "{line}");
}

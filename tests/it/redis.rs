//! Sessions in Redis: several processes share them, and Redis may fail. Each test starts a Redis
//! of its own: `cargo test --features redis -- --ignored redis`.

#![cfg(feature = "redis")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::{Cmd, FromRedisValue, cmd};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::harness::*;
use crate::platform::*;
use crate::sessions::refresh_at_each_visit;

const NOT_AVAILABLE: &str = "The session store is not available. Try again in a minute.";
/// How long a page may take while Redis fails.
const LIMIT: Duration = Duration::from_secs(3);

/// A Redis on a free port. It writes each change to disk, so that a restart keeps the sessions.
struct Redis {
    process: Child,
    port: u16,
    folder: TempDir,
    options: String,
}

impl Redis {
    async fn start(options: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), options).await
    }

    /// Starts Redis with options that may name files of this folder. `{port}` in an option is its
    /// port.
    async fn start_in(mut folder: TempDir, options: &str) -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let process = Self::spawn(&folder, port, options);
            let mut redis = Self { process, port, folder, options: options.to_owned() };
            if redis.is_ready().await {
                return redis;
            }
            // Another program has taken the port.
            folder = std::mem::replace(&mut redis.folder, TempDir::new().unwrap());
        }
    }

    fn spawn(folder: &TempDir, port: u16, options: &str) -> Child {
        let always = "--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync always";
        let options = format!("{always} {options}").replace("{port}", &port.to_string());
        let mut command = Command::new("redis-server");
        command.args(options.split_whitespace()).args(["--save", ""]).current_dir(folder);
        command.stdout(File::create(folder.path().join("log")).unwrap());
        command.spawn().expect("install redis-server")
    }

    /// Waits until Redis answers or has ended.
    async fn is_ready(&mut self) -> bool {
        let (log, mut is_ready) = (self.folder.path().join("log"), false);
        until("Redis is ready or has ended", || {
            is_ready = fs::read_to_string(&log).unwrap().contains("Ready to accept connections");
            is_ready || self.process.try_wait().unwrap().is_some()
        })
        .await;
        is_ready
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.folder, self.port, &self.options);
        assert!(self.is_ready().await);
    }

    fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let client = redis::Client::open(self.address()).unwrap();
        command.query(&mut client.get_connection().unwrap()).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        self.ask(cmd("KEYS").arg("*"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Settings for the Redis at this address. All apps have the same SECRET_KEY.
fn at(address: &str) -> [(&str, &str); 3] {
    [("SESSION_TYPE", "redis"), ("SESSION_REDIS", address), ("SECRET_KEY", SECRET_KEY)]
}

/// Starts the app, which must refuse to start within seconds. Returns the line on stderr.
async fn refused(platform: &Platform, settings: &[(&str, &str)]) -> String {
    let started = Instant::now();
    let mut lines = platform.refused_by_the_app(settings).await;
    assert!(started.elapsed() < LIMIT, "{settings:?}: {:?}", started.elapsed());
    assert_eq!(lines.len(), 1, "{settings:?}: {lines:?}");
    lines.remove(0)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn two_processes_share_sessions_and_the_time_of_expiry_stays() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    refresh_at_each_visit(&platform);
    let address = redis.address();
    let (one, two) = (platform.app(&at(&address)).await, platform.app(&at(&address)).await);
    for (first, second) in [(&one, &two), (&two, &one)] {
        // Browsers do not separate the cookies of two ports.
        let browser = one.browser();
        let authorize = browser.get(first.at("/graph")).await;
        assert_eq!(redis.keys(), [""; 0], "a visitor has no session");
        let callback = platform.callback(&authorize).replace(&first.url, &second.url);
        let signed_in = browser.get(callback).await;
        assert_eq!((signed_in.status, signed_in.location()), (302, "/graph"));
        let keys = redis.keys();
        let [key] = &keys[..] else { panic!("{keys:?}") };
        assert!(key.starts_with("rust-webapp:session-"), "{key}");
        let cookie = signed_in.cookies().pop().unwrap();
        let (_, session_id) = cookie.split_once("%3D").unwrap();
        let mut session: String = redis.ask(cmd("GET").arg(key));
        assert!(!key.contains(session_id) && !session.contains(session_id));
        let ttl = || redis.ask::<i64>(cmd("TTL").arg(key));
        assert!((86_300..=86_400).contains(&ttl()), "{}", ttl());

        // Each visit changes the session, and none of them extends it.
        redis.ask::<()>(cmd("EXPIRE").arg((key, 5_000)));
        for app in [first, second, first] {
            assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
            let changed: String = redis.ask(cmd("GET").arg(key));
            assert_ne!(session, changed);
            session = changed;
        }
        assert!((4_900..=5_000).contains(&ttl()), "{}", ttl());

        assert_eq!(browser.get(second.at("/logout")).await.status, 302);
        assert_eq!(redis.keys(), [""; 0]);
        assert_eq!(browser.get(first.at("/")).await.user(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn a_sign_out_wins_over_running_updates_of_another_process() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    let address = redis.address();
    let (one, two) = (platform.app(&at(&address)).await, platform.app(&at(&address)).await);
    for round in 0..15 {
        let browser = one.browser();
        refresh_at_each_visit(&platform);
        platform.sign_in(&one, &browser, "/graph").await;
        let arrived = Arc::new(Notify::new());
        let arrival = arrived.clone();
        platform.on(Endpoint::Token, move |answer| {
            arrival.notify_one();
            answer.delay = Duration::from_micros(rand::random_range(0..20_000));
        });
        let visits = [&one, &two, &one, &two].map(|app| {
            let (browser, graph) = (browser.clone(), app.at("/graph"));
            tokio::spawn(async move { browser.get(graph).await.status })
        });
        arrived.notified().await;
        assert_eq!(browser.get(two.at("/logout")).await.status, 302);
        for visit in visits {
            assert!([200, 302].contains(&visit.await.unwrap()), "round {round}");
        }
        assert_eq!(redis.keys(), [""; 0], "round {round}");
        for app in [&one, &two] {
            assert_eq!(browser.get(app.at("/")).await.user(), None, "round {round}");
        }
    }
}

/// Opens pages while Redis fails. Each of them must be an error page, and soon.
async fn assert_not_available(app: &App, browser: &Browser) {
    let pages = ["/", "/graph", "/admin", "/logout"].repeat(3).into_iter().map(|path| {
        let (browser, url) = (browser.clone(), app.at(path));
        tokio::spawn(async move {
            let started = Instant::now();
            browser.get(url).await.assert_error(503, NOT_AVAILABLE);
            assert!(started.elapsed() < LIMIT, "{path}: {:?}", started.elapsed());
        })
    });
    let pages: Vec<_> = pages.collect();
    // These pages need no session, so they do not wait for Redis.
    for path in ["/", "/style.css"] {
        let started = Instant::now();
        assert_eq!(app.browser().get(app.at(path)).await.status, 200);
        assert!(started.elapsed() < Duration::from_secs(1), "{path}: {:?}", started.elapsed());
    }
    for page in pages {
        page.await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn while_redis_fails_pages_are_503_and_the_first_page_after_that_works() {
    let mut redis = Redis::start("").await;
    let platform = Platform::start().await;
    let (app, browser) = platform.signed_in(&at(&redis.address())).await;
    for round in 0..3 {
        redis.kill();
        assert_not_available(&app, &browser).await;
        let page = platform.sign_in(&app, &app.browser(), "/graph").await;
        page.assert_error(503, NOT_AVAILABLE);
        redis.start_again().await;
        assert_eq!(browser.get(app.at("/")).await.user(), Some("Cleo Example"), "{round}");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{round}");

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
    assert!(app.log().contains("the session store failed: "));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_session_that_redis_has_removed_or_damaged_is_treated_as_missing() {
    let redis = Redis::start("").await;
    let platform = Platform::start().await;
    let app = platform.app(&at(&redis.address())).await;
    type Damage = fn(&str) -> Cmd;
    let damages: [(&str, Damage); 4] = [
        ("removed", |key| cmd("DEL").arg(key).clone()),
        ("not JSON", |key| cmd("SETRANGE").arg((key, 0, "text")).clone()),
        ("not UTF-8", |key| cmd("SETRANGE").arg((key, 5, b"\xff")).clone()),
        ("another JSON value", |key| cmd("SET").arg((key, "[1]")).clone()),
    ];
    for (damage, spoil) in damages {
        let browser = app.browser();
        platform.sign_in(&app, &browser, "/graph").await;
        redis.ask::<redis::Value>(&spoil(&redis.keys()[0]));
        assert_eq!(browser.get(app.at("/")).await.user(), None, "{damage}");
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.location(), "/graph");
        assert_eq!(browser.get(app.at("/graph")).await.status, 200, "{damage}");
        redis.ask::<()>(&cmd("FLUSHALL"));
    }
    // A Redis without free memory.
    let browser = app.browser();
    platform.sign_in(&app, &browser, "/graph").await;
    redis.ask::<()>(cmd("CONFIG").arg(("SET", "maxmemory", 1)));
    platform.sign_in(&app, &app.browser(), "/graph").await.assert_error(503, NOT_AVAILABLE);
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_redis_that_the_app_cannot_use_is_refused_at_start_without_its_password() {
    let platform = Platform::start().await;
    let users =
        "--user reader on >hidden-secret ~* +@read --user writer on >hidden-secret ~* +@all";
    let redis = Redis::start(&format!("--requirepass hidden-secret-0 {users}")).await;
    let replica = Redis::start("--replicaof 127.0.0.1 1").await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().port();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = |user: &str, port: u16| format!("redis://{user}@127.0.0.1:{port}");
    for (case, address, cause) in [
        ("nobody listens", url(":hidden-secret", free), "Connection refused"),
        ("no answer", url(":hidden-secret", silent), "timed out"),
        ("no password", redis.address(), "NOAUTH"),
        (
            "a wrong password",
            url("writer:hidden-secret-9", redis.port),
            "Password authentication failed",
        ),
        ("not a user", url("nobody:hidden-secret", redis.port), "Password authentication failed"),
        ("only reads", url("reader:hidden-secret", redis.port), "NoPerm"),
        ("a replica", url(":hidden-secret", replica.port), ""),
        ("a replica", replica.address(), "ReadOnly"),
        ("not a number", url("writer:hidden-secret", redis.port) + "/sessions", "database"),
        ("no such database", url("writer:hidden-secret", redis.port) + "/99", ""),
        ("not a port", "redis://:hidden-secret@127.0.0.1:hidden-secret".to_owned(), ""),
    ] {
        let line = refused(&platform, &at(&address)).await;
        let start = "rust-webapp: SESSION_REDIS: accepted is the address of a Redis 6 or newer";
        assert!(line.starts_with(start) && line.contains(cause), "{case}: {line}");
    }
    // The right password.
    let address = url("writer:hidden-secret", redis.port) + "/3";
    let (app, browser) = platform.signed_in(&at(&address)).await;
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));
    assert!(!app.log().contains(HIDDEN), "{}", app.log());
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn rediss_uses_tls_and_trusts_the_certificates_of_ssl_cert_file() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "CA of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &ca).unwrap();
    let folder = TempDir::new().unwrap();
    for (name, pem) in
        [("ca.pem", ca.pem()), ("key.pem", key.serialize_pem()), ("redis.pem", certificate.pem())]
    {
        fs::write(folder.path().join(name), pem).unwrap();
    }
    let ca = folder.path().join("ca.pem");
    let files = "--tls-ca-cert-file ca.pem --tls-key-file key.pem --tls-cert-file redis.pem";
    let tls = format!("--port 0 --tls-port {{port}} --tls-auth-clients no {files}");
    let redis = Redis::start_in(folder, &tls).await;
    let platform = Platform::start().await;
    let address = format!("rediss://127.0.0.1:{}", redis.port);
    let ca = ("SSL_CERT_FILE", ca.to_str().unwrap());
    let (app, browser) = platform.signed_in(&[&at(&address)[..], &[ca]].concat()).await;
    assert_eq!(browser.get(app.at("/graph")).await.user(), Some("Cleo Example"));

    // Without this file, the app does not trust the certificate.
    let line = refused(&platform, &at(&address)).await;
    assert!(line.contains("certificate"), "{line}");
    // The certificate is for another name.
    let other = address.replace("127.0.0.1", "localhost");
    let line = refused(&platform, &[&at(&other)[..], &[ca]].concat()).await;
    assert!(line.contains("certificate"), "{line}");
    // Without TLS, Redis does not answer.
    refused(&platform, &at(&address.replace("rediss://", "redis://"))).await;
}

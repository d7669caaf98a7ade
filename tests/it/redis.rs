//! Sessions in Redis: shared by several processes, and what happens when
//! Redis is in trouble.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, cmd};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::harness::*;
use crate::platform::*;
use crate::sessions::{Held, KEY, refused_start, sign_out_wins, signed_in, user_of};

/// What a page may take while Redis is in trouble.
const A_FEW_SECONDS: Duration = Duration::from_secs(6);

/// A Redis of one test, on a port of its own, which writes everything to
/// disk at once, so that it comes back as it was.
struct RedisServer {
    process: Child,
    port: u16,
    folder: TempDir,
    options: &'static [&'static str],
}

impl RedisServer {
    async fn start(options: &'static [&'static str]) -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = TempDir::new().unwrap();
            let process = Self::spawn(port, &folder, options);
            let mut server = Self { process, port, folder, options };
            // Somebody else may have taken the port meanwhile.
            if server.is_up().await {
                return server;
            }
        }
    }

    fn spawn(port: u16, folder: &TempDir, options: &[&str]) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always", "--dir"]).arg(folder.path()).args(options);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server: apt-get install redis-server")
    }

    async fn is_up(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE && self.process.try_wait().unwrap().is_none() {
            let answer = redis::Client::open(self.address())
                .unwrap()
                .get_connection()
                .map(|mut redis| cmd("PING").query::<String>(&mut redis).map_err(|err| err.code() == Some("NOAUTH")));
            if matches!(answer, Ok(Ok(_) | Err(true))) {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.folder, self.options);
        assert!(self.is_up().await);
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut redis::Client::open(self.address()).unwrap().get_connection().unwrap()).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        self.ask(cmd("KEYS").arg("*"))
    }

    fn ttl(&self, key: &str) -> i64 {
        self.ask(cmd("TTL").arg(key))
    }

    /// The app, with this Redis.
    async fn app(&self, platform: &Platform) -> App {
        platform.app(&[KEY, ("SESSION_TYPE", "redis"), ("SESSION_REDIS", &self.address())]).await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the app with this SESSION_REDIS, which must fail, within seconds,
/// with one line that does not show `secret`.
#[track_caller]
fn refused_at_start(address: &str, secret: &str, expected: &str) {
    let folder = folder();
    let settings = [KEY, ("SESSION_TYPE", "redis"), ("SESSION_REDIS", address)];
    let started = Instant::now();
    let (error, log) = refused_start(folder.path(), &settings);
    assert!(started.elapsed() < A_FEW_SECONDS, "{:?}", started.elapsed());
    assert!(error.starts_with("rust-webapp: SESSION_REDIS: "), "{error}");
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains(secret) && !log.contains(secret), "{log}{error}");
}

#[tokio::test]
async fn no_redis_at_start_is_one_clear_line_within_seconds() {
    let password = "obviously-invented-password";
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refused_at_start(&format!("redis://user:{password}@127.0.0.1:{port}/1"), password, "Connection refused");
    // One that takes the connection and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    refused_at_start(&format!("redis://:{password}@127.0.0.1:{port}"), password, "timed out");
    refused_at_start(&format!("redis://:{password}@127.0.0.1:{port}/no-number"), password, "Invalid database number");
}

#[test]
fn redis_without_a_secret_key_is_refused() {
    let folder = folder();
    let (error, _) = refused_start(folder.path(), &[("SESSION_TYPE", "redis")]);
    assert!(error.starts_with("rust-webapp: SECRET_KEY is missing"), "{error}");
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn a_redis_that_the_app_cannot_use_is_refused_at_start() {
    let redis = RedisServer::start(&["--requirepass", "obviously-invented-password"]).await;
    refused_at_start(&redis.address(), "\0", "NOAUTH");
    let wrong = "obviously-wrong-password";
    refused_at_start(&format!("redis://:{wrong}@127.0.0.1:{}", redis.port), wrong, "");

    // One that only reads.
    let redis = RedisServer::start(&["--replicaof", "127.0.0.1 1", "--replica-read-only", "yes"]).await;
    refused_at_start(&redis.address(), "\0", "ReadOnly");
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn a_password_and_a_database_number_in_the_address_are_used() {
    let redis = RedisServer::start(&["--requirepass", "obviously-invented-password"]).await;
    let platform = Platform::start().await;
    let address = format!("redis://:obviously-invented-password@127.0.0.1:{}/3", redis.port);
    let app = platform.app(&[KEY, ("SESSION_TYPE", "redis"), ("SESSION_REDIS", &address)]).await;
    app.secrets().add("obviously-invented-password");
    let browser = app.browser();
    signed_in(&platform, &app, &browser).await;
    assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
    let mut connection = redis::Client::open(address).unwrap().get_connection().unwrap();
    assert_eq!(cmd("DBSIZE").query::<u32>(&mut connection).unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn a_sign_in_begun_on_one_process_completes_on_the_other_and_either_serves_renews_and_signs_out() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    // What stands in front of the two is of no matter here: the test picks one
    // for each request.
    let address = redis.address();
    let settings = [
        KEY,
        ("SESSION_TYPE", "redis"),
        ("SESSION_REDIS", &*address),
        ("REDIRECT_URI", "http://localhost:65000/auth/redirect"),
    ];
    let (one, two) = (platform.app(&settings).await, platform.app(&settings).await);
    let key = |redis: &RedisServer| {
        let keys = redis.keys();
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys[0].clone()
    };
    for (first, second) in [(&one, &two), (&two, &one)] {
        let browser = one.browser();
        let authorize = browser.get(first.at("/graph")).await;
        let before = key(&redis);
        assert!((590..=600).contains(&redis.ttl(&before)), "{}", redis.ttl(&before));
        let callback = platform.callback(&authorize).replace("http://localhost:65000", &second.url);
        let signed_in = browser.get(callback).await;
        assert_eq!((signed_in.status, signed_in.location()), (302, "/graph"), "{}", signed_in.body);
        let session = key(&redis);
        assert_ne!(session, before);

        // Each /graph refreshes, so each writes, and what one wrote the other
        // reads; the end stays what it was.
        redis.ask::<()>(cmd("EXPIRE").arg((&session, 5000)));
        let mut written = redis.ask::<String>(cmd("GET").arg(&session));
        for app in [first, second, first] {
            let graph = browser.get(app.at("/graph")).await;
            assert!(graph.status == 200 && graph.body.contains("cleo@platform.example"), "{}", graph.body);
            assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
            let now = redis.ask::<String>(cmd("GET").arg(&session));
            assert_ne!(std::mem::replace(&mut written, now.clone()), now);
            let forms = platform.token_forms().await;
            let refresh = forms.last().unwrap();
            assert_eq!(refresh["grant_type"], "refresh_token");
        }
        assert!((4900..=5000).contains(&redis.ttl(&session)), "{}", redis.ttl(&session));

        assert_eq!(browser.get(second.at("/logout")).await.status, 302);
        assert_eq!(redis.keys(), [""; 0]);
        assert_eq!(user_of(&browser.get(first.at("/")).await), None);
    }
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn redis_keys_carry_the_lifetime_and_neither_session_id_nor_other_applications_names() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    platform.on(Endpoint::Token, |answer| answer.json["expires_in"] = 1.into());
    let address = redis.address();
    let lifetime = ("PERMANENT_SESSION_LIFETIME", "3");
    let app = platform.app(&[KEY, ("SESSION_TYPE", "redis"), ("SESSION_REDIS", &address), lifetime]).await;
    let browser = app.browser();
    let started = Instant::now();
    let cookie = signed_in(&platform, &app, &browser).await;
    let key = redis.keys().remove(0);
    assert!(key.starts_with("rust-webapp-session:") && !key.contains(&cookie[cookie.len() - 64..]), "{key}");
    assert!(!redis.ask::<String>(cmd("GET").arg(&key)).contains(&cookie[cookie.len() - 64..]));
    assert!((1..=3).contains(&redis.ttl(&key)));
    // However busy it is, it ends.
    let mut visits = 0;
    while browser.get(app.at("/graph")).await.status == 200 {
        visits += 1;
        assert!(started.elapsed() < Duration::from_secs(8), "it does not end");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(3) && visits > 3, "{:?}", started.elapsed());

    let app = redis.app(&platform).await;
    signed_in(&platform, &app, &browser).await;
    let longest = redis.keys().iter().map(|key| redis.ttl(key)).max().unwrap();
    assert!((86_300..=86_400).contains(&longest), "{longest}");
}

/// A page that Redis has no part in is served, and at once.
async fn others_are_served(app: &App) {
    let started = Instant::now();
    assert_eq!(user_of(&app.browser().get(app.at("/")).await), None);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn redis_killed_is_a_503_and_back_again_works_at_once() {
    let mut redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    let app = redis.app(&platform).await;
    let browser = app.browser();
    signed_in(&platform, &app, &browser).await;
    for _ in 0..3 {
        redis.kill();
        let mut pages = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (app_url, browser) = (app.url.clone(), if number % 2 == 0 { browser.clone() } else { browser.anew() });
            pages.spawn(async move {
                let started = Instant::now();
                browser.get(format!("{app_url}/graph")).await.assert_error_page(503);
                assert!(started.elapsed() < A_FEW_SECONDS, "{:?}", started.elapsed());
            });
        }
        others_are_served(&app).await;
        for page in pages.join_all().await {
            page
        }
        browser.get(app.at("/logout")).await.assert_error_page(503);
        // The stylesheet of these pages asks for no session.
        assert_eq!(browser.get(app.at("/style.css")).await.status, 200);

        redis.start_again().await;
        // The very first request.
        assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        // And one that finds the old connection broken, with nobody having
        // noticed.
        redis.kill();
        redis.start_again().await;
        assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
    }
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn a_redis_that_hangs_costs_a_page_seconds() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    let app = redis.app(&platform).await;
    let browser = app.browser();
    signed_in(&platform, &app, &browser).await;
    redis.signal("-STOP");
    for path in ["/", "/graph", "/logout"] {
        let started = Instant::now();
        browser.get(app.at(path)).await.assert_error_page(503);
        assert!(started.elapsed() < A_FEW_SECONDS, "{path}: {:?}", started.elapsed());
        others_are_served(&app).await;
    }
    let started = Instant::now();
    app.browser().get(app.at("/graph")).await.assert_error_page(503);
    assert!(started.elapsed() < A_FEW_SECONDS, "{:?}", started.elapsed());
    redis.signal("-CONT");
    assert_eq!(user_of(&browser.get(app.at("/")).await), Some("Cleo Example"));
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn an_evicted_or_damaged_session_means_signing_in_again() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    let app = redis.app(&platform).await;
    let browser = app.browser();
    type Damage = dyn Fn(&str) -> Cmd;
    let evicted: &Damage = &|key| cmd("DEL").arg(key).to_owned();
    let rubbish: &Damage = &|key| cmd("SET").arg((key, "rubb", "KEEPTTL")).to_owned();
    let cut: &Damage = &|key| cmd("SETRANGE").arg((key, 40, "\0\0\0")).to_owned();
    for damage in [evicted, rubbish, cut] {
        signed_in(&platform, &app, &browser).await;
        for key in redis.keys() {
            let () = redis.ask(&damage(&key));
        }
        assert_eq!(user_of(&browser.get(app.at("/")).await), None);
        assert_eq!(platform.sign_in(&app, &browser, "/graph").await.status, 302);
        assert_eq!(browser.get(app.at("/graph")).await.status, 200);
        let () = redis.ask(&cmd("FLUSHALL"));
    }

    // For real: with room for a few sessions only, the oldest go.
    let () = redis.ask(cmd("CONFIG").arg(("SET", "maxmemory-policy", "allkeys-lru")));
    let used: String = redis.ask(cmd("INFO").arg("memory"));
    let used: u64 = used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap();
    let () = redis.ask(cmd("CONFIG").arg(("SET", "maxmemory", used + 200_000)));
    let mut browsers = Vec::new();
    for _ in 0..100 {
        let browser = app.browser();
        signed_in(&platform, &app, &browser).await;
        browsers.push(browser);
    }
    let mut evicted = 0;
    for browser in &browsers {
        match user_of(&browser.get(app.at("/")).await) {
            None => evicted += 1,
            name => assert_eq!(name, Some("Cleo Example")),
        }
    }
    println!("{evicted} of 100 sessions were evicted");
    assert!(evicted > 0);

    // Full, and told to evict nothing: what is there is read, and nothing new
    // is claimed.
    let () = redis.ask(cmd("CONFIG").arg(("SET", "maxmemory-policy", "noeviction")));
    let () = redis.ask(cmd("CONFIG").arg(("SET", "maxmemory", 1)));
    app.browser().get(app.at("/graph")).await.assert_error_page(503);
    assert_eq!(user_of(&browsers[99].get(app.at("/")).await), Some("Cleo Example"));
    assert!(!app.log().contains("panicked"));
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn sign_out_wins_over_a_refresh_under_way_in_redis() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    let app = redis.app(&platform).await;
    sign_out_wins(&platform, &app, || redis.keys().len()).await;
}

#[tokio::test]
#[ignore = "needs redis-server: apt-get install redis-server"]
async fn sign_out_on_one_process_wins_over_a_refresh_under_way_on_the_other() {
    let redis = RedisServer::start(&[]).await;
    let platform = Platform::start().await;
    let (one, two) = (redis.app(&platform).await, redis.app(&platform).await);
    let mut refreshes = Held::new(&platform, "refresh_token");
    let browser = one.browser();
    signed_in(&platform, &one, &browser).await;
    let (graph_browser, graph_url) = (browser.clone(), one.at("/graph"));
    let graph = tokio::spawn(async move { graph_browser.get(graph_url).await });
    refreshes.arrival().await;
    assert_eq!(browser.get(two.at("/logout")).await.status, 302);
    refreshes.let_go();
    assert_eq!(graph.await.unwrap().status, 200);
    assert_eq!(redis.keys(), [""; 0]);
    for app in [&one, &two] {
        assert_eq!(user_of(&browser.get(app.at("/")).await), None);
    }
}

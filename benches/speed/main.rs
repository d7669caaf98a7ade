//! How fast the app is. `cargo bench` loads the app and bare actix-web in turns and prints a
//! table. `cargo bench -- PROGRAM` loads another build of the app too, for example of an earlier
//! commit. The load uses the same processors, so compare the ratios. Linux only: it reads /proc.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use actix_web::web::{Data, to};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{Url, form_urlencoded};

const CONNECTIONS: usize = 16;
/// Rounds are short, so that other programs disturb both servers alike.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(150);
const CLIENT_ID: &str = "f3b1d895-2a6c-4e70-8d14-97c5e0a2b638";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "servers") {
        return servers();
    }
    let started = Instant::now();
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let servers = Server::start(command.arg("servers"), &folder, "servers");
    // Cargo adds arguments of its own. They begin with a dash.
    let other = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut apps = Vec::new();
    for program in other.map(String::as_str).into_iter().chain([env!("CARGO_BIN_EXE_rust-webapp")])
    {
        let mut command = Command::new(fs::canonicalize(program).unwrap());
        command.env("CLIENT_ID", CLIENT_ID).env("CLIENT_CREDENTIAL", "an invented secret");
        command.env("AUTHORITY", format!("http://{}/tenant", servers.address));
        command.env("ENDPOINT", format!("http://{}/v1.0/me", servers.address));
        command.env("LISTEN_HOST", "127.0.0.1").env("PORT", "0").env("NO_PROXY", "127.0.0.1");
        let name = format!("app{}", apps.len());
        let app = Server::start(command.env_remove("RUST_LOG"), &folder, &name);
        let cookie = sign_in(&mut Connection::open(&app));
        apps.push((app, cookie));
    }
    let (app, _) = &apps[apps.len() - 1];
    let (_, memory) = cpu_and_memory(app.process.id());

    let (title, line) =
        if other.is_some() { (" other build, CPU µs |", " --- |") } else { ("", "") };
    println!("| page | app, requests/s | bare actix-web | ratio | app, CPU µs |{title}");
    println!("| --- | --- | --- | --- | --- |{line}");
    for (page, path, is_signed_in, bare) in [
        ("`/`, signed out", "/", false, "/page"),
        ("`/`, signed in", "/", true, "/page"),
        ("`/admin`", "/admin", true, "/page"),
        ("`/graph`, cached token", "/graph", true, "/graph"),
        ("`/graph`, signed out", "/graph", false, "/page"),
    ] {
        let cookie_of = |cookie: &str| if is_signed_in { cookie.to_owned() } else { String::new() };
        // The page of bare actix-web has the same length.
        let (app, cookie) = &apps[apps.len() - 1];
        let length = Connection::open(app).get(path, &cookie_of(cookie)).1.len();
        let bare = format!("{bare}?{length}");
        let mut of_apps = [Load::default(), Load::default()];
        let mut of_bare = Load::default();
        for _ in 0..ROUNDS {
            for ((app, cookie), load) in apps.iter().rev().zip(&mut of_apps) {
                let cookie = cookie_of(cookie);
                load.add(app, ROUND, |connection| _ = connection.get(path, &cookie));
            }
            of_bare.add(&servers, ROUND, |connection| _ = connection.get(&bare, ""));
        }
        let ((per_second, cpu), (bare, _)) = (of_apps[0].result(), of_bare.result());
        let ratio = per_second / bare;
        print!("| {page} | {per_second:.0} | {bare:.0} | {ratio:.2} | {cpu:.1} |");
        println!("{}", other_cpu(&of_apps[1]));
    }
    let (mut of_apps, mut memory) =
        ([Load::default(), Load::default()], format!("{memory:.1} MiB at the start"));
    for _ in 0..8 {
        for ((app, _), load) in apps.iter().rev().zip(&mut of_apps) {
            load.add(app, 5 * ROUND, |connection| _ = sign_in(connection));
        }
        let (_, now) = cpu_and_memory(apps[apps.len() - 1].0.process.id());
        memory += &format!(", {now:.1} MiB after {} sign-ins", of_apps[0].requests);
    }
    let (per_second, cpu) = of_apps[0].result();
    print!("| a whole sign-in | {per_second:.0} | | | {cpu:.1} |");
    println!("{}\n\nMemory of the app: {memory}.", other_cpu(&of_apps[1]));
    let (of_load, _) = cpu_and_memory(std::process::id());
    println!("{:.0} s. The load took {of_load:.0} s of CPU.", started.elapsed().as_secs_f64());
}

/// The last cell of a row, if there is another build.
fn other_cpu(load: &Load) -> String {
    if load.requests == 0.0 { String::new() } else { format!(" {:.1} |", load.result().1) }
}

/// A process that ends when this value is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Starts a program and waits until its log contains the address.
    fn start(command: &mut Command, folder: &TempDir, name: &str) -> Self {
        let log = folder.path().join(name);
        command.current_dir(folder).stdout(File::create(&log).unwrap());
        let mut server = Self { process: command.spawn().unwrap(), address: String::new() };
        while server.address.is_empty() {
            let text = fs::read_to_string(&log).unwrap();
            assert!(server.process.try_wait().unwrap().is_none(), "{text}");
            let address = text.split_once("open http://").and_then(|(_, end)| end.split_once(' '));
            server.address = address.map_or("", |(address, _)| address).to_owned();
            thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The processor time of a process in seconds and its memory in MiB. See proc_pid_stat(5).
fn cpu_and_memory(process: u32) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
    ((fields[11] + fields[12]) / 100.0, fields[21] / 256.0)
}

/// What a server did under load.
#[derive(Default)]
struct Load {
    requests: f64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Load {
    /// Repeats `visit` on all connections for this time.
    fn add(&mut self, server: &Server, time: Duration, visit: impl Fn(&mut Connection) + Sync) {
        let (started, (cpu_before, _)) = (Instant::now(), cpu_and_memory(server.process.id()));
        let repeat = || {
            let (mut connection, mut requests) = (Connection::open(server), 0.0);
            while started.elapsed() < time {
                visit(&mut connection);
                requests += 1.0;
            }
            requests
        };
        self.requests += thread::scope(|scope| {
            let threads = [(); CONNECTIONS].map(|()| scope.spawn(repeat));
            threads.map(|thread| thread.join().unwrap()).iter().sum::<f64>()
        });
        self.seconds += started.elapsed().as_secs_f64();
        self.cpu_seconds += cpu_and_memory(server.process.id()).0 - cpu_before;
    }

    /// The requests per second, and the microseconds of processor time for a request.
    fn result(&self) -> (f64, f64) {
        (self.requests / self.seconds, self.cpu_seconds * 1e6 / self.requests)
    }
}

/// A connection that stays open. An HTTP client would need more processor time.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: &Server) -> Self {
        Self(BufReader::new(TcpStream::connect(&server.address).unwrap()))
    }

    /// Returns the head and the body of the response.
    fn get(&mut self, path: &str, cookie: &str) -> (String, Vec<u8>) {
        let host = self.0.get_ref().peer_addr().unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 302"), "{head}");
        let mut body = vec![0; after("content-length: ", &head).parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (head, body)
    }
}

/// The rest of the line that begins like this.
fn after<'a>(start: &str, head: &'a str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(start)).unwrap()
}

/// Signs a user in as a browser does, with three requests. Returns the session cookie.
fn sign_in(connection: &mut Connection) -> String {
    let cookie = |name: &str, head: &str| {
        let (rest, _) = after(&format!("set-cookie: {name}"), head).split_once(';').unwrap();
        format!("{name}{rest}")
    };
    let (authorize, _) = connection.get("/admin", "");
    let url = Url::parse(after("location: ", &authorize)).unwrap();
    let sent = |name| url.query_pairs().find(|(key, _)| key == name).unwrap().1;
    // This identity platform stores nothing. The code is the nonce.
    let callback = format!("/auth/redirect?code={}&state={}", sent("nonce"), sent("state"));
    let (signed_in, _) = connection.get(&callback, &cookie("rust-webapp-flow-", &authorize));
    let session = cookie("rust-webapp-session=", &signed_in);
    assert!(connection.get("/admin", &session).0.starts_with("HTTP/1.1 200"));
    session
}

/// Bare actix-web, an identity platform, and Microsoft Graph.
#[actix_web::main]
async fn servers() {
    let pem = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem();
    let key = Data::new(EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap());
    let http = Data::new(reqwest::Client::builder().no_proxy().build().unwrap());
    let server = HttpServer::new(move || {
        let app = App::new().app_data(key.clone()).app_data(http.clone());
        app.route("/page", to(page)).route("/graph", to(graph)).default_service(to(platform))
    });
    let server = server.bind("127.0.0.1:0").unwrap();
    println!("open http://{} ", server.addrs()[0]);
    server.run().await.unwrap();
}

/// A page of this length.
async fn page(req: HttpRequest) -> HttpResponse {
    let length = req.query_string().parse().unwrap();
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(" ".repeat(length))
}

/// A page of this length after a call to Microsoft Graph.
async fn graph(req: HttpRequest, http: Data<reqwest::Client>) -> HttpResponse {
    let url = format!("http://{}/v1.0/me", req.connection_info().host());
    let call = http.get(url).bearer_auth("a".repeat(1800)).send();
    let _: Value = call.await.unwrap().json().await.unwrap();
    page(req).await
}

async fn platform(req: HttpRequest, key: Data<EncodingKey>, form: String) -> HttpResponse {
    let at = |path: &str| format!("http://{}/{path}", req.connection_info().host());
    let issuer = at("tenant/v2.0");
    HttpResponse::Ok().json(match req.path() {
        "/v1.0/me" => json!({ "displayName": "Dora Example", "jobTitle": "Measurer" }),
        "/tenant/v2.0/.well-known/openid-configuration" => json!({ "issuer": issuer, "jwks_uri":
            at("keys"), "authorization_endpoint": at("authorize"), "token_endpoint": at("token") }),
        "/keys" => {
            let mut key = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
            key.common.key_id = Some("1".to_owned());
            json!({ "keys": [key] })
        }
        _ => {
            let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::RS256) };
            let code = form_urlencoded::parse(form.as_bytes()).find(|(name, _)| name == "code");
            let (iat, code) = (get_current_timestamp(), code.unwrap().1);
            let claims = json!({ "aud": CLIENT_ID, "iss": issuer, "iat": iat, "exp": iat + 3900,
                "nonce": code, "sub": CLIENT_ID, "oid": CLIENT_ID, "roles": ["admin"],
                "name": "Dora Example", "preferred_username": "dora@platform.example" });
            let id_token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
            // The tokens are about as long as those of Microsoft Entra ID.
            json!({ "token_type": "Bearer", "expires_in": 3600, "id_token": id_token,
                "access_token": "a".repeat(1800), "refresh_token": "r".repeat(1300) })
        }
    })
}

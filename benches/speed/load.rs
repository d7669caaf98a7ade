//! The load: keep-alive connections that each send their next request when
//! the answer to the last one is there. They are hyper's own, because 2
//! cores carry the load as well as what is measured: what a request costs
//! here blurs each ratio.

use std::cell::RefCell;
use std::fs;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// At a time, against each server.
pub const CONNECTIONS: usize = 16;

/// A server of its own process, which ends with this.
pub struct Server {
    process: Child,
    pub address: String,
}

impl Server {
    pub fn start(mut command: Command, address: impl FnOnce(&mut Child) -> String) -> Self {
        let mut process = command.spawn().unwrap();
        let address = address(&mut process);
        Self { process, address }
    }

    /// Processor time so far, of all threads: fields 14 and 15 of
    /// proc_pid_stat(5), in hundredths of a second.
    fn processor_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
    }

    /// Memory in use now, in MiB.
    pub fn memory(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
        Some(kib.parse::<f64>().ok()? / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an answer says.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn location(&self) -> &str {
        self.headers["location"].to_str().unwrap()
    }

    /// The session cookie that it sets, as a browser sends it back.
    pub fn cookie(&self) -> String {
        self.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    }
}

pub struct Connection {
    sender: SendRequest<String>,
    host: String,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(connection);
        Self { sender, host: address.to_owned() }
    }

    pub async fn get(&mut self, path: &str, cookie: &str) -> Answer {
        let request = Request::get(path).header("host", &self.host).header("cookie", cookie).body(String::new());
        self.sender.ready().await.unwrap();
        let (head, body) = self.sender.send_request(request.unwrap()).await.unwrap().into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }
}

/// What was measured of one server.
#[derive(Default)]
pub struct Sample {
    latencies: Vec<Duration>,
    elapsed: Duration,
    processor_time: Option<Duration>,
    pub memory: Option<f64>,
}

impl Sample {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds; call `sort` before.
    pub fn percentile(&self, percent: usize) -> f64 {
        self.latencies[(self.latencies.len() - 1) * percent / 100].as_secs_f64() * 1e6
    }

    /// Processor time for each request, in microseconds.
    pub fn processor_time(&self) -> Option<f64> {
        Some(self.processor_time?.as_secs_f64() * 1e6 / self.latencies.len() as f64)
    }

    /// Adds a round: on each connection `visit` again and again, until it says
    /// that there is nothing left or time is up.
    pub async fn add<Visit: AsyncFn(&mut Connection) -> bool + 'static>(
        &mut self,
        server: &Server,
        time: Duration,
        visit: Visit,
    ) {
        let local = LocalSet::new();
        let visit = Rc::new(visit);
        let latencies = Rc::new(RefCell::new(Vec::new()));
        let before = server.processor_time();
        let started = Instant::now();
        for _ in 0..CONNECTIONS {
            let (visit, latencies, address) = (visit.clone(), latencies.clone(), server.address.clone());
            local.spawn_local(async move {
                let mut connection = Connection::open(&address).await;
                while started.elapsed() < time {
                    let sent = Instant::now();
                    if !visit(&mut connection).await {
                        break;
                    }
                    latencies.borrow_mut().push(sent.elapsed());
                }
            });
        }
        local.await;
        self.elapsed += started.elapsed();
        self.latencies.append(&mut latencies.borrow_mut());
        let used = server.processor_time().zip(before).map(|(after, before)| after - before);
        self.processor_time = used.map(|used| used + self.processor_time.unwrap_or_default());
        self.memory = server.memory();
    }

    pub fn sort(mut self) -> Self {
        self.latencies.sort_unstable();
        self
    }
}

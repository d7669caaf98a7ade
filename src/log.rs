//! The log, on stdout: a line for each step of the protocol, with the file
//! and line that took it.
//!
//! Lines wait for about ten milliseconds and are then written together: each
//! by itself, they would take a tenth of the time of a page. When the app
//! ends none is left; when it is killed, the last ones may be.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts the log: of this app every step, of the libraries only warnings.
pub fn start() -> UntilTheEnd {
    let waiting = Arc::new(Mutex::new(BufWriter::new(io::stdout())));
    let of_flusher = waiting.clone();
    let flusher = thread::spawn(move || {
        loop {
            // Until there is a line: an app that nobody visits does nothing.
            thread::park();
            thread::sleep(Duration::from_millis(10));
            // An app whose log cannot be written goes on.
            let _ = lock(&of_flusher).flush();
        }
    });
    let lines = Arc::new(Lines { waiting, flusher: flusher.thread().clone() });

    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .with_file(true)
        .with_line_number(true)
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    tracing_subscriber::registry().with(log).with(levels).init();
    UntilTheEnd(lines)
}

/// Writes what is waiting when the app ends.
pub struct UntilTheEnd(Arc<Lines>);

impl Drop for UntilTheEnd {
    fn drop(&mut self) {
        let lines = self.0.clone();
        let (report, reported) = mpsc::channel();
        let flush = move || {
            let _ = report.send((&*lines).flush());
        };
        // If nobody reads the log, `| less` for one, the app must end all the same.
        let _ = thread::Builder::new().spawn(flush);
        let _ = reported.recv_timeout(Duration::from_secs(1));
    }
}

/// Where the lines of the log go.
pub struct Lines {
    /// 8 KiB at most.
    waiting: Arc<Mutex<BufWriter<Stdout>>>,
    flusher: Thread,
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Whole, so that no other line comes in between.
        let written = lock(&self.waiting).write_all(line);
        self.flusher.unpark();
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.waiting).flush()
    }
}

fn lock(waiting: &Mutex<BufWriter<Stdout>>) -> MutexGuard<'_, BufWriter<Stdout>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

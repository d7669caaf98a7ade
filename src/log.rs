//! The log, on stdout: a line for each step of the protocol, with the file
//! and line that took it.
//!
//! Lines wait for up to ten milliseconds and are then written together: each
//! by itself, they would take a tenth of the time of a page. When the app
//! ends none is left; when it is killed, the last ones may be.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let writer = thread::spawn(|| {
        loop {
            // Until there is a line; an app that nobody visits does nothing.
            thread::park();
            thread::sleep(Duration::from_millis(10));
            flush();
        }
    });
    Log { lines: Mutex::new(BufWriter::new(io::stdout())), writer: writer.thread().clone() }
});

struct Log {
    /// The lines that are waiting, 8 KiB of them at most.
    lines: Mutex<BufWriter<Stdout>>,
    writer: Thread,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A line is never torn by another one.
        self.lines().write_all(line)?;
        self.writer.unpark();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines().flush()
    }
}

/// Starts the log: of this app every step, of the libraries only warnings.
pub fn start() {
    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| &*LOG)
        .with_file(true)
        .with_line_number(true)
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    tracing_subscriber::registry().with(lines).with(levels).init();
}

/// Writes what is waiting. An app whose log cannot be written goes on.
pub fn flush() {
    let _ = (&*LOG).flush();
}

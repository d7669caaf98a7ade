//! The log on stdout.

use std::io::{self, BufWriter, IsTerminal as _};

use anyhow::{Context as _, Result};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Starts the log. If nobody reads stdout, the app goes on and drops lines.
pub fn start() -> Result<()> {
    // The spans of demo_tenant::visit are not for people.
    let levels = std::env::var("RUST_LOG").unwrap_or_else(|_| {
        "warn,rust_webapp=info,demo_tenant=info,demo_tenant::visit=off".to_owned()
    });
    let levels: Targets = levels.parse().with_context(|| {
        format!("RUST_LOG = {levels:?}: accepted is a level such as info, or rust_webapp=debug")
    })?;
    let (stdout, guard) = tracing_appender::non_blocking(BufWriter::new(io::stdout()));
    // When the guard is dropped, it waits until someone reads the log. The app must end anyway.
    std::mem::forget(guard);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stdout)
        .with_file(true)
        .with_line_number(true)
        .with_target(false)
        .with_ansi(io::stdout().is_terminal());
    let log = tracing_subscriber::registry().with(lines.with_filter(levels));
    // The page of the demo tenant shows the lines of the steps.
    #[cfg(feature = "demo-tenant")]
    let log = log.with(demo_tenant::steps());
    log.init();
    Ok(())
}

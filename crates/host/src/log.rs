//! The log of a program that serves.

use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Logs to stderr, filtered by `RUST_LOG`. The default level is `info`.
pub fn log_to_stderr() {
    // An empty `RUST_LOG`, as Compose passes an unset one, has no directive: then the default applies.
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let filter = builder.from_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // The subscriber would report its own write errors with eprintln!, which panics when stderr is full or closed.
        .log_internal_errors(false)
        .init();
}

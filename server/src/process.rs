//! Runs a server as a process: runtime, port, signals and limits. Tests and embedders do not need it.

use crate::{args::Settings, health};
use anyhow::Context;
use bus::Broker;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

/// Creates a runtime with one thread per worker.
///
/// # Errors
/// The system has no thread or no file descriptor left.
pub fn runtime(workers: usize) -> io::Result<Runtime> {
    match workers {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}

/// Listens at the configured address and serves until SIGTERM, SIGINT or SIGHUP. A SIGHUP that the parent set to be ignored, as `nohup`
/// does, stays ignored.
///
/// # Errors
/// The port cannot be bound, or a signal handler cannot be installed.
pub async fn serve(settings: Settings, bus: Arc<dyn Broker>) -> anyhow::Result<()> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    // Every connection is an open file.
    host::raise_open_files();
    let (host, port) = settings.listen;
    let listener = TcpListener::bind((host.as_str(), port)).await.with_context(|| {
        format!("cannot listen on {host}:{port}: stop the program that uses it, or change HOST or PORT")
    })?;
    crate::serve::run(listener, settings.server, bus, host::shutdown_on_signal()?).await
}

/// Runs a health check.
///
/// # Errors
/// The server at `address` is not ready.
pub fn check(address: SocketAddr) -> anyhow::Result<()> {
    runtime(1)?.block_on(health::check(address))
}

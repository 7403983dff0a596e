//! Runs a server as a process: runtime, port, signals and limits. Tests and embedders do not need it.

use crate::{args::Settings, health};
use anyhow::Context;
use bus::Broker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

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
    raise_open_files();
    let (host, port) = settings.listen;
    let listener = TcpListener::bind((host.as_str(), port)).await.with_context(|| {
        format!("cannot listen on {host}:{port}: stop the program that uses it, or change HOST or PORT")
    })?;
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = (!host::hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
    let signalled = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = hung_up(&mut hangup) => {}
        }
        signalled.cancel();
    });
    crate::serve::run(listener, settings.server, bus, shutdown).await
}

/// Raises the soft limit of open files to the hard limit, because every connection is an open file.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Runs a health check.
///
/// # Errors
/// The server at `address` is not ready.
pub fn check(address: SocketAddr) -> anyhow::Result<()> {
    runtime(1)?.block_on(health::check(address))
}

/// Waits for SIGHUP, and for ever if it is ignored.
async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

//! What turns a configuration into a process: a runtime, a port, signals. Tests and embedders do without it.

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

/// A runtime with as many threads as there are workers.
///
/// # Errors
/// The system gives no thread or descriptor.
pub fn runtime(workers: usize) -> io::Result<Runtime> {
    match workers {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}

/// Listens where `settings` say, and serves until SIGTERM, SIGINT or SIGHUP (unless that is ignored, as below `nohup`).
///
/// # Errors
/// The port cannot be had.
pub async fn serve(settings: Settings, bus: Arc<dyn Broker>) -> anyhow::Result<()> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    raise_open_files();
    let (host, port) = settings.listen;
    let listener = TcpListener::bind((host.as_str(), port)).await.with_context(|| {
        format!("cannot listen on {host}:{port}: stop what uses it, or set HOST and PORT")
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
    crate::run(listener, settings.server, bus, shutdown).await
}

/// A caller's connection is an open file: as many as the system allows this process, not as many as its shell did.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Carries a health check out.
///
/// # Errors
/// The server at `address` is not ready.
pub fn check(address: SocketAddr) -> anyhow::Result<()> {
    runtime(1)?.block_on(health::check(address))
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

//! A native stack for one run of a sweep: on free ports, in a temporary directory, in a thread of this process. Dropping it ends its
//! processes, also during a panic. If this process is killed, the kernel kills them.

use super::settings::StackSetup;
use ::stack::{
    native::{Binaries, Native, Options, Programs, Status},
    supervisor,
};
use anyhow::Context;
use plan::Stop;
use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Interval between two looks at a stack that starts.
const LOOK: Duration = Duration::from_millis(20);

/// A running stack.
#[derive(Debug)]
pub(super) struct OwnStack {
    shutdown: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    status: Status,
    directory: TempDir,
}

impl OwnStack {
    /// Starts a stack and waits until it is ready. Returns early if `stop` is escalated.
    ///
    /// # Errors
    /// A program is missing, the stack did not start, or the start was interrupted. No process is left.
    pub(super) fn start(setup: &StackSetup, programs: &Programs, stop: &Stop) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("streamstress-sweep-")
            .tempdir()
            .context("cannot create a directory for the stack")?;
        let options = options(setup, programs, directory.path())?;
        let shutdown = CancellationToken::new();
        let (sender, receiver) = sync_channel(1);
        let token = shutdown.clone();
        let thread = thread::Builder::new()
            .name("stack".into())
            .spawn(move || supervise(options, token, &sender))
            .context("cannot start a thread")?;
        match ready(&receiver, stop, &shutdown) {
            Some(status) => Ok(Self { shutdown, thread: Some(thread), status, directory }),
            None => match thread.join() {
                Ok(Ok(())) => anyhow::bail!("the stack ended while it started"),
                Ok(Err(error)) => Err(error),
                Err(_) => anyhow::bail!("the thread of the stack panicked"),
            },
        }
    }

    /// Returns the URLs of the API and of the gateways, at every HAProxy.
    pub(super) fn urls(&self) -> (Vec<String>, Vec<String>) {
        self.status.haproxies.iter().map(|haproxy| (haproxy.api_url.clone(), haproxy.ws_url.clone())).unzip()
    }

    /// Returns the state directory, by which a run finds the stack.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for OwnStack {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the status of the stack. Returns `None` if it ends before it is ready.
fn ready(receiver: &Receiver<Status>, stop: &Stop, shutdown: &CancellationToken) -> Option<Status> {
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(status) => return Some(status),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if stop.starting.is_cancelled() => shutdown.cancel(),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Runs the stack until `shutdown`.
fn supervise(
    options: Options,
    shutdown: CancellationToken,
    ready: &SyncSender<Status>,
) -> anyhow::Result<()> {
    // One thread for the supervisor, one for relays.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(supervisor::run(options, shutdown, async |native: &Native| {
        ready.send(native.status().await).context("the sweep does not wait for the stack any more")
    }))
}

fn options(setup: &StackSetup, programs: &Programs, directory: &Path) -> anyhow::Result<Options> {
    let programs = match &setup.bin_dir {
        Some(directory) => Programs::in_directory(directory)?,
        None => programs.clone(),
    };
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let binaries = Binaries::find(programs, &path)?;
    let defaults = Options::new(directory.to_owned(), binaries);
    Ok(Options {
        servers: setup.servers.unwrap_or(defaults.servers),
        proxies: setup.proxies.unwrap_or(defaults.proxies),
        haproxies: setup.haproxies,
        server_workers: setup.server_workers,
        persistence: setup.persistence,
        relays: setup.relays,
        environment: setup.environment.clone(),
        ..defaults
    })
}

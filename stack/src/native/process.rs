//! One child process: its log, its readiness, its end. It restarts nothing; whoever holds it decides.

use super::spawner;
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

const LOG_TAIL_BYTES: u64 = 2_000;
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// How to start a process.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Variables to set; an empty list entry never removes one.
    pub(crate) env: Vec<(String, OsString)>,
    /// Variables of ours that the child must not see.
    pub(crate) env_remove: &'static [&'static str],
    pub(crate) log: PathBuf,
    /// What the kernel sends it when we die.
    pub(crate) at_our_death: Signal,
}

/// A running (or ended) child. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    orders: mpsc::Sender<Signal>,
    ended: watch::Receiver<Option<ExitStatus>>,
    attendant: JoinHandle<()>,
}

impl Process {
    /// Starts a process with a fresh log.
    pub(crate) async fn start(spec: Spec) -> anyhow::Result<Self> {
        let log = File::create(&spec.log).with_context(|| format!("cannot write {}", spec.log.display()))?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl+C in a terminal is for the supervisor, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true);
        for name in spec.env_remove {
            command.env_remove(name);
        }
        command.envs(spec.env);
        let child = spawner::spawn(command, spec.at_our_death)
            .await
            .with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))?;
        let pid = child.id().context("the process has no id")?;
        let (orders, inbox) = mpsc::channel(4);
        let (tell, ended) = watch::channel(None);
        let attendant = tokio::spawn(attend(spec.name.clone(), child, inbox, tell));
        Ok(Self { name: spec.name, pid, log: spec.log, orders, ended, attendant })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends a signal, if the process still runs.
    pub(crate) async fn signal(&self, signal: Signal) {
        // A closed queue means that the process has ended.
        let _ = self.orders.send(signal).await;
    }

    /// SIGTERM, a bounded wait, SIGKILL. Returns when the process is gone.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM).await;
        if timeout(grace, self.end()).await.is_err() {
            warn!(name = self.name, ?grace, "did not end on SIGTERM: killing it");
            self.signal(Signal::SIGKILL).await;
            self.end().await;
        }
    }

    /// Waits until `ready` says so. Fails when the process ends first or patience does, with the end of its log.
    pub(crate) async fn wait_until<F, R>(&self, patience: Duration, mut ready: F) -> anyhow::Result<()>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<(), String>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let answer = ready().await;
            // Asked after the answer: who answers on the port of a process that has ended is somebody else.
            if let Some(status) = self.ended() {
                bail!("{} ended ({status}) before it was ready; {}", self.name, log_tail(&self.log));
            }
            let Err(last) = answer else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("{} is not ready after {patience:?}: {last}; {}", self.name, log_tail(&self.log));
            }
            sleep(PROBE_EVERY).await;
        }
    }

    async fn end(&self) {
        // A closed channel means that the attendant is gone, and the process with it.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.attendant.abort();
    }
}

/// Owns the child: it alone reaps and signals, so a signal never meets another process with the same id.
async fn attend(
    name: String,
    mut child: Child,
    mut inbox: mpsc::Receiver<Signal>,
    tell: watch::Sender<Option<ExitStatus>>,
) {
    let mut told = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = inbox.recv() => {
                told |= matches!(signal, Signal::SIGTERM | Signal::SIGKILL);
                if let Some(pid) = child.id() {
                    // It may just have ended; `wait` tells.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
                }
            }
        }
    };
    match status {
        Ok(status) => {
            if told {
                info!(name, %status, "ended");
            } else {
                warn!(name, %status, "ended by itself");
            }
            tell.send_replace(Some(status));
        }
        Err(error) => warn!(name, %error, "cannot wait for the process"),
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
    };
    match read() {
        Ok(tail) if tail.is_empty() => format!("its log ({}) is empty", path.display()),
        Ok(tail) => format!("its log ({}) ends:\n{tail}", path.display()),
        Err(error) => format!("its log ({}) cannot be read: {error}", path.display()),
    }
}

/// Makes a directory that only we can enter.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub fn private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let doing = || format!("cannot make the directory {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(doing)?;
    let owner = fs::metadata(path).with_context(doing)?.uid();
    let us = nix::unistd::getuid().as_raw();
    if owner != us {
        bail!("{} belongs to user {owner}, we are {us}: give another with --state-dir", path.display());
    }
    Ok(())
}

//! One child process: its log, its readiness, its end. It restarts nothing; whoever holds it decides.

use super::spawner;
use crate::files;
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
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
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

const LOG_TAIL_BYTES: u64 = 2_000;
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// What the kernel gets to end a killed process's own children.
const GROUP_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Goes on in the log of the process whose place it takes; otherwise the log begins anew.
    pub(crate) goes_on: bool,
    /// What the kernel sends it when we die.
    pub(crate) at_our_death: Signal,
    /// How far it stands back, as `nice` counts.
    pub(crate) niceness: i32,
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Runs,
    /// Stopped where it stands, until it is told to go on.
    Paused,
    Ended(ExitStatus),
}

#[derive(Debug)]
enum Order {
    Signal(Signal),
    /// For this long, or until told.
    Pause(Option<Duration>),
    Resume,
}

/// A running (or ended) child. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    orders: mpsc::Sender<Order>,
    condition: watch::Receiver<Condition>,
    attendant: JoinHandle<()>,
}

impl Process {
    /// Starts a process.
    pub(crate) async fn start(spec: Spec) -> anyhow::Result<Self> {
        if !spec.goes_on {
            let _ = fs::remove_file(&spec.log);
        }
        let log =
            files::open_log(&spec.log).with_context(|| format!("cannot write {}", spec.log.display()))?;
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
        let child = spawner::spawn(command, spec.at_our_death, spec.niceness)
            .await
            .with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))?;
        let pid = child.id().context("the process has no id")?;
        let (orders, inbox) = mpsc::channel(4);
        let (tell, condition) = watch::channel(Condition::Runs);
        let attendant = tokio::spawn(attend(spec.name.clone(), child, inbox, tell));
        Ok(Self { name: spec.name, pid, log: spec.log, orders, condition, attendant })
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

    pub(crate) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        match self.condition() {
            Condition::Ended(status) => Some(status),
            Condition::Runs | Condition::Paused => None,
        }
    }

    /// Sends a signal, if the process still runs.
    pub(crate) async fn signal(&self, signal: Signal) {
        self.order(Order::Signal(signal)).await;
    }

    /// Stops it and its children where they stand, for this long or until [`Process::resume`]. Returns when they stand.
    pub(crate) async fn pause(&self, time: Option<Duration>) {
        self.order(Order::Pause(time)).await;
        let _ = self.condition.clone().wait_for(|now| *now != Condition::Runs).await;
    }

    /// Lets it go on.
    pub(crate) async fn resume(&self) {
        self.order(Order::Resume).await;
        let _ = self.condition.clone().wait_for(|now| *now != Condition::Paused).await;
    }

    async fn order(&self, order: Order) {
        // A closed queue means that the process has ended.
        let _ = self.orders.send(order).await;
    }

    /// SIGKILL to it and its children. Returns when all of them are gone.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL).await;
        self.end().await;
        let deadline = Instant::now() + GROUP_PATIENCE;
        while !members(self.pid).is_empty() {
            if Instant::now() > deadline {
                bail!("{} is gone, but not its processes {:?}", self.name, members(self.pid));
            }
            sleep(PROBE_EVERY).await;
        }
        Ok(())
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

    /// Waits for its end.
    pub(crate) async fn end(&self) {
        // A closed channel means that the attendant is gone, and the process with it.
        let _ = self.condition.clone().wait_for(|now| matches!(now, Condition::Ended(_))).await;
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
    mut inbox: mpsc::Receiver<Order>,
    tell: watch::Sender<Condition>,
) {
    let mut told = false;
    let mut wake: Option<Instant> = None;
    let status = loop {
        let order = tokio::select! {
            status = child.wait() => break status,
            Some(order) = inbox.recv() => order,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Order::Resume,
        };
        // It may just have ended; `wait` tells.
        let Some(pid) = child.id().map(|pid| Pid::from_raw(pid.cast_signed())) else { continue };
        match order {
            Order::Pause(time) => {
                let _ = killpg(pid, Signal::SIGSTOP);
                wake = time.map(|time| Instant::now() + time);
                tell.send_replace(Condition::Paused);
            }
            Order::Resume => {
                let _ = killpg(pid, Signal::SIGCONT);
                wake = None;
                tell.send_replace(Condition::Runs);
            }
            Order::Signal(signal) => {
                told |= matches!(signal, Signal::SIGTERM | Signal::SIGKILL);
                let _ = match signal {
                    Signal::SIGKILL => killpg(pid, signal),
                    _ => kill(pid, signal),
                };
                // Who stands still hears nothing.
                if signal == Signal::SIGTERM && *tell.borrow() == Condition::Paused {
                    let _ = killpg(pid, Signal::SIGCONT);
                    wake = None;
                    tell.send_replace(Condition::Runs);
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
            tell.send_replace(Condition::Ended(status));
        }
        Err(error) => warn!(name, %error, "cannot wait for the process"),
    }
}

/// The processes of a group that still run: zombies do not.
fn members(group: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name may hold anything but ends at the last `)`: state, parent and group follow.
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
            let runs = !matches!(fields.next(), Some("Z" | "X") | None);
            runs && fields.nth(1).and_then(|field| field.parse().ok()) == Some(group)
        })
        .collect()
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

//! A child process: its log, its readiness and its end. This module restarts nothing; its caller decides.

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

/// Length of the end of a log in error messages.
const LOG_TAIL_BYTES: u64 = 2_000;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit for the end of the children of a killed process.
const GROUP_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A command line, an environment and a log, with which a process starts.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Environment variables to set.
    pub(crate) env: Vec<(String, OsString)>,
    /// Environment variables that the child does not inherit.
    pub(crate) env_remove: &'static [&'static str],
    pub(crate) log: PathBuf,
    /// Whether to append to the log of an earlier process. Otherwise the log starts empty.
    pub(crate) append_log: bool,
    /// Signal that the kernel sends to the child when this process ends.
    pub(crate) parent_death_signal: Signal,
    pub(crate) niceness: i32,
}

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessState {
    Running,
    /// Stopped by SIGSTOP.
    Paused,
    Ended(ExitStatus),
}

/// A request to the task that owns the child.
#[derive(Debug)]
enum Control {
    Signal(Signal),
    /// Stops the process for this time, or until `Resume`.
    Pause(Option<Duration>),
    Resume,
}

/// A child that runs or has ended. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    controls: mpsc::Sender<Control>,
    state: watch::Receiver<ProcessState>,
    owner: JoinHandle<()>,
}

impl Process {
    /// Starts a process.
    pub(crate) async fn start(spec: Spec) -> anyhow::Result<Self> {
        if !spec.append_log {
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
            // Ctrl+C in a terminal must reach only the supervisor, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true);
        for name in spec.env_remove {
            command.env_remove(name);
        }
        command.envs(spec.env);
        let child = spawner::spawn(command, spec.parent_death_signal, spec.niceness)
            .await
            .with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))?;
        let pid = child.id().context("the new process has ended already")?;
        let (controls, receiver) = mpsc::channel(4);
        let (state_sender, state) = watch::channel(ProcessState::Running);
        let owner = tokio::spawn(own_child(spec.name.clone(), child, receiver, state_sender));
        Ok(Self { name: spec.name, pid, log: spec.log, controls, state, owner })
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

    pub(crate) fn state(&self) -> ProcessState {
        *self.state.borrow()
    }

    /// Returns the exit status of a process that has ended.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        match self.state() {
            ProcessState::Ended(status) => Some(status),
            ProcessState::Running | ProcessState::Paused => None,
        }
    }

    /// Sends a signal, unless the process has ended or has to end.
    pub(crate) async fn signal(&self, signal: Signal) {
        self.control(Control::Signal(signal)).await;
    }

    /// Stops the process and its children for this time, or until [`Process::resume`]. Returns when they are stopped.
    pub(crate) async fn pause(&self, time: Option<Duration>) {
        self.control(Control::Pause(time)).await;
        let _ = self.state.clone().wait_for(|now| *now != ProcessState::Running).await;
    }

    /// Continues the process and its children.
    pub(crate) async fn resume(&self) {
        self.control(Control::Resume).await;
        self.resumed().await;
    }

    /// Returns a future that waits until the process is not paused any more, or is dropped. Its value is whether the process runs.
    pub(crate) fn resumed(&self) -> impl Future<Output = bool> + use<> {
        let mut state = self.state.clone();
        async move {
            let state = state.wait_for(|now| *now != ProcessState::Paused).await;
            state.is_ok_and(|state| *state == ProcessState::Running)
        }
    }

    async fn control(&self, control: Control) {
        // A closed channel means that the process has ended.
        let _ = self.controls.send(control).await;
    }

    /// Sends SIGKILL to the process and its children. Returns when all of them have ended.
    ///
    /// # Errors
    /// A child still runs after five seconds.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL).await;
        self.end().await;
        let deadline = Instant::now() + GROUP_EXIT_TIMEOUT;
        while !running_in_group(self.pid).is_empty() {
            if Instant::now() > deadline {
                bail!(
                    "{} was killed, but its children {:?} still run",
                    self.name,
                    running_in_group(self.pid)
                );
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Sends SIGTERM, and after `grace` SIGKILL. Returns when the process has ended.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM).await;
        if timeout(grace, self.end()).await.is_err() {
            warn!(name = self.name, ?grace, "the process did not end after SIGTERM: killing it");
            self.signal(Signal::SIGKILL).await;
            self.end().await;
        }
    }

    /// Waits until the process has ended.
    pub(crate) async fn end(&self) {
        // A closed channel means that the owner task has ended, and the process with it.
        let _ = self.state.clone().wait_for(|now| matches!(now, ProcessState::Ended(_))).await;
    }

    /// Waits until `ready` succeeds.
    ///
    /// # Errors
    /// The process ended first, or it was not ready within `timeout`. The message has the end of its log.
    pub(crate) async fn wait_until<F, R>(&self, timeout: Duration, mut ready: F) -> anyhow::Result<()>
    where
        F: FnMut() -> R,
        R: Future<Output = Result<(), String>>,
    {
        let deadline = Instant::now() + timeout;
        loop {
            let outcome = ready().await;
            // This comes after the probe: if the process has ended, another process responded on its port.
            if let Some(status) = self.ended() {
                bail!("{} ended ({status}) before it was ready; {}", self.name, log_tail(&self.log));
            }
            let Err(last) = outcome else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("{} is not ready after {timeout:?}: {last}; {}", self.name, log_tail(&self.log));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.owner.abort();
    }
}

/// Owns the child. Only this task reaps and signals it, so a signal never reaches another process with the same id.
async fn own_child(
    name: String,
    mut child: Child,
    mut controls: mpsc::Receiver<Control>,
    state: watch::Sender<ProcessState>,
) {
    let mut end_was_requested = false;
    let mut resume_at: Option<Instant> = None;
    let status = loop {
        let control = tokio::select! {
            status = child.wait() => break status,
            Some(control) = controls.recv() => control,
            () = sleep_until(resume_at.unwrap_or_else(Instant::now)), if resume_at.is_some() => Control::Resume,
        };
        // Without an id the child has just ended, and `wait` returns next.
        let Some(pid) = child.id().map(|pid| Pid::from_raw(pid.cast_signed())) else { continue };
        match control {
            Control::Pause(time) => {
                let _ = killpg(pid, Signal::SIGSTOP);
                resume_at = time.map(|time| Instant::now() + time);
                state.send_replace(ProcessState::Paused);
            }
            Control::Resume => {
                let _ = killpg(pid, Signal::SIGCONT);
                resume_at = None;
                state.send_replace(ProcessState::Running);
            }
            Control::Signal(signal) => {
                let requests_end = matches!(signal, Signal::SIGTERM | Signal::SIGKILL);
                if end_was_requested && !requests_end {
                    // An HAProxy that reloads while it ends would forget that it has to end.
                    continue;
                }
                end_was_requested |= requests_end;
                let _ = match signal {
                    Signal::SIGKILL => killpg(pid, signal),
                    _ => kill(pid, signal),
                };
                // A stopped process does not handle SIGTERM.
                if signal == Signal::SIGTERM && *state.borrow() == ProcessState::Paused {
                    let _ = killpg(pid, Signal::SIGCONT);
                    resume_at = None;
                    state.send_replace(ProcessState::Running);
                }
            }
        }
    };
    match status {
        Ok(status) => {
            if end_was_requested {
                info!(name, %status, "the process ended");
            } else {
                warn!(name, %status, "the process ended unexpectedly");
            }
            state.send_replace(ProcessState::Ended(status));
        }
        Err(error) => warn!(name, %error, "cannot wait for the process"),
    }
}

/// Lists the processes of a group that still run. Zombies do not.
fn running_in_group(group: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name ends at the last `)`, because it may contain any character. State, parent and group follow.
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
            let is_running = !matches!(fields.next(), Some("Z" | "X") | None);
            is_running && fields.nth(1).and_then(|field| field.parse().ok()) == Some(group)
        })
        .collect()
}

/// Returns the end of a log, for an error message.
fn log_tail(path: &Path) -> String {
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

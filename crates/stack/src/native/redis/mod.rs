//! A private `redis-server` with the settings of the Compose stack. It has a separate directory and socket, shares nothing with a
//! Redis of the host, and leaves nothing behind.

mod restart;
mod write_rejection;

use super::{
    paths,
    ports::{self, Started, TakenPorts},
    process::{Process, Spec},
    slot::Slot,
};
use crate::{
    files::{self, private_directory},
    probe,
    relay::Address,
};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Settings that native and Compose stacks share.
const SHARED: &str = include_str!("../../../../../docker/redis.conf");
/// Time limit for the first start, without data.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for reading, writing or rewriting a large data set.
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The writes that Redis stores on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Persistence {
    /// No writes: a killed Redis starts empty.
    #[default]
    None,
    /// All writes, synced once per second.
    Everysec,
    /// All writes, each synced before Redis acknowledges it.
    Always,
}

impl Persistence {
    /// Returns the value of the option.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Everysec => "everysec",
            Self::Always => "always",
        }
    }

    fn args(self) -> [&'static str; 4] {
        match self {
            Self::None => ["--appendonly", "no", "--appendfsync", "everysec"],
            Self::Everysec => ["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::Always => ["--appendonly", "yes", "--appendfsync", "always"],
        }
    }
}

/// The stack's Redis, running or down.
#[derive(Debug)]
pub(crate) struct Redis {
    program: PathBuf,
    state_dir: PathBuf,
    persistence: Persistence,
    port: Option<u16>,
    slot: Slot,
}

/// Returns the address for commands to Redis: its socket, or its port.
fn address(state_dir: &Path, port: Option<u16>) -> Address {
    match paths::redis_socket(state_dir) {
        Some(path) => Address::Unix(path),
        None => Address::Tcp(ports::loopback(port.unwrap_or(0))),
    }
}

impl Redis {
    /// Starts Redis without data and waits until it responds. It listens on its socket, and on a port if one is wanted or no socket
    /// is possible.
    pub(crate) async fn start(
        program: &Path,
        state_dir: &Path,
        persistence: Persistence,
        wanted: Option<u16>,
        taken: &TakenPorts,
    ) -> anyhow::Result<Self> {
        // An earlier stack may have left data.
        clear(&directory(state_dir))?;
        files::replace(&configuration(state_dir), SHARED)?;
        let start = async |port: Option<u16>| {
            let process = Process::start(spec(program, state_dir, port, persistence, false)).await?;
            let address = address(state_dir, port);
            let ready = process.wait_until(READY_TIMEOUT, || ping(&address)).await;
            anyhow::Ok(Started { process, ready })
        };
        let (process, port) = match (wanted, paths::redis_socket(state_dir)) {
            (Some(0), _) | (None, None) => {
                let (process, port) =
                    ports::start_on_free(taken, async |port| start(Some(port)).await).await?;
                (process, Some(port))
            }
            (port, _) => {
                let Started { process, ready } = start(port).await?;
                ready?;
                (process, port)
            }
        };
        let (program, state_dir) = (program.to_owned(), state_dir.to_owned());
        Ok(Self { program, state_dir, persistence, port, slot: Slot::new(process) })
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns the unix socket. `None` if Redis listens on a port only.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        paths::redis_socket(&self.state_dir)
    }

    fn address(&self) -> Address {
        address(&self.state_dir, self.port)
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Starts Redis after its end, on the same port and socket, with the data in its directory.
    pub(crate) async fn start_again(&self) -> anyhow::Result<()> {
        self.start_with(self.persistence).await
    }

    async fn start_with(&self, persistence: Persistence) -> anyhow::Result<()> {
        let spec = spec(&self.program, &self.state_dir, self.port, persistence, true);
        let process = self.slot.replace(Process::start(spec).await?);
        let address = self.address();
        process.wait_until(DATA_TIMEOUT, || ping(&address)).await
    }

    /// Closes the connections of the clients that match a filter (`TYPE pubsub`; all if it is empty), except this one. Returns their
    /// number.
    pub(crate) async fn kill_clients(&self, filter: &str) -> anyhow::Result<u64> {
        let reply = self.command(&format!("CLIENT KILL {filter} SKIPME yes")).await?;
        reply
            .strip_prefix(':')
            .and_then(|count| count.trim_end().parse().ok())
            .with_context(|| format!("unexpected reply of redis to CLIENT KILL: {reply:?}"))
    }

    /// Sends one command and returns the reply. Fails if the reply is an error.
    async fn command(&self, command: &str) -> anyhow::Result<String> {
        let address = self.address();
        let reply = probe::redis(&address, command)
            .await
            .with_context(|| format!("cannot send `{command}` to redis at {address}"))?;
        match reply.strip_prefix('-') {
            Some(error) => bail!("redis refused `{command}`: {}", error.trim_end()),
            None => Ok(reply),
        }
    }

    /// Waits until `INFO persistence` has all these lines.
    async fn wait_for_info(&self, lines: &[&str]) -> anyhow::Result<()> {
        let deadline = Instant::now() + DATA_TIMEOUT;
        loop {
            let info = self.command("INFO persistence").await?;
            let missing = lines.iter().find(|line| !info.lines().any(|got| got == **line));
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("INFO of redis did not show {missing} within {DATA_TIMEOUT:?}");
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Checks that Redis responds to PING. The future owns its data, because each attempt needs a new one.
fn ping(address: &Address) -> impl Future<Output = Result<(), String>> + use<> {
    let address = address.clone();
    async move {
        match probe::redis(&address, "PING").await {
            Ok(reply) if reply.starts_with("+PONG") => Ok(()),
            Ok(reply) => Err(format!("PING at {address} returned {reply:?}")),
            Err(error) => Err(format!("PING at {address} failed: {error}")),
        }
    }
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("redis")
}

fn configuration(state_dir: &Path) -> PathBuf {
    state_dir.join("redis.conf")
}

/// Removes the contents of a directory, or creates it. The directory itself stays, because it may be the working directory of Redis.
fn clear(directory: &Path) -> anyhow::Result<()> {
    private_directory(directory)?;
    let remove = || {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok::<(), std::io::Error>(())
    };
    remove().with_context(|| format!("cannot clear {}", directory.display()))
}

/// Returns how to start Redis.
fn spec(
    program: &Path,
    state_dir: &Path,
    port: Option<u16>,
    persistence: Persistence,
    append_log: bool,
) -> Spec {
    // Arguments after the file take precedence. The file listens on all addresses, for a container. Port 0 means no port.
    let port = port.unwrap_or(0).to_string();
    let own = ["--port", &port, "--bind", "127.0.0.1", "--tcp-backlog", "511"];
    let mut args = vec![configuration(state_dir).into_os_string()];
    args.extend(own.into_iter().chain(persistence.args()).map(OsString::from));
    args.extend(["--dir".into(), directory(state_dir).into_os_string()]);
    if let Some(socket) = paths::redis_socket(state_dir) {
        args.extend(["--unixsocket".into(), socket.into_os_string()]);
        args.extend(["--unixsocketperm".into(), "700".into()]);
    }
    Spec {
        name: "redis".into(),
        program: program.to_owned(),
        args,
        env: Vec::new(),
        env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
        log: paths::log(state_dir, "redis"),
        append_log,
        parent_death_signal: Signal::SIGKILL,
        niceness: crate::REDIS_NICENESS,
    }
}

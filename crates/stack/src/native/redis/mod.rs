//! A private `redis-server` with the settings that Docker has too, in a directory and on a port of its own.
//! Nothing of the host's own Redis leaks in, and nothing outlives it.

mod denial;
mod restart;

use super::{
    links,
    ports::{self, Started},
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

const SHARED: &str = include_str!("../../../../../docker/redis.conf");
const PATIENCE: Duration = Duration::from_secs(10);
/// What a large data set takes to be read, written or rewritten.
const DATA_PATIENCE: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// What Redis writes to disk while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: a killed Redis starts empty.
    #[default]
    None,
    /// Every write, synced once a second.
    Everysec,
    /// Every write, synced before it is answered.
    Always,
}

impl Persistence {
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
    state: PathBuf,
    persistence: Persistence,
    port: Option<u16>,
    slot: Slot,
}

/// Where Redis listens. None where the path is not fit for a socket's address: then it has a port.
pub(crate) fn socket(state: &Path) -> Option<PathBuf> {
    links::fit_for_sockets(state).then(|| state.join("redis.sock"))
}

/// Where a Redis in `state` is asked that may have this port.
fn address(state: &Path, port: Option<u16>) -> Address {
    match socket(state) {
        Some(path) => Address::Unix(path),
        None => Address::Tcp(ports::local(port.unwrap_or(0))),
    }
}

impl Redis {
    /// Starts Redis on its socket, and on a port where one is wanted or there can be no socket; waits until it answers.
    pub(crate) async fn start(
        program: &Path,
        state: &Path,
        persistence: Persistence,
        wanted: Option<u16>,
        reserved: &[u16],
    ) -> anyhow::Result<Self> {
        // What an earlier stack left: a run starts with no session.
        empty(&directory(state))?;
        let configuration = configuration(state);
        files::replace(&configuration, SHARED)?;
        let start = async |port: Option<u16>| {
            let process = Process::start(spec(program, state, port, persistence, false)).await?;
            let address = address(state, port);
            let ready = process.wait_until(PATIENCE, || answers(&address)).await;
            anyhow::Ok(Started { process, ready })
        };
        let (process, port) = match (wanted, socket(state)) {
            (Some(0), _) | (None, None) => {
                let (process, port) =
                    ports::start_on_free(reserved, async |port| start(Some(port)).await).await?;
                (process, Some(port))
            }
            (port, _) => {
                let Started { process, ready } = start(port).await?;
                ready?;
                (process, port)
            }
        };
        let (program, state) = (program.to_owned(), state.to_owned());
        Ok(Self { program, state, persistence, port, slot: Slot::new(process) })
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Where it listens, if not on a port alone.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        socket(&self.state)
    }

    fn address(&self) -> Address {
        address(&self.state, self.port)
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Starts what is down, on the same port and socket, with what its directory holds.
    pub(crate) async fn start_again(&self) -> anyhow::Result<()> {
        self.start_with(self.persistence).await
    }

    async fn start_with(&self, persistence: Persistence) -> anyhow::Result<()> {
        let spec = spec(&self.program, &self.state, self.port, persistence, true);
        let process = self.slot.replace(Process::start(spec).await?);
        let address = self.address();
        process.wait_until(DATA_PATIENCE, || answers(&address)).await
    }

    /// Closes the connections of the clients that the filter names (`TYPE pubsub`; all of them where it is empty), but
    /// our own; answers how many there were.
    pub(crate) async fn kill_clients(&self, filter: &str) -> anyhow::Result<u64> {
        let answer = self.ask(&format!("CLIENT KILL {filter} SKIPME yes")).await?;
        answer
            .strip_prefix(':')
            .and_then(|count| count.trim_end().parse().ok())
            .with_context(|| format!("redis answers CLIENT KILL with {answer:?}"))
    }

    /// Sends one command; an error of Redis is one.
    async fn ask(&self, command: &str) -> anyhow::Result<String> {
        let address = self.address();
        let answer = probe::redis(&address, command)
            .await
            .with_context(|| format!("cannot send {command} to redis at {address}"))?;
        match answer.strip_prefix('-') {
            Some(error) => bail!("redis refuses {command}: {}", error.trim_end()),
            None => Ok(answer),
        }
    }

    /// Waits until `INFO persistence` has all these lines.
    async fn until_info(&self, lines: &[&str]) -> anyhow::Result<()> {
        let deadline = Instant::now() + DATA_PATIENCE;
        loop {
            let info = self.ask("INFO persistence").await?;
            let missing = lines.iter().find(|line| !info.lines().any(|got| got == **line));
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("redis does not come to {missing} within {DATA_PATIENCE:?}");
            }
            sleep(ASK_EVERY).await;
        }
    }
}

/// Answers whether it is there. The future owns all that it needs: it is made anew for every attempt.
fn answers(address: &Address) -> impl Future<Output = Result<(), String>> + use<> {
    let address = address.clone();
    async move {
        match probe::redis(&address, "PING").await {
            Ok(answer) if answer.starts_with("+PONG") => Ok(()),
            Ok(answer) => Err(format!("PING at {address} is answered with {answer:?}")),
            Err(error) => Err(format!("no answer at {address}: {error}")),
        }
    }
}

fn directory(state: &Path) -> PathBuf {
    state.join("redis")
}

fn configuration(state: &Path) -> PathBuf {
    state.join("redis.conf")
}

/// Makes a directory empty, or an empty directory. It stays the same one: Redis may be standing in it.
fn empty(directory: &Path) -> anyhow::Result<()> {
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
    remove().with_context(|| format!("cannot empty {}", directory.display()))
}

fn spec(program: &Path, state: &Path, port: Option<u16>, persistence: Persistence, goes_on: bool) -> Spec {
    // What follows the file outranks it: here Redis has no network of its own around it. Port 0 is none.
    let port = port.unwrap_or(0).to_string();
    let own = ["--port", &port, "--bind", "127.0.0.1", "--tcp-backlog", "511"];
    let mut args = vec![configuration(state).into_os_string()];
    args.extend(own.into_iter().chain(persistence.args()).map(OsString::from));
    args.extend(["--dir".into(), directory(state).into_os_string()]);
    if let Some(socket) = socket(state) {
        args.extend(["--unixsocket".into(), socket.into_os_string()]);
        args.extend(["--unixsocketperm".into(), "700".into()]);
    }
    Spec {
        name: "redis".into(),
        program: program.to_owned(),
        args,
        env: Vec::new(),
        env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
        log: state.join("logs/redis.log"),
        goes_on,
        at_our_death: Signal::SIGKILL,
        niceness: crate::REDIS_NICENESS,
    }
}

//! One server or gateway process: its number, its port, its environment. It is ready when it exists, or it does not exist.

use super::Program;
use super::{
    Role, links,
    ports::{self, Started},
    process::{Condition, Process, Spec},
    slot::Slot,
};
use crate::{probe, secret::JwtSecret};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Variables of the caller that would contradict what an instance is told.
const NOT_INHERITED: &[&str] = &[
    "JWT_SECRET_FILE",
    "FASTAPI_HOST",
    "FASTAPI_PORT",
    "FASTAPI_URL",
    "SERVER_WORKERS",
    "FASTAPI_WORKERS",
    "BUS_NAME_PREFIX",
    "UNIX_SOCKET",
];

/// What every instance of a stack is started with.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) state: PathBuf,
    pub(crate) redis_port: Option<u16>,
    pub(crate) secret: JwtSecret,
    pub(crate) server_workers: Option<usize>,
    pub(crate) extra: Vec<(String, String)>,
}

/// An instance, running or down. Its number and its port stay.
#[derive(Debug)]
pub(crate) struct Instance {
    role: Role,
    number: u16,
    port: u16,
    /// What HAProxy sends to.
    address: Mutex<String>,
    slot: Slot,
}

impl Instance {
    /// Starts instance `number` of `role` and waits until it is ready.
    pub(crate) async fn start(
        role: Role,
        number: u16,
        program: &Program,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let (process, port) = ports::start_on_free(&[], async |port| {
            let process = Process::start(spec(role, number, port, program, environment, false)).await?;
            let ready = process.wait_until(PATIENCE, || ready(port)).await;
            Ok(Started { process, ready })
        })
        .await?;
        let address = match sockets(role, number, &environment.state) {
            Some(sockets) => format!("unix@{}", sockets.front.display()),
            None => ports::local(port).to_string(),
        };
        Ok(Self { role, number, port, address: Mutex::new(address), slot: Slot::new(process) })
    }

    /// Starts what is down, where it was, and waits until it is ready. What does not become ready stays all the same.
    pub(crate) async fn start_again(
        &self,
        program: &Program,
        environment: &Environment,
    ) -> anyhow::Result<()> {
        let spec = spec(self.role, self.number, self.port, program, environment, true);
        let process = self.slot.replace(Process::start(spec).await?);
        process.wait_until(PATIENCE, || ready(self.port)).await
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Neither down nor paused.
    pub(crate) fn runs(&self) -> bool {
        self.slot.process().condition() == Condition::Runs
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// HAProxy's word for where it is.
    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    /// From its next reload on HAProxy finds it here.
    pub(crate) fn set_address(&self, address: String) {
        *self.address.lock() = address;
    }

    /// `server-1`.
    pub(crate) fn name(&self) -> String {
        name(self.role, self.number)
    }
}

/// Whether the instance on `port` is ready.
pub(crate) async fn ready(port: u16) -> Result<(), String> {
    match probe::get(ports::local(port), "/ready").await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("/ready answers {}: {}", answer.status, answer.body.trim_end())),
        Err(error) => Err(format!("port {port}: {error}")),
    }
}

/// The longest path that a unix socket's address holds.
pub(crate) const LONGEST_SOCKET_PATH: usize = 107;

/// A gateway's unix socket: a hop through it costs a quarter of one over loopback.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    /// Where HAProxy connects: a link to `own`, or to a relay.
    pub(crate) front: PathBuf,
    /// Where the gateway listens.
    pub(crate) own: PathBuf,
}

/// None where the path is too long, and for servers, which listen on TCP alone.
pub(crate) fn sockets(role: Role, number: u16, state: &Path) -> Option<Sockets> {
    let name = name(role, number);
    let own = state.join(format!("{name}.own.sock"));
    let fits = role == Role::Wsproxy && own.as_os_str().len() <= LONGEST_SOCKET_PATH;
    fits.then(|| Sockets { front: state.join(format!("{name}.sock")), own })
}

pub(crate) fn name(role: Role, number: u16) -> String {
    format!("{role}-{number}")
}

fn spec(
    role: Role,
    number: u16,
    port: u16,
    program: &Program,
    environment: &Environment,
    goes_on: bool,
) -> Spec {
    let name = name(role, number);
    let mut env: Vec<(String, OsString)> =
        environment.extra.iter().map(|(name, value)| (name.clone(), value.into())).collect();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.into()));
    set("HOST", "127.0.0.1");
    set("PORT", &port.to_string());
    set("INSTANCE", &name);
    set("REDIS_URL", &links::redis_url(&environment.state, &name, environment.redis_port));
    // Its log is a file.
    set("NO_COLOR", "1");
    set("JWT_SECRET", environment.secret.expose());
    // HAProxy tells gateways where clients are. It comes through the socket, which is in a directory of our own, or by loopback.
    let mut proxy = "127.0.0.1";
    if let Some(sockets) = sockets(role, number, &environment.state) {
        set("UNIX_SOCKET", &sockets.own.to_string_lossy());
        proxy = "unix";
    }
    if role == Role::Wsproxy && !environment.extra.iter().any(|(name, _)| name == "TRUSTED_PROXIES") {
        set("TRUSTED_PROXIES", proxy);
    }
    if let (Role::Server, Some(workers)) = (role, environment.server_workers) {
        set("SERVER_WORKERS", &workers.to_string());
    }
    Spec {
        log: environment.state.join("logs").join(format!("{name}.log")),
        name,
        program: program.path.clone(),
        args: program.arguments.clone(),
        env,
        env_remove: NOT_INHERITED,
        goes_on,
        at_our_death: Signal::SIGKILL,
        niceness: match role {
            Role::Server => crate::SERVER_NICENESS,
            Role::Wsproxy => crate::NICENESS,
        },
    }
}

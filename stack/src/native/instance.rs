//! One server or gateway process: its number, its port, its environment. It is ready when it exists, or it does not exist.

use super::{
    Role,
    ports::{self, Started},
    process::{Process, Spec},
};
use crate::{probe, secret::JwtSecret};
use nix::sys::signal::Signal;
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
    pub(crate) redis_url: String,
    pub(crate) secret: JwtSecret,
    pub(crate) server_workers: Option<usize>,
    pub(crate) extra: Vec<(String, String)>,
}

/// A running instance.
#[derive(Debug)]
pub(crate) struct Instance {
    role: Role,
    number: u16,
    port: u16,
    /// What HAProxy sends to.
    address: String,
    pub(crate) process: Process,
}

impl Instance {
    /// Starts instance `number` of `role` and waits until it is ready.
    pub(crate) async fn start(
        role: Role,
        number: u16,
        program: &Path,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let (process, port) = ports::start_on_free(&[], async |port| {
            let process = Process::start(spec(role, number, port, program, environment)).await?;
            let ready = process.wait_until(PATIENCE, || ready(port)).await;
            Ok(Started { process, ready })
        })
        .await?;
        let address = match unix_socket(role, number, &environment.state) {
            Some(path) => format!("unix@{}", path.display()),
            None => ports::local(port).to_string(),
        };
        Ok(Self { role, number, port, address, process })
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
    pub(crate) fn address(&self) -> &str {
        &self.address
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

/// A gateway's unix socket: a hop through it costs a quarter of one over loopback. None where its path is too long.
fn unix_socket(role: Role, number: u16, state: &Path) -> Option<PathBuf> {
    let path = state.join(format!("{}.sock", name(role, number)));
    (role == Role::Wsproxy && path.as_os_str().len() <= LONGEST_SOCKET_PATH).then_some(path)
}

fn name(role: Role, number: u16) -> String {
    format!("{role}-{number}")
}

fn spec(role: Role, number: u16, port: u16, program: &Path, environment: &Environment) -> Spec {
    let name = name(role, number);
    let mut env: Vec<(String, OsString)> =
        environment.extra.iter().map(|(name, value)| (name.clone(), value.into())).collect();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.into()));
    set("HOST", "127.0.0.1");
    set("PORT", &port.to_string());
    set("INSTANCE", &name);
    set("REDIS_URL", &environment.redis_url);
    // Its log is a file.
    set("NO_COLOR", "1");
    set("JWT_SECRET", environment.secret.expose());
    if let Some(path) = unix_socket(role, number, &environment.state) {
        set("UNIX_SOCKET", &path.to_string_lossy());
    }
    if let (Role::Server, Some(workers)) = (role, environment.server_workers) {
        set("SERVER_WORKERS", &workers.to_string());
    }
    Spec {
        log: environment.state.join("logs").join(format!("{name}.log")),
        name,
        program: program.to_owned(),
        args: Vec::new(),
        env,
        env_remove: NOT_INHERITED,
        at_our_death: Signal::SIGKILL,
    }
}

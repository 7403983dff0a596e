//! A server or gateway process: its number, port and environment.

use super::{
    Program,
    cold_start::{Command, StartTimes},
    paths,
    ports::{self, Started, TakenPorts},
    process::{Process, ProcessState, Spec},
    slot::Slot,
};
use crate::{instance_metrics::first_served, probe, role::Role, scaling::ColdStart, secret::JwtSecret};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Time limit for an instance to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Environment variables of this process that would contradict those of an instance.
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

/// Configuration of all instances of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) state_dir: PathBuf,
    pub(crate) redis_port: Option<u16>,
    pub(crate) secret: JwtSecret,
    pub(crate) server_workers: Option<usize>,
    pub(crate) extra: Vec<(String, String)>,
}

/// An instance, running or down. It keeps its number and port across restarts.
#[derive(Debug)]
pub(crate) struct Instance {
    role: Role,
    number: u16,
    port: u16,
    /// The address to which HAProxy connects.
    address: Mutex<String>,
    /// The times of the last start.
    start: Mutex<StartTimes>,
    slot: Slot,
}

impl Instance {
    /// Starts an instance and waits until it is ready.
    pub(crate) async fn start(
        role: Role,
        number: u16,
        program: &Program,
        environment: &Environment,
        taken: &TakenPorts,
        command: Command,
    ) -> anyhow::Result<Self> {
        let (process, port) = ports::start_on_free(taken, async |port| {
            let process = Process::start(spec(role, number, port, program, environment, false)).await?;
            let ready = process.wait_until(READY_TIMEOUT, || ready(port)).await;
            Ok(Started { process, ready })
        })
        .await?;
        let address = match paths::gateway_socket(role, number, &environment.state_dir) {
            Some(socket) => format!("unix@{}", socket.link.display()),
            None => ports::loopback(port).to_string(),
        };
        let mut start = StartTimes::new(command);
        start.ready();
        let (address, start) = (Mutex::new(address), Mutex::new(start));
        Ok(Self { role, number, port, address, start, slot: Slot::new(process) })
    }

    /// Starts an instance that is down, on the same port, and waits until it is ready. If it does not become ready, it keeps running.
    pub(crate) async fn start_again(
        &self,
        program: &Program,
        environment: &Environment,
    ) -> anyhow::Result<()> {
        *self.start.lock() = StartTimes::new(Command::now());
        let spec = spec(self.role, self.number, self.port, program, environment, true);
        let process = self.slot.replace(Process::start(spec).await?);
        process.wait_until(READY_TIMEOUT, || ready(self.port)).await?;
        self.update_start(StartTimes::ready);
        Ok(())
    }

    /// Changes the times of the last start.
    pub(crate) fn update_start(&self, update: impl FnOnce(&mut StartTimes)) {
        update(&mut self.start.lock());
    }

    /// Returns how long the last start took, once the process is ready.
    pub(crate) fn cold_start(&self) -> Option<ColdStart> {
        self.start.lock().cold_start(self.name())
    }

    /// Reads the first session or query from the metrics, if it is not known yet. An instance that does not respond has none.
    pub(crate) async fn look_for_first_served(&self) {
        if self.start.lock().has_served() {
            return;
        }
        let Ok(page) = probe::get(ports::loopback(self.port), "/metrics").await else { return };
        if let Some(unix) = first_served(self.role, &page.body) {
            self.update_start(|times| times.first_served(unix));
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Returns whether the process is neither down nor paused.
    pub(crate) fn is_running(&self) -> bool {
        self.slot.process().state() == ProcessState::Running
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

    /// Returns the address to which HAProxy connects, as its configuration writes it.
    pub(crate) fn address(&self) -> String {
        self.address.lock().clone()
    }

    /// Sets the address to which HAProxy connects after its next reload.
    pub(crate) fn set_address(&self, address: String) {
        *self.address.lock() = address;
    }

    /// Returns the name, for example `server-1`.
    pub(crate) fn name(&self) -> String {
        paths::instance_name(self.role, self.number)
    }
}

/// Checks that the instance on `port` is ready. The error says why it is not.
pub(crate) async fn ready(port: u16) -> Result<(), String> {
    match probe::get(ports::loopback(port), "/ready").await {
        Ok(response) if response.status == 200 => Ok(()),
        Ok(response) => Err(format!("/ready returned {}: {}", response.status, response.body.trim_end())),
        Err(error) => Err(format!("port {port}: {error}")),
    }
}

/// Returns how to start an instance.
fn spec(
    role: Role,
    number: u16,
    port: u16,
    program: &Program,
    environment: &Environment,
    append_log: bool,
) -> Spec {
    let name = paths::instance_name(role, number);
    let mut env: Vec<(String, OsString)> =
        environment.extra.iter().map(|(name, value)| (name.clone(), value.into())).collect();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.into()));
    set("HOST", "127.0.0.1");
    set("PORT", &port.to_string());
    set("INSTANCE", &name);
    set("REDIS_URL", &paths::redis_url(&environment.state_dir, &name, environment.redis_port));
    // The log is a file, not a terminal.
    set("NO_COLOR", "1");
    set("JWT_SECRET", environment.secret.expose());
    // HAProxy tells gateways the addresses of clients. It connects to the unix socket, whose directory other users cannot enter, or
    // over loopback.
    let mut proxy = "127.0.0.1";
    if let Some(socket) = paths::gateway_socket(role, number, &environment.state_dir) {
        set("UNIX_SOCKET", &socket.listener.to_string_lossy());
        proxy = "unix";
    }
    if role == Role::Wsproxy && !environment.extra.iter().any(|(name, _)| name == "TRUSTED_PROXIES") {
        set("TRUSTED_PROXIES", proxy);
    }
    if let (Role::Server, Some(workers)) = (role, environment.server_workers) {
        set("SERVER_WORKERS", &workers.to_string());
    }
    Spec {
        log: paths::log(&environment.state_dir, &name),
        name,
        program: program.path.clone(),
        args: program.arguments.clone(),
        env,
        env_remove: NOT_INHERITED,
        append_log,
        parent_death_signal: Signal::SIGKILL,
        niceness: match role {
            Role::Server => crate::SERVER_NICENESS,
            Role::Wsproxy => crate::NICENESS,
        },
    }
}

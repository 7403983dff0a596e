//! Native stacks for tests of faults, and requests to them.

use super::{
    processes::ChildGuard,
    programs::{self, stack},
    wait_until,
};
use nix::sys::signal::Signal;
use stack::{
    fault::{Fault, Injected},
    native::{Native, Options, ProcessStatus, Status},
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

/// Returns a configuration with one server, two gateways and the program under test.
pub fn options(state_dir: &Path) -> Options {
    let environment = vec![("DRAIN_SECONDS".to_owned(), "1".to_owned())];
    let options = Options::new(state_dir.to_owned(), programs::binaries());
    Options { servers: 1, proxies: 2, environment, ..options }
}

/// Starts a native stack under a supervisor on free ports, and waits until it is up.
pub fn up(state_dir: &Path, arguments: &[&str]) -> (ChildGuard, Status) {
    let free_ports = ["--api-port", "0", "--ws-port", "0", "--stats-port", "0"];
    let mut supervisor =
        ChildGuard::start(&mut stack(state_dir, &[&["up"], arguments, &free_ports].concat()));
    let mut up = None;
    wait_until("the stack is up", || {
        assert!(supervisor.0.try_wait().unwrap().is_none(), "the supervisor ended: see its error above");
        up = status(state_dir);
        up.is_some()
    });
    (supervisor, up.unwrap())
}

/// Returns the status of a stack that is up.
pub fn status(state_dir: &Path) -> Option<Status> {
    let output = stack(state_dir, &["status", "--json"]).output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Injects a fault, which must succeed.
pub async fn inject(native: &Native, fault: &str) -> Injected {
    native.inject(&parse(fault)).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Injects a fault, which must fail. Returns the error.
pub async fn inject_error(native: &Native, fault: &str) -> String {
    format!("{:#}", native.inject(&parse(fault)).await.expect_err(fault))
}

pub fn parse(fault: &str) -> Fault {
    fault.parse().unwrap()
}

pub async fn process(native: &Native, name: &str) -> ProcessStatus {
    native.status().await.processes.into_iter().find(|process| process.name == name).unwrap()
}

/// Waits until every process is ready and every HAProxy sends to both roles.
pub async fn wait_until_ready(native: &Native) {
    let wait = async {
        while native.status().await.processes.iter().any(|process| process.state != "ready") {
            tokio::task::yield_now().await;
        }
        for haproxy in native.haproxies() {
            let ready = format!("{}/ready", haproxy.stats_url);
            while reqwest::get(&ready).await.unwrap().status() != 200 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(super::TIMEOUT, wait).await.expect("the stack is ready again");
}

/// Sends one command to the stack's Redis and returns the reply.
pub async fn redis(native: &Native, command: &str) -> String {
    ask_redis(&process(native, "redis").await.socket.unwrap(), command)
}

/// Sends one command to a Redis at this socket and returns the reply.
pub fn ask_redis(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{command}\r\nQUIT\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.strip_suffix("+OK\r\n").unwrap().trim_end().to_owned()
}

/// Returns whether a state says that a signal ended the process.
pub fn ended_by(state: &str, signal: Signal) -> bool {
    state.starts_with("ended") && state.contains(signal.as_str())
}

//! Ports on 127.0.0.1: checks of the public ports, and free ports for instances. Free ports are below the ephemeral range, so that
//! no outgoing connection uses them. A free port is not reserved: another process can take it before it is used.

use super::process::Process;
use anyhow::bail;
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tracing::warn;
use uuid::Uuid;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// Number of ports that are tried before a start fails.
pub(crate) const ATTEMPTS: usize = 5;

/// Returns the address `127.0.0.1:port`.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Returns whether a process could listen on this port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

/// Returns a random port from 20000 to 31999 that is free now and not in `taken`. It is random so that stacks that start at the
/// same time seldom choose the same port.
///
/// # Errors
/// All these ports are in use.
pub fn free(taken: &[u16]) -> anyhow::Result<u16> {
    let start = (Uuid::new_v4().as_u128() % u128::from(COUNT)) as u16;
    let mut candidates = (0..COUNT).map(|step| FIRST + (start + step) % COUNT);
    match candidates.find(|port| !taken.contains(port) && is_free(*port)) {
        Some(port) => Ok(port),
        None => bail!("no port from {FIRST} to {} is free", FIRST + COUNT - 1),
    }
}

/// The ports that no further process may choose. Processes that start at the same time share it: a port that one has chosen can look free
/// to the others, because its process does not listen yet or, as HAProxy does, lets other processes listen as well.
#[derive(Debug)]
pub(crate) struct TakenPorts(Mutex<Vec<u16>>);

impl TakenPorts {
    pub(crate) fn new(ports: Vec<u16>) -> Self {
        Self(Mutex::new(ports))
    }

    /// Returns a free port that was not returned before, as [`free`] does.
    pub(crate) fn take_free(&self) -> anyhow::Result<u16> {
        let mut taken = self.0.lock();
        let port = free(&taken)?;
        taken.push(port);
        Ok(port)
    }
}

/// A process that was started on a port, and whether it became ready.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) ready: anyhow::Result<()>,
}

/// Starts a process on a free port. If another process has taken the port first, tries another port. Returns any other error.
pub(crate) async fn start_on_free(
    taken: &TakenPorts,
    start: impl AsyncFn(u16) -> anyhow::Result<Started>,
) -> anyhow::Result<(Process, u16)> {
    let mut attempt = 1;
    loop {
        let port = taken.take_free()?;
        let Started { process, ready } = start(port).await?;
        let Err(error) = ready else { return Ok((process, port)) };
        let port_was_taken = process.ended().is_some() && !is_free(port);
        if !port_was_taken || attempt == ATTEMPTS {
            return Err(error);
        }
        warn!(name = process.name(), port, "another process took the port: trying another port");
        attempt += 1;
    }
}

/// Checks that ports are free. `wanted` pairs each port with its flag. The error has one line for each port that is in use.
pub(crate) fn check(wanted: &[(u16, String)]) -> anyhow::Result<()> {
    let errors: Vec<String> = wanted
        .iter()
        .filter(|(port, _)| *port != 0 && !is_free(*port))
        .map(|(port, flag)| {
            format!("port {port} is in use: end the process that listens there, or choose another port with {flag}")
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let message = check(&[(port, "--api-port".into()), (0, "--ws-port".into())]).unwrap_err().to_string();
        assert!(message.contains(&port.to_string()) && message.contains("--api-port"), "{message}");
        assert!(!message.contains("--ws-port"));
    }

    #[test]
    fn ports_of_concurrent_starts_differ() {
        // Only eight ports are left, so that none can be chosen a ninth time.
        let taken = TakenPorts::new((FIRST + 8..FIRST + COUNT).collect());
        let mut ports: Vec<u16> = std::iter::from_fn(|| taken.take_free().ok()).take(100).collect();
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert!(count == ports.len() && (1..=8).contains(&count), "{ports:?}");
    }

    #[test]
    fn free_ports_differ_and_lie_below_the_ephemeral_range() {
        let first = free(&[]).unwrap();
        let second = free(&[first]).unwrap();
        assert_ne!(first, second);
        assert!((FIRST..FIRST + COUNT).contains(&first));
    }
}

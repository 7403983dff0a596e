//! Ports: which are taken before anything starts, and free ones for instances, below the ephemeral range so that no
//! outgoing connection ever holds them. A free port is a good guess, never a reservation.

use super::process::Process;
use anyhow::bail;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tracing::warn;
use uuid::Uuid;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
pub(crate) const ATTEMPTS: usize = 5;

/// `127.0.0.1:port`.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Whether something could listen on this port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(local(port)).is_ok()
}

/// A port that is free now and not in `taken`: a random one, so that stacks started together seldom meet.
///
/// # Errors
/// All are in use.
pub fn free(taken: &[u16]) -> anyhow::Result<u16> {
    let start = (Uuid::new_v4().as_u128() % u128::from(COUNT)) as u16;
    let mut candidates = (0..COUNT).map(|step| FIRST + (start + step) % COUNT);
    match candidates.find(|port| !taken.contains(port) && is_free(*port)) {
        Some(port) => Ok(port),
        None => bail!("no port from {FIRST} to {} is free", FIRST + COUNT - 1),
    }
}

/// A process that was started on a port, and how that went.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) ready: anyhow::Result<()>,
}

/// Starts a process on a free port. Where somebody else took the port first, it is tried on another; any other failure
/// is the caller's to hear.
pub(crate) async fn start_on_free(
    taken: &[u16],
    start: impl AsyncFn(u16) -> anyhow::Result<Started>,
) -> anyhow::Result<(Process, u16)> {
    let mut attempt = 1;
    loop {
        let port = free(taken)?;
        let Started { process, ready } = start(port).await?;
        let Err(error) = ready else { return Ok((process, port)) };
        let lost_the_race = process.ended().is_some() && !is_free(port);
        if !lost_the_race || attempt == ATTEMPTS {
            return Err(error);
        }
        warn!(name = process.name(), port, "somebody else took the port first: trying another");
        attempt += 1;
    }
}

/// Fails with a line for each wanted port that is in use; `wanted` pairs a port with the flag that sets it.
pub(crate) fn check(wanted: &[(u16, &str)]) -> anyhow::Result<()> {
    let faults: Vec<String> = wanted
        .iter()
        .filter(|(port, _)| *port != 0 && !is_free(*port))
        .map(|(port, flag)| {
            format!("port {port} is in use: end what listens there, or give another with {flag}")
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { bail!(faults.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let listener = TcpListener::bind(local(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let message = check(&[(port, "--api-port"), (0, "--ws-port")]).unwrap_err().to_string();
        assert!(message.contains(&port.to_string()) && message.contains("--api-port"), "{message}");
        assert!(!message.contains("--ws-port"));
    }

    #[test]
    fn free_ports_differ_and_lie_below_the_ephemeral_range() {
        let first = free(&[]).unwrap();
        let second = free(&[first]).unwrap();
        assert_ne!(first, second);
        assert!((FIRST..FIRST + COUNT).contains(&first));
    }
}

//! Sets up a gateway process: limits and ports. Embedders of the library do not need it.

use crate::{
    accept::SPARE_CONNECTIONS,
    socket::{Listeners, bind_unix},
};
use std::path::Path;
use tokio::net::TcpListener;

/// Listens on the port, and on the unix socket if `unix` names one.
///
/// # Errors
/// The address cannot be bound. The message names it and the variable to change.
pub async fn bind(host: &str, port: u16, unix: Option<&Path>) -> anyhow::Result<Listeners> {
    let tcp = TcpListener::bind((host, port)).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {host}:{port}: {error}; choose another address with HOST and PORT")
    })?;
    let Some(path) = unix else { return Ok(tcp.into()) };
    let unix = bind_unix(path).map_err(|error| {
        anyhow::anyhow!("cannot listen on {}: {error}; choose another path with UNIX_SOCKET", path.display())
    })?;
    Ok(Listeners::from(tcp).and_unix(unix))
}

/// Open files besides the sockets: connections without a WebSocket, the bus, the runtime and the log.
const SPARE_FILES: u64 = SPARE_CONNECTIONS as u64 + 64;

/// Returns a warning if `max_connections` sockets do not fit into `limit` open files.
pub(crate) fn too_few_files(max_connections: usize, limit: u64) -> Option<String> {
    let needed = (max_connections as u64).saturating_add(SPARE_FILES);
    (needed > limit).then(|| {
        format!(
            "MAX_CONNECTIONS={max_connections} needs {needed} open files and this process may have {limit}: lower it to \
             {}, or raise the hard limit (`ulimit -Hn`, `LimitNOFILE=`, `ulimits: nofile`)",
            limit.saturating_sub(SPARE_FILES)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_about_open_files_names_what_fits() {
        assert_eq!(too_few_files(10_000, 20_000), None);
        assert_eq!(too_few_files(680, 1_000), None);
        let warning = too_few_files(10_000, 1_024).unwrap();
        for part in ["MAX_CONNECTIONS=10000", "10320", "1024", "lower it to 704", "ulimit -Hn"] {
            assert!(warning.contains(part), "{part} is not in {warning}");
        }
        assert!(too_few_files(usize::MAX, u64::MAX).is_none() && too_few_files(1, 0).is_some());
    }

    #[tokio::test]
    async fn a_unix_socket_replaces_that_of_a_dead_process_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.sock");
        let listeners = bind("127.0.0.1", 0, Some(&path)).await.unwrap();
        let (accepted, _client) = tokio::join!(listeners.accept(), tokio::net::UnixStream::connect(&path));
        assert!(matches!(accepted.unwrap(), (crate::socket::Socket::Unix(_), crate::sources::Peer::Unix)));
        let taken = bind("127.0.0.1", 0, Some(&path)).await.unwrap_err().to_string();
        assert!(taken.contains("gateway.sock") && taken.contains("UNIX_SOCKET"), "{taken}");
        drop(listeners);
        assert!(path.exists(), "a killed process leaves its socket behind");
        bind("127.0.0.1", 0, Some(&path)).await.unwrap();
    }
}

//! The gateway as a program: reads its arguments and environment, binds its listeners, serves until a signal ends it.

use crate::{
    accept::SPARE_CONNECTIONS,
    args::{Args, Settings},
    socket::{Listeners, bind_unix},
};
use protocol::Verifier;
use settings::flags::{self, ConfigErrors, REFUSED};
use std::{
    ffi::OsString,
    io::{self, Write},
    net::Ipv4Addr,
    path::Path,
    process::ExitCode,
};
use tokio::net::TcpListener;

/// Open files besides the sockets: connections without a WebSocket, the bus, the runtime and the log.
const SPARE_FILES: u64 = SPARE_CONNECTIONS as u64 + 64;

/// Runs the gateway with these arguments, the program's name first. Returns 104 for a wrong configuration, 1 for another failure.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    let read = match flags::read::<Args>(arguments, environment, &[]) {
        Ok(read) => read,
        Err(error) => return flags::refuse(&error),
    };
    if read.args.health_check && read.errors == ConfigErrors::default() {
        let ready = host::check_ready((Ipv4Addr::LOCALHOST, read.args.port).into());
        return ExitCode::from(u8::from(ready.is_err()));
    }
    host::log_to_stderr();
    match Args::settings(read).map_err(Into::into).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log, whose level may exclude it.
            let _ = writeln!(io::stderr(), "wsproxy: {error:#}");
            ExitCode::from(if error.is::<ConfigErrors>() { REFUSED } else { 1 })
        }
    }
}

fn serve(Settings { mut args, secret, bus, warnings }: Settings) -> anyhow::Result<()> {
    args.gateway.instance.clone_from(&bus.instance);
    if let Some(warning) = too_few_files(args.gateway.max_connections, host::raise_open_files()) {
        tracing::warn!("{warning}");
    }
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    host::runtime(args.ws_threads)?.block_on(async {
        let listeners = bind(&args.host, args.port, args.unix_socket.as_deref()).await?;
        let bus = bus::open(bus)?;
        crate::run(listeners, Verifier::new(&secret), args.gateway, bus, host::shutdown_on_signal()?).await
    })
}

/// Listens on the port, and on the unix socket if `unix` names one.
async fn bind(host: &str, port: u16, unix: Option<&Path>) -> anyhow::Result<Listeners> {
    let tcp = TcpListener::bind((host, port)).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {host}:{port}: {error}; choose another address with HOST and PORT")
    })?;
    let Some(path) = unix else { return Ok(tcp.into()) };
    let unix = bind_unix(path).map_err(|error| {
        anyhow::anyhow!("cannot listen on {}: {error}; choose another path with UNIX_SOCKET", path.display())
    })?;
    Ok(Listeners::from(tcp).and_unix(unix))
}

/// Returns a warning if `max_connections` sockets do not fit into `limit` open files.
fn too_few_files(max_connections: usize, limit: u64) -> Option<String> {
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

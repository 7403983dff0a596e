//! The members of a native stack, from the status of its supervisor.
//! Each instance listens on a loopback port, even if HAProxy connects to its unix socket.

use super::Member;
use crate::{
    control::{Request, Response, call},
    native::{ProcessStatus, Status},
};
use anyhow::bail;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

/// Returns whether an HAProxy of the stack has the HTTP API at `api_port`.
pub(super) fn has_api_port(state_dir: &Path, api_port: u16) -> anyhow::Result<bool> {
    let end = format!(":{api_port}");
    Ok(status(state_dir)?.haproxies.iter().any(|haproxy| haproxy.api_url.ends_with(&end)))
}

/// Lists the members.
pub(super) fn members(state_dir: &Path) -> anyhow::Result<Vec<Member>> {
    Ok(status(state_dir)?.processes.into_iter().map(member).collect())
}

pub(super) fn status(state_dir: &Path) -> anyhow::Result<Status> {
    match call(state_dir, &Request::Status)? {
        Response::Status(status) => Ok(status),
        other => bail!("unexpected response of the supervisor to a request for its status: {other:?}"),
    }
}

fn member(process: ProcessStatus) -> Member {
    let ended = process.state.starts_with("ended");
    let is_instance = process.name.starts_with("server-") || process.name.starts_with("wsproxy-");
    Member {
        pid: (!ended).then_some(process.pid),
        // The first HAProxy process only supervises its workers.
        has_children: process.name.starts_with("haproxy"),
        http: process.port.filter(|_| is_instance).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        incarnation: process.pid.to_string(),
        ended,
        name: process.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_instances_have_an_address() {
        let process = |name: &str, port, state: &str| {
            member(ProcessStatus {
                name: name.into(),
                pid: 7,
                port,
                socket: None,
                state: state.into(),
                cold_start: None,
                log: "/x".into(),
            })
        };
        let gateway = process("wsproxy-1", Some(4040), "ready");
        assert_eq!(gateway.http, Some("127.0.0.1:4040".parse().unwrap()));
        assert_eq!((gateway.pid, gateway.incarnation.as_str(), gateway.ended), (Some(7), "7", false));
        assert_eq!(process("redis", Some(6379), "ready").http, None);
        assert!(
            process("haproxy", None, "ready").has_children
                && process("haproxy-2", None, "ready").has_children
        );
        let ended = process("server-1", Some(8000), "ended: signal 9");
        assert_eq!((ended.pid, ended.ended), (None, true));
    }
}

//! Paths in the state directory of a native stack: sockets, links to them, and logs.

use super::ports;
use crate::role::Role;
use std::path::{Path, PathBuf};

/// Longest path that fits into the address of a unix socket, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Returns the name of an instance, for example `server-1`.
pub(crate) fn instance_name(role: Role, number: u16) -> String {
    format!("{role}-{number}")
}

/// Returns the log of a process.
pub(crate) fn log(state_dir: &Path, process: &str) -> PathBuf {
    state_dir.join("logs").join(format!("{process}.log"))
}

/// The unix socket of a gateway. A hop through it costs a quarter of one over loopback.
#[derive(Clone, Debug)]
pub(crate) struct GatewaySocket {
    /// The path to which HAProxy connects: a symbolic link to `listener`, or to the socket of a relay.
    pub(crate) link: PathBuf,
    /// The path at which the gateway listens.
    pub(crate) listener: PathBuf,
}

/// Returns the unix socket of a gateway. `None` if the path is too long, and for servers, which listen on TCP only.
pub(crate) fn gateway_socket(role: Role, number: u16, state_dir: &Path) -> Option<GatewaySocket> {
    let name = instance_name(role, number);
    let listener = state_dir.join(format!("{name}.own.sock"));
    let fits = role == Role::Wsproxy && listener.as_os_str().len() <= LONGEST_SOCKET_PATH;
    fits.then(|| GatewaySocket { link: state_dir.join(format!("{name}.sock")), listener })
}

/// Returns the unix socket of Redis. `None` if Redis has a TCP port instead.
pub(crate) fn redis_socket(state_dir: &Path) -> Option<PathBuf> {
    redis_has_socket(state_dir).then(|| state_dir.join("redis.sock"))
}

/// Returns the symbolic link over which a process connects to Redis: it leads to the socket of Redis or of a relay.
/// `None` if Redis has a TCP port instead.
pub(crate) fn redis_link(state_dir: &Path, process: &str) -> Option<PathBuf> {
    redis_has_socket(state_dir).then(|| state_dir.join(format!("redis.{process}.sock")))
}

/// Returns the URL of Redis for a process: its link, or the TCP port.
pub(crate) fn redis_url(state_dir: &Path, process: &str, port: Option<u16>) -> String {
    match redis_link(state_dir, process) {
        Some(path) => format!("redis+unix://{}", path.display()),
        None => format!("redis://{}", ports::loopback(port.unwrap_or(0))),
    }
}

/// Returns whether all processes can reach Redis through unix sockets in `state_dir`: each path fits into a socket's address and
/// into a URL. It is the same for all processes, so that Redis needs no port in addition to its socket.
fn redis_has_socket(state_dir: &Path) -> bool {
    let longest = state_dir.join(format!("redis.{}.sock", instance_name(Role::Wsproxy, u16::MAX)));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    longest.to_string_lossy().bytes().all(is_plain) && longest.as_os_str().len() <= LONGEST_SOCKET_PATH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_has_a_tcp_port_if_a_path_does_not_fit() {
        let short = redis_url(Path::new("/tmp/x"), "wsproxy-1", None);
        assert_eq!(short, "redis+unix:///tmp/x/redis.wsproxy-1.sock");
        for state_dir in [format!("/tmp/{}", "x".repeat(100)), "/tmp/with space".to_owned()] {
            assert_eq!(redis_url(Path::new(&state_dir), "wsproxy-1", Some(7000)), "redis://127.0.0.1:7000");
        }
    }
}

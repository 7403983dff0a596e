//! The control socket of a supervisor, a unix socket. A connection carries one request and one response, each a line of JSON of
//! limited length. Both sides ask the kernel for the user of the other side and accept only their own user and root.

use crate::{
    fault::{Fault, Injected},
    files::is_trusted,
    native::Status,
    role::Role,
    scaling::Scaled,
};
use anyhow::{Context, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Limit of the length of a request or a response.
pub(crate) const MAX_LINE_BYTES: usize = 256 << 10;
/// Time limit for the connection, and for sending the request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the blanks that the supervisor sends during a long request. It is well below the client's time limit for such requests,
/// and above its limit for [`Request::Status`].
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A request to the supervisor of a running stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Returns the state of all processes.
    Status,
    /// Starts or ends instances until each role has this number. Returns what changed.
    Scale {
        /// Number of instances per role.
        to: BTreeMap<Role, u16>,
    },
    /// Injects a fault. Responds when it is in force.
    Fault {
        /// The fault.
        fault: Fault,
    },
    /// Checks whether a fault can be injected. Returns the status.
    Check {
        /// The fault.
        fault: Fault,
    },
    /// Ends the stack. Responds when all processes have ended.
    Down,
}

impl Request {
    /// Returns the time limit for the next byte of the response. During a long request the supervisor sends blanks, each of which
    /// restarts the limit. The limit of `Status` is shorter than the interval of the blanks.
    const fn response_timeout(&self) -> Duration {
        match self {
            Self::Status => Duration::from_secs(5),
            Self::Scale { .. } | Self::Fault { .. } | Self::Check { .. } | Self::Down => {
                Duration::from_secs(60)
            }
        }
    }
}

/// The response to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// The state of all processes, after a change as well.
    Status(Status),
    /// The fault is in force.
    Fault(Injected),
    /// The roles have the wanted numbers, and new instances get connections.
    Scaled(Vec<Scaled>),
    /// All processes have ended.
    Ended,
    /// The request failed, for this reason.
    Error(String),
}

/// Returns the path of the control socket in a state directory.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Sends a request to the stack that runs in `state_dir` and returns the response. Blocks: at most 5 s for [`Request::Status`];
/// other requests fail after 60 s without a byte from the supervisor.
///
/// # Errors
/// No stack runs there, it does not respond in time, another user runs it, or the request failed.
pub fn call(state_dir: &Path, request: &Request) -> anyhow::Result<Response> {
    call_within(state_dir, request, request.response_timeout(), is_trusted)
}

fn call_within(
    state_dir: &Path,
    request: &Request,
    timeout: Duration,
    trusts: fn(u32) -> bool,
) -> anyhow::Result<Response> {
    let path = socket(state_dir);
    let mut stream = match connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_absence(&error) => {
            bail!("no stack is running in {}: start one with `streamstress stack up`", state_dir.display())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!(
                "the supervisor did not accept a connection within {CONNECT_TIMEOUT:?}: see its log in {}",
                state_dir.join("logs").display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", path.display())),
    };
    let owner = getsockopt(&stream, PeerCredentials).context("cannot read the user of the supervisor")?.uid();
    if !trusts(owner) {
        bail!(
            "{} belongs to a supervisor of user {owner}, which is not trusted: choose another --state-dir",
            path.display()
        );
    }
    stream.set_read_timeout(Some(timeout))?;
    let logs = state_dir.join("logs");
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut response = String::new();
    if let Err(error) = BufReader::new(stream.take(MAX_LINE_BYTES as u64)).read_line(&mut response) {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("the supervisor did not respond within {timeout:?}")
            }
            _ => format!("cannot read the response of the supervisor ({error})"),
        };
        bail!("{why}: see its log in {}", logs.display());
    }
    if response.is_empty() {
        bail!("the supervisor ended before it responded: see its log in {}", logs.display());
    }
    match serde_json::from_str(&response).context("invalid response of the supervisor")? {
        Response::Error(why) => bail!(why),
        Response::Status(status) => Ok(Response::Status(status.with_haproxies())),
        response => Ok(response),
    }
}

/// Connects to a control socket. This blocks if the supervisor is stopped and its queue of connections is full.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Returns whether a connection failed because no supervisor listens.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_wire_form_of_requests() {
        let scale = Request::Scale { to: BTreeMap::from([(Role::Wsproxy, 5), (Role::Server, 3)]) };
        let text = serde_json::to_string(&scale).unwrap();
        assert_eq!(text, r#"{"do":"scale","to":{"server":3,"wsproxy":5}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), scale);
        assert_eq!(serde_json::from_str::<Request>(r#"{"do":"status"}"#).unwrap(), Request::Status);
        for text in ["", "{}", r#"{"do":"dance"}"#, r#"{"do":"scale","to":{"redis":2}}"#] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text:?} was read as a request");
        }
    }

    #[test]
    fn without_a_stack_the_error_says_how_to_start_one() {
        let empty = tempfile::tempdir().unwrap();
        let message = call(empty.path(), &Request::Status).unwrap_err().to_string();
        assert!(message.contains("no stack is running") && message.contains("stack up"), "{message}");
    }

    #[test]
    fn the_status_of_an_older_supervisor_has_the_urls_of_its_haproxy() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let supervisor = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            let status = r#"{"status":{"api_url":"http://a","ws_url":"ws://w","stats_url":"http://s","processes":[]}}"#;
            writeln!(stream, "{status}").unwrap();
        });
        let Response::Status(status) = call(dir.path(), &Request::Status).unwrap() else {
            panic!("no status")
        };
        let [haproxy] = status.haproxies.as_slice() else { panic!("{status:?}") };
        let shown = [&haproxy.name, &haproxy.api_url, &haproxy.ws_url, &haproxy.stats_url];
        assert_eq!(shown, ["haproxy", "http://a", "ws://w", "http://s"]);
        supervisor.join().unwrap();
    }

    #[test]
    fn a_stopped_supervisor_gives_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let timeout = Duration::from_millis(20);
        let message = call_within(dir.path(), &Request::Status, timeout, is_trusted).unwrap_err();
        assert!(message.to_string().contains("did not respond within 20ms"), "{message}");
        assert!(Request::Status.response_timeout() < KEEPALIVE_INTERVAL, "otherwise blanks would extend it");
        let message = call_within(dir.path(), &Request::Status, timeout, |_| false).unwrap_err().to_string();
        assert!(message.contains("not trusted"), "{message}");
        drop(listener);
    }
}

//! The supervisor's control socket: one JSON line asks, one JSON line answers, then the connection ends. Both are bounded
//! in bytes and time. It speaks over a unix socket. Either side asks the kernel for the other's user: only its own and root count.

use crate::{
    fault::{Fault, Injected},
    files::is_trusted,
    native::{Role, Status},
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

/// The longest line either side takes.
pub(crate) const MAX_LINE_BYTES: usize = 256 << 10;
/// For a connection, and for an order to be taken.
const CALL_PATIENCE: Duration = Duration::from_secs(5);

/// An order to a running stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// What runs?
    Status,
    /// Bring these roles to these numbers of instances.
    Scale {
        /// How many of each.
        to: BTreeMap<Role, u16>,
    },
    /// Break this. Answered when it is in force.
    Fault {
        /// What and how.
        fault: Fault,
    },
    /// Could this be broken? Answered with what runs.
    Check {
        /// What and how.
        fault: Fault,
    },
    /// End everything. Answered when all is ended.
    Down,
}

impl Request {
    /// For the next byte of the answer. While an order takes long the supervisor sends blanks, each of which begins it anew;
    /// before the first of them a question has been given up.
    const fn patience(&self) -> Duration {
        match self {
            Self::Status => Duration::from_secs(5),
            Self::Scale { .. } | Self::Fault { .. } | Self::Check { .. } | Self::Down => {
                Duration::from_secs(60)
            }
        }
    }
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// What runs (after a change, too).
    Status(Status),
    /// The fault is in force.
    Fault(Injected),
    /// Everything has ended.
    Ended,
    /// The order failed, and why.
    Error(String),
}

/// Where a stack's socket is.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Gives an order to the stack that runs in `state_dir`. Blocks: 5 s for a question, 60 s without a sign of life for others.
///
/// # Errors
/// No stack runs there, it does not answer, or it says why it failed.
pub fn call(state_dir: &Path, request: &Request) -> anyhow::Result<Response> {
    call_within(state_dir, request, request.patience(), is_trusted)
}

fn call_within(
    state_dir: &Path,
    request: &Request,
    patience: Duration,
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
                "the supervisor takes no call within {CALL_PATIENCE:?}: its log is in {}",
                state_dir.join("logs").display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("cannot reach {}", path.display())),
    };
    let owner = getsockopt(&stream, PeerCredentials).context("the supervisor's user cannot be told")?.uid();
    if !trusts(owner) {
        bail!("{} is served by user {owner}, who is not trusted: give another --state-dir", path.display());
    }
    stream.set_read_timeout(Some(patience))?;
    let logs = state_dir.join("logs");
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    if let Err(error) = BufReader::new(stream.take(MAX_LINE_BYTES as u64)).read_line(&mut answer) {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("does not answer within {patience:?}")
            }
            _ => format!("cannot be heard ({error})"),
        };
        bail!("the supervisor {why}: its log is in {}", logs.display());
    }
    if answer.is_empty() {
        bail!("the supervisor ended before it answered: its log is in {}", logs.display());
    }
    match serde_json::from_str(&answer).context("the supervisor's answer makes no sense")? {
        Response::Error(why) => bail!(why),
        response => Ok(response),
    }
}

/// A supervisor that stands still lets its callers queue, and beyond some number wait to connect.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(CALL_PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::SIGN_OF_LIFE;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_wire_form_of_orders() {
        let scale = Request::Scale { to: BTreeMap::from([(Role::Wsproxy, 5), (Role::Server, 3)]) };
        let text = serde_json::to_string(&scale).unwrap();
        assert_eq!(text, r#"{"do":"scale","to":{"server":3,"wsproxy":5}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), scale);
        assert_eq!(serde_json::from_str::<Request>(r#"{"do":"status"}"#).unwrap(), Request::Status);
        for text in ["", "{}", r#"{"do":"dance"}"#, r#"{"do":"scale","to":{"redis":2}}"#] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text:?} was taken for an order");
        }
    }

    #[test]
    fn without_a_stack_the_error_says_how_to_start_one() {
        let empty = tempfile::tempdir().unwrap();
        let message = call(empty.path(), &Request::Status).unwrap_err().to_string();
        assert!(message.contains("no stack is running") && message.contains("stack up"), "{message}");
    }

    #[test]
    fn a_supervisor_that_stands_still_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let patience = Duration::from_millis(20);
        let message = call_within(dir.path(), &Request::Status, patience, is_trusted).unwrap_err();
        assert!(message.to_string().contains("does not answer within 20ms"), "{message}");
        assert!(Request::Status.patience() < SIGN_OF_LIFE, "or blanks would draw it out");
        let message = call_within(dir.path(), &Request::Status, patience, |_| false).unwrap_err().to_string();
        assert!(message.contains("not trusted"), "{message}");
        drop(listener);
    }
}

//! Keeps a listener accepting after any error.
//!
//! An acceptor holds one file descriptor in reserve. If the process has no other left, the acceptor closes the reserve, accepts the next
//! connection and closes it. So that client learns at once that there is no room, and does not block those behind it.

use nix::errno::Errno;
use std::{
    fs::File,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tracing::warn;

/// Pause if the reserve does not help, because the whole system has no file descriptors or memory left.
const PAUSE: Duration = Duration::from_millis(20);

/// The first of this many failures in a row is logged.
const LOG_EVERY: u64 = 1000;

/// After this many broken connections in a row, the listener itself counts as broken.
const MANY: u64 = 100;

/// Why a connection was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The connection ended or failed before it was accepted.
    Broken,
    /// The connection was closed, because the process has no file descriptor left.
    NoDescriptor,
    /// The connection still waits, because the system has no room. A pause has passed.
    NoRoom,
}

impl Failed {
    /// Returns the value of the label `reason` in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::NoDescriptor => "no_descriptor",
            Self::NoRoom => "no_room",
        }
    }
}

/// Handles the errors of one listener. It holds a file descriptor in reserve.
#[derive(Debug)]
pub struct Acceptor {
    reserve: Option<File>,
    failures: u64,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self { reserve: reserve(), failures: 0 }
    }
}

impl Acceptor {
    /// Notes that a connection was accepted.
    pub const fn accepted(&mut self) {
        self.failures = 0;
    }

    /// Handles `error`, with which the listener did not accept a connection. `accept_now` must accept one connection without waiting, drop
    /// it, and return whether there was one. The caller then accepts again at once: this function pauses if necessary.
    pub async fn failed(&mut self, error: &io::Error, accept_now: impl FnOnce() -> bool) -> Failed {
        let failed = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE) => self.refuse_one(accept_now),
            Some(Errno::ENOBUFS | Errno::ENOMEM) => Failed::NoRoom,
            _ => Failed::Broken,
        };
        if self.failures.is_multiple_of(LOG_EVERY) {
            warn!(failed = failed.label(), "a connection was not accepted: {error}");
        }
        self.failures += 1;
        // A broken listener fails at once each time, so accepting without a pause would take a whole core.
        if failed == Failed::NoRoom || (failed == Failed::Broken && self.failures > MANY) {
            tokio::time::sleep(PAUSE).await;
        }
        failed
    }

    /// Accepts and closes the next connection with the file descriptor of the reserve.
    fn refuse_one(&mut self, accept_now: impl FnOnce() -> bool) -> Failed {
        let refused = self.reserve.take().is_some() && accept_now();
        self.reserve = reserve();
        if refused { Failed::NoDescriptor } else { Failed::NoRoom }
    }
}

/// Polls `accept` once and drops the connection. Returns whether there was one.
pub fn accept_now<T>(accept: impl Future<Output = io::Result<T>>) -> bool {
    matches!(pin!(accept).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
}

/// Opens a file descriptor to hold in reserve.
fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

//! Goes on accepting whatever the system says. A connection that failed is its own affair. A process without free descriptors
//! keeps one in reserve: it gives it up, accepts the connection that waits and closes it, so that a client learns at once
//! that there is no room, and clients behind it are not kept waiting.

use nix::errno::Errno;
use std::{
    fs::File,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tracing::warn;

/// Pause where not even the reserve helps: the system as a whole has no descriptors or no memory.
const PAUSE: Duration = Duration::from_millis(20);

/// Of this many failures in a row one is logged.
const LOG_EVERY: u64 = 1000;

/// So many broken connections in a row are taken for a broken listener.
const MANY: u64 = 100;

/// What became of a connection that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It ended or broke before it was accepted.
    Broken,
    /// It was closed, because the process has no descriptor for it.
    NoDescriptor,
    /// It still waits: the system has no room. A pause has passed.
    NoRoom,
}

impl Failed {
    /// Its label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::NoDescriptor => "no_descriptor",
            Self::NoRoom => "no_room",
        }
    }
}

/// What a listener does about connections that it cannot accept. It holds a descriptor in reserve.
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

    /// Deals with a connection that was not accepted for `error`, and returns what became of it. `accept_now` accepts one without
    /// waiting and drops it; it returns whether there was one. After this the caller accepts again, without a pause of its own.
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
        // A listener that is broken itself fails at once, again and again.
        if failed == Failed::NoRoom || (failed == Failed::Broken && self.failures > MANY) {
            tokio::time::sleep(PAUSE).await;
        }
        failed
    }

    /// Closes the connection that waits, in the place of the reserve.
    fn refuse_one(&mut self, accept_now: impl FnOnce() -> bool) -> Failed {
        let refused = self.reserve.take().is_some() && accept_now();
        self.reserve = reserve();
        if refused { Failed::NoDescriptor } else { Failed::NoRoom }
    }
}

/// Polls `accept` once: whether it gives a connection now, which is dropped.
pub fn accept_now<T>(accept: impl Future<Output = io::Result<T>>) -> bool {
    matches!(pin!(accept).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

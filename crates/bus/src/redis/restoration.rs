//! Restores data that Redis has lost. A server restores its acknowledged history. A gateway restores the sessions that
//! it holds, the cursors that it released, and the fact that held sessions take queries. Every step may be repeated,
//! and changes nothing if nothing was lost.

mod attachments;
mod sessions;

pub(super) use attachments::Cursors;

use super::{
    Inner,
    per_session::{self, OnUnknown},
};
use crate::{BusError, Counters, Role, rules::Restoration};
use attachments::{report_holders, restore_attachments};
use protocol::SessionId;
use sessions::restore_sessions;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Pause after a restoration that failed.
const RETRY: Duration = Duration::from_millis(100);
/// Number of failed attempts after which a refusal of unknown kind is attributed to the session: at least two seconds.
const UNKNOWN_ATTEMPTS: u32 = 20;

/// Restores data after every loss, forever. After the control channel was interrupted, a gateway also reports the
/// sessions that it holds: it may have missed a takeover.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut closes_again = false;
    let (mut restoring, mut closing) = (Attempts::default(), Attempts::default());
    loop {
        let losses = tokio::select! {
            losses = inner.incarnation.loss() => losses,
            () = inner.subscribers[0].reconnected() => {
                let mut connection = inner.commands.connected().await;
                if let Err(error) = report_holders(&inner, &mut connection, false, OnUnknown::Skip).await {
                    tracing::debug!("the report of held sessions failed, trying again: {error}");
                    inner.subscribers[0].report_again();
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            () = inner.close_again.notified() => {
                closes_again = true;
                continue;
            }
            () = wait_until_complete(&inner), if closes_again => {
                // Only the closes up to here are done: one that comes meanwhile is counted on top.
                let unwritten_ends = inner.unwritten_ends.load(Ordering::SeqCst);
                match close_again(&inner, closing.on_unknown()).await {
                    Ok(()) => {
                        inner.unwritten_ends.fetch_sub(unwritten_ends, Ordering::SeqCst);
                        closes_again = false;
                    }
                    Err(error) => closing.failed("closing closed sessions again failed", &error).await,
                }
                continue;
            }
        };
        let mut connection = inner.commands.connected().await;
        let on_unknown = restoring.on_unknown();
        let restored = match inner.config.role {
            Role::Server => restore_sessions(&inner, &mut connection, on_unknown).await,
            Role::Gateway => restore_attachments(&inner, &mut connection, on_unknown).await,
        };
        match restored {
            Ok(mark) => {
                restoring = Attempts::default();
                Counters::add(&inner.counters.restorations, 1);
                closes_again = inner.config.role == Role::Server;
                // Before appends and claims go on, so that this server cannot leave in between.
                inner.unwritten_ends.fetch_add(u64::from(closes_again), Ordering::SeqCst);
                inner.incarnation.restored(losses, mark);
                closing = Attempts::default();
            }
            Err(error) => restoring.failed("the restoration failed", &error).await,
        }
    }
}

/// Consecutive failed attempts at the same work.
#[derive(Default)]
struct Attempts {
    failed: u32,
    /// The last refusal. Each refusal is logged as a warning once.
    words: String,
}

impl Attempts {
    /// A refusal of unknown kind may concern all of Redis and pass. If it lasts, it is attributed to the session.
    const fn on_unknown(&self) -> OnUnknown {
        if self.failed < UNKNOWN_ATTEMPTS { OnUnknown::Retry } else { OnUnknown::Skip }
    }

    /// Logs a failure, and waits before the next attempt.
    async fn failed(&mut self, what: &str, error: &BusError) {
        self.failed += 1;
        match error {
            BusError::Refused(words) if *words != self.words => {
                self.words.clone_from(words);
                tracing::warn!("{what}, trying again: {error}");
            }
            _ => tracing::debug!("{what}, trying again: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits until every server has restored its history.
async fn wait_until_complete(inner: &Inner) {
    while !(inner.incarnation.is_restored() && inner.restoration() == Restoration::Complete) {
        tokio::time::sleep(RETRY).await;
    }
}

/// Closes the closed sessions of this server again, which adds `closed` entries that their logs lack. Before logs were
/// complete, another server may have known of a later query, whose events precede the end.
///
/// # Errors
/// The last error. The other sessions were closed.
async fn close_again(inner: &Inner, on_unknown: OnUnknown) -> Result<(), BusError> {
    let closed: Vec<SessionId> = {
        let history = inner.history.lock();
        history
            .sessions()
            .filter(|(_, acknowledged)| acknowledged.closed)
            .map(|(session, _)| session)
            .collect()
    };
    let mut outcome = Ok(());
    for session in closed {
        let Err(error) = inner.close(session, inner.incarnation.is_old()).await else { continue };
        match per_session::refused(error, on_unknown) {
            Ok(words) => inner.skip("the end of a closed session", [(session, words)]),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

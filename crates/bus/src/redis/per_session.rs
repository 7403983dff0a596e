//! Pipelines over several sessions. Redis may refuse the commands of one session, for example because one of its keys
//! has the wrong type. That session is skipped, counted and logged, and the others continue.

use super::{Inner, link::Link};
use crate::{BusError, Counters, rules::Refusal};
use parking_lot::Mutex;
use protocol::SessionId;
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::collections::HashSet;

/// Number of sessions in one pipeline. It limits how long Redis serves no other client.
pub(super) const SESSIONS: usize = 256;
/// Number of skipped sessions that are remembered. When it is reached, all are forgotten, and may be logged again.
const LOGGED: usize = 4096;

/// The reply to one command, or the error reply with which Redis refused it.
pub(super) type Reply = Result<Value, String>;

/// How to treat a refusal that [`Refusal`] does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnUnknown {
    /// Fail the pipeline, so that the caller sends it again.
    Retry,
    /// Skip the session.
    Skip,
}

/// Sends a pipeline whose commands each concern one session. Returns one reply per command.
///
/// # Errors
/// The connection broke, or a refusal concerns every session.
pub(super) async fn send(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    on_unknown: OnUnknown,
) -> Result<Vec<Reply>, BusError> {
    let replies = connection
        .send_packed_commands(pipeline, 0, pipeline.len())
        .await
        .map_err(|error| Link::failed(&error))?;
    replies
        .into_iter()
        .map(|reply| match reply.extract_error() {
            Ok(value) => Ok(Ok(value)),
            Err(error) => refused(Link::failed(&error), on_unknown).map(Err),
        })
        .collect()
}

/// Returns the error reply of a refusal that concerns one session only.
///
/// # Errors
/// Returns the error itself if it concerns every session.
pub(super) fn refused(error: BusError, on_unknown: OnUnknown) -> Result<String, BusError> {
    match error {
        BusError::Refused(words)
            if Refusal::concerns_one_session(&words)
                && (on_unknown == OnUnknown::Skip || Refusal::of(&words) == Refusal::Final) =>
        {
            Ok(words)
        }
        error => Err(error),
    }
}

/// The sessions whose refusals were counted and logged.
#[derive(Default)]
pub(super) struct SkippedSessions(Mutex<HashSet<SessionId>>);

impl SkippedSessions {
    /// Adds a session. Returns whether it is new.
    fn add(&self, session: SessionId) -> bool {
        let mut logged = self.0.lock();
        if logged.len() >= LOGGED {
            logged.clear();
        }
        logged.insert(session)
    }
}

impl Inner {
    /// Counts and logs sessions that were skipped in `work`. Each session counts once.
    pub(super) fn skip(&self, work: &str, refused: impl IntoIterator<Item = (SessionId, String)>) {
        let mut new = refused.into_iter().filter(|(session, _)| self.skipped_sessions.add(*session));
        let Some((session, words)) = new.next() else { return };
        let more = new.count();
        Counters::add(&self.counters.refused_sessions, 1 + more as u64);
        tracing::warn!(%session, more, work, "Redis refuses the commands of a session, which is skipped: {words}");
    }
}

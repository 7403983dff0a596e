//! Pipelines over several sessions. Redis may refuse the commands of one session, for example because one of its keys has the
//! wrong type. That session is left out, counted and logged; the others go on.

use super::{Inner, link::Link};
use crate::{BusError, Counters, rules::Refusal};
use parking_lot::Mutex;
use protocol::SessionId;
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::collections::HashSet;

/// Sessions whose refusals are remembered as logged. Beyond this number the memory starts again.
const LOGGED: usize = 4096;

/// One command's reply, or the words with which Redis refused the command.
pub(super) type Reply = Result<Value, String>;

/// What to do about a refusal that [`Refusal`] does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnUnknown {
    /// Fail the pipeline: the caller sends it again.
    Retry,
    /// Leave the session out.
    LeaveOut,
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

/// Returns the words of a refusal that concerns one session alone.
///
/// # Errors
/// Returns the error itself where it concerns every session.
pub(super) fn refused(error: BusError, on_unknown: OnUnknown) -> Result<String, BusError> {
    match error {
        BusError::Refused(words)
            if Refusal::concerns_one_session(&words)
                && (on_unknown == OnUnknown::LeaveOut || Refusal::of(&words) == Refusal::Final) =>
        {
            Ok(words)
        }
        error => Err(error),
    }
}

/// The sessions whose refusals were counted and logged.
#[derive(Default)]
pub(super) struct LeftOut(Mutex<HashSet<SessionId>>);

impl LeftOut {
    /// Adds a session. Returns whether it was not there before.
    fn add(&self, session: SessionId) -> bool {
        let mut logged = self.0.lock();
        if logged.len() >= LOGGED {
            logged.clear();
        }
        logged.insert(session)
    }
}

impl Inner {
    /// Counts and logs sessions that were left out of `work`, each session once.
    pub(super) fn leave_out(&self, work: &str, refused: impl IntoIterator<Item = (SessionId, String)>) {
        let mut new = refused.into_iter().filter(|(session, _)| self.left_out.add(*session));
        let Some((session, words)) = new.next() else { return };
        let more = new.count();
        Counters::add(&self.counters.refused_sessions, 1 + more as u64);
        tracing::warn!(%session, more, work, "Redis refuses a session's commands, going on with the others: {words}");
    }
}

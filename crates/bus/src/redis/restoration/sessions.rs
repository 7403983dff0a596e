//! A server's part of a restoration: its acknowledged history, session by session and page by page.

use crate::{
    BusError, Counters,
    redis::{
        Inner,
        link::Link,
        per_session::{self, OnUnknown, Reply, SESSIONS},
        scripts::{eval, past_of, text_of},
    },
    rules::{AcknowledgedRecord, LogEntry},
};
use protocol::SessionId;
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use std::sync::Arc;

/// Largest number of bytes of frames in one call, unless a single frame is larger.
const CALL_BYTES: usize = 64 << 10;
/// Bytes in one pipeline after which it is sent. Redis serves no other client while it works through a pipeline.
const PIPELINE_BYTES: usize = 256 << 10;
/// Approximate size of a call without its frames, in bytes.
const CALL_OVERHEAD_BYTES: usize = 512;
/// Number of commands that read one session.
const READ_COMMANDS: usize = 3;

/// Restores a server's acknowledged history. Returns the mark of the Redis in which it was restored.
pub(super) async fn restore_sessions(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
    on_unknown: OnUnknown,
) -> Result<Arc<str>, BusError> {
    let mark = inner.identify(connection).await?;
    inner.scripts.restore.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    let sessions: Vec<SessionId> = inner.history.lock().sessions().map(|(session, _)| session).collect();
    tracing::info!(sessions = sessions.len(), "comparing Redis with the acknowledged history");
    let mut calls = RestoreCalls::default();
    for some in sessions.chunks(SESSIONS) {
        let found = read_sessions(inner, connection, some, on_unknown).await?;
        for (&session, found) in some.iter().zip(found) {
            let found = match found {
                Ok(found) => found,
                Err(words) => {
                    inner.skip("restoration", [(session, words)]);
                    continue;
                }
            };
            // A copy, because the lock must not be held during calls to Redis.
            let acknowledged = inner
                .history
                .lock()
                .get(session)
                .filter(|acknowledged| found.lacks_something(acknowledged))
                .cloned();
            let Some(acknowledged) = acknowledged else { continue };
            Counters::add(&inner.counters.restored_sessions, 1);
            for (entries, last) in pages_of(&acknowledged, inner.is_logged()) {
                if calls.add(session, restore(inner, session, &acknowledged, &entries, last), &entries) {
                    calls.send(inner, connection, on_unknown).await?;
                }
            }
        }
    }
    calls.send(inner, connection, on_unknown).await?;
    Ok(mark)
}

/// Calls that wait to be sent in one pipeline.
#[derive(Default)]
struct RestoreCalls {
    pipeline: Pipeline,
    /// The session of each call.
    sessions: Vec<SessionId>,
    bytes: usize,
}

impl RestoreCalls {
    /// Adds a call. Returns whether it is time to send.
    fn add(&mut self, session: SessionId, call: Cmd, entries: &[&LogEntry]) -> bool {
        self.bytes += CALL_OVERHEAD_BYTES + entries.iter().map(|entry| entry.frame.len()).sum::<usize>();
        self.pipeline.add_command(call);
        self.sessions.push(session);
        self.bytes >= PIPELINE_BYTES
    }

    async fn send(
        &mut self,
        inner: &Inner,
        connection: &mut MultiplexedConnection,
        on_unknown: OnUnknown,
    ) -> Result<(), BusError> {
        let Self { pipeline, sessions, .. } = std::mem::take(self);
        if pipeline.is_empty() {
            return Ok(());
        }
        let replies = per_session::send(connection, &pipeline, on_unknown).await?;
        let refused = sessions.into_iter().zip(replies);
        inner.skip("restoration", refused.filter_map(|(session, reply)| Some((session, reply.err()?))));
        Ok(())
    }
}

/// Divides a session's log entries into pages of at most [`CALL_BYTES`]. Returns at least one page; the flag marks the
/// last one.
fn pages_of(acknowledged: &AcknowledgedRecord, logged: bool) -> Vec<(Vec<&LogEntry>, bool)> {
    let mut pages = vec![(Vec::new(), false)];
    let mut bytes = 0;
    for entry in acknowledged.entries().filter(|_| logged) {
        if bytes > 0 && bytes + entry.frame.len() > CALL_BYTES {
            pages.push((Vec::new(), false));
            bytes = 0;
        }
        bytes += entry.frame.len();
        pages.last_mut().expect("there is always one").0.push(entry);
    }
    pages.last_mut().expect("there is always one").1 = true;
    pages
}

/// What Redis has of a session.
#[derive(Debug)]
struct StoredSession {
    status: Option<String>,
    generation: u64,
    running: bool,
    has_first: bool,
    has_last: bool,
}

impl StoredSession {
    /// Parses the replies for one session, or returns the first error reply.
    fn read(replies: &[Reply]) -> Result<Self, String> {
        type Meta = (Option<String>, Option<u64>, Option<String>);
        let reply = |n: usize| replies[n].as_ref().map_err(Clone::clone);
        let is_present = |reply: &Value| !matches!(reply, Value::Array(entries) if entries.is_empty());
        let (status, generation, running): Meta =
            redis::from_redis_value_ref(reply(0)?).map_err(|error| error.to_string())?;
        Ok(Self {
            status,
            generation: generation.unwrap_or(0),
            running: running.is_some(),
            has_first: is_present(reply(1)?),
            has_last: is_present(reply(2)?),
        })
    }

    /// Returns whether Redis lacks something of a record. Redis loses all of a session or the end of it, so a log with
    /// a record's first and last entry also has those between.
    fn lacks_something(&self, acknowledged: &AcknowledgedRecord) -> bool {
        let closed = self.status.as_deref() == Some("closed");
        self.status.is_none()
            || acknowledged.closed && !closed
            || self.generation < acknowledged.generation
            || self.generation == acknowledged.generation && self.running && !acknowledged.running
            || !self.has_first
            || !self.has_last
    }
}

/// Reads what Redis has of sessions. For a session that Redis refuses, the result is the error reply.
async fn read_sessions(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    sessions: &[SessionId],
    on_unknown: OnUnknown,
) -> Result<Vec<Result<StoredSession, String>>, BusError> {
    let mut pipeline = Pipeline::new();
    for &session in sessions {
        let ends = {
            let history = inner.history.lock();
            let position = |entry: Option<&LogEntry>| entry.map(|entry| entry.prefix.position);
            history.get(session).map(|acknowledged| {
                (position(acknowledged.entries().next()), position(acknowledged.entries().next_back()))
            })
        };
        let (first, last) = ends.unwrap_or_default();
        pipeline.cmd("HMGET").arg(inner.names.meta(session)).arg(&["status", "gen", "running"]);
        for end in [first, last] {
            match end.filter(|_| inner.is_logged()) {
                Some(id) => {
                    let id = id.to_string();
                    pipeline.cmd("XRANGE").arg(inner.names.log(session)).arg(&id).arg(&id);
                }
                // There is no entry to look for. The reply to ECHO counts as present.
                None => {
                    pipeline.cmd("ECHO").arg("");
                }
            }
        }
    }
    let replies = per_session::send(connection, &pipeline, on_unknown).await?;
    Ok(replies.chunks_exact(READ_COMMANDS).map(StoredSession::read).collect())
}

/// Returns the call that restores one page of a session. The last page includes the meta hash, so that no server claims
/// the session before its log is restored.
fn restore(
    inner: &Inner,
    session: SessionId,
    acknowledged: &AcknowledgedRecord,
    entries: &[&LogEntry],
    last: bool,
) -> Cmd {
    let keys = [inner.names.meta(session), inner.names.log(session), inner.names.running(&inner.owner)];
    let mut call = eval(inner.scripts.restore.get_hash(), &keys);
    let flag = |flag: bool| u8::from(flag);
    call.arg(inner.ttl())
        .arg(inner.delivery())
        .arg(inner.names.down(session))
        .arg(session.to_string())
        .arg(&inner.owner)
        .arg(flag(last))
        .arg(flag(acknowledged.closed))
        .arg(acknowledged.generation)
        .arg(text_of(acknowledged.prev))
        .arg(&acknowledged.query)
        .arg(&acknowledged.answer)
        .arg(flag(acknowledged.running))
        .arg(past_of(acknowledged));
    for entry in entries {
        call.arg(entry.prefix.position.to_string()).arg(&entry.frame[..]);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Position;
    use std::time::Duration;

    #[test]
    fn pages_are_bounded_and_complete() {
        let mut history = crate::rules::AcknowledgedHistory::new(1 << 24, Duration::from_secs(60), 1000);
        let (session, now) = (SessionId::new(uuid::Uuid::nil()), std::time::Instant::now());
        history.claimed(session, (7, Some(Position::ZERO)), "q", "a", now);
        for seq in 1..=300 {
            let kind = protocol::Kind::Token;
            let prefix = protocol::Prefix { position: Position::new(7, seq), kind };
            let len = if seq == 100 { 5 * CALL_BYTES } else { 1000 };
            history.appended(session, prefix, &vec![b'x'; len], now);
        }
        let acknowledged = history.get(session).unwrap();
        let pages = pages_of(acknowledged, true);
        for (page, _) in &pages {
            let bytes: usize = page.iter().map(|entry| entry.frame.len()).sum();
            assert!(bytes <= CALL_BYTES || page.len() == 1, "{bytes}");
        }
        let lasts: Vec<bool> = pages.iter().map(|&(_, last)| last).collect();
        assert!(lasts.iter().rposition(|&last| !last) == Some(lasts.len() - 2) && lasts[lasts.len() - 1]);
        let positions = pages.iter().flat_map(|(page, _)| page).map(|entry| entry.prefix.position);
        assert!(positions.eq(acknowledged.entries().map(|entry| entry.prefix.position)));
        assert_eq!(pages_of(acknowledged, false).len(), 1, "the meta alone");
    }
}

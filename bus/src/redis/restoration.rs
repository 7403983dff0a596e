//! Giving back to a Redis that forgot: a server what it said and claimed, a gateway what it holds and released.
//! Every step may be repeated, and changes nothing where nothing was forgotten.

use super::{Inner, incarnation::SETTLE, link::Link};
use crate::{BusError, Counters, Role, rules::Kept};
use protocol::{Position, SessionId};
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Sessions in one pipeline.
const SESSIONS: usize = 256;
/// Bytes of frames in one call.
const CALL_BYTES: usize = 1 << 20;
/// Pause before a restoration that failed is begun again.
const RETRY: Duration = Duration::from_millis(100);
/// Cursors that a gateway remembers at most.
const CURSORS: usize = 65_536;

/// Restores whenever something was forgotten, for ever. After the control channel was down a gateway says again what it holds:
/// it may have missed that another took a session over.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        let losses = tokio::select! {
            losses = inner.incarnation.loss() => losses,
            () = inner.subscribers[0].came_back() => {
                let mut connection = inner.commands.connected().await;
                if let Err(error) = give_back_holders(&inner, &mut connection).await {
                    tracing::debug!("what is held was not said again, trying again: {error}");
                    inner.subscribers[0].said_nothing();
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
        };
        let mut connection = inner.commands.connected().await;
        let restored = match inner.config.role {
            Role::Server => give_back_sessions(&inner, &mut connection).await,
            Role::Gateway => give_back_attachments(&inner, &mut connection).await,
        };
        match restored {
            Ok(()) => {
                Counters::add(&inner.counters.restorations, 1);
                inner.incarnation.restored(losses);
                close_again(&inner).await;
            }
            Err(error) => {
                tracing::debug!("not everything was given back, trying again: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn send(connection: &mut MultiplexedConnection, pipeline: &Pipeline) -> Result<Vec<Value>, BusError> {
    connection
        .send_packed_commands(pipeline, 0, pipeline.len())
        .await
        .and_then(|answers| answers.into_iter().map(Value::extract_error).collect())
        .map_err(|error| Link::failed(&error))
}

/// A server's part: metas and log windows of the sessions that it created, ran or closed.
async fn give_back_sessions(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
) -> Result<(), BusError> {
    inner.incarnation.check(connection).await.map_err(|error| Link::failed(&error))?;
    load(inner, connection).await?;
    let sessions: Vec<SessionId> = inner.keeper.lock().sessions().map(|(session, _)| session).collect();
    tracing::info!(sessions = sessions.len(), "comparing what Redis has with what was kept");
    for some in sessions.chunks(SESSIONS) {
        let found = look(inner, connection, some).await?;
        let mut pipeline = Pipeline::new();
        for (&session, found) in some.iter().zip(found) {
            let keeper = inner.keeper.lock();
            let Some(kept) = keeper.get(session) else { continue };
            if found.lacks_something(kept) {
                restore(inner, &mut pipeline, session, kept);
            }
        }
        if !pipeline.is_empty() {
            send(connection, &pipeline).await?;
        }
    }
    Ok(())
}

/// Closes again what was closed here, once others have had their time: until then one of them may know of a later query, whose
/// events must come before the log's mark. A loss that comes meanwhile has all of it done again.
async fn close_again(inner: &Arc<Inner>) {
    let closed: Vec<SessionId> = {
        let keeper = inner.keeper.lock();
        keeper.sessions().filter(|(_, kept)| kept.closed).map(|(session, _)| session).collect()
    };
    if closed.is_empty() {
        return;
    }
    tokio::time::sleep(SETTLE).await;
    for session in closed {
        if inner.incarnation.is_settled()
            && let Err(error) = inner.close(session).await
        {
            tracing::debug!(%session, "a session was not closed again: {error}");
        }
    }
}

async fn load(inner: &Inner, connection: &mut MultiplexedConnection) -> Result<(), BusError> {
    let scripts = &inner.scripts;
    for script in [&scripts.restore, &scripts.bury, &scripts.reattach, &scripts.restore_cursor] {
        script.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    }
    Ok(())
}

/// What Redis has of a session.
#[derive(Debug)]
struct Found {
    status: Option<String>,
    generation: u64,
    running: bool,
    has_first: bool,
    has_last: bool,
}

impl Found {
    /// Redis forgets all of a session or the end of it: a log that has a window's first and last entry has what lies between.
    fn lacks_something(&self, kept: &Kept) -> bool {
        let closed = self.status.as_deref() == Some("closed");
        self.status.is_none()
            || kept.closed && !closed
            || self.generation < kept.generation
            || self.generation == kept.generation && self.running && !kept.running
            || !self.has_first
            || !self.has_last
    }
}

async fn look(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    sessions: &[SessionId],
) -> Result<Vec<Found>, BusError> {
    let mut pipeline = Pipeline::new();
    for &session in sessions {
        let ends = {
            let keeper = inner.keeper.lock();
            let position = |entry: Option<&crate::rules::LogEntry>| entry.map(|entry| entry.prefix.position);
            keeper
                .get(session)
                .map(|kept| (position(kept.entries().next()), position(kept.entries().next_back())))
        };
        let (first, last) = ends.unwrap_or_default();
        pipeline.cmd("HMGET").arg(inner.names.meta(session)).arg(&["status", "gen", "running"]);
        for end in [first, last] {
            match end.filter(|_| inner.is_logged()) {
                Some(id) => {
                    let id = id.to_string();
                    pipeline.cmd("XRANGE").arg(inner.names.log(session)).arg(&id).arg(&id);
                }
                // An empty window lacks nothing.
                None => {
                    pipeline.cmd("ECHO").arg("");
                }
            }
        }
    }
    let answers = send(connection, &pipeline).await?;
    let present = |answer: &Value| !matches!(answer, Value::Array(entries) if entries.is_empty());
    answers
        .chunks_exact(3)
        .map(|answers| {
            type Meta = (Option<String>, Option<u64>, Option<String>);
            let (status, generation, running): Meta = redis::from_redis_value(answers[0].clone())
                .map_err(|error| BusError::Refused(error.to_string()))?;
            Ok(Found {
                status,
                generation: generation.unwrap_or(0),
                running: running.is_some(),
                has_first: present(&answers[1]),
                has_last: present(&answers[2]),
            })
        })
        .collect()
}

/// Writes the calls that give one session back: its meta with the last of its entries, so that nobody claims it before.
fn restore(inner: &Inner, pipeline: &mut Pipeline, session: SessionId, kept: &Kept) {
    Counters::add(&inner.counters.restored_sessions, 1);
    let mut calls = vec![Vec::new()];
    let mut bytes = 0;
    for entry in kept.entries().filter(|_| inner.is_logged()) {
        if bytes > CALL_BYTES {
            calls.push(Vec::new());
            bytes = 0;
        }
        bytes += entry.frame.len();
        calls.last_mut().expect("there is always one").push(entry);
    }
    let last = calls.len() - 1;
    let flag = |flag: bool| u8::from(flag);
    for (n, entries) in calls.into_iter().enumerate() {
        let mut call = eval(
            inner.scripts.restore.get_hash(),
            &[inner.names.meta(session), inner.names.log(session), inner.names.running(&inner.owner)],
        );
        call.arg(inner.ttl())
            .arg(inner.delivery())
            .arg(inner.names.down(session))
            .arg(session.to_string())
            .arg(&inner.owner)
            .arg(flag(n == last))
            .arg(flag(kept.closed))
            .arg(kept.generation)
            .arg(kept.prev.to_string())
            .arg(&kept.query)
            .arg(&kept.answer)
            .arg(flag(kept.running));
        for entry in entries {
            call.arg(entry.prefix.position.to_string()).arg(&entry.frame[..]);
        }
        pipeline.add_command(call);
    }
}

pub(super) fn eval(hash: &str, keys: &[String]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(hash).arg(keys.len()).arg(keys);
    call
}

/// A gateway's part: the cursors that it released, and who holds which session.
async fn give_back_attachments(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
) -> Result<(), BusError> {
    inner.incarnation.check(connection).await.map_err(|error| Link::failed(&error))?;
    load(inner, connection).await?;
    let cursors = inner.cursors.lock().all();
    for some in cursors.chunks(SESSIONS) {
        let mut pipeline = Pipeline::new();
        for &(session, epoch, cursor) in some {
            let mut call = eval(inner.scripts.restore_cursor.get_hash(), &[inner.names.attach(session)]);
            call.arg(epoch).arg(cursor.to_string()).arg(inner.ttl());
            pipeline.add_command(call);
        }
        send(connection, &pipeline).await?;
    }
    give_back_holders(inner, connection).await
}

async fn give_back_holders(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
) -> Result<(), BusError> {
    let reattach = &inner.scripts.reattach;
    reattach.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    for some in inner.hub.sessions().chunks(SESSIONS) {
        let held: Vec<_> = some
            .iter()
            .filter_map(|&session| Some((session, inner.hub.get(session)?)))
            .filter(|(_, slot)| slot.epoch() != 0)
            .collect();
        let mut pipeline = Pipeline::new();
        for (session, slot) in &held {
            let mut call = eval(inner.scripts.reattach.get_hash(), &[inner.names.attach(*session)]);
            call.arg(slot.epoch()).arg(&inner.owner).arg(inner.ttl());
            pipeline.add_command(call);
        }
        if pipeline.is_empty() {
            continue;
        }
        let newest = send(connection, &pipeline).await?;
        for ((_, slot), newest) in held.into_iter().zip(newest) {
            let newest: u64 = redis::from_redis_value(newest).unwrap_or(0);
            if newest > slot.epoch() {
                slot.superseded(newest);
            }
        }
    }
    Ok(())
}

/// The cursors that this gateway released last: bounded, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    by_session: HashMap<SessionId, (u64, Position)>,
    order: VecDeque<(SessionId, u64)>,
}

impl Cursors {
    pub(super) fn remember(&mut self, session: SessionId, epoch: u64, cursor: Position) {
        self.by_session.insert(session, (epoch, cursor));
        self.order.push_back((session, epoch));
        while self.order.len() > CURSORS {
            let Some((session, epoch)) = self.order.pop_front() else { return };
            if self.by_session.get(&session).is_some_and(|&(newest, _)| newest == epoch) {
                self.by_session.remove(&session);
            }
        }
    }

    fn all(&self) -> Vec<(SessionId, u64, Position)> {
        self.by_session.iter().map(|(&session, &(epoch, cursor))| (session, epoch, cursor)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cursor_of_the_last_sessions_is_remembered() {
        let mut cursors = Cursors::default();
        let session = |n: usize| SessionId::new(uuid::Uuid::from_u128(n as u128));
        for n in 0..CURSORS + 10 {
            cursors.remember(session(n), 1, Position::new(1, 1));
            cursors.remember(session(n), 2, Position::new(2, 1));
        }
        assert_eq!(cursors.by_session.len(), CURSORS / 2);
        assert_eq!(cursors.by_session[&session(CURSORS + 9)], (2, Position::new(2, 1)));
    }
}

//! A gateway's part of a restoration: the cursors that it released, and the sessions that it holds.

use crate::{
    BusError,
    redis::{
        Inner,
        link::Link,
        per_session::{self, OnUnknown, SESSIONS},
        scripts::eval,
    },
};
use protocol::{Position, SessionId};
use redis::{Pipeline, aio::MultiplexedConnection};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Largest number of cursors that a gateway remembers.
const CURSORS: usize = 65_536;

/// Restores a gateway's cursors and held sessions. Returns the mark of the Redis in which they were restored.
pub(super) async fn restore_attachments(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
    on_unknown: OnUnknown,
) -> Result<Arc<str>, BusError> {
    let mark = inner.identify(connection).await?;
    let restore_cursor = &inner.scripts.restore_cursor;
    restore_cursor.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    let cursors = inner.cursors.lock().all();
    for some in cursors.chunks(SESSIONS) {
        let mut pipeline = Pipeline::new();
        for &(session, epoch, cursor) in some {
            let mut call = eval(restore_cursor.get_hash(), &[inner.names.attach(session)]);
            call.arg(epoch).arg(cursor.to_string()).arg(inner.ttl());
            call.arg(inner.names.prefix()).arg(session.to_string());
            pipeline.add_command(call);
        }
        let replies = per_session::send(connection, &pipeline, on_unknown).await?;
        let refused = some.iter().zip(replies);
        inner
            .skip("restoration", refused.filter_map(|(&(session, ..), reply)| Some((session, reply.err()?))));
    }
    report_holders(inner, connection, true, on_unknown).await?;
    Ok(mark)
}

/// Reports to Redis which sessions this gateway holds, and ends lanes that were taken over. If Redis has `lost` data,
/// also restores that these sessions take queries.
pub(super) async fn report_holders(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
    lost: bool,
    on_unknown: OnUnknown,
) -> Result<(), BusError> {
    let reattach = &inner.scripts.reattach;
    reattach.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    for some in inner.hub.sessions().chunks(SESSIONS) {
        let held: Vec<_> = some
            .iter()
            .filter_map(|&session| Some((session, inner.hub.get(session)?)))
            .filter(|(_, lane)| lane.epoch() != 0)
            .collect();
        let mut pipeline = Pipeline::new();
        for (session, lane) in &held {
            let names = &inner.names;
            let keys = [names.attach(*session), names.meta(*session), names.log(*session)];
            let mut call = eval(reattach.get_hash(), &keys);
            call.arg(lane.epoch()).arg(&inner.owner).arg(inner.ttl());
            call.arg(inner.names.prefix()).arg(session.to_string());
            call.arg(u8::from(lost && lane.is_active()));
            pipeline.add_command(call);
        }
        if pipeline.is_empty() {
            continue;
        }
        let replies = per_session::send(connection, &pipeline, on_unknown).await?;
        let mut refused = Vec::new();
        for ((session, lane), reply) in held.into_iter().zip(replies) {
            match reply {
                Ok(newest) => {
                    let newest: u64 = redis::from_redis_value(newest).unwrap_or(0);
                    if newest > lane.epoch() {
                        lane.superseded(newest);
                    }
                }
                Err(words) => refused.push((session, words)),
            }
        }
        inner.skip("restoration", refused);
    }
    Ok(())
}

/// The cursors that this gateway released last. When there are too many, the oldest is forgotten.
#[derive(Debug, Default)]
pub(in crate::redis) struct Cursors {
    by_session: HashMap<SessionId, (u64, Position)>,
    order: VecDeque<(SessionId, u64)>,
}

impl Cursors {
    pub(in crate::redis) fn remember(&mut self, session: SessionId, epoch: u64, cursor: Position) {
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

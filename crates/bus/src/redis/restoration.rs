//! Restores data that Redis has lost. A server restores its acknowledged history. A gateway restores the sessions that it holds,
//! the cursors that it released, and the fact that held sessions take queries. Every step may be repeated, and changes nothing
//! where nothing was lost.

use super::{
    Inner,
    link::Link,
    per_session::{self, OnUnknown, Reply},
};
use crate::{
    BusError, Counters, Role,
    rules::{AcknowledgedRecord, LogEntry, Standing},
};
use protocol::{Position, SessionId};
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Sessions in one pipeline.
const SESSIONS: usize = 256;
/// Bytes of frames in one call at most, unless a single frame is larger.
const CALL_BYTES: usize = 64 << 10;
/// Bytes on their way in one pipeline: Redis works through them without serving anybody else.
const PIPELINE_BYTES: usize = 256 << 10;
/// What a call costs besides its frames, about.
const CALL_COST: usize = 512;
/// Pause before a restoration that failed is begun again.
const RETRY: Duration = Duration::from_millis(100);
/// Attempts after which a refusal of an unknown kind is taken for the session's own: two seconds at least.
const UNKNOWN_ATTEMPTS: u32 = 20;
/// Commands that read one session.
const LOOK_COMMANDS: usize = 3;
/// Cursors that a gateway remembers at most.
const CURSORS: usize = 65_536;

/// Restores whenever something was lost, forever. After the control channel was down a gateway says again what it holds:
/// it may have missed that another took a session over.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut closes_again = false;
    let (mut restoring, mut closing) = (Attempts::default(), Attempts::default());
    loop {
        let losses = tokio::select! {
            losses = inner.incarnation.loss() => losses,
            () = inner.subscribers[0].came_back() => {
                let mut connection = inner.commands.connected().await;
                if let Err(error) = give_back_holders(&inner, &mut connection, false, OnUnknown::LeaveOut).await {
                    tracing::debug!("what is held was not said again, trying again: {error}");
                    inner.subscribers[0].said_nothing();
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            () = inner.unmarked.notified() => {
                closes_again = true;
                continue;
            }
            () = whole(&inner), if closes_again => {
                // A close that comes meanwhile counts on.
                let open_ends = inner.open_ends.load(Ordering::SeqCst);
                match close_again(&inner, closing.on_unknown()).await {
                    Ok(()) => {
                        inner.open_ends.fetch_sub(open_ends, Ordering::SeqCst);
                        closes_again = false;
                    }
                    Err(error) => closing.failed("closed sessions were not closed again", &error).await,
                }
                continue;
            }
        };
        let mut connection = inner.commands.connected().await;
        let on_unknown = restoring.on_unknown();
        let restored = match inner.config.role {
            Role::Server => give_back_sessions(&inner, &mut connection, on_unknown).await,
            Role::Gateway => give_back_attachments(&inner, &mut connection, on_unknown).await,
        };
        match restored {
            Ok(mark) => {
                restoring = Attempts::default();
                Counters::add(&inner.counters.restorations, 1);
                closes_again = inner.config.role == Role::Server;
                // Before the gate opens, so that this server does not leave in between.
                inner.open_ends.fetch_add(u64::from(closes_again), Ordering::SeqCst);
                inner.incarnation.restored(losses, mark);
                closing = Attempts::default();
            }
            Err(error) => restoring.failed("not everything was given back", &error).await,
        }
    }
}

/// Attempts at the same work that failed in a row.
#[derive(Default)]
struct Attempts {
    failed: u32,
    /// The last refusal, so that it is logged once.
    words: String,
}

impl Attempts {
    /// A refusal of an unknown kind may concern all of Redis and pass. One that lasts is taken for the session's own.
    const fn on_unknown(&self) -> OnUnknown {
        if self.failed < UNKNOWN_ATTEMPTS { OnUnknown::Retry } else { OnUnknown::LeaveOut }
    }

    /// Logs the failure, and waits before the next attempt.
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

/// Waits until every server has restored what it kept.
async fn whole(inner: &Inner) {
    while !(inner.incarnation.is_restored() && inner.standing() == Standing::Whole) {
        tokio::time::sleep(RETRY).await;
    }
}

/// Which Redis this is, before anything is given back to it.
async fn identify(inner: &Inner, connection: &mut MultiplexedConnection) -> Result<Arc<str>, BusError> {
    inner.incarnation.check(connection).await.map_err(|error| Link::failed(&error))?;
    load(inner, connection).await?;
    inner.incarnation.mark().ok_or(BusError::Restoring)
}

/// A server's part: metas and log windows of the sessions that it created, ran or closed, page by page.
async fn give_back_sessions(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
    on_unknown: OnUnknown,
) -> Result<Arc<str>, BusError> {
    let mark = identify(inner, connection).await?;
    let sessions: Vec<SessionId> = inner.history.lock().sessions().map(|(session, _)| session).collect();
    tracing::info!(sessions = sessions.len(), "comparing what Redis has with what was kept");
    let mut pages = Pages::default();
    for some in sessions.chunks(SESSIONS) {
        let found = look(inner, connection, some, on_unknown).await?;
        for (&session, found) in some.iter().zip(found) {
            let found = match found {
                Ok(found) => found,
                Err(words) => {
                    inner.leave_out(RESTORATION, [(session, words)]);
                    continue;
                }
            };
            // A copy: the lock is not held while Redis is waited for.
            let kept = inner.history.lock().get(session).filter(|kept| found.lacks_something(kept)).cloned();
            let Some(kept) = kept else { continue };
            Counters::add(&inner.counters.restored_sessions, 1);
            for (entries, last) in pages_of(&kept, inner.is_logged()) {
                if pages.add(session, restore(inner, session, &kept, &entries, last), &entries) {
                    pages.send(inner, connection, on_unknown).await?;
                }
            }
        }
    }
    pages.send(inner, connection, on_unknown).await?;
    Ok(mark)
}

/// Calls on their way to Redis: few enough bytes at a time that others are served in between.
#[derive(Default)]
struct Pages {
    pipeline: Pipeline,
    /// The session of each call.
    sessions: Vec<SessionId>,
    bytes: usize,
}

impl Pages {
    /// Adds a call; true where it is time to send.
    fn add(&mut self, session: SessionId, call: Cmd, entries: &[&LogEntry]) -> bool {
        self.bytes += CALL_COST + entries.iter().map(|entry| entry.frame.len()).sum::<usize>();
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
        inner.leave_out(RESTORATION, refused.filter_map(|(session, reply)| Some((session, reply.err()?))));
        Ok(())
    }
}

/// A session's entries in pages of bounded bytes, at least one; whether it is the last.
fn pages_of(kept: &AcknowledgedRecord, logged: bool) -> Vec<(Vec<&LogEntry>, bool)> {
    let mut pages = vec![(Vec::new(), false)];
    let mut bytes = 0;
    for entry in kept.entries().filter(|_| logged) {
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

/// Closes again what was closed here: until the logs were whole, another server may have known of a later query, whose
/// events must come before the log's end.
///
/// # Errors
/// The last of the errors; the other sessions were closed.
async fn close_again(inner: &Inner, on_unknown: OnUnknown) -> Result<(), BusError> {
    let closed: Vec<SessionId> = {
        let history = inner.history.lock();
        history.sessions().filter(|(_, kept)| kept.closed).map(|(session, _)| session).collect()
    };
    let mut outcome = Ok(());
    for session in closed {
        let Err(error) = inner.close(session, inner.incarnation.is_old()).await else { continue };
        match per_session::refused(error, on_unknown) {
            Ok(words) => inner.leave_out("the end of a closed session", [(session, words)]),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

async fn load(inner: &Inner, connection: &mut MultiplexedConnection) -> Result<(), BusError> {
    let scripts = &inner.scripts;
    for script in [&scripts.restore, &scripts.end_lost_query, &scripts.reattach, &scripts.restore_cursor] {
        script.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    }
    Ok(())
}

/// What the log says where sessions are left out.
const RESTORATION: &str = "restoration";

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
    /// Reads the replies to the commands of one session, or returns the words of the first refusal.
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

    /// Redis forgets all of a session or the end of it: a log that has a window's first and last entry has what lies between.
    fn lacks_something(&self, kept: &AcknowledgedRecord) -> bool {
        let closed = self.status.as_deref() == Some("closed");
        self.status.is_none()
            || kept.closed && !closed
            || self.generation < kept.generation
            || self.generation == kept.generation && self.running && !kept.running
            || !self.has_first
            || !self.has_last
    }
}

/// Reads what Redis has of sessions; of each that it refuses, its words.
async fn look(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    sessions: &[SessionId],
    on_unknown: OnUnknown,
) -> Result<Vec<Result<Found, String>>, BusError> {
    let mut pipeline = Pipeline::new();
    for &session in sessions {
        let ends = {
            let history = inner.history.lock();
            let position = |entry: Option<&crate::rules::LogEntry>| entry.map(|entry| entry.prefix.position);
            history
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
    let replies = per_session::send(connection, &pipeline, on_unknown).await?;
    Ok(replies.chunks_exact(LOOK_COMMANDS).map(Found::read).collect())
}

/// The call that gives one page of a session back: the meta with the last page, so that nobody claims it before.
fn restore(
    inner: &Inner,
    session: SessionId,
    kept: &AcknowledgedRecord,
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
        .arg(flag(kept.closed))
        .arg(kept.generation)
        .arg(text_of(kept.prev))
        .arg(&kept.query)
        .arg(&kept.answer)
        .arg(flag(kept.running))
        .arg(past_of(kept));
    for entry in entries {
        call.arg(entry.prefix.position.to_string()).arg(&entry.frame[..]);
    }
    call
}

/// A position as scripts have it: nothing for an unknown one.
pub(super) fn text_of(position: Option<Position>) -> String {
    position.map_or_else(String::new, |position| position.to_string())
}

/// Earlier queries as the session's meta has them.
pub(super) fn past_of(kept: &AcknowledgedRecord) -> String {
    let past: Vec<String> =
        kept.past.iter().map(|(generation, query)| format!("{generation} {query}")).collect();
    serde_json::to_string(&past).unwrap_or_default()
}

pub(super) fn eval(hash: &str, keys: &[String]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(hash).arg(keys.len()).arg(keys);
    call
}

/// A gateway's part: the cursors that it released, who holds which session, and that these sessions take queries.
async fn give_back_attachments(
    inner: &Arc<Inner>,
    connection: &mut MultiplexedConnection,
    on_unknown: OnUnknown,
) -> Result<Arc<str>, BusError> {
    let mark = identify(inner, connection).await?;
    let cursors = inner.cursors.lock().all();
    for some in cursors.chunks(SESSIONS) {
        let mut pipeline = Pipeline::new();
        for &(session, epoch, cursor) in some {
            let mut call = eval(inner.scripts.restore_cursor.get_hash(), &[inner.names.attach(session)]);
            call.arg(epoch).arg(cursor.to_string()).arg(inner.ttl());
            call.arg(inner.names.prefix()).arg(session.to_string());
            pipeline.add_command(call);
        }
        let replies = per_session::send(connection, &pipeline, on_unknown).await?;
        let refused = some.iter().zip(replies);
        inner.leave_out(
            RESTORATION,
            refused.filter_map(|(&(session, ..), reply)| Some((session, reply.err()?))),
        );
    }
    give_back_holders(inner, connection, true, on_unknown).await?;
    Ok(mark)
}

/// Says again which sessions are held here; where Redis has `lost` data, also that they take queries.
async fn give_back_holders(
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
            .filter(|(_, slot)| slot.epoch() != 0)
            .collect();
        let mut pipeline = Pipeline::new();
        for (session, slot) in &held {
            let names = &inner.names;
            let keys = [names.attach(*session), names.meta(*session), names.log(*session)];
            let mut call = eval(inner.scripts.reattach.get_hash(), &keys);
            call.arg(slot.epoch()).arg(&inner.owner).arg(inner.ttl());
            call.arg(inner.names.prefix()).arg(session.to_string());
            call.arg(u8::from(lost && slot.is_active()));
            pipeline.add_command(call);
        }
        if pipeline.is_empty() {
            continue;
        }
        let replies = per_session::send(connection, &pipeline, on_unknown).await?;
        let mut refused = Vec::new();
        for ((session, slot), reply) in held.into_iter().zip(replies) {
            match reply {
                Ok(newest) => {
                    let newest: u64 = redis::from_redis_value(newest).unwrap_or(0);
                    if newest > slot.epoch() {
                        slot.superseded(newest);
                    }
                }
                Err(words) => refused.push((session, words)),
            }
        }
        inner.leave_out(RESTORATION, refused);
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
    fn pages_are_bounded_and_whole() {
        let mut history = crate::rules::AcknowledgedHistory::new(1 << 24, Duration::from_secs(60), 1000);
        let (session, now) = (SessionId::new(uuid::Uuid::nil()), std::time::Instant::now());
        history.claimed(session, (7, Some(Position::ZERO)), "q", "a", now);
        for seq in 1..=300 {
            let kind = protocol::Kind::Token;
            let prefix = protocol::Prefix { position: Position::new(7, seq), kind };
            let len = if seq == 100 { 5 * CALL_BYTES } else { 1000 };
            history.appended(session, prefix, &vec![b'x'; len], now);
        }
        let kept = history.get(session).unwrap();
        let pages = pages_of(kept, true);
        for (page, _) in &pages {
            let bytes: usize = page.iter().map(|entry| entry.frame.len()).sum();
            assert!(bytes <= CALL_BYTES || page.len() == 1, "{bytes}");
        }
        let lasts: Vec<bool> = pages.iter().map(|&(_, last)| last).collect();
        assert!(lasts.iter().rposition(|&last| !last) == Some(lasts.len() - 2) && lasts[lasts.len() - 1]);
        let positions = pages.iter().flat_map(|(page, _)| page).map(|entry| entry.prefix.position);
        assert!(positions.eq(kept.entries().map(|entry| entry.prefix.position)));
        assert_eq!(pages_of(kept, false).len(), 1, "the meta alone");
    }

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

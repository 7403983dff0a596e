//! The acknowledged history: what the broker acknowledged to this server about the sessions that the server created, ran or
//! closed. The server restores it after the broker loses data. It is bounded in bytes and age; the session that was touched
//! longest ago is dropped first.

use super::{LogEntry, PAST_QUERIES};
use protocol::{Kind, Position, Prefix, SessionId, encode_fence};
use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    time::{Duration, Instant},
};

/// Approximate memory of a session besides its texts and frames, in bytes.
const SESSION_BYTES: usize = 256;
/// Approximate memory of an entry besides its frame, in bytes.
const ENTRY_BYTES: usize = 64;

/// A touch of a session: its number, and when it was.
type Touch = (SessionId, u64, Instant);

/// The acknowledged data of one session.
#[derive(Clone, Debug, Default)]
pub struct AcknowledgedRecord {
    /// This server closed the session.
    pub closed: bool,
    /// The last generation that this server claimed; 0 for none.
    pub generation: u64,
    /// The last position before that generation; `None` if the claim did not know it.
    pub prev: Option<Position>,
    /// The query id of that generation.
    pub query: String,
    /// Generation and query id of earlier claims of this server, oldest first.
    pub past: VecDeque<(u64, String)>,
    /// The answer that the claim stored, for repeats of the query.
    pub answer: String,
    /// The terminator of that generation is not acknowledged yet.
    pub running: bool,
    log: VecDeque<LogEntry>,
    /// Size of `log`, in bytes.
    bytes: usize,
    /// Number of the session's last touch.
    touch: u64,
    /// When that was. `None` before the first touch.
    touched_at: Option<Instant>,
}

impl AcknowledgedRecord {
    /// Returns the size of the texts, in bytes.
    fn texts(&self) -> usize {
        let past: usize = self.past.iter().map(|(_, query)| query.len()).sum();
        self.query.len() + self.answer.len() + past
    }

    /// Returns the acknowledged entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &LogEntry> + ExactSizeIterator {
        self.log.iter()
    }

    /// Adds an entry, unless it is not above the last one. Returns its size in bytes.
    fn push(&mut self, entry: LogEntry) -> usize {
        if self.log.back().is_some_and(|last| last.prefix.position >= entry.prefix.position) {
            return 0;
        }
        let cost = ENTRY_BYTES + entry.frame.len();
        self.bytes += cost;
        self.log.push_back(entry);
        cost
    }

    /// Removes the entries that a fence naming `position` drops. Returns their size in bytes.
    fn drop_above(&mut self, position: Position) -> usize {
        let mut freed = 0;
        while let Some(entry) = self.log.pop_back_if(|entry| entry.prefix.position > position) {
            freed += ENTRY_BYTES + entry.frame.len();
        }
        self.bytes -= freed;
        freed
    }

    /// Removes all but the newest `keep` entries. Returns the size of the removed ones in bytes.
    fn trim(&mut self, keep: usize) -> usize {
        let surplus = self.log.len().saturating_sub(keep);
        let freed = self.log.drain(..surplus).map(|entry| ENTRY_BYTES + entry.frame.len()).sum();
        self.bytes -= freed;
        freed
    }
}

/// The acknowledged data of all sessions of one server.
#[derive(Debug)]
pub struct AcknowledgedHistory {
    sessions: HashMap<SessionId, AcknowledgedRecord>,
    /// Sessions without a running query, in the order of their last touch, and outdated entries.
    idle: VecDeque<Touch>,
    /// The same of sessions with a running query.
    running: VecDeque<Touch>,
    touches: u64,
    /// Size of all sessions, in bytes.
    bytes: usize,
    max_bytes: usize,
    max_age: Duration,
    keep: usize,
    dropped: u64,
}

impl AcknowledgedHistory {
    /// Returns an empty history. It keeps at most `max_bytes`, no idle session much longer than `max_age` after its last touch,
    /// and per session `keep` entries of earlier queries.
    #[must_use]
    pub fn new(max_bytes: usize, max_age: Duration, keep: usize) -> Self {
        Self {
            sessions: HashMap::new(),
            idle: VecDeque::new(),
            running: VecDeque::new(),
            touches: 0,
            bytes: 0,
            max_bytes,
            max_age,
            keep,
            dropped: 0,
        }
    }

    /// Records that this server created a session.
    pub fn created(&mut self, session: SessionId, now: Instant) {
        self.touch(session, now);
        self.evict(now);
    }

    /// Records that this server closed a session.
    pub fn closed(&mut self, session: SessionId, now: Instant) {
        self.touch(session, now).closed = true;
        self.evict(now);
    }

    /// Records that this server claimed a session.
    pub fn claimed(
        &mut self,
        session: SessionId,
        (generation, prev): (u64, Option<Position>),
        query: &str,
        answer: &str,
        now: Instant,
    ) {
        let keep = self.keep;
        let record = self.record(session);
        let is_newer = record.generation < generation;
        record.running |= is_newer;
        let acknowledged = self.touch(session, now);
        if !is_newer {
            return;
        }
        let dropped = prev.map_or(0, |prev| acknowledged.drop_above(prev));
        let freed = dropped + acknowledged.trim(keep) + acknowledged.texts();
        if acknowledged.generation > 0 {
            acknowledged.past.push_back((acknowledged.generation, std::mem::take(&mut acknowledged.query)));
            acknowledged.past.drain(..acknowledged.past.len().saturating_sub(PAST_QUERIES));
        }
        (acknowledged.generation, acknowledged.prev) = (generation, prev);
        (acknowledged.query, acknowledged.answer) = (query.to_owned(), answer.to_owned());
        let mut frame = Vec::new();
        encode_fence(&mut frame, generation, prev);
        let prefix = Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev } };
        let added = acknowledged.push(LogEntry::new(prefix, &frame)) + acknowledged.texts();
        self.bytes = self.bytes + added - freed;
        self.evict(now);
    }

    /// Records that the broker acknowledged an event of a session that this server claimed.
    pub fn appended(&mut self, session: SessionId, prefix: Prefix, frame: &[u8], now: Instant) {
        let Some(acknowledged) = self.sessions.get_mut(&session) else { return };
        if prefix.position.generation != acknowledged.generation {
            return;
        }
        self.bytes += acknowledged.push(LogEntry::new(prefix, frame));
        if prefix.kind.is_terminator() {
            acknowledged.running = false;
            self.touch(session, now);
        }
        if self.bytes > self.max_bytes {
            self.evict(now);
        }
    }

    /// Records that a generation claimed here was fenced off. Entries that were acknowledged are kept: they precede the
    /// fence, or the fence drops them when they are restored.
    pub fn fenced_off(&mut self, session: SessionId, generation: u64) {
        if let Some(acknowledged) =
            self.sessions.get_mut(&session).filter(|acknowledged| acknowledged.generation == generation)
        {
            acknowledged.running = false;
            self.enqueue(session);
        }
    }

    /// Returns every session and its acknowledged data.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &AcknowledgedRecord)> {
        self.sessions.iter().map(|(&session, acknowledged)| (session, acknowledged))
    }

    /// Returns the acknowledged data of a session.
    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<&AcknowledgedRecord> {
        self.sessions.get(&session)
    }

    /// Returns the approximate size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many sessions were dropped because the size limit was reached.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the session's data. An unknown session gets an empty record.
    fn record(&mut self, session: SessionId) -> &mut AcknowledgedRecord {
        self.sessions.entry(session).or_insert_with(|| {
            self.bytes += SESSION_BYTES;
            AcknowledgedRecord::default()
        })
    }

    /// Returns the session's data, and makes the session the last one of its queue to be dropped.
    fn touch(&mut self, session: SessionId, now: Instant) -> &mut AcknowledgedRecord {
        self.touches += 1;
        let touch = self.touches;
        let acknowledged = self.record(session);
        (acknowledged.touch, acknowledged.touched_at) = (touch, Some(now));
        self.enqueue(session);
        self.record(session)
    }

    /// Adds a session to the queue of its state. Its earlier entries, in both queues, become outdated. That needs no search: outdated
    /// entries are removed when they reach the front, or here when they are more than half of the queue.
    fn enqueue(&mut self, session: SessionId) {
        let Some(acknowledged) = self.sessions.get(&session) else { return };
        let Some(touched_at) = acknowledged.touched_at else { return };
        let entry = (session, acknowledged.touch, touched_at);
        let is_running = acknowledged.running;
        let queue = if is_running { &mut self.running } else { &mut self.idle };
        if queue.len() > 64 + 2 * self.sessions.len() {
            queue.retain(|entry| is_current(&self.sessions, entry, is_running));
        }
        queue.push_back(entry);
    }

    /// Drops idle sessions that are too old or exceed the size limit. If that is not enough, drops running ones. The cost does not depend
    /// on the number of sessions that are kept.
    fn evict(&mut self, now: Instant) {
        while let Some(&entry) = self.idle.front() {
            let old = now.saturating_duration_since(entry.2) > self.max_age;
            if !old && self.bytes <= self.max_bytes {
                break;
            }
            self.idle.pop_front();
            if is_current(&self.sessions, &entry, false) {
                self.dropped += u64::from(!old);
                self.remove(entry.0);
            }
        }
        while self.bytes > self.max_bytes
            && let Some(entry) = self.running.pop_front()
        {
            if is_current(&self.sessions, &entry, true) {
                self.dropped += 1;
                self.remove(entry.0);
            }
        }
    }

    fn remove(&mut self, session: SessionId) {
        if let Some(acknowledged) = self.sessions.remove(&session) {
            self.bytes -= SESSION_BYTES + acknowledged.bytes + acknowledged.texts();
        }
    }
}

/// Returns whether an entry of the queue of running or of idle sessions is the last one of its session.
fn is_current<S: BuildHasher>(
    sessions: &HashMap<SessionId, AcknowledgedRecord, S>,
    (session, touch, _): &Touch,
    running: bool,
) -> bool {
    sessions.get(session).is_some_and(|record| record.touch == *touch && record.running == running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn session(n: u8) -> SessionId {
        SessionId::new(Uuid::from_u128(n.into()))
    }

    fn event(generation: u64, seq: u64, kind: Kind) -> Prefix {
        Prefix { position: Position::new(generation, seq), kind }
    }

    #[test]
    fn acknowledged_events_of_own_claims_are_kept() {
        let (now, mut history) =
            (Instant::now(), AcknowledgedHistory::new(1 << 20, Duration::from_secs(60), 2));
        history.created(session(1), now);
        history.appended(session(1), event(5, 1, Kind::Token), b"not claimed", now);
        history.claimed(session(1), (5, Some(Position::ZERO)), "q", "a", now);
        for seq in [1, 2, 2, 1] {
            history.appended(session(1), event(5, seq, Kind::Token), b"token", now);
        }
        let positions = |history: &AcknowledgedHistory| -> Vec<String> {
            history.get(session(1)).unwrap().entries().map(|e| e.prefix.position.to_string()).collect()
        };
        assert_eq!(positions(&history), ["5-0", "5-1", "5-2"]);
        assert!(history.get(session(1)).unwrap().running);
        history.appended(session(1), event(5, 3, Kind::Done), b"done", now);
        assert!(!history.get(session(1)).unwrap().running);
        history.claimed(session(1), (9, Some(Position::new(5, 3))), "r", "b", now);
        assert_eq!(positions(&history), ["5-2", "5-3", "9-0"], "two entries of earlier queries");
        history.fenced_off(session(1), 5);
        assert!(history.get(session(1)).is_some());
        history.fenced_off(session(1), 9);
        assert_eq!(positions(&history), ["5-2", "5-3", "9-0"]);
        let acknowledged = history.get(session(1)).unwrap();
        assert_eq!(
            (acknowledged.running, &acknowledged.past),
            (false, &VecDeque::from([(5, "q".to_owned())]))
        );
        history.claimed(session(1), (12, None), "s", "c", now);
        assert_eq!(
            positions(&history),
            ["5-3", "9-0", "12-0"],
            "a claim before all have restored drops nothing"
        );
    }

    #[test]
    fn the_oldest_session_is_dropped_first_and_a_running_one_last() {
        let (now, mut history) =
            (Instant::now(), AcknowledgedHistory::new(3 * 400, Duration::from_secs(60), 10));
        history.claimed(session(1), (5, Some(Position::ZERO)), "q", "a", now);
        for n in 2..=10 {
            history.claimed(session(n), (5, Some(Position::ZERO)), "q", "a", now);
            history.appended(session(n), event(5, 1, Kind::Done), b"done", now);
        }
        assert!(history.bytes() <= 1200);
        let left: Vec<bool> = (1..=10).map(|n| history.get(session(n)).is_some()).collect();
        assert_eq!(left, [true, false, false, false, false, false, false, false, false, true], "{history:?}");
        history.claimed(session(11), (5, Some(Position::ZERO)), "q", "a", now + Duration::from_secs(61));
        assert!(history.get(session(10)).is_none() && history.get(session(11)).is_some());
    }

    #[test]
    fn running_sessions_are_dropped_in_their_order_and_after_one_that_was_fenced_off() {
        let (now, mut history) =
            (Instant::now(), AcknowledgedHistory::new(5 * 400, Duration::from_secs(60), 10));
        for n in 1..=4 {
            history.claimed(session(n), (5, Some(Position::ZERO)), "q", "a", now);
        }
        history.fenced_off(session(3), 5);
        let mut dropped = Vec::new();
        for seq in 1.. {
            history.appended(session(4), event(5, seq, Kind::Token), &[0; 100], now);
            let missing = (1..=4).filter(|&n| history.get(session(n)).is_none() && !dropped.contains(&n));
            dropped.extend(missing.collect::<Vec<_>>());
            if dropped.len() == 4 {
                break;
            }
        }
        assert_eq!(dropped, [3, 1, 2, 4]);
        assert_eq!((history.bytes(), history.dropped()), (0, 4));
    }

    proptest! {
        #[test]
        fn the_size_never_exceeds_the_limit(steps in proptest::collection::vec((0u8..20, 0u8..5, 0usize..300), 1..300)) {
            let (start, mut history) = (Instant::now(), AcknowledgedHistory::new(4096, Duration::from_secs(50), 5));
            for (n, (id, what, len)) in (0u64..).zip(steps) {
                let (id, now) = (session(id), start + Duration::from_secs(n));
                let generation = history.get(id).map_or(0, |acknowledged| acknowledged.generation);
                match what {
                    0 => history.created(id, now),
                    1 => history.closed(id, now),
                    2 => history.claimed(id, (n + 1, Some(Position::ZERO)), &"q".repeat(len), "a", now),
                    3 => history.appended(id, event(generation, n, Kind::Done), &vec![0; len], now),
                    _ => history.appended(id, event(generation, n, Kind::Token), &vec![0; len], now),
                }
                let sum: usize = history.sessions()
                    .map(|(_, acknowledged)| SESSION_BYTES + acknowledged.bytes + acknowledged.texts())
                    .sum();
                prop_assert_eq!(history.bytes(), sum);
                prop_assert!(sum <= 4096, "{} bytes", sum);
                prop_assert!(history.idle.len().max(history.running.len()) <= 65 + 2 * history.sessions.len());
            }
        }
    }
}

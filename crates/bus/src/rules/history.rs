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
    /// Sessions in the order of their last touch. An entry is outdated if its number is not the session's last one.
    touched: VecDeque<(SessionId, u64, Instant)>,
    touches: u64,
    /// Size of all sessions, in bytes.
    bytes: usize,
    max_bytes: usize,
    max_age: Duration,
    keep: usize,
    dropped: u64,
}

impl AcknowledgedHistory {
    /// Returns an empty history. It keeps at most `max_bytes`, no session longer than `max_age` after its last touch,
    /// and per session `keep` entries of earlier queries.
    #[must_use]
    pub fn new(max_bytes: usize, max_age: Duration, keep: usize) -> Self {
        Self {
            sessions: HashMap::new(),
            touched: VecDeque::new(),
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
        let acknowledged = self.touch(session, now);
        if acknowledged.generation >= generation {
            return;
        }
        let dropped = prev.map_or(0, |prev| acknowledged.drop_above(prev));
        let freed = dropped + acknowledged.trim(keep) + acknowledged.texts();
        if acknowledged.generation > 0 {
            acknowledged.past.push_back((acknowledged.generation, std::mem::take(&mut acknowledged.query)));
            acknowledged.past.drain(..acknowledged.past.len().saturating_sub(PAST_QUERIES));
        }
        (acknowledged.generation, acknowledged.prev, acknowledged.running) = (generation, prev, true);
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

    /// Returns the session's data, and makes the session the last one to be dropped.
    ///
    /// `touched` is a queue of touches, not of sessions: a touch adds an entry, and the session's earlier entries become
    /// outdated. That needs no search. Outdated entries are removed when they reach the front, or here when they are more
    /// than half of the queue.
    fn touch(&mut self, session: SessionId, now: Instant) -> &mut AcknowledgedRecord {
        self.touches += 1;
        self.touched.push_back((session, self.touches, now));
        if self.touched.len() > 64 + 2 * self.sessions.len() {
            let sessions = &self.sessions;
            self.touched.retain(|(session, touch, _)| is_last_touch(sessions, *session, *touch));
            // The entry just pushed has the session's next number, not its last one.
            self.touched.push_back((session, self.touches, now));
        }
        let acknowledged = self.sessions.entry(session).or_insert_with(|| {
            self.bytes += SESSION_BYTES;
            AcknowledgedRecord::default()
        });
        acknowledged.touch = self.touches;
        acknowledged
    }

    /// Drops sessions that are too old or exceed the size limit: idle sessions first, running ones only if no other is left.
    fn evict(&mut self, now: Instant) {
        for running_too in [false, true] {
            // Running sessions that the first pass skips. They go back to the front in their order.
            let mut passed_over = VecDeque::new();
            while let Some(&(session, touch, at)) = self.touched.front() {
                let old = now.saturating_duration_since(at) > self.max_age;
                if !old && self.bytes <= self.max_bytes {
                    break;
                }
                let entry = self.touched.pop_front();
                if !is_last_touch(&self.sessions, session, touch) {
                    continue;
                }
                if !running_too
                    && self.sessions.get(&session).is_some_and(|acknowledged| acknowledged.running)
                {
                    passed_over.extend(entry);
                    continue;
                }
                self.dropped += u64::from(!old);
                self.remove(session);
            }
            while let Some(entry) = passed_over.pop_back() {
                self.touched.push_front(entry);
            }
            if self.bytes <= self.max_bytes {
                return;
            }
        }
    }

    fn remove(&mut self, session: SessionId) {
        if let Some(acknowledged) = self.sessions.remove(&session) {
            self.bytes -= SESSION_BYTES + acknowledged.bytes + acknowledged.texts();
        }
    }
}

fn is_last_touch<S: BuildHasher>(
    sessions: &HashMap<SessionId, AcknowledgedRecord, S>,
    session: SessionId,
    touch: u64,
) -> bool {
    sessions.get(&session).is_some_and(|acknowledged| acknowledged.touch == touch)
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
                prop_assert!(history.touched.len() <= 65 + 2 * history.sessions.len());
            }
        }
    }
}

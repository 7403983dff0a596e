//! What a server keeps of the sessions that it created, ran or closed, to give it back to a broker that forgot: bounded in
//! bytes and time, the longest untouched first. It keeps only what the broker had acknowledged.

use super::{LogEntry, PAST_QUERIES};
use protocol::{Kind, Position, Prefix, SessionId, encode_fence};
use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    time::{Duration, Instant},
};

/// What a session costs besides its texts and frames, about.
const SESSION_BYTES: usize = 256;
/// What an entry costs besides its frame, about.
const ENTRY_BYTES: usize = 64;

/// One session as its server knows it.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// It was closed here.
    pub closed: bool,
    /// The last generation that was claimed here; 0 for none.
    pub generation: u64,
    /// The last position before it, where the claim knew it.
    pub prev: Option<Position>,
    /// Its query.
    pub query: String,
    /// Generation and query id of earlier claims made here, oldest first.
    pub past: VecDeque<(u64, String)>,
    /// What was kept with the claim.
    pub answer: String,
    /// Its terminator is not acknowledged yet.
    pub running: bool,
    log: VecDeque<LogEntry>,
    bytes: usize,
    touch: u64,
}

impl Kept {
    fn texts(&self) -> usize {
        let past: usize = self.past.iter().map(|(_, query)| query.len()).sum();
        self.query.len() + self.answer.len() + past
    }

    /// The acknowledged entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &LogEntry> + ExactSizeIterator {
        self.log.iter()
    }

    fn push(&mut self, entry: LogEntry) -> usize {
        if self.log.back().is_some_and(|last| last.prefix.position >= entry.prefix.position) {
            return 0;
        }
        let cost = ENTRY_BYTES + entry.frame.len();
        self.bytes += cost;
        self.log.push_back(entry);
        cost
    }

    /// What a fence leaves out that names `position`.
    fn forget_above(&mut self, position: Position) -> usize {
        let mut freed = 0;
        while let Some(entry) = self.log.pop_back_if(|entry| entry.prefix.position > position) {
            freed += ENTRY_BYTES + entry.frame.len();
        }
        self.bytes -= freed;
        freed
    }

    fn trim(&mut self, keep: usize) -> usize {
        let surplus = self.log.len().saturating_sub(keep);
        let freed = self.log.drain(..surplus).map(|entry| ENTRY_BYTES + entry.frame.len()).sum();
        self.bytes -= freed;
        freed
    }
}

/// All that one server keeps.
#[derive(Debug)]
pub struct Keeper {
    sessions: HashMap<SessionId, Kept>,
    /// In the order of their last touch; an entry whose number is not its session's any more counts for nothing.
    touched: VecDeque<(SessionId, u64, Instant)>,
    touches: u64,
    bytes: usize,
    max_bytes: usize,
    max_age: Duration,
    keep: usize,
    dropped: u64,
}

impl Keeper {
    /// Keeps `max_bytes` at most, no session longer than `max_age` after it was last touched, and `keep` entries of earlier
    /// queries a session.
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

    /// A session was created here.
    pub fn created(&mut self, session: SessionId, now: Instant) {
        self.touch(session, now);
        self.evict(now);
    }

    /// A session was closed here.
    pub fn closed(&mut self, session: SessionId, now: Instant) {
        self.touch(session, now).closed = true;
        self.evict(now);
    }

    /// A session was claimed here.
    pub fn claimed(
        &mut self,
        session: SessionId,
        (generation, prev): (u64, Option<Position>),
        query: &str,
        answer: &str,
        now: Instant,
    ) {
        let keep = self.keep;
        let kept = self.touch(session, now);
        if kept.generation >= generation {
            return;
        }
        let dropped = prev.map_or(0, |prev| kept.forget_above(prev));
        let freed = dropped + kept.trim(keep) + kept.texts();
        if kept.generation > 0 {
            kept.past.push_back((kept.generation, std::mem::take(&mut kept.query)));
            kept.past.drain(..kept.past.len().saturating_sub(PAST_QUERIES));
        }
        (kept.generation, kept.prev, kept.running) = (generation, prev, true);
        (kept.query, kept.answer) = (query.to_owned(), answer.to_owned());
        let mut frame = Vec::new();
        encode_fence(&mut frame, generation, prev);
        let prefix = Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev } };
        let added = kept.push(LogEntry::new(prefix, &frame)) + kept.texts();
        self.bytes = self.bytes + added - freed;
        self.evict(now);
    }

    /// An event of a session that was claimed here was acknowledged.
    pub fn appended(&mut self, session: SessionId, prefix: Prefix, frame: &[u8], now: Instant) {
        let Some(kept) = self.sessions.get_mut(&session) else { return };
        if prefix.position.generation != kept.generation {
            return;
        }
        self.bytes += kept.push(LogEntry::new(prefix, frame));
        if prefix.kind.is_terminator() {
            kept.running = false;
            self.touch(session, now);
        }
        if self.bytes > self.max_bytes {
            self.evict(now);
        }
    }

    /// A generation that was claimed here has been fenced off. What was acknowledged of it came before the fence and counts;
    /// should it not, the fence leaves it out when it is given back.
    pub fn fenced_off(&mut self, session: SessionId, generation: u64) {
        if let Some(kept) = self.sessions.get_mut(&session).filter(|kept| kept.generation == generation) {
            kept.running = false;
        }
    }

    /// What there is to give back.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Kept)> {
        self.sessions.iter().map(|(&session, kept)| (session, kept))
    }

    /// What is kept of this one.
    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<&Kept> {
        self.sessions.get(&session)
    }

    /// Bytes kept, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sessions that were let go for want of room.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn touch(&mut self, session: SessionId, now: Instant) -> &mut Kept {
        self.touches += 1;
        self.touched.push_back((session, self.touches, now));
        if self.touched.len() > 64 + 2 * self.sessions.len() {
            let sessions = &self.sessions;
            self.touched.retain(|(session, touch, _)| is_last_touch(sessions, *session, *touch));
            // The one that was just pushed names its session's next touch, not its last.
            self.touched.push_back((session, self.touches, now));
        }
        let kept = self.sessions.entry(session).or_insert_with(|| {
            self.bytes += SESSION_BYTES;
            Kept::default()
        });
        kept.touch = self.touches;
        kept
    }

    /// Lets go of what is too old, and of what is too much: idle sessions first, running ones only where there is no other.
    fn evict(&mut self, now: Instant) {
        for running_too in [false, true] {
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
                if !running_too && self.sessions.get(&session).is_some_and(|kept| kept.running) {
                    passed_over.extend(entry);
                    continue;
                }
                self.dropped += u64::from(!old);
                self.forget(session);
            }
            while let Some(entry) = passed_over.pop_back() {
                self.touched.push_front(entry);
            }
            if self.bytes <= self.max_bytes {
                return;
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(kept) = self.sessions.remove(&session) {
            self.bytes -= SESSION_BYTES + kept.bytes + kept.texts();
        }
    }
}

fn is_last_touch<S: BuildHasher>(
    sessions: &HashMap<SessionId, Kept, S>,
    session: SessionId,
    touch: u64,
) -> bool {
    sessions.get(&session).is_some_and(|kept| kept.touch == touch)
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
    fn keeps_what_was_acknowledged_of_its_own_claims() {
        let (now, mut keeper) = (Instant::now(), Keeper::new(1 << 20, Duration::from_secs(60), 2));
        keeper.created(session(1), now);
        keeper.appended(session(1), event(5, 1, Kind::Token), b"of nobody", now);
        keeper.claimed(session(1), (5, Some(Position::ZERO)), "q", "a", now);
        for seq in [1, 2, 2, 1] {
            keeper.appended(session(1), event(5, seq, Kind::Token), b"token", now);
        }
        let positions = |keeper: &Keeper| -> Vec<String> {
            keeper.get(session(1)).unwrap().entries().map(|e| e.prefix.position.to_string()).collect()
        };
        assert_eq!(positions(&keeper), ["5-0", "5-1", "5-2"]);
        assert!(keeper.get(session(1)).unwrap().running);
        keeper.appended(session(1), event(5, 3, Kind::Done), b"done", now);
        assert!(!keeper.get(session(1)).unwrap().running);
        keeper.claimed(session(1), (9, Some(Position::new(5, 3))), "r", "b", now);
        assert_eq!(positions(&keeper), ["5-2", "5-3", "9-0"], "two entries of earlier queries");
        keeper.fenced_off(session(1), 5);
        assert!(keeper.get(session(1)).is_some());
        keeper.fenced_off(session(1), 9);
        assert_eq!(positions(&keeper), ["5-2", "5-3", "9-0"]);
        let kept = keeper.get(session(1)).unwrap();
        assert_eq!((kept.running, &kept.past), (false, &VecDeque::from([(5, "q".to_owned())])));
        keeper.claimed(session(1), (12, None), "s", "c", now);
        assert_eq!(positions(&keeper), ["5-3", "9-0", "12-0"], "an unsure claim forgets nothing");
    }

    #[test]
    fn the_longest_untouched_goes_first_and_a_running_one_last() {
        let (now, mut keeper) = (Instant::now(), Keeper::new(3 * 400, Duration::from_secs(60), 10));
        keeper.claimed(session(1), (5, Some(Position::ZERO)), "q", "a", now);
        for n in 2..=10 {
            keeper.claimed(session(n), (5, Some(Position::ZERO)), "q", "a", now);
            keeper.appended(session(n), event(5, 1, Kind::Done), b"done", now);
        }
        assert!(keeper.bytes() <= 1200);
        let left: Vec<bool> = (1..=10).map(|n| keeper.get(session(n)).is_some()).collect();
        assert_eq!(left, [true, false, false, false, false, false, false, false, false, true], "{keeper:?}");
        keeper.claimed(session(11), (5, Some(Position::ZERO)), "q", "a", now + Duration::from_secs(61));
        assert!(keeper.get(session(10)).is_none() && keeper.get(session(11)).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_it_may(steps in proptest::collection::vec((0u8..20, 0u8..5, 0usize..300), 1..300)) {
            let (start, mut keeper) = (Instant::now(), Keeper::new(4096, Duration::from_secs(50), 5));
            for (n, (id, what, len)) in (0u64..).zip(steps) {
                let (id, now) = (session(id), start + Duration::from_secs(n));
                let generation = keeper.get(id).map_or(0, |kept| kept.generation);
                match what {
                    0 => keeper.created(id, now),
                    1 => keeper.closed(id, now),
                    2 => keeper.claimed(id, (n + 1, Some(Position::ZERO)), &"q".repeat(len), "a", now),
                    3 => keeper.appended(id, event(generation, n, Kind::Done), &vec![0; len], now),
                    _ => keeper.appended(id, event(generation, n, Kind::Token), &vec![0; len], now),
                }
                let sum: usize = keeper.sessions()
                    .map(|(_, kept)| SESSION_BYTES + kept.bytes + kept.texts())
                    .sum();
                prop_assert_eq!(keeper.bytes(), sum);
                prop_assert!(sum <= 4096, "{} bytes", sum);
                prop_assert!(keeper.touched.len() <= 65 + 2 * keeper.sessions.len());
            }
        }
    }
}

//! Streams whose events Redis refuses for a reason of this session alone, for example a key of the wrong type. They wait here, each in
//! its order, and do not delay other streams.

use crate::{
    outbox::{Parcel, SEALED_BYTES},
    stream::{Ended, StreamId},
};
use bus::Entry;
use protocol::Frame;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// Pause before the first retry of a stream. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between retries of a stream.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One waiting stream.
#[derive(Debug)]
struct Waiting {
    parcel: Parcel,
    since: Instant,
    next_try: Instant,
    pause: Duration,
    /// Its events are in an append or a release that has not returned.
    in_flight: bool,
    /// Its terminator waits, so later events are dropped.
    ended: bool,
    /// The log refused its terminator for good, so its claim is released without a terminator in the log.
    releases: bool,
}

/// The streams that are due for a retry, in one parcel.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) streams: Vec<StreamId>,
    pub(crate) parcel: Parcel,
    /// Whether the claims of the parcel's terminators are released. If false, the parcel's events are appended.
    pub(crate) releases: bool,
}

/// All waiting streams.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    streams: HashMap<StreamId, Waiting>,
    /// The streams that are not in flight, ordered by the time of their next retry.
    queue: BTreeSet<(Instant, StreamId)>,
    bytes: usize,
}

impl Aside {
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(crate) fn contains(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    /// Returns the bytes of the waiting frames.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns since when a stream has waited.
    pub(crate) fn since(&self, id: StreamId) -> Option<Instant> {
        self.streams.get(&id).map(|waiting| waiting.since)
    }

    /// Adds refused events and those that follow them, before the waiting ones if `in_front`, else behind them. Returns how many were
    /// dropped because their stream's terminator waits.
    pub(crate) fn add(&mut self, events: Parcel, in_front: bool) -> usize {
        let mut left_out = 0;
        let now = Instant::now();
        for (id, mut own) in events.by_stream() {
            let waiting = self.streams.entry(id).or_insert_with(|| Waiting {
                parcel: Parcel::default(),
                since: now,
                next_try: now + FIRST_PAUSE,
                pause: FIRST_PAUSE,
                in_flight: false,
                ended: false,
                releases: false,
            });
            if in_front {
                self.bytes += own.batch.bytes();
                let behind = std::mem::replace(&mut waiting.parcel, own);
                waiting.parcel.join(behind);
                waiting.in_flight = false;
            } else if waiting.ended {
                left_out += own.batch.len();
                // The terminator that waits returns the permit.
                waiting.parcel.keep_permits(&mut own);
            } else {
                self.bytes += own.batch.bytes();
                waiting.parcel.join(own);
            }
            if !waiting.in_flight {
                self.queue.insert((waiting.next_try, id));
            }
        }
        left_out
    }

    /// Takes the events of the streams that are due for a retry, the earliest first, up to [`SEALED_BYTES`]. All of them are either for
    /// an append or for a release.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        let &(_, first) = self.queue.first().filter(|&&(at, _)| at <= now)?;
        let releases = self.streams.get(&first)?.releases;
        let mut bytes = 0;
        let due = self.queue.iter().take_while(|&&(at, _)| at <= now);
        let due = due.filter_map(|&(at, id)| Some((at, id, self.streams.get(&id)?)));
        let same = due.filter(|(.., waiting)| waiting.releases == releases).take_while(|(.., waiting)| {
            let fits = bytes < SEALED_BYTES;
            bytes += waiting.parcel.batch.bytes();
            fits
        });
        let picked: Vec<(Instant, StreamId)> = same.map(|(at, id, _)| (at, id)).collect();
        let mut due = Due { streams: Vec::with_capacity(picked.len()), parcel: Parcel::default(), releases };
        for (at, id) in picked {
            self.queue.remove(&(at, id));
            let Some(waiting) = self.streams.get_mut(&id) else { continue };
            waiting.in_flight = true;
            waiting.pause = (waiting.pause * 2).min(LONGEST_PAUSE);
            waiting.next_try = now + waiting.pause;
            let parcel = std::mem::take(&mut waiting.parcel);
            self.bytes -= parcel.batch.bytes();
            due.streams.push(id);
            due.parcel.join(parcel);
        }
        Some(due)
    }

    /// Returns when the next stream is due for a retry.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// Notes that all events of a stream in flight were settled. A stream without further events no longer waits.
    pub(crate) fn settled(&mut self, id: StreamId) {
        let Some(waiting) = self.streams.get_mut(&id) else { return };
        waiting.in_flight = false;
        (waiting.pause, waiting.next_try) = (FIRST_PAUSE, Instant::now());
        if waiting.parcel.batch.is_empty() {
            self.streams.remove(&id);
        } else {
            self.queue.insert((waiting.next_try, id));
        }
    }

    /// Removes a stream and returns its permit. Returns how many of its events were dropped.
    pub(crate) fn forget(&mut self, id: StreamId) -> usize {
        let Some(waiting) = self.streams.remove(&id) else { return 0 };
        self.queue.remove(&(waiting.next_try, id));
        self.bytes -= waiting.parcel.batch.bytes();
        waiting.parcel.batch.len()
    }

    /// Returns whether the stream's claim is to be released without a terminator in the log.
    pub(crate) fn releases(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|waiting| waiting.releases)
    }

    /// Makes the next retry release the stream's claim without a terminator in the log. Only the terminator of such a stream waits.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Some(waiting) = self.streams.get_mut(&id) else { return };
        waiting.releases = true;
        if self.queue.remove(&(waiting.next_try, id)) {
            (waiting.pause, waiting.next_try) = (FIRST_PAUSE, Instant::now());
            self.queue.insert((waiting.next_try, id));
        }
    }

    /// Ends a stream: an error terminator at the position of its first waiting event replaces all of them. `ended` is what the pacer
    /// returned for the stream, if it was still running. Returns how many events were replaced, or `None` if only a terminator waits.
    pub(crate) fn end(
        &mut self,
        id: StreamId,
        ended: Option<Ended>,
        code: &str,
        message: &str,
        now_us: u64,
    ) -> Option<usize> {
        let waiting = self.streams.get_mut(&id).filter(|waiting| !waiting.ended)?;
        waiting.ended = true;
        let first = waiting.parcel.batch.iter().next()?;
        if first.prefix.kind.is_terminator() {
            return None;
        }
        let query_id = ended.as_ref().map_or_else(|| query_id(&first), |ended| ended.query_id.clone());
        let position = first.prefix.position;
        let (events, bytes) = (waiting.parcel.batch.len(), waiting.parcel.batch.bytes());
        let mut parcel = Parcel::default();
        let permit = ended.and_then(|ended| ended.permit);
        let ended = Ended { session: id.0, position, digest: None, query_id, permit };
        parcel.push_error(ended, code, message, now_us);
        parcel.keep_permits(&mut waiting.parcel);
        self.bytes = self.bytes + parcel.batch.bytes() - bytes;
        waiting.parcel = parcel;
        Some(events)
    }
}

/// Returns the query id in an event's frame.
pub(crate) fn query_id(entry: &Entry<'_>) -> String {
    match std::str::from_utf8(entry.frame).map(Frame::parse) {
        Ok(Ok(Frame::Event(event))) => event.query_id.unwrap_or_default().into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::stream_of;
    use protocol::{Kind, Position, SessionId, encode_token};
    use uuid::Uuid;

    fn id(n: u64) -> StreamId {
        (SessionId::new(Uuid::from_u128(n.into())), 1)
    }

    /// Returns one token for each of these streams.
    fn parcel(streams: impl IntoIterator<Item = u64>, seq: u64, bytes: usize) -> Parcel {
        let mut parcel = Parcel::default();
        for n in streams {
            let position = Position::new(1, seq);
            parcel.batch.push(id(n).0, position, Kind::Token, |out| {
                encode_token(out, position, &"x".repeat(bytes), "q", 0, 0);
            });
        }
        parcel
    }

    fn seqs(parcel: &Parcel, of: StreamId) -> Vec<u64> {
        let own = parcel.batch.iter().filter(|entry| stream_of(entry) == of);
        own.map(|entry| entry.prefix.position.seq).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn due_streams_share_a_call_and_keep_their_order() {
        let mut aside = Aside::default();
        aside.add(parcel(0..500, 1, 10), true);
        aside.add(parcel(0..500, 2, 10), false);
        assert!(aside.due(Instant::now()).is_none(), "not before the first pause is over");
        tokio::time::advance(FIRST_PAUSE).await;
        aside.add(parcel([500], 1, 10), true);
        let due = aside.due(Instant::now()).unwrap();
        assert_eq!((due.streams.len(), due.parcel.batch.len(), due.releases), (500, 1000, false));
        assert!((0..500).all(|n| seqs(&due.parcel, id(n)) == [1, 2]));
        assert!(aside.due(Instant::now()).is_none(), "in flight");
        assert_eq!(aside.next_try(), Some(Instant::now() + FIRST_PAUSE), "that of the newest");
        // Some are settled, of one the rest comes back, and one gets a new event meanwhile.
        aside.add(parcel([7], 3, 10), false);
        aside.add(parcel([3], 2, 10), true);
        (0..500).filter(|&n| n != 3).for_each(|n| aside.settled(id(n)));
        assert!(aside.contains(id(3)) && aside.contains(id(7)) && !aside.contains(id(4)));
        let next = aside.due(Instant::now()).unwrap();
        assert_eq!(
            (next.streams, seqs(&next.parcel, id(7))),
            (vec![id(7)], vec![3]),
            "its order is free at once"
        );
        tokio::time::advance(FIRST_PAUSE * 2).await;
        let last = aside.due(Instant::now()).unwrap();
        assert_eq!((seqs(&last.parcel, id(3)), last.streams.len()), (vec![2], 2));
        assert_eq!(aside.bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_bounded_in_bytes_and_either_releases_or_appends() {
        let mut aside = Aside::default();
        aside.add(parcel(0..8, 1, SEALED_BYTES / 4), true);
        aside.release(id(5));
        tokio::time::advance(FIRST_PAUSE).await;
        let mut calls = Vec::new();
        while let Some(due) = aside.due(Instant::now()) {
            assert!(due.parcel.batch.bytes() < SEALED_BYTES + SEALED_BYTES / 3);
            calls.push((due.releases, due.streams.len()));
        }
        assert_eq!(calls, [(true, 1), (false, 4), (false, 3)]);
        (0..8).for_each(|n| assert_eq!(aside.forget(id(n)), 0));
        assert!(aside.is_empty() && aside.next_try().is_none());
    }
}

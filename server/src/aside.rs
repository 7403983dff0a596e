//! Streams whose log refuses their events for a reason that concerns them alone: they wait here, each in its order, and delay no
//! other stream.

use crate::{
    outbox::{Parcel, SEALED_BYTES},
    pacer::{Ended, StreamId},
};
use bus::Entry;
use protocol::Frame;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One stream that waits.
#[derive(Debug)]
struct Waiting {
    parcel: Parcel,
    since: Instant,
    next_try: Instant,
    pause: Duration,
    /// Its events are on their way.
    in_flight: bool,
    /// It has its terminator: what comes behind that is left out.
    ended: bool,
    /// The log refuses its terminator for good: its claim is released without one.
    releases: bool,
}

/// The streams whose time has come, in one parcel.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) streams: Vec<StreamId>,
    pub(crate) parcel: Parcel,
    /// The parcel holds terminators whose claims are to be released; otherwise events to be appended.
    pub(crate) releases: bool,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    streams: HashMap<StreamId, Waiting>,
    /// The streams that are not in flight, by the time of their next try.
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

    /// Bytes of the frames that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when a stream has waited.
    pub(crate) fn since(&self, id: StreamId) -> Option<Instant> {
        self.streams.get(&id).map(|waiting| waiting.since)
    }

    /// Adds events that were refused, or that follow refused ones; where `in_front`, before those that wait already. Returns
    /// how many were left out because their stream has its terminator.
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
                // Its permit is given back with the terminator.
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

    /// Takes out the events of the streams that are to be tried again, the earliest due first: as many as one call can carry, all
    /// of them either for an append or for a release.
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

    /// When the next one is to be tried again.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// All events of a stream that were in flight were settled. One that has no others waits no longer.
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

    /// Lets go of a stream and of its permit. Returns how many of its events had not been taken.
    pub(crate) fn forget(&mut self, id: StreamId) -> usize {
        let Some(waiting) = self.streams.remove(&id) else { return 0 };
        self.queue.remove(&(waiting.next_try, id));
        self.bytes -= waiting.parcel.batch.bytes();
        waiting.parcel.batch.len()
    }

    /// Whether the claim of this stream is to be released without a terminator in the log.
    pub(crate) fn releases(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|waiting| waiting.releases)
    }

    /// From now on the claim of this stream, of which only the terminator is left, is to be released without one in the log.
    pub(crate) fn release(&mut self, id: StreamId) {
        let Some(waiting) = self.streams.get_mut(&id) else { return };
        waiting.releases = true;
        if self.queue.remove(&(waiting.next_try, id)) {
            (waiting.pause, waiting.next_try) = (FIRST_PAUSE, Instant::now());
            self.queue.insert((waiting.next_try, id));
        }
    }

    /// Ends a stream: of its events only a terminator is kept, in the place of the first that was not taken. `ended` is what
    /// is left of it where it was still played. Returns how many events it replaced, `None` where only a terminator waits.
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

/// The query that an event belongs to, as its frame says.
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

    /// Tokens of these streams, one each, in turn.
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
    async fn what_is_due_goes_together_each_stream_in_its_order() {
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
        assert_eq!(aside.next_try(), Some(Instant::now() + FIRST_PAUSE), "of the newest");
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
    async fn a_call_is_bounded_and_releases_alone_or_appends_alone() {
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

//! Streams whose log refuses their events for a reason of its own: they wait here, each in its order, and delay nobody else.

use crate::{
    outbox::{Parcel, stream_of},
    pacer::{Ended, StreamId},
};
use bus::Entry;
use protocol::Frame;
use std::{collections::HashMap, time::Duration};
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
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    streams: HashMap<StreamId, Waiting>,
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
    pub(crate) fn add(&mut self, mut events: Parcel, in_front: bool) -> usize {
        let mut left_out = 0;
        loop {
            let first = events.batch.iter().next().map(|entry| stream_of(&entry));
            let Some(id) = first else { return left_out };
            let own = events.take_out(|_, entry| stream_of(entry) == id);
            let now = Instant::now();
            let waiting = self.streams.entry(id).or_insert_with(|| Waiting {
                parcel: Parcel::default(),
                since: now,
                next_try: now + FIRST_PAUSE,
                pause: FIRST_PAUSE,
                in_flight: false,
                ended: false,
            });
            if in_front {
                self.bytes += own.batch.bytes();
                let behind = std::mem::replace(&mut waiting.parcel, own);
                waiting.parcel.join(behind);
                waiting.in_flight = false;
            } else if waiting.ended {
                left_out += own.batch.len();
                // Its permit is given back with the terminator.
                let mut own = own;
                waiting.parcel.keep_permits(&mut own);
            } else {
                self.bytes += own.batch.bytes();
                waiting.parcel.join(own);
            }
        }
    }

    /// The events of a stream that is to be tried again.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(StreamId, Parcel)> {
        let due = |waiting: &Waiting| !waiting.in_flight && waiting.next_try <= now;
        let (&id, waiting) = self.streams.iter_mut().find(|(_, waiting)| due(waiting))?;
        waiting.in_flight = true;
        waiting.pause = (waiting.pause * 2).min(LONGEST_PAUSE);
        waiting.next_try = now + waiting.pause;
        let parcel = std::mem::take(&mut waiting.parcel);
        self.bytes -= parcel.batch.bytes();
        Some((id, parcel))
    }

    /// When the next one is to be tried again.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.streams.values().filter(|waiting| !waiting.in_flight).map(|waiting| waiting.next_try).min()
    }

    /// All events of a stream that were in flight were settled. One that has no others waits no longer.
    pub(crate) fn settled(&mut self, id: StreamId) {
        if let Some(waiting) = self.streams.get_mut(&id) {
            waiting.in_flight = false;
            (waiting.pause, waiting.next_try) = (FIRST_PAUSE, Instant::now());
            if waiting.parcel.batch.is_empty() {
                self.streams.remove(&id);
            }
        }
    }

    /// Lets go of a stream; returns how many of its events had not been taken.
    pub(crate) fn forget(&mut self, id: StreamId) -> usize {
        let Some(waiting) = self.streams.remove(&id) else { return 0 };
        self.bytes -= waiting.parcel.batch.bytes();
        waiting.parcel.batch.len()
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

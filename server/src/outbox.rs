//! The events that a worker enqueued and the bus has not acknowledged: batches in order, sealed at the size of one append.
//! The worker bounds the bytes: it holds its streams back while the outbox is full. Only events of stale streams are dropped.

use crate::{
    permit::Permit,
    stream::{Ended, Event, StreamId},
};
use bus::{Batch, Entry};
use protocol::{Kind, encode_error, encode_token, encode_verified_done, encode_verified_error};
use std::collections::{HashMap, HashSet, VecDeque};

/// A batch is sealed when its frames have this many bytes.
pub(crate) const SEALED_BYTES: usize = 1 << 20;

/// A batch, and what is due when it is acknowledged: lateness samples and permits.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) batch: Batch,
    /// Pairs of a time at which events were enqueued, in microseconds of wire time, and their number.
    enqueued: VecDeque<(u64, u64)>,
    /// Permits of the streams whose last event the batch carries.
    permits: Vec<(StreamId, Permit)>,
}

impl Parcel {
    /// Removes the first `count` events, which are settled. `observe` gets the times at which they were enqueued and their numbers.
    pub(crate) fn advance(&mut self, count: usize, mut observe: impl FnMut(u64, u64)) {
        self.batch.advance(count);
        let mut left = count as u64;
        while left > 0
            && let Some((at, n)) = self.enqueued.front_mut()
        {
            let some = left.min(*n);
            observe(*at, some);
            (left, *n) = (left - some, *n - some);
            if *n == 0 {
                self.enqueued.pop_front();
            }
        }
        if self.batch.is_empty() {
            self.permits.clear();
        }
    }

    /// Moves the events for which `belongs` returns true into a new parcel, with the permits of their streams.
    pub(crate) fn take_out(&mut self, mut belongs: impl FnMut(usize, &Entry<'_>) -> bool) -> Self {
        let (mut kept, mut taken, mut streams) = (Batch::default(), Self::default(), HashSet::new());
        for (index, entry) in self.batch.iter().enumerate() {
            if belongs(index, &entry) {
                streams.insert(stream_of(&entry));
                taken.batch.push_entry(&entry);
            } else {
                kept.push_entry(&entry);
            }
        }
        if taken.batch.is_empty() {
            return taken;
        }
        self.batch = kept;
        taken.permits = self.permits.extract_if(.., |(id, _)| streams.contains(id)).collect();
        // The times are not stored per event. Those of the newest events are as good an estimate as any.
        let mut left = taken.batch.len() as u64;
        while left > 0
            && let Some((at, n)) = self.enqueued.back_mut()
        {
            let some = left.min(*n);
            taken.enqueued.push_front((*at, some));
            (left, *n) = (left - some, *n - some);
            if *n == 0 {
                self.enqueued.pop_back();
            }
        }
        taken
    }

    /// Divides the parcel by streams, in the order of their first events. The permit of a stream without events is returned.
    pub(crate) fn by_stream(self) -> Vec<(StreamId, Self)> {
        let mut streams: Vec<(StreamId, Self)> = Vec::new();
        let mut places: HashMap<StreamId, usize> = HashMap::new();
        let mut enqueued = self.enqueued.iter().flat_map(|&(at, n)| std::iter::repeat_n(at, n as usize));
        for entry in self.batch.iter() {
            let id = stream_of(&entry);
            let place = *places.entry(id).or_insert_with(|| {
                streams.push((id, Self::default()));
                streams.len() - 1
            });
            streams[place].1.push_entry(&entry, enqueued.next().unwrap_or_default());
        }
        for (id, permit) in self.permits {
            if let Some(&place) = places.get(&id) {
                streams[place].1.permits.push((id, permit));
            }
        }
        streams
    }

    /// Appends another parcel.
    pub(crate) fn join(&mut self, behind: Self) {
        for entry in behind.batch.iter() {
            self.batch.push_entry(&entry);
        }
        self.enqueued.extend(behind.enqueued);
        self.permits.extend(behind.permits);
    }

    /// Moves the permits of another parcel into this one.
    pub(crate) fn keep_permits(&mut self, other: &mut Self) {
        self.permits.append(&mut other.permits);
    }

    /// Removes and returns the permits.
    pub(crate) fn take_permits(&mut self) -> Vec<(StreamId, Permit)> {
        std::mem::take(&mut self.permits)
    }

    /// Adds an encoded event.
    pub(crate) fn push_entry(&mut self, entry: &Entry<'_>, now_us: u64) {
        self.add(now_us, |batch| batch.push_entry(entry));
    }

    /// Adds the error terminator of a stream that ended early, and its permit.
    pub(crate) fn push_error(&mut self, ended: Ended, code: &str, message: &str, now_us: u64) {
        let Ended { session, position, digest, query_id, permit } = ended;
        self.add(now_us, |batch| {
            batch.push(session, position, Kind::Error, |out| match digest {
                Some(digest) => {
                    encode_verified_error(out, position, code, message, digest, &query_id, now_us, now_us);
                }
                None => encode_error(out, position, code, message, &query_id, now_us, now_us),
            });
        });
        self.permits.extend(permit.map(|permit| ((session, position.generation), permit)));
    }

    fn add(&mut self, now_us: u64, write: impl FnOnce(&mut Batch)) {
        write(&mut self.batch);
        match self.enqueued.back_mut() {
            Some((at, n)) if *at == now_us => *n += 1,
            _ => self.enqueued.push_back((now_us, 1)),
        }
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.enqueued.clear();
        self.permits.clear();
    }
}

/// Returns the stream that an entry belongs to.
pub(crate) const fn stream_of(entry: &Entry<'_>) -> StreamId {
    (entry.session, entry.prefix.position.generation)
}

/// Parcels in order. Only the last one takes further events.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    spare: Option<Parcel>,
}

impl Outbox {
    /// Returns the bytes of the waiting frames, without the parcel in flight.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Encodes and enqueues an event, which is handed to the bus at `now_us`.
    pub(crate) fn push(&mut self, event: &Event<'_>, now_us: u64) {
        let &Event { session, position, kind, content, digest, query_id, due_us, .. } = event;
        self.add(|parcel| {
            parcel.add(now_us, |batch| {
                batch.push(session, position, kind, |out| match digest {
                    Some(digest) => encode_verified_done(out, position, digest, query_id, due_us, now_us),
                    None => encode_token(out, position, content, query_id, due_us, now_us),
                });
            });
        });
    }

    /// Enqueues an encoded event.
    pub(crate) fn push_entry(&mut self, entry: &Entry<'_>, now_us: u64) {
        self.add(|parcel| parcel.push_entry(entry, now_us));
    }

    /// Enqueues the error terminator of a stream that ended early.
    pub(crate) fn push_error(&mut self, ended: Ended, code: &str, message: &str, now_us: u64) {
        self.add(|parcel| parcel.push_error(ended, code, message, now_us));
    }

    /// Returns `permit` when the parcel that holds the newest event is acknowledged.
    pub(crate) fn settle_with_last(&mut self, id: StreamId, permit: Permit) {
        match self.parcels.back_mut() {
            Some(parcel) => parcel.permits.push((id, permit)),
            None => drop(permit),
        }
    }

    /// Removes and returns the oldest parcel.
    pub(crate) fn pop(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        self.bytes -= parcel.batch.bytes();
        Some(parcel)
    }

    /// Drops the events for which `belongs` returns true and returns the permits of their streams. Returns the number of events.
    pub(crate) fn take_out(&mut self, belongs: impl Fn(&Entry<'_>) -> bool) -> usize {
        let mut count = 0;
        for parcel in &mut self.parcels {
            let taken = parcel.take_out(|_, entry| belongs(entry));
            self.bytes -= taken.batch.bytes();
            count += taken.batch.len();
        }
        self.parcels.retain(|parcel| !parcel.batch.is_empty());
        count
    }

    /// Takes back a parcel that was acknowledged: returns its permits and keeps its memory for the next one.
    pub(crate) fn recycle(&mut self, mut parcel: Parcel) {
        parcel.clear();
        self.spare = Some(parcel);
    }

    fn add(&mut self, write: impl FnOnce(&mut Parcel)) {
        if self.parcels.back().is_none_or(|parcel| parcel.batch.bytes() >= SEALED_BYTES) {
            self.parcels.push_back(self.spare.take().unwrap_or_default());
        }
        let parcel = self.parcels.back_mut().expect("a parcel was just made where there was none");
        let before = parcel.batch.bytes();
        write(parcel);
        self.bytes += parcel.batch.bytes() - before;
    }
}

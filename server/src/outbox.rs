//! What a worker has enqueued and the bus has not acknowledged: batches in order, sealed at a size that one append can
//! carry. Bounded in bytes by its worker, which stops advancing its streams at the cap; nothing is ever dropped here.

use crate::pacer::{Ended, Event};
use bus::Batch;
use protocol::{Kind, encode_token, encode_verified_done, encode_verified_error};
use std::collections::VecDeque;
use tokio::sync::OwnedSemaphorePermit;

/// A batch takes no more events once its frames have this many bytes.
const SEALED_BYTES: usize = 1 << 20;

/// A batch, and what its acknowledgement settles.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) batch: Batch,
    /// When events were enqueued (wire time), and how many at that moment.
    pub(crate) enqueued: Vec<(u64, u64)>,
    /// Permits of the streams whose last event it carries.
    pub(crate) permits: Vec<OwnedSemaphorePermit>,
}

/// Parcels in order, the last one open.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    spare: Option<Parcel>,
}

impl Outbox {
    /// Bytes of the frames that wait, the parcel in flight apart.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Enqueues an event of a stream, handed over at `now_us`.
    pub(crate) fn push(&mut self, event: &Event<'_>, now_us: u64) {
        let &Event { session, position, kind, content, digest, query_id, due_us } = event;
        self.add(now_us, |batch| {
            batch.push(session, position, kind, |out| match digest {
                Some(digest) => encode_verified_done(out, position, digest, query_id, due_us, now_us),
                None => encode_token(out, position, content, query_id, due_us, now_us),
            });
        });
    }

    /// Enqueues the terminator of a stream that ended before its time.
    pub(crate) fn push_error(&mut self, ended: Ended, code: &str, message: &str, now_us: u64) {
        let Ended { session, position, digest, query_id, permit } = ended;
        self.add(now_us, |batch| {
            batch.push(session, position, Kind::Error, |out| {
                encode_verified_error(out, position, code, message, digest, &query_id, now_us, now_us);
            });
        });
        self.settle_with_last(permit);
    }

    /// Gives `permit` back when the parcel that holds the newest event is acknowledged.
    pub(crate) fn settle_with_last(&mut self, permit: OwnedSemaphorePermit) {
        match self.parcels.back_mut() {
            Some(parcel) => parcel.permits.push(permit),
            None => drop(permit),
        }
    }

    /// The oldest parcel, to be appended.
    pub(crate) fn pop(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        self.bytes -= parcel.batch.bytes();
        Some(parcel)
    }

    /// Takes an acknowledged parcel back: its permits are given back, its memory is used again.
    pub(crate) fn recycle(&mut self, mut parcel: Parcel) {
        parcel.batch.clear();
        parcel.enqueued.clear();
        parcel.permits.clear();
        self.spare = Some(parcel);
    }

    fn add(&mut self, now_us: u64, write: impl FnOnce(&mut Batch)) {
        if self.parcels.back().is_none_or(|parcel| parcel.batch.bytes() >= SEALED_BYTES) {
            self.parcels.push_back(self.spare.take().unwrap_or_default());
        }
        let parcel = self.parcels.back_mut().expect("a parcel was just made where there was none");
        let before = parcel.batch.bytes();
        write(&mut parcel.batch);
        self.bytes += parcel.batch.bytes() - before;
        match parcel.enqueued.last_mut() {
            Some((at, n)) if *at == now_us => *n += 1,
            _ => parcel.enqueued.push((now_us, 1)),
        }
    }
}

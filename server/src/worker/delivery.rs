//! Sends a worker's parcels to the bus, one call in flight, and handles the results.

use super::{FIRST_BACKOFF, Worker};
use crate::{
    aside::Due,
    metrics::Outcome,
    outbox::{Parcel, stream_of},
    stream::StreamId,
};
use bus::{Appended, BusError, Entry};
use std::{collections::HashSet, future, pin::Pin, time::Duration};
use tokio::time::Instant;

/// Where a parcel in flight came from.
#[derive(Debug)]
enum Source {
    /// The outbox.
    Queue,
    /// These streams that wait aside.
    Aside(Vec<StreamId>),
}

/// A parcel to send to the bus.
struct Outgoing {
    source: Source,
    parcel: Parcel,
    /// Whether the claims of its terminators are released. If false, its events are appended.
    releases: bool,
}

/// A parcel that was sent to the bus, and the result.
pub(super) struct Delivered {
    source: Source,
    parcel: Parcel,
    result: Result<Appended, BusError>,
    /// Duration of the call.
    took: Duration,
}

/// The future of a call that carries a parcel.
pub(super) type Delivery = Pin<Box<dyn Future<Output = Delivered> + Send>>;

impl Worker {
    /// Starts the next append, unless one is in flight. The outbox and the streams that wait aside alternate, so that neither delays the
    /// other.
    pub(super) fn deliver(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let now = Instant::now();
        let next = if self.last_was_aside {
            self.next_queued(now).or_else(|| self.next_aside(now))
        } else {
            self.next_aside(now).or_else(|| self.next_queued(now))
        };
        self.last_was_aside = matches!(next, Some(Outgoing { source: Source::Aside(_), .. }));
        let Some(Outgoing { source, parcel, releases }) = next else { return };
        let bus = self.bus.clone();
        self.in_flight = Some(Box::pin(async move {
            let began = Instant::now();
            let result = if releases {
                bus.release_claims(&parcel.batch).await
            } else {
                bus.append(&parcel.batch).await
            };
            Delivered { source, parcel, result, took: began.elapsed() }
        }));
    }

    /// Returns the events of the waiting streams that are due for a retry.
    fn next_aside(&mut self, now: Instant) -> Option<Outgoing> {
        let Due { streams, parcel, releases } = self.aside.due(now)?;
        Some(Outgoing { source: Source::Aside(streams), parcel, releases })
    }

    /// Returns the oldest parcel of the outbox, without the events of streams that wait aside: they would overtake.
    fn next_queued(&mut self, now: Instant) -> Option<Outgoing> {
        if now < self.retry_at {
            return None;
        }
        while let Some(mut parcel) = self.rest.take().or_else(|| self.outbox.pop()) {
            if !self.aside.is_empty() {
                let theirs = parcel.take_out(|_, entry| self.aside.contains(stream_of(entry)));
                let left_out = self.aside.add(theirs, false);
                self.metrics.unacknowledged.dec_by(left_out as i64);
            }
            if !parcel.batch.is_empty() {
                return Some(Outgoing { source: Source::Queue, parcel, releases: false });
            }
        }
        None
    }

    /// Handles the result of an append: measures the lateness of settled events, ends streams that were fenced off or refused, and keeps
    /// the rest.
    pub(super) fn settle(&mut self, delivered: Delivered) {
        let Delivered { source, mut parcel, result, took } = delivered;
        self.metrics.append.observe(took);
        self.in_flight = None;
        let (appended, stopped) = match result {
            Ok(mut appended) => {
                let stopped = appended.stopped.take();
                (appended, stopped)
            }
            Err(error) => (Appended::default(), Some(error)),
        };
        let refused = self.set_aside(&mut parcel, &appended);
        let settled = appended.taken - refused;
        let now_us = self.now_us();
        let metrics = &self.metrics;
        parcel.advance(settled, |enqueued_us, n| {
            metrics.bus_lag.observe_us(now_us.saturating_sub(enqueued_us), n);
        });
        metrics.unacknowledged.dec_by(settled as i64);
        metrics.unheard.inc_by(appended.unheard);
        if settled > 0 {
            self.progressed();
        }
        self.drop_stale(&mut parcel, &appended.stale);
        match source {
            Source::Queue if parcel.batch.is_empty() => self.outbox.recycle(parcel),
            Source::Queue => self.rest = Some(parcel),
            Source::Aside(streams) => self.settle_aside(streams, parcel, &appended),
        }
        for refused in &appended.refused {
            self.handle_refusal(refused);
        }
        match stopped {
            Some(error) => self.stopped(&error),
            None => {
                self.backoff = FIRST_BACKOFF;
                self.retry_at = Instant::now();
            }
        }
    }

    /// Ends streams that were fenced off, and drops all their events: a Redis that lost its data meanwhile would accept them.
    fn drop_stale(&mut self, parcel: &mut Parcel, stale: &[StreamId]) {
        if stale.is_empty() {
            return;
        }
        let streams: HashSet<StreamId> = stale.iter().copied().collect();
        let is_stale = |entry: &Entry<'_>| streams.contains(&stream_of(entry));
        let waiting =
            parcel.take_out(|_, entry| is_stale(entry)).batch.len() + self.outbox.take_out(is_stale);
        self.metrics.unacknowledged.dec_by(waiting as i64);
        for &id in stale {
            let waiting = self.aside.forget(id);
            self.metrics.unacknowledged.dec_by(waiting as i64);
            if self.pacer.end(id).is_some() {
                self.metrics.ended(Outcome::Stale);
            }
        }
    }
}

/// Waits for the call in flight, and for ever if there is none.
pub(super) async fn settled(in_flight: &mut Option<Delivery>) -> Delivered {
    match in_flight {
        Some(delivery) => delivery.await,
        None => future::pending().await,
    }
}

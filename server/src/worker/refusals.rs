//! Handles refusals of the bus: a worker waits if the refusal can pass, and ends the streams if it is final.

use super::{FIRST_BACKOFF, LONGEST_BACKOFF, LONGEST_HOLD, Worker};
use crate::{
    aside::query_id,
    metrics::Outcome,
    outbox::{Parcel, stream_of},
    permit::Permit,
    stream::{Ended, StreamId},
};
use bus::{Appended, BusError, Refusal, Refused};
use protocol::{Digest, Position};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};
use tokio::time::Instant;

/// A refusal of an unknown kind counts as final after this time.
const LONGEST_UNKNOWN: Duration = Duration::from_secs(60);

/// Largest number of causes that are remembered.
const CAUSES: usize = 64;

const OVERLOAD: &str = "the bus accepted no events for too long";

/// The causes of refusals that were logged, so that each is logged once.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<String>);

impl Causes {
    /// Remembers a cause. Returns whether it is new.
    fn is_new(&mut self, cause: &str) -> bool {
        let new = self.0.len() < CAUSES && !self.0.iter().any(|known| known == cause);
        if new {
            self.0.push(cause.to_owned());
        }
        new
    }
}

impl Worker {
    /// Moves events aside that were refused for a reason of their session, and the events behind them. Returns how many of them are
    /// among the settled ones.
    pub(super) fn set_aside(&mut self, parcel: &mut Parcel, appended: &Appended) -> usize {
        if appended.refused.is_empty() {
            return 0;
        }
        let mut among_settled = 0;
        let from: HashMap<StreamId, usize> =
            appended.refused.iter().map(|refused| (id_of(refused), refused.index)).collect();
        let refused = parcel.take_out(|index, entry| {
            let belongs = from.get(&stream_of(entry)).is_some_and(|&from| index >= from);
            among_settled += usize::from(belongs && index < appended.taken);
            belongs
        });
        self.aside.add(refused, true);
        among_settled
    }

    /// Handles the result for streams that waited aside. `rest` holds their events that were neither settled nor refused.
    pub(super) fn settle_aside(&mut self, streams: Vec<StreamId>, rest: Parcel, appended: &Appended) {
        let mut waiting: HashSet<StreamId> = appended.refused.iter().map(id_of).collect();
        waiting.extend(rest.batch.iter().map(|entry| stream_of(&entry)));
        self.aside.add(rest, true);
        for id in streams {
            if !waiting.contains(&id) {
                self.aside.settled(id);
            }
        }
    }

    /// Handles a stream whose event was refused for a reason of its session. After a final refusal of an event, the stream ends. After
    /// one of its terminator, its claim is released without a terminator in the log. If the bus refuses that release for
    /// [`LONGEST_UNKNOWN`], the stream is dropped.
    pub(super) fn handle_refusal(&mut self, refused: &Refused) {
        let id = id_of(refused);
        let words = &refused.words;
        let lasts = self.aside.since(id).is_some_and(|since| since.elapsed() >= LONGEST_UNKNOWN);
        let is_final = match Refusal::of(words) {
            Refusal::Final => true,
            Refusal::Unknown => lasts,
            Refusal::Passing => false,
        };
        if self.causes.is_new(&format!("one session: {}", Refusal::cause(words))) {
            let session = refused.session;
            tracing::warn!(%session, words, is_final, "the bus refused an event of one session; further refusals of this cause are not logged");
        }
        if !is_final {
            return;
        }
        let message = format!("the bus refused an event of this query: {words}");
        if self.end_aside(id, Outcome::Refused, &message) {
            self.metrics.refused.inc();
        } else if !self.aside.releases(id) {
            self.aside.release(id);
        } else if lasts {
            self.drop_stream(id, words);
        }
    }

    /// Drops a stream whose claim cannot be released. While the bus lists the query, reconciliation compares the list with the queries
    /// that run here, and ends it.
    fn drop_stream(&mut self, (session, generation): StreamId, words: &str) {
        let events = self.aside.forget((session, generation));
        self.metrics.unacknowledged.dec_by(events as i64);
        self.metrics.claims_stuck.inc();
        tracing::warn!(%session, generation, words, "the bus refuses to release the claim of a query that has ended");
    }

    /// Ends a stream that waits aside. Returns false if only its terminator waits.
    fn end_aside(&mut self, id: StreamId, outcome: Outcome, message: &str) -> bool {
        let ended = self.pacer.end(id);
        let was_running = ended.is_some();
        let now_us = self.now_us();
        let Some(dropped) = self.aside.end(id, ended, outcome.label(), message, now_us) else { return false };
        self.metrics.unacknowledged.dec_by(dropped as i64);
        self.metrics.unacknowledged.inc();
        if was_running {
            self.metrics.ended(outcome);
        }
        true
    }

    /// Notes that the bus accepted an event.
    pub(super) fn progressed(&mut self) {
        self.held_since = None;
        self.backoff = FIRST_BACKOFF;
        if let Some(since) = self.refused_since.take() {
            tracing::info!(after = ?since.elapsed(), "the bus accepts events again");
        }
        if self.aside.is_empty() {
            self.causes = Causes::default();
        }
    }

    /// Notes that an append failed or stopped part of the way, and pauses the outbox.
    pub(super) fn stopped(&mut self, error: &BusError) {
        self.metrics.append_retries.inc();
        self.retry_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        let text = error.to_string();
        let cause = match error {
            BusError::Refused(words) => Refusal::cause(words),
            _ => &text,
        };
        if self.causes.is_new(cause) {
            tracing::warn!(%error, "an append failed and is retried; further failures of this cause are not logged");
        }
        if error.refusal().is_some() && self.refused_since.is_none() {
            self.refused_since = Some(Instant::now());
        }
        if self.refused_since.is_some_and(|since| since.elapsed() >= LONGEST_HOLD) {
            self.refused_since = Some(Instant::now());
            self.keep_terminators();
        }
    }

    /// Ends all streams and keeps terminators alone, each at the position of its stream's first event that was not accepted.
    fn keep_terminators(&mut self) {
        let now_us = self.now_us();
        let mut left: BTreeMap<StreamId, Left<'_>> = BTreeMap::new();
        let mut permits: HashMap<StreamId, Permit> = HashMap::new();
        let mut waiting: Vec<Parcel> = self.rest.take().into_iter().collect();
        waiting.extend(std::iter::from_fn(|| self.outbox.pop()));
        for parcel in &mut waiting {
            self.metrics.unacknowledged.dec_by(parcel.batch.len() as i64);
            permits.extend(parcel.take_permits());
            for entry in parcel.batch.iter() {
                left.entry(stream_of(&entry)).or_insert_with(|| match entry.prefix.kind.is_terminator() {
                    true => Left::Terminator(entry),
                    false => Left::Stream(entry.prefix.position, None, query_id(&entry)),
                });
            }
        }
        let mut streams = 0;
        for ended in self.pacer.end_all() {
            streams += 1;
            let id = (ended.session, ended.position.generation);
            self.metrics.ended(Outcome::Overload);
            if self.aside.contains(id) {
                let label = Outcome::Overload.label();
                if let Some(dropped) = self.aside.end(id, Some(ended), label, OVERLOAD, now_us) {
                    self.metrics.unacknowledged.dec_by(dropped as i64 - 1);
                }
                continue;
            }
            let Ended { position, digest, query_id, permit, .. } = ended;
            permits.extend(permit.map(|permit| (id, permit)));
            left.entry(id).or_insert(Left::Stream(position, digest, query_id));
        }
        tracing::warn!(streams, held = ?LONGEST_HOLD, "the bus refuses all events, ending the streams");
        for (id, left) in left {
            self.metrics.unacknowledged.inc();
            let permit = permits.remove(&id);
            match left {
                Left::Terminator(entry) => {
                    self.outbox.push_entry(&entry, now_us);
                    if let Some(permit) = permit {
                        self.outbox.settle_with_last(id, permit);
                    }
                }
                Left::Stream(position, digest, query_id) => {
                    let ended = Ended { session: id.0, position, digest, query_id, permit };
                    self.outbox.push_error(ended, Outcome::Overload.label(), OVERLOAD, now_us);
                }
            }
        }
    }
}

const fn id_of(refused: &Refused) -> StreamId {
    (refused.session, refused.generation)
}

/// What is kept of a stream: its terminator, or the position, digest and query id of its first event that was not accepted.
enum Left<'a> {
    Terminator(bus::Entry<'a>),
    Stream(Position, Option<Digest>, String),
}

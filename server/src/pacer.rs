//! The queue of a worker's streams by the due time of their next event, in microseconds of wire time. One queue replaces a timer per
//! stream. It reads no clock and never waits: the worker passes the time.

use crate::{
    permit::Permit,
    stream::{Ended, Event, Stream, StreamId},
};
use std::collections::{BTreeSet, HashMap};

/// The streams of one worker, ordered by the due time of their next event. Their permits bound their number.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    by_id: HashMap<StreamId, usize>,
    due: BTreeSet<(u64, usize)>,
}

impl Pacer {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds a stream.
    pub(crate) fn start(&mut self, stream: Stream) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        self.due.insert((stream.due_us(), slot));
        self.by_id.insert(stream.id(), slot);
        self.streams[slot] = Some(stream);
    }

    /// Returns when the next event is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|&(due_us, _)| due_us)
    }

    /// Passes the earliest event to `emit` if it is due at `now_us`.
    pub(crate) fn emit_due(&mut self, now_us: u64, emit: impl FnOnce(&Event<'_>)) -> Emitted {
        let Some(&(due_us, slot)) = self.due.first().filter(|&&(due_us, _)| due_us <= now_us) else {
            return Emitted::Nothing;
        };
        self.due.remove(&(due_us, slot));
        let stream = self.streams[slot].as_mut().expect("a slot in the queue holds a stream");
        let event = stream.event();
        let terminated = event.kind.is_terminator();
        emit(&event);
        if terminated {
            let stream = self.take(slot);
            return Emitted::Last(stream.id(), stream.into_permit());
        }
        stream.advance(now_us);
        self.due.insert((stream.due_us(), slot));
        Emitted::Event
    }

    /// Removes a stream early. Returns `None` if it has ended or was never added.
    pub(crate) fn end(&mut self, id: StreamId) -> Option<Ended> {
        let slot = *self.by_id.get(&id)?;
        let stream = self.take(slot);
        self.due.remove(&(stream.due_us(), slot));
        Some(stream.into_ended())
    }

    /// Removes all streams.
    pub(crate) fn end_all(&mut self) -> Vec<Ended> {
        self.due.clear();
        self.by_id.clear();
        self.free.clear();
        self.streams.drain(..).flatten().map(Stream::into_ended).collect()
    }

    fn take(&mut self, slot: usize) -> Stream {
        let stream = self.streams[slot].take().expect("an occupied slot holds a stream");
        self.by_id.remove(&stream.id());
        self.free.push(slot);
        stream
    }
}

/// What [`Pacer::emit_due`] did.
#[derive(Debug)]
pub(crate) enum Emitted {
    /// No event is due.
    Nothing,
    /// An event whose stream continues.
    Event,
    /// A stream's terminator. The permit is returned when the bus acknowledged it.
    Last(StreamId, Permit),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{Plan, tests::timing},
        text::ResponseText,
    };
    use proptest::prelude::*;
    use protocol::{Digest, Digester, Kind, SessionId};
    use std::sync::Arc;
    use tokio::sync::Semaphore;
    use uuid::Uuid;

    fn session(n: usize) -> SessionId {
        SessionId::new(Uuid::from_u128(n as u128))
    }

    fn stream(permits: &Arc<Semaphore>, n: usize, start_us: u64, itl: &str, tokens: u64) -> Stream {
        let timing = timing("uniform:0,9", itl, &tokens.to_string());
        let plan = Plan::draw(&timing, 5, &n.to_string());
        let text = Arc::new(ResponseText::new("a b c").unwrap());
        let permit = permits.clone().try_acquire_owned().unwrap();
        Stream::new((session(n), 7), n.to_string(), text, &plan, start_us, permit.into())
    }

    proptest! {
        /// With any steps of the clock, every event is emitted once and not early, in the order of due times and of each stream.
        #[test]
        fn every_event_is_emitted_once_in_order_and_never_early(
            lengths in prop::collection::vec(1u64..30, 1..20), steps in prop::collection::vec(0u64..40_000, 1..50),
        ) {
            let permits = Arc::new(Semaphore::new(lengths.len()));
            let mut pacer = Pacer::default();
            for (n, &tokens) in lengths.iter().enumerate() {
                pacer.start(stream(&permits, n, n as u64 * 500, "uniform:0,3", tokens));
            }
            let mut now = 0;
            let mut seen: HashMap<SessionId, Vec<(u64, Kind)>> = HashMap::new();
            for step in steps.into_iter().chain([10_000_000]) {
                now += step;
                let mut last_due = 0;
                loop {
                    let mut emitted = None;
                    let emitted_kind = pacer.emit_due(now, |event| emitted = Some((event.session, event.position.seq, event.kind, event.due_us)));
                    let Some((session, seq, kind, due_us)) = emitted else { break };
                    prop_assert!(due_us <= now && due_us >= last_due);
                    prop_assert_eq!(matches!(emitted_kind, Emitted::Last(..)), kind == Kind::Done);
                    last_due = due_us;
                    seen.entry(session).or_default().push((seq, kind));
                }
                prop_assert!(pacer.next_due().is_none_or(|due| due > now));
            }
            prop_assert!(pacer.is_empty());
            prop_assert_eq!(permits.available_permits(), lengths.len());
            for (n, &tokens) in lengths.iter().enumerate() {
                let expected: Vec<_> = (1..=tokens).map(|seq| (seq, Kind::Token)).chain([(tokens + 1, Kind::Done)]).collect();
                prop_assert_eq!(&seen[&session(n)], &expected);
            }
        }
    }

    #[test]
    fn a_terminator_carries_the_digest_of_the_emitted_tokens() {
        let permits = Arc::new(Semaphore::new(2));
        let mut pacer = Pacer::default();
        (0..2).for_each(|n| pacer.start(stream(&permits, n, 0, "10", 5)));
        let mut digesters: [Digester; 2] = Default::default();
        let mut digests = [None; 2];
        let play =
            |pacer: &mut Pacer, until, digesters: &mut [Digester; 2], digests: &mut [Option<Digest>; 2]| {
                let mut emit = |event: &Event<'_>| {
                    let n = usize::from(event.session == session(1));
                    match event.kind {
                        Kind::Token => digesters[n].token(event.content),
                        _ => digests[n] = event.digest,
                    }
                };
                while !matches!(pacer.emit_due(until, &mut emit), Emitted::Nothing) {}
            };
        play(&mut pacer, 30_000, &mut digesters, &mut digests);
        let ended = pacer.end((session(1), 7)).unwrap();
        assert!((2..6).contains(&ended.position.seq), "{:?}", ended.position);
        assert_eq!(ended.digest, Some(digesters[1].digest()));
        play(&mut pacer, 1_000_000, &mut digesters, &mut digests);
        assert_eq!(digests, [Some(digesters[0].digest()), None]);
    }

    #[test]
    fn a_stream_that_ended_early_is_removed_completely() {
        let permits = Arc::new(Semaphore::new(3));
        let mut pacer = Pacer::default();
        for n in 0..3 {
            pacer.start(stream(&permits, n, 0, "10", 5));
        }
        for _ in 0..4 {
            assert!(matches!(pacer.emit_due(10_000, |_| {}), Emitted::Event | Emitted::Nothing));
        }
        let ended = pacer.end((session(1), 7)).unwrap();
        assert_eq!(ended.position.generation, 7);
        assert!(ended.position.seq >= 2, "{:?} was emitted already", ended.position);
        assert!(pacer.end((session(1), 7)).is_none());
        assert!(pacer.end((session(2), 8)).is_none(), "another generation is another stream");
        drop(ended);
        assert_eq!(permits.available_permits(), 1);
        pacer.start(stream(&permits, 9, 0, "10", 5));
        assert_eq!(pacer.end_all().len(), 3);
        assert!(pacer.is_empty() && pacer.next_due().is_none());
        assert_eq!(permits.available_permits(), 3);
    }
}

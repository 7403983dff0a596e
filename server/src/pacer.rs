//! Which event of which stream is due next: a queue over plans, in microseconds of wire time. One stands for all the
//! streams of a worker. It reads no clock and waits for nothing: the worker tells it the time.

use crate::{
    permit::Permit,
    plan::{Offsets, Plan},
    text::ResponseText,
};
use protocol::{Digest, Digester, Kind, Position, SessionId};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// A stream is known by its session and generation.
pub(crate) type StreamId = (SessionId, u64);

/// One query that is being played.
#[derive(Debug)]
pub(crate) struct Stream {
    session: SessionId,
    generation: u64,
    query_id: String,
    text: Arc<ResponseText>,
    tokens: u64,
    played: u64,
    offsets: Offsets,
    start_us: u64,
    due_us: u64,
    /// Of the tokens that were handed out.
    digester: Digester,
    permit: Permit,
}

impl Stream {
    /// A stream that starts at `start_us`. It gives `permit` back when the bus has its last event.
    pub(crate) fn new(
        (session, generation): StreamId,
        query_id: String,
        text: Arc<ResponseText>,
        plan: &Plan,
        start_us: u64,
        permit: Permit,
    ) -> Self {
        let mut stream = Self {
            session,
            generation,
            query_id,
            text,
            tokens: plan.tokens(),
            played: 0,
            offsets: plan.offsets(),
            start_us,
            due_us: start_us,
            digester: Digester::default(),
            permit,
        };
        stream.plan_next();
        stream
    }

    pub(crate) const fn id(&self) -> StreamId {
        (self.session, self.generation)
    }

    fn plan_next(&mut self) {
        let offset = self.offsets.next().unwrap_or(Duration::MAX);
        self.due_us = self.start_us.saturating_add(u64::try_from(offset.as_micros()).unwrap_or(u64::MAX));
    }

    fn event(&self) -> Event<'_> {
        let last = self.played == self.tokens;
        Event {
            session: self.session,
            position: Position::new(self.generation, self.played + 1),
            kind: if last { Kind::Done } else { Kind::Token },
            content: if last { "" } else { self.text.content(self.played, self.tokens) },
            digest: last.then(|| self.digester.digest()),
            query_id: &self.query_id,
            due_us: self.due_us,
        }
    }

    /// Ends the stream before its time.
    pub(crate) fn into_ended(self) -> Ended {
        Ended {
            session: self.session,
            position: Position::new(self.generation, self.played + 1),
            digest: Some(self.digester.digest()),
            query_id: self.query_id,
            permit: Some(self.permit),
        }
    }
}

/// An event that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) session: SessionId,
    pub(crate) position: Position,
    pub(crate) kind: Kind,
    pub(crate) content: &'a str,
    /// Of the tokens before, with the terminator.
    pub(crate) digest: Option<Digest>,
    pub(crate) query_id: &'a str,
    pub(crate) due_us: u64,
}

/// What is left of a stream: where its terminator goes, and the permit to give back.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) session: SessionId,
    /// The position after the last event that was handed out.
    pub(crate) position: Position,
    /// Of the tokens that were handed out; absent where the bus did not take all of them.
    pub(crate) digest: Option<Digest>,
    pub(crate) query_id: String,
    /// Absent where it is kept elsewhere: the stream's last event was enqueued before.
    pub(crate) permit: Option<Permit>,
}

/// The streams of one worker, by the time at which their next event is due. Bounded by the permits that they hold.
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

    /// Takes a stream in.
    pub(crate) fn start(&mut self, stream: Stream) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        self.due.insert((stream.due_us, slot));
        self.by_id.insert(stream.id(), slot);
        self.streams[slot] = Some(stream);
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|&(due_us, _)| due_us)
    }

    /// Shows the event that is due first, if its time has come, to `emit`. Returns the stream's permit where that was
    /// its last event.
    pub(crate) fn play_due(&mut self, now_us: u64, emit: impl FnOnce(&Event<'_>)) -> Played {
        let Some(&(due_us, slot)) = self.due.first().filter(|&&(due_us, _)| due_us <= now_us) else {
            return Played::Nothing;
        };
        self.due.remove(&(due_us, slot));
        let stream = self.streams[slot].as_mut().expect("a slot in the queue holds a stream");
        let event = stream.event();
        let terminated = event.kind.is_terminator();
        emit(&event);
        if terminated {
            let stream = self.take(slot);
            return Played::Last(stream.id(), stream.permit);
        }
        stream.digester.token(stream.text.content(stream.played, stream.tokens));
        stream.played += 1;
        stream.plan_next();
        self.due.insert((stream.due_us, slot));
        Played::Event
    }

    /// Takes a stream out before its time; `None` where it has ended or never was here.
    pub(crate) fn end(&mut self, id: StreamId) -> Option<Ended> {
        let slot = *self.by_id.get(&id)?;
        let stream = self.take(slot);
        self.due.remove(&(stream.due_us, slot));
        Some(stream.into_ended())
    }

    /// Takes all streams out.
    pub(crate) fn end_all(&mut self) -> Vec<Ended> {
        self.due.clear();
        self.by_id.clear();
        self.free.clear();
        self.streams.drain(..).flatten().map(Stream::into_ended).collect()
    }

    fn take(&mut self, slot: usize) -> Stream {
        let stream = self.streams[slot].take().expect("a slot that is asked for holds a stream");
        self.by_id.remove(&stream.id());
        self.free.push(slot);
        stream
    }
}

/// What [`Pacer::play_due`] did.
#[derive(Debug)]
pub(crate) enum Played {
    /// Nothing is due.
    Nothing,
    /// One event, and its stream goes on.
    Event,
    /// A stream's last event.
    Last(StreamId, Permit),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Timing;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;
    use uuid::Uuid;

    fn session(n: usize) -> SessionId {
        SessionId::new(Uuid::from_u128(n as u128))
    }

    fn stream(permits: &Arc<Semaphore>, n: usize, start_us: u64, itl: &str, tokens: u64) -> Stream {
        let timing = Timing {
            ttft_ms: "uniform:0,9".parse().unwrap(),
            itl_ms: itl.parse().unwrap(),
            tokens: tokens.to_string().parse().unwrap(),
        };
        let plan = Plan::draw(&timing, 5, &n.to_string());
        let text = Arc::new(ResponseText::new("a b c").unwrap());
        let permit = permits.clone().try_acquire_owned().unwrap();
        Stream::new((session(n), 7), n.to_string(), text, &plan, start_us, permit.into())
    }

    proptest! {
        /// Whatever the steps of the clock: every event once, each stream in order, the queue by due time, none early.
        #[test]
        fn everything_comes_once_in_order_and_never_early(
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
                    let played = pacer.play_due(now, |event| emitted = Some((event.session, event.position.seq, event.kind, event.due_us)));
                    let Some((session, seq, kind, due_us)) = emitted else { break };
                    prop_assert!(due_us <= now && due_us >= last_due);
                    prop_assert_eq!(matches!(played, Played::Last(..)), kind == Kind::Done);
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
    fn a_terminator_carries_the_digest_of_what_was_handed_out() {
        let permits = Arc::new(Semaphore::new(2));
        let mut pacer = Pacer::default();
        (0..2).for_each(|n| pacer.start(stream(&permits, n, 0, "10", 5)));
        let mut digesters: [Digester; 2] = Default::default();
        let mut said = [None; 2];
        let play =
            |pacer: &mut Pacer, until, digesters: &mut [Digester; 2], said: &mut [Option<Digest>; 2]| {
                let mut emit = |event: &Event<'_>| {
                    let n = usize::from(event.session == session(1));
                    match event.kind {
                        Kind::Token => digesters[n].token(event.content),
                        _ => said[n] = event.digest,
                    }
                };
                while !matches!(pacer.play_due(until, &mut emit), Played::Nothing) {}
            };
        play(&mut pacer, 30_000, &mut digesters, &mut said);
        let ended = pacer.end((session(1), 7)).unwrap();
        assert!((2..6).contains(&ended.position.seq), "{:?}", ended.position);
        assert_eq!(ended.digest, Some(digesters[1].digest()));
        play(&mut pacer, 1_000_000, &mut digesters, &mut said);
        assert_eq!(said, [Some(digesters[0].digest()), None]);
    }

    #[test]
    fn a_stream_that_is_ended_leaves_nothing_behind() {
        let permits = Arc::new(Semaphore::new(3));
        let mut pacer = Pacer::default();
        for n in 0..3 {
            pacer.start(stream(&permits, n, 0, "10", 5));
        }
        for _ in 0..4 {
            assert!(matches!(pacer.play_due(10_000, |_| {}), Played::Event | Played::Nothing));
        }
        let ended = pacer.end((session(1), 7)).unwrap();
        assert_eq!(ended.position.generation, 7);
        assert!(ended.position.seq >= 2, "{:?} was handed out already", ended.position);
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

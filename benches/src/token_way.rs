//! The way of a token through the code of all parts, from the simulator's encoder to the client's samples, with and without its split by
//! hop. Sockets, Redis and the operating system are left out, so that the split is a larger share of the rest than in a real stack.

use bus::{LaneEnd, Lanes, Outlet};
use host::{Delays, Histogram};
use measure::{
    BoundedSample, Interval, QuerySamples, Recorder, SharedClocks, TokenTimes, contents::ContentVerifier,
    record::LagKind,
};
use parking_lot::Mutex;
use protocol::{
    Digester, Event, Frame, GatewayStamps, Kind, Ledger, Names, Position, Prefix, SessionId, StampedToken,
    encode_fence, encode_token, is_sampled,
};
use std::{
    hint::black_box,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    time::Duration,
};
use uuid::Uuid;
use wsproxy::frame::{Header, Opcode};

const GENERATION: u64 = 1_790_000_000_000;
const QUERY: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";
/// Tokens of an answer: five samples.
const ANSWER: u64 = 320;
/// Every how many tokens are split: the default of `--hops`.
const EVERY: NonZeroU32 = NonZeroU32::new(64).expect("not zero");
/// Length of the header of a frame in these tests.
const HEADER: usize = 4;

/// Returns what sends one token on its way without a split.
pub(crate) fn plain() -> Box<dyn FnMut()> {
    way(None)
}

/// Returns what sends one token on its way. The first of an answer and every 64th after it are split.
pub(crate) fn with_hops() -> Box<dyn FnMut()> {
    way(Some(EVERY))
}

/// Returns a time in microseconds that grows with each call. Valgrind cannot execute what `host::monotonic_us` asks the kernel with, and
/// the count must not depend on the machine.
fn clock_us() -> u64 {
    static CLOCK: AtomicU64 = AtomicU64::new(3_600_000_000);
    CLOCK.fetch_add(3, Ordering::Relaxed)
}

/// What the gateway does with a token before it passes it to the socket.
struct Gateway {
    hops: Option<NonZeroU32>,
    out: Mutex<Vec<u8>>,
    sampled: Histogram<Delays>,
}

impl Gateway {
    fn write(&self, frame: &[u8]) {
        let mut out = self.out.lock();
        out.clear();
        out.extend_from_slice(Header::new(Opcode::Text, frame.len()).as_bytes());
        out.extend_from_slice(frame);
    }

    #[cold]
    fn sampled(&self, frame: &[u8]) {
        let received_us = clock_us();
        let stamps = GatewayStamps { received_us, written_us: clock_us() };
        let stamped = StampedToken::new(frame, stamps).expect("a token is an object");
        self.write(stamped.frame());
        self.sampled.observe_us(clock_us().saturating_sub(received_us), 1);
    }
}

impl Outlet for Gateway {
    fn event(&self, _: Prefix, frame: &[u8]) {
        self.write(frame);
    }

    fn live_event(&self, prefix: Prefix, frame: &[u8]) {
        match self.hops {
            Some(every) if is_sampled(prefix, every) => self.sampled(frame),
            _ => self.event(prefix, frame),
        }
    }

    fn gap(&self, _: Position, _: Position) {
        panic!("nothing is missing");
    }

    fn behind(&self) {
        panic!("everything comes in order");
    }

    fn end(&self, _: LaneEnd) {}
}

/// What the client knows of the running query.
#[derive(Default)]
struct Query {
    ledger: Ledger,
    contents: ContentVerifier,
    samples: QuerySamples,
}

impl Query {
    fn token(&mut self, event: &Event<'_>, at: Duration, arrived: u64) {
        let seq = event.position.map_or(0, |position| position.seq);
        black_box(self.ledger.observe(seq, Kind::Token, event.sent_us));
        self.contents.token(seq, &event.content);
        self.samples.token(Some(seq), || at);
        let gap = black_box(50_000_000 + i64::from(at.subsec_micros()));
        self.samples.itl(BoundedSample::at_most(gap, 80_000, None), true);
        self.samples.delivery(gap / 100, false);
        if let (Some(stamps), Some(due), Some(sent)) = (event.stamps, event.due_us, event.sent_us) {
            let times =
                TokenTimes { due, sent, received: stamps.received_us, written: stamps.written_us, arrived };
            self.samples.hops(times.split(SharedClocks { bus: true, network: true }));
        }
    }
}

fn way(hops: Option<NonZeroU32>) -> Box<dyn FnMut()> {
    let gateway =
        Arc::new(Gateway { hops, out: Mutex::new(Vec::with_capacity(1024)), sampled: Histogram::default() });
    let session = SessionId::new(Uuid::from_u128(1));
    let (lanes, channel) = (Lanes::default(), Names::default().down(session));
    lanes.open(session, gateway.clone());
    let mut generation = GENERATION;
    let mut fence = Vec::new();
    encode_fence(&mut fence, generation, Some(Position::ZERO));
    assert!(lanes.message(channel.as_bytes(), &fence));
    let (out, parcels) = sync_channel(16);
    // Ends with the recorder.
    std::thread::spawn(move || parcels.into_iter().count());
    let mut recorder = Recorder::new(0, out, Arc::from([]));
    let (mut interval, mut query, mut digester) =
        (Interval::default(), Query::default(), Digester::default());
    let (mut seq, mut at, mut frame) = (0, Duration::ZERO, Vec::with_capacity(1024));
    Box::new(move || {
        seq += 1;
        at += Duration::from_micros(25);
        let now = clock_us();
        frame.clear();
        digester.token(black_box("token "));
        encode_token(&mut frame, Position::new(generation, seq), "token ", QUERY, now, now);
        assert!(lanes.message(channel.as_bytes(), black_box(&frame)));
        let sent = gateway.out.lock();
        let text = std::str::from_utf8(black_box(&sent[HEADER..])).expect("events are text");
        let Ok(Frame::Event(event)) = Frame::parse(text) else { panic!("no event") };
        recorder.token(at);
        recorder.sample(LagKind::PaceLag, 1_000, at);
        query.token(&event, at, clock_us());
        if seq == ANSWER {
            std::mem::take(&mut query).samples.record(&mut interval);
            black_box(digester.digest());
            (seq, digester) = (0, Digester::default());
            generation += 1;
            fence.clear();
            encode_fence(&mut fence, generation, Some(Position::new(generation - 1, ANSWER)));
            drop(sent);
            assert!(lanes.message(channel.as_bytes(), &fence));
        }
    })
}

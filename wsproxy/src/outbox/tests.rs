//! What goes into a socket, and in how many writes, while segments are merged.

use super::*;
use crate::Config;
use crate::{
    coalescing::{Coalescing, HoldsEvents},
    metrics::Metrics,
};
use bus::Outlet as _;
use guard::Budget;
use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;
use protocol::{Kind, Prefix};
use std::time::Duration;
use std::{io::Read as _, os::unix::net::UnixStream as StdStream};

const MOST: Duration = Duration::from_millis(100);

/// An outbox and the other end of its socket.
struct Rig {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    peer: StdStream,
    sent: Vec<u8>,
    seq: u64,
}

impl Rig {
    async fn new(batch: u32) -> Self {
        Self::with(batch, Form::default()).await
    }

    async fn with(batch: u32, form: Form) -> Self {
        let metrics = Metrics::default();
        let coalescing = Coalescing::new(MOST, metrics.clone());
        coalescing.set(batch);
        let shared = Arc::new(Shared {
            metrics,
            limit: 4096,
            close_timeout: Duration::from_secs(1),
            limits: Config::default().limits(),
            coalescing,
            inbound: Budget::new(4096, Gauge::default()),
            max_message: 4096,
            up_rate: None,
            opened: Instant::now(),
        });
        let (own, peer) = StdStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let outbox = Outbox::new(shared.clone(), None, form);
        let socket = Socket::Unix(tokio::net::UnixStream::from_std(own).unwrap());
        std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
        outbox.connect(socket);
        Self { shared, outbox, peer, sent: Vec::new(), seq: 0 }
    }

    fn event(&mut self, kind: Kind) {
        self.seq += 1;
        let payload = vec![b'a' + (self.seq % 26) as u8; 20];
        self.sent.extend(Header::new(Opcode::Text, payload.len()).as_bytes());
        self.sent.extend(&payload);
        self.outbox.event(Prefix { position: Position::new(1, self.seq), kind }, &payload);
    }

    fn tokens(&mut self, count: usize) {
        (0..count).for_each(|_| self.event(Kind::Token));
    }

    /// Frames that came out since the last look.
    fn frames(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let count = self.peer.read(&mut bytes).unwrap_or(0);
        assert_eq!(self.sent.drain(..count).collect::<Vec<_>>(), bytes[..count], "in order, each once");
        count / 22
    }
}

#[tokio::test]
async fn no_token_is_held_back_while_the_gateway_keeps_up() {
    let mut rig = Rig::new(1).await;
    for _ in 0..5 {
        rig.tokens(1);
        assert_eq!(rig.frames(), 1);
    }
    assert_eq!(rig.shared.metrics.held_frames.get(), 0);
}

#[tokio::test]
async fn an_overloaded_gateway_merges_all_but_the_first_token_and_the_end() {
    let mut rig = Rig::new(3).await;
    rig.tokens(1);
    assert_eq!(rig.frames(), 1, "the first at once");
    rig.tokens(2);
    assert_eq!(rig.frames(), 0);
    rig.tokens(1);
    assert_eq!(rig.frames(), 3, "three a segment");
    rig.tokens(1);
    assert_eq!(rig.frames(), 0);
    rig.event(Kind::Done);
    assert_eq!(rig.frames(), 2, "the end takes along what waits");
    assert_eq!(rig.outbox.cursor(), Position::new(1, 6));
}

#[tokio::test]
async fn no_event_is_held_back_too_long() {
    let mut rig = Rig::new(8).await;
    rig.tokens(2);
    let held = Instant::now();
    assert_eq!(rig.frames(), 1);
    rig.outbox.release(held + MOST / 2);
    assert_eq!(rig.frames(), 0, "not yet");
    rig.outbox.release(held + 2 * MOST);
    assert_eq!(rig.frames(), 1);
}

#[tokio::test]
async fn any_other_frame_releases_held_events() {
    let mut rig = Rig::new(8).await;
    rig.tokens(3);
    assert_eq!(rig.frames(), 1);
    rig.outbox.gap(Position::new(1, 3), Position::new(1, 4));
    assert_eq!(rig.outbox.cursor(), Position::new(1, 4), "the tokens went out before the gap");
}

#[tokio::test]
async fn the_next_token_after_the_overload_releases_held_events() {
    let mut rig = Rig::new(4).await;
    rig.tokens(2);
    assert_eq!(rig.frames(), 1);
    rig.shared.coalescing.set(1);
    rig.tokens(1);
    assert_eq!(rig.frames(), 2);
    rig.tokens(1);
    assert_eq!(rig.frames(), 1);
}

#[tokio::test]
async fn events_dropped_by_a_takeover_are_left_to_the_successor() {
    let mut rig = Rig::new(8).await;
    rig.tokens(3);
    rig.outbox.close(CloseReason::TakenOver);
    assert_eq!(rig.outbox.cursor(), Position::new(1, 1), "the cursor stays before what was held back");
}

/// As if the last write that its peer is to be asked about had been a second ago.
fn a_second_later(rig: &Rig) {
    let state = &mut rig.outbox.state.lock();
    state.check_since = state.check_since.and_then(|since| since.checked_sub(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_peer_that_has_not_read_is_noticed() {
    let mut rig = Rig::new(1).await;
    rig.tokens(100);
    assert_eq!(rig.shared.coalescing.peers().asked, 0, "nobody reads what comes at once");
    rig.frames();
    for _ in 0..100 {
        rig.tokens(1);
        rig.frames();
        a_second_later(&rig);
    }
    let peers = rig.shared.coalescing.peers();
    assert!(peers.asked > 3 && peers.behind == 0, "{peers:?}");
    for batch in [1, 4] {
        rig.shared.coalescing.set(batch);
        for _ in 0..100 {
            rig.tokens(1);
            a_second_later(&rig);
        }
        let peers = rig.shared.coalescing.peers();
        assert!(peers.asked > 0 && peers.behind == peers.asked, "{batch} a segment: {peers:?}");
        rig.frames();
    }
}

#[tokio::test]
async fn held_events_do_not_make_a_slow_consumer() {
    let mut rig = Rig::new(8).await;
    rig.tokens(3);
    assert_eq!(rig.frames(), 1);
    let large = vec![b'x'; 4000];
    rig.sent.extend(Header::new(Opcode::Text, large.len()).as_bytes());
    rig.sent.extend(&large);
    rig.outbox.event(Prefix { position: Position::new(1, 4), kind: Kind::Token }, &large);
    rig.frames();
    rig.frames();
    assert!(rig.sent.is_empty());
    assert_eq!(rig.outbox.phase(), Phase::Open);
}

/// Returns a rig with hops, in which every `every`-th token carries the gateway's times.
async fn stamping(batch: u32, every: u32) -> Rig {
    Rig::with(batch, Form { hops: std::num::NonZeroU32::new(every), rollup: None }).await
}

fn token_frame(seq: u64) -> (Prefix, Vec<u8>) {
    let (position, mut frame) = (Position::new(1, seq), Vec::new());
    protocol::encode_token(&mut frame, position, "word", "q", 1, 2);
    (Prefix { position, kind: Kind::Token }, frame)
}

impl Rig {
    /// Returns the frames that came out since the last look.
    fn payloads(&mut self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let count = self.peer.read(&mut bytes).unwrap_or(0);
        let (mut rest, mut payloads) = (&bytes[..count], Vec::new());
        while let [_, length, more @ ..] = rest {
            let (length, more) = match length {
                126 => (usize::from(u16::from_be_bytes([more[0], more[1]])), &more[2..]),
                length => (usize::from(*length), more),
            };
            payloads.push(String::from_utf8(more[..length].to_vec()).unwrap());
            rest = &more[length..];
        }
        payloads
    }
}

fn stamps(payload: &str) -> Option<protocol::GatewayStamps> {
    match protocol::Frame::parse(payload) {
        Ok(protocol::Frame::Event(event)) => event.stamps,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sampled_live_tokens_alone_carry_the_times() {
    let mut rig = stamping(1, 3).await;
    let began = host::monotonic_us();
    for seq in 1..=6 {
        let (prefix, frame) = token_frame(seq);
        rig.outbox.live_event(prefix, &frame);
    }
    let (prefix, replayed) = token_frame(7);
    rig.outbox.event(prefix, &replayed);
    let ended = host::monotonic_us();
    let payloads = rig.payloads();
    assert_eq!(payloads.len(), 7);
    for (seq, payload) in (1..).zip(&payloads) {
        let stamps = stamps(payload);
        assert_eq!(stamps.is_some(), [1, 4].contains(&seq), "{payload}");
        match stamps {
            Some(times) => {
                let order = [began, times.received_us, times.written_us, ended];
                assert!(order.is_sorted(), "{order:?}");
                assert!(
                    payload
                        .starts_with(std::str::from_utf8(&token_frame(seq).1).unwrap().trim_end_matches('}'))
                );
            }
            None => assert_eq!(payload.as_bytes(), token_frame(seq).1),
        }
    }
}

#[tokio::test]
async fn the_wait_of_a_held_token_is_time_in_the_gateway() {
    const WAIT: Duration = Duration::from_millis(5);
    let mut rig = stamping(3, 1).await;
    for seq in 1..=4 {
        let (prefix, frame) = token_frame(seq);
        rig.outbox.live_event(prefix, &frame);
        if seq == 3 {
            std::thread::sleep(WAIT);
        }
    }
    let gateway = |payload: &String| stamps(payload).map(|times| times.written_us - times.received_us);
    let waits: Vec<_> = rig.payloads().iter().map(|payload| gateway(payload).unwrap()).collect();
    let least = WAIT.as_micros() as u64;
    assert!(waits.len() == 4 && waits[1] >= least && waits[2] >= least, "{waits:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Token,
    Done,
    Batch(u32),
    Release { late: bool },
    Ping,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Token),
        1 => Just(Step::Done),
        1 => (1u32..9).prop_map(Step::Batch),
        1 => any::<bool>().prop_map(|late| Step::Release { late }),
        1 => Just(Step::Ping),
    ]
}

proptest! {
    /// Whatever comes and however the gateway fares: frames go out whole, in order, once, and those that wait are fewer
    /// than a segment carries.
    #[test]
    fn nothing_is_lost_or_overtaken(steps in proptest::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rig = runtime.block_on(Rig::new(1));
        let mut most = 1;
        for step in steps {
            match step {
                Step::Token => rig.event(Kind::Token),
                Step::Done => rig.event(Kind::Done),
                Step::Batch(batch) => {
                    most = most.max(batch);
                    rig.shared.coalescing.set(batch);
                }
                Step::Release { late } => {
                    rig.outbox.release(Instant::now() + if late { 2 * MOST } else { Duration::ZERO });
                    if late {
                        rig.frames();
                        prop_assert!(rig.sent.is_empty());
                    }
                }
                Step::Ping => {
                    rig.sent.extend(Header::new(Opcode::Ping, 0).as_bytes());
                    let state = &mut rig.outbox.state.lock();
                    rig.outbox.offer(state, Opcode::Ping, &[], None);
                }
            }
            rig.frames();
            prop_assert!(rig.sent.len() <= (most as usize - 1) * 22, "{} bytes wait", rig.sent.len());
            let cursor = rig.outbox.state.lock().queue.cursor();
            prop_assert_eq!(cursor.seq + (rig.sent.len() / 22) as u64, rig.seq);
        }
    }
}

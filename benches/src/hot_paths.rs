//! The steps that every token, query or connect passes through, one call each. Criterion measures their time (`benches/parts.rs`), and
//! `instructions.rs` counts their instructions.

use crate::token_way;
use bus::{LaneEnd, Lanes, Outlet};
use measure::{
    BoundedSample, Interval, QuerySamples, Recorder,
    contents::{ContentStatus, ContentVerifier},
    record::LagKind,
};
use protocol::{
    Claims, DigestField, Digester, Frame, Kind, Ledger, Names, Position, Prefix, Secret, SessionId, Signer,
    Verifier, encode_fence, encode_token,
};
use std::{
    hint::black_box,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};
use uuid::Uuid;
use wsproxy::frame::{Header, Opcode};

/// Sessions with an open lane. Their tokens come in turns.
const SESSIONS: u128 = 2_000;
const GENERATION: u64 = 1_790_000_000_000;
/// Tokens of an answer, as in the simulator's default text.
const ANSWER: u64 = 18;
const QUERY: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";

/// A step.
#[derive(Clone, Copy, Debug)]
pub struct HotPath {
    /// Its name.
    pub name: &'static str,
    /// Makes the state that it needs, and returns what executes it once.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

/// All steps.
pub const ALL: [HotPath; 11] = [
    HotPath { name: "event/encode", prepare: encode },
    HotPath { name: "event/prefix", prepare: prefix },
    HotPath { name: "event/decode_and_record", prepare: decode_and_record },
    HotPath { name: "frame/encode_websocket", prepare: encode_websocket },
    HotPath { name: "hub/dispatch", prepare: dispatch },
    HotPath { name: "recorder/token", prepare: recorder },
    HotPath { name: "jwt/verify", prepare: jwt },
    HotPath { name: "digest/send_answer", prepare: send_answer },
    HotPath { name: "digest/receive_answer", prepare: receive_answer },
    HotPath { name: TOKEN_WAY, prepare: token_way::plain },
    HotPath { name: TOKEN_WAY_WITH_HOPS, prepare: token_way::with_hops },
];

const TOKEN_WAY: &str = "token_way/plain";
const TOKEN_WAY_WITH_HOPS: &str = "token_way/with_hops";

/// Two steps, of which the second does something in addition that must not cost much.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What the second step does in addition.
    pub what: &'static str,
    /// Name of the step without it.
    pub without: &'static str,
    /// Name of the step with it.
    pub with: &'static str,
    /// Largest ratio of the instructions of the second to those of the first.
    pub limit: f64,
}

/// All pairs.
pub const PAIRS: [Pair; 1] =
    [Pair { what: "split by hop", without: TOKEN_WAY, with: TOKEN_WAY_WITH_HOPS, limit: 1.02 }];

fn session(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n + 1))
}

/// Returns the event of a token of about 180 bytes.
///
/// # Panics
/// Never: the vector takes everything.
#[must_use]
pub fn token(seq: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_token(&mut frame, Position::new(GENERATION, seq), "token ", QUERY, 3_600_000_000, 3_600_000_123);
    frame
}

fn encode() -> Box<dyn FnMut()> {
    Box::new(|| drop(black_box(token(black_box(17)))))
}

fn prefix() -> Box<dyn FnMut()> {
    let payload = token(17);
    Box::new(move || {
        let _ = black_box(Prefix::parse(black_box(&payload)));
    })
}

fn decode_and_record() -> Box<dyn FnMut()> {
    let text = String::from_utf8(token(17)).expect("events are text");
    let (mut ledger, mut seq) = (Ledger::default(), 0);
    Box::new(move || {
        seq += 1;
        let Ok(Frame::Event(event)) = Frame::parse(black_box(&text)) else { panic!("no event") };
        black_box(ledger.observe(seq, Kind::Token, event.sent_us));
    })
}

fn encode_websocket() -> Box<dyn FnMut()> {
    let (payload, mut out) = (token(17), Vec::with_capacity(512));
    Box::new(move || {
        out.clear();
        out.extend_from_slice(Header::new(Opcode::Text, black_box(&payload).len()).as_bytes());
        out.extend_from_slice(&payload);
        black_box(&out);
    })
}

struct Nowhere;

impl Outlet for Nowhere {
    fn event(&self, _: Prefix, frame: &[u8]) {
        black_box(frame);
    }
    fn gap(&self, _: Position, _: Position) {
        panic!("nothing is missing");
    }
    fn behind(&self) {
        panic!("everything comes in order");
    }
    fn end(&self, _: LaneEnd) {}
}

/// Dispatches one token to one of 2,000 sessions in turn, from the channel's name to the outlet.
fn dispatch() -> Box<dyn FnMut()> {
    let lanes = Lanes::default();
    let channels: Vec<String> = (0..SESSIONS).map(|n| Names::default().down(session(n))).collect();
    let mut fence = Vec::new();
    encode_fence(&mut fence, GENERATION, Some(Position::ZERO));
    for (n, channel) in (0..SESSIONS).zip(&channels) {
        lanes.open(session(n), Arc::new(Nowhere));
        assert!(lanes.message(channel.as_bytes(), &fence));
    }
    let (mut seq, mut next, mut frame) = (1, 0, token(1));
    Box::new(move || {
        lanes.message(channels[next].as_bytes(), black_box(&frame));
        next += 1;
        if next == channels.len() {
            (seq, next) = (seq + 1, 0);
            frame = token(seq);
        }
    })
}

/// Records a token: its samples are kept, and recorded at the end of a query of 100 tokens.
fn recorder() -> Box<dyn FnMut()> {
    let (out, parcels) = sync_channel(16);
    // Ends with the recorder.
    std::thread::spawn(move || parcels.into_iter().count());
    let mut recorder = Recorder::new(0, out, Arc::from([]));
    let mut ns = 0i64;
    let (mut samples, mut interval, mut kept) = (QuerySamples::default(), Interval::default(), 0);
    Box::new(move || {
        ns += 25_000;
        let at = Duration::from_nanos(ns.unsigned_abs());
        let gap = black_box(50_000_000 + ns % 1_000_000);
        recorder.token(at);
        recorder.sample(LagKind::PaceLag, gap, at);
        samples.itl(BoundedSample::at_most(gap, 80_000, None), true);
        samples.delivery(gap / 100, false);
        kept += 1;
        if kept % 100 == 0 {
            std::mem::take(&mut samples).record(&mut interval);
        }
    })
}

fn jwt() -> Box<dyn FnMut()> {
    let secret = Secret::new("a key of thirty-two bytes or more").expect("the key is long enough");
    let claims = Claims { session_id: session(1), iat: 1_790_000_000, exp: None };
    let (token, verifier) = (Signer::new(&secret).sign(&claims), Verifier::new(&secret));
    let now = host::unix_time();
    Box::new(move || {
        let _ = black_box(verifier.verify(black_box(&token), session(1), now));
    })
}

fn words() -> Vec<String> {
    (1..=ANSWER).map(|n| format!("word{n} ")).collect()
}

/// Encodes an answer of 18 tokens with its digest, as the server does.
fn send_answer() -> Box<dyn FnMut()> {
    let (words, mut out) = (words(), Vec::with_capacity(64 << 10));
    Box::new(move || {
        out.clear();
        let mut digester = Digester::default();
        for (seq, word) in (1..).zip(&words) {
            encode_token(&mut out, Position::new(GENERATION, seq), black_box(word), QUERY, 36, 37);
            digester.token(word);
        }
        black_box(digester.digest());
    })
}

/// Reads and checks an answer of 18 tokens, as the client does.
fn receive_answer() -> Box<dyn FnMut()> {
    let words = words();
    let mut sent = Digester::default();
    words.iter().for_each(|word| sent.token(word));
    let sent = sent.digest();
    let frames: Vec<String> = (1..)
        .zip(&words)
        .map(|(seq, word)| {
            let (mut frame, position) = (Vec::new(), Position::new(GENERATION, seq));
            encode_token(&mut frame, position, word, QUERY, 3_600_000_000, 3_600_000_123);
            String::from_utf8(frame).expect("events are text")
        })
        .collect();
    Box::new(move || {
        let (mut ledger, mut contents) = (Ledger::default(), ContentVerifier::default());
        for (seq, frame) in (1..).zip(&frames) {
            let Ok(Frame::Event(event)) = Frame::parse(black_box(frame)) else { panic!("no event") };
            black_box(ledger.observe(seq, Kind::Token, event.sent_us));
            contents.token(seq, &event.content);
        }
        contents.ended(ANSWER + 1, DigestField::Valid(sent));
        assert_eq!(contents.status(), ContentStatus::Verified);
    })
}

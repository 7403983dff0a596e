//! The parts that every token passes, each alone: `cargo bench -p benches`. They tell where time goes; what a token costs in all
//! is measured by the load program.

use bus::{LaneEnd, Lanes, Outlet};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use measure::{BoundedSample, Interval, QuerySamples, Recorder, record::Sample};
use plan::schedule::{Process, Stages};
use protocol::{
    Claims, Frame, Kind, Ledger, Names, Position, Prefix, Secret, SessionId, Signer, Verifier, encode_fence,
    encode_token,
};
use std::{
    hint::black_box,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};
use uuid::Uuid;
use wsproxy::frame::{Header, Opcode};

/// Sessions whose lanes are open, and whose tokens come in turns.
const SESSIONS: u128 = 2_000;
const GENERATION: u64 = 1_790_000_000_000;

fn session(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n + 1))
}

fn token(seq: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let query = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";
    encode_token(&mut frame, Position::new(GENERATION, seq), "token ", query, 3_600_000_000, 3_600_000_123);
    frame
}

fn frames(c: &mut Criterion) {
    let (payload, mut out) = (token(17), Vec::with_capacity(512));
    c.bench_function("frame/encode_websocket", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(Header::new(Opcode::Text, black_box(&payload).len()).as_bytes());
            out.extend_from_slice(&payload);
            black_box(&out);
        });
    });
    c.bench_function("event/encode", |b| b.iter(|| black_box(token(black_box(17)))));
    c.bench_function("event/prefix", |b| b.iter(|| Prefix::parse(black_box(&payload))));
    let text = String::from_utf8(payload.clone()).expect("events are text");
    let mut ledger = Ledger::default();
    let mut seq = 0;
    c.bench_function("event/decode_and_check_off", |b| {
        b.iter(|| {
            seq += 1;
            let Ok(Frame::Event(event)) = Frame::parse(black_box(&text)) else { panic!("no event") };
            black_box(ledger.observe(seq, Kind::Token, event.sent_us))
        });
    });
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

/// One token of every session, from the channel's name to the outlet.
fn dispatch(c: &mut Criterion) {
    let lanes = Lanes::default();
    let channels: Vec<String> = (0..SESSIONS).map(|n| Names::default().down(session(n))).collect();
    let mut fence = Vec::new();
    encode_fence(&mut fence, GENERATION, Some(Position::ZERO));
    for (n, channel) in (0..SESSIONS).zip(&channels) {
        lanes.open(session(n), Arc::new(Nowhere));
        assert!(lanes.message(channel.as_bytes(), &fence));
    }
    let mut group = c.benchmark_group("hub");
    group.throughput(Throughput::Elements(SESSIONS as u64));
    let mut seq = 0;
    group.bench_function("dispatch_to_2000_lanes", |b| {
        let message = |frame: Vec<u8>| {
            for channel in &channels {
                lanes.message(channel.as_bytes(), black_box(&frame));
            }
        };
        let next = || {
            seq += 1;
            token(seq)
        };
        b.iter_batched(next, message, BatchSize::PerIteration);
    });
    group.finish();
}

/// What a token costs until it is recorded: its samples kept, and recorded at the end of a query of 100 tokens.
fn recorder(c: &mut Criterion) {
    let (out, parcels) = sync_channel(16);
    let drain = std::thread::spawn(move || parcels.into_iter().count());
    let mut recorder = Recorder::new(0, out, Arc::from([]));
    let mut ns = 0i64;
    let (mut samples, mut interval, mut kept) = (QuerySamples::default(), Interval::default(), 0);
    c.bench_function("recorder/a_token", |b| {
        b.iter(|| {
            ns += 25_000;
            let at = Duration::from_nanos(ns.unsigned_abs());
            let gap = black_box(50_000_000 + ns % 1_000_000);
            recorder.token(at);
            recorder.sample(Sample::PaceLag, gap, at);
            samples.itl(BoundedSample::at_most(gap, 80_000, None), true);
            samples.delivery(gap / 100, false);
            kept += 1;
            if kept % 100 == 0 {
                std::mem::take(&mut samples).record(&mut interval);
            }
        });
    });
    drop(recorder);
    drain.join().expect("the drain only counts");
}

fn schedules(c: &mut Criterion) {
    let minute = Duration::from_secs(60);
    for process in [Process::Constant, Process::Poisson, Process::Gamma(2.0)] {
        c.bench_function(&format!("schedule/{process}_60000_arrivals"), |b| {
            b.iter(|| process.moments(black_box(1_000.0), minute, 7, 100_000));
        });
    }
    let stages: Stages = "2m:5000,3m:10000,2m:0".parse().expect("these are stages");
    c.bench_function("schedule/stages_10000_sessions", |b| b.iter(|| black_box(&stages).visits()));
}

fn tokens(c: &mut Criterion) {
    let secret = Secret::new("a key of thirty-two bytes or more").expect("the key is long enough");
    let claims = Claims { session_id: session(1), iat: 1_790_000_000, exp: None };
    let (token, verifier) = (Signer::new(&secret).sign(&claims), Verifier::new(&secret));
    c.bench_function("jwt/verify", |b| b.iter(|| verifier.verify(black_box(&token), session(1))));
}

criterion_group!(parts, frames, dispatch, recorder, schedules, tokens);
criterion_main!(parts);

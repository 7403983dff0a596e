//! Measures the parts that every token passes through, one by one: `cargo bench -p benches`. The load program measures the cost of a
//! token in the whole stack.

use benches::hot_paths::{self, HotPath, token};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use load::tcp::Tcp;
use measure::contents::{ContentStatus, ContentVerifier};
use plan::schedule::{Process, Stages};
use protocol::{DigestField, Digester, Frame, Kind, Ledger, Position, encode_token};
use std::{
    hint::black_box,
    io::Write,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, ReadBuf};

const GENERATION: u64 = 1_790_000_000_000;
/// Tokens of an answer, as in the simulator's default text.
const ANSWER: u64 = 18;
/// Sockets that are read in turn.
const SOCKETS: u64 = 64;
const QUERY: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";

/// Measures each hot path.
fn hot(c: &mut Criterion) {
    for HotPath { name, prepare } in hot_paths::ALL {
        let mut run = prepare();
        c.bench_function(name, |b| b.iter(&mut run));
    }
}

fn schedules(c: &mut Criterion) {
    let minute = Duration::from_secs(60);
    for process in [Process::Constant, Process::Poisson, Process::Gamma(2.0)] {
        c.bench_function(&format!("schedule/{process}_60000_arrivals"), |b| {
            b.iter(|| process.moments(black_box(1_000.0), minute, 7, 100_000));
        });
    }
    let stages: Stages = "2m:5000,3m:10000,2m:0".parse().expect("these are stages");
    c.bench_function("schedule/stages_10000_sessions", |b| b.iter(|| black_box(&stages).sessions()));
}

/// Measures the work of server and client for one answer, with and without the digest.
fn digest(c: &mut Criterion) {
    let words: Vec<String> = (1..=ANSWER).map(|n| format!("word{n} ")).collect();
    let mut sent = Digester::default();
    words.iter().for_each(|word| sent.token(word));
    let sent = sent.digest();
    let frames: Vec<String> = (1..)
        .zip(&words)
        .map(|(seq, word)| {
            let mut frame = Vec::new();
            encode_token(
                &mut frame,
                Position::new(GENERATION, seq),
                word,
                QUERY,
                3_600_000_000,
                3_600_000_123,
            );
            String::from_utf8(frame).expect("events are text")
        })
        .collect();
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Elements(ANSWER));
    for with in [false, true] {
        let name = if with { "with" } else { "without" };
        let mut out = Vec::with_capacity(64 << 10);
        group.bench_function(format!("send/{name}"), |b| {
            b.iter(|| {
                out.clear();
                let mut digester = Digester::default();
                for (seq, word) in (1..).zip(&words) {
                    encode_token(&mut out, Position::new(GENERATION, seq), black_box(word), QUERY, 36, 37);
                    if with {
                        digester.token(word);
                    }
                }
                with.then(|| digester.digest())
            });
        });
        group.bench_function(format!("receive/{name}"), |b| {
            b.iter(|| {
                let (mut ledger, mut contents) = (Ledger::default(), ContentVerifier::default());
                for (seq, frame) in (1..).zip(&frames) {
                    let Ok(Frame::Event(event)) = Frame::parse(black_box(frame)) else { panic!("no event") };
                    black_box(ledger.observe(seq, Kind::Token, event.sent_us));
                    if with {
                        contents.token(seq, &event.content);
                    }
                }
                if with {
                    contents.ended(ANSWER + 1, DigestField::Valid(sent));
                    assert_eq!(contents.status(), ContentStatus::Verified);
                }
            });
        });
    }
    group.finish();
}

/// Measures the cost of the kernel's receive timestamps: writes a frame to each of some sockets, then reads each, as the client
/// does. `read` times only the reads. `write_and_read` includes the kernel's part, which takes the timestamp when a segment arrives.
fn timestamps(c: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let _guard = runtime.enter();
    let frame = token(17);
    let mut group = c.benchmark_group("receive");
    for stamped in [false, true] {
        let name = if stamped { "recvmsg_with_timestamp" } else { "read" };
        let mut sockets = Sockets::open(&runtime, stamped);
        for all in [false, true] {
            let timed = if all { "write_and_read" } else { "read" };
            group.bench_function(format!("{timed}/{name}"), |b| {
                b.iter_custom(|frames| {
                    let turns = frames.div_ceil(SOCKETS);
                    let time: Duration = (0..turns).map(|_| sockets.turn(&frame, all)).sum();
                    #[allow(clippy::cast_precision_loss)]
                    time.mul_f64(frames as f64 / (turns * SOCKETS) as f64)
                });
            });
        }
    }
    group.finish();
}

/// Pairs of connected TCP sockets over loopback.
struct Sockets {
    writers: Vec<std::net::TcpStream>,
    readers: Vec<Reader>,
}

enum Reader {
    Plain(tokio::net::TcpStream),
    Stamped(Tcp),
}

impl Sockets {
    fn open(runtime: &tokio::runtime::Runtime, stamped: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..SOCKETS {
            let stream = runtime.block_on(tokio::net::TcpStream::connect(address)).expect("it listens");
            let (writer, _) = listener.accept().expect("it was connected to");
            writer.set_nodelay(true).expect("it is TCP");
            writers.push(writer);
            readers.push(if stamped {
                let mut tcp = Tcp::new(stream);
                tcp.read_at_once(true);
                Reader::Stamped(tcp)
            } else {
                Reader::Plain(stream)
            });
        }
        let mut sockets = Self { writers, readers };
        // The kernel begins to take timestamps a moment after the first socket requests them.
        let deadline = Instant::now() + Duration::from_secs(5);
        while stamped && !sockets.is_stamped() {
            assert!(Instant::now() < deadline, "this kernel gives no receive timestamps");
            sockets.turn(b"x", true);
        }
        sockets
    }

    fn is_stamped(&self) -> bool {
        self.readers.iter().all(|reader| match reader {
            Reader::Stamped(tcp) => tcp.arrived().is_some_and(|arrived| arrived.is_stamped),
            Reader::Plain(_) => false,
        })
    }

    /// Sends a frame over each socket and reads it. Returns the duration of the reads, with `all` also that of the writes.
    fn turn(&mut self, frame: &[u8], all: bool) -> Duration {
        let began = Instant::now();
        for writer in &mut self.writers {
            writer.write_all(frame).expect("it is open");
        }
        let written = Instant::now();
        let mut buffer = [0; 4096];
        for reader in &mut self.readers {
            let length = reader.read(&mut buffer).expect("loopback delivers at once");
            assert_eq!(length, frame.len());
        }
        if all { began.elapsed() } else { written.elapsed() }
    }
}

impl Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => nix::unistd::read(stream, buffer).map_err(Into::into),
            Self::Stamped(tcp) => {
                let mut buffer = ReadBuf::new(buffer);
                match Pin::new(tcp).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                    Poll::Ready(done) => done.map(|()| buffer.filled().len()),
                    Poll::Pending => Err(std::io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }
}

criterion_group!(parts, hot, schedules, digest, timestamps);
criterion_main!(parts);

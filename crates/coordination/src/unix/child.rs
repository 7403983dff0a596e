//! The child's side: a thread that reads commands, and one that writes heartbeats and parts.

use super::frame::{FromChild, FromParent};
use crate::{
    generator::{BarrierError, ClaimError, Claimed, Coordinator, FinishError, Generator},
    outbox::{Kind, Outbox},
    run::{Command, MAX_PAYLOAD, MAX_STATUS, QUEUE, Run, Start, TooLarge},
    timing::Timing,
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    io::{self, BufReader},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Uncertainty of the start: two reads of one clock, in microseconds.
const START_ERROR: Duration = Duration::from_micros(2);

/// Claims shards from a parent process that listens on a unix socket.
#[derive(Clone, Debug)]
pub struct Child {
    path: PathBuf,
    timing: Timing,
}

impl Child {
    /// Returns a coordinator that connects to the socket at `path` when it claims.
    #[must_use]
    pub fn new(path: &Path, timing: Timing) -> Self {
        Self { path: path.to_owned(), timing }
    }

    fn connect(&self, claim: &FromChild) -> io::Result<(UnixStream, BufReader<UnixStream>, FromParent)> {
        let stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(self.timing.response))?;
        claim.write(&mut &stream)?;
        let mut input = BufReader::new(stream.try_clone()?);
        let reply = FromParent::read(&mut input, &mut Vec::new())?.ok_or(io::ErrorKind::UnexpectedEof)?;
        stream.set_read_timeout(None)?;
        Ok((stream, input, reply))
    }
}

impl Coordinator for Child {
    fn claim(&self, run: &Run, host: &str, wanted: Option<u32>) -> Result<Claimed, ClaimError> {
        let target = self.path.display().to_string();
        let unreachable = |reason: io::Error| ClaimError::Unreachable {
            target: target.clone(),
            reason: reason.to_string(),
        };
        let claim = FromChild::Claim { run: run.clone(), host: host.to_owned(), wanted };
        let (stream, input, reply) = self.connect(&claim).map_err(unreachable)?;
        let shard = match reply {
            FromParent::Claimed { shard } => shard,
            FromParent::Refused(refusal) => return Err(refusal),
            _ => return Err(unreachable(io::ErrorKind::InvalidData.into())),
        };
        let reading = stream.try_clone().map_err(unreachable)?;
        let writing = stream.try_clone().map_err(unreachable)?;
        let (commands, received) = sync_channel(QUEUE);
        let link = Arc::new(Link {
            run: run.clone(),
            shard,
            target,
            timing: self.timing.clone(),
            state: Mutex::new(State::new(&self.timing)),
            changed: Condvar::new(),
        });
        let threads = vec![
            thread::spawn({
                let link = link.clone();
                move || link.read(input, &reading, &commands)
            }),
            thread::spawn({
                let link = link.clone();
                move || link.write(&writing)
            }),
        ];
        // The parent leads. The closed channel says so.
        let (_, leadership) = sync_channel(1);
        let generator = Box::new(ChildGenerator { link, stream, threads });
        Ok(Claimed { shard, generator, commands: received, leadership })
    }
}

/// What the threads of a child share.
struct Link {
    run: Run,
    shard: u32,
    /// Path of the socket.
    target: String,
    timing: Timing,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    outbox: Outbox,
    status: Arc<[u8]>,
    ready: bool,
    came: u32,
    /// The start, in microseconds of `CLOCK_MONOTONIC`.
    start_us: Option<u64>,
    /// The parent has the report.
    taken: bool,
    verdict: Option<Arc<[u8]>>,
    /// Why the connection ended.
    ended: Option<String>,
    closing: bool,
}

impl State {
    fn new(timing: &Timing) -> Self {
        Self {
            outbox: Outbox::new(timing.buffer, false),
            status: Arc::default(),
            ready: false,
            came: 0,
            start_us: None,
            taken: false,
            verdict: None,
            ended: None,
            closing: false,
        }
    }
}

impl Link {
    /// Reads until the connection ends.
    fn read(&self, mut input: BufReader<UnixStream>, stream: &UnixStream, commands: &SyncSender<Command>) {
        let mut body = Vec::new();
        let reason = loop {
            match FromParent::read(&mut input, &mut body) {
                Ok(Some(FromParent::Command(command))) => {
                    // Without a receiver, the program does not follow commands.
                    let _ = commands.send(command);
                }
                Ok(Some(message)) => self.received(message),
                Ok(None) => break format!("the parent process ended, or closed {}", self.target),
                Err(error) => break format!("the connection to the parent process failed: {error}"),
            }
        };
        let aborts = {
            let mut state = self.state.lock();
            state.ended.get_or_insert_with(|| reason.clone());
            !state.taken && !state.closing
        };
        self.changed.notify_all();
        let _ = stream.shutdown(Shutdown::Both);
        if aborts {
            let _ = commands.send(Command::Abort(reason));
        }
    }

    fn received(&self, message: FromParent) {
        let mut state = self.state.lock();
        match message {
            FromParent::Came(came) => state.came = came,
            FromParent::Start { at_us } => state.start_us = Some(at_us),
            FromParent::Taken => state.taken = true,
            FromParent::Verdict(verdict) => state.verdict = Some(verdict),
            FromParent::Claimed { .. } | FromParent::Refused(_) | FromParent::Command(_) => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Writes heartbeats and what the outbox has, until the connection ends.
    fn write(&self, mut stream: &UnixStream) {
        let mut heartbeat = Instant::now();
        let mut ready_written = false;
        let mut state = self.state.lock();
        while !state.closing && state.ended.is_none() {
            let now = Instant::now();
            let mut messages = Vec::new();
            if state.ready && !ready_written {
                messages.push(FromChild::Ready);
                ready_written = true;
            }
            if now >= heartbeat {
                messages.push(FromChild::Heartbeat { status: state.status.clone() });
                heartbeat = now + self.timing.heartbeat;
            }
            let batch = state.outbox.batch();
            let last = batch.as_ref().and_then(|batch| batch.messages.last()).map(|message| message.number);
            messages.extend(batch.into_iter().flat_map(|batch| batch.messages).map(|message| {
                match message.kind {
                    Kind::Part => FromChild::Part { number: message.number, bytes: message.bytes },
                    Kind::Report => FromChild::Report { number: message.number, bytes: message.bytes },
                }
            }));
            if messages.is_empty() {
                self.changed.wait_until(&mut state, heartbeat);
                continue;
            }
            let written = MutexGuard::unlocked(&mut state, || {
                messages.iter().try_for_each(|message| message.write(&mut stream))
            });
            if written.is_err() {
                // The reading thread notices that the connection ended.
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            if let Some(last) = last {
                state.outbox.received(last);
            }
        }
    }

    fn start(&self, at_us: u64) -> Result<Start, BarrierError> {
        let (clock, now) = (host::ClockAnchor::now(), Instant::now());
        let at = clock.instant(at_us).unwrap_or(now);
        if at < now {
            return Err(BarrierError::Missed { late: now - at, target: self.target.clone() });
        }
        Ok(Start { at, error: START_ERROR })
    }
}

struct ChildGenerator {
    link: Arc<Link>,
    stream: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Generator for ChildGenerator {
    fn shard(&self) -> u32 {
        self.link.shard
    }

    fn ready(&self, within: Duration, waiting: &mut dyn FnMut(u32) -> bool) -> Result<Start, BarrierError> {
        let link = &self.link;
        let deadline = Instant::now() + within;
        let mut state = link.state.lock();
        state.ready = true;
        link.changed.notify_all();
        loop {
            if let Some(at_us) = state.start_us {
                return link.start(at_us);
            }
            if let Some(reason) = &state.ended {
                return Err(BarrierError::Unreachable {
                    target: link.target.clone(),
                    reason: reason.clone(),
                });
            }
            let came = state.came;
            if !MutexGuard::unlocked(&mut state, || waiting(came)) {
                return Err(BarrierError::Cancelled);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(BarrierError::Incomplete { came, of: link.run.generators, within });
            }
            link.changed.wait_until(&mut state, deadline.min(now + link.timing.barrier_poll));
        }
    }

    fn send(&self, part: Vec<u8>) -> Result<(), TooLarge> {
        let checked = TooLarge::check("a part", &part, MAX_PAYLOAD);
        let mut state = self.link.state.lock();
        match checked {
            Ok(()) => state.outbox.push(Kind::Part, part, Instant::now()),
            Err(_) => state.outbox.refuse(),
        }
        drop(state);
        self.link.changed.notify_all();
        checked
    }

    fn dropped(&self) -> u64 {
        self.link.state.lock().outbox.dropped()
    }

    fn note(&self, status: Vec<u8>) -> Result<(), TooLarge> {
        TooLarge::check("a status", &status, MAX_STATUS)?;
        self.link.state.lock().status = status.into();
        Ok(())
    }

    fn finish(&self, report: Vec<u8>, within: Duration) -> Result<(), FinishError> {
        TooLarge::check("a report", &report, MAX_PAYLOAD)?;
        let link = &self.link;
        let deadline = Instant::now() + within;
        let mut state = link.state.lock();
        state.outbox.push(Kind::Report, report, Instant::now());
        link.changed.notify_all();
        loop {
            if state.taken {
                return Ok(());
            }
            if let Some(reason) = &state.ended {
                return Err(FinishError::Lost { reason: reason.clone() });
            }
            if link.changed.wait_until(&mut state, deadline).timed_out() {
                let parts = state.outbox.waiting().max(1);
                return Err(FinishError::Undelivered { parts, within, target: link.target.clone() });
            }
        }
    }

    fn verdict(&self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        let mut state = self.link.state.lock();
        while state.verdict.is_none() && state.ended.is_none() {
            if self.link.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.verdict.as_deref().map(<[u8]>::to_vec)
    }
}

impl Drop for ChildGenerator {
    fn drop(&mut self) {
        self.link.state.lock().closing = true;
        self.link.changed.notify_all();
        let _ = self.stream.shutdown(Shutdown::Both);
        // The writing thread ends now. The reading thread may wait for the receiver of the commands.
        if let Some(writing) = self.threads.pop() {
            let _ = writing.join();
        }
    }
}

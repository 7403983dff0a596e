//! The parent's side: an accepting thread, a reading and a writing thread per child, and a watch over their heartbeats.

use super::frame::{FromChild, FromParent};
use crate::{
    generator::ClaimError,
    leader::{CommandError, ConcludeError, Event, Leader, Leadership},
    run::{Command, MAX_COMMANDS, MAX_PAYLOAD, QUEUE, Run, TooLarge},
    timing::Timing,
    watch::Watch,
};
use parking_lot::{Condvar, Mutex};
use std::{
    io::BufReader,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The parent cannot listen on its socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {path} ({source}): expected an unused path of less than 108 bytes in a directory that exists"
)]
pub struct ListenError {
    path: String,
    source: std::io::Error,
}

/// The parent of all generators of a run. It leads the run.
pub struct Parent {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
}

impl Parent {
    /// Listens on a unix socket at `path` for the children of `run`. The socket is removed when the leader is dropped.
    ///
    /// Everyone who can open the socket can join the run: create it in a directory with mode 0700.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn listen(path: &Path, run: &Run, timing: Timing) -> Result<Leadership, ListenError> {
        let failed = |source| ListenError { path: path.display().to_string(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let (events, received) = sync_channel(QUEUE);
        let places = (0..run.generators).map(|_| Place::Free).collect();
        let state = State { places, started: false, commands: Vec::new(), verdict: None, closing: false };
        let shared = Arc::new(Shared {
            run: run.clone(),
            timing,
            path: path.to_owned(),
            state: Mutex::new(state),
            closing: Condvar::new(),
            events: Mutex::new(Some(events)),
            writers: Mutex::default(),
        });
        let accepting = thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        let watching = thread::spawn({
            let shared = shared.clone();
            move || shared.watch()
        });
        let parent = Self { shared, accepting: Some(accepting), watching: Some(watching) };
        Ok(Leadership { leader: Arc::new(parent), events: received })
    }
}

impl Leader for Parent {
    fn command(&self, command: Command) -> Result<(), CommandError> {
        let payload = match &command {
            Command::Abort(reason) => reason.as_bytes(),
            Command::Custom(bytes) => bytes,
        };
        TooLarge::check("a command", payload, MAX_PAYLOAD)?;
        let mut state = self.shared.state.lock();
        if state.commands.len() == MAX_COMMANDS {
            return Err(CommandError::TooMany { limit: MAX_COMMANDS });
        }
        state.commands.push(command.clone());
        state.broadcast(&FromParent::Command(command));
        Ok(())
    }

    fn conclude(&self, verdict: Vec<u8>, _within: Duration) -> Result<(), ConcludeError> {
        TooLarge::check("a verdict", &verdict, MAX_PAYLOAD)?;
        let verdict: Arc<[u8]> = verdict.into();
        let mut state = self.shared.state.lock();
        state.verdict = Some(verdict.clone());
        state.broadcast(&FromParent::Verdict(verdict));
        Ok(())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.closing = true;
            // The writing threads send what is queued, and close their sockets.
            state.places.iter_mut().for_each(|place| *place = Place::Ended);
        }
        self.shared.closing.notify_all();
        self.shared.events.lock().take();
        let writers = std::mem::take(&mut *self.shared.writers.lock());
        let wakes = UnixStream::connect(&self.shared.path).is_ok();
        let _ = std::fs::remove_file(&self.shared.path);
        // Without the path, the accepting thread cannot be woken. It then waits until this process ends.
        let accepting = self.accepting.take().filter(|_| wakes);
        for thread in writers.into_iter().chain(accepting).chain(self.watching.take()) {
            let _ = thread.join();
        }
    }
}

struct Shared {
    run: Run,
    timing: Timing,
    path: PathBuf,
    state: Mutex<State>,
    closing: Condvar,
    /// `None` when no more events follow.
    events: Mutex<Option<SyncSender<Event>>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

struct State {
    places: Vec<Place>,
    started: bool,
    commands: Vec<Command>,
    verdict: Option<Arc<[u8]>>,
    closing: bool,
}

/// What the parent knows of a shard.
enum Place {
    Free,
    Held(Seat),
    /// The generator has finished or is lost.
    Ended,
}

/// The child that holds a shard.
struct Seat {
    host: String,
    out: SyncSender<FromParent>,
    /// Closes the socket for both threads of the child.
    stream: UnixStream,
    heard: Arc<Heard>,
    ready: bool,
    finished: bool,
    /// Why the parent gave up this child.
    given_up: Option<String>,
}

/// What the reading thread of a child does.
#[derive(Default)]
struct Heard {
    /// Number of messages so far.
    messages: AtomicU64,
    /// The thread waits for the consumer of the events, so it cannot read.
    waits: AtomicBool,
}

impl Seat {
    /// Queues a message. A child that does not read is given up.
    fn send(&mut self, message: FromParent) {
        if self.out.try_send(message).is_err() {
            self.give_up("it does not read the parent's messages".to_owned());
        }
    }

    fn give_up(&mut self, reason: String) {
        self.given_up.get_or_insert(reason);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl State {
    fn seats(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.places.iter_mut().filter_map(|place| match place {
            Place::Held(seat) => Some(seat),
            Place::Free | Place::Ended => None,
        })
    }

    fn seat(&mut self, shard: u32) -> Option<&mut Seat> {
        match &mut self.places[shard as usize] {
            Place::Held(seat) => Some(seat),
            Place::Free | Place::Ended => None,
        }
    }

    fn broadcast(&mut self, message: &FromParent) {
        self.seats().for_each(|seat| seat.send(message.clone()));
    }

    fn broadcast_came(&mut self) -> u32 {
        let came = self.seats().filter(|seat| seat.ready).count();
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        self.broadcast(&FromParent::Came(came));
        came
    }

    /// Returns the shard that a generator can have.
    fn assign(&self, ours: &Run, run: &Run, wanted: Option<u32>) -> Result<u32, ClaimError> {
        let id = ours.id.clone();
        if run.id != ours.id || run.fingerprint != ours.fingerprint {
            let (ours, theirs) = (run.fingerprint.clone(), ours.fingerprint.clone());
            return Err(ClaimError::DifferentPlan { id, ours, theirs });
        }
        if run.generators != ours.generators {
            return Err(ClaimError::DifferentNumber { id, ours: run.generators, theirs: ours.generators });
        }
        let of = ours.generators;
        if let Some(shard) = wanted.filter(|&shard| shard >= of) {
            return Err(ClaimError::OutOfRange { shard, of });
        }
        if self.verdict.is_some() {
            return Err(ClaimError::Finished { id, shard: None });
        }
        if self.started {
            return Err(ClaimError::AlreadyStarted { id });
        }
        match wanted {
            Some(shard) => match &self.places[shard as usize] {
                Place::Held(seat) => Err(ClaimError::Taken { shard, by: seat.host.clone() }),
                Place::Free | Place::Ended => Ok(shard),
            },
            None => (0..of)
                .find(|&shard| matches!(self.places[shard as usize], Place::Free))
                .ok_or(ClaimError::NoFreeShard { of }),
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let accepted = listener.accept();
            if self.state.lock().closing {
                return;
            }
            match accepted {
                Ok((stream, _)) => {
                    let shared = self.clone();
                    thread::spawn(move || {
                        if let Err(error) = shared.serve(&stream) {
                            tracing::warn!("a connection of a generator ended: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a generator's connection ({error}), trying again");
                    thread::sleep(self.timing.barrier_poll);
                }
            }
        }
    }

    /// Reads what a child sends, until it closes the connection.
    fn serve(&self, stream: &UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(self.timing.response))?;
        stream.set_write_timeout(Some(self.timing.response))?;
        let (mut input, mut body) = (BufReader::new(stream.try_clone()?), Vec::new());
        let Some(FromChild::Claim { run, host, wanted }) = FromChild::read(&mut input, &mut body)? else {
            return Ok(());
        };
        let heard = Arc::new(Heard::default());
        let shard = match self.seat(stream, &run, &host, wanted, &heard)? {
            Ok(shard) => shard,
            Err(refusal) => return FromParent::Refused(refusal).write(&mut &*stream),
        };
        stream.set_read_timeout(None)?;
        self.emit(&heard, Event::Claimed { shard, host });
        let mut child = Reader { shared: self, shard, heard: &heard, last_part: 0, status: Arc::default() };
        let reason = loop {
            match FromChild::read(&mut input, &mut body) {
                Ok(Some(message)) => child.handle(message),
                Ok(None) => break "its connection closed: it ended without a result".to_owned(),
                Err(error) => break format!("its connection failed: {error}"),
            }
        };
        self.left(shard, &heard, reason);
        Ok(())
    }

    /// Gives the child a shard, and starts its writing thread.
    fn seat(
        &self,
        stream: &UnixStream,
        run: &Run,
        host: &str,
        wanted: Option<u32>,
        heard: &Arc<Heard>,
    ) -> std::io::Result<Result<u32, ClaimError>> {
        let (stream, written) = (stream.try_clone()?, stream.try_clone()?);
        let (out, queue) = sync_channel(MAX_COMMANDS + QUEUE);
        let mut state = self.state.lock();
        let shard = match state.assign(&self.run, run, wanted) {
            Ok(shard) if !state.closing => shard,
            Ok(_) => return Ok(Err(ClaimError::Finished { id: self.run.id.clone(), shard: None })),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let heard = heard.clone();
        let mut seat =
            Seat { host: host.to_owned(), out, stream, heard, ready: false, finished: false, given_up: None };
        seat.send(FromParent::Claimed { shard });
        for command in &state.commands {
            seat.send(FromParent::Command(command.clone()));
        }
        state.places[shard as usize] = Place::Held(seat);
        state.broadcast_came();
        let mut writers = self.writers.lock();
        writers.retain(|writer| !writer.is_finished());
        writers.push(thread::spawn(move || write_all(&queue, &written)));
        Ok(Ok(shard))
    }

    /// Hands an event to the leader. Waits while too many events wait.
    fn emit(&self, heard: &Heard, event: Event) {
        heard.waits.store(true, Ordering::Relaxed);
        let events = self.events.lock().clone();
        if let Some(events) = events {
            let _ = events.send(event);
        }
        heard.waits.store(false, Ordering::Relaxed);
    }

    /// A child is ready. If it is the last one, the run starts.
    fn ready(&self, shard: u32, heard: &Heard) {
        let at_us = {
            let mut state = self.state.lock();
            let Some(seat) = state.seat(shard) else { return };
            seat.ready = true;
            if state.broadcast_came() < self.run.generators || state.started {
                return;
            }
            state.started = true;
            let delay = u64::try_from(self.timing.local_start_delay.as_micros()).unwrap_or(u64::MAX);
            host::monotonic_us().saturating_add(delay)
        };
        let at = host::ClockAnchor::now().instant(at_us).unwrap_or_else(Instant::now);
        // Before any part, whose sender waits for the start.
        self.emit(heard, Event::Started { at });
        self.state.lock().broadcast(&FromParent::Start { at_us });
    }

    /// A child's connection ended.
    fn left(&self, shard: u32, heard: &Heard, reason: String) {
        let (started, finished, reason) = {
            let mut state = self.state.lock();
            let started = state.started;
            let Some(seat) = state.seat(shard) else { return };
            // The run cannot start with this child from here on.
            seat.ready = false;
            (started, seat.finished, seat.given_up.take().unwrap_or(reason))
        };
        if !finished {
            let event =
                if started { Event::Lost { shard, reason } } else { Event::Released { shard, reason } };
            self.emit(heard, event);
        }
        let mut state = self.state.lock();
        state.places[shard as usize] = if started { Place::Ended } else { Place::Free };
        if started {
            self.end_events(&state);
        } else {
            state.broadcast_came();
        }
    }

    /// Ends the events if no shard will send anything more.
    fn end_events(&self, state: &State) {
        let over = |place: &Place| match place {
            Place::Ended => true,
            Place::Held(seat) => seat.finished,
            Place::Free => false,
        };
        if state.places.iter().all(over) {
            self.events.lock().take();
        }
    }

    /// Gives up children that send nothing for several heartbeat intervals after the start.
    fn watch(&self) {
        let mut watch = Watch::new(self.run.generators, &self.timing);
        let mut polls = 0u64;
        let mut state = self.state.lock();
        while !state.closing {
            self.closing.wait_for(&mut state, self.timing.heartbeat);
            polls += 1;
            let heartbeats = state.places.iter().map(|place| match place {
                // A child that is not read from is not silent.
                Place::Held(seat) if !seat.heard.waits.load(Ordering::Relaxed) => {
                    Some((seat.heard.messages.load(Ordering::Relaxed), 0))
                }
                Place::Held(_) => Some((0, polls)),
                Place::Free | Place::Ended => None,
            });
            let now = Instant::now();
            watch.saw(heartbeats, now);
            if !state.started {
                continue;
            }
            let silent = self.timing.heartbeat * self.timing.unchanged_polls;
            for shard in (0..self.run.generators).filter(|&shard| watch.is_lost(shard, now)) {
                if let Some(seat) = state.seat(shard).filter(|seat| !seat.finished) {
                    seat.give_up(format!("no heartbeat for {} s", silent.as_secs_f64()));
                }
            }
        }
    }
}

/// Handles the messages of one child.
struct Reader<'a> {
    shared: &'a Shared,
    shard: u32,
    heard: &'a Heard,
    last_part: u64,
    status: Arc<[u8]>,
}

impl Reader<'_> {
    fn handle(&mut self, message: FromChild) {
        self.heard.messages.fetch_add(1, Ordering::Relaxed);
        let shard = self.shard;
        match message {
            FromChild::Claim { .. } => {}
            FromChild::Ready => self.shared.ready(shard, self.heard),
            FromChild::Heartbeat { status } => {
                if status != self.status {
                    self.emit(Event::Status { shard, bytes: status.to_vec() });
                    self.status = status;
                }
            }
            FromChild::Part { number, bytes } => {
                self.advance(number);
                self.emit(Event::Part { shard, number, bytes: bytes.to_vec() });
            }
            FromChild::Report { number, bytes } => {
                self.advance(number);
                self.emit(Event::Finished { shard, bytes: bytes.to_vec() });
                let mut state = self.shared.state.lock();
                if let Some(seat) = state.seat(shard) {
                    seat.finished = true;
                    seat.send(FromParent::Taken);
                }
                self.shared.end_events(&state);
            }
        }
    }

    /// Reports parts that are missing before this number.
    fn advance(&mut self, number: u64) {
        let parts = number.saturating_sub(self.last_part.saturating_add(1));
        if parts > 0 {
            self.emit(Event::Dropped { shard: self.shard, parts });
        }
        self.last_part = number;
    }

    fn emit(&self, event: Event) {
        self.shared.emit(self.heard, event);
    }
}

/// Writes messages until their senders are gone or the child does not take them. Then closes the connection.
fn write_all(queue: &Receiver<FromParent>, mut stream: &UnixStream) {
    for message in queue {
        if message.write(&mut stream).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

//! `--out json`: the events of a run as NDJSON, one line per event, while the run goes on.
//! The run never waits for the reader: events that find the queue full are dropped and counted.

mod line;
mod pipe;

pub(super) use line::{
    Standing, amendment, fault, health, plan, query, reconnect, run, second, session, status, verdict,
};
pub(super) use pipe::Pipe;

use crate::values::escaped_json;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    io,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// Largest number of lines that wait to be written: a few megabytes.
const LINES: usize = 8_192;
/// Time between two checks whether to give up.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time after the end of the run in which the reader may take the waiting lines, and again for the last line.
const PATIENCE: Duration = Duration::from_secs(2);
/// Further time for a thread that is inside a write. A thread that a terminal blocks for longer is abandoned.
const GRACE: Duration = Duration::from_secs(1);
/// Reason why events were dropped at the end of the run.
const TOO_SLOW: &str = "its reader is too slow";

/// Destination of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `<run>_events.ndjson` in the output directory.
    Results,
    /// Stdout. The text summary then goes to stderr.
    Stdout,
    /// A file or a named pipe.
    File(PathBuf),
    /// A file or a named pipe, without the events of single queries, sessions and reconnects.
    Seconds(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    /// Reads the syntax of k6: `json`, `json=FILE` or `json=-`. `seconds=FILE` is ours.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "json" => Ok(Self::Results),
            Some(("json", "-")) => Ok(Self::Stdout),
            Some(("json", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("seconds", path)) if !path.is_empty() => Ok(Self::Seconds(path.into())),
            _ => Err(format!(
                "invalid output \"{text}\" for --out: expected json, json=FILE or json=-, or seconds=FILE without single queries"
            )),
        }
    }
}

/// Sends an event if there is a sink.
pub(super) fn send(sink: Option<&EventSink>, event: impl FnOnce() -> Value) {
    if let Some(sink) = sink {
        sink.send(&event());
    }
}

/// Settings of the events, and the contents of the first event.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// Destination of the events.
    pub destination: Destination,
    /// Configuration of the run without secrets.
    pub config: Value,
    /// Seed of all random draws.
    pub seed: u64,
}

impl EventSettings {
    /// Returns whether single queries, sessions and reconnects have events.
    pub(super) const fn tells_queries(&self) -> bool {
        !matches!(self.destination, Destination::Seconds(_))
    }
}

#[derive(Debug, Default)]
struct EventCounters {
    sent: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    /// Time at which the writer gives up.
    deadline: Mutex<Option<Instant>>,
    /// Why writing has stopped.
    broken: Mutex<Option<String>>,
}

impl EventCounters {
    /// Counts a line by the result of [`Pipe::write`]. Returns whether the next line can be written.
    fn take(&self, outcome: &io::Result<bool>) -> bool {
        let lines = if matches!(outcome, Ok(true)) { &self.written } else { &self.dropped };
        lines.fetch_add(1, Relaxed);
        let why = match outcome {
            Ok(true) => return true,
            Ok(false) => TOO_SLOW.to_owned(),
            Err(error) => error.to_string(),
        };
        self.broken.lock().get_or_insert(why);
        outcome.is_ok()
    }
}

/// Totals of the events at the end of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EventTotals {
    /// Name of the destination.
    pub destination: String,
    /// Lines written, including the last one.
    pub written: u64,
    /// Lines that the reader did not take in time.
    pub dropped: u64,
    /// Why writing stopped early. `None` if it did not.
    pub error: Option<String>,
}

/// Sends events to the writing thread. Can be cloned for any thread.
#[derive(Clone, Debug)]
pub struct EventSink {
    lines: SyncSender<String>,
    counted: Arc<EventCounters>,
}

impl EventSink {
    /// Queues an event, or counts it as dropped if the queue is full. Never waits.
    pub fn send(&self, event: &Value) {
        self.counted.sent.fetch_add(1, Relaxed);
        let line = format!("{}\n", escaped_json(&event.to_string()));
        if self.lines.try_send(line).is_err() {
            self.counted.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Returns the number of events dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counted.dropped.load(Relaxed)
    }
}

/// The events of a run, and the thread that writes them.
#[derive(Debug)]
pub(super) struct Events {
    place: String,
    sink: EventSink,
    /// Receives the pipe when the writing thread has ended, if the pipe still works.
    writer: Receiver<Option<Pipe>>,
}

impl Events {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(pipe: Pipe) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES);
        let counted = Arc::new(EventCounters::default());
        let sink = EventSink { lines, counted: Arc::clone(&counted) };
        let place = pipe.place().to_owned();
        let writer = spawn(move || write(pipe, &waiting, &counted))?;
        Ok(Self { place, sink, writer })
    }

    pub(super) fn sink(&self) -> EventSink {
        self.sink.clone()
    }

    /// Waits until the queued lines are written, then writes a last line. `last` creates it from the numbers of lines written and
    /// dropped before it. Takes at most twice [`PATIENCE`] + [`GRACE`].
    pub(super) fn end(self, last: impl FnOnce(u64, u64) -> Value) -> EventTotals {
        let Self { place, sink: EventSink { lines, counted }, writer } = self;
        *counted.deadline.lock() = Some(Instant::now() + PATIENCE);
        drop(lines);
        let pipe = writer.recv_timeout(PATIENCE + GRACE).ok().flatten();
        let line = format!("{}\n", last(counted.written.load(Relaxed), counted.dropped.load(Relaxed)));
        counted.take(&pipe.map_or(Ok(false), |pipe| write_last(pipe, line)));
        let error = counted.broken.lock().clone();
        let written = counted.written.load(Relaxed);
        // Lines that an abandoned thread still holds are dropped as well.
        let dropped = counted.sent.load(Relaxed) + 1 - written;
        EventTotals { destination: place, written, dropped, error }
    }
}

/// Runs `work` on a new thread, so that the caller can stop waiting for it.
fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (done, outcome) = sync_channel(1);
    std::thread::Builder::new().name("events".into()).spawn(move || {
        let _ = done.send(work());
    })?;
    Ok(outcome)
}

fn write_last(mut pipe: Pipe, line: String) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let outcome = spawn(move || pipe.write(line.as_bytes(), &|| Instant::now() >= deadline))?;
    outcome.recv_timeout(PATIENCE + GRACE).unwrap_or(Ok(false))
}

/// Writes lines until the last sink is dropped, or until it is time to give up. Returns the pipe if it still works.
fn write(mut pipe: Pipe, waiting: &Receiver<String>, counted: &EventCounters) -> Option<Pipe> {
    let is_over = || counted.deadline.lock().is_some_and(|deadline| Instant::now() >= deadline);
    let mut is_whole = true;
    loop {
        let line = match waiting.recv_timeout(POLL_INTERVAL) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if !is_over() => continue,
            Err(_) => break,
        };
        if !is_whole {
            counted.dropped.fetch_add(1, Relaxed);
            continue;
        }
        is_whole = counted.take(&pipe.write(line.as_bytes(), &is_over));
        if let Some(why) = counted.broken.lock().as_ref().filter(|_| !is_whole) {
            let place = pipe.place();
            crate::messages::print_stderr(&format!(
                "--out json: cannot write more events to {place}: {why}. The run continues"
            ));
        }
    }
    is_whole.then_some(pipe)
}

#[cfg(test)]
mod tests;

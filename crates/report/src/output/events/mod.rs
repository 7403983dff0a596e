//! `--out json`: what happens in a run as NDJSON, a line an event, for whoever wants to see it while it happens.
//! Nobody waits for its reader: what finds no place in the queue is dropped and counted.

mod line;
mod pipe;

pub(super) use line::{fault, health, query, reconnect, run, second, session, verdict};
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

/// Lines that wait for their reader: a few megabytes.
const LINES: usize = 8_192;
/// How often it is looked whether to give up.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a reader may take, after the run's end, for what waits; and once more for the last line.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much longer a thread gets that writes: one that a terminal holds up inside a write is left behind.
const GRACE: Duration = Duration::from_secs(1);
/// Why the rest was dropped at the run's end.
const TOO_SLOW: &str = "its reader is too slow";

/// Where the events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `<run>_events.ndjson`, among the results.
    Results,
    /// Stdout; the text summary then goes to stderr.
    Stdout,
    /// A file, or a pipe.
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    /// As k6 has it: `json`, `json=FILE`, `json=-`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (format, place) =
            text.split_once('=').map_or((text, None), |(format, place)| (format, Some(place)));
        if format != "json" {
            return Err(format!("`{text}` is no format that is known: give json, json=FILE or json=-"));
        }
        match place {
            None => Ok(Self::Results),
            Some("") => Err(format!("`{text}` names no file: give json, json=FILE or json=-")),
            Some("-") => Ok(Self::Stdout),
            Some(path) => Ok(Self::File(path.into())),
        }
    }
}

/// Events that are wanted, and what the first of them says.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// Where they go.
    pub destination: Destination,
    /// The resolved configuration, secrets redacted.
    pub config: Value,
    /// All random draws come from it.
    pub seed: u64,
}

#[derive(Debug, Default)]
struct EventCounters {
    sent: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    /// When the writer has to give up.
    deadline: Mutex<Option<Instant>>,
    /// Why nothing more is written.
    broken: Mutex<Option<String>>,
}

impl EventCounters {
    /// Counts a line by what became of it, as [`Pipe::write`] says. Answers whether the next one can be written.
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

/// What became of the events, at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EventTotals {
    /// Where they went, for a person.
    pub destination: String,
    /// Lines written, the last one too.
    pub written: u64,
    /// Lines that no reader took in time.
    pub dropped: u64,
    /// Why nothing more was written.
    pub error: Option<String>,
}

/// Takes events from anywhere.
#[derive(Clone, Debug)]
pub struct EventSink {
    lines: SyncSender<String>,
    counted: Arc<EventCounters>,
}

impl EventSink {
    /// Sends it on its way, or counts it as dropped; never waits.
    pub fn send(&self, event: &Value) {
        self.counted.sent.fetch_add(1, Relaxed);
        let line = format!("{}\n", escaped_json(&event.to_string()));
        if self.lines.try_send(line).is_err() {
            self.counted.dropped.fetch_add(1, Relaxed);
        }
    }

    /// How many were dropped until now.
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
    /// Told by the thread that writes when it is done.
    writer: Receiver<Option<Pipe>>,
}

impl Events {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(pipe: Pipe) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES);
        let counted = Arc::new(EventCounters::default());
        let sink = EventSink { lines, counted: Arc::clone(&counted) };
        let place = pipe.place().to_owned();
        let writer = apart(move || write(pipe, &waiting, &counted))?;
        Ok(Self { place, sink, writer })
    }

    pub(super) fn sink(&self) -> EventSink {
        self.sink.clone()
    }

    /// Lets what waits go out, then `last`, which is told how much was written and dropped before it. Takes no longer than
    /// twice [`PATIENCE`] and [`GRACE`].
    pub(super) fn end(self, last: impl FnOnce(u64, u64) -> Value) -> EventTotals {
        let Self { place, sink: EventSink { lines, counted }, writer } = self;
        *counted.deadline.lock() = Some(Instant::now() + PATIENCE);
        drop(lines);
        let pipe = writer.recv_timeout(PATIENCE + GRACE).ok().flatten();
        let line = format!("{}\n", last(counted.written.load(Relaxed), counted.dropped.load(Relaxed)));
        counted.take(&pipe.map_or(Ok(false), |pipe| write_last(pipe, line)));
        let error = counted.broken.lock().clone();
        let written = counted.written.load(Relaxed);
        // What a thread that is left behind still has in hand is dropped as well.
        let dropped = counted.sent.load(Relaxed) + 1 - written;
        EventTotals { destination: place, written, dropped, error }
    }
}

/// Does it on a thread of its own, so that whoever waits for it can leave.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (done, outcome) = sync_channel(1);
    std::thread::Builder::new().name("events".into()).spawn(move || {
        let _ = done.send(work());
    })?;
    Ok(outcome)
}

fn write_last(mut pipe: Pipe, line: String) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let outcome = apart(move || pipe.write(line.as_bytes(), &|| Instant::now() >= deadline))?;
    outcome.recv_timeout(PATIENCE + GRACE).unwrap_or(Ok(false))
}

/// Until the last sink is gone, or it is time to give up. Answers the pipe, where it still takes something.
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
                "--out json: nothing more is written to {place}: {why}; the run goes on"
            ));
        }
    }
    is_whole.then_some(pipe)
}

#[cfg(test)]
mod tests;

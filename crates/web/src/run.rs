//! The run of the page: at most one at a time. Two threads accompany it: one reads its events, one waits for its end.

use crate::{
    feed::Feed,
    program::{Program, Run, RunEnd},
    refusal::Refusal,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
};

/// Longest event in bytes.
const LONGEST: u64 = 1 << 20;
/// Events that are not shown: there are too many of them.
const NOT_SHOWN: [&str; 3] = ["query", "session", "reconnect"];
/// Events that every browser needs, however late it comes.
const NEEDED: [&str; 5] = ["run", "plan", "fault", "amendment", "verdict"];

/// The run of the page, and the events for browsers.
pub(crate) struct Runs {
    program: Arc<dyn Program>,
    feed: Feed,
    current: Mutex<Option<Arc<Current>>>,
}

/// A run that goes on.
struct Current {
    run: Arc<dyn Run>,
    /// Its name, known from its first event.
    id: Mutex<Option<String>>,
    /// How often it was asked to stop.
    stops: AtomicU8,
}

/// What a second run is told.
const ONE_RUN: &str = "a run goes on: stop it first, or wait for its end";

impl Current {
    fn state(&self) -> Value {
        let state = if self.stops.load(Relaxed) == 0 { "running" } else { "stopping" };
        json!({ "type": "page", "state": state, "stops": self.stops.load(Relaxed), "run_id": *self.id.lock() })
    }
}

impl Runs {
    pub(crate) fn new(program: Arc<dyn Program>) -> Arc<Self> {
        Arc::new(Self { program, feed: Feed::default(), current: Mutex::default() })
    }

    /// Returns the events for browsers.
    pub(crate) const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Returns whether a run goes on, as an event.
    pub(crate) fn state(&self) -> Value {
        let current = self.current.lock();
        current.as_ref().map_or_else(|| json!({ "type": "page", "state": "idle" }), |current| current.state())
    }

    /// Starts a run. Blocks for a moment.
    ///
    /// # Errors
    /// Another one goes on, or it cannot be started.
    pub(crate) fn start(self: &Arc<Self>, arguments: &[String]) -> Result<(), Refusal> {
        let mut current = self.current.lock();
        if current.is_some() {
            return Err(Refusal::conflict(ONE_RUN));
        }
        let run = self.program.start(arguments).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Refusal::conflict(error.to_string()),
            _ => Refusal::broken(error),
        })?;
        *current = Some(self.accompany(run.into()));
        Ok(())
    }

    /// Shows a run that was started elsewhere.
    pub(crate) fn adopt(self: &Arc<Self>, run: Arc<dyn Run>) {
        let current = self.accompany(run);
        *self.current.lock() = Some(current);
    }

    fn accompany(self: &Arc<Self>, run: Arc<dyn Run>) -> Arc<Current> {
        self.feed.begin();
        let stops = AtomicU8::new(run.stops());
        let current = Arc::new(Current { run, id: Mutex::default(), stops });
        self.feed.push(&current.state().to_string(), true);
        let (runs, of) = (Arc::clone(self), Arc::clone(&current));
        let end = move || {
            let reading = of.run.events().map(|events| {
                let (runs, of) = (Arc::clone(&runs), Arc::clone(&of));
                thread::spawn(move || runs.read(&of, events))
            });
            let end = of.run.wait();
            if let Some(reading) = reading {
                let _ = reading.join();
            }
            // A new run must not be announced before the end of this one.
            let mut current = runs.current.lock();
            *current = None;
            runs.feed.push(&ended(&of, &end).to_string(), true);
        };
        thread::spawn(end);
        current
    }

    /// Reads the events of a run until they end.
    fn read(&self, current: &Current, mut events: Box<dyn BufRead + Send>) {
        #[derive(Deserialize)]
        struct Known {
            #[serde(rename = "type")]
            kind: String,
            run_id: Option<String>,
        }
        while let Ok(Some(line)) = next_line(&mut events) {
            let Ok(known) = serde_json::from_str::<Known>(&line) else { continue };
            if NOT_SHOWN.contains(&known.kind.as_str()) {
                continue;
            }
            let is_needed = NEEDED.contains(&known.kind.as_str());
            current.run.keep(&line, is_needed);
            self.feed.push(&line, is_needed);
            if known.kind == "run" {
                *current.id.lock() = known.run_id;
                self.feed.push(&current.state().to_string(), false);
            }
        }
    }

    /// Asks the run to end: the first time after its streams have ended, the second time at once. Returns the new state.
    ///
    /// # Errors
    /// No run goes on, or it cannot be reached.
    pub(crate) fn stop(&self) -> Result<Value, Refusal> {
        let current = self.current()?;
        current.run.interrupt().map_err(|error| Refusal::broken(format!("cannot stop the run: {error}")))?;
        current.stops.fetch_add(1, Relaxed);
        let state = current.state();
        self.feed.push(&state.to_string(), false);
        Ok(state)
    }

    /// Returns the name of the run.
    ///
    /// # Errors
    /// No run goes on, or it has not begun.
    pub(crate) fn id(&self) -> Result<String, Refusal> {
        let id = self.current()?.id.lock().clone();
        id.ok_or_else(|| Refusal::conflict("the run has not begun yet: try again in a moment"))
    }

    /// Checks that a run has ended, so that its files can be deleted.
    ///
    /// # Errors
    /// It goes on, here or started elsewhere, or the page's run has not told its name yet.
    pub(crate) fn may_delete(&self, run: &str) -> Result<(), Refusal> {
        let current = self.current.lock().clone();
        let is_unknown =
            current.is_some_and(|current| current.id.lock().as_deref().is_none_or(|id| id == run));
        if is_unknown || self.program.going_on().iter().any(|id| id == run) {
            return Err(Refusal::conflict(
                "this run goes on, or one has not told its name yet: wait for its end",
            ));
        }
        Ok(())
    }

    fn current(&self) -> Result<Arc<Current>, Refusal> {
        self.current.lock().clone().ok_or_else(|| Refusal::conflict("no run goes on"))
    }
}

fn ended(current: &Current, end: &RunEnd) -> Value {
    json!({
        "type": "page",
        "state": "ended",
        "run_id": *current.id.lock(),
        "exit_code": end.code,
        "messages": end.messages,
    })
}

/// Reads a line. Returns `None` at the end, or if the line is too long to be an event.
fn next_line(events: &mut (impl BufRead + ?Sized)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = events.take(LONGEST).read_until(b'\n', &mut line)?;
    if read == 0 || line.last() != Some(&b'\n') {
        return Ok(None);
    }
    line.pop();
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

//! The task of a worker: it takes due events from its [`Pacer`] and appends them to the bus, one append in flight.
//!
//! When the bus is slow, streams run late, which the lateness histograms show. When the bus accepts nothing for too long, the streams
//! end and only their terminators are kept.

mod backlog;
mod delivery;
mod refusals;
#[cfg(test)]
mod tests;

use crate::{
    aside::Aside,
    metrics::{Metrics, Outcome},
    outbox::{Outbox, Parcel},
    pacer::{Emitted, Pacer},
    stream::{Ended, Stream, StreamId},
};
use backlog::Backlog;
use bus::Broker;
use delivery::{Delivery, settled};
use host::ClockAnchor;
use refusals::Causes;
use std::{collections::VecDeque, future, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Capacity of a worker's queue of commands.
pub(crate) const COMMANDS: usize = 1024;

/// Number of cancellations that a worker remembers because they came before their stream.
const EARLY_CANCELS: usize = 1024;

/// Number of events that are enqueued before other tasks of the runtime run.
const EVENTS_PER_TURN: usize = 8192;

/// Shortest time between two looks at the streams, so that events due within it share an append. Timers of the runtime have a resolution
/// of 1 ms, so half of that results in one look per millisecond.
const TICK: Duration = Duration::from_micros(500);

/// How long the outbox may be full, or the bus refuse everything, before the streams end with an error. A client then gets an error
/// instead of waiting longer.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// First pause after a failed append. Each further pause is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Longest pause after failed appends.
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// A command to a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start this stream.
    Start(Box<Stream>),
    /// End this stream, because its session was closed.
    Cancel(StreamId),
}

/// A worker. [`Worker::run`] is its task.
pub(crate) struct Worker {
    bus: Arc<dyn Broker>,
    metrics: Metrics,
    anchor: ClockAnchor,
    outbox_cap: usize,
    pacer: Pacer,
    outbox: Outbox,
    /// The part of the oldest parcel that the bus has not accepted yet.
    rest: Option<Parcel>,
    aside: Aside,
    in_flight: Option<Delivery>,
    /// The last parcel came from the streams that wait aside, so the next one comes from the outbox.
    last_was_aside: bool,
    /// The outbox is not retried before this time.
    retry_at: Instant,
    backoff: Duration,
    /// Since when the bus has refused all events.
    refused_since: Option<Instant>,
    causes: Causes,
    early_cancels: VecDeque<StreamId>,
    next_look: Instant,
    /// Since when a full outbox has held the streams back.
    held_since: Option<Instant>,
    /// The last period in which the outbox was full, until all events due in it are enqueued.
    backlog: Option<Backlog>,
    stopping: bool,
}

impl Worker {
    /// Creates a worker that holds its streams back while more than `outbox_cap` bytes wait for the bus.
    pub(crate) fn new(
        bus: Arc<dyn Broker>,
        metrics: Metrics,
        anchor: ClockAnchor,
        outbox_cap: usize,
    ) -> Self {
        Self {
            bus,
            metrics,
            anchor,
            outbox_cap,
            pacer: Pacer::default(),
            outbox: Outbox::default(),
            rest: None,
            aside: Aside::default(),
            in_flight: None,
            last_was_aside: false,
            retry_at: Instant::now(),
            backoff: FIRST_BACKOFF,
            refused_since: None,
            causes: Causes::default(),
            early_cancels: VecDeque::new(),
            next_look: Instant::now(),
            held_since: None,
            backlog: None,
            stopping: false,
        }
    }

    /// Runs until `commands` is closed or `stop` is cancelled, and all events are acknowledged. `stop` ends the running streams with an
    /// error terminator.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut open = true;
        loop {
            self.advance();
            self.end_held();
            self.deliver();
            if self.is_idle() && !open {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                delivered = settled(&mut self.in_flight) => self.settle(delivered),
                command = commands.recv(), if open => match command {
                    Some(command) => {
                        self.handle(command);
                        for _ in 0..COMMANDS {
                            let Ok(command) = commands.try_recv() else { break };
                            self.handle(command);
                        }
                    }
                    None => open = false,
                },
                () = until(wake) => {}
                () = stop.cancelled(), if !self.stopping => {
                    // Commands in the queue are still handled, and no new ones are accepted.
                    commands.close();
                    self.stop();
                }
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.anchor.us(Instant::now().into_std())
    }

    fn is_idle(&self) -> bool {
        self.pacer.is_empty() && self.in_flight.is_none() && !self.has_queued() && self.aside.is_empty()
    }

    fn has_queued(&self) -> bool {
        self.rest.is_some() || self.outbox.bytes() > 0
    }

    fn is_full(&self) -> bool {
        self.outbox.bytes() + self.aside.bytes() > self.outbox_cap
    }

    /// Enqueues due events until the outbox is full, and at most [`EVENTS_PER_TURN`].
    fn advance(&mut self) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + TICK;
        self.backlog = self.backlog.map(|backlog| backlog.looked_at(self.now_us()));
        for _ in 0..EVENTS_PER_TURN / 64 {
            let now_us = self.now_us();
            // The clock is read once per 64 events: often enough for their lateness, and cheaper than for each.
            for _ in 0..64 {
                if self.is_full() {
                    self.metrics.outbox_full.inc();
                    self.backlog = Some(Backlog::held(self.backlog, now_us));
                    return;
                }
                let (outbox, metrics, backlog) = (&mut self.outbox, &self.metrics, self.backlog);
                let emitted = self.pacer.emit_due(now_us, |event| {
                    let handed_us =
                        backlog.map_or(now_us, |backlog| backlog.handed_over(event.due_us, now_us));
                    outbox.push(event, handed_us);
                    metrics.handed_over(event, handed_us);
                });
                match emitted {
                    Emitted::Nothing => {
                        self.backlog = None;
                        return;
                    }
                    Emitted::Event => {
                        self.metrics.tokens.inc();
                    }
                    Emitted::Last(id, permit) => {
                        self.outbox.settle_with_last(id, permit);
                        self.metrics.ended(Outcome::Done);
                    }
                }
                self.metrics.unacknowledged.inc();
            }
        }
    }

    /// Ends the streams if a full outbox has held them back for [`LONGEST_HOLD`].
    fn end_held(&mut self) {
        if !self.is_full() {
            self.held_since = None;
            return;
        }
        let since = *self.held_since.get_or_insert_with(Instant::now);
        if since.elapsed() < LONGEST_HOLD {
            return;
        }
        self.held_since = Some(Instant::now());
        let held = self.pacer.end_all();
        if !held.is_empty() {
            tracing::warn!(streams = held.len(), held = ?LONGEST_HOLD, "the bus accepts nothing, ending the streams that wait for it");
        }
        for ended in held {
            self.end_early(ended, Outcome::Overload, "the bus accepted no events for too long");
        }
    }

    /// Returns when the worker has something to do, if no command and no result arrives.
    fn next_wake(&self) -> Option<Instant> {
        let append = match &self.in_flight {
            Some(_) => None,
            None => {
                let queue = self.has_queued().then_some(self.retry_at);
                queue.into_iter().chain(self.aside.next_try()).min()
            }
        };
        let play = if self.is_full() {
            self.held_since.filter(|_| !self.pacer.is_empty()).map(|since| since + LONGEST_HOLD)
        } else {
            let due = self.pacer.next_due().and_then(|due| self.anchor.instant(due)).map(Instant::from_std);
            due.map(|due| due.max(self.next_look))
        };
        append.into_iter().chain(play).min()
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Start(stream) => self.start(*stream),
            Command::Cancel(id) => match self.pacer.end(id) {
                Some(ended) => {
                    self.end_early(ended, Outcome::Closed, "the session was closed while its query ran");
                }
                // The stream has ended, or its start is still in the queue: a close can overtake it.
                None => {
                    if self.early_cancels.len() == EARLY_CANCELS {
                        self.early_cancels.pop_front();
                    }
                    self.early_cancels.push_back(id);
                }
            },
        }
    }

    fn start(&mut self, stream: Stream) {
        self.metrics.stream_started();
        if let Some(index) = self.early_cancels.iter().position(|&id| id == stream.id()) {
            self.early_cancels.remove(index);
            self.end_early(stream.into_ended(), Outcome::Closed, "the session was closed as its query began");
        } else if self.stopping {
            self.end_early(stream.into_ended(), Outcome::Shutdown, SHUTDOWN);
        } else {
            self.pacer.start(stream);
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        for ended in self.pacer.end_all() {
            self.end_early(ended, Outcome::Shutdown, SHUTDOWN);
        }
    }

    fn end_early(&mut self, ended: Ended, outcome: Outcome, message: &str) {
        self.metrics.ended(outcome);
        self.metrics.unacknowledged.inc();
        let now_us = self.now_us();
        self.outbox.push_error(ended, outcome.label(), message, now_us);
    }
}

/// The message of the terminator of streams that a shutdown ends.
pub(crate) const SHUTDOWN: &str = "the server shut down before the query ended";

/// Waits until an instant, and for ever if there is none.
async fn until(wake: Option<Instant>) {
    match wake {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}

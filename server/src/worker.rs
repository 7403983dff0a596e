//! The shell around a [`Pacer`]: one task that plays the streams of a worker in wire time and hands what is due to the
//! bus, one append in flight. When the bus is slow its streams run late, and the histograms say so. When the bus refuses
//! everything for too long, the streams end, and only their terminators are kept.

mod refusals;

use crate::{
    aside::{Aside, Due},
    metrics::{Metrics, Outcome},
    outbox::{Outbox, Parcel, stream_of},
    pacer::{Pacer, Played, Stream, StreamId},
};
use bus::{Appended, Broker, BusError, Entry};
use host::ClockAnchor;
use refusals::Causes;
use std::{
    collections::{HashSet, VecDeque},
    future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How many streams may wait for a worker to take them in.
pub(crate) const COMMANDS: usize = 1024;

/// How many cancellations that came before their stream a worker remembers.
const EARLY_CANCELS: usize = 1024;

/// Events that are enqueued before the runtime's other tasks have their turn.
const EVENTS_A_TURN: usize = 8192;

/// Streams are looked at this often at most, so that what falls due within a tick shares an append. The runtime's timers go by
/// whole milliseconds: with half of one here, it is one look a millisecond.
const TICK: Duration = Duration::from_micros(500);

/// Streams that the full outbox has held back for so long, or whose bus has refused everything for so long, end with an
/// error: their clients are told rather than kept waiting.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Play this stream.
    Start(Box<Stream>),
    /// The session was closed: end this stream.
    Cancel(StreamId),
}

/// Where a parcel came from.
#[derive(Debug)]
enum Source {
    Queue,
    /// Streams that wait aside.
    Aside(Vec<StreamId>),
}

/// A parcel that is to be handed to the bus.
struct Outgoing {
    source: Source,
    parcel: Parcel,
    /// Its terminators' claims are to be released; otherwise its events are to be appended.
    releases: bool,
}

/// A parcel that was handed to the bus, and what came of it.
struct Delivered {
    source: Source,
    parcel: Parcel,
    result: Result<Appended, BusError>,
}

type Delivery = Pin<Box<dyn Future<Output = Delivered> + Send>>;

/// When the full outbox held streams back, in wire time. What fell due meanwhile counts as handed over then: that it waits is the
/// bus's lateness, not the simulator's.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    from_us: u64,
    /// Until there was room again.
    to_us: u64,
    /// There was none when the worker last looked.
    full: bool,
}

impl Backlog {
    fn held(before: Option<Self>, now_us: u64) -> Self {
        Self { from_us: before.map_or(now_us, |before| before.from_us), to_us: now_us, full: true }
    }

    /// The worker looks again at `now_us`.
    const fn looked_at(self, now_us: u64) -> Self {
        if self.full { Self { to_us: now_us, full: false, ..self } } else { self }
    }

    /// When an event that was due at `due_us` and is enqueued at `now_us` would have been handed over.
    fn handed_over(self, due_us: u64, now_us: u64) -> u64 {
        if due_us <= self.to_us { due_us.max(self.from_us) } else { now_us }
    }
}

/// A worker, before it runs.
pub(crate) struct Worker {
    bus: Arc<dyn Broker>,
    metrics: Metrics,
    anchor: ClockAnchor,
    outbox_cap: usize,
    pacer: Pacer,
    outbox: Outbox,
    /// The part of the oldest parcel that the bus has not taken yet.
    rest: Option<Parcel>,
    aside: Aside,
    in_flight: Option<Delivery>,
    /// The last parcel came from the streams that wait aside: the queue has its turn.
    last_was_aside: bool,
    /// The queue is not tried before.
    retry_at: Instant,
    backoff: Duration,
    /// Since when the bus has refused everything.
    refused_since: Option<Instant>,
    causes: Causes,
    early_cancels: VecDeque<StreamId>,
    next_look: Instant,
    /// Since when the outbox has held the streams back.
    held_since: Option<Instant>,
    /// What the full outbox holds or held back and is still to be enqueued.
    backlog: Option<Backlog>,
    stopping: bool,
}

impl Worker {
    /// A worker that stops advancing its streams while more than `outbox_cap` bytes wait for the bus.
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

    /// Plays until `commands` is closed or `stop` is cancelled, and everything enqueued is acknowledged. A stop ends the
    /// streams that still run with an error terminator.
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
                        self.obey(command);
                        for _ in 0..COMMANDS {
                            let Ok(command) = commands.try_recv() else { break };
                            self.obey(command);
                        }
                    }
                    None => open = false,
                },
                () = until(wake) => {}
                () = stop.cancelled(), if !self.stopping => {
                    // What is on its way is still taken in; nothing comes after it.
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

    /// Enqueues what is due, as far as the outbox takes it, and no more in one go than lets others have their turn.
    fn advance(&mut self) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + TICK;
        self.backlog = self.backlog.map(|backlog| backlog.looked_at(self.now_us()));
        for _ in 0..EVENTS_A_TURN / 64 {
            let now_us = self.now_us();
            // The clock is read again now and then: what is enqueued late says so.
            for _ in 0..64 {
                if self.is_full() {
                    self.metrics.outbox_full.inc();
                    self.backlog = Some(Backlog::held(self.backlog, now_us));
                    return;
                }
                let (outbox, metrics, backlog) = (&mut self.outbox, &self.metrics, self.backlog);
                let played = self.pacer.play_due(now_us, |event| {
                    let handed_us =
                        backlog.map_or(now_us, |backlog| backlog.handed_over(event.due_us, now_us));
                    outbox.push(event, handed_us);
                    metrics.pace_lag.observe(handed_us.saturating_sub(event.due_us), 1);
                });
                match played {
                    Played::Nothing => {
                        self.backlog = None;
                        return;
                    }
                    Played::Event => {
                        self.metrics.tokens.inc();
                    }
                    Played::Last(id, permit) => {
                        self.outbox.settle_with_last(id, permit);
                        self.metrics.ended(Outcome::Done);
                    }
                }
                self.metrics.unacknowledged.inc();
            }
        }
    }

    /// Ends the streams that the full outbox has held back for too long.
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
            tracing::warn!(streams = held.len(), held = ?LONGEST_HOLD, "the bus takes nothing, ending the streams that wait for it");
        }
        for ended in held {
            self.end_early(ended, Outcome::Overload, "the bus took no events for too long");
        }
    }

    /// Starts the next append, unless one is in flight. The queue and the streams that wait aside take turns.
    fn deliver(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let now = Instant::now();
        let next = if self.last_was_aside {
            self.next_queued(now).or_else(|| self.next_aside(now))
        } else {
            self.next_aside(now).or_else(|| self.next_queued(now))
        };
        self.last_was_aside = matches!(next, Some(Outgoing { source: Source::Aside(_), .. }));
        let Some(Outgoing { source, parcel, releases }) = next else { return };
        let bus = self.bus.clone();
        self.in_flight = Some(Box::pin(async move {
            let result = if releases {
                bus.release_claims(&parcel.batch).await
            } else {
                bus.append(&parcel.batch).await
            };
            Delivered { source, parcel, result }
        }));
    }

    /// The events of the streams that wait aside and are to be tried again.
    fn next_aside(&mut self, now: Instant) -> Option<Outgoing> {
        let Due { streams, parcel, releases } = self.aside.due(now)?;
        Some(Outgoing { source: Source::Aside(streams), parcel, releases })
    }

    /// The oldest parcel of the queue, without the events of streams that wait aside.
    fn next_queued(&mut self, now: Instant) -> Option<Outgoing> {
        if now < self.retry_at {
            return None;
        }
        while let Some(mut parcel) = self.rest.take().or_else(|| self.outbox.pop()) {
            if !self.aside.is_empty() {
                let theirs = parcel.take_out(|_, entry| self.aside.contains(stream_of(entry)));
                let left_out = self.aside.add(theirs, false);
                self.metrics.unacknowledged.dec_by(left_out as i64);
            }
            if !parcel.batch.is_empty() {
                return Some(Outgoing { source: Source::Queue, parcel, releases: false });
            }
        }
        None
    }

    /// When there is something to do, whatever comes in.
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

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start(stream) => self.start(*stream),
            Command::Cancel(id) => match self.pacer.end(id) {
                Some(ended) => {
                    self.end_early(ended, Outcome::Closed, "the session was closed while its query ran");
                }
                // It has ended, or its start is still on the way: a close may overtake it.
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
        self.metrics.streams_started.inc();
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

    fn end_early(&mut self, ended: crate::pacer::Ended, outcome: Outcome, message: &str) {
        self.metrics.ended(outcome);
        self.metrics.unacknowledged.inc();
        let now_us = self.now_us();
        self.outbox.push_error(ended, outcome.label(), message, now_us);
    }

    /// Takes what came of an append: measures it, ends the streams whose events the bus will not take, and keeps the rest.
    fn settle(&mut self, delivered: Delivered) {
        let Delivered { source, mut parcel, result } = delivered;
        self.in_flight = None;
        let (appended, stopped) = match result {
            Ok(mut appended) => {
                let stopped = appended.stopped.take();
                (appended, stopped)
            }
            Err(error) => (Appended::default(), Some(error)),
        };
        let refused = self.set_aside(&mut parcel, &appended);
        let settled = appended.taken - refused;
        let now_us = self.now_us();
        let metrics = &self.metrics;
        parcel.advance(settled, |enqueued_us, n| {
            metrics.bus_lag.observe(now_us.saturating_sub(enqueued_us), n);
        });
        metrics.unacknowledged.dec_by(settled as i64);
        metrics.unheard.inc_by(appended.unheard);
        if settled > 0 {
            self.progressed();
        }
        if !appended.stale.is_empty() {
            // Sent to a Redis that has lost its data meanwhile, they would be taken.
            let streams: HashSet<StreamId> = appended.stale.iter().copied().collect();
            let stale = |entry: &Entry<'_>| streams.contains(&stream_of(entry));
            let waiting = parcel.take_out(|_, entry| stale(entry)).batch.len() + self.outbox.take_out(stale);
            self.metrics.unacknowledged.dec_by(waiting as i64);
        }
        for &id in &appended.stale {
            let waiting = self.aside.forget(id);
            self.metrics.unacknowledged.dec_by(waiting as i64);
            if self.pacer.end(id).is_some() {
                self.metrics.ended(Outcome::Stale);
            }
        }
        match source {
            Source::Queue if parcel.batch.is_empty() => self.outbox.recycle(parcel),
            Source::Queue => self.rest = Some(parcel),
            Source::Aside(streams) => self.settle_aside(streams, parcel, &appended),
        }
        for refused in &appended.refused {
            self.judge(refused);
        }
        match stopped {
            Some(error) => self.stopped(&error),
            None => {
                self.backoff = FIRST_BACKOFF;
                self.retry_at = Instant::now();
            }
        }
    }
}

pub(crate) const SHUTDOWN: &str = "the server shut down before the query ended";

async fn settled(in_flight: &mut Option<Delivery>) -> Delivered {
    match in_flight {
        Some(delivery) => delivery.await,
        None => future::pending().await,
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;

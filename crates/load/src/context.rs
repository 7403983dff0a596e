//! What the parts of a generator share: one context per run, and one per worker.

use crate::{
    burst::Burst, connector::Connector, event_loop::LoopDelay, http::Http, idle::IdleSessions,
    injection::FirstSend, socket::Buffers,
};
use host::ClockAnchor;
use measure::{
    Activity, Arrivals, FaultLog, Recorder,
    live::LiveCounters,
    record::{LagKind, Moment},
};
use plan::{LiveSchedule, Plan, Stop, schedule::Model};
use std::{
    cell::{Cell, RefCell, RefMut},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An arrival that starts later than this was not achieved by the generator.
const ON_TIME: Duration = Duration::from_secs(1);

/// What all workers of a run share.
pub struct RunContext {
    /// What the run will do. The schedule in it is the one at the start.
    pub plan: Arc<Plan>,
    /// The schedule, which may be amended.
    pub schedule: LiveSchedule,
    /// Opens sockets.
    pub connector: Arc<Connector>,
    /// TLS configuration of the HTTP calls.
    pub tls: rustls::ClientConfig,
    /// The start of the run, from which all recorded times count.
    pub epoch: Instant,
    /// Tells when to stop.
    pub stop: Stop,
    /// The common instant of all first queries, in a burst.
    pub burst: Option<Arc<Burst>>,
    /// Counts the open sessions and the running queries.
    pub active: Activity,
    /// Boot id of this machine. A server with the same id uses the same clock.
    pub boot_id: Option<String>,
    /// The injected faults and their effects.
    pub faults: Arc<FaultLog>,
    /// The instant of the first query, from which the times of faults count.
    pub first_send: Arc<FirstSend>,
    /// Limits the open sessions in the model in which sessions arrive. An arrival without a place is dropped.
    pub places: Option<Arc<Semaphore>>,
}

/// What the sessions of a worker share.
pub struct WorkerContext {
    run: Arc<RunContext>,
    http: Http,
    buffers: Rc<Buffers>,
    recorder: RefCell<Recorder>,
    live: Arc<LiveCounters>,
    clock: ClockAnchor,
    /// Whether the server uses this machine's clock. `None` until it responded to a `/run`.
    shared_clock: Cell<Option<bool>>,
    /// A child of the run's, so that workers do not contend for its lock.
    stop: Stop,
    idle: Option<IdleSessions>,
    arrivals: ArrivalCounts,
    delay: LoopDelay,
}

/// Counts the arrivals in open models, and planned queries that never started.
#[derive(Debug, Default)]
struct ArrivalCounts {
    dropped: Cell<u64>,
    on_time: Cell<u64>,
    busy: Cell<u64>,
    due: Cell<u64>,
}

/// The monotonic clock of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostClock {
    /// That of the host on which this process runs.
    Own,
    /// That of another host, by its boot id.
    Other(Box<str>),
}

/// Every place for a session is taken.
pub(crate) struct Full;

impl WorkerContext {
    /// Creates the context of one worker. `first_probe` is when the probe of its event loop is due. The runtime must be entered.
    pub(crate) fn new(
        run: Arc<RunContext>,
        recorder: Recorder,
        live: Arc<LiveCounters>,
        first_probe: Instant,
    ) -> Self {
        let target = &run.plan.target;
        let connections = target.http_connections.div_ceil(run.plan.load.workers);
        Self {
            http: Http::new(target, connections, run.tls.clone()),
            buffers: Rc::default(),
            recorder: RefCell::new(recorder),
            live,
            clock: ClockAnchor::now(),
            shared_clock: Cell::new(None),
            stop: run.stop.child(),
            idle: (run.plan.schedule.model() == Model::OpenQueries).then(IdleSessions::default),
            arrivals: ArrivalCounts::default(),
            delay: LoopDelay::new(first_probe),
            run,
        }
    }

    /// Returns what all workers share.
    pub(crate) fn run(&self) -> &RunContext {
        &self.run
    }

    /// Returns what the run will do.
    pub(crate) fn plan(&self) -> &Plan {
        &self.run.plan
    }

    /// Returns when the session of this row of the schedule is planned to end, as the schedule is now. A query that runs then is
    /// finished first. `None`: after its last query.
    pub(crate) fn session_end(&self, row: u64) -> Option<Instant> {
        self.run.schedule.current().session(row).until.map(|until| self.run.epoch + until)
    }

    /// Returns the HTTP client.
    pub(crate) const fn http(&self) -> &Http {
        &self.http
    }

    /// Returns the read buffer of the worker's sockets.
    pub(crate) const fn buffers(&self) -> &Rc<Buffers> {
        &self.buffers
    }

    /// Returns the recorder. The borrow must end before the next await.
    pub(crate) fn recorder(&self) -> RefMut<'_, Recorder> {
        self.recorder.borrow_mut()
    }

    /// Returns the worker's counters for the live view.
    pub(crate) fn live(&self) -> &LiveCounters {
        &self.live
    }

    /// Returns the conversion between wire time and this machine's clock.
    pub(crate) const fn clock(&self) -> &ClockAnchor {
        &self.clock
    }

    /// Returns whether the server uses this machine's clock. `None` until it responded to a `/run`.
    pub(crate) const fn shared_clock(&self) -> Option<bool> {
        self.shared_clock.get()
    }

    /// Compares a server's boot id with this machine's. Returns whether both use the same clock.
    pub(crate) fn compare_clocks(&self, boot_id: Option<&str>) -> bool {
        let shared = boot_id.is_some() && boot_id == self.run.boot_id.as_deref();
        self.shared_clock.set(Some(shared));
        shared
    }

    /// Returns the clock of the host with this boot id.
    pub(crate) fn clock_of(&self, boot_id: &str) -> HostClock {
        if self.run.boot_id.as_deref() == Some(boot_id) {
            HostClock::Own
        } else {
            HostClock::Other(boot_id.into())
        }
    }

    /// Returns the worker's copy of the stop signal.
    pub(crate) const fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns the idle sessions, in the model in which queries arrive.
    pub(crate) const fn idle(&self) -> Option<&IdleSessions> {
        self.idle.as_ref()
    }

    /// Returns the delays of the worker's event loop.
    pub(crate) const fn delay(&self) -> &LoopDelay {
        &self.delay
    }

    /// Returns the moment of the run at `instant`.
    pub(crate) fn moment(&self, instant: Instant) -> Moment {
        instant.saturating_duration_since(self.run.epoch)
    }

    /// Returns a place for one more session that was due at `due`. Counts the arrival.
    ///
    /// # Errors
    /// Every place is taken.
    pub(crate) fn place(&self, due: Instant) -> Result<Option<OwnedSemaphorePermit>, Full> {
        let Some(places) = &self.run.places else { return Ok(None) };
        let place = Arc::clone(places).try_acquire_owned().ok();
        self.arrived(due, place.is_some());
        place.map(Some).ok_or(Full)
    }

    /// Counts an arrival that was due at `due`, and whether it could start.
    pub(crate) fn arrived(&self, due: Instant, could_start: bool) {
        let increment = |count: &Cell<u64>| count.set(count.get() + 1);
        increment(&self.arrivals.due);
        if could_start {
            if due.elapsed() <= ON_TIME {
                increment(&self.arrivals.on_time);
            }
        } else {
            increment(&self.arrivals.busy);
            self.recorder().arrival_dropped(self.moment(due));
            self.never_started(1);
        }
    }

    /// Counts planned queries or arrivals that will not start.
    pub(crate) fn never_started(&self, count: u64) {
        self.arrivals.dropped.set(self.arrivals.dropped.get() + count);
        LiveCounters::add(&self.live.dropped, count);
    }

    /// Returns the counts of arrivals so far.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let ArrivalCounts { dropped, on_time, busy, due } = &self.arrivals;
        Arrivals { dropped: dropped.get(), on_time: on_time.get(), busy: busy.get(), due: due.get() }
    }

    /// Counts the first arrival of a token at `at`.
    pub(crate) fn token(&self, at: Instant) {
        LiveCounters::add(&self.live.tokens, 1);
        self.recorder().token(self.moment(at));
    }

    /// Records a sample in nanoseconds that was taken at `at`.
    pub(crate) fn sample(&self, sample: LagKind, ns: i64, at: Instant) {
        self.recorder().sample(sample, ns, self.moment(at));
    }
}

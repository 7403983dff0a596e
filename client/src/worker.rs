//! One thread that drives its share of the sessions, with a runtime, a recorder and a pool of its own.
//! It shares nothing with the other workers but counters, and starts its sessions by the plan, never by the last one.

use crate::{
    burst::Burst,
    config::Config,
    cpu,
    faults::{FaultLog, FirstSend},
    http::Http,
    live::Shard,
    measure::{Gauge, Recorder},
    ramp::Ramp,
    record::{Moment, Sample},
    session,
    signals::Stop,
    socket::Connector,
};
use protocol::ClockAnchor;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::{JoinSet, LocalSet};

/// How often the event loop's own lateness is probed.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// What a worker is given.
pub struct Assignment {
    /// Which worker, from 0.
    pub number: usize,
    /// The whole run's.
    pub config: Arc<Config>,
    /// The whole run's.
    pub connector: Arc<Connector>,
    /// The whole run's.
    pub tls: rustls::ClientConfig,
    /// The start of the run.
    pub epoch: Instant,
    /// Its own.
    pub recorder: Recorder,
    /// Its own.
    pub live: Arc<Shard>,
    /// The whole run's.
    pub stop: Stop,
    /// The whole run's.
    pub burst: Option<Arc<Burst>>,
    /// Open sessions.
    pub sessions: Gauge,
    /// Running queries.
    pub queries: Gauge,
    /// This machine's.
    pub boot_id: Option<String>,
    /// The whole run's.
    pub faults: Arc<FaultLog>,
    /// The whole run's.
    pub first_send: Arc<FirstSend>,
}

/// What a worker's sessions share.
pub struct Worker {
    /// The run's configuration.
    pub config: Arc<Config>,
    /// The HTTP calls.
    pub http: Http,
    /// The sockets.
    pub connector: Arc<Connector>,
    /// The ruler.
    pub recorder: RefCell<Recorder>,
    /// What the progress line shows.
    pub live: Arc<Shard>,
    /// The start of the run.
    pub epoch: Instant,
    /// Wire time.
    pub clock: ClockAnchor,
    /// Which clock wire time is of.
    pub boot_id: Option<String>,
    /// Whether the server's times are of the same clock: unknown until it answered a run.
    pub shared_clock: Cell<Option<bool>>,
    /// Says when to stop.
    pub stop: Stop,
    /// The instant of all first queries.
    pub burst: Option<Arc<Burst>>,
    /// Open sessions.
    pub sessions: Gauge,
    /// Running queries.
    pub queries: Gauge,
    /// What was broken, and what came of it.
    pub faults: Arc<FaultLog>,
    /// From which faults are counted.
    pub first_send: Arc<FirstSend>,
    /// Queries that the plan held and that an interruption kept from starting.
    pub dropped: Cell<u64>,
}

/// What a worker says at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerReport {
    /// Time it waited for a CPU; `None` where the system does not tell.
    pub cpu_wait: Option<Duration>,
    /// Time it ran.
    pub wall: Duration,
    /// Queries that were never started.
    pub dropped: u64,
    /// The server's times are of this machine's clock.
    pub shared_clock: Option<bool>,
}

impl Worker {
    /// The moment of the run at `instant`.
    pub fn moment(&self, instant: Instant) -> Moment {
        instant.saturating_duration_since(self.epoch)
    }

    /// Records one sample that was taken at `at`.
    pub fn sample(&self, sample: Sample, ns: i64, at: Instant) {
        self.recorder.borrow_mut().sample(sample, ns, self.moment(at));
    }
}

/// Runs the worker's sessions to their end, on this thread.
///
/// # Errors
/// The runtime or the HTTP client cannot be built.
///
/// # Panics
/// When a session did: that is a fault of ours and must not pass for a result.
pub fn run(assignment: Assignment) -> anyhow::Result<WorkerReport> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let number = assignment.number;
    let workers = assignment.config.load.workers;
    let connections = assignment.config.target.http_connections.div_ceil(workers);
    let _context = runtime.enter();
    let worker = Rc::new(Worker {
        http: Http::new(&assignment.config.target, connections, assignment.tls)?,
        config: assignment.config,
        connector: assignment.connector,
        recorder: RefCell::new(assignment.recorder),
        live: assignment.live,
        epoch: assignment.epoch,
        clock: ClockAnchor::now(),
        boot_id: assignment.boot_id,
        shared_clock: Cell::new(None),
        stop: assignment.stop.child(),
        burst: assignment.burst,
        sessions: assignment.sessions,
        queries: assignment.queries,
        faults: assignment.faults,
        first_send: assignment.first_send,
        dropped: Cell::new(0),
    });
    let (started, waited) = (Instant::now(), cpu::thread_wait());
    let local = LocalSet::new();
    local.block_on(&runtime, drive(Rc::clone(&worker), number, workers));
    Ok(WorkerReport {
        cpu_wait: waited.zip(cpu::thread_wait()).map(|(before, after)| after.saturating_sub(before)),
        wall: started.elapsed(),
        dropped: worker.dropped.get(),
        shared_clock: worker.shared_clock.get(),
    })
}

async fn drive(worker: Rc<Worker>, number: usize, workers: usize) {
    let probe = tokio::task::spawn_local(probe_loop(Rc::clone(&worker)));
    let grace = tokio::task::spawn_local(end_after_grace(Rc::clone(&worker)));
    let ramp = Ramp::new(worker.config.load.clients, worker.config.load.ramp_up);
    let mut sessions = JoinSet::new();
    for index in ramp.share(number, workers) {
        let scheduled = worker.epoch + ramp.start(index);
        tokio::select! {
            () = worker.stop.starting.cancelled() => {}
            () = tokio::time::sleep_until(scheduled.into()) => {}
        }
        if worker.stop.starting.is_cancelled() {
            worker.dropped.set(worker.dropped.get() + u64::from(worker.config.load.queries));
            drop(worker.burst.as_ref().map(Burst::slot));
            continue;
        }
        sessions.spawn_local(session::run(Rc::clone(&worker), index, scheduled));
    }
    while let Some(ended) = sessions.join_next().await {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
    probe.abort();
    grace.abort();
}

/// Samples how late the event loop wakes, against a plan: a wake-up that was missed is late as well.
async fn probe_loop(worker: Rc<Worker>) {
    let mut intended = worker.epoch.max(Instant::now()) + PROBE_EVERY;
    loop {
        tokio::time::sleep_until(intended.into()).await;
        let woken = Instant::now();
        while intended <= woken {
            let lag = i64::try_from((woken - intended).as_nanos()).unwrap_or(i64::MAX);
            worker.sample(Sample::LoopLag, lag, woken);
            intended += PROBE_EVERY;
        }
    }
}

async fn end_after_grace(worker: Rc<Worker>) {
    worker.stop.starting.cancelled().await;
    tokio::time::sleep(worker.config.load.grace).await;
    worker.stop.running.cancel();
}

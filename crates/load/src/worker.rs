//! One thread that drives its share of the sessions, with a runtime, a recorder and a pool of its own.
//! It shares nothing with the other workers but counters, and starts its sessions by the plan, never by the last one.

use crate::{
    burst::Burst,
    connector::Connector,
    cpu,
    http::Http,
    injection::FirstSend,
    pool::{Pool, Turn},
    pulse::{self, TIMER_STEP},
    session::{self, Planned},
    socket::Buffers,
    stamps,
};
use host::ClockAnchor;
use measure::{
    ActiveCounter, FaultLog, Recorder,
    live::LiveCounters,
    record::{LagKind, Moment},
};
use plan::{Plan, Stop, schedule::Model};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
};

/// How often the event loop's own lateness is probed.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// A loop that was held up for longer than this stood still: what timed out meanwhile may be the generator's own failure.
const STANDSTILL: Duration = Duration::from_secs(1);

/// An arrival that starts later than this was not achieved by the generator.
const ON_TIME: Duration = Duration::from_secs(1);

/// What a worker is given.
pub struct Assignment {
    /// Which worker, from 0.
    pub number: usize,
    /// The whole run's.
    pub plan: Arc<Plan>,
    /// The whole run's.
    pub connector: Arc<Connector>,
    /// The whole run's.
    pub tls: rustls::ClientConfig,
    /// The start of the run.
    pub epoch: Instant,
    /// Its own.
    pub recorder: Recorder,
    /// Its own.
    pub live: Arc<LiveCounters>,
    /// The whole run's.
    pub stop: Stop,
    /// The whole run's.
    pub burst: Option<Arc<Burst>>,
    /// Open sessions.
    pub sessions: ActiveCounter,
    /// Running queries.
    pub queries: ActiveCounter,
    /// This machine's.
    pub boot_id: Option<String>,
    /// The whole run's.
    pub faults: Arc<FaultLog>,
    /// The whole run's.
    pub first_send: Arc<FirstSend>,
    /// Sessions at once, of the whole run.
    pub places: Option<Arc<Semaphore>>,
}

/// What a worker's sessions share.
pub struct Worker {
    /// The run's configuration.
    pub plan: Arc<Plan>,
    /// The HTTP calls.
    pub http: Http,
    /// The sockets.
    pub connector: Arc<Connector>,
    /// What the sockets read into.
    pub buffers: Rc<Buffers>,
    /// The ruler.
    pub recorder: RefCell<Recorder>,
    /// What the progress line shows.
    pub live: Arc<LiveCounters>,
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
    pub sessions: ActiveCounter,
    /// Running queries.
    pub queries: ActiveCounter,
    /// What was broken, and what came of it.
    pub faults: Arc<FaultLog>,
    /// From which faults are counted.
    pub first_send: Arc<FirstSend>,
    /// Where queries find a session, in a model whose queries arrive.
    pub pool: Option<Pool>,
    /// Sessions at once, of the whole run; what finds no place is dropped.
    pub places: Option<Arc<Semaphore>>,
    /// Queries and arrivals that the plan held and that never started.
    pub dropped: Cell<u64>,
    /// What arrived, and started on time.
    pub on_time: Cell<u64>,
    /// What arrived, and was dropped because every session was busy.
    pub busy: Cell<u64>,
    /// What arrived before the run was ended.
    pub due: Cell<u64>,
    /// How the event loop keeps up.
    pub pulse: Pulse,
}

/// How a worker's event loop keeps up: written by its probe, and overdue while the loop is held up.
#[derive(Debug)]
pub struct Pulse {
    /// When the probe is to wake next.
    next: Cell<Instant>,
    /// When the loop last stood still, until then.
    stood_still: Cell<Option<Instant>>,
    /// How long the loop was held up so far.
    held_up: Cell<Duration>,
}

impl Pulse {
    fn new(next: Instant) -> Self {
        Self { next: Cell::new(next), stood_still: Cell::default(), held_up: Cell::default() }
    }

    /// The probe woke, and is to wake again at `next`.
    fn beat(&self, woken: Instant, next: Instant) {
        let late = woken.saturating_duration_since(self.next.get()).saturating_sub(TIMER_STEP);
        self.held_up.set(self.held_up.get() + late);
        if late > STANDSTILL {
            self.stood_still.set(Some(woken));
        }
        self.next.set(next);
    }

    /// How long the loop was held up since its start, as of `now`.
    pub fn held_up(&self, now: Instant) -> Duration {
        self.held_up.get() + now.saturating_duration_since(self.next.get()).saturating_sub(TIMER_STEP)
    }

    /// Whether the loop stood still between `since` and `now`.
    pub fn stood_still(&self, since: Instant, now: Instant) -> bool {
        self.stood_still.get().is_some_and(|until| until >= since)
            || now.saturating_duration_since(self.next.get().max(since)) > STANDSTILL
    }
}

/// No session may be added to those present.
struct Full;

/// What a worker says at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerReport {
    /// Time it waited for a CPU; `None` where the system does not tell.
    pub cpu_wait: Option<cpu::Waited>,
    /// Time it ran.
    pub wall: Duration,
    /// Queries and arrivals that were never started.
    pub dropped: u64,
    /// What arrived and started on time, in open models.
    pub on_time: u64,
    /// What arrived and was dropped because every session was busy, in open models.
    pub busy: u64,
    /// What was due before the run was ended, in open models.
    pub due: u64,
    /// The server's times are of this machine's clock.
    pub shared_clock: Option<bool>,
}

impl Worker {
    /// The moment of the run at `instant`.
    pub fn moment(&self, instant: Instant) -> Moment {
        instant.saturating_duration_since(self.epoch)
    }

    /// Whether the generator itself stood still since `since`.
    pub fn stood_still_since(&self, since: Instant) -> bool {
        self.pulse.stood_still(since, Instant::now())
    }

    /// A place for one more session; an error when all are taken.
    fn place(&self, due: Instant) -> Result<Option<OwnedSemaphorePermit>, Full> {
        let Some(places) = &self.places else { return Ok(None) };
        let place = Arc::clone(places).try_acquire_owned().ok();
        self.arrived(due, place.is_some());
        place.map(Some).ok_or(Full)
    }

    /// What was due then arrived, and could be started or not.
    fn arrived(&self, due: Instant, could_start: bool) {
        let one_more = |count: &Cell<u64>| count.set(count.get() + 1);
        one_more(&self.due);
        if could_start {
            if due.elapsed() <= ON_TIME {
                one_more(&self.on_time);
            }
        } else {
            one_more(&self.busy);
            self.never_started(1);
        }
    }

    /// So many queries or arrivals that the plan held will not be.
    pub fn never_started(&self, count: u64) {
        self.dropped.set(self.dropped.get() + count);
        LiveCounters::add(&self.live.dropped, count);
    }

    /// What a session counts for that an interruption kept from coming.
    fn never_came(&self) -> u64 {
        match (self.plan.schedule.model(), self.plan.load.queries) {
            (Model::Closed | Model::Staged, Some(queries)) => u64::from(queries),
            (Model::OpenSessions, _) => 1,
            _ => 0,
        }
    }

    /// Counts a token that arrived at `at`, for the first time.
    pub fn token(&self, at: Instant) {
        LiveCounters::add(&self.live.tokens, 1);
        self.recorder.borrow_mut().token(self.moment(at));
    }

    /// Records one sample that was taken at `at`.
    pub fn sample(&self, sample: LagKind, ns: i64, at: Instant) {
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
    let mut builder = Builder::new_current_thread();
    let runtime = pulse::watch(&mut builder).enable_all().build_local(LocalOptions::default())?;
    let number = assignment.number;
    let model = assignment.plan.schedule.model();
    let workers = assignment.plan.load.workers;
    let connections = assignment.plan.target.http_connections.div_ceil(workers);
    let _context = runtime.enter();
    let worker = Rc::new(Worker {
        http: Http::new(&assignment.plan.target, connections, assignment.tls),
        plan: assignment.plan,
        connector: assignment.connector,
        buffers: Rc::default(),
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
        pool: (model == Model::OpenQueries).then(Pool::default),
        places: assignment.places,
        dropped: Cell::new(0),
        on_time: Cell::new(0),
        busy: Cell::new(0),
        due: Cell::new(0),
        pulse: Pulse::new(Instant::now().max(assignment.epoch) + PROBE_EVERY),
    });
    let (started, waited) = (Instant::now(), cpu::thread_wait());
    runtime.block_on(drive(Rc::clone(&worker), number, workers));
    Ok(WorkerReport {
        cpu_wait: waited.zip(cpu::thread_wait()).map(|(before, after)| after.since(before)),
        wall: started.elapsed(),
        dropped: worker.dropped.get(),
        on_time: worker.on_time.get(),
        busy: worker.busy.get(),
        due: worker.due.get(),
        shared_clock: worker.shared_clock.get(),
    })
}

async fn drive(worker: Rc<Worker>, number: usize, workers: usize) {
    let probe = tokio::task::spawn_local(probe_loop(Rc::clone(&worker)));
    let grace = tokio::task::spawn_local(end_after_grace(Rc::clone(&worker)));
    let queries = worker
        .pool
        .is_some()
        .then(|| tokio::task::spawn_local(bring_queries(Rc::clone(&worker), number, workers)));
    let schedule = Arc::clone(&worker.plan.schedule);
    let mut sessions = JoinSet::new();
    for index in schedule.share(number, workers) {
        let visit = schedule.session(index);
        let scheduled = worker.epoch + visit.start;
        if !is_time(&worker, scheduled).await {
            worker.never_started(worker.never_came());
            drop(worker.burst.as_ref().map(Burst::slot));
            continue;
        }
        // Those that have ended need not be remembered.
        while let Some(ended) = sessions.try_join_next() {
            told(ended);
        }
        let Ok(place) = worker.place(scheduled) else { continue };
        let planned = Planned {
            index,
            scheduled,
            until: visit.until.map(|until| worker.epoch + until),
            tokens: visit.tokens,
        };
        sessions.spawn_local(stay(Rc::clone(&worker), planned, place));
    }
    while let Some(ended) = sessions.join_next().await {
        told(ended);
    }
    if let Some(queries) = queries {
        told(queries.await);
    }
    probe.abort();
    grace.abort();
}

/// A panic of a session is ours and must not pass for a result.
fn told(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until `scheduled`; false when nothing may start any more.
async fn is_time(worker: &Worker, scheduled: Instant) -> bool {
    if !worker.stop.starting.is_cancelled() {
        tokio::select! {
            () = worker.stop.starting.cancelled() => {}
            () = tokio::time::sleep_until(scheduled.into()) => {}
        }
    }
    !worker.stop.starting.is_cancelled()
}

/// A user's presence: one session, or one after the other until it has to go.
async fn stay(worker: Rc<Worker>, mut planned: Planned, _place: Option<OwnedSemaphorePermit>) {
    let stride = worker.plan.schedule.sessions();
    loop {
        let went_on = session::run(Rc::clone(&worker), planned).await;
        let Some(until) = planned.until else { return };
        // A stack that is down is not asked for new sessions without a pause.
        let again = Instant::now() + if went_on { Duration::ZERO } else { worker.plan.reconnect.initial };
        if again >= until || !is_time(&worker, again).await {
            return;
        }
        planned = Planned { index: planned.index + stride, scheduled: Instant::now(), ..planned };
    }
}

/// Hands each query that arrives to a session that has none.
async fn bring_queries(worker: Rc<Worker>, number: usize, workers: usize) {
    let Some(pool) = &worker.pool else { return };
    let schedule = Arc::clone(&worker.plan.schedule);
    for arrival in schedule.arrivals().iter().skip(number).step_by(workers) {
        let due = worker.epoch + arrival.at;
        if !is_time(&worker, due).await {
            worker.never_started(1);
            continue;
        }
        worker.arrived(due, pool.give(Turn { due, tokens: arrival.tokens }));
    }
    pool.close();
}

/// Samples how late the event loop wakes, against a plan: a wake-up that was missed is late as well.
async fn probe_loop(worker: Rc<Worker>) {
    let mut intended = worker.epoch.max(Instant::now()) + PROBE_EVERY;
    loop {
        tokio::time::sleep_until(intended.into()).await;
        let woken = Instant::now();
        let due = intended;
        stamps::sample();
        while intended <= woken {
            let lag = i64::try_from((woken - intended).as_nanos()).unwrap_or(i64::MAX);
            worker.sample(LagKind::LoopLag, lag, woken);
            intended += PROBE_EVERY;
        }
        worker.pulse.beat(woken, intended);
        pulse::probe(due, woken, intended);
    }
}

async fn end_after_grace(worker: Rc<Worker>) {
    worker.stop.starting.cancelled().await;
    tokio::time::sleep(worker.plan.load.grace).await;
    worker.stop.running.cancel();
}

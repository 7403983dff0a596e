//! A worker: one thread that runs its share of the sessions, with its own runtime, recorder and HTTP connections.
//! It starts sessions and queries at the times of the plan, however late the previous one was.

use crate::{
    burst::Burst,
    context::{RunContext, WorkerContext},
    event_loop,
    idle::DueQuery,
    session::{self, PlannedSession},
    timestamps,
};
use host::Waited;
use measure::{Arrivals, Recorder, live::LiveCounters, record::LagKind};
use plan::{
    Plan,
    schedule::{Model, Schedule},
};
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinSet},
};

/// The interval at which the event loop's delay is probed.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// What the index of a session that replaces a failed one is higher by: more than a plan can have sessions.
const REPLACEMENT: u64 = 1_000_000_000;

/// The result of a worker, besides its records.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerReport {
    /// Time that the thread waited for a CPU. `None` if the system does not count it.
    pub cpu_wait: Option<Waited>,
    /// Duration of the worker's run.
    pub wall: Duration,
    /// Arrivals in open models, and planned queries that never started.
    pub arrivals: Arrivals,
    /// Whether the server uses this machine's clock. `None` if it never responded to a `/run`.
    pub shared_clock: Option<bool>,
}

/// Runs the sessions of worker `number` (from 0) on this thread until all have ended.
///
/// # Errors
/// The runtime or the HTTP client cannot be built.
///
/// # Panics
/// If a session panicked: a programming error must not look like a result.
pub fn run(
    run: Arc<RunContext>,
    number: usize,
    recorder: Recorder,
    live: Arc<LiveCounters>,
) -> anyhow::Result<WorkerReport> {
    let mut builder = Builder::new_current_thread();
    let runtime = event_loop::watch(&mut builder).enable_all().build_local(LocalOptions::default())?;
    let _context = runtime.enter();
    let first_probe = Instant::now().max(run.epoch) + PROBE_EVERY;
    let worker = Rc::new(WorkerContext::new(run, recorder, live, first_probe));
    let (started, waited) = (Instant::now(), Waited::of_this_thread());
    runtime.block_on(drive(Rc::clone(&worker), number));
    Ok(WorkerReport {
        cpu_wait: waited.zip(Waited::of_this_thread()).map(|(before, after)| after.since(before)),
        wall: started.elapsed(),
        arrivals: worker.arrivals(),
        shared_clock: worker.shared_clock(),
    })
}

/// Starts the worker's sessions when they are due, and waits for all of them.
async fn drive(worker: Rc<WorkerContext>, number: usize) {
    let (epoch, workers) = (worker.run().epoch, worker.plan().load.workers);
    let probe = tokio::task::spawn_local(probe_loop(Rc::clone(&worker)));
    let grace = tokio::task::spawn_local(end_after_grace(Rc::clone(&worker)));
    let queries = worker
        .idle()
        .is_some()
        .then(|| tokio::task::spawn_local(distribute_queries(Rc::clone(&worker), number, workers)));
    let mut sessions = JoinSet::new();
    for nth in 0.. {
        let next = next(&worker, |schedule| {
            let row = schedule.shard().number_of(number, workers, nth);
            let times = (row < schedule.all_sessions()).then(|| schedule.session(row))?;
            Some((times.start, (row, times)))
        });
        let mut next = std::pin::pin!(next);
        let next = loop {
            tokio::select! {
                biased;
                next = &mut next => break next,
                // Frees the results of sessions that have ended, so that memory does not grow with the run.
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => propagate_panic(ended),
            }
        };
        let (row, times) = match next {
            Next::Due(session) => session,
            Next::Cancelled => {
                worker.never_started(queries_lost_with_session(worker.plan()));
                // The burst waits for every session: one that never starts must not hold it up.
                drop(worker.run().burst.as_ref().map(Burst::slot));
                continue;
            }
            Next::NoMore => break,
        };
        let scheduled = epoch + times.start;
        let Ok(place) = worker.place(scheduled) else { continue };
        let planned = PlannedSession { index: row, scheduled, row, tokens: times.tokens };
        sessions.spawn_local(stay(Rc::clone(&worker), planned, place));
    }
    while let Some(ended) = sessions.join_next().await {
        propagate_panic(ended);
    }
    if let Some(queries) = queries {
        propagate_panic(queries.await);
    }
    probe.abort();
    grace.abort();
}

/// Continues the panic of a task on this thread.
fn propagate_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Returns how many planned queries or arrivals are lost with a session that an interruption kept from starting.
fn queries_lost_with_session(plan: &Plan) -> u64 {
    match (plan.schedule.model(), plan.load.queries) {
        (Model::Closed | Model::Staged, Some(queries)) => u64::from(queries),
        (Model::OpenSessions, _) => 1,
        _ => 0,
    }
}

/// The next thing to start by the schedule.
enum Next<T> {
    /// It is due now.
    Due(T),
    /// It will not start, because nothing may start any more.
    Cancelled,
    /// There is none.
    NoMore,
}

/// Waits for what `find` returns, with its time from the start of the run. Looks again when the schedule is amended. While it can be
/// amended, which is until its end, `NoMore` is not returned.
async fn next<T>(worker: &WorkerContext, find: impl Fn(&Schedule) -> Option<(Duration, T)>) -> Next<T> {
    let starting = &worker.stop().starting;
    let mut changes = worker.run().schedule.changes();
    loop {
        let schedule = Arc::clone(&changes.borrow_and_update());
        let (at, found) = match find(&schedule) {
            Some((at, found)) => (at, Some(found)),
            None => match schedule.end().filter(|_| schedule.is_amendable()) {
                Some(end) => (end, None),
                None => return Next::NoMore,
            },
        };
        tokio::select! {
            biased;
            () = starting.cancelled() => return if found.is_some() { Next::Cancelled } else { Next::NoMore },
            // Returns an error only if the schedule is gone, which this worker shares.
            _ = changes.changed() => {}
            () = tokio::time::sleep_until((worker.run().epoch + at).into()) => {
                return found.map_or(Next::NoMore, Next::Due);
            }
        }
    }
}

/// Waits until `scheduled`. Returns false if nothing may start any more.
async fn wait_until(worker: &WorkerContext, scheduled: Instant) -> bool {
    let starting = &worker.stop().starting;
    if !starting.is_cancelled() {
        tokio::select! {
            () = starting.cancelled() => {}
            () = tokio::time::sleep_until(scheduled.into()) => {}
        }
    }
    !starting.is_cancelled()
}

/// Runs one session, or one after another until the planned end.
async fn stay(worker: Rc<WorkerContext>, mut planned: PlannedSession, _place: Option<OwnedSemaphorePermit>) {
    loop {
        let succeeded = session::run(Rc::clone(&worker), planned).await;
        let Some(until) = worker.session_end(planned.row) else { return };
        // The delay after a failure limits the calls to a stack that is down.
        let delay = if succeeded { Duration::ZERO } else { worker.plan().reconnect.initial };
        let again = Instant::now() + delay;
        if again >= until || !wait_until(&worker, again).await {
            return;
        }
        planned = PlannedSession { index: planned.index + REPLACEMENT, scheduled: Instant::now(), ..planned };
    }
}

/// Gives each arriving query to an idle session.
async fn distribute_queries(worker: Rc<WorkerContext>, number: usize, workers: usize) {
    let Some(idle) = worker.idle() else { return };
    for nth in 0.. {
        let next = next(&worker, |schedule| {
            schedule.arrivals().get(number + nth * workers).map(|arrival| (arrival.at, *arrival))
        });
        let arrival = match next.await {
            Next::Due(arrival) => arrival,
            Next::Cancelled => {
                worker.never_started(1);
                continue;
            }
            Next::NoMore => break,
        };
        let due = worker.run().epoch + arrival.at;
        worker.arrived(due, idle.give(DueQuery { due, tokens: arrival.tokens }));
    }
    idle.close();
}

/// Samples how late the event loop wakes, at fixed times. A time that passed while the loop was delayed is a sample as well.
async fn probe_loop(worker: Rc<WorkerContext>) {
    let mut intended = worker.run().epoch.max(Instant::now()) + PROBE_EVERY;
    loop {
        tokio::time::sleep_until(intended.into()).await;
        let woken = Instant::now();
        let due = intended;
        timestamps::sample();
        while intended <= woken {
            let lag = i64::try_from((woken - intended).as_nanos()).unwrap_or(i64::MAX);
            worker.sample(LagKind::LoopLag, lag, woken);
            intended += PROBE_EVERY;
        }
        worker.delay().probed(woken, intended);
        event_loop::probe(due, woken, intended);
    }
}

/// Ends the running queries when the grace period after an interruption is over.
async fn end_after_grace(worker: Rc<WorkerContext>) {
    worker.stop().starting.cancelled().await;
    tokio::time::sleep(worker.plan().load.grace).await;
    worker.stop().running.cancel();
}

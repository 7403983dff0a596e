//! Plays a plan, or one generator's part of it: starts the workers, waits for them, and reports the load on this host.
//! It knows neither verdicts nor results: those belong to the process that leads the run.

use crate::{config::Config, connect, lead::planned_faults, run_error::RunError};
use anyhow::Context;
use load::{
    burst::Burst,
    connector::Connector,
    context::RunContext,
    cpu,
    endpoint::Endpoint,
    injection::FirstSend,
    timestamps,
    worker::{self, WorkerReport},
};
use measure::{Arrivals, FaultLog, GeneratorReport, live::LiveCounters};
use plan::{LiveSchedule, Plan, Shard, Stop, schedule::Model};
use report::output::GeneratorResults;
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Properties of this host, measured before the load starts.
struct HostBefore {
    /// Time that a wake-up of a thread takes.
    wake_up: Option<Duration>,
    /// Number of steps of the wall clock so far.
    clock_steps: u64,
}

impl HostBefore {
    /// Measures this host. Takes some milliseconds.
    fn measure() -> Self {
        Self { wake_up: cpu::wake_up_cost(), clock_steps: timestamps::steps() }
    }
}

/// A generator that is ready to play its plan.
pub(crate) struct Generator {
    plan: Arc<Plan>,
    connector: Arc<Connector>,
    tls: rustls::ClientConfig,
    stop: Stop,
    /// The schedule of its part, which may be amended.
    schedule: LiveSchedule,
    /// Log of the faults that were injected into the stack.
    faults: Arc<FaultLog>,
    /// Where the first send is noted, from which the times of faults count.
    first_send: Arc<FirstSend>,
    /// The common instant of all first queries, in a burst.
    burst: Option<Arc<Burst>>,
    /// One per worker.
    counters: Vec<Arc<LiveCounters>>,
    host: HostBefore,
}

impl Generator {
    /// Checks that the target answers, and measures this host. Returns early if the run is asked to stop.
    ///
    /// # Errors
    /// The target does not answer, or the run was asked to stop.
    pub(crate) fn prepare(config: &Config, stop: &Stop) -> Result<Self, RunError> {
        let tls = connect::tls(config)?;
        let connector = connect::connect(config, &tls, stop)?;
        Ok(Self {
            plan: Arc::new(config.plan.clone()),
            connector,
            tls,
            stop: stop.clone(),
            schedule: LiveSchedule::new(Arc::clone(&config.plan.schedule), Shard::WHOLE),
            faults: Arc::new(planned_faults(config)),
            first_send: Arc::default(),
            burst: config.plan.load.burst.then(|| Arc::new(Burst::new(config.plan.schedule.sessions()))),
            counters: (0..config.plan.load.workers).map(|_| Arc::default()).collect(),
            host: HostBefore::measure(),
        })
    }

    /// Makes the generator use a schedule, a log of faults and the place for the first send that others see as well.
    pub(crate) fn share(
        &mut self,
        schedule: &LiveSchedule,
        faults: &Arc<FaultLog>,
        first_send: &Arc<FirstSend>,
    ) {
        self.schedule = schedule.clone();
        (self.faults, self.first_send) = (Arc::clone(faults), Arc::clone(first_send));
    }

    /// Makes the generator one of several, whose leader determines the instant of the burst. Returns it, if there is a burst.
    pub(crate) fn agree_on_burst(&mut self) -> Option<Arc<Burst>> {
        let sessions = self.plan.schedule.sessions();
        self.burst = self.burst.take().map(|_| Arc::new(Burst::agreed(sessions)));
        self.burst.clone()
    }

    /// Returns the counters of the workers.
    pub(crate) const fn counters(&self) -> &Vec<Arc<LiveCounters>> {
        &self.counters
    }

    /// Returns where the first send is noted.
    pub(crate) const fn first_send(&self) -> &Arc<FirstSend> {
        &self.first_send
    }

    /// Plays the plan from `epoch` on, the common start of all generators, and completes the rows. Returns when the last session
    /// has ended.
    ///
    /// # Errors
    /// A worker cannot be started, or failed.
    pub(crate) fn play(self, results: GeneratorResults, epoch: Instant) -> anyhow::Result<GeneratorReport> {
        results.begin(epoch);
        let (reports, start_delay) = self.drive(&results, epoch)?;
        let unwritten = results.finish().context("cannot complete the rows")?;
        let waited: Option<host::Waited> = reports.iter().map(|report| report.cpu_wait).sum();
        let clocks = || reports.iter().filter_map(|report| report.shared_clock);
        let mut arrivals = Arrivals::default();
        reports.iter().for_each(|report| arrivals.add(&report.arrivals));
        Ok(GeneratorReport {
            host: host_name(),
            wall: reports.iter().map(|report| report.wall).sum(),
            cpu_waited: waited.map(|waited| waited.time),
            cpu_starved: waited.zip(self.host.wake_up).map(|(waited, wake_up)| waited.beyond(wake_up)),
            wake_up_cost: self.host.wake_up,
            arrivals,
            shared_clock: clocks().next().map(|_| clocks().all(|shared| shared)),
            endpoints: self.connector.endpoints().iter().map(Endpoint::history).collect(),
            clock_steps: timestamps::steps().saturating_sub(self.host.clock_steps),
            faults: self.faults.records(),
            amendments: self.schedule.in_time(),
            interrupted: self.stop.starting.is_cancelled(),
            unwritten,
            start_delay,
            ..GeneratorReport::default()
        })
    }

    /// Starts the workers and waits for all of them. Also returns how much later than `epoch` this process began.
    fn drive(
        &self,
        results: &GeneratorResults,
        epoch: Instant,
    ) -> anyhow::Result<(Vec<WorkerReport>, Duration)> {
        let schedule = &self.plan.schedule;
        let most = usize::try_from(schedule.most_concurrent()).unwrap_or(Semaphore::MAX_PERMITS);
        let places = (schedule.model() == Model::OpenSessions).then(|| Arc::new(Semaphore::new(most)));
        let context = Arc::new(RunContext {
            plan: Arc::clone(&self.plan),
            schedule: self.schedule.clone(),
            connector: Arc::clone(&self.connector),
            tls: self.tls.clone(),
            epoch,
            stop: self.stop.clone(),
            burst: self.burst.clone(),
            active: results.active().clone(),
            boot_id: host::boot_id(),
            faults: Arc::clone(&self.faults),
            first_send: Arc::clone(&self.first_send),
            places,
        });
        let mut threads = Vec::new();
        for (number, live) in self.counters.iter().enumerate() {
            let (context, recorder, live) = (Arc::clone(&context), results.recorder(), Arc::clone(live));
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker::run(context, number, recorder, live))
                .context("cannot start a worker thread")?;
            threads.push(thread);
        }
        thread::sleep(epoch.saturating_duration_since(Instant::now()));
        let start_delay = epoch.elapsed();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?);
        Ok((joined.collect::<anyhow::Result<_>>()?, start_delay))
    }
}

/// Returns the name of this host, or an empty text if it has none.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

//! Executes a run: checks the target, starts the workers, waits for them, and writes the results.
//! Sessions are driven by the crate `load`; `measure` and `report` judge and write what they recorded.

use crate::{
    config::{Config, ConfigErrors},
    outline, preflight, published, signals, stack_faults, stack_members,
};
use anyhow::Context;
use load::{
    burst::Burst,
    connector::Connector,
    context::RunContext,
    cpu,
    endpoint::Endpoint,
    injection::{FaultRunner, FirstSend, Injector},
    timestamps, tls,
    watch::{Observations, PreparedWatch, Source, WatchConfig},
    worker::{self, WorkerReport},
};
use measure::{FaultLog, live::LiveCounters};
use plan::{Estimate, Plan, Stop, schedule::Model};
use report::{
    messages,
    output::{self, EventSettings, Finished, OutputSettings, Results, RunInfo, SharedStatus},
    progress::{self, Progress},
    screen::{Screen, Sources},
};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

/// Time between the creation of the workers and the start of the plan, so that all workers start together.
const LEAD: Duration = Duration::from_millis(50);

/// The reason why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid or does not fit this machine. Nothing was started.
    #[error(transparent)]
    Refused(#[from] ConfigErrors),
    /// A signal arrived before the first session started.
    #[error("interrupted before the run began: nothing was started, and there are no results")]
    Interrupted,
    /// The program failed, for example because a thread could not be started.
    #[error("{0:#}")]
    Broken(#[from] anyhow::Error),
}

impl RunError {
    /// Returns the exit code of the program: 104 for a refused run, 105 for an interrupted one, 1 otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 104,
            Self::Interrupted => signals::INTERRUPTED,
            Self::Broken(_) => 1,
        }
    }
}

/// Executes a run until its plan ends or `stop` is cancelled. The names of the result files contain `started_at`.
/// Faults are injected into the stack that the configuration names.
///
/// # Errors
/// The run was refused or interrupted before it began, or the program failed.
pub fn run(config: Config, stop: &Stop, started_at: OffsetDateTime) -> Result<Finished, RunError> {
    let faults = &config.plan.faults;
    let injector = (!faults.planned.is_empty()).then(|| stack_faults::injector(faults.stack.as_deref()));
    let injector = injector.transpose().map_err(|error| refused(&error))?;
    run_with(config, injector.as_ref(), stop, started_at)
}

/// Executes a run like [`run`], and injects faults with `injector`.
///
/// # Errors
/// The run was refused or interrupted before it began, or the program failed.
pub fn run_with(
    mut config: Config,
    injector: Option<&Arc<dyn Injector>>,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    preflight::terminal(&config)?;
    preflight::local(&config)?;
    if let Some(injector) = injector {
        preflight::faults(&config, &**injector)?;
    }
    let stack = config.embedded.then(|| crate::embedded::start(&mut config)).transpose()?;
    let members = match &stack {
        Some(stack) => Source::Here(stack.members()),
        None => stack_members::find(&config.plan),
    };
    let finished = run_against(&config, injector, members, stop, started_at);
    if let Some(stack) = stack {
        stack.stop().context("the embedded stack did not stop cleanly")?;
    }
    finished
}

/// Returns the plan as the table that `--dry-run` prints. Checks everything that needs no network first.
///
/// # Errors
/// The run does not fit this machine, or a host is not allowed.
pub fn plan(config: &Config) -> Result<String, RunError> {
    preflight::local(config)?;
    Ok(outline::plan(config, preflight::descriptors(config)))
}

/// Asks Docker whether the target is one of several published ports of a container, and spreads the sockets over them.
/// Takes two seconds at most.
pub fn find_endpoints(config: &mut Config) {
    published::find(config);
}

/// Returns warnings to print before the run: faults that come too late, percentiles with too few samples.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let warnings = config.warnings.iter().cloned().chain(outline::late_faults(config));
    warnings.chain(outline::too_few_samples(config)).collect()
}

/// Prints warnings to stderr.
pub fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| messages::print_stderr(&format!("warning: {warning}")));
}

/// Returns the plan as one line, which is printed before a run.
#[must_use]
pub fn outline(config: &Config) -> String {
    outline::outline(config, preflight::descriptors(config))
}

fn run_against(
    config: &Config,
    injector: Option<&Arc<dyn Injector>>,
    members: Source,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    let tls = tls::client_config(config.plan.target.ca_file.as_deref())
        .map_err(|error| refused(&format!("{error:#}")))?;
    let connector = connect(config, &tls, stop)?;
    let host = HostBefore { wake_up: cpu::wake_up_cost(), clock_steps: timestamps::steps() };
    if !stop.begin() {
        return Err(RunError::Interrupted);
    }
    let log = Arc::new(fault_log(config, injector)?);
    let settings = output_settings(config, stop, started_at);
    let results = Results::open(&settings, Arc::clone(&log)).map_err(|error| refused(&error.to_string()))?;
    let generator_plan = Arc::new(config.plan.clone());
    let watch_config = WatchConfig {
        target: &config.plan.target,
        tls: &tls,
        resources: results.path("_resources.csv"),
        health: results.path("_health.csv"),
        readings: results.readings(),
    };
    let prepared = PreparedWatch::prepare(&watch_config, members).context("cannot watch the stack")?;
    if !config.embedded {
        warn(&prepared.unmeasured_warnings(&config.criteria.thresholds));
    }
    let counters: Vec<Arc<LiveCounters>> = (0..config.plan.load.workers).map(|_| Arc::default()).collect();
    let began = Instant::now();
    let epoch = began + LEAD;
    // The live view comes first: a terminal that cannot show it refuses the run before anything is started.
    let shown = show(config, stop, &results, epoch, &log, counters.clone())?;
    let faults = FaultRunner::start(&config.plan.faults.planned, injector, &log, epoch)
        .context("cannot start a thread for a fault")?;
    let shared = Shared { log: &log, first_send: faults.first_send(), counters: &counters };
    let watch = prepared.start(epoch).context("cannot watch the stack")?;
    let reports = drive(&generator_plan, &connector, &tls, stop, &results, epoch, &shared)?;
    drop(shown);
    let elapsed = began.elapsed();
    let observations = watch.end();
    faults.end();
    let info = RunInfo {
        faults: log.records(),
        observations,
        endpoints: connector.endpoints().iter().map(Endpoint::history).collect(),
        ..info(config, stop, &results, &reports, elapsed, &host)
    };
    Ok(results.finish(&info).context("cannot complete the result files")?)
}

/// Returns where and how the results are written.
fn output_settings(config: &Config, stop: &Stop, started_at: OffsetDateTime) -> OutputSettings {
    OutputSettings {
        dir: config.output.dir.clone(),
        name: config.output.name.clone(),
        started_at,
        criteria: output::Criteria {
            steady: config.plan.schedule.steady_window(),
            ..config.criteria.resolve(stop)
        },
        schedule: Some(Arc::clone(&config.plan.schedule)),
        shared_status: config.output.tui.then(SharedStatus::default),
        events: config.output.events.clone().map(|destination| EventSettings {
            destination,
            config: config.to_json(),
            seed: config.plan.load.seed,
        }),
    }
}

/// Creates the log of the planned faults, with the names that the stack's servers state.
fn fault_log(config: &Config, injector: Option<&Arc<dyn Injector>>) -> anyhow::Result<FaultLog> {
    let planned = config.plan.faults.planned.iter().map(|fault| (fault.spec.as_str(), fault.at));
    let log = FaultLog::new(planned);
    let names = injector.filter(|_| log.affects_servers()).map(|injector| injector.stated_names());
    let names = names.transpose().context("the stack does not name its servers")?.unwrap_or_default();
    Ok(log.with_stated_names(names))
}

/// Checks that the target answers. Returns early if the run is asked to stop.
fn connect(config: &Config, tls: &rustls::ClientConfig, stop: &Stop) -> Result<Arc<Connector>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build a runtime for the preflight")?;
    let connector = runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.starting.cancelled() => Err(RunError::Interrupted),
            connector = preflight::network(config, tls) => Ok(connector?),
        }
    });
    // A name lookup that has not returned would delay the end of the program.
    runtime.shutdown_background();
    connector
}

fn refused(error: &str) -> RunError {
    RunError::Refused(ConfigErrors(vec![error.to_owned()]))
}

/// Properties of this host, measured before the load starts.
struct HostBefore {
    /// Time that a wake-up of a thread takes.
    wake_up: Option<Duration>,
    /// Number of steps of the wall clock so far.
    clock_steps: u64,
}

/// Values that workers share with the fault runner and the live view.
struct Shared<'a> {
    log: &'a Arc<FaultLog>,
    first_send: &'a Arc<FirstSend>,
    /// One per worker.
    counters: &'a [Arc<LiveCounters>],
}

/// Starts the workers and waits for all of them.
fn drive(
    plan: &Arc<Plan>,
    connector: &Arc<Connector>,
    tls: &rustls::ClientConfig,
    stop: &Stop,
    results: &Results,
    epoch: Instant,
    shared: &Shared<'_>,
) -> anyhow::Result<Vec<WorkerReport>> {
    let burst = plan.load.burst.then(|| Arc::new(Burst::new(plan.load.clients)));
    let schedule = &plan.schedule;
    let most = usize::try_from(schedule.most_concurrent()).unwrap_or(Semaphore::MAX_PERMITS);
    let places = (schedule.model() == Model::OpenSessions).then(|| Arc::new(Semaphore::new(most)));
    let context = Arc::new(RunContext {
        plan: Arc::clone(plan),
        connector: Arc::clone(connector),
        tls: tls.clone(),
        epoch,
        stop: stop.clone(),
        burst,
        sessions: results.sessions().clone(),
        queries: results.queries().clone(),
        boot_id: host::boot_id(),
        faults: Arc::clone(shared.log),
        first_send: Arc::clone(shared.first_send),
        places,
    });
    let mut threads = Vec::new();
    for (number, live) in shared.counters.iter().enumerate() {
        let (context, recorder, live) = (Arc::clone(&context), results.recorder(), Arc::clone(live));
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || worker::run(context, number, recorder, live))
            .context("cannot start a worker thread")?;
        threads.push(thread);
    }
    threads
        .into_iter()
        .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
        .collect()
}

/// The display of a running test: progress line, live view or nothing. Dropping it ends the display.
enum Shown {
    Line { _progress: Progress },
    Screen { _screen: Screen },
    Nothing,
}

fn show(
    config: &Config,
    stop: &Stop,
    results: &Results,
    epoch: Instant,
    faults: &Arc<FaultLog>,
    counters: Vec<Arc<LiveCounters>>,
) -> Result<Shown, RunError> {
    let estimate = Estimate::of(&config.plan);
    let sessions = results.sessions().clone();
    if let Some(shared_status) = results.shared_status() {
        let sources = Sources {
            target: if config.embedded { "embedded".to_owned() } else { config.plan.target.api.to_string() },
            epoch,
            schedule: Arc::clone(&config.plan.schedule),
            estimate,
            counters,
            sessions,
            faults: Arc::clone(faults),
            shared_status,
            events: results.events(),
            stop: stop.clone(),
        };
        let screen = Screen::open(sources).map_err(|error| {
            refused(&format!("cannot show the run on the terminal ({error}): leave --tui out"))
        })?;
        return Ok(Shown::Screen { _screen: screen });
    }
    if config.output.quiet {
        return Ok(Shown::Nothing);
    }
    Ok(Shown::Line { _progress: Progress::show(progress::ProgressSources { counters, sessions, estimate }) })
}

fn info(
    config: &Config,
    stop: &Stop,
    results: &Results,
    reports: &[WorkerReport],
    elapsed: Duration,
    host: &HostBefore,
) -> RunInfo {
    let waited: Option<host::Waited> = reports.iter().map(|report| report.cpu_wait).sum();
    let wall: Duration = reports.iter().map(|report| report.wall).sum();
    let share = |time: Duration| time.as_secs_f64() / wall.as_secs_f64().max(f64::MIN_POSITIVE);
    let clocks = || reports.iter().filter_map(|report| report.shared_clock);
    RunInfo {
        config: config.to_json(),
        seed: config.plan.load.seed,
        api_url: config.plan.target.api.to_string(),
        ws_url: config.plan.target.ws.to_string(),
        embedded: config.embedded,
        clients: config.plan.load.clients,
        queries_per_client: u64::from(config.plan.load.queries.unwrap_or(0)),
        ramp_up: config.plan.load.ramp_up,
        burst: config.plan.load.burst,
        elapsed,
        interrupted: stop.starting.is_cancelled() && results.aborted().is_none(),
        aborted: results.aborted(),
        events: None,
        schedule: Some(Arc::clone(&config.plan.schedule)),
        arrivals_on_time: reports.iter().map(|report| report.arrivals.on_time).sum(),
        arrivals_dropped: reports.iter().map(|report| report.arrivals.busy).sum(),
        arrivals_due: reports.iter().map(|report| report.arrivals.due).sum(),
        observations: Observations::default(),
        dropped_iterations: reports.iter().map(|report| report.arrivals.dropped).sum(),
        peak_sessions: results.sessions().peak(),
        peak_queries: results.queries().peak(),
        faults: Vec::new(),
        endpoints: Vec::new(),
        shared_clock: clocks().next().map(|_| clocks().all(|shared| shared)),
        cpu_wait_share: waited.map(|waited| share(waited.time)),
        cpu_starved_share: waited.zip(host.wake_up).map(|(waited, wake_up)| share(waited.beyond(wake_up))),
        wake_up_cost: host.wake_up,
        clock_steps: timestamps::steps().saturating_sub(host.clock_steps),
    }
}

//! Leads a run: opens the results, watches the stack, injects faults, shows the progress, and judges in the end.
//! It generates no load. Generators, in this process or in others, do that.

use crate::{
    amend::{Amender, Broadcast, Inject, service::Service},
    config::{Config, Division},
    connect,
    observer::{Observer, PreparedObserver},
    preflight,
    run_error::{RunError, refused},
    stack_faults,
};
use anyhow::Context;
use load::{
    injection::{FaultRunner, FirstSend, Injector, Unplanned},
    watch::{PreparedWatch, Source, WatchConfig},
};
use measure::{Activity, FaultLog, GeneratorMessage, GeneratorReport, live::LiveCounters};
use plan::{Estimate, LiveSchedule, Shard, Stop, schedule::Schedule};
use report::{
    messages,
    output::{
        Abort, EventSettings, Finished, MeasuredSecond, OutputSettings, Results, RunInfo, RunMetrics,
        SharedStatus,
    },
    progress::{self, Progress},
    screen::{Screen, Sources},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock, mpsc::SyncSender},
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// How long a second of the run waits for generators that are behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a run is led with.
pub(crate) struct LeadSettings<'a> {
    config: &'a Config,
    injector: Option<&'a Arc<dyn Injector>>,
    stop: &'a Stop,
    started_at: OffsetDateTime,
    generators: u32,
    patience: Option<Duration>,
    steering: Option<&'a Steering>,
}

/// What steers a run from inside the program: it receives every second of the run, and what changes the plan.
pub(crate) struct Steering {
    /// Receives the complete seconds.
    pub(crate) seconds: SyncSender<MeasuredSecond>,
    /// Receives what changes the plan, when the run begins.
    pub(crate) amender: SyncSender<Arc<Amender>>,
    /// Receives the counters of what is active, when the run begins.
    pub(crate) active: SyncSender<Activity>,
    /// Why the run was ended. Set before the run is stopped.
    pub(crate) ended: Arc<OnceLock<String>>,
}

/// What accompanies a run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Companions<'a> {
    /// Injects faults.
    pub(crate) injector: Option<&'a Arc<dyn Injector>>,
    /// Steers the run.
    pub(crate) steering: Option<&'a Steering>,
}

impl<'a> LeadSettings<'a> {
    /// Returns the settings of a run with one generator.
    pub(crate) const fn new(
        config: &'a Config,
        injector: Option<&'a Arc<dyn Injector>>,
        stop: &'a Stop,
        started_at: OffsetDateTime,
    ) -> Self {
        Self { config, injector, stop, started_at, generators: 1, patience: Some(PATIENCE), steering: None }
    }

    /// Returns the configuration of the run.
    pub(crate) const fn config(&self) -> &'a Config {
        self.config
    }

    /// Sets what injects faults.
    pub(crate) const fn with_injector(self, injector: Option<&'a Arc<dyn Injector>>) -> Self {
        Self { injector, ..self }
    }

    /// Sets what steers the run.
    pub(crate) const fn with_steering(self, steering: Option<&'a Steering>) -> Self {
        Self { steering, ..self }
    }

    /// Sets the number of generators.
    pub(crate) const fn with_generators(self, generators: u32) -> Self {
        Self { generators, ..self }
    }

    /// Lets every second wait for all generators, as is possible after the run.
    pub(crate) const fn with_endless_patience(self) -> Self {
        Self { patience: None, ..self }
    }
}

/// A run whose results are open and whose start is not known yet.
pub(crate) struct Lead<'a> {
    settings: LeadSettings<'a>,
    results: Results,
    faults: Arc<FaultLog>,
    watch: PreparedWatch,
    observer: PreparedObserver,
    metrics: Option<RunMetrics>,
    first_send: Arc<FirstSend>,
    schedule: LiveSchedule,
}

impl<'a> Lead<'a> {
    /// Opens the results of a run, and finds what is to be watched.
    ///
    /// # Errors
    /// A result file cannot be created, or the stack cannot be watched.
    pub(crate) fn prepare(settings: LeadSettings<'a>, members: Source) -> Result<Self, RunError> {
        let config = settings.config;
        let faults = Arc::new(fault_log(config, settings.injector)?);
        let schedule = LiveSchedule::new(Arc::clone(&config.plan.schedule), Shard::WHOLE);
        let observer = PreparedObserver::prepare(config)?;
        let is_observed = config.output.metrics_address.is_some() || config.output.otlp.is_some();
        let metrics = is_observed.then(RunMetrics::default);
        let output = OutputSettings { metrics: metrics.clone(), ..output_settings(&settings, &schedule) };
        let results =
            Results::open(&output, Arc::clone(&faults)).map_err(|error| refused(&error.to_string()))?;
        let watch_config = WatchConfig {
            target: config.plan.target.clone(),
            tls: connect::tls(config)?,
            resources: results.path("_resources.csv"),
            health: results.path("_health.csv"),
            readings: results.readings().clone(),
        };
        let watch = PreparedWatch::prepare(watch_config, members).context("cannot watch the stack")?;
        if !config.embedded {
            messages::warn(&watch.unmeasured_warnings(&config.criteria.thresholds));
        }
        let first_send = Arc::default();
        Ok(Self { settings, results, faults, watch, observer, metrics, first_send, schedule })
    }

    /// Returns the results.
    pub(crate) const fn results(&self) -> &Results {
        &self.results
    }

    /// Returns the log of the planned faults.
    pub(crate) const fn faults(&self) -> &Arc<FaultLog> {
        &self.faults
    }

    /// Returns where the first send is noted, from which the times of faults count.
    pub(crate) const fn first_send(&self) -> &Arc<FirstSend> {
        &self.first_send
    }

    /// Returns the schedule of the run, which may be amended.
    pub(crate) const fn schedule(&self) -> &LiveSchedule {
        &self.schedule
    }

    /// Returns the number of generators of the run.
    pub(crate) const fn generators(&self) -> u32 {
        self.settings.generators
    }

    /// Returns whether all first queries are sent at one instant.
    pub(crate) const fn is_burst(&self) -> bool {
        self.settings.config.plan.load.burst
    }

    /// Returns the signal that stops the run.
    pub(crate) const fn stop(&self) -> &'a Stop {
        self.settings.stop
    }

    /// Begins the run at `epoch`. `counters`: those of the workers, or of the generators. `broadcast`: tells the generators of a change
    /// of the plan, if they are other processes.
    ///
    /// # Errors
    /// The terminal cannot show the run, or a thread cannot be started.
    pub(crate) fn begin(
        self,
        epoch: Instant,
        counters: Vec<Arc<LiveCounters>>,
        broadcast: Option<Broadcast>,
    ) -> Result<Led<'a>, RunError> {
        // The live view comes first: a terminal that cannot show it refuses the run before anything is started.
        let shown = match self.show(epoch, counters.clone()) {
            Ok(shown) => shown,
            Err(error) => {
                self.discard();
                return Err(error);
            }
        };
        let planned = &self.settings.config.plan.faults.planned;
        let faults =
            FaultRunner::start(planned, self.settings.injector, &self.faults, &self.first_send, epoch)
                .context("cannot start a thread for a fault")?;
        let amender = self.amender(epoch, broadcast, faults.unplanned());
        if let (Some(steering), Some(amender)) = (self.settings.steering, &amender) {
            // Without a receiver, the search has ended.
            let _ = steering.amender.try_send(Arc::clone(amender));
        }
        // The requests of other runs come through the control Redis.
        let is_local = !matches!(self.settings.config.division, Division::Control(_));
        let Self { settings, results, faults: log, watch, observer, metrics, first_send, schedule } = self;
        let observer = metrics.map(|metrics| {
            let base = results.path("");
            let run = base.file_name().unwrap_or_default().to_string_lossy();
            observer.begin(settings.config, &run, &metrics, counters.clone(), epoch)
        });
        let observer = observer.transpose()?.unwrap_or_default();
        let watch = watch
            .start(epoch, counters, Box::new(|text| messages::warn(&[text])))
            .context("cannot watch the stack")?;
        // What steers the run must know its load.
        let takes_requests = is_local && settings.steering.is_none();
        let service = amender.clone().filter(|_| takes_requests).and_then(|amender| {
            let started = Service::start(amender);
            started.map_err(|error| messages::warn(&[format!("this run cannot be changed: {error:#}")])).ok()
        });
        Ok(Led {
            settings,
            results,
            log,
            first_send,
            shown,
            faults,
            watch,
            schedule,
            amender,
            _service: service,
            observer,
            epoch,
        })
    }

    /// Returns what changes the run, if it is not one of several that do not know each other.
    fn amender(
        &self,
        epoch: Instant,
        broadcast: Option<Broadcast>,
        unplanned: Unplanned,
    ) -> Option<Arc<Amender>> {
        let config = self.settings.config;
        if matches!(config.division, Division::Shard(_)) {
            return None;
        }
        let config = config.clone();
        let check = move |schedule: Schedule| {
            let mut config = config.clone();
            config.plan.schedule = Arc::new(schedule);
            preflight::host(&config).map_err(|error| error.to_string())
        };
        let base = self.results.path("");
        Some(Arc::new(Amender {
            id: base.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            schedule: self.schedule.clone(),
            epoch,
            check: Box::new(check),
            stop: self.settings.stop.clone(),
            broadcast,
            inject: self.inject(unplanned),
        }))
    }

    /// Returns what injects a fault that was not planned, into the stack that the configuration names.
    fn inject(&self, unplanned: Unplanned) -> Inject {
        let (log, stack) = (Arc::clone(&self.faults), self.settings.config.plan.faults.stack.clone());
        let (given, is_embedded) = (self.settings.injector.cloned(), self.settings.config.embedded);
        Box::new(move |fault| {
            stack_faults::parse(fault)?;
            let injector = match &given {
                Some(injector) => Arc::clone(injector),
                None if is_embedded => {
                    return Err(
                        "--embedded has no processes into which a fault can be injected: use a native stack"
                            .into(),
                    );
                }
                None => stack_faults::injector(stack.as_deref())?,
            };
            let refused = |error: anyhow::Error| format!("`{fault}` cannot be injected: {error:#}");
            injector.check(fault).map_err(refused)?;
            log.set_stated_names(injector.stated_names().map_err(refused)?);
            unplanned.inject(fault, injector).map_err(refused)
        })
    }

    /// Judges and writes a run whose parts were recorded earlier, and which took `elapsed`. `rows`: files of rows to join.
    ///
    /// # Errors
    /// The results could not be written.
    pub(crate) fn conclude(
        self,
        generators: Generators,
        rows: &[PathBuf],
        elapsed: Duration,
    ) -> Result<Finished, RunError> {
        let Self { settings, results, faults, schedule, .. } = self;
        let info = RunInfo { elapsed, ..info(&settings, &results, generators, &faults, &schedule) };
        write(results, &info, rows)
    }

    /// Removes the files of a run that did not start.
    pub(crate) fn discard(self) {
        self.results.discard();
    }

    fn show(&self, epoch: Instant, counters: Vec<Arc<LiveCounters>>) -> Result<Shown, RunError> {
        let (config, results) = (self.settings.config, &self.results);
        let estimate = Estimate::of(&config.plan);
        if let Some(shared_status) = results.shared_status() {
            let sources = Sources {
                target: if config.embedded {
                    "embedded".to_owned()
                } else {
                    config.plan.target.api.to_string()
                },
                epoch,
                schedule: self.schedule.clone(),
                estimate,
                counters,
                faults: Arc::clone(&self.faults),
                shared_status,
                events: results.events(),
                stop: self.settings.stop.clone(),
            };
            let screen = Screen::open(sources).map_err(|error| {
                refused(&format!("cannot show the run on the terminal ({error}): leave --tui out"))
            })?;
            return Ok(Shown::Screen { _screen: screen });
        }
        if config.output.quiet {
            return Ok(Shown::Nothing);
        }
        Ok(Shown::Line { _progress: Progress::show(progress::ProgressSources { counters, estimate }) })
    }
}

/// The display of a running test: progress line, live view or nothing. Dropping it ends the display.
enum Shown {
    Line { _progress: Progress },
    Screen { _screen: Screen },
    Nothing,
}

/// A run that has begun.
pub(crate) struct Led<'a> {
    settings: LeadSettings<'a>,
    results: Results,
    log: Arc<FaultLog>,
    first_send: Arc<FirstSend>,
    shown: Shown,
    faults: FaultRunner,
    watch: load::watch::Watch,
    schedule: LiveSchedule,
    amender: Option<Arc<Amender>>,
    /// Takes the requests of `streamstress amend`.
    _service: Option<Service>,
    observer: Observer,
    epoch: Instant,
}

/// What is known of the generators of a run.
#[derive(Default)]
pub(crate) struct Generators {
    /// Reports, by the index of the shard.
    reports: BTreeMap<u32, GeneratorReport>,
    /// Generators whose results are missing or incomplete, by the index of the shard, each with the reason.
    lost: BTreeMap<u32, String>,
}

impl Generators {
    /// Returns the only generator of a run.
    pub(crate) fn of_one(report: GeneratorReport) -> Self {
        Self { reports: [(0, report)].into(), lost: BTreeMap::new() }
    }

    /// Notes that results of a generator are missing. The first reason stays.
    pub(crate) fn lose(&mut self, shard: u32, reason: String) {
        self.lost.entry(shard).or_insert(reason);
    }

    /// Returns whether results of a generator are missing.
    pub(crate) fn any_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Handles a message of a generator: merges a part, or notes an amendment or the report.
    pub(crate) fn receive(
        &mut self,
        shard: u32,
        message: GeneratorMessage,
        results: &Results,
        faults: &FaultLog,
        schedule: &LiveSchedule,
    ) {
        match message {
            GeneratorMessage::Header(_) => {}
            GeneratorMessage::Amendment(amendment) => {
                if let Err(error) = schedule.amend(amendment, Duration::ZERO) {
                    self.lose(shard, format!("it made an impossible amendment: {error}"));
                }
            }
            GeneratorMessage::Part(part) => results.add(shard, *part),
            GeneratorMessage::Report(report) => {
                faults.take_over(&report.faults);
                faults.add_effects(&report.faults);
                self.reports.insert(shard, *report);
                results.ended(shard);
            }
        }
    }
}

impl Led<'_> {
    /// Returns the results.
    pub(crate) const fn results(&self) -> &Results {
        &self.results
    }

    /// Returns the log of the planned faults.
    pub(crate) const fn faults(&self) -> &Arc<FaultLog> {
        &self.log
    }

    /// Returns the schedule of the run, which may be amended.
    pub(crate) const fn schedule(&self) -> &LiveSchedule {
        &self.schedule
    }

    /// Returns the time since the start of the run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Returns what changes the plan, or `None` if it cannot be changed.
    pub(crate) const fn amender(&self) -> Option<&Arc<Amender>> {
        self.amender.as_ref()
    }

    /// Notes that the first query was sent this long after the start of the run. Only the first call has an effect.
    pub(crate) fn first_sent(&self, after: Duration) {
        self.first_send.note(self.epoch + after);
    }

    /// Ends the run for this process, and removes its result files: another one has the results.
    pub(crate) fn discard(self) {
        let Self { results, shown, faults, watch, _service, .. } = self;
        drop((shown, _service));
        faults.end();
        drop(watch.end());
        results.discard();
    }

    /// Ends the run after all generators have: judges it and writes the results. `rows`: files of rows to join.
    ///
    /// # Errors
    /// The results could not be written.
    pub(crate) fn finish(self, generators: Generators, rows: &[PathBuf]) -> Result<Finished, RunError> {
        let Self {
            settings, results, log, shown, faults, watch, schedule, epoch, _service, observer, ..
        } = self;
        drop((shown, _service));
        let elapsed = epoch.elapsed();
        let observations = watch.end();
        faults.end();
        log.add_first_served(&observations.first_served);
        let info =
            RunInfo { observations, elapsed, ..info(&settings, &results, generators, &log, &schedule) };
        let written = write(results, &info, rows);
        observer.end();
        written
    }
}

/// Writes the results of a run. `rows`: the files of rows that its generators wrote, if it has several.
fn write(results: Results, info: &RunInfo, rows: &[PathBuf]) -> Result<Finished, RunError> {
    if info.generator_count > 1 {
        results.join_rows(rows);
    }
    Ok(results.finish(info).context("cannot complete the result files")?)
}

/// Returns where and how the results are written.
fn output_settings(settings: &LeadSettings<'_>, schedule: &LiveSchedule) -> OutputSettings {
    let config = settings.config;
    let mut criteria = config.criteria.resolve(settings.stop);
    if let Some(steering) = settings.steering {
        // No threshold stops a run that is steered.
        let (stop, reason) = (settings.stop.clone(), Arc::clone(&steering.ended));
        criteria.abort = Some(Abort { delay: Duration::MAX, stop, reason });
    }
    OutputSettings {
        dir: config.output.dir.clone(),
        name: config.output.name.clone(),
        started_at: settings.started_at,
        criteria,
        seconds: settings.steering.map(|steering| steering.seconds.clone()),
        suffix: match config.division {
            Division::Shard(shard) => format!("_shard{}", shard.number()),
            _ => String::new(),
        },
        generators: settings.generators,
        patience: settings.patience,
        schedule: Some(schedule.clone()),
        shared_status: config.output.tui.then(SharedStatus::default),
        metrics: None,
        events: config.output.events.clone().map(|destination| EventSettings {
            destination,
            config: config.to_json(),
            seed: config.plan.load.seed,
        }),
    }
}

/// Creates the log of the planned faults, with the names that the stack's servers state.
fn fault_log(config: &Config, injector: Option<&Arc<dyn Injector>>) -> anyhow::Result<FaultLog> {
    let log = planned_faults(config);
    if let Some(injector) = injector.filter(|_| log.affects_servers()) {
        log.set_stated_names(injector.stated_names().context("the stack does not name its servers")?);
    }
    Ok(log)
}

/// Creates the log of the planned faults.
pub(crate) fn planned_faults(config: &Config) -> FaultLog {
    FaultLog::new(config.plan.faults.planned.iter().map(|fault| (fault.spec.as_str(), fault.at)))
}

/// Returns what is known about a run besides its records, its duration and the observations of the stack.
fn info(
    settings: &LeadSettings<'_>,
    results: &Results,
    generators: Generators,
    faults: &FaultLog,
    schedule: &LiveSchedule,
) -> RunInfo {
    let schedule = schedule.current();
    let LeadSettings { config, stop, generators: generator_count, .. } = *settings;
    let Generators { reports, mut lost } = generators;
    for shard in (0..generator_count).filter(|shard| !reports.contains_key(shard)) {
        lost.entry(shard).or_insert_with(|| "it sent no report".to_owned());
    }
    for (&shard, report) in &reports {
        let missed = schedule.amendments().iter().find(|made| !report.amendments.contains(&made.number));
        if let Some(missed) = missed {
            let number = missed.number;
            lost.entry(shard).or_insert_with(|| format!("amendment {number} did not reach it in time"));
        }
    }
    let interrupted = stop.starting.is_cancelled() || reports.values().any(|report| report.interrupted);
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
        hops: config.plan.target.hops,
        interrupted: interrupted && results.aborted().is_none(),
        aborted: results.aborted(),
        schedule: Some(schedule),
        faults: faults.records(),
        generator: GeneratorReport::merged(reports.values()),
        generators: reports,
        lost_generators: lost,
        generator_count,
        ..RunInfo::default()
    }
}

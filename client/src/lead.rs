//! Leads a run: opens the results, watches the stack, injects faults, shows the progress, and judges in the end.
//! It generates no load. Generators, in this process or in others, do that.

use crate::{
    config::{Config, Division},
    engine::{self, RunError, refused},
};
use anyhow::Context;
use load::{
    injection::{FaultRunner, FirstSend, Injector},
    watch::{PreparedWatch, Source, WatchConfig},
};
use measure::{FaultLog, GeneratorReport, live::LiveCounters};
use plan::{Estimate, Stop};
use report::{
    output::{self, EventSettings, Finished, OutputSettings, Results, RunInfo, SharedStatus},
    progress::{self, Progress},
    screen::{Screen, Sources},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// A run whose results are open and whose start is not known yet.
pub(crate) struct Lead<'a> {
    config: &'a Config,
    injector: Option<&'a Arc<dyn Injector>>,
    stop: &'a Stop,
    results: Results,
    faults: Arc<FaultLog>,
    watch: PreparedWatch,
    first_send: Arc<FirstSend>,
}

impl<'a> Lead<'a> {
    /// Opens the results of a run with this number of generators, and finds what is to be watched.
    ///
    /// # Errors
    /// A result file cannot be created, or the stack cannot be watched.
    pub(crate) fn prepare(
        config: &'a Config,
        injector: Option<&'a Arc<dyn Injector>>,
        members: Source,
        tls: &rustls::ClientConfig,
        stop: &'a Stop,
        (started_at, generators): (OffsetDateTime, u32),
    ) -> Result<Self, RunError> {
        let faults = Arc::new(fault_log(config, injector)?);
        let settings = OutputSettings { generators, ..output_settings(config, stop, started_at) };
        let results =
            Results::open(&settings, Arc::clone(&faults)).map_err(|error| refused(&error.to_string()))?;
        let watch_config = WatchConfig {
            target: config.plan.target.clone(),
            tls: tls.clone(),
            resources: results.path("_resources.csv"),
            health: results.path("_health.csv"),
            readings: results.readings().clone(),
        };
        let watch = PreparedWatch::prepare(watch_config, members).context("cannot watch the stack")?;
        if !config.embedded {
            engine::warn(&watch.unmeasured_warnings(&config.criteria.thresholds));
        }
        Ok(Self { config, injector, stop, results, faults, watch, first_send: Arc::default() })
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

    /// Begins the run at `epoch`. `counters`: those of the workers, or of the generators.
    ///
    /// # Errors
    /// The terminal cannot show the run, or a thread cannot be started.
    pub(crate) fn begin(self, epoch: Instant, counters: Vec<Arc<LiveCounters>>) -> Result<Led<'a>, RunError> {
        // The live view comes first: a terminal that cannot show it refuses the run before anything is started.
        let shown = self.show(epoch, counters)?;
        let planned = &self.config.plan.faults.planned;
        let faults = FaultRunner::start(planned, self.injector, &self.faults, &self.first_send, epoch)
            .context("cannot start a thread for a fault")?;
        let watch = self.watch.start(epoch).context("cannot watch the stack")?;
        let (config, stop, results, log) = (self.config, self.stop, self.results, self.faults);
        Ok(Led { config, stop, results, log, shown, faults, watch, began: Instant::now() })
    }

    /// Judges and writes a run whose parts were recorded earlier, and which took `elapsed`. `rows`: files of rows to join.
    ///
    /// # Errors
    /// The results could not be written.
    pub(crate) fn conclude(
        self,
        generators: Generators,
        rows: &[impl AsRef<Path>],
        elapsed: Duration,
    ) -> Result<Finished, RunError> {
        let info = RunInfo {
            faults: self.faults.records(),
            ..info(self.config, self.stop, &self.results, generators, elapsed)
        };
        self.results.join_rows(rows);
        Ok(self.results.finish(&info).context("cannot complete the result files")?)
    }

    fn show(&self, epoch: Instant, counters: Vec<Arc<LiveCounters>>) -> Result<Shown, RunError> {
        let (config, results) = (self.config, &self.results);
        let estimate = Estimate::of(&config.plan);
        if let Some(shared_status) = results.shared_status() {
            let sources = Sources {
                target: if config.embedded {
                    "embedded".to_owned()
                } else {
                    config.plan.target.api.to_string()
                },
                epoch,
                schedule: Arc::clone(&config.plan.schedule),
                estimate,
                counters,
                faults: Arc::clone(&self.faults),
                shared_status,
                events: results.events(),
                stop: self.stop.clone(),
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
    config: &'a Config,
    stop: &'a Stop,
    results: Results,
    log: Arc<FaultLog>,
    shown: Shown,
    faults: FaultRunner,
    watch: load::watch::Watch,
    began: Instant,
}

/// What is known of the generators at the end of a run.
#[derive(Default)]
pub(crate) struct Generators {
    /// Reports, by the index of the shard.
    pub(crate) reports: BTreeMap<u32, GeneratorReport>,
    /// Generators without a report, by the index of the shard, each with the reason.
    pub(crate) lost: BTreeMap<u32, String>,
    /// Number of generators of the run.
    pub(crate) count: u32,
}

impl Led<'_> {
    /// Returns the results.
    pub(crate) const fn results(&self) -> &Results {
        &self.results
    }

    /// Ends the run after all generators have: judges it and writes the results. `rows`: files of rows to join.
    ///
    /// # Errors
    /// The results could not be written.
    pub(crate) fn finish(
        self,
        generators: Generators,
        rows: &[impl AsRef<Path>],
    ) -> Result<Finished, RunError> {
        let Self { config, stop, results, log, shown, faults, watch, began } = self;
        drop(shown);
        let elapsed = began.elapsed();
        let observations = watch.end();
        faults.end();
        let info = RunInfo {
            faults: log.records(),
            observations,
            ..info(config, stop, &results, generators, elapsed)
        };
        results.join_rows(rows);
        Ok(results.finish(&info).context("cannot complete the result files")?)
    }
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
        suffix: match config.division {
            Division::Shard(shard) => format!("_shard{}", shard.number()),
            _ => String::new(),
        },
        generators: 1,
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

/// Returns what is known about a run besides its records.
fn info(
    config: &Config,
    stop: &Stop,
    results: &Results,
    generators: Generators,
    elapsed: Duration,
) -> RunInfo {
    let Generators { reports, lost, count } = generators;
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
        elapsed,
        interrupted: interrupted && results.aborted().is_none(),
        aborted: results.aborted(),
        schedule: Some(Arc::clone(&config.plan.schedule)),
        generator: GeneratorReport::merged(reports.values()),
        generators: reports,
        lost_generators: lost,
        generator_count: count,
        ..RunInfo::default()
    }
}

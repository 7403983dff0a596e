//! Executes a run: checks the target, starts the workers, waits for them, and writes the results.
//! Sessions are driven by the crate `load`; `measure` and `report` judge and write what they recorded.

use crate::{
    config::{Config, ConfigErrors, Division},
    generator::Generator,
    generators,
    lead::{Generators, Lead, LeadSettings, Steering},
    outline, preflight, published, signals, stack_faults, stack_members, stack_urls,
};
use anyhow::Context;
use load::{connector::Connector, injection::Injector, tls, watch::Source};
use plan::{Shard, Stop};
use report::{messages, output::Finished};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Time between the creation of the workers and the start of the plan, so that all workers start together.
const LEAD: Duration = Duration::from_millis(10);
/// What is added to [`LEAD`] per worker.
const LEAD_PER_WORKER: Duration = Duration::from_millis(2);

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
    let injector = injector(&config)?;
    run_with(config, injector.as_ref(), stop, started_at)
}

/// Returns what injects the planned faults, or `None` if there are none.
///
/// # Errors
/// There is no stack into which they can be injected.
pub(crate) fn injector(config: &Config) -> Result<Option<Arc<dyn Injector>>, RunError> {
    let faults = &config.plan.faults;
    let injector = (!faults.planned.is_empty()).then(|| stack_faults::injector(faults.stack.as_deref()));
    injector.transpose().map_err(|error| refused(&error))
}

/// Checks that this host meets the needs of the part of the run that one process plays.
///
/// # Errors
/// Lists every limit that is too low and every host that is not allowed.
pub(crate) fn check_host(config: &Config) -> Result<(), RunError> {
    Ok(preflight::local(&of_one_process(config))?)
}

/// Executes a run like [`run`], and injects faults with `injector`.
///
/// # Errors
/// The run was refused or interrupted before it began, or the program failed.
pub fn run_with(
    config: Config,
    injector: Option<&Arc<dyn Injector>>,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    run_steered(config, Companions { injector, steering: None }, stop, started_at)
}

/// What accompanies a run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Companions<'a> {
    /// Injects faults.
    pub(crate) injector: Option<&'a Arc<dyn Injector>>,
    /// Steers the run.
    pub(crate) steering: Option<&'a Steering>,
}

/// Executes a run like [`run_with`], in company.
///
/// # Errors
/// The run was refused or interrupted before it began, or the program failed.
pub(crate) fn run_steered(
    mut config: Config,
    companions: Companions<'_>,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    preflight::terminal(&config)?;
    check_host(&config)?;
    if let Some(injector) = companions.injector {
        preflight::faults(&config, &**injector)?;
    }
    let stack = config.embedded.then(|| crate::embedded::start(&mut config)).transpose()?;
    let members = match &stack {
        Some(stack) => Source::Here(stack.members()),
        None => stack_members::find(&config.plan),
    };
    let finished = match config.division.clone() {
        Division::Whole | Division::Shard(_) => run_here(&config, companions, members, stop, started_at),
        Division::Processes(processes) => {
            generators::processes::run(&config, processes, companions, members, stop, started_at)
        }
        Division::Control(_) => Err(refused("generators with --control are started by `streamstress run`")),
    };
    if let Some(stack) = stack {
        stack.stop().context("the embedded stack did not stop cleanly")?;
    }
    finished
}

/// Returns the configuration whose needs this host must meet: that of the largest part of the run that one process plays. With an
/// embedded stack and several generators, this process has one end of every socket.
fn of_one_process(config: &Config) -> Config {
    match &config.division {
        Division::Whole => config.clone(),
        Division::Shard(shard) => config.part(*shard),
        Division::Processes(_) if config.embedded => {
            let mut one_end = config.clone();
            one_end.embedded = false;
            one_end
        }
        Division::Processes(_) | Division::Control(_) => Shard::new(0, config.division.generators())
            .map_or_else(|| config.clone(), |first| config.part(first)),
    }
}

/// Returns the plan as the table that `--dry-run` prints. Checks everything that needs no network first.
///
/// # Errors
/// The run does not fit this machine, or a host is not allowed.
pub fn plan(config: &Config) -> Result<String, RunError> {
    check_host(config)?;
    Ok(outline::plan(config, preflight::descriptors(config)))
}

/// Asks the native stack for all its HAProxies, or Docker whether the target is one of several published ports of a container. Spreads
/// the sockets over what it finds. Takes seven seconds at most.
pub fn find_endpoints(config: &mut Config) {
    stack_urls::find(config);
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

/// Executes a run with one generator, in this process: of the whole plan, or of the shard that the configuration names.
fn run_here(
    config: &Config,
    Companions { injector, steering }: Companions<'_>,
    members: Source,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    let part = match &config.division {
        Division::Shard(shard) => config.part(*shard),
        _ => config.clone(),
    };
    let mut generator = Generator::prepare(&part, stop)?;
    if !stop.begin() {
        return Err(RunError::Interrupted);
    }
    let settings = LeadSettings::new(&part, injector, stop, started_at).with_steering(steering);
    let lead = Lead::prepare(settings, members)?;
    generator.share(lead.schedule(), lead.faults(), lead.first_send());
    let file = match &config.division {
        Division::Shard(shard) => Some(generators::part_file(config, *shard, lead.results(), started_at)?),
        _ => None,
    };
    let rows = lead.results().generator(file.clone()).map_err(|error| refused(&error.to_string()))?;
    let workers = u32::try_from(generator.counters().len()).unwrap_or(u32::MAX);
    let epoch = Instant::now() + LEAD + LEAD_PER_WORKER.saturating_mul(workers);
    let led = lead.begin(epoch, generator.counters().clone(), None)?;
    let mut report = generator.play(rows, epoch)?;
    if let Some(file) = &file {
        report.unwritten.extend(file.lock().finish(&report));
    }
    led.finish(Generators::of_one(report), &[])
}

/// Returns the TLS configuration of a run.
pub(crate) fn tls(config: &Config) -> Result<rustls::ClientConfig, RunError> {
    tls::client_config(config.plan.target.ca_file.as_deref()).map_err(|error| refused(&format!("{error:#}")))
}

/// Checks that the target answers. Returns early if the run is asked to stop.
pub(crate) fn connect(
    config: &Config,
    tls: &rustls::ClientConfig,
    stop: &Stop,
) -> Result<Arc<Connector>, RunError> {
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

pub(crate) fn refused(error: &str) -> RunError {
    RunError::Refused(ConfigErrors(vec![error.to_owned()]))
}

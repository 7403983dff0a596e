//! Executes a run: checks the target, starts the workers, waits for them, and writes the results.
//! Sessions are driven by the crate `load`; `measure` and `report` judge and write what they recorded.

use crate::{
    config::{Config, Division},
    generator::Generator,
    generators,
    lead::{Companions, Generators, Lead, LeadSettings},
    outline, preflight,
    run_error::{RunError, refused},
    stack_members,
};
use anyhow::Context;
use load::{injection::Injector, watch::Source};
use plan::Stop;
use report::output::Finished;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Time between the creation of the workers and the start of the plan, so that all workers start together.
const LEAD: Duration = Duration::from_millis(10);
/// What is added to [`LEAD`] per worker.
const LEAD_PER_WORKER: Duration = Duration::from_millis(2);

/// Executes a run until its plan ends or `stop` is cancelled. The names of the result files contain `started_at`.
/// Faults are injected into the stack that the configuration names.
///
/// # Errors
/// The run was refused or interrupted before it began, or the program failed.
pub fn run(config: Config, stop: &Stop, started_at: OffsetDateTime) -> Result<Finished, RunError> {
    let injector = preflight::injector(&config)?;
    run_with(config, injector.as_ref(), stop, started_at)
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
    preflight::host(&config)?;
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

/// Returns the plan as the table that `--dry-run` prints. Checks everything that needs no network first.
///
/// # Errors
/// The run does not fit this machine, or a host is not allowed.
pub fn plan(config: &Config) -> Result<String, RunError> {
    preflight::host(config)?;
    Ok(outline::plan(config, preflight::descriptors(config)))
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
    if let Some(steering) = steering {
        // Without a receiver, nobody steers.
        let _ = steering.active.try_send(rows.active().clone());
    }
    let workers = u32::try_from(generator.counters().len()).unwrap_or(u32::MAX);
    let epoch = Instant::now() + LEAD + LEAD_PER_WORKER.saturating_mul(workers);
    let led = lead.begin(epoch, generator.counters().clone(), None)?;
    let mut report = generator.play(rows, epoch)?;
    if let Some(file) = &file {
        report.unwritten.extend(file.lock().finish(&report));
    }
    led.finish(Generators::of_one(report), &[])
}

//! The subcommand: checks the options, plays the run, and writes what was found.

use super::{
    options::{Options, other_run},
    steer::Steer,
};
use crate::{
    cli::CapacityArgs,
    config::Config,
    engine::{self, Companions, RunError},
    lead::Steering,
};
use measure::capacity::{Ceiling, Limit, Pilot, Step};
use plan::Stop;
use report::{
    capacity::{CapacityResult, Known, Search, Unit},
    capacity_files, messages,
};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, mpsc::sync_channel},
    thread,
    time::Duration,
};
use time::OffsetDateTime;

/// Seconds that may wait for a decision. The decision takes far less than one.
const WAITING: usize = 600;

/// What a search left.
pub(crate) struct Found {
    /// The result.
    pub(crate) result: CapacityResult,
    /// Files that were written: those of the search first.
    pub(crate) files: Vec<PathBuf>,
    /// Files that could not be written, each with the reason.
    pub(crate) unwritten: Vec<String>,
    /// By how much the ceiling fell from the baseline, if it did.
    pub(crate) fell: Option<String>,
}

/// Searches the ceiling.
///
/// # Errors
/// The options are wrong, or the run was refused or interrupted before it began, or failed.
pub(crate) fn capacity(
    args: &CapacityArgs,
    cores: usize,
    drawn_seed: u64,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Found, RunError> {
    let options = Options::new(args)?;
    let earlier = options.earlier.as_ref().map_or_else(Vec::new, |earlier| earlier.steps.clone());
    let pilot = Pilot::new(options.limits, options.slos.clone(), options.step, earlier);
    let run = options.run(&args.run, pilot.load());
    let mut config = Config::new(run, cores, drawn_seed)?;
    engine::find_endpoints(&mut config);
    let target = if config.embedded { "embedded".to_owned() } else { config.plan.target.api.to_string() };
    let toml = config.options();
    for (flag, other) in [("--resume", &options.earlier), ("--baseline", &options.baseline)] {
        if let Some(error) = other.as_ref().and_then(|other| other_run(flag, other, &target, &toml)) {
            return Err(engine::refused(&error));
        }
    }
    if !pilot.steps().is_empty() && pilot.search().next().is_err() {
        return Err(engine::refused("--resume: that search is complete: there is nothing to continue"));
    }
    let unit = options.by.of_load();
    let quiet = args.run.quiet;
    let report = |number: usize, step: &Step, ceiling: &Ceiling| {
        if !quiet {
            messages::print_stderr(&progress(number, step, ceiling, unit));
        }
    };
    if !quiet {
        let slos: Vec<_> = options.slos.iter().map(|slo| slo.text.as_str()).collect();
        let limit = options.time_limit.as_secs();
        messages::print_stderr(&format!(
            "searching the ceiling of {target} in {unit}: {} in every step, at most {limit} s",
            slos.join(" ")
        ));
    }
    let ended = Arc::new(OnceLock::new());
    let (seconds, measured) = sync_channel(WAITING);
    let (amender, amenders) = sync_channel(1);
    let steering = Steering { seconds, amender, ended: Arc::clone(&ended) };
    let steer = Steer {
        pilot,
        is_rate: options.by == Unit::SessionRate,
        ramp_up: config.plan.load.ramp_up,
        stop,
        ended: &ended,
        step: Duration::from_secs(options.step.warm_up_s + options.step.window_s),
        report: &report,
    };
    let (finished, (pilot, end)) = thread::scope(|scope| {
        let steered = scope.spawn(move || steer.steer(&amenders, &measured));
        let finished = engine::run_steered(
            config,
            Companions { injector: None, steering: Some(&steering) },
            stop,
            started_at,
        );
        // Without its senders, the thread ends.
        drop(steering);
        match (finished, steered.join()) {
            (Ok(finished), Ok(steered)) => Ok((finished, steered)),
            (Err(error), _) => Err(error),
            (Ok(_), Err(_)) => {
                Err(RunError::Broken(anyhow::anyhow!("the thread that steers the run panicked")))
            }
        }
    })?;
    let ceiling = pilot.search().ceiling();
    let limit = Limit::of(pilot.steps(), &ceiling, Some(end), cores as f64);
    let search = Search {
        run_id: finished.base.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        target,
        by: options.by,
        objectives: options.slos.iter().map(|slo| slo.text.clone()).collect(),
        step: options.step,
        limits: options.limits,
        options: toml,
    };
    let result = CapacityResult::new(search, Known { ceiling, end, limit, steps: pilot.steps() });
    let mut unwritten = finished.unwritten.clone();
    let mut files = capacity_files::write(&result, &finished.base).unwrap_or_else(|error| {
        unwritten.push(error.to_string());
        Vec::new()
    });
    files.extend(finished.files.iter().cloned());
    let fell = options.baseline.as_ref().and_then(|baseline| result.fell_from(baseline));
    Ok(Found { result, files, unwritten, fell })
}

/// Returns the line about a step. It ends with the interval of the ceiling so far.
fn progress(number: usize, step: &Step, ceiling: &Ceiling, unit: &str) -> String {
    let so_far =
        ceiling.high.map(|high| format!("; ceiling {:.0} to {high:.0}", ceiling.low)).unwrap_or_default();
    let reason = step.outcome.reason();
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let [p50, p99] =
        step.e2el_ms.map(|value| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}")));
    format!(
        "step {number:>2}: {:>8} {unit} {}{reason}; e2el_ms p50 {p50}, p99 {p99}; {:.0} tokens/s{so_far}",
        measure::threshold::figure_text(step.load),
        step.outcome.name(),
        step.tokens_per_s
    )
}

impl Found {
    /// Returns the exit code: 99 if the ceiling fell, otherwise that of the result.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.result.exit_code() {
            0 if self.fell.is_some() => 99,
            0 if !self.unwritten.is_empty() => 1,
            code => code,
        }
    }
}

//! The subcommand: checks the options, plays the run, and writes what was found.

use super::{
    options::{Options, other_run},
    steer::Steer,
};
use crate::{
    cli::CapacityArgs,
    config::Config,
    endpoints, engine,
    lead::{Companions, Steering},
    run_error::{RunError, refused},
};
use measure::capacity::{Ceiling, End, Limit, Pilot, Step, StepSettings};
use parking_lot::Mutex;
use plan::Stop;
use report::{
    capacity::{CapacityResult, Known, Search, Unit},
    capacity_files, messages,
    output::{Finished, run_id},
};
use std::{
    fs,
    path::{Path, PathBuf},
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
    /// Why the search ended, if an error in this program ended it.
    pub(crate) failed: Option<String>,
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
    endpoints::find(&mut config);
    let target = if config.embedded { "embedded".to_owned() } else { config.plan.target.api.to_string() };
    let toml = config.options();
    let base = config.output.dir.join(run_id(&config.output.name, started_at));
    check_earlier(&options, &pilot, &target, &toml)?;
    let begun = Begun { options, target, toml, cores };
    if is_accepted(&begun.options, &pilot) {
        let _ = fs::create_dir_all(&config.output.dir);
        return Ok(begun.found(&pilot, End::Found, &base, (Vec::new(), Vec::new()), None));
    }
    let options = &begun.options;
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
            "searching the ceiling of {} in {unit}: {} in every step, at most {limit} s",
            begun.target,
            slos.join(" ")
        ));
    }
    let known = pilot.steps().len();
    let steered = Steered { config, pilot, is_rate: options.by == Unit::SessionRate, step: options.step };
    let Played { finished, pilot, end, failed } = play(steered, &report, stop, started_at);
    // A run that failed at its end still showed what its steps showed.
    let (base, unwritten, run_files) = match finished {
        Ok(finished) => (finished.base, finished.unwritten, finished.files),
        Err(error) if pilot.steps().len() == known => return Err(error),
        Err(error) => (base, vec![format!("the run has no result: {error}")], Vec::new()),
    };
    Ok(begun.found(&pilot, end, &base, (unwritten, run_files), failed))
}

/// What a search is, before its run.
struct Begun {
    options: Options,
    target: String,
    /// The options of the run.
    toml: String,
    cores: usize,
}

impl Begun {
    /// Writes the result. `run`: what could not be written of the run, each with the reason, and its files.
    fn found(
        self,
        pilot: &Pilot,
        end: End,
        base: &Path,
        run: (Vec<String>, Vec<PathBuf>),
        failed: Option<String>,
    ) -> Found {
        let Self { options, target, toml, cores } = self;
        let (mut unwritten, run_files) = run;
        let ceiling = pilot.search().ceiling();
        let limit = Limit::of(pilot.steps(), &ceiling, Some(end), cores as f64);
        let search = Search {
            run_id: base.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            target,
            by: options.by,
            objectives: options.slos.iter().map(|slo| slo.text.clone()).collect(),
            step: options.step,
            limits: options.limits,
            options: toml,
        };
        let result = CapacityResult::new(search, Known { ceiling, end, limit, steps: pilot.steps() });
        let mut files = capacity_files::write(&result, base).unwrap_or_else(|error| {
            unwritten.push(error.to_string());
            Vec::new()
        });
        files.extend(run_files);
        let fell = options.baseline.as_ref().and_then(|baseline| result.fell_from(baseline));
        Found { result, files, unwritten, fell, failed }
    }
}

/// Returns whether the steps of an earlier search, which ended without an answer, are enough for the precision that is asked for now.
fn is_accepted(options: &Options, pilot: &Pilot) -> bool {
    let had_no_answer = options
        .earlier
        .as_ref()
        .is_some_and(|earlier| matches!(earlier.end, End::OutOfTime | End::OutOfSteps | End::Interrupted));
    had_no_answer && pilot.search().next() == Err(End::Found)
}

/// Checks that the options are those of the earlier searches, and that a search to be continued has not ended.
///
/// # Errors
/// Names the option that differs, and the search that has ended.
fn check_earlier(options: &Options, pilot: &Pilot, target: &str, toml: &str) -> Result<(), RunError> {
    for (flag, other) in [("--resume", &options.earlier), ("--baseline", &options.baseline)] {
        if let Some(error) = other.as_ref().and_then(|other| other_run(flag, other, target, toml)) {
            return Err(refused(&error));
        }
    }
    let is_complete = !pilot.steps().is_empty() && pilot.search().next().is_err();
    if is_complete && !is_accepted(options, pilot) {
        return Err(refused("--resume: that search is complete: there is nothing to continue"));
    }
    Ok(())
}

/// A run, and what steers it.
struct Steered {
    config: Config,
    pilot: Pilot,
    /// Whether the load is a rate of arrivals.
    is_rate: bool,
    step: StepSettings,
}

/// What was played.
struct Played {
    /// The result of the run.
    finished: Result<Finished, RunError>,
    /// What the search found.
    pilot: Pilot,
    /// How it ended.
    end: End,
    /// Why it ended, if the thread that steered the run panicked.
    failed: Option<String>,
}

/// Plays the run while a thread steers it. If that thread panics, the run ends and the steps until then are kept.
fn play(
    Steered { config, pilot, is_rate, step }: Steered,
    report: &(dyn Fn(usize, &Step, &Ceiling) + Sync),
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Played {
    let ended = Arc::new(OnceLock::new());
    let (seconds, measured) = sync_channel(WAITING);
    let (amender, amenders) = sync_channel(1);
    let (active, activity) = sync_channel(1);
    let steering = Steering { seconds, amender, active, ended: Arc::clone(&ended) };
    let (limits, slos) = (*pilot.search().limits(), pilot.slos().to_vec());
    let kept = Mutex::new(pilot.steps().to_vec());
    let report = |number: usize, step: &Step, ceiling: &Ceiling| {
        kept.lock().push(step.clone());
        report(number, step, ceiling);
    };
    let steer = Steer {
        pilot,
        is_rate,
        ramp_up: config.plan.load.ramp_up,
        stop,
        ended: &ended,
        step: Duration::from_secs(step.warm_up_s + step.window_s),
        report: &report,
    };
    let (finished, steered) = thread::scope(|scope| {
        let steered = scope.spawn(move || steer.steer(&amenders, &activity, &measured));
        let finished = engine::run_steered(
            config,
            Companions { injector: None, steering: Some(&steering) },
            stop,
            started_at,
        );
        // Without its senders, the thread ends.
        drop(steering);
        (finished, steered.join())
    });
    match steered {
        Ok((pilot, end)) => Played { finished, pilot, end, failed: None },
        Err(_) => Played {
            finished,
            pilot: Pilot::new(limits, slos, step, kept.into_inner()),
            end: End::Interrupted,
            failed: Some("the thread that steers the run panicked: please report this".to_owned()),
        },
    }
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
    /// Returns the exit code: 1 after an error in this program, 99 if the ceiling fell, otherwise that of the result.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.failed.is_some() {
            return 1;
        }
        match self.result.exit_code() {
            0 if self.fell.is_some() => 99,
            0 if !self.unwritten.is_empty() => 1,
            code => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_search_that_panics_ends_its_run_and_keeps_its_steps() {
        let dir = tempfile::tempdir().unwrap();
        let line = "streamstress capacity --embedded --quiet --from 2 --step 1s --warm-up 1s --slo e2el_ms:p50<9x \
                    --answer-tokens 10 --itl-ms 5 --ramp-up 100ms --output-dir";
        let words = line.split_whitespace().chain([dir.path().to_str().unwrap()]);
        let Some(Command::Capacity(args)) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        let options = Options::new(&args).unwrap();
        let pilot = Pilot::new(options.limits, options.slos.clone(), options.step, Vec::new());
        let config = Config::new(options.run(&args.run, pilot.load()), 2, 7).unwrap();
        let steered = Steered { config, pilot, is_rate: false, step: options.step };
        let report = |_: usize, _: &Step, _: &Ceiling| panic!("on purpose");
        let played = play(steered, &report, &Stop::default(), OffsetDateTime::UNIX_EPOCH);
        // The run has ended with its results, and the embedded stack with it.
        assert!(played.finished.is_ok_and(|finished| finished.unwritten.is_empty()));
        assert_eq!((played.end, played.pilot.steps().len()), (End::Interrupted, 1));
        assert_eq!(played.pilot.steps()[0].outcome, measure::capacity::Outcome::Held);
        assert!(played.failed.unwrap().contains("panicked"));
    }
}

//! The options of a search, checked.

use crate::{
    cli::{CapacityArgs, DurationText, RunArgs},
    config::ConfigErrors,
};
use measure::capacity::{Limits, Slo, StepSettings};
use report::capacity::{CapacityResult, Unit};
use settings::duration;
use std::{path::Path, time::Duration};

/// The objective if none is given: answers take at most half as long again as they would without any delay.
const DEFAULT_SLO: &str = "e2el_ms:p99<1.5x";
/// Options of a run that the search determines, with what to use instead.
const DETERMINED: [(&str, &str); 7] = [
    ("--clients", "--from and --to"),
    ("--duration", "--time-limit"),
    ("--arrival-rate", "--by session-rate with --from and --to"),
    ("--stages", "--from and --to"),
    ("--trace", "--from and --to, because a search needs a load that can change"),
    ("--burst", "--from and --to, because a search needs a load that can change"),
    ("--abort-on-fail", "--slo"),
];

/// A checked search.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) by: Unit,
    pub(super) slos: Vec<Slo>,
    pub(super) limits: Limits,
    pub(super) step: StepSettings,
    pub(super) time_limit: Duration,
    /// An earlier search to continue.
    pub(super) earlier: Option<CapacityResult>,
    /// The search to compare with.
    pub(super) baseline: Option<CapacityResult>,
}

impl Options {
    /// Checks the options.
    ///
    /// # Errors
    /// Lists every wrong option.
    pub(super) fn new(args: &CapacityArgs) -> Result<Self, ConfigErrors> {
        let mut errors = determined(&args.run);
        let by = args.by.into();
        if args.run.queries.is_some() && by != Unit::SessionRate {
            errors.push("the sessions of a search send queries until they end: remove --queries, or use --by session-rate".to_owned());
        }
        let unit = if by == Unit::SessionRate { 0.1 } else { 1.0 };
        let given = args.slo.iter().flat_map(|text| measure::threshold::split(text));
        let mut slos: Vec<Slo> = Vec::new();
        for text in given {
            match text.parse() {
                Ok(slo) => slos.push(slo),
                Err(error) => errors.push(format!("--slo: {error}")),
            }
        }
        if slos.is_empty() {
            slos.extend(DEFAULT_SLO.parse());
        }
        let mut seconds =
            |flag: &str, text: &Option<DurationText>, default: u64, range: std::ops::RangeInclusive<u64>| {
                let Some(text) = text else { return default };
                let parsed = duration::parse(text.as_str())
                    .filter(|time| time.subsec_nanos() == 0)
                    .map(|time| time.as_secs());
                parsed.filter(|seconds| range.contains(seconds)).unwrap_or_else(|| {
                    let (least, most) = (range.start(), range.end());
                    errors.push(format!(
                    "invalid duration \"{text}\" for {flag}: expected whole seconds from {least}s to {most}s"
                ));
                    default
                })
            };
        let window_s = seconds("--step", &args.step, 10, 1..=3600);
        let warm_up_s = seconds("--warm-up", &args.warm_up, 3, 1..=3600);
        let time_limit = Duration::from_secs(seconds("--time-limit", &args.time_limit, 1800, 10..=86_400));
        let mut within =
            |flag: &str, value: Option<f64>, default: f64, range: std::ops::RangeInclusive<f64>| {
                let value = value.unwrap_or(default);
                if !range.contains(&value) {
                    errors.push(format!(
                        "{flag} {value} is out of range: expected {} to {}",
                        range.start(),
                        range.end()
                    ));
                }
                value
            };
        let most = plan::schedule::MAX_PLANNED as f64;
        let from = within("--from", args.from, if by == Unit::SessionRate { 1.0 } else { 8.0 }, unit..=most);
        let to = within("--to", args.to, 100_000.0, unit..=most);
        let precision = within("--precision", args.precision, 5.0, 0.5..=50.0) / 100.0;
        if from > to {
            errors.push(format!("--from {from} is more than --to {to}: lower the first or raise the second"));
        }
        if unit == 1.0 && (from.fract() != 0.0 || to.fract() != 0.0) {
            errors.push("--from and --to are numbers of sessions: expected whole numbers".to_owned());
        }
        let steps = args.max_steps.unwrap_or(60);
        if !(1..=200).contains(&steps) {
            errors.push(format!("--max-steps {steps} is out of range: expected 1 to 200"));
        }
        let limits = Limits { from, to, unit, precision, steps: steps as usize };
        let mut read = |flag: &str, path: &Option<std::path::PathBuf>| {
            let path: &Path = path.as_deref()?;
            CapacityResult::read(path).map_err(|error| errors.push(format!("{flag}: {error}"))).ok()
        };
        let earlier = read("--resume", &args.resume);
        let baseline = read("--baseline", &args.baseline);
        if let Some(earlier) = &earlier {
            errors.extend(same_search(earlier, by, &slos));
        }
        if let Some(baseline) = baseline.as_ref().filter(|baseline| baseline.by != by) {
            errors.push(format!(
                "--baseline: its ceiling is in {}, this search is in {}: use the same --by",
                baseline.by.name(),
                by.name()
            ));
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let step = StepSettings { warm_up_s, window_s, counts_sessions: by != Unit::SessionRate };
        Ok(Self { by, slos, limits, step, time_limit, earlier, baseline })
    }

    /// Returns the options of the run that is steered, whose load begins at `load`.
    pub(super) fn run(&self, args: &RunArgs, load: f64) -> RunArgs {
        let run = RunArgs {
            duration: Some(DurationText::from(self.time_limit.as_secs_f64())),
            name: Some(args.name.clone().unwrap_or_else(|| "capacity".to_owned())),
            quiet: true,
            ..args.clone()
        };
        match self.by {
            Unit::SessionRate => RunArgs {
                arrival_rate: Some(load),
                max_clients: Some(args.max_clients.unwrap_or(self.limits.to as i64 * 10)),
                queries: Some(args.queries.unwrap_or(1)),
                ..run
            },
            Unit::Sessions | Unit::Tokens => RunArgs { clients: Some(load as i64), ..run },
        }
    }
}

/// Returns an error for each option of the run that the search determines.
fn determined(run: &RunArgs) -> Vec<String> {
    let given = [
        run.clients.is_some(),
        run.duration.is_some(),
        run.arrival_rate.is_some(),
        run.stages.is_some(),
        run.trace.is_some(),
        run.burst,
        run.abort_on_fail,
    ];
    let given = DETERMINED.iter().zip(given).filter(|(_, given)| *given);
    let mut errors: Vec<_> = given
        .map(|((flag, instead), _)| format!("a search determines {flag}: remove it, and use {instead}"))
        .collect();
    if run.control.is_some() || run.shard.is_some() || run.on.is_some() {
        errors.push(
            "a search runs on one machine: remove --control, --shard and --on; --generators N is possible"
                .to_owned(),
        );
    }
    if run.tui {
        errors.push("a search has its own progress: remove --tui".to_owned());
    }
    errors
}

/// Returns what differs between an earlier search and this one.
fn same_search(earlier: &CapacityResult, by: Unit, slos: &[Slo]) -> Option<String> {
    let objectives: Vec<_> = slos.iter().map(|slo| slo.text.clone()).collect();
    if earlier.by.of_load() != by.of_load() {
        return Some(format!(
            "--resume: the earlier search was in {}, this one is in {}",
            earlier.by.name(),
            by.name()
        ));
    }
    (earlier.objectives != objectives).then(|| {
        let (before, now) = (earlier.objectives.join(" "), objectives.join(" "));
        format!(
            "--resume: the earlier search had the objectives {before}, this one has {now}: use the same --slo"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn options(line: &str) -> Result<Options, String> {
        let words = ["streamstress", "capacity"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Some(crate::cli::Command::Capacity(args)) => {
                Options::new(&args).map_err(|errors| errors.0.join("\n"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_wrong_options_are_listed_at_once() {
        let errors =
            options("--clients 5 --burst --slo e2el:p99<1 --step 1.5s --from 0 --precision 99 --max-steps 0")
                .unwrap_err();
        for part in [
            "a search determines --clients: remove it, and use --from and --to",
            "a search determines --burst",
            "--slo: objective `e2el:p99<1`",
            "invalid duration \"1.5s\" for --step: expected whole seconds from 1s to 3600s",
            "--from 0 is out of range: expected 1 to 1000000",
            "--precision 99 is out of range",
            "--max-steps 0 is out of range",
        ] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
    }

    #[test]
    fn defaults_hold() {
        let options = options("--embedded").unwrap();
        assert_eq!(options.slos[0].text, DEFAULT_SLO);
        assert_eq!((options.limits.from, options.limits.to, options.step.window_s), (8.0, 100_000.0, 10));
        let run = options.run(&RunArgs::default(), 8.0);
        assert_eq!((run.clients, run.duration), (Some(8), Some(DurationText::from("1800"))));
    }
}

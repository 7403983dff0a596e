//! The options of a search, checked.

use crate::{
    cli::{CapacityArgs, DurationText, RunArgs},
    config::ConfigErrors,
};
use measure::capacity::{Limits, Slo, StepSettings};
use report::capacity::{CapacityResult, Unit};
use settings::duration;
use std::{ops::RangeInclusive, path::Path, time::Duration};

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
        let slos = slos(&args.slo, &mut errors);
        let window_s = seconds("--step", args.step.as_ref(), 10, 1..=3600, &mut errors);
        let warm_up_s = seconds("--warm-up", args.warm_up.as_ref(), 3, 1..=3600, &mut errors);
        let time_limit_s = seconds("--time-limit", args.time_limit.as_ref(), 1800, 10..=86_400, &mut errors);
        let time_limit = Duration::from_secs(time_limit_s);
        let limits = limits(args, by, time_limit, &mut errors);
        let mut read = |flag: &str, path: &Option<std::path::PathBuf>| {
            let path: &Path = path.as_deref()?;
            CapacityResult::read(path).map_err(|error| errors.push(format!("{flag}: {error}"))).ok()
        };
        let earlier = read("--resume", &args.resume);
        let baseline = read("--baseline", &args.baseline);
        let step = StepSettings { warm_up_s, window_s, counts_sessions: by != Unit::SessionRate };
        for (flag, other) in [("--resume", &earlier), ("--baseline", &baseline)] {
            errors.extend(other.iter().flat_map(|other| differences(flag, other, by, &slos, step)));
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
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
            Unit::SessionRate => {
                RunArgs { arrival_rate: Some(load), queries: Some(args.queries.unwrap_or(1)), ..run }
            }
            Unit::Sessions | Unit::Tokens => RunArgs { clients: Some(load as i64), ..run },
        }
    }
}

/// Reads the objectives, or the default one.
fn slos(given: &[String], errors: &mut Vec<String>) -> Vec<Slo> {
    let mut slos: Vec<Slo> = Vec::new();
    for text in given.iter().flat_map(|text| measure::threshold::split(text)) {
        match text.parse() {
            Ok(slo) => slos.push(slo),
            Err(error) => errors.push(format!("--slo: {error}")),
        }
    }
    if slos.is_empty() {
        slos.extend(DEFAULT_SLO.parse());
    }
    slos
}

/// Reads a duration in whole seconds, or `default` if there is none.
fn seconds(
    flag: &str,
    text: Option<&DurationText>,
    default: u64,
    range: RangeInclusive<u64>,
    errors: &mut Vec<String>,
) -> u64 {
    let Some(text) = text else { return default };
    let parsed = duration::parse(text.as_str()).filter(|time| time.subsec_nanos() == 0);
    parsed.map(|time| time.as_secs()).filter(|seconds| range.contains(seconds)).unwrap_or_else(|| {
        let (least, most) = (range.start(), range.end());
        errors.push(format!(
            "invalid duration \"{text}\" for {flag}: expected whole seconds from {least}s to {most}s"
        ));
        default
    })
}

/// Reads the range of loads, the precision and the number of steps.
fn limits(args: &CapacityArgs, by: Unit, time_limit: Duration, errors: &mut Vec<String>) -> Limits {
    let mut within = |flag: &str, value: Option<f64>, default: f64, range: RangeInclusive<f64>| {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            errors.push(format!("{flag} {value} is out of range: expected {least} to {most}"));
        }
        value
    };
    let most = plan::schedule::MAX_PLANNED as f64;
    let (unit, first) = if by == Unit::SessionRate { (0.1, 1.0) } else { (1.0, 8.0) };
    let from = within("--from", args.from, first, unit..=most);
    let mut to = within("--to", args.to, 100_000.0, unit..=most);
    let precision = within("--precision", args.precision, 5.0, 0.5..=50.0) / 100.0;
    if by == Unit::SessionRate && to * time_limit.as_secs_f64() > most {
        if args.to.is_some() {
            errors.push(format!(
                "--to {to} makes more than {most} sessions within --time-limit: lower one of them"
            ));
        }
        to = (most / time_limit.as_secs_f64() / unit).floor() * unit;
    }
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
    Limits { from, to, unit, precision, steps: steps as usize }
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
        errors.push("a search has one generator: remove --control, --shard and --on".to_owned());
    }
    if run.generators.is_some() {
        errors.push(
            "a search has one generator, because a lost one would look like a limit of the system: remove --generators".to_owned(),
        );
    }
    if !run.faults.is_empty() {
        errors.push("a search injects no faults: remove --fault".to_owned());
    }
    if run.dry_run {
        errors.push("the plan of a search depends on its steps: remove --dry-run".to_owned());
    }
    if run.arrival.is_some() {
        errors.push("a search determines --arrival: remove it, and use --by".to_owned());
    }
    if run.tui || run.web.is_some() {
        errors.push("a search has its own progress: remove --tui and --web".to_owned());
    }
    errors
}

/// Returns what differs between an earlier search and this one.
fn differences(
    flag: &str,
    earlier: &CapacityResult,
    by: Unit,
    slos: &[Slo],
    step: StepSettings,
) -> Vec<String> {
    let objectives: Vec<_> = slos.iter().map(|slo| slo.text.clone()).collect();
    let length = |step: StepSettings| format!("--step {}s --warm-up {}s", step.window_s, step.warm_up_s);
    let pairs = [
        (format!("--by {}", earlier.by.flag()), format!("--by {}", by.flag())),
        (format!("--slo {}", earlier.objectives.join(" ")), format!("--slo {}", objectives.join(" "))),
        (length(earlier.step), length(step)),
    ];
    let differ = pairs.into_iter().filter(|(before, now)| before != now);
    differ
        .map(|(before, now)| format!("{flag}: that search had {before}, this one has {now}: use the same"))
        .collect()
}

/// Returns an error if the run of an earlier search had another target or other options.
pub(super) fn other_run(flag: &str, earlier: &CapacityResult, target: &str, options: &str) -> Option<String> {
    if earlier.target != target {
        return Some(format!("{flag}: that search had the target {}, this one has {target}", earlier.target));
    }
    // The search determines these, or they do not matter.
    let matters = |line: &&str| {
        !["clients", "duration", "arrival_rate", "seed", "name", "output_dir", "quiet", "keep_results"]
            .iter()
            .any(|key| line.starts_with(&format!("{key} =")))
    };
    let before: Vec<_> = earlier.options.lines().filter(matters).collect();
    let now: Vec<_> = options.lines().filter(matters).collect();
    let differs = before
        .iter()
        .find(|line| !now.contains(line))
        .map(|line| format!("that search had `{line}`, this one has not"));
    let differs = differs.or_else(|| {
        now.iter()
            .find(|line| !before.contains(line))
            .map(|line| format!("this search has `{line}`, that one had not"))
    });
    differs.map(|differs| format!("{flag}: {differs}: use the same options"))
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
    fn what_a_search_would_ignore_is_refused() {
        let errors =
            options("--dry-run --fault redis:kill@1s --generators 2 --arrival queries --tui --queries 3")
                .unwrap_err();
        for flag in ["--dry-run", "--fault", "--generators", "--arrival", "--tui", "--queries"] {
            assert!(
                errors.contains(&format!("remove {flag}")) || errors.contains(&format!("determines {flag}")),
                "{flag}: {errors}"
            );
        }
    }

    #[test]
    fn a_rate_has_no_more_sessions_than_a_plan_can_have() {
        assert_eq!(options("--by session-rate").unwrap().limits.to, 555.5);
        assert!(options("--by session-rate --to 600").unwrap_err().contains("within --time-limit"));
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

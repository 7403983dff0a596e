//! The options of a sweep, checked: the variants, and for each the options of its runs and its stack.

use super::{
    earlier::{difference, fixed},
    settings::{Setting, StackSetup},
};
use crate::{
    cli::{self, Cli, Command, RunArgs, SweepArgs},
    config::{Config, ConfigErrors},
    environment, scenario,
};
use clap::{ArgMatches, FromArgMatches, parser::ValueSource};
use measure::sweep::{Dimension, Point, Variant, variants};
use report::sweep::{Sweep, SweepResult};
use settings::dotenv::Variables;
use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Repetitions if none are given.
const REPEAT: u32 = 2;
/// Largest number of repetitions.
const MAX_REPEAT: u32 = 20;
/// Default port of the HTTP API.
const DEFAULT_PORT: u16 = 8080;
/// Time limit for finding out whether something listens at the default address.
const CONNECT: Duration = Duration::from_millis(500);

/// A checked sweep.
#[derive(Debug)]
pub(super) struct Options {
    /// What the sweep is. Its `run_id` is empty.
    pub(super) sweep: Sweep,
    /// One entry per variant.
    pub(super) planned: Vec<Planned>,
    /// The Compose project whose containers change for each run, or an empty text for the only one.
    pub(super) compose: Option<String>,
    /// Finished runs of the sweep that continues.
    pub(super) earlier: Vec<Point>,
    /// Directory for the files.
    pub(super) output_dir: PathBuf,
    /// First part of the names of the files.
    pub(super) name: String,
    /// Print no progress.
    pub(super) quiet: bool,
    /// Print the plan and start nothing.
    pub(super) dry_run: bool,
}

/// A variant that can be played.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// Options of its runs.
    pub(super) run: RunArgs,
    /// The stack that each of its runs gets. `None`: the target runs already, and nothing of it changes.
    pub(super) stack: Option<StackSetup>,
}

/// The command line of the sweep and its `.env` file, from which the options of each variant are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// All arguments, the program's name first.
    pub(super) words: &'a [OsString],
    /// Variables of the `.env` file.
    pub(super) dotenv: &'a Variables,
}

impl Options {
    /// Checks the options of a sweep. `drawn_seed` is used if no seed is given.
    ///
    /// # Errors
    /// Lists every wrong option.
    pub(super) fn new(
        args: &SweepArgs,
        matches: &ArgMatches,
        line: Line<'_>,
        cores: usize,
        drawn_seed: u64,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let dimensions = dimensions(&args.vary, &mut errors);
        let settings = settings(&dimensions, matches, &mut errors);
        let repeat = args.repeat.unwrap_or(REPEAT);
        if !(1..=MAX_REPEAT).contains(&repeat) {
            errors.push(format!("--repeat {repeat} is out of range: expected 1 to {MAX_REPEAT}"));
        }
        let variants = errors.take(variants(&dimensions)).unwrap_or_default();
        if variants.len() == 1 && errors.0.is_empty() {
            errors.push("nothing varies: give a --vary at least two values, for example wsproxy=1,2");
        }
        let earlier = args.resume.as_deref().map(SweepResult::read).transpose();
        let earlier = errors.take(earlier.map_err(|error| format!("--resume: {error}"))).flatten();
        errors.check(())?;
        let seed = earlier.as_ref().map_or(drawn_seed, |earlier| earlier.seed);
        let mut planned = planned(&variants, &settings, line)?;
        refuse_unusable(&planned, &settings, args.compose.is_some(), matches)?;
        let configs = configs(&planned, &variants, cores, seed)?;
        let target = SweepTarget::of(args, &settings, &planned, &configs);
        for planned in &mut planned {
            planned.run.seed = planned.run.seed.or(Some(seed));
            planned.stack = planned.stack.take().filter(|_| target.is_changed());
        }
        let mut keys: Vec<&str> = settings.iter().filter_map(|(_, setting)| key(setting)).collect();
        if target.is_changed() {
            // Its addresses differ in each run.
            keys.extend(["api_url", "wsproxy_url"]);
        }
        let run = planned.first().map(|planned| planned.run.clone()).unwrap_or_default();
        let sweep = Sweep {
            run_id: String::new(),
            target: target.name(),
            vary: args.vary.clone(),
            variants,
            repeat: repeat as usize,
            seed: run.seed.unwrap_or(seed),
            options: configs.first().map(|config| fixed(&config.options(), &keys)).unwrap_or_default(),
        };
        if let Some(difference) = earlier.as_ref().and_then(|earlier| difference(earlier, &sweep)) {
            return Err(ConfigErrors(vec![format!("--resume: {difference}")]));
        }
        let earlier = earlier.map_or_else(Vec::new, |earlier| earlier.points);
        Ok(Self {
            sweep,
            planned,
            compose: args.compose.clone(),
            earlier: earlier.into_iter().filter(Point::is_finished).collect(),
            output_dir: run.output_dir.unwrap_or_else(|| "results".into()),
            name: run.name.unwrap_or_else(|| "sweep".to_owned()),
            quiet: run.quiet,
            dry_run: run.dry_run,
        })
    }
}

/// What the runs of a sweep load.
enum SweepTarget {
    /// A Compose stack, which the sweep changes for each run.
    Compose,
    /// A native stack for each run, which the sweep starts.
    Native,
    /// Each variant names its own target.
    Varied,
    /// The stack inside the program of each run.
    Embedded,
    /// The target with this address, which runs already.
    Running(String),
}

impl SweepTarget {
    fn of(args: &SweepArgs, settings: &[(String, Setting)], planned: &[Planned], configs: &[Config]) -> Self {
        let needs_stack = settings.iter().any(|(_, setting)| setting.is_of_stack());
        let names_stack = planned.iter().any(|planned| planned.run.fault_stack.is_some());
        let first = || configs.first().map(|config| config.plan.target.api.to_string());
        match varies_target(settings) {
            _ if args.compose.is_some() => Self::Compose,
            _ if needs_stack => Self::Native,
            true => Self::Varied,
            false if !names_stack && is_free(configs) => Self::Native,
            false if configs.iter().any(|config| config.embedded) => Self::Embedded,
            false => Self::Running(first().unwrap_or_default()),
        }
    }

    /// Returns whether the sweep starts or changes a stack for each run.
    const fn is_changed(&self) -> bool {
        matches!(self, Self::Compose | Self::Native)
    }

    /// Returns the text in the results.
    fn name(&self) -> String {
        let name = match self {
            Self::Compose => "a Compose stack",
            Self::Native => "a native stack for each run",
            Self::Varied => "the target of each variant",
            Self::Embedded => "embedded",
            Self::Running(address) => address,
        };
        name.to_owned()
    }
}

fn dimensions(texts: &[String], errors: &mut ConfigErrors) -> Vec<Dimension> {
    texts.iter().filter_map(|text| errors.take(text.parse())).collect()
}

/// Finds the settings of all names, and checks that each is named once and not given as well.
fn settings(
    dimensions: &[Dimension],
    matches: &ArgMatches,
    errors: &mut ConfigErrors,
) -> Vec<(String, Setting)> {
    let mut settings: Vec<(String, Setting)> = Vec::new();
    for name in dimensions.iter().flat_map(|dimension| &dimension.names) {
        let Some(setting) = errors.take(Setting::find(name)) else { continue };
        if let Some((other, _)) = settings.iter().find(|(_, known)| *known == setting) {
            errors.push(format!("--vary {name} and --vary {other} are the same setting: name it once"));
        }
        if let Setting::Run { flag, key } = &setting
            && matches.value_source(key) == Some(ValueSource::CommandLine)
        {
            errors.push(format!("--{flag} is given and varied: remove --{flag}, or --vary {name}"));
        }
        settings.push((name.clone(), setting));
    }
    settings
}

/// Returns the options and the stack of each variant.
fn planned(
    variants: &[Variant],
    settings: &[(String, Setting)],
    line: Line<'_>,
) -> Result<Vec<Planned>, ConfigErrors> {
    let one = |variant: &Variant| -> Result<Planned, String> {
        let mut stack = StackSetup::default();
        let mut words = line.words.to_vec();
        for (name, setting) in settings {
            let value = variant.value(name).unwrap_or_default();
            stack.apply(setting, value).map_err(|why| format!("--vary {name}: {why}"))?;
            if let Setting::Run { flag, .. } = setting {
                words.push(format!("--{flag}={value}").into());
            }
        }
        Ok(Planned { run: run(&words, line.dotenv)?, stack: Some(stack) })
    };
    let all: Result<Vec<_>, String> = variants.iter().map(one).collect();
    all.map_err(|error| ConfigErrors(vec![error]))
}

/// Reads the options of a run from the command line of a sweep, as if the varied options were given there.
fn run(words: &[OsString], dotenv: &Variables) -> Result<RunArgs, String> {
    let refused = |error: clap::Error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    };
    let matches = Cli::command_line().try_get_matches_from(words).map_err(refused)?;
    let cli = Cli::from_arg_matches(&matches).map_err(refused)?;
    let (Some(Command::Sweep(args)), Some(matches)) = (cli.command, matches.subcommand_matches("sweep"))
    else {
        return Err("the command line is not that of a sweep".to_owned());
    };
    scenario::resolve(args.run, matches, dotenv).map(|(run, _)| run)
}

/// Refuses options that a sweep cannot pass on, and options of a target together with settings of a stack.
fn refuse_unusable(
    planned: &[Planned],
    settings: &[(String, Setting)],
    is_compose: bool,
    matches: &ArgMatches,
) -> Result<(), ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let native = settings.iter().filter(|(_, setting)| is_compose && setting.is_native());
    for (name, _) in native {
        errors.push(format!("--vary {name} is a setting of native stacks: remove it, or --compose"));
    }
    let Some(run) = planned.first().map(|planned| &planned.run) else { return Ok(()) };
    if run.control.is_some() || run.shard.is_some() || run.on.is_some() {
        errors.push("the runs of a sweep are played on this machine: remove --control, --shard and --on");
    }
    if run.tui || run.out.is_some() || run.web.is_some() {
        errors.push("a sweep has its own output: remove --tui, --out and --web");
    }
    if run.keep_results.is_some() {
        errors.push("--keep-results counts runs, and a sweep is several runs: remove --keep-results");
    }
    let of_stack = settings.iter().find(|(_, setting)| setting.is_of_stack());
    let of_stack = match (is_compose, of_stack) {
        (true, _) => Some(("--compose".to_owned(), "a Compose stack")),
        (false, of_stack) => {
            of_stack.map(|(name, _)| (format!("--vary {name}"), "a native stack that the sweep starts"))
        }
    };
    let target = planned.iter().any(|planned| {
        let run = &planned.run;
        let has_url = !run.api_url.is_empty() || !run.wsproxy_url.is_empty();
        has_url || run.target.is_some() || run.embedded || run.fault_stack.is_some()
    });
    if let Some((option, stack)) = of_stack.filter(|_| target) {
        let given = |key: &str| matches.value_source(key) == Some(ValueSource::CommandLine);
        let flags = ["api_url", "wsproxy_url", "target", "embedded", "fault_stack"]
            .into_iter()
            .filter(|key| given(key));
        let flags: Vec<_> = flags.map(|key| format!("--{}", key.replace('_', "-"))).collect();
        let flags = if flags.is_empty() { "the target".to_owned() } else { flags.join(" and ") };
        errors.push(format!("{option} changes {stack} for each run: remove {flags}, or {option}"));
    }
    errors.check(())
}

/// Checks the options of every variant. Returns the errors of the first one that is wrong.
fn configs(
    planned: &[Planned],
    variants: &[Variant],
    cores: usize,
    seed: u64,
) -> Result<Vec<Config>, ConfigErrors> {
    let one = |(planned, variant): (&Planned, &Variant)| {
        let name = |error: String| format!("{variant}: {error}");
        Config::new(planned.run.clone(), cores, seed)
            .map_err(|errors| ConfigErrors(errors.0.into_iter().map(name).collect()))
    };
    planned.iter().zip(variants).map(one).collect()
}

/// Returns whether the options name no target and nothing listens at the default one.
fn is_free(configs: &[Config]) -> bool {
    let default = configs.iter().all(|config| config.has_default_urls && !config.embedded);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
    default && TcpStream::connect_timeout(&address, CONNECT).is_err()
}

fn varies_target(settings: &[(String, Setting)]) -> bool {
    let is_target = |key| ["api_url", "wsproxy_url", "target", "embedded"].contains(&key);
    settings.iter().filter_map(|(_, setting)| key(setting)).any(is_target)
}

/// Returns the key of an option of a run.
fn key(setting: &Setting) -> Option<&str> {
    match setting {
        Setting::Run { key, .. } => Some(key),
        Setting::Stack(_) | Setting::Variable { .. } => None,
    }
}

/// Reads the `.env` file of the working directory, after a check that no two variables contradict each other.
///
/// # Errors
/// Two variables contradict each other, or the file is invalid.
pub(super) fn dotenv() -> Result<Variables, String> {
    environment::check(&cli::options())?;
    scenario::dotenv(Path::new(".env"))
}

#[cfg(test)]
mod tests;

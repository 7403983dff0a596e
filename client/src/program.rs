//! The program: arguments in, an exit code out.
//! It reads the environment through clap alone, and prints; everything else is elsewhere.

use crate::{
    cli::{Cli, Command, CompareArgs, RunArgs},
    compare::{self, Compared, Question},
    config::Config,
    engine,
    output::{self, Destination, USUAL_COLUMNS},
    report, scenario,
    signals::{self, Stop},
};
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches};
use std::{
    ffi::{OsStr, OsString},
    io::IsTerminal,
    path::{Path, PathBuf},
    thread,
};
use terminal_size::{Width, terminal_size_of};
use time::OffsetDateTime;

/// Bad configuration.
const REFUSED: u8 = 104;

/// Does what the arguments say. Call it before any thread is started: local time cannot be had later.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let started_at = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    match parse(arguments) {
        Ok((Cli { command: Some(Command::Analyze { files }), .. }, _)) => analyze(&files),
        Ok((Cli { command: Some(Command::Report { files }), .. }, _)) => report(&files),
        Ok((Cli { command: Some(Command::Compare(args)), .. }, _)) => compared(args),
        Ok((Cli { command: None, run }, matches)) => match resolve(run, &matches) {
            Ok(run) => load(run, started_at),
            Err(fault) => {
                eprintln!("error: {fault}");
                REFUSED
            }
        },
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { REFUSED } else { 0 }
        }
    }
}

/// A variable that is set to nothing is as good as not set: that is what `VAR=` in a file or in Compose means.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Cli, ArgMatches), clap::Error> {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let forget = |arg: Arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&str>) } else { arg };
    let matches = Cli::command().mut_args(forget).try_get_matches_from(arguments)?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// What is not said by flag or environment is looked for in the scenario and in `.env`.
fn resolve(args: RunArgs, matches: &ArgMatches) -> Result<RunArgs, String> {
    scenario::resolve(args, matches, &scenario::dotenv(Path::new(".env"))?)
}

fn load(args: RunArgs, started_at: OffsetDateTime) -> u8 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut config = match Config::new(args, cores, rand::random()) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("error: {faults}");
            return REFUSED;
        }
    };
    engine::find_endpoints(&mut config);
    engine::warn(&engine::warnings(&config));
    match engine::plan(&config) {
        Ok(plan) if config.dry_run => {
            print!("{plan}");
            return 0;
        }
        Err(error) if config.dry_run => {
            eprintln!("error: {error}");
            return error.exit_code();
        }
        Ok(_) if !config.output.quiet => {
            eprintln!("{}", output::wrap("", &engine::outline(&config), Out::Stderr.columns()));
        }
        // The run itself says what is wrong.
        Ok(_) | Err(_) => {}
    }
    let stop = Stop::default();
    if let Err(error) = signals::listen(stop.clone()) {
        eprintln!("error: cannot listen to signals: {error}");
        return 1;
    }
    let quiet = config.output.quiet;
    // Stdout is the events' then.
    let out = if config.output.events == Some(Destination::Stdout) { Out::Stderr } else { Out::Stdout };
    match engine::run(config, &stop, started_at) {
        Ok(finished) if quiet => {
            out.say(&format!("{}: {}\n", finished.headline(), finished.judgement().reason));
            finished.exit_code()
        }
        Ok(finished) => {
            out.say(&out.painted(finished.text(out.columns())));
            out.say(&format!("\n  results...................: {}*\n", finished.base.display()));
            finished.exit_code()
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

/// Where a text goes.
#[derive(Clone, Copy, Debug)]
enum Out {
    Stdout,
    Stderr,
}

impl Out {
    fn say(self, text: &str) {
        match self {
            Self::Stdout => print!("{text}"),
            Self::Stderr => eprint!("{text}"),
        }
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    /// In colour on a terminal, unless <https://no-color.org> is asked for.
    fn painted(self, text: String) -> String {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if self.is_terminal() && !refused { output::colored(&text) } else { text }
    }

    /// Of the terminal; elsewhere of the variable that shells keep.
    fn columns(self) -> usize {
        let size = match self {
            Self::Stdout => terminal_size_of(std::io::stdout()),
            Self::Stderr => terminal_size_of(std::io::stderr()),
        };
        match size {
            Some((Width(columns), _)) => columns.into(),
            None => std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_COLUMNS),
        }
    }
}

fn analyze(files: &[PathBuf]) -> u8 {
    match output::analyze(files, Out::Stdout.columns()) {
        Ok(text) => {
            print!("{text}");
            0
        }
        Err(error) => {
            eprintln!("error: {error}");
            REFUSED
        }
    }
}

fn compared(args: CompareArgs) -> u8 {
    let answer =
        question(args).and_then(|question| compare::compare(&question).map_err(|error| error.to_string()));
    match answer {
        Ok(comparison) => {
            print!("{}", Out::Stdout.painted(comparison.text(Out::Stdout.columns())));
            comparison.exit_code()
        }
        Err(error) => {
            eprintln!("error: {error}");
            REFUSED
        }
    }
}

fn question(mut args: CompareArgs) -> Result<Question, String> {
    if let [baseline, candidate] = args.files.as_slice() {
        (args.baseline, args.candidate) = (vec![baseline.clone()], vec![candidate.clone()]);
    }
    let (number, unit) = match args.tolerance.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (args.tolerance.as_str(), 1.0),
    };
    let tolerance = number.parse().ok().map(|tolerance: f64| tolerance / unit);
    let tolerance = tolerance.filter(|tolerance| (0.0..=10.0).contains(tolerance)).ok_or_else(|| {
        format!("--tolerance `{}` is no share from 0 to 10: write 5% or 0.05", args.tolerance)
    })?;
    let compared = if args.metrics.is_empty() {
        Compared::defaults()
    } else {
        args.metrics
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("--metric {error}"))?
    };
    let CompareArgs { baseline, candidate, seed, tolerance_ms: least_ms, .. } = args;
    if !(0.0..=1e6).contains(&least_ms) {
        return Err(format!(
            "--tolerance-ms {least_ms} is out of range: give milliseconds from 0 to 1000000"
        ));
    }
    Ok(Question { baseline, candidate, compared, tolerance, least_ms, seed })
}

fn report(files: &[PathBuf]) -> u8 {
    let mut exit_code = 0;
    for file in files {
        match report::write(file) {
            Ok(page) => println!("{}", page.display()),
            Err(error) => {
                eprintln!("error: {error}");
                exit_code = REFUSED;
            }
        }
    }
    exit_code
}

//! The program's entry: dispatches the subcommands and returns the exit code.

mod print;

use crate::{
    amend, capacity,
    cli::{
        self, CapacityArgs, Cli, Command, CompareArgs, Engine, InspectArgs, InspectFormat, MergeArgs,
        Origins, Passed, RunArgs, SizingArgs, SweepArgs, WebArgs,
    },
    config::{Config, Division},
    endpoints, engine, environment, generators, outline,
    run_error::RunError,
    scenario, signals,
    sizing::{self, Destination as GuideDestination},
    sweep::{self, Swept},
    target_files,
    web::{self, OwnPage},
};
use clap::{ArgMatches, FromArgMatches};
use measure::comparison::{ComparedFigure, ComparisonOptions};
use plan::Stop;
use print::Out;
use report::{
    compare, html, inspect, messages,
    output::{self, Destination},
};
use settings::flags::{self, REFUSED};
use stack::native::Programs;
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};
use time::OffsetDateTime;
use tracing_subscriber::EnvFilter;

/// Runs the program with these arguments and returns its exit code. Must be called before any thread starts, because the local
/// time zone cannot be read later.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let started_at = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let (cli, matches) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error),
    };
    match cli.command {
        // These three set up their own logs. The first two also parse their own arguments.
        Some(Command::Server(passed)) => return server::program::run(named("server", passed)),
        Some(Command::Wsproxy(passed)) => return wsproxy::program::run(named("wsproxy", passed)),
        Some(Command::Stack(args)) => {
            // The kernel's name for this program stays valid when its file is replaced during the run.
            return stack::program::run(args, Programs::subcommands_of("/proc/self/exe"));
        }
        _ => {}
    }
    log_to_stderr();
    let code = match cli.command {
        Some(Command::Analyze { files }) => analyze(&files),
        Some(Command::Report { files }) => report(&files),
        Some(Command::Compare(args)) => compare_runs(args),
        Some(Command::Inspect(args)) => inspect_query(&args),
        Some(Command::Merge(args)) => merge(&args),
        Some(Command::Capacity(args)) => {
            let matches = matches.subcommand_matches("capacity").unwrap_or(&matches);
            search_ceiling(*args, matches, started_at)
        }
        Some(Command::Sizing(args)) => size(&args),
        Some(Command::Amend(args)) => changed(amend::command::amend(&args)),
        Some(Command::Web(args)) => serve_page(&args),
        Some(Command::Target(args)) => target_files::command(args.command),
        Some(Command::Sweep(args)) => {
            let matches = matches.subcommand_matches("sweep").unwrap_or(&matches);
            play_sweep(&args, matches, &arguments, started_at)
        }
        Some(Command::Point) => match sweep::child::options() {
            Ok(run) => load(run, &Origins::new(), started_at),
            Err(error) => {
                messages::print_stderr(&format!("error: {error}"));
                REFUSED
            }
        },
        Some(Command::Generator) => generators::processes::generator(),
        Some(Command::Completions { shell }) => completions(shell),
        Some(Command::Man) => manual(),
        Some(Command::Run(run)) => {
            let matches = matches.subcommand_matches("run").unwrap_or(&matches);
            resolve_and_run(*run, matches, started_at)
        }
        _ => resolve_and_run(cli.run, &matches, started_at),
    };
    code.into()
}

/// Prints why clap refused the arguments, or the help, and returns the exit code.
fn refuse(error: &clap::Error) -> ExitCode {
    let code = flags::refuse(error);
    if let Some(variable) = cli::variable_of(error, &Cli::command_line()) {
        messages::print_stderr(&format!("note: the value comes from the environment variable {variable}"));
    }
    code
}

/// Returns the arguments of a subcommand, preceded by the name that its messages show.
fn named(part: &str, passed: Passed) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(format!("streamstress {part}"))).chain(passed.arguments)
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| messages::Stderr).init();
}

fn completions(shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::documented(), "streamstress", &mut script);
    messages::print_stdout(&String::from_utf8_lossy(&script));
    0
}

fn manual() -> u8 {
    let mut command = Cli::documented().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    match append_manual(&command, &mut pages) {
        Ok(()) => {
            messages::print_stdout(&String::from_utf8_lossy(&pages));
            0
        }
        Err(error) => {
            messages::print_stderr(&format!("error: cannot write the manual page: {error}"));
            1
        }
    }
}

/// Appends the page of a command and those of its subcommands. `run` has none: the first page lists its options.
fn append_manual(command: &clap::Command, pages: &mut Vec<u8>) -> io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(pages)?;
    let mut subcommands = command.get_subcommands().filter(|command| command.get_name() != "run");
    subcommands.try_for_each(|command| append_manual(command, pages))
}

fn resolve_and_run(run: RunArgs, matches: &ArgMatches, started_at: OffsetDateTime) -> u8 {
    match resolve(run, matches) {
        Ok((run, origins)) => {
            let always_0 = run.always_exit_0 && run.control.is_some();
            let code = load(run, &origins, started_at);
            if always_0 { 0 } else { code }
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = Cli::command_line().try_get_matches_from(arguments)?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// Completes the options from the scenario file and `.env`.
///
/// # Errors
/// Two variables contradict each other, or a file is invalid.
fn resolve(args: RunArgs, matches: &ArgMatches) -> Result<(RunArgs, Origins), String> {
    environment::check(&cli::options())?;
    if environment::is_set("FASTAPI_URL") {
        messages::print_stderr("warning: FASTAPI_URL is an old name: use STREAMSTRESS_API_URL");
    }
    scenario::resolve(args, matches, &scenario::dotenv(Path::new(".env"))?)
}

fn load(args: RunArgs, origins: &Origins, started_at: OffsetDateTime) -> u8 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // Generators that are started separately must draw the same numbers.
    let drawn_seed = if args.control.is_some() || args.shard.is_some() { 1 } else { rand::random() };
    let mut config = match Config::new(args, cores, drawn_seed) {
        Ok(config) => config,
        Err(mut errors) => {
            for error in &mut errors.0 {
                *error = cli::with_origin(error, origins);
            }
            messages::print_stderr(&format!("error: {errors}"));
            return REFUSED;
        }
    };
    if let Some(engine) = config.given.on {
        return print_manifest(&config, engine, started_at);
    }
    let Some(stop) = stopped_by_signals() else { return 1 };
    endpoints::find(&mut config);
    messages::warn(&outline::warnings(&config));
    match engine::plan(&config) {
        Ok(plan) if config.dry_run => {
            messages::print_stdout(&plan);
            return 0;
        }
        Err(error) if config.dry_run => {
            return print::error(&error);
        }
        Ok(_) if !config.output.quiet => {
            messages::print_stderr(&report::wrap("", &engine::outline(&config), Out::Stderr.columns()));
        }
        // `engine::run` reports the error.
        Ok(_) | Err(_) => {}
    }
    let page = match config.output.web.clone().map(|address| OwnPage::start(&address, &mut config)) {
        None => None,
        Some(Ok(page)) => Some(page),
        Some(Err(error)) => return print::error(&error),
    };
    let (quiet, output_dir, keep_results) =
        (config.output.quiet, config.output.dir.clone(), config.output.keep_results);
    // With `--out json=-`, stdout carries the events.
    let out = if config.output.events == Some(Destination::Stdout) { Out::Stderr } else { Out::Stdout };
    let code = if let Division::Control(control) = config.division.clone() {
        match generators::control::play(&config, &control, &stop, started_at) {
            Ok(played) => print::played(played, quiet, out),
            Err(error) => print::error(&error),
        }
    } else {
        match engine::run(config, &stop, started_at) {
            Ok(finished) => print::finished(&finished, quiet, out),
            Err(error) => print::error(&error),
        }
    };
    print::limit_results(&output_dir, keep_results);
    if let Some(page) = page {
        page.end(code);
    }
    code
}

/// Returns what a signal stops. Prints an error and returns `None` if signals cannot be listened to.
fn stopped_by_signals() -> Option<Stop> {
    let stop = Stop::default();
    match signals::listen(stop.clone()) {
        Ok(()) => Some(stop),
        Err(error) => {
            messages::print_stderr(&format!("error: cannot listen to signals: {error}"));
            None
        }
    }
}

/// Prints the manifest of a job of generators. Returns the exit code.
fn print_manifest(config: &Config, engine: Engine, started_at: OffsetDateTime) -> u8 {
    match generators::manifest::manifest(config, engine, started_at) {
        Ok(manifest) => {
            messages::print_stdout(&manifest);
            0
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

/// Returns the exit code of a command that changes a run or shows the page.
fn changed(outcome: Result<(), RunError>) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(error) => print::error(&error),
    }
}

/// Serves the page until a signal. Runs that it starts, and its own session, have the options that a run without arguments has.
fn serve_page(args: &WebArgs) -> u8 {
    let mut words: Vec<OsString> = vec!["streamstress".into(), "run".into()];
    words.extend(args.target().into_iter().map(OsString::from));
    words.extend(args.output_dir.iter().map(|dir| {
        let mut word = OsString::from("--output-dir=");
        word.push(dir);
        word
    }));
    let (run, matches) = match parse(&words) {
        Ok((Cli { command: Some(Command::Run(run)), .. }, matches)) => (*run, matches),
        Ok(_) => return REFUSED,
        Err(error) => {
            messages::print_stderr(error.to_string().trim_end());
            return REFUSED;
        }
    };
    let matches = matches.subcommand_matches("run").unwrap_or(&matches);
    match resolve(run, matches) {
        Ok((run, _)) => changed(web::web(args, run)),
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

/// Searches the ceiling. Returns the exit code of what was found.
fn search_ceiling(mut args: CapacityArgs, matches: &ArgMatches, started_at: OffsetDateTime) -> u8 {
    let origins = match resolve(args.run, matches) {
        Ok((run, origins)) => {
            args.run = run;
            origins
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            return REFUSED;
        }
    };
    let Some(stop) = stopped_by_signals() else { return 1 };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let output_dir = args.run.output_dir.clone().unwrap_or_else(|| "results".into());
    let keep_results = args.run.keep_results.map(|keep| keep as usize);
    match capacity::capacity(&args, cores, rand::random(), &stop, started_at) {
        Ok(found) => {
            print::found(found.result.text(Out::Stdout.columns()), &found.files, &found.unwritten);
            print::limit_results(&output_dir, keep_results);
            for error in found.fell.iter().chain(&found.failed) {
                messages::print_stderr(&format!("error: {error}"));
            }
            found.exit_code()
        }
        Err(RunError::Refused(mut errors)) => {
            for error in &mut errors.0 {
                *error = cli::with_origin(error, &origins);
            }
            print::error(&RunError::Refused(errors))
        }
        Err(error) => print::error(&error),
    }
}

/// Plays a sweep. Returns the exit code of its result.
fn play_sweep(args: &SweepArgs, matches: &ArgMatches, words: &[OsString], started_at: OffsetDateTime) -> u8 {
    let Some(stop) = stopped_by_signals() else { return 1 };
    // The kernel's name for this program stays valid when its file is replaced during the sweep.
    let program = Path::new("/proc/self/exe");
    let start = sweep::Start {
        words,
        program,
        programs: &Programs::subcommands_of(program),
        cores: thread::available_parallelism().map_or(1, usize::from),
        drawn_seed: rand::random(),
        started_at,
    };
    match sweep::sweep(args, matches, &start, &stop) {
        Ok(Swept::Plan(plan)) => {
            messages::print_stdout(&plan);
            0
        }
        Ok(Swept::Played { result, files, unwritten }) => {
            print::found(result.text(Out::Stdout.columns()), &files, &unwritten);
            match result.exit_code() {
                0 if !unwritten.is_empty() => 1,
                code => code,
            }
        }
        Err(error) => print::error(&error),
    }
}

/// Merges the results of several generators. Returns the exit code of the verdict.
fn merge(args: &MergeArgs) -> u8 {
    match generators::merge::merge(args) {
        Ok(finished) => print::finished(&finished, false, Out::Stdout),
        Err(error) => print::error(&error),
    }
}

fn analyze(files: &[PathBuf]) -> u8 {
    match output::analyze(files, Out::Stdout.columns()) {
        Ok(text) => {
            messages::print_stdout(&text);
            0
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

/// Prints a query of a run.
fn inspect_query(args: &InspectArgs) -> u8 {
    match inspect::inspect(&args.run, &args.query, &args.output_dir) {
        Ok(found) => {
            messages::print_stdout(&match args.format {
                InspectFormat::Text => found.text(Out::Stdout.columns(), args.tokens),
                InspectFormat::Json => found.json(),
            });
            0
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

fn compare_runs(mut args: CompareArgs) -> u8 {
    if let [baseline, candidate] = args.files.as_slice() {
        (args.baseline, args.candidate) = (vec![baseline.clone()], vec![candidate.clone()]);
    }
    let compared = compare_options(&args).and_then(|options| {
        compare::compare(&args.baseline, &args.candidate, &options).map_err(|error| error.to_string())
    });
    match compared {
        Ok(comparison) => {
            messages::print_stdout(&Out::Stdout.colored(compare::text(&comparison, Out::Stdout.columns())));
            comparison.exit_code()
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

/// Prints or writes a guide to the size of a stack.
fn size(args: &SizingArgs) -> u8 {
    match sizing::sizing(args, share("--headroom", &args.headroom, "30%")) {
        Ok((text, GuideDestination::Stdout | GuideDestination::JsonStdout)) => {
            messages::print_stdout(&text);
            0
        }
        Ok((_, GuideDestination::File(path) | GuideDestination::JsonFile(path))) => {
            messages::print_stdout(&format!("{}\n", path.display()));
            0
        }
        Err(error) => {
            messages::print_stderr(&format!("error: {error}"));
            REFUSED
        }
    }
}

fn compare_options(args: &CompareArgs) -> Result<ComparisonOptions, String> {
    let tolerance = share("--tolerance", &args.tolerance, "5%")?;
    let failure_tolerance = share("--failure-tolerance", &args.failure_tolerance, "0.1%")?;
    let assumed_noise = share("--assumed-noise", &args.assumed_noise, "15%")?;
    let compared = if args.metrics.is_empty() {
        ComparedFigure::defaults()
    } else {
        args.metrics.iter().map(|text| text.parse()).collect::<Result<_, _>>()?
    };
    let CompareArgs { seed, tolerance_ms: least_ms, .. } = *args;
    if !(0.0..=1e6).contains(&least_ms) {
        return Err(format!(
            "--tolerance-ms {least_ms} is out of range: expected milliseconds from 0 to 1000000"
        ));
    }
    Ok(ComparisonOptions { compared, tolerance, least_ms, failure_tolerance, assumed_noise, seed })
}

/// Parses a share such as `5%` or `0.05`. A bare number of 1 or more is refused, because it may be meant as percent.
fn share(flag: &str, text: &str, example: &str) -> Result<f64, String> {
    let invalid =
        || format!("invalid share `{text}` for {flag}: expected 0% to 1000%, for example {example}");
    let parsed = |number: &str| number.trim().parse::<f64>().map_err(|_| invalid());
    if let Some(percent) = text.trim().strip_suffix('%') {
        let share = parsed(percent)? / 100.0;
        return if (0.0..=10.0).contains(&share) { Ok(share) } else { Err(invalid()) };
    }
    match parsed(text)? {
        share if (0.0..1.0).contains(&share) => Ok(share),
        percent if (1.0..=1000.0).contains(&percent) => Err(format!(
            "ambiguous share `{text}` for {flag}: did you mean {percent}%? A share without % must be below 1"
        )),
        _ => Err(invalid()),
    }
}

fn report(files: &[PathBuf]) -> u8 {
    let mut exit_code = 0;
    for file in files {
        match html::write(file) {
            Ok(page) => messages::print_stdout(&format!("{}\n", page.display())),
            Err(error) => {
                messages::print_stderr(&format!("error: {error}"));
                exit_code = REFUSED;
            }
        }
    }
    exit_code
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_not_guessed() {
        for (text, expected) in [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), (" 7.5 % ", 0.075), ("200%", 2.0)]
        {
            assert_eq!(share("--tolerance", text, "5%"), Ok(expected), "{text}");
        }
        for (text, why) in [
            ("5", "did you mean 5%?"),
            ("1", "did you mean 1%?"),
            ("12.5", "did you mean 12.5%?"),
            ("-1%", "invalid share `-1%` for --tolerance"),
            ("-0.1", "invalid share"),
            ("5000", "invalid share"),
            ("1001%", "invalid share"),
            ("nan", "invalid share"),
            ("nan%", "invalid share"),
            ("%", "invalid share"),
            ("", "invalid share"),
            ("5 percent", "invalid share"),
        ] {
            let error = share("--tolerance", text, "5%").unwrap_err();
            assert!(error.contains(why) && error.contains("--tolerance"), "{text}: {error}");
        }
    }
}

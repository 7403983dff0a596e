//! The subcommand: checks the options, plays the runs one after the other, and writes the table after each.

use super::{
    options::{self, Line, Options},
    points::Player,
};
use crate::{
    cli::SweepArgs,
    run_error::{RunError, refused},
};
use ::stack::{compose::ComposeStack, native::Programs};
use anyhow::Context;
use clap::ArgMatches;
use measure::sweep::{Point, Turn, order};
use plan::Stop;
use report::{
    messages,
    sweep::{SweepEnd, SweepResult},
    sweep_files,
};
use std::{
    cell::RefCell,
    ffi::OsString,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, macros::format_description};

/// Largest number of sweeps that begin in the same second and have the same name.
const MAX_IN_A_SECOND: u32 = 1_000;

/// What a sweep left.
#[derive(Debug)]
pub(crate) enum Swept {
    /// The plan, for `--dry-run`.
    Plan(String),
    /// The result.
    Played {
        /// The result.
        result: Box<SweepResult>,
        /// Files that were written.
        files: Vec<PathBuf>,
        /// Files that could not be written, each with the reason.
        unwritten: Vec<String>,
    },
}

/// What a sweep is started with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// All arguments, the program's name first.
    pub(crate) words: &'a [OsString],
    /// This program.
    pub(crate) program: &'a Path,
    /// Programs of servers and gateways.
    pub(crate) programs: &'a Programs,
    /// Number of cores of this machine.
    pub(crate) cores: usize,
    /// Seed of the runs if none is given.
    pub(crate) drawn_seed: u64,
    /// Time of the start.
    pub(crate) started_at: OffsetDateTime,
}

/// Plays a sweep until its end or until `stop` is escalated.
///
/// # Errors
/// The options are wrong, or the directory of the results cannot be created.
pub(crate) fn sweep(
    args: &SweepArgs,
    matches: &ArgMatches,
    start: &Start<'_>,
    stop: &Stop,
) -> Result<Swept, RunError> {
    let dotenv = options::dotenv().map_err(|error| refused(&error))?;
    let line = Line { words: start.words, dotenv: &dotenv };
    let mut options = Options::new(args, matches, line, start.cores, start.drawn_seed)?;
    let turns: Vec<Turn> = order(options.planned.len(), options.sweep.repeat).collect();
    let left: Vec<Turn> =
        turns.iter().copied().filter(|turn| !is_finished(&options.earlier, *turn)).collect();
    if options.dry_run {
        return Ok(Swept::Plan(plan(&options, &left)));
    }
    if left.is_empty() {
        return Err(refused(
            "--resume: that sweep is complete: there is nothing to continue, except with a larger --repeat",
        ));
    }
    let project = options.compose.as_deref().map(|project| Some(project).filter(|name| !name.is_empty()));
    let compose = project.map(ComposeStack::find).transpose().context("--compose")?;
    if !stop.begin() {
        return Err(RunError::Interrupted);
    }
    let id =
        create(&options.output_dir, &options.name, start.started_at).context("cannot create a directory")?;
    options.sweep.run_id.clone_from(&id);
    let Start { program, programs, .. } = *start;
    let Options { planned, output_dir, .. } = &options;
    let compose = compose.map(RefCell::new);
    let player = Player { program, programs, compose, planned, output_dir, id: &id, stop };
    let mut swept = play(&options, &player, &left, turns.len());
    if let (Some(compose), Swept::Played { unwritten, .. }) = (player.compose, &mut swept)
        && let Err(error) = compose.into_inner().restore()
    {
        unwritten.push(format!(
            "cannot restore the Compose stack: {error:#}: run `docker compose up -d` with its options again"
        ));
    }
    Ok(swept)
}

/// Plays the runs that are left.
fn play(options: &Options, player: &Player<'_>, left: &[Turn], total: usize) -> Swept {
    let Options { sweep, output_dir, quiet, .. } = options;
    let base = output_dir.join(&sweep.run_id);
    let mut points = options.earlier.clone();
    let done = total - left.len();
    if !quiet {
        let files = base.display();
        messages::print_stderr(&format!(
            "sweep of {} variants, {} runs, into {files}_sweep.*",
            sweep.variants.len(),
            left.len()
        ));
    }
    let mut end = SweepEnd::Complete;
    for (number, turn) in (done + 1..).zip(left) {
        let point = if player.stop.starting.is_cancelled() { None } else { player.play(*turn) };
        let Some(point) = point else {
            end = SweepEnd::Interrupted;
            break;
        };
        if !quiet {
            messages::print_stderr(&progress(
                number,
                total,
                &sweep.variants[turn.variant - 1].to_string(),
                &point,
            ));
        }
        points.push(point);
        // If this process is killed, the file has every run so far. An error is reported at the end.
        let _ = sweep_files::write(&SweepResult::new(sweep, points.clone(), SweepEnd::Unfinished), &base);
    }
    let result = Box::new(SweepResult::new(sweep, points, end));
    match sweep_files::write(&result, &base) {
        Ok(files) => Swept::Played { result, files, unwritten: Vec::new() },
        Err(error) => Swept::Played { result, files: Vec::new(), unwritten: vec![error.to_string()] },
    }
}

fn is_finished(points: &[Point], turn: Turn) -> bool {
    points.iter().any(|point| point.turn() == turn)
}

/// Returns the runs in their order, for `--dry-run`.
fn plan(options: &Options, left: &[Turn]) -> String {
    let sweep = &options.sweep;
    let mut text =
        format!("target: {}; {} variants, {} runs\n", sweep.target, sweep.variants.len(), left.len());
    for (number, turn) in (1..).zip(left) {
        let variant = &sweep.variants[turn.variant - 1];
        let _ = writeln!(text, "run {number:>3}: {variant} (repetition {})", turn.repetition);
    }
    text
}

/// Returns the line about a run.
fn progress(number: usize, total: usize, variant: &str, point: &Point) -> String {
    let figure =
        |key: &str| point.figures.get(key).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let figures = if point.is_finished() {
        let [p50, p99, tokens] = ["e2el_p50_ms", "e2el_p99_ms", "tokens_per_s"].map(figure);
        format!("; e2el_ms p50 {p50}, p99 {p99}; {tokens} tokens/s")
    } else {
        format!(" ({})", point.reason)
    };
    let (repetition, verdict) = (point.repetition, point.verdict.name());
    format!("run {number:>3} of {total}: {variant} (repetition {repetition}): {verdict}{figures}")
}

/// Creates the directory of the runs and returns its name, which is that of the sweep.
fn create(output_dir: &Path, name: &str, started_at: OffsetDateTime) -> io::Result<String> {
    let format = format_description!("[year][month][day]_[hour][minute][second]");
    let time = started_at.format(format).map_err(io::Error::other)?;
    let named = |error: io::Error, path: &Path| {
        io::Error::new(error.kind(), format!("{}: {error}: choose another --output-dir", path.display()))
    };
    fs::create_dir_all(output_dir).map_err(|error| named(error, output_dir))?;
    for again in 1..MAX_IN_A_SECOND {
        let id = if again == 1 { format!("{name}_{time}") } else { format!("{name}_{time}_{again}") };
        let path = output_dir.join(&id);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(id),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(error, &path)),
        }
    }
    Err(io::Error::other("too many sweeps have this name: choose another --name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn two_sweeps_of_a_second_have_different_names() {
        let directory = tempfile::tempdir().unwrap();
        let started_at = datetime!(2026-11-21 00:45:09 +2);
        let name = || create(&directory.path().join("made/for/it"), "sweep", started_at).unwrap();
        assert_eq!([name(), name()], ["sweep_20261121_004509", "sweep_20261121_004509_2"]);
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = create(&file.join("x"), "sweep", started_at).unwrap_err().to_string();
        assert!(error.contains("file/x") && error.contains("--output-dir"), "{error}");
    }
}

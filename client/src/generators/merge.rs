//! `streamstress merge`: joins the parts of generators, from their files or from a control Redis, into the result of the run, with its verdict.

use super::{decode, fingerprint};
use crate::{
    cli::{MergeArgs, RunArgs},
    config::Config,
    engine::{self, RunError, refused},
    lead::{Generators, Lead},
};
use coordination::{Event, Timing};
use load::watch::Source;
use measure::{GeneratorHeader, GeneratorMessage, GeneratorReport};
use plan::Stop;
use report::output::{Finished, PartFileError, PartReader};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use time::{OffsetDateTime, UtcOffset};

/// Ending of the file of a generator.
const PART: &str = ".part";

/// The messages of a generator in order.
type Messages = Box<dyn Iterator<Item = Result<GeneratorMessage, PartFileError>>>;

/// What is merged.
struct Parts {
    header: GeneratorHeader,
    /// Messages of each generator by the index of its shard.
    messages: BTreeMap<u32, Messages>,
    /// Generators without messages, each with the reason.
    missing: BTreeMap<u32, String>,
    /// Files of rows.
    rows: Vec<PathBuf>,
}

/// Merges the parts of a run and writes its result.
///
/// # Errors
/// There are no parts, they belong to several runs, one is missing or incomplete, or the results cannot be written.
pub(crate) fn merge(args: &MergeArgs) -> Result<Finished, RunError> {
    let parts = match (&args.control, &args.run_id) {
        (Some(url), Some(id)) => from_redis(url, id)?,
        _ => from_files(args)?,
    };
    let config = config_of(&parts.header, args)?;
    write(&config, parts)
}

/// Reads the parts of a run from a control Redis. Waits until the run has ended.
fn from_redis(url: &str, id: &str) -> Result<Parts, RunError> {
    let redis = coordination::redis::Control::new(url, Timing::default())
        .map_err(|error| refused(&format!("--control: {error}")))?;
    let collected = redis.collect(id).map_err(|error| refused(&error.to_string()))?;
    let (mut header, mut missing) = (None, BTreeMap::new());
    let mut messages: BTreeMap<u32, Vec<GeneratorMessage>> = BTreeMap::new();
    for event in collected.leadership.events {
        match event {
            Event::Part { shard, bytes, .. } => match GeneratorMessage::from_bytes(&bytes) {
                Ok(GeneratorMessage::Header(found)) => header = header.or(Some(found)),
                Ok(message) => messages.entry(shard).or_default().push(message),
                Err(error) => drop(missing.insert(shard, error.to_string())),
            },
            Event::Finished { shard, bytes } => match decode::<GeneratorReport>(&bytes) {
                Some(report) => {
                    messages.entry(shard).or_default().push(GeneratorMessage::Report(Box::new(report)));
                }
                None => {
                    missing.insert(shard, "its report is of another version of streamstress".into());
                }
            },
            Event::Lost { shard, reason } => drop(missing.insert(shard, reason)),
            Event::Dropped { shard, parts } => {
                missing.insert(shard, format!("{parts} of its parts did not arrive"));
            }
            _ => {}
        }
    }
    let header = header.ok_or_else(|| refused(&format!("run {id} has no results in the control Redis")))?;
    let iterate = |(shard, messages): (u32, Vec<GeneratorMessage>)| {
        let messages: Messages = Box::new(messages.into_iter().map(Ok));
        (shard, messages)
    };
    Ok(Parts { header, messages: messages.into_iter().map(iterate).collect(), missing, rows: Vec::new() })
}

/// Finds the parts of a run in files, and checks that they are complete.
fn from_files(args: &MergeArgs) -> Result<Parts, RunError> {
    let files = part_files(&args.paths).map_err(|error| refused(&error))?;
    let headers = files.iter().map(|path| header(path)).collect::<Result<Vec<_>, _>>();
    let headers = headers.map_err(|error| refused(&error.to_string()))?;
    let mut shards = BTreeMap::new();
    let first = headers.first().cloned().ok_or_else(|| nothing(&args.paths))?;
    for (path, header) in files.iter().zip(&headers) {
        check(&first, header, path, &files[0])?;
        if let Some(other) = shards.insert(header.shard, path.clone()) {
            return Err(refused(&format!(
                "{} and {} are both of shard {}: give one of them",
                other.display(),
                path.display(),
                header.shard + 1
            )));
        }
    }
    let missing: Vec<u32> = (0..first.generators).filter(|shard| !shards.contains_key(shard)).collect();
    if !missing.is_empty() && !args.allow_partial {
        let missing: Vec<_> = missing.iter().map(|shard| (shard + 1).to_string()).collect();
        return Err(refused(&format!(
            "the parts of shards {} of {} are missing: give their files too, or add --allow-partial for a result whose verdict is INVALID",
            missing.join(", "),
            first.generators
        )));
    }
    let mut messages = BTreeMap::new();
    for (&shard, path) in &shards {
        // Complete or not is known before anything is written.
        if !args.allow_partial {
            complete(path).map_err(|error| refused(&error.to_string()))?;
        }
        let reader = PartReader::open(path).map_err(|error| refused(&error.to_string()))?;
        messages.insert(shard, Box::new(reader) as Messages);
    }
    let rows = shards.values().map(|path| path.with_extension("csv")).filter(|rows| rows.exists()).collect();
    let missing =
        missing.into_iter().map(|shard| (shard, "its part file was not given".to_owned())).collect();
    Ok(Parts { header: first, messages, missing, rows })
}

/// Returns the part files among the paths and in the directories among them.
fn part_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |error| format!("cannot read {}: {error}", path.display());
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(unreadable)? {
                let file = entry.map_err(unreadable)?.path();
                if file.to_string_lossy().ends_with(PART) {
                    files.push(file);
                }
            }
        } else {
            std::fs::metadata(path).map_err(unreadable)?;
            files.push(path.clone());
        }
    }
    files.sort();
    Ok(files)
}

fn nothing(paths: &[PathBuf]) -> RunError {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    refused(&format!(
        "no results of generators in {}: expected files whose names end in {PART}, as `streamstress run --shard 1/2` writes them",
        paths.join(", ")
    ))
}

fn header(path: &Path) -> Result<GeneratorHeader, PartFileError> {
    match PartReader::open(path)?.next() {
        Some(Ok(GeneratorMessage::Header(header))) => Ok(header),
        Some(Err(error)) => Err(error),
        _ => Err(PartFileError::WrongFormat(path.to_owned())),
    }
}

fn complete(path: &Path) -> Result<(), PartFileError> {
    PartReader::open(path)?.try_for_each(|message| message.map(drop))
}

/// Checks that a part belongs to the same run as the first one.
fn check(
    first: &GeneratorHeader,
    header: &GeneratorHeader,
    path: &Path,
    other: &Path,
) -> Result<(), RunError> {
    let same =
        |header: &GeneratorHeader| (header.run_id.clone(), header.fingerprint.clone(), header.generators);
    if same(first) == same(header) {
        return Ok(());
    }
    Err(refused(&format!(
        "{} and {} are parts of different runs ({} and {}): give the parts of one run",
        other.display(),
        path.display(),
        first.run_id,
        header.run_id
    )))
}

/// Returns the configuration of the run from the options in a header.
fn config_of(header: &GeneratorHeader, args: &MergeArgs) -> Result<Config, RunError> {
    let options: RunArgs = toml::from_str(&header.options)
        .map_err(|error| refused(&format!("the options of the run: {error}")))?;
    let options = RunArgs { output_dir: Some(args.output_dir.clone()), tui: false, out: None, ..options };
    let config = Config::new(options, 1, 0)?;
    if fingerprint(&config) == header.fingerprint {
        Ok(config)
    } else {
        Err(refused(
            "the plan of the run cannot be made again here: a file that its options name has changed",
        ))
    }
}

fn write(config: &Config, parts: Parts) -> Result<Finished, RunError> {
    let Parts { header, messages, missing, rows } = parts;
    let tls = engine::tls(config)?;
    let stop = Stop::default();
    let offset = UtcOffset::from_whole_seconds(header.utc_offset).unwrap_or(UtcOffset::UTC);
    let started_at = OffsetDateTime::from_unix_timestamp(header.started_at)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    let members = Source::Unknown("the results are merged after the run".into());
    let lead = Lead::prepare(config, None, members, &tls, &stop, (started_at, header.generators))?;
    missing.keys().for_each(|&shard| lead.results().ended(shard));
    let mut generators = Generators { count: header.generators, lost: missing, ..Generators::default() };
    // One message from each generator in turn, so that the seconds of the run become complete as they did during the run.
    let mut readers: Vec<_> = messages.into_iter().collect();
    let mut seconds = 0;
    while !readers.is_empty() {
        readers.retain_mut(|(shard, reader)| next(&lead, &mut generators, &mut seconds, *shard, reader));
    }
    lead.conclude(generators, &rows, Duration::from_secs(seconds))
}

/// Handles the next message of a generator, and notes how many seconds the run took. Returns whether there are more messages.
fn next(
    lead: &Lead<'_>,
    generators: &mut Generators,
    seconds: &mut u64,
    shard: u32,
    reader: &mut Messages,
) -> bool {
    match reader.next() {
        Some(Ok(GeneratorMessage::Header(_))) => true,
        Some(Ok(GeneratorMessage::Part(part))) => {
            *seconds = part.seconds.keys().next_back().map_or(*seconds, |last| (*seconds).max(last + 1));
            lead.results().add(shard, *part);
            true
        }
        Some(Ok(GeneratorMessage::Report(report))) => {
            lead.faults().add_effects(&report.faults);
            generators.reports.insert(shard, *report);
            true
        }
        Some(Err(error)) => {
            generators.lost.insert(shard, error.to_string());
            lead.results().ended(shard);
            false
        }
        None => {
            lead.results().ended(shard);
            false
        }
    }
}

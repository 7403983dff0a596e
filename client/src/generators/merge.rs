//! `streamstress merge`: joins the parts of generators, from their files or from a control Redis, into the result of the run, with its verdict.

use super::fingerprint;
use crate::{
    cli::{MergeArgs, RunArgs},
    config::Config,
    lead::{Generators, Lead, LeadSettings},
    run_error::{RunError, refused},
};
use coordination::{Event, Leader, Leadership, Timing};
use load::watch::Source;
use measure::{GeneratorHeader, GeneratorMessage};
use plan::{Shard, Stop};
use report::output::{Finished, PartFileError, PartReader};
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use time::{OffsetDateTime, UtcOffset};

/// Ending of the file of a generator.
const PART: &str = ".part";

/// What is known of the generator with this index.
type Item = (u32, News);

enum News {
    Message(GeneratorMessage),
    /// Some of its messages are missing, for this reason.
    Incomplete(String),
    /// It has no more messages, for this reason.
    Over(String),
}

impl News {
    fn of(read: Result<GeneratorMessage, impl ToString>) -> Self {
        read.map_or_else(|error| Self::Over(error.to_string()), Self::Message)
    }
}

/// What is merged.
struct Parts {
    header: GeneratorHeader,
    /// The messages of all generators, those of each in order.
    items: Box<dyn Iterator<Item = Item>>,
    /// Files of rows.
    rows: Vec<PathBuf>,
    /// The items come from the control Redis as long as this exists.
    _source: Option<Arc<dyn Leader>>,
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

/// Reads the parts of a run from a control Redis. The items end when the run has ended.
fn from_redis(url: &str, id: &str) -> Result<Parts, RunError> {
    let redis = coordination::redis::Control::new(url, Timing::default())
        .map_err(|error| refused(&format!("--control: {error}")))?;
    let collected = redis.collect(id).map_err(|error| refused(&error.to_string()))?;
    let Leadership { leader, events } = collected.leadership;
    let mut items = events.into_iter().filter_map(item);
    // A generator may be lost before the header of another one is read.
    let mut before = Vec::new();
    let header = loop {
        match items.next() {
            Some((_, News::Message(GeneratorMessage::Header(header)))) => break header,
            Some(item) => before.push(item),
            None => return Err(refused(&format!("run {id} has no results in the control Redis"))),
        }
    };
    let items = Box::new(before.into_iter().chain(items));
    Ok(Parts { header, items, rows: Vec::new(), _source: Some(leader) })
}

/// Returns what an event of the control Redis says about results.
fn item(event: Event) -> Option<Item> {
    match event {
        Event::Part { shard, bytes, .. } | Event::Finished { shard, bytes } => {
            Some((shard, News::of(GeneratorMessage::from_bytes(&bytes))))
        }
        Event::Lost { shard, reason } => Some((shard, News::Over(reason))),
        Event::Dropped { shard, parts } => {
            Some((shard, News::Incomplete(format!("{parts} of its parts did not arrive"))))
        }
        _ => None,
    }
}

/// Reads one message of each file in turn, so that few seconds of the run are incomplete at a time.
struct InTurn(VecDeque<(u32, PartReader)>);

impl Iterator for InTurn {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let (shard, mut reader) = self.0.pop_front()?;
            if let Some(message) = reader.next() {
                self.0.push_back((shard, reader));
                return Some((shard, News::of(message)));
            }
        }
    }
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
    let mut readers = VecDeque::new();
    for (&shard, path) in &shards {
        // Complete or not is known before anything is written.
        if !args.allow_partial {
            complete(path).map_err(|error| refused(&error.to_string()))?;
        }
        readers.push_back((shard, PartReader::open(path).map_err(|error| refused(&error.to_string()))?));
    }
    let missing =
        missing.into_iter().map(|shard| (shard, News::Over("its part file was not given".to_owned())));
    let items = Box::new(missing.chain(InTurn(readers)));
    let rows = shards.values().map(|path| path.with_extension("csv")).filter(|rows| rows.exists()).collect();
    Ok(Parts { header: first, items, rows, _source: None })
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
    // A file may be given twice, also as part of its directory.
    let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    files.sort_by_cached_key(canonical);
    files.dedup_by_key(|path| canonical(path));
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
        Some(Ok(GeneratorMessage::Header(header)))
            if Shard::new(header.shard, header.generators).is_some() =>
        {
            Ok(header)
        }
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
    let Parts { header, items, rows, _source } = parts;
    let stop = Stop::default();
    let offset = UtcOffset::from_whole_seconds(header.utc_offset).unwrap_or(UtcOffset::UTC);
    let started_at = OffsetDateTime::from_unix_timestamp(header.started_at)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    let settings = LeadSettings::new(config, None, &stop, started_at)
        .with_generators(header.generators)
        .with_endless_patience();
    let lead = Lead::prepare(settings, Source::Unknown("the results are merged after the run".into()))?;
    let mut generators = Generators::default();
    let mut seconds = 0;
    for (shard, item) in items {
        match item {
            News::Message(message) => {
                if let GeneratorMessage::Part(part) = &message {
                    seconds = part.seconds.keys().next_back().map_or(seconds, |last| seconds.max(last + 1));
                }
                generators.receive(shard, message, lead.results(), lead.faults(), lead.schedule());
            }
            News::Incomplete(reason) => generators.lose(shard, reason),
            News::Over(reason) => {
                generators.lose(shard, reason);
                lead.results().ended(shard);
            }
        }
    }
    lead.conclude(generators, &rows, Duration::from_secs(seconds))
}

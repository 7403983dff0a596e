//! A run with several generators. Each plays its shard of the plan and sends what it measured, in parts; the leader merges the parts,
//! judges and writes the results, as it does for one generator.
//!
//! On one machine (`--generators 4`) this process is the leader: it starts the generators as processes and meets them on a unix socket
//! ([`processes`]). With a control Redis (`--control`) each generator is started separately, and one of them leads
//! ([`control`]). `--shard 2/8` plays one part without the others. [`merge`] joins the parts afterwards.

pub(crate) mod control;
mod leader;
pub(crate) mod manifest;
mod member;
pub(crate) mod merge;
pub(crate) mod processes;

use crate::{
    config::{Config, Division},
    run_error::{RunError, refused},
};
use measure::{FaultRecord, GeneratorHeader, live::LiveTotals, record::Moment};
use parking_lot::Mutex;
use plan::{Shard, schedule::Amendment};
use report::output::{PartFile, Results, SharedPartFile};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use time::OffsetDateTime;
use xxhash_rust::xxh3::Xxh3;

/// What the leader tells the generators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Instruction {
    /// The names of servers in faults, by the names that the servers state.
    StatedNames(BTreeMap<String, String>),
    /// When and how faults were injected.
    Faults(Vec<FaultRecord>),
    /// Change the plan.
    Amend(Amendment),
    /// Send all first queries at this time from the start of the run.
    Burst(Moment),
    /// Start no more sessions and queries.
    Stop,
    /// Abandon what runs.
    StopNow,
}

/// The state of a generator, which its heartbeats carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Status {
    totals: LiveTotals,
    /// Its first send.
    first_send: Option<Moment>,
    /// In a burst: all its sessions have connected or failed.
    is_ready: bool,
}

/// Returns a value as bytes. The format is that of this version only.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap_or_default()
}

/// Reads a value from bytes. Returns `None` if another version wrote it.
fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

/// Returns the fingerprint of what all generators of a run must have in common: the plan and the criteria, but not the addresses of
/// the target, the number of workers and the place of the results.
pub(crate) fn fingerprint(config: &Config) -> String {
    struct Hasher(Xxh3);
    impl Write for Hasher {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let (plan, criteria) = (&config.plan, &config.criteria);
    let load = plan::Load { workers: 0, ..plan.load.clone() };
    let mut hasher = Hasher(Xxh3::new());
    // Versions do not understand each other's messages.
    let _ = write!(
        hasher,
        "{} {load:?} {:?} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        plan.schedule,
        plan.users,
        plan.behaviour
    );
    let _ = write!(hasher, " {:?} {:?} {:?}", plan.reconnect, plan.faults, criteria);
    format!("{:016x}", hasher.0.digest())
}

/// The conclusion of a run, as the leader stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conclusion {
    /// Exit code of the verdict.
    pub(crate) exit_code: u8,
    /// Verdict and reason.
    pub(crate) verdict: String,
}

/// Returns the run that all its generators must agree on.
fn run_of(config: &Config, generators: u32) -> coordination::Run {
    let fingerprint = fingerprint(config);
    let id = match &config.division {
        Division::Control(control) => control.run_id.clone(),
        _ => None,
    };
    coordination::Run { id: id.unwrap_or_else(|| fingerprint.clone()), generators, fingerprint }
}

/// Creates the part file of a generator that plays its shard without the others, beside its results.
///
/// # Errors
/// The file cannot be created.
pub(crate) fn part_file(
    config: &Config,
    shard: Shard,
    results: &Results,
    started_at: OffsetDateTime,
) -> Result<SharedPartFile, RunError> {
    let header = header(config, &run_of(config, shard.count()), shard.index(), started_at);
    open_part_file(&results.path(".part"), &header)
}

/// Creates the part file of a generator, with its header.
fn open_part_file(path: &Path, header: &GeneratorHeader) -> Result<SharedPartFile, RunError> {
    let mut file = PartFile::create(path).map_err(|error| refused(&error.to_string()))?;
    file.append(&header.to_message());
    Ok(Arc::new(Mutex::new(file)))
}

/// Returns the path of the file of a generator with this ending.
fn file_of(base: &Path, ending: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Returns the header of a generator.
fn header(
    config: &Config,
    run: &coordination::Run,
    shard: u32,
    started_at: OffsetDateTime,
) -> GeneratorHeader {
    GeneratorHeader {
        run_id: run.id.clone(),
        fingerprint: run.fingerprint.clone(),
        shard,
        generators: run.generators,
        options: config.options(),
        started_at: started_at.unix_timestamp(),
        utc_offset: started_at.offset().whole_seconds(),
    }
}

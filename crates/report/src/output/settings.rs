//! Where the results of a run go, what they are judged by, and which live outputs are wanted.

use super::{Criteria, EventSettings, RunMetrics, SharedStatus};
use measure::{Interval, Reading};
use plan::LiveSchedule;
use std::{path::PathBuf, sync::mpsc::SyncSender, time::Duration};
use time::OffsetDateTime;

/// Settings of a run's outputs.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// Output directory. Created if it does not exist.
    pub dir: PathBuf,
    /// First part of the file names, for example `loadtest`.
    pub name: String,
    /// Local time at the start of the run. Read it in `main` before any thread starts: the offset from UTC cannot be read
    /// safely afterwards.
    pub started_at: OffsetDateTime,
    /// Criteria for the verdict.
    pub criteria: Criteria,
    /// Last part of the run's id, for example `_shard2`. Usually empty.
    pub suffix: String,
    /// Number of generators whose parts are merged, at least 1.
    pub generators: u32,
    /// How long a second of the run waits for generators that are behind, after measurements of a later second have arrived. What they
    /// send afterwards counts in the first second that is not written. `None`: for ever.
    pub patience: Option<Duration>,
    /// Schedule of the run, for the target of each second and the steady state.
    pub schedule: Option<LiveSchedule>,
    /// Receives the live status while the run goes on. `None` if no live view is open.
    pub shared_status: Option<SharedStatus>,
    /// Receives the metrics of the run each second. `None` if they are not read.
    pub metrics: Option<RunMetrics>,
    /// Receives every second of the run as soon as it is complete. It is closed when the receiver is too slow, so that it misses no second
    /// in between.
    pub seconds: Option<SyncSender<MeasuredSecond>>,
    /// Settings of `--out json`. `None` if no events are wanted.
    pub events: Option<EventSettings>,
}

/// A complete second of a run.
#[derive(Debug)]
pub struct MeasuredSecond {
    /// The second, counted from the start of the run.
    pub second: u64,
    /// Measurements of all generators.
    pub interval: Interval,
    /// Readings of the stack.
    pub readings: Vec<Reading>,
}

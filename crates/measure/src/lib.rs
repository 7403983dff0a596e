//! Turns the records of a run into distributions, counts, failures, findings and the verdict, compares runs, and sizes stacks.
//! All of it is pure: it opens no socket and no file, reads no clock, and never averages percentiles.

mod active;
mod bounds;
pub mod capacity;
pub mod cold_start;
pub mod comparison;
mod concurrency;
pub mod contents;
pub mod defects;
mod distribution;
mod failures;
mod fault_log;
pub mod findings;
mod generator;
mod goodput;
pub mod growth;
mod hops;
mod integrity;
mod interval;
mod interval_counts;
pub mod live;
pub mod memory;
mod metric;
pub mod observations;
mod part;
mod query_times;
mod readings;
pub mod record;
mod recorder;
mod run;
mod samples;
pub mod series;
pub mod silence;
pub mod sizing;
mod statistic;
mod steady;
mod storm;
pub mod sweep;
pub mod threshold;
pub mod timeline;
mod tokens;
pub mod trend;
mod verdict;

pub use active::{ActiveCounter, ActiveGuard, Activity};
use bounds::Bounds;
pub use bounds::{BoundedSample, FIGURES, Trust};
pub use concurrency::{Concurrency, mean_in_second};
pub use distribution::{Distribution, Summary};
pub use failures::{FailureGroup, Failures};
pub use fault_log::{FaultLog, FaultRecord, FaultStatus};
pub use generator::{Arrivals, FiguresByGenerator, GeneratorFigures, GeneratorReport};
pub use goodput::{Objective, ObjectiveError, ObjectiveMetric};
pub use hops::{
    CLOCK_ERROR_US, Hop, HopFigures, HopGrowth, HopMean, HopSplit, HopTrend, ImpossibleTimes, SharedClocks,
    TokenTimes,
};
pub use integrity::{INTEGRITY_RULES, IntegrityRule};
pub use interval::Interval;
pub use interval_counts::IntervalCounts;
pub use metric::Metric;
pub use part::{GeneratorHeader, GeneratorMessage, InvalidMessage, Part};
pub use query_times::{QueryTimes, nanos, tpot_ns};
pub use readings::{
    Quantity, Reading, ReadingBuffer, ReadingProducer, ReadingSelector, ReadingStats, ReadingTotals, role,
};
pub use recorder::{Recorder, RecorderMessage};
pub use run::{LateQueries, LongestGap, QueryCounts, RunData, SessionCounts};
pub use samples::QuerySamples;
pub use statistic::{Statistic, samples_needed};
pub use steady::Steady;
pub use storm::{Peak, ReconnectStorm};
pub use tokens::TokenCounts;
pub use verdict::{Breach, Evidence, Judgement, Trustworthiness, Verdict, exit_code, judge};

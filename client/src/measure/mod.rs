//! What the engine's records add up to: distributions, sums, failures and the verdict.
//! Pure: it opens no socket and no file, reads no clock, and averages no percentile.

mod beside;
mod bounds;
mod counts;
mod distribution;
mod failures;
mod gauge;
mod goodput;
mod integrity;
mod interval;
mod metric;
mod query_times;
mod recorder;
mod run;
mod samples;
mod steady;
mod storm;
pub mod threshold;
mod tokens;
mod verdict;

pub use beside::{Beside, Quantity, Question, Reading, Readings, Totals, Watcher, role};
use bounds::Bounds;
pub use bounds::{Bounded as BoundedSample, FIGURES, Trust};
pub use counts::Counts;
pub use distribution::{Distribution, Summary};
pub use failures::{FailureGroup, Failures};
pub use gauge::{Gauge, Present};
pub use goodput::{Bounded, NoObjective, Objective};
pub use integrity::{RULES, Rule};
pub use interval::Interval;
pub use metric::Metric;
pub(crate) use query_times::QueryTimes;
pub use recorder::{Parcel, Recorder};
pub(crate) use recorder::{nanos, tpot_ns};
pub use run::{LateQueries, LongestGap, QueryCounts, RunData, SessionCounts};
pub use samples::QuerySamples;
pub use steady::Steady;
pub use storm::{Peak, ReconnectStorm};
pub use tokens::TokenCounts;
pub use verdict::{Breach, Evidence, Judgement, Trustworthiness, Verdict, exit_code, judge};

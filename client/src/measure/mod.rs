//! What the engine's records add up to: distributions, sums, failures and the verdict.
//! Pure: it opens no socket and no file, reads no clock, and averages no percentile.

mod counts;
mod distribution;
mod failures;
mod gauge;
mod goodput;
mod interval;
mod metric;
mod recorder;
mod run;
mod steady;
mod storm;
pub mod threshold;
mod verdict;

pub use counts::Counts;
pub use distribution::{Distribution, Summary};
pub use failures::{FailureGroup, Failures};
pub use gauge::{Gauge, Present};
pub use goodput::{Bounded, NoObjective, Objective};
pub use interval::Interval;
pub use metric::Metric;
pub use recorder::{FinishedSession, Parcel, Recorder};
pub(crate) use recorder::{nanos, tpot_ns};
pub use run::{LongestGap, QueryCounts, RunData, SessionCounts, TokenCounts};
pub use steady::Steady;
pub use storm::{Peak, ReconnectStorm};
pub use verdict::{Evidence, Judgement, Verdict, exit_code, judge};

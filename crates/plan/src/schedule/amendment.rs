//! Amendments: changes of a plan while it runs. Each takes effect at a second that has not come yet, so that what was played
//! before stays as it was, and every generator plays the same rest.

use serde::{Deserialize, Serialize};
use settings::plural::counted;
use std::{fmt, time::Duration};

/// Largest number of sessions or arrivals in a plan.
pub const MAX_PLANNED: u64 = 1_000_000;
/// Largest number of amendments of a run. Each adds two stages to its replay, which has room for a thousand.
pub const MAX_AMENDMENTS: usize = 400;
/// Shortest time in which the load changes. Its seconds belong to no steady state.
pub const SHORTEST_TRANSITION: Duration = Duration::from_secs(1);

/// The new load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Open sessions, in closed models.
    Clients(u64),
    /// Arrivals per second, in open models.
    ArrivalRate(f64),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(clients) => f.write_str(&counted(*clients, "sessions")),
            Self::ArrivalRate(rate) => f.write_str(&counted(*rate, "arrivals per second")),
        }
    }
}

/// A change of the plan from a second of the run on, until its end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// Number of the amendment in its run, from 1.
    pub number: u32,
    /// The second of the run at which the change begins.
    pub at_s: u64,
    /// The new load.
    pub change: Change,
    /// Time within which sessions start or end evenly, at least [`SHORTEST_TRANSITION`]. A rate changes at once.
    pub ramp_up: Duration,
}

impl Amendment {
    /// Returns when the change begins, counted from the start of the run.
    #[must_use]
    pub const fn at(&self) -> Duration {
        Duration::from_secs(self.at_s)
    }

    /// Returns when the change is complete, counted from the start of the run.
    #[must_use]
    pub fn complete_at(&self) -> Duration {
        self.at() + self.ramp_up.max(SHORTEST_TRANSITION)
    }
}

/// `100 sessions from 20 s on, within 5 s`.
impl fmt::Display for Amendment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} s on", self.change, self.at_s)?;
        match self.change {
            Change::Clients(_) => write!(f, ", within {} s", self.ramp_up.as_secs_f64()),
            Change::ArrivalRate(_) => Ok(()),
        }
    }
}

/// The reason why a plan cannot be changed like this.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AmendError {
    /// The run ends after its last query.
    #[error(
        "this run ends after its last query: only runs with --duration, --stages or --arrival-rate can be amended"
    )]
    NoEnd,
    /// The arrivals are those of a trace.
    #[error("this run replays a trace: only runs with --duration, --stages or --arrival-rate can be amended")]
    Trace,
    /// The run has arrivals at a rate, and another number of sessions was asked for.
    #[error("the load of this run is a rate of arrivals: amend it with --arrival-rate")]
    NeedsRate,
    /// The run has a number of sessions, and another rate was asked for.
    #[error("the load of this run is a number of sessions: amend it with --clients")]
    NeedsClients,
    /// The change would not be complete before the schedule ends.
    #[error(
        "the schedule of this run ends at {end_s} s, before the change could be complete at {complete_s} s: amend it earlier, or with a shorter --ramp-up"
    )]
    TooLate {
        /// End of the schedule, in seconds of the run.
        end_s: f64,
        /// When the change would be complete, in seconds of the run.
        complete_s: f64,
    },
    /// The sessions that the queries use have not connected.
    #[error("the sessions of this run connect until {connected_s} s: amend it later")]
    TooEarly {
        /// End of the time in which sessions connect, in seconds of the run.
        connected_s: f64,
    },
    /// Another amendment has this number.
    #[error("another amendment {number} was made")]
    NumberTaken {
        /// The number.
        number: u32,
    },
    /// An earlier amendment changes the same second or a later one.
    #[error("an earlier amendment takes effect at {at_s} s: wait until then")]
    OutOfOrder {
        /// The second of the earlier amendment.
        at_s: u64,
    },
    /// The plan would have too many sessions or arrivals.
    #[error("the plan would have {planned:.0} sessions or arrivals: expected at most {MAX_PLANNED}")]
    TooManyPlanned {
        /// Sessions or arrivals of the amended plan.
        planned: f64,
    },
    /// The rate is not usable.
    #[error("invalid rate {0}: expected a number per second, from 0.001 to 1000000")]
    InvalidRate(f64),
    /// The run has had too many amendments.
    #[error("the run has had {MAX_AMENDMENTS} amendments: no more are possible")]
    TooMany,
}

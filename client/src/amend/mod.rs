//! Amendments: `streamstress amend --clients 300` changes the plan of a run that is going on, and `--fault wsproxy-1:kill` injects a fault
//! that the plan lacks.
//!
//! The process that leads the run decides ([`Amender`]): it gives the change a second that has not come yet, tells all generators, and
//! answers. Requests reach it through a unix socket on its machine ([`service`]), or through the control Redis of the run. [`command`]
//! is the subcommand.

pub(crate) mod command;
pub(crate) mod service;

pub(crate) use service::running;

use plan::{
    LiveSchedule, Stop,
    schedule::{AmendError, Amendment, Change, Schedule},
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Shortest time from a request until the change begins. It must reach all generators before.
const NOTICE: Duration = Duration::from_secs(2);

/// What `streamstress amend` asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Which run is this?
    Describe,
    /// Change the plan.
    Amend {
        /// The new load.
        change: Change,
        /// Time within which it changes.
        ramp_up: Duration,
    },
    /// Inject a fault now.
    Inject {
        /// Text of the fault, for example `wsproxy-1:kill`.
        fault: String,
    },
}

/// The answer of the process that leads the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The run.
    Run {
        /// Common start of the names of its files.
        id: String,
        /// Time since its start.
        elapsed: Duration,
        /// Whether its load can be changed.
        amendable: bool,
    },
    /// The plan is changed.
    Amended {
        /// The change.
        amendment: Amendment,
        /// Time until it begins.
        begins_in: Duration,
    },
    /// The injection of the fault has begun.
    Injecting,
    /// Nothing is changed, for this reason.
    Refused(String),
}

/// Why the plan of a run is not changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The run ends.
    #[error("the run is ending: it cannot be changed any more")]
    Ending,
    /// The plan cannot be changed like this.
    #[error(transparent)]
    Plan(#[from] AmendError),
    /// This machine cannot carry the changed plan.
    #[error("{0}")]
    Host(String),
    /// The message to the generators cannot be sent.
    #[error("{0}")]
    Untold(String),
}

/// Tells all generators of a run of a change. Returns why it cannot.
pub(crate) type Broadcast = Box<dyn Fn(Amendment) -> Result<(), String> + Send + Sync>;

/// Begins to inject a fault. Returns why it cannot.
pub(crate) type Inject = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Changes the plan of a run.
pub(crate) struct Amender {
    /// Common start of the names of the run's files.
    pub(crate) id: String,
    pub(crate) schedule: LiveSchedule,
    /// Start of the run.
    pub(crate) epoch: Instant,
    /// Checks that this machine can carry the changed plan.
    pub(crate) check: Box<dyn Fn(Schedule) -> Result<(), String> + Send + Sync>,
    /// Whether the run was asked to end.
    pub(crate) stop: Stop,
    /// `None` if this process is the only generator.
    pub(crate) broadcast: Option<Broadcast>,
    pub(crate) inject: Inject,
}

impl Amender {
    /// Executes a request. Call it from one thread at a time.
    pub(crate) fn execute(&self, request: &Request) -> Response {
        match request {
            Request::Describe => Response::Run {
                id: self.id.clone(),
                elapsed: self.epoch.elapsed(),
                amendable: self.schedule.current().is_amendable(),
            },
            Request::Inject { .. } if self.stop.starting.is_cancelled() => {
                Response::Refused(Refusal::Ending.to_string())
            }
            Request::Inject { fault } => {
                (self.inject)(fault).map_or_else(Response::Refused, |()| Response::Injecting)
            }
            &Request::Amend { change, ramp_up } => match self.amend(change, ramp_up) {
                Ok(amendment) => Response::Amended {
                    amendment,
                    begins_in: amendment.at().saturating_sub(self.epoch.elapsed()),
                },
                Err(refusal) => Response::Refused(refusal.to_string()),
            },
        }
    }

    /// Changes the plan, like [`Request::Amend`].
    ///
    /// # Errors
    /// Every [`Refusal`]. Nothing is changed then.
    pub(crate) fn amend(&self, change: Change, ramp_up: Duration) -> Result<Amendment, Refusal> {
        if self.stop.starting.is_cancelled() {
            return Err(Refusal::Ending);
        }
        let schedule = self.schedule.current();
        let earliest = self.epoch.elapsed() + NOTICE;
        let amendment = Amendment {
            number: schedule.amendments().len() as u32 + 1,
            at_s: earliest.as_secs() + u64::from(earliest.subsec_nanos() > 0),
            change,
            ramp_up,
        };
        (self.check)(schedule.amended(amendment)?).map_err(Refusal::Host)?;
        if let Some(broadcast) = &self.broadcast {
            broadcast(amendment).map_err(Refusal::Untold)?;
        }
        self.schedule.amend(amendment, Duration::ZERO)?;
        Ok(amendment)
    }
}

//! The thread that steers the run of a search.

use crate::amend::{Amender, Refusal};
use measure::{
    Activity,
    capacity::{Action, Ceiling, End, Pilot, Running, Step},
};
use plan::{Stop, schedule::Change};
use report::output::MeasuredSecond;
use std::{
    sync::{Arc, OnceLock, mpsc::Receiver},
    time::Duration,
};

/// Longest time between the request for a change and its beginning.
const NOTICE: Duration = Duration::from_secs(4);
/// Sessions that start or end per second when the load changes.
const CHANGE_RATE: f64 = 100.0;
/// Shortest and longest time for a change of the load.
const CHANGE_S: (f64, f64) = (1.0, 120.0);

/// What the thread needs.
pub(super) struct Steer<'a> {
    pub(super) pilot: Pilot,
    /// Whether the load is a rate of arrivals.
    pub(super) is_rate: bool,
    /// Time until the first load is established.
    pub(super) ramp_up: Duration,
    pub(super) stop: &'a Stop,
    /// Why the run was ended.
    pub(super) ended: &'a OnceLock<String>,
    /// Time that a step needs after the change of the load.
    pub(super) step: Duration,
    /// Reports each step with its number, counted from 1, and what is known of the ceiling after it.
    pub(super) report: &'a (dyn Fn(usize, &Step, &Ceiling) + Sync),
}

impl Steer<'_> {
    /// Steers until the run is over. Returns what was found, and why the search ended.
    pub(super) fn steer(
        mut self,
        amender: &Receiver<Arc<Amender>>,
        active: &Receiver<Activity>,
        seconds: &Receiver<MeasuredSecond>,
    ) -> (Pilot, End) {
        let (Ok(active), Ok(amender)) = (active.recv(), amender.recv()) else {
            return (self.pilot, End::Interrupted);
        };
        // If this thread panics, the load must not run on.
        let _guard = StopOnPanic(self.stop);
        self.pilot.changes(self.ramp_up.as_secs() + 1);
        let mut load = self.pilot.load();
        let mut reported = self.pilot.steps().len();
        let mut end: Option<End> = None;
        for MeasuredSecond { second, interval, readings } in seconds {
            if end.is_some() || self.stop.starting.is_cancelled() {
                continue;
            }
            if amender.schedule.current().end().is_some_and(|end| second >= end.as_secs()) {
                // The sessions end now, whatever the load was to be.
                end = Some(End::OutOfTime);
                continue;
            }
            let running = Running { times: active.queries.times(), silent: active.silences.too_long() };
            let mut action = self.pilot.second(second, &interval, &readings, running);
            loop {
                for step in &self.pilot.steps()[reported..] {
                    reported += 1;
                    (self.report)(reported, step, &self.pilot.search().ceiling());
                }
                action = match action {
                    Action::Wait => break,
                    Action::Finish(why) => {
                        end = Some(why);
                        break;
                    }
                    Action::Change(next) => match self.change(&amender, load, next) {
                        Changed::From(second) => {
                            load = next;
                            self.pilot.changes(second);
                            break;
                        }
                        Changed::Refused(why) => self.pilot.refuses(why),
                        Changed::TooLate => {
                            end = Some(End::OutOfTime);
                            break;
                        }
                    },
                };
            }
            if end.is_some() {
                let _ = self.ended.set("the search for the ceiling ended".to_owned());
                self.stop.starting.cancel();
            }
        }
        (
            self.pilot,
            end.unwrap_or(if self.stop.starting.is_cancelled() { End::Interrupted } else { End::OutOfTime }),
        )
    }

    fn change(&self, amender: &Amender, load: f64, next: f64) -> Changed {
        let (change, ramp_up) = if self.is_rate {
            (Change::ArrivalRate(next), CHANGE_S.0)
        } else {
            (
                Change::Clients(next as u64),
                ((next - load).abs() / CHANGE_RATE).clamp(CHANGE_S.0, CHANGE_S.1).ceil(),
            )
        };
        let ramp_up = Duration::from_secs_f64(ramp_up);
        let needed = amender.epoch.elapsed() + NOTICE + ramp_up + self.step;
        if amender.schedule.current().end().is_some_and(|end| needed > end) {
            return Changed::TooLate;
        }
        match amender.amend(change, ramp_up) {
            Ok(amendment) => {
                let complete = amendment.complete_at();
                Changed::From(complete.as_secs() + u64::from(complete.subsec_nanos() > 0))
            }
            Err(Refusal::Host(why)) => Changed::Refused(format!("this machine cannot produce it: {why}")),
            Err(Refusal::Ending | Refusal::Plan(_) | Refusal::Untold(_)) => Changed::TooLate,
        }
    }
}

/// Ends the run if the thread that steers it panics.
struct StopOnPanic<'a>(&'a Stop);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.starting.cancel();
        }
    }
}

enum Changed {
    /// The load is established from this second on.
    From(u64),
    Refused(String),
    /// The run ends before the step could.
    TooLate,
}

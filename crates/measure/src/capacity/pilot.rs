//! Steers a run through the steps of a search. It sees every second of the run, and says when the load is to change.
//!
//! A step: the load changes, the new load is warmed up, and then measured. After a step that broke, the warm-up lasts until the answers are
//! about as fast as in the first step, so that the backlog of an overload is not blamed on the next load. If that takes more than
//! [`PATIENCE`], the system gets a load that it held easily, until it has recovered or [`LONGEST_RECOVERY`] is over.

use super::{End, Limits, Outcome, Search, Slo, Step, StepWindow};
use crate::{Interval, Metric, Reading};

/// Longest warm-up after an overload before the load is reduced, in seconds.
const PATIENCE: u64 = 5;
/// Longest time under the reduced load, in seconds.
const LONGEST_RECOVERY: u64 = 60;
/// The reduced load, as a share of the highest load that held.
const EASY: f64 = 0.3;
/// The answers are as fast as in the first step if their median is at most this multiple of that in the first step.
const RECOVERED: f64 = 1.2;
/// A step that is too short for an objective is prolonged up to this multiple.
const LONGEST: u64 = 6;
/// First second of a step after which it may end early.
const EARLIEST_END: u64 = 3;

/// Durations of a step, in whole seconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSettings {
    /// Time after the change before anything counts.
    pub warm_up_s: u64,
    /// Time that is measured, at least 1.
    pub window_s: u64,
    /// Whether the load is a number of sessions that must be open.
    pub counts_sessions: bool,
}

/// What is to be done with the run.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Change the load, and report with [`Pilot::changes`] when the change is complete.
    Change(f64),
    /// End the run.
    Finish(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The change of the load was asked for.
    Asked,
    /// The new load is established before this second.
    Changing {
        complete_s: u64,
    },
    /// The new load warms up.
    WarmingUp {
        since_s: u64,
    },
    /// The system has an easy load instead of that of the next step.
    Recovering {
        since_s: u64,
    },
    Measuring {
        from_s: u64,
    },
    Over,
}

/// Steers a run.
#[derive(Debug)]
pub struct Pilot {
    search: Search,
    slos: Vec<Slo>,
    settings: StepSettings,
    load: f64,
    phase: Phase,
    /// Whether the load that was asked for is the easy one.
    eased: bool,
    /// Whether the system may have a backlog of the last step.
    overloaded: bool,
    window: StepWindow,
    /// Measurements of the first step.
    first: Option<Interval>,
    steps: Vec<Step>,
}

impl Pilot {
    /// Begins a search in a run whose load is [`Pilot::load`] from `complete_s` on. `earlier`: steps of a search that is continued.
    #[must_use]
    pub fn new(limits: Limits, slos: Vec<Slo>, settings: StepSettings, earlier: Vec<Step>) -> Self {
        let mut search = Search::new(limits);
        earlier.iter().for_each(|step| search.add(step.load, &step.outcome));
        let load = search.next().unwrap_or(limits.from);
        Self {
            search,
            slos,
            settings,
            load,
            phase: Phase::Asked,
            eased: false,
            overloaded: false,
            window: StepWindow::default(),
            first: None,
            steps: earlier,
        }
    }

    /// Returns the load of the present step.
    #[must_use]
    pub const fn load(&self) -> f64 {
        self.load
    }

    /// Returns the steps so far.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the search.
    #[must_use]
    pub const fn search(&self) -> &Search {
        &self.search
    }

    /// Notes that the load that was asked for is established from this second of the run on.
    pub const fn changes(&mut self, complete_s: u64) {
        self.phase = Phase::Changing { complete_s };
    }

    /// Notes that the load cannot be changed to what was asked for, because this machine cannot produce it.
    pub fn refuses(&mut self, reason: String) -> Action {
        self.conclude(Outcome::Unmeasurable(reason), 0)
    }

    /// Takes a complete second of the run. Seconds must come in order.
    pub fn second(&mut self, second: u64, interval: &Interval, readings: &[Reading]) -> Action {
        if let Phase::Changing { complete_s } = self.phase
            && second >= complete_s
        {
            self.phase = if self.eased {
                Phase::Recovering { since_s: complete_s }
            } else {
                Phase::WarmingUp { since_s: complete_s }
            };
        }
        match self.phase {
            Phase::Asked | Phase::Changing { .. } | Phase::Over => Action::Wait,
            Phase::WarmingUp { since_s } => self.warm_up(second, second + 1 - since_s, interval),
            Phase::Recovering { since_s } => {
                if !self.has_recovered(interval) && second + 1 - since_s < LONGEST_RECOVERY {
                    return Action::Wait;
                }
                (self.eased, self.overloaded, self.phase) = (false, false, Phase::Asked);
                Action::Change(self.load)
            }
            Phase::Measuring { from_s } => {
                self.window.second(interval, readings);
                match self.outcome(second + 1 - from_s) {
                    Some(outcome) => self.conclude(outcome, from_s),
                    None => Action::Wait,
                }
            }
        }
    }

    /// Takes a second of the warm-up, the last of so many.
    fn warm_up(&mut self, second: u64, seconds: u64, interval: &Interval) -> Action {
        let has_recovered = !self.overloaded || self.has_recovered(interval);
        if !has_recovered && seconds >= self.settings.warm_up_s + PATIENCE {
            let held = self.steps.iter().filter(|step| step.outcome == Outcome::Held).map(|step| step.load);
            if let Some(easy) = held.reduce(f64::max).map(|held| (held * EASY).max(self.search.limits().unit))
            {
                (self.eased, self.phase) = (true, Phase::Asked);
                return Action::Change(self.search.limits().whole(easy));
            }
        }
        // Without a load that held there is nothing to wait for.
        if seconds >= self.settings.warm_up_s && (has_recovered || self.first.is_none()) {
            self.overloaded = false;
            self.phase = Phase::Measuring { from_s: second + 1 };
            self.window = StepWindow::default();
        }
        Action::Wait
    }

    /// Returns whether the answers of this second are about as fast as those of the first step.
    fn has_recovered(&self, interval: &Interval) -> bool {
        let median = |interval: &Interval| interval.get(Metric::E2el).quantile_ms(0.5);
        let first = self.first.as_ref().and_then(median);
        median(interval).zip(first).is_some_and(|(now, first)| now <= RECOVERED * first)
            && interval.counts().failed == 0
    }

    /// Returns the outcome of a step that was measured for this many seconds, or `None` if it goes on.
    fn outcome(&self, seconds: u64) -> Option<Outcome> {
        let StepSettings { window_s, counts_sessions, .. } = self.settings;
        let planned = counts_sessions.then_some(self.load);
        let judged = self.window.judge(&self.slos, self.first.as_ref(), planned);
        let counts = self.window.metrics().counts();
        match judged {
            // What cannot be mended any more ends the step early.
            Ok(Outcome::Broken(why))
                if seconds >= EARLIEST_END.min(window_s) && counts.failed * 50 > counts.queries =>
            {
                Some(Outcome::Broken(why))
            }
            _ if seconds < window_s => None,
            Ok(outcome) => Some(outcome),
            Err(_) if seconds < window_s * LONGEST => None,
            Err(why) => Some(Outcome::Unmeasurable(format!("the step was too short: {why}"))),
        }
    }

    fn conclude(&mut self, outcome: Outcome, from_s: u64) -> Action {
        let window = std::mem::take(&mut self.window);
        let holds = outcome == Outcome::Held;
        self.search.add(self.load, &outcome);
        self.steps.push(window.step(self.load, outcome, from_s, &self.slos, self.first.as_ref()));
        self.overloaded = !holds;
        if self.first.is_none() && holds {
            self.first = Some(window.metrics().clone());
        }
        match self.search.next() {
            Ok(load) if load == self.load && window.is_measured() => {
                // The same load again needs no change.
                self.phase = Phase::WarmingUp { since_s: from_s + self.settings.window_s };
                Action::Wait
            }
            Ok(load) => {
                self.load = load;
                self.phase = Phase::Asked;
                Action::Change(load)
            }
            Err(end) => {
                self.phase = Phase::Over;
                Action::Finish(end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system that answers in 900 ms up to a number of sessions, and ever later above it until the backlog is gone.
    struct System {
        ceiling: f64,
        backlog: f64,
    }

    impl System {
        fn second(&mut self, sessions: f64) -> Interval {
            self.backlog = (self.backlog + sessions - self.ceiling).max(0.0);
            let ms = 900.0 * (1.0 + self.backlog / self.ceiling);
            let mut interval = Interval::default();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            for _ in 0..(sessions.min(self.ceiling) as usize).max(1) {
                interval.record(Metric::E2el, (ms * 1e6) as i64);
                interval.record_ideal(None, Some(900_000_000));
                interval.count(|counts| counts.queries += 1);
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            interval.active((sessions * 1e9) as u64, 0);
            interval
        }
    }

    const LIMITS: Limits = Limits { from: 8.0, to: 10_000.0, unit: 1.0, precision: 0.05, steps: 60 };
    const SETTINGS: StepSettings = StepSettings { warm_up_s: 2, window_s: 5, counts_sessions: true };

    /// Runs a search against a system. Returns how it ended, the pilot, and the length of the run in seconds.
    fn run(mut pilot: Pilot, system: &mut System, most_s: u64) -> (Option<End>, Pilot, u64) {
        pilot.changes(1);
        let mut load = pilot.load();
        for second in 0..most_s {
            let interval = system.second(load);
            match pilot.second(second, &interval, &[]) {
                Action::Wait => {}
                Action::Change(next) => {
                    load = next;
                    pilot.changes(second + 4);
                }
                Action::Finish(end) => return (Some(end), pilot, second),
            }
        }
        (None, pilot, most_s)
    }

    fn pilot(earlier: Vec<Step>) -> Pilot {
        Pilot::new(LIMITS, vec!["e2el_ms:p99<1.5x".parse().unwrap()], SETTINGS, earlier)
    }

    #[test]
    fn it_finds_the_ceiling_of_a_system_with_a_backlog() {
        let mut system = System { ceiling: 300.0, backlog: 0.0 };
        let (end, pilot, seconds) = run(pilot(Vec::new()), &mut system, 2000);
        let ceiling = pilot.search().ceiling();
        assert_eq!(end, Some(End::Found), "{ceiling:?}");
        // A few seconds of a small overload hold 1.5 times the ideal.
        assert!((295.0..330.0).contains(&ceiling.value), "{ceiling:?} {:#?}", pilot.steps());
        assert!(
            seconds < 600,
            "{seconds} {:?}",
            pilot
                .steps()
                .iter()
                .map(|step| (step.load, step.from_s, step.outcome == Outcome::Held))
                .collect::<Vec<_>>()
        );
        let broken = pilot.steps().iter().find_map(|step| match &step.outcome {
            Outcome::Broken(why) => Some(why.clone()),
            _ => None,
        });
        assert!(broken.unwrap().starts_with("e2el_ms p(99)="));
    }

    #[test]
    fn a_search_is_continued_where_it_was() {
        let mut system = System { ceiling: 300.0, backlog: 0.0 };
        let (end, cut, _) = run(pilot(Vec::new()), &mut system, 70);
        assert_eq!(end, None, "it was interrupted");
        let earlier = cut.steps().to_vec();
        assert!(earlier.len() >= 3);
        let continued = pilot(earlier.clone());
        assert_eq!(continued.load(), cut.search().next().unwrap());
        let (end, continued, _) = run(continued, &mut System { ceiling: 300.0, backlog: 0.0 }, 2000);
        assert_eq!(end, Some(End::Found));
        assert_eq!(continued.steps()[..earlier.len()], earlier[..]);
    }

    #[test]
    fn failures_end_a_step_early() {
        let mut pilot = pilot(Vec::new());
        pilot.changes(0);
        let mut failing = Interval::default();
        failing.count(|counts| (counts.queries, counts.failed) = (100, 50));
        let mut seconds = 0;
        while pilot.steps().is_empty() {
            pilot.second(seconds, &failing, &[]);
            seconds += 1;
        }
        assert_eq!(seconds, SETTINGS.warm_up_s + EARLIEST_END);
        assert_eq!(pilot.steps()[0].outcome, Outcome::Broken("failed queries: 150 of 300".to_owned()));
    }
}

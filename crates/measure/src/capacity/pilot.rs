//! Steers a run through the steps of a search. It sees every second of the run, and says when the load is to change.
//!
//! A step: the load changes, the new load is warmed up, and then measured. After a step that broke, the warm-up lasts until the answers are
//! about as fast as in the first step, so that the backlog of an overload is not blamed on the next load. If that takes more than
//! [`PATIENCE`], the system gets a load that it held easily, until it has recovered or [`LONGEST_RECOVERY`] is over.

use super::{
    End, Limits, Outcome, Search, Slo, Step, StepWindow,
    window::{defect, least_open},
};
use crate::{Interval, Metric, Reading, mean_in_second, silence::Silence};
use serde::{Deserialize, Serialize};
use settings::plural::counted;
use std::time::Duration;

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
/// Longest time until the sessions that end have ended, in seconds.
const LONGEST_CHANGE: u64 = 60;
/// Longest time until the sessions that start have a socket, in seconds.
const LONGEST_START: u64 = 10;
/// Sessions that were to end and are still open when a step begins, as a share of those planned.
const REMAINING: f64 = 0.02;
/// First second of a step after which it may end early.
const EARLIEST_END: u64 = 3;

/// Durations of a step, in whole seconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// The queries that run at the end of a second.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// For how long they have been running, each time with their number.
    pub times: Vec<(Duration, u64)>,
    /// Those that have had no event for longer than their schedules allow.
    pub silent: Vec<Silence>,
}

/// Queries that have stopped.
struct Stopped {
    /// How many, and after which time.
    reason: String,
    /// Second of the last event of the first of them.
    since_s: u64,
}

/// Steers a run.
#[derive(Debug)]
pub struct Pilot {
    search: Search,
    slos: Vec<Slo>,
    settings: StepSettings,
    load: f64,
    phase: Phase,
    /// Second from which on the system changes to this load.
    asked_s: u64,
    /// Second from which on the system has this load.
    established_s: u64,
    /// Whether the load that was asked for is the easy one.
    eased: bool,
    /// Whether the system may have a backlog of the last step.
    overloaded: bool,
    /// Number of steps of the search that is continued.
    earlier: usize,
    /// Second from which on silences count. Those that began earlier belong to steps that broke.
    silences_from_s: u64,
    window: StepWindow,
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
            asked_s: 0,
            established_s: 0,
            eased: false,
            overloaded: false,
            earlier: earlier.len(),
            silences_from_s: 0,
            window: StepWindow::default(),
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

    /// Returns the objectives.
    #[must_use]
    pub fn slos(&self) -> &[Slo] {
        &self.slos
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
        self.conclude(Outcome::Unmeasurable(reason), 0, 0)
    }

    /// Takes a complete second of the run. Seconds must come in order.
    pub fn second(
        &mut self,
        second: u64,
        interval: &Interval,
        readings: &[Reading],
        running: Running,
    ) -> Action {
        let action = self.take(second, interval, readings, running);
        if matches!(action, Action::Change(_)) {
            self.asked_s = second + 1;
        }
        action
    }

    fn take(
        &mut self,
        second: u64,
        interval: &Interval,
        readings: &[Reading],
        Running { times, silent }: Running,
    ) -> Action {
        // Queries of the load before are not those of this one.
        let age = Duration::from_secs((second + 1).saturating_sub(self.established_s));
        self.window.set_running(times.into_iter().filter(|(time, _)| *time <= age).collect());
        if let Phase::Changing { complete_s } = self.phase
            && second >= complete_s
        {
            self.established_s = complete_s;
            self.phase = if self.eased {
                Phase::Recovering { since_s: complete_s }
            } else {
                Phase::WarmingUp { since_s: complete_s }
            };
        }
        // A loss outside the measured seconds is a loss all the same.
        if !matches!(self.phase, Phase::Measuring { .. } | Phase::Over)
            && let Some(defect) = defect(interval)
        {
            let reason = format!("{defect}, outside the measured seconds");
            return self.charge(reason, second, interval);
        }
        if let Some(stopped) = self.stopped(&silent, interval)
            && let Some(action) = self.charge_silence(stopped, second, interval, readings)
        {
            return action;
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
                    Some(outcome) => self.conclude(outcome, from_s, second + 1),
                    None => Action::Wait,
                }
            }
        }
    }

    /// Breaks the load that the system has or had last, for a reason outside the measured seconds.
    fn charge(&mut self, reason: String, second: u64, interval: &Interval) -> Action {
        let outcome = Outcome::Broken(reason);
        let mut window = StepWindow::default();
        window.second(interval, &[]);
        let broke = |step: &Step| matches!(step.outcome, Outcome::Broken(_));
        let is_aftermath = self.steps.last().is_some_and(broke);
        if matches!(self.phase, Phase::WarmingUp { .. }) && !(self.overloaded && is_aftermath) {
            self.window = window;
            return self.conclude(outcome, second, second + 1);
        }
        // The load is changing: the last step is to blame. If it broke, this is what it left behind.
        if !is_aftermath {
            let load = self.steps.last().map_or(self.load, |step| step.load);
            self.break_load(load, outcome, second, &window);
        }
        Action::Wait
    }

    /// Breaks a load that is not the present one.
    fn break_load(&mut self, load: f64, outcome: Outcome, second: u64, window: &StepWindow) {
        self.search.add(load, &outcome);
        self.steps.push(window.step(load, outcome, second, &self.slos, first(&self.steps)));
    }

    /// Returns which queries have stopped: they have had no event for longer than their schedules and the objectives allow. `None` if there
    /// is none, if an objective allows failed queries, or if the generator is late and may not have read their events.
    fn stopped(&self, silent: &[Silence], interval: &Interval) -> Option<Stopped> {
        if self.slos.iter().any(Slo::limits_failures) || self.phase == Phase::Over {
            return None;
        }
        let patience =
            self.patience_with(Slo::is_of_answers).max(self.patience_with(Slo::is_of_first_tokens));
        let between = self.patience_with(Slo::is_of_gaps);
        let allowed =
            |silence: &Silence| silence.allowed.max(if silence.is_answered { between } else { patience });
        let from = Duration::from_secs(self.silences_from_s);
        let has_stopped = |silence: &&Silence| silence.since >= from && silence.lasted > allowed(silence);
        let stopped: Vec<&Silence> = silent.iter().filter(has_stopped).collect();
        let earliest = stopped.iter().min_by_key(|silence| silence.since)?;
        let mut now = StepWindow::default();
        now.second(interval, &[]);
        if now.late_generator().or_else(|| self.window.late_generator()).is_some() {
            return None;
        }
        let reason = format!(
            "stopped queries: {} had no token for more than {:.1} s",
            counted(stopped.len() as u64, "queries"),
            allowed(earliest).as_secs_f64()
        );
        Some(Stopped { reason, since_s: earliest.since.as_secs() })
    }

    /// Returns the longest delay that these objectives allow, as far as it is known.
    fn patience_with(&self, is_wanted: impl Fn(&Slo) -> bool) -> Duration {
        let first = first(&self.steps);
        let of_window = |slo: &Slo| slo.judge(&self.window, first).2;
        let of_steps = |slo: &Slo| {
            let of_step = |step: &Step| step.objectives.iter().find(|(text, ..)| *text == slo.text)?.2;
            self.steps.iter().rev().find_map(of_step)
        };
        let delay = |slo: &Slo| Some(slo.delay_ms(of_window(slo).or_else(|| of_steps(slo))?, first));
        let longest = self.slos.iter().filter(|slo| is_wanted(slo)).filter_map(delay).fold(0.0, f64::max);
        Duration::try_from_secs_f64(longest / 1000.0).unwrap_or(Duration::MAX)
    }

    /// Breaks the load under which queries stopped. Returns `None` if the present step goes on.
    fn charge_silence(
        &mut self,
        Stopped { reason, since_s }: Stopped,
        second: u64,
        interval: &Interval,
        readings: &[Reading],
    ) -> Option<Action> {
        if since_s < self.asked_s {
            self.charge_step(reason, since_s, second, interval);
            // Those that stopped since the change are of the present load, and looked at in the next second.
            self.silences_from_s = self.asked_s;
            return None;
        }
        let action = match self.phase {
            Phase::Measuring { from_s } => {
                self.window.second(interval, readings);
                self.conclude(Outcome::Broken(reason), from_s, second + 1)
            }
            Phase::WarmingUp { .. } => self.charge(reason, second, interval),
            // What an overload left behind.
            Phase::Recovering { .. } => Action::Wait,
            // The new load is not established: they are charged when it warms up.
            Phase::Asked | Phase::Changing { .. } | Phase::Over => return None,
        };
        self.silences_from_s = second + 1;
        Some(action).filter(|action| *action != Action::Wait)
    }

    /// Breaks the load of the step that was the last one when queries stopped, if it held.
    fn charge_step(&mut self, reason: String, since_s: u64, second: u64, interval: &Interval) {
        let steps = &self.steps[self.earlier..];
        let Some(step) = steps.iter().rfind(|step| step.from_s <= since_s).or(steps.first()) else { return };
        if step.outcome == Outcome::Held {
            let mut window = StepWindow::default();
            window.second(interval, &[]);
            self.break_load(step.load, Outcome::Broken(reason), second, &window);
        }
    }

    /// Takes a second of the warm-up, the last of so many.
    fn warm_up(&mut self, second: u64, seconds: u64, interval: &Interval) -> Action {
        let has_recovered = !self.overloaded || self.has_recovered(interval);
        let long_enough = seconds >= self.warm_up_s();
        if !has_recovered && seconds >= self.warm_up_s() + PATIENCE {
            let held = self.steps.iter().filter(|step| step.outcome == Outcome::Held).map(|step| step.load);
            if let Some(easy) = held.reduce(f64::max).map(|held| (held * EASY).max(self.search.limits().unit))
            {
                (self.eased, self.phase) = (true, Phase::Asked);
                return Action::Change(self.search.limits().whole(easy));
            }
        }
        let is_established = seconds >= self.patience(interval);
        // Without a load that held there is nothing to wait for.
        if long_enough && is_established && (has_recovered || first(&self.steps).is_none()) {
            self.overloaded = false;
            self.phase = Phase::Measuring { from_s: second + 1 };
            self.window = StepWindow::default();
        }
        Action::Wait
    }

    /// Returns the length of the warm-up: long enough for answers that began before the change to end.
    fn warm_up_s(&self) -> u64 {
        let median = first(&self.steps).and_then(|first| first.e2el_ms[0]).unwrap_or(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let answer_s = (median * 1.5 / 1000.0).ceil() as u64;
        self.settings.warm_up_s.max(answer_s.min(LONGEST_CHANGE))
    }

    /// Returns how long to wait for the number of open sessions that is planned.
    fn patience(&self, interval: &Interval) -> u64 {
        let open = mean_in_second(interval.counts().session_ns.saturating_sub(interval.counts().opening_ns));
        match self.settings.counts_sessions {
            true if open > self.load + (self.load * REMAINING).max(0.5) => LONGEST_CHANGE,
            // Sessions that still wait after an overload would fail in the step to come.
            true if open < least_open(self.load, first(&self.steps)) => LONGEST_START,
            _ => 0,
        }
    }

    /// Returns whether the answers of this second are about as fast as those of the first step.
    fn has_recovered(&self, interval: &Interval) -> bool {
        let median = |interval: &Interval| interval.get(Metric::E2el).quantile_ms(0.5);
        let first = first(&self.steps).and_then(|first| first.e2el_ms[0]);
        median(interval).zip(first).is_some_and(|(now, first)| now <= RECOVERED * first)
            && interval.counts().failed == 0
    }

    /// Returns the outcome of a step that was measured for this many seconds, or `None` if it goes on.
    fn outcome(&self, seconds: u64) -> Option<Outcome> {
        let StepSettings { window_s, counts_sessions, .. } = self.settings;
        let planned = counts_sessions.then_some(self.load);
        let judged = self.window.judge(&self.slos, first(&self.steps), planned);
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

    /// Ends a step that was measured from second `from_s` on. `next_s`: the first second after it.
    fn conclude(&mut self, outcome: Outcome, from_s: u64, next_s: u64) -> Action {
        let window = std::mem::take(&mut self.window);
        self.overloaded = outcome != Outcome::Held;
        if self.overloaded {
            self.silences_from_s = next_s;
        }
        self.search.add(self.load, &outcome);
        self.steps.push(window.step(self.load, outcome, from_s, &self.slos, first(&self.steps)));
        match self.search.next() {
            Ok(load) if load == self.load && window.is_measured() => {
                // The same load again needs no change.
                self.phase = Phase::WarmingUp { since_s: next_s };
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

/// Returns the first step that held, which replaces the ideal where the system does not announce it.
fn first(steps: &[Step]) -> Option<&Step> {
    steps.iter().find(|step| step.outcome == Outcome::Held)
}

#[cfg(test)]
mod tests;

//! The measurements of a step, and whether it holds.

use super::Slo;
use crate::{
    Distribution, INTEGRITY_RULES, Interval, Metric, Quantity, Reading, ReadingTotals, Statistic,
    mean_in_second,
    threshold::{State, figure_text, stretch_scalar},
};
use serde::{Deserialize, Serialize};
use settings::plural::counted;
use std::time::Duration;

/// Lateness of the generator's event loop, in milliseconds at p99, up to which delays are those of the system.
const LATE_LOOP_MS: f64 = 50.0;
/// The same as a share of the median of the answers' durations. The larger one counts.
const LATE_LOOP_SHARE: f64 = 0.1;
/// Share of the planned sessions that must have a socket for the first step to hold.
const ACHIEVED: f64 = 0.99;
/// What later steps may lack of the share that the first step had.
const MISSING: f64 = 0.003;
/// Mean number of sessions that may always lack, because a session that ends and its successor leave a short time between them.
const ALWAYS_MISSING: f64 = 0.25;

/// Share of the time of its queries that a late generator may leave its sessions without one.
const IDLE: f64 = 0.05;
/// Failed attempts to open a socket that are allowed in a step, as a share of the sessions. One is always allowed: its success may lie
/// behind the end of the step.
const REFUSED: f64 = 0.002;

/// What a step showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// All objectives hold.
    Held,
    /// An objective is broken, for this reason.
    Broken(String),
    /// The generator cannot measure this load, for this reason.
    Unmeasurable(String),
}

impl Outcome {
    /// Returns the outcome in a word or two.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Broken(_) => "broken",
            Self::Unmeasurable(_) => "not measurable",
        }
    }

    /// Returns the reason, which is empty for a step that held.
    #[must_use]
    pub const fn reason(&self) -> &str {
        match self {
            Self::Held => "",
            Self::Broken(reason) | Self::Unmeasurable(reason) => reason.as_str(),
        }
    }
}

/// CPU and memory of a process or a role during a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Name of the process, or role of several.
    pub name: String,
    /// Mean number of CPU cores in use.
    pub cores: Option<f64>,
    /// Highest resident memory, in MB.
    pub rss_mb: Option<f64>,
}

/// A step with its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Planned sessions, or sessions per second.
    pub load: f64,
    /// Outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// First second of the run that was measured.
    pub from_s: u64,
    /// Number of measured seconds.
    pub seconds: u64,
    /// Mean number of sessions that had a socket before.
    pub sessions: f64,
    /// Mean number of running queries.
    #[serde(default)]
    pub running: f64,
    /// Tokens per second that arrived for the first time.
    pub tokens_per_s: f64,
    /// Complete queries per second.
    pub queries_per_s: f64,
    /// Median and 99th percentile of `ttft_ms`.
    pub ttft_ms: [Option<f64>; 2],
    /// Median and 99th percentile of `e2el_ms`.
    pub e2el_ms: [Option<f64>; 2],
    /// Median and 99th percentile of `itl_ms`.
    pub itl_ms: [Option<f64>; 2],
    /// Objectives with their figure and limit in this step, where they have them.
    pub objectives: Vec<(String, Option<f64>, Option<f64>)>,
    /// Processes of the stack and the generator.
    pub resources: Vec<Resource>,
}

/// The measurements of a step.
#[derive(Clone, Debug, Default)]
pub struct StepWindow {
    seconds: u64,
    metrics: Interval,
    readings: ReadingTotals,
    /// For how long the queries that run have been running, each time with their number.
    running: Vec<(Duration, u64)>,
}

impl StepWindow {
    /// Sets for how long the queries that run at the end of the step have been running, each time with their number. Queries that hang end
    /// in no step, and only this shows them.
    pub(super) fn set_running(&mut self, running: Vec<(Duration, u64)>) {
        self.running = running;
    }

    /// Returns how many running queries have taken longer than `limit_ms`, if the objective is broken when they count with the time so far,
    /// or if they are more than those that were complete, so that there may never be enough samples.
    fn hanging(&self, slo: &Slo, first: Option<&Step>, limit_ms: f64) -> Option<u64> {
        let is_late = |time: Duration| time.as_secs_f64() * 1000.0 > limit_ms;
        let late: Vec<_> =
            self.running.iter().filter(|(time, _)| slo.is_of_answers() && is_late(*time)).collect();
        let number: u64 = late.iter().map(|(_, number)| number).sum();
        if number == 0 {
            return None;
        }
        let mut with_them = self.clone();
        for (time, number) in late {
            let ns = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
            for metric in [Metric::E2el, Metric::E2elSched] {
                (0..*number).for_each(|_| with_them.metrics.record(metric, ns));
            }
        }
        let are_most = number > self.metrics.get(Metric::E2el).count();
        (are_most || slo.judge(&with_them, first).0 == State::Broken).then_some(number)
    }

    /// Adds a second.
    pub fn second(&mut self, interval: &Interval, readings: &[Reading]) {
        self.seconds += 1;
        self.metrics.merge(interval);
        readings.iter().for_each(|reading| self.readings.add(self.seconds, reading));
    }

    /// Returns whether it has a second.
    pub(super) const fn is_measured(&self) -> bool {
        self.seconds > 0
    }

    /// Returns the measurements.
    #[must_use]
    pub const fn metrics(&self) -> &Interval {
        &self.metrics
    }

    /// Returns the readings of the stack.
    pub(super) const fn readings(&self) -> &ReadingTotals {
        &self.readings
    }

    /// Returns the length in seconds.
    #[allow(clippy::cast_precision_loss)]
    pub(super) const fn seconds(&self) -> f64 {
        self.seconds as f64
    }

    /// Returns the mean number of sessions that are created and had a socket.
    fn sessions(&self) -> f64 {
        let counts = self.metrics.counts();
        mean_in_second(counts.session_ns.saturating_sub(counts.opening_ns) / self.seconds.max(1))
    }

    /// Returns the mean number of running queries.
    fn running(&self) -> f64 {
        mean_in_second(self.metrics.counts().query_ns / self.seconds.max(1))
    }

    /// Returns by how much less of their time the sessions had a running query than in the first step, as a share.
    fn idle(&self, first: Option<&Step>) -> f64 {
        let share = |running: f64, sessions: f64| running / sessions.max(f64::MIN_POSITIVE);
        let before = first.map_or(0.0, |first| share(first.running, first.sessions));
        if before > 0.0 { 1.0 - share(self.running(), self.sessions()) / before } else { 0.0 }
    }

    /// Returns the outcome that the step has so far, or why more seconds are needed to tell. `planned_sessions`: those that should be open
    /// for the whole step, where the load is a number of sessions.
    ///
    /// # Errors
    /// An objective has too few samples.
    pub fn judge(
        &self,
        slos: &[Slo],
        first: Option<&Step>,
        planned_sessions: Option<f64>,
    ) -> Result<Outcome, String> {
        // These do not depend on how late the generator is.
        if let Some(defect) = defect(&self.metrics) {
            return Ok(Outcome::Broken(defect));
        }
        let late = self.late_generator();
        let objectives = self.objectives(slos, first);
        let too_few = planned_sessions.filter(|planned| self.sessions() < least_open(*planned, first));
        let too_few =
            too_few.map(|planned| format!("open sessions: only {:.0} of {planned:.0}", self.sessions()));
        if let Some(why) = self.failures(slos).or(objectives.broken).or(too_few) {
            return Ok(match late {
                Some(late) => Outcome::Unmeasurable(format!("{late}, and {why}")),
                None => Outcome::Broken(why),
            });
        }
        if let Some(why) = self.lighter_load(late, first, planned_sessions) {
            return Ok(Outcome::Unmeasurable(why));
        }
        match (objectives.hidden, objectives.missing) {
            (Some(hidden), _) => {
                Ok(Outcome::Unmeasurable(format!("the measurement error is too large: {hidden}")))
            }
            (None, Some(missing)) => Err(missing),
            (None, None) => Ok(Outcome::Held),
        }
    }

    /// Returns which failure breaks the step, whatever the objectives are.
    #[allow(clippy::cast_precision_loss)]
    fn failures(&self, slos: &[Slo]) -> Option<String> {
        let counts = self.metrics.counts();
        if counts.failed > 0 && !slos.iter().any(Slo::limits_failures) {
            let ended = counts.queries - counts.abandoned;
            return Some(format!("failed queries: {} of {ended}", counts.failed));
        }
        if counts.arrivals_dropped > 0 {
            let dropped = counts.arrivals_dropped;
            return Some(format!("dropped arrivals: {dropped} found every session busy (--max-clients)"));
        }
        // Sessions without a socket send nothing, so that no other figure shows them.
        let refused = counts.reconnect_attempts.saturating_sub(counts.reconnects);
        (refused as f64 > (self.sessions() * REFUSED).max(1.0))
            .then(|| format!("refused sockets: {refused} attempts failed"))
    }

    /// Returns what the objectives say.
    fn objectives(&self, slos: &[Slo], first: Option<&Step>) -> Objectives {
        let mut found = Objectives::default();
        for slo in slos {
            let (state, value, limit) = slo.judge(self, first);
            let text = |value: Option<f64>| value.map(figure_text).unwrap_or_default();
            let subject = slo.subject();
            let hanging = match state {
                State::Held | State::Unknown(_) => limit.and_then(|limit| self.hanging(slo, first, limit)),
                State::Broken | State::Undecided { .. } => None,
            };
            if let Some(number) = hanging {
                let (queries, limit) = (counted(number, "queries"), text(limit));
                found
                    .broken
                    .get_or_insert(format!("{subject}: {queries} still ran after the limit of {limit} ms"));
                continue;
            }
            match state {
                State::Held => {}
                State::Broken => {
                    let of = if limit.is_some() { format!(", limit {}", text(limit)) } else { String::new() };
                    found.broken.get_or_insert(format!("{subject}={}{of}", text(value)));
                }
                State::Undecided { low, high } => {
                    let (low, high, limit) = (figure_text(low), figure_text(high), text(limit));
                    found.hidden =
                        Some(format!("{subject} lies between {low} and {high} ms, its limit is {limit}"));
                }
                State::Unknown(why) => found.missing = Some(format!("{subject}: {why}")),
            }
        }
        found
    }

    /// Returns how a late generator made the load lighter than planned. `late`: what it was late with.
    fn lighter_load(
        &self,
        late: Option<String>,
        first: Option<&Step>,
        planned_sessions: Option<f64>,
    ) -> Option<String> {
        if planned_sessions.is_some() {
            let idle = self.idle(first);
            return late.filter(|_| idle > IDLE).map(|late| {
                let percent = idle * 100.0;
                format!(
                    "{late}, and its sessions had no query for {percent:.0} % of the time in which they should have had one"
                )
            });
        }
        // In an open model, such a generator starts its sessions late.
        let lag = Statistic::Percentile(99.0).of(self.metrics.get(Metric::ScheduleLag)).ok()?;
        (lag > self.allowed_lag_ms())
            .then(|| format!("the generator started sessions late by {lag:.0} ms (p99)"))
    }

    /// Returns what the generator was late with, if its lateness can be the reason for delays.
    pub(super) fn late_generator(&self) -> Option<String> {
        let p99 = Statistic::Percentile(99.0).of(self.metrics.get(Metric::LoopLag)).ok()?;
        (p99 > self.allowed_lag_ms())
            .then(|| format!("the generator's event loop was late by {p99:.0} ms (p99)"))
    }

    /// Returns by how much the generator may be late, in milliseconds.
    fn allowed_lag_ms(&self) -> f64 {
        LATE_LOOP_MS.max(self.median(Metric::E2el).unwrap_or(0.0) * LATE_LOOP_SHARE)
    }

    fn median(&self, metric: Metric) -> Option<f64> {
        self.metrics.get(metric).quantile_ms(0.5)
    }

    /// Returns the step with this outcome, for the results.
    #[must_use]
    pub fn step(&self, load: f64, outcome: Outcome, from_s: u64, slos: &[Slo], first: Option<&Step>) -> Step {
        let metrics = &self.metrics;
        let pair = |metric: Metric| {
            let distribution: &Distribution = metrics.get(metric);
            [0.5, 0.99].map(|share| distribution.quantile_ms(share))
        };
        let rate =
            |name| stretch_scalar(name, metrics.counts(), metrics.tokens(), self.seconds()).unwrap_or(0.0);
        let objectives = slos.iter().map(|slo| {
            let (_, value, limit) = slo.judge(self, first);
            (slo.text.clone(), value, limit)
        });
        Step {
            load,
            outcome,
            from_s,
            seconds: self.seconds,
            sessions: self.sessions(),
            running: self.running(),
            tokens_per_s: rate("output_throughput"),
            queries_per_s: rate("request_throughput"),
            ttft_ms: pair(Metric::Ttft),
            e2el_ms: pair(Metric::E2el),
            itl_ms: pair(Metric::Itl),
            objectives: objectives.collect(),
            resources: self.resources(),
        }
    }

    fn resources(&self) -> Vec<Resource> {
        let mut resources: Vec<Resource> = Vec::new();
        for (quantity, name, stats) in self.readings.iter() {
            let (Some(name), Quantity::CpuShare | Quantity::RssMb) = (name, quantity) else { continue };
            let value = stats.figure(quantity, None).ok();
            let found =
                resources.iter().position(|resource| resource.name == name).unwrap_or(resources.len());
            if found == resources.len() {
                resources.push(Resource { name: name.to_owned(), cores: None, rss_mb: None });
            }
            match quantity {
                Quantity::CpuShare => resources[found].cores = value,
                _ => resources[found].rss_mb = value,
            }
        }
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources
    }
}

/// What the objectives of a step say.
#[derive(Debug, Default)]
struct Objectives {
    /// The first one that is broken.
    broken: Option<String>,
    /// One that the measurement error hides.
    hidden: Option<String>,
    /// One with too few samples.
    missing: Option<String>,
}

/// Returns the smallest number of sessions with a socket at which a load of `planned` sessions is established. `first`: the first step
/// that held. Sessions that end need a moment until their successors have a socket; it shows how much of the load that costs.
pub(super) fn least_open(planned: f64, first: Option<&Step>) -> f64 {
    let share = first.map_or(ACHIEVED, |first| (first.sessions / first.load).min(1.0) - MISSING);
    (planned * share).min(planned - ALWAYS_MISSING)
}

/// Returns which integrity rule is broken, and how often.
pub(super) fn defect(metrics: &Interval) -> Option<String> {
    let rule = INTEGRITY_RULES.iter().find(|rule| rule.count(metrics.counts()) > 0)?;
    Some(format!("{}={}", rule.name(), rule.count(metrics.counts())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slos(texts: &[&str]) -> Vec<Slo> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn window(change: impl Fn(&mut Interval)) -> StepWindow {
        let mut window = StepWindow::default();
        for _ in 0..2 {
            let mut interval = Interval::default();
            for _ in 0..50 {
                interval.record(Metric::E2el, 900_000_000);
            }
            interval.count(|counts| counts.queries = 50);
            interval.active(100_000_000_000, 0);
            change(&mut interval);
            window.second(&interval, &[]);
        }
        window
    }

    #[test]
    fn a_step_holds_only_if_everything_holds() {
        let slos = slos(&["e2el_ms:p99<1000"]);
        let judge = |change: fn(&mut Interval), planned| {
            let outcome = window(change).judge(&slos, None, Some(planned));
            match outcome {
                Ok(Outcome::Held) => "held".to_owned(),
                Ok(Outcome::Broken(why)) => format!("broken: {why}"),
                Ok(Outcome::Unmeasurable(why)) => format!("unmeasurable: {why}"),
                Err(why) => format!("too early: {why}"),
            }
        };
        let slow =
            |interval: &mut Interval| (0..50).for_each(|_| interval.record(Metric::E2el, 1_200_000_000));
        let late =
            |interval: &mut Interval| (0..200).for_each(|_| interval.record(Metric::LoopLag, 300_000_000));
        assert_eq!(judge(|_| {}, 100.0), "held");
        assert_eq!(judge(|_| {}, 110.0), "broken: open sessions: only 100 of 110");
        let opening = |interval: &mut Interval| interval.opening(5_000_000_000);
        assert_eq!(judge(opening, 100.0), "broken: open sessions: only 95 of 100", "five have no socket yet");
        assert_eq!(judge(slow, 100.0), "broken: e2el_ms p(99)=1200, limit 1000");
        assert_eq!(
            judge(|interval| interval.count(|counts| counts.failed = 1), 100.0),
            "broken: failed queries: 2 of 100"
        );
        assert_eq!(
            judge(|interval| interval.count(|counts| counts.lost = 3), 100.0),
            "broken: tokens_lost=6"
        );
        let refused = |interval: &mut Interval| (0..2).for_each(|_| interval.reconnect_attempt());
        assert_eq!(judge(refused, 100.0), "broken: refused sockets: 4 attempts failed");
        let cut = |interval: &mut Interval| {
            interval.reconnect_attempt();
            interval.reconnected();
        };
        assert_eq!(judge(cut, 100.0), "held", "a session that reconnects is served");
        let dropped = |interval: &mut Interval| interval.arrival_dropped();
        assert_eq!(
            judge(dropped, 100.0),
            "broken: dropped arrivals: 2 found every session busy (--max-clients)"
        );
        assert_eq!(judge(late, 100.0), "held", "a late generator that sees no delay measures well");
        let slow_and_late = |interval: &mut Interval| {
            (0..200).for_each(|_| interval.record(Metric::LoopLag, 300_000_000));
            interval.record(Metric::E2el, 1_200_000_000);
        };
        let text = judge(slow_and_late, 100.0);
        assert!(text.starts_with("unmeasurable: the generator's event loop was late by 300 ms"), "{text}");
        let lost_and_late = |interval: &mut Interval| {
            (0..200).for_each(|_| interval.record(Metric::LoopLag, 300_000_000));
            interval.count(|counts| counts.lost = 1);
        };
        assert_eq!(judge(lost_and_late, 100.0), "broken: tokens_lost=2", "a loss is no matter of time");
    }

    #[test]
    fn queries_that_hang_count_with_the_time_so_far() {
        let slos = slos(&["e2el_ms:p90<1000"]);
        let judge = |seconds, number| {
            let mut window = window(|_| {});
            window.set_running(vec![(Duration::from_secs(seconds), number), (Duration::ZERO, 50)]);
            window.judge(&slos, None, None)
        };
        assert_eq!(judge(3, 5), Ok(Outcome::Held), "five of a hundred may be late");
        let why = "e2el_ms p(90): 20 queries still ran after the limit of 1000 ms".to_owned();
        assert_eq!(judge(3, 20), Ok(Outcome::Broken(why)));
        assert_eq!(judge(1, 20), Ok(Outcome::Held), "they may still be in time");
        let mut hanging = StepWindow::default();
        hanging.second(&Interval::default(), &[]);
        hanging.set_running(vec![(Duration::from_secs(3), 20)]);
        let why = "e2el_ms p(90): 20 queries still ran after the limit of 1000 ms".to_owned();
        assert_eq!(hanging.judge(&slos, None, None), Ok(Outcome::Broken(why)));
    }

    #[test]
    fn a_late_generator_that_sends_less_measures_nothing() {
        let judge = |late_ms: i64, running: u64| {
            let first = window(|interval| interval.active(0, 98_000_000_000)).step(
                100.0,
                Outcome::Held,
                0,
                &[],
                None,
            );
            let window = window(|interval| {
                (0..200).for_each(|_| interval.record(Metric::LoopLag, late_ms * 1_000_000));
                interval.active(0, running * 1_000_000_000);
            });
            window.judge(&slos(&["e2el_ms:p99<1000"]), Some(&first), Some(100.0))
        };
        assert_eq!(judge(300, 97), Ok(Outcome::Held));
        assert_eq!(judge(1, 70), Ok(Outcome::Held), "sessions may wait on purpose");
        let why = "the generator's event loop was late by 300 ms (p99), and its sessions had no query for 29 % of the time in which they \
                   should have had one";
        assert_eq!(judge(300, 70), Ok(Outcome::Unmeasurable(why.to_owned())));
    }

    #[test]
    fn a_step_needs_nearly_the_share_of_sessions_that_the_first_step_had() {
        let first = window(|_| {}).step(100.0, Outcome::Held, 0, &[], None);
        assert!((least_open(500.0, Some(&first)) - 498.5).abs() < 1e-9, "sockets that persist are all there");
        let brief = Step { sessions: 99.5, ..first.clone() };
        assert!(
            (least_open(500.0, Some(&brief)) - 496.0).abs() < 1e-9,
            "sessions that end leave a time without"
        );
        assert!((least_open(500.0, None) - 495.0).abs() < 1e-9);
        assert!((least_open(8.0, Some(&first)) - 7.75).abs() < 1e-9, "a session lacks for a moment");
    }

    #[test]
    fn too_few_samples_need_more_seconds() {
        let slos = slos(&["e2el_ms:p99.9<1000"]);
        let outcome = window(|_| {}).judge(&slos, None, None);
        assert!(outcome.as_ref().is_err_and(|why| why.contains("needs 1000 samples")), "{outcome:?}");
    }

    #[test]
    fn failures_may_be_allowed() {
        let window = window(|interval| interval.count(|counts| counts.failed = 1));
        assert_eq!(window.judge(&slos(&["error_rate<0.03"]), None, None), Ok(Outcome::Held));
        let broken = window.judge(&slos(&["error_rate<0.01"]), None, None);
        assert_eq!(broken, Ok(Outcome::Broken("error_rate=0.02000, limit 0.01000".to_owned())));
    }
}

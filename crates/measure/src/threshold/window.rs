//! Sliding windows over the seconds of a run: finds the worst window of each threshold while the run goes on.
//! For each threshold it keeps the seconds of one window, with the one metric that the threshold needs.

use super::{
    Figure, FigureTrust, Operator, Scope, State, Threshold, distribution_of, names::grows, stretch_figure,
};
use crate::{Bounds, Distribution, Interval, IntervalCounts, Reading, ReadingStats};
use std::collections::VecDeque;

/// Figure and start of the worst window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worst {
    /// Value of the figure.
    pub value: f64,
    /// Second of the run at which the window began.
    pub from_s: u64,
    /// Measurement error of the figure. For several windows it spans the worst lower and the worst upper value.
    pub trust: FigureTrust,
}

/// A threshold that can no longer be met in this run.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// Threshold.
    pub threshold: Threshold,
    /// Value of the figure.
    pub value: f64,
}

/// Windows of all thresholds that have one, and the counts of the run so far.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    states: Vec<WindowState>,
    /// Thresholds on counts of the whole run that can only grow, so that a breach is final.
    growing: Vec<Threshold>,
    so_far: IntervalCounts,
    next: Option<u64>,
}

#[derive(Clone, Debug)]
struct WindowState {
    threshold: Threshold,
    length: usize,
    seconds: VecDeque<Slice>,
    worst: Option<Worst>,
    /// Why the last window had no figure.
    missing: String,
}

/// Measurements of a second that a window needs.
#[derive(Clone, Debug, Default)]
struct Slice {
    distribution: Distribution,
    bounds: Option<Box<Bounds>>,
    counts: IntervalCounts,
    tokens: u64,
    readings: ReadingStats,
}

impl Windows {
    /// Creates the windows of those thresholds that can be checked during a run.
    #[must_use]
    pub fn of(thresholds: &[Threshold]) -> Self {
        let states = thresholds.iter().filter_map(WindowState::of).collect();
        let growing = thresholds.iter().filter(|threshold| only_grows(threshold)).cloned().collect();
        Self { states, growing, ..Self::default() }
    }

    /// Adds a complete second with its monitoring readings. Seconds must come in order; a skipped second counts as empty.
    pub fn second(&mut self, second: u64, interval: &Interval, readings: &[Reading]) {
        let next = self.next.unwrap_or(second);
        for window in &mut self.states {
            // More empty seconds than a window holds have the same effect as a whole window of them.
            for empty in next..second.min(next.saturating_add(window.length as u64)) {
                window.push(empty, Slice::default());
            }
            window.push(second, Slice::of(&window.threshold.figure, interval, readings));
        }
        self.so_far.merge(interval.counts());
        self.next = Some(second + 1);
    }

    /// Returns the second after the last one that was added.
    #[must_use]
    pub const fn end(&self) -> u64 {
        match self.next {
            Some(next) => next,
            None => 0,
        }
    }

    /// Returns a threshold that is broken and can no longer be met.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        let windows = self.states.iter().filter_map(|window| {
            let Worst { value, trust, .. } = window.worst?;
            // A figure whose measurement error hides the outcome may still hold.
            let broken = trust.judge(&window.threshold, value) == State::Broken;
            broken.then(|| Broken { threshold: window.threshold.clone(), value })
        });
        let counts = self.growing.iter().filter_map(|threshold| {
            let value = stretch_figure(&threshold.figure, &Distribution::default(), &self.so_far, 0, 0.0);
            Some(Broken { threshold: threshold.clone(), value: value.ok()? })
        });
        windows
            .chain(counts)
            .find(|broken| !broken.threshold.operator.holds(broken.value, broken.threshold.limit))
    }

    /// Returns the worst window of a threshold. A run shorter than the window counts as one window.
    ///
    /// # Errors
    /// Returns the reason if no window has a figure.
    pub fn worst(&self, threshold: &Threshold) -> Result<Worst, String> {
        let Some(window) = self.states.iter().find(|window| window.threshold == *threshold) else {
            return Err("it was not monitored in this run".to_owned());
        };
        match window.worst {
            Some(worst) => Ok(worst),
            None if !window.seconds.is_empty() && window.seconds.len() < window.length => {
                let from_s = self.next.unwrap_or(0).saturating_sub(window.seconds.len() as u64);
                let (value, trust) = window.figure()?;
                Ok(Worst { value, from_s, trust })
            }
            None if window.seconds.is_empty() => Err("nothing was measured".to_owned()),
            None => Err(window.missing.clone()),
        }
    }
}

/// Returns whether a breach is final: the figure is a count that only grows and has an upper limit.
fn only_grows(threshold: &Threshold) -> bool {
    let bounded = match threshold.operator {
        Operator::Below | Operator::AtMost => true,
        Operator::Equal => threshold.limit == 0.0,
        _ => false,
    };
    let grows = matches!(threshold.figure, Figure::Scalar(name) if grows(name));
    threshold.scope == Scope::Run && bounded && grows
}

impl Slice {
    fn of(figure: &Figure, interval: &Interval, readings: &[Reading]) -> Self {
        let distribution = distribution_of(figure, interval).cloned().unwrap_or_default();
        let mut stats = ReadingStats::default();
        if let Figure::Reading(selector) = figure {
            let selected = readings.iter().filter(|reading| selector.selects(reading));
            selected.for_each(|reading| stats.add(reading.quantity, reading.value));
        }
        let bounds = match figure {
            Figure::Duration(metric, _) => interval.bounds(*metric).cloned().map(Box::new),
            _ => None,
        };
        Self { distribution, bounds, counts: *interval.counts(), tokens: interval.tokens(), readings: stats }
    }
}

impl WindowState {
    fn of(threshold: &Threshold) -> Option<Self> {
        let Scope::Window(length) = threshold.scope else { return None };
        Some(Self {
            threshold: threshold.clone(),
            length: usize::try_from(length.as_secs()).unwrap_or(usize::MAX),
            seconds: VecDeque::new(),
            worst: None,
            missing: String::new(),
        })
    }

    fn push(&mut self, second: u64, slice: Slice) {
        if self.seconds.len() >= self.length {
            self.seconds.pop_front();
        }
        self.seconds.push_back(slice);
        if self.seconds.len() < self.length {
            return;
        }
        match self.figure() {
            Ok((value, trust)) => {
                self.see(Worst { value, from_s: (second + 1).saturating_sub(self.length as u64), trust });
            }
            Err(why) => self.missing = why,
        }
    }

    fn see(&mut self, seen: Worst) {
        let badness = |value: f64| self.threshold.operator.badness(value, self.threshold.limit);
        let Some(worst) = &mut self.worst else {
            self.worst = Some(seen);
            return;
        };
        // The true worst figure lies between the worst lower value and the worst upper value of all windows.
        let span = |worst: &Worst| worst.trust.span.unwrap_or((worst.value, worst.value));
        let worse = |a: f64, b: f64| if badness(b) > badness(a) { b } else { a };
        let (before, now) = (span(worst), span(&seen));
        let joint = (worse(before.0, now.0), worse(before.1, now.1));
        if badness(seen.value) > badness(worst.value) {
            *worst = seen;
        }
        worst.trust.span =
            Some((joint.0.min(joint.1), joint.0.max(joint.1))).filter(|(low, high)| low < high);
    }

    /// Computes the figure over all seconds in the window.
    fn figure(&self) -> Result<(f64, FigureTrust), String> {
        let mut all = Slice::default();
        for slice in &self.seconds {
            all.distribution.merge(&slice.distribution);
            if let Some(bounds) = &slice.bounds {
                all.bounds.get_or_insert_default().merge(bounds);
            }
            all.counts.merge(&slice.counts);
            all.tokens += slice.tokens;
            all.readings.merge(&slice.readings);
        }
        if let Figure::Reading(selector) = &self.threshold.figure {
            return Ok((all.readings.figure(selector.quantity, selector.statistic)?, FigureTrust::default()));
        }
        #[allow(clippy::cast_precision_loss)]
        let seconds = self.seconds.len() as f64;
        let figure = &self.threshold.figure;
        let value = stretch_figure(figure, &all.distribution, &all.counts, all.tokens, seconds)?;
        let excused = all.counts.excuses_simulator();
        let trust = match (figure, &all.bounds) {
            (Figure::Duration(_, statistic), Some(bounds)) => {
                FigureTrust::from_trust(&bounds.trust(&all.distribution, excused), *statistic)
            }
            _ => FigureTrust::default(),
        };
        Ok((value, trust))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metric, Quantity};
    use proptest::prelude::*;

    fn threshold(text: &str) -> Threshold {
        text.parse().unwrap()
    }

    /// A second in which queries of these durations ended.
    fn second(e2el_ms: &[i64]) -> Interval {
        let mut interval = Interval::default();
        for ms in e2el_ms {
            interval.record(Metric::E2el, ms * 1_000_000);
            interval.count(|counts| counts.queries += 1);
        }
        interval
    }

    fn worst(text: &str, seconds: &[(u64, &[i64])]) -> Result<(i64, u64), String> {
        let threshold = threshold(text);
        let mut windows = Windows::of(std::slice::from_ref(&threshold));
        for (at, e2el_ms) in seconds {
            windows.second(*at, &second(e2el_ms), &[]);
        }
        #[allow(clippy::cast_possible_truncation)]
        windows.worst(&threshold).map(|worst| (worst.value.round() as i64, worst.from_s))
    }

    #[test]
    fn the_worst_window_decides() {
        let run: &[(u64, &[i64])] = &[(0, &[10]), (1, &[20]), (2, &[90]), (3, &[30]), (4, &[10]), (5, &[10])];
        assert_eq!(worst("e2el_ms[1s]:max<50", run), Ok((90, 2)));
        assert_eq!(worst("e2el_ms[2s]:max<50", run), Ok((90, 1)), "the first of equals");
        assert_eq!(worst("e2el_ms[2s]:avg<50", run), Ok((60, 2)));
        assert_eq!(worst("e2el_ms[3s]:min>5", run), Ok((10, 0)), "a lower bound: the smallest is the worst");
        assert_eq!(worst("e2el_ms[6s]:avg<50", run), Ok((28, 0)));
    }

    #[test]
    fn seconds_without_anything_are_seconds_all_the_same() {
        let run: &[(u64, &[i64])] = &[(3, &[10, 10]), (8, &[20, 20, 20]), (9, &[])];
        assert_eq!(worst("request_throughput[2s]>0", run), Ok((0, 4)));
        assert_eq!(worst("request_throughput[2s]<9", run), Ok((2, 7)), "3 in 2 s, rounded");
        assert_eq!(worst("e2el_ms[2s]:max<50", run), Ok((20, 7)), "windows of nothing have no maximum");
        let far: &[(u64, &[i64])] = &[(0, &[1]), (1_000_000_000_000, &[2])];
        assert_eq!(worst("e2el_ms[300s]:max<50", far), Ok((2, 999_999_999_701)));
    }

    #[test]
    fn a_run_shorter_than_the_window_is_one_window() {
        assert_eq!(worst("e2el_ms[30s]:max<50", &[(2, &[10]), (3, &[40])]), Ok((40, 2)));
        assert_eq!(worst("e2el_ms[30s]:max<50", &[]), Err("nothing was measured".to_owned()));
        assert_eq!(worst("e2el_ms[1s]:max<50", &[(0, &[])]), Err("there are no samples".to_owned()));
    }

    #[test]
    fn what_was_read_beside_the_run_has_windows_too() {
        let thresholds =
            ["restarts[2s]<2", "rss_mb{redis}[2s]<50", "cpu_share{redis}[2s]<1", "health_ms[2s]:max<1"];
        let thresholds = thresholds.map(threshold);
        let mut windows = Windows::of(&thresholds);
        let read = |quantity, label: &str, value| Reading { quantity, label: label.to_owned(), value };
        for (at, rss, restarts) in [(0, 10.0, 1.0), (1, 40.0, 0.0), (2, 30.0, 1.0), (3, 20.0, 1.0)] {
            let readings = [
                read(Quantity::RssMb, "redis", rss),
                read(Quantity::CpuShare, "redis", rss / 10.0),
                read(Quantity::Restarts, "wsproxy-1", restarts),
            ];
            windows.second(at, &Interval::default(), &readings);
        }
        let worst = |index: usize| windows.worst(&thresholds[index]);
        assert_eq!(worst(0), Ok(Worst { value: 2.0, from_s: 2, trust: FigureTrust::default() }));
        assert_eq!(worst(1), Ok(Worst { value: 40.0, from_s: 0, trust: FigureTrust::default() }));
        assert_eq!(worst(2), Ok(Worst { value: 3.5, from_s: 1, trust: FigureTrust::default() }));
        assert!(worst(3).unwrap_err().contains("not monitored"));
        assert_eq!(windows.broken().unwrap().threshold.text, "restarts[2s]<2");
    }

    #[test]
    fn a_final_breach_is_found_during_the_run() {
        let thresholds = ["e2el_ms[2s]:max<50", "queries_failed<=1", "error_rate<0.1", "e2el_ms:p95<1"];
        let mut windows = Windows::of(&thresholds.map(threshold));
        let mut failing = second(&[10]);
        failing.count(|counts| counts.failed += 1);
        windows.second(0, &failing, &[]);
        assert_eq!(windows.broken(), None, "a rate and a percentile of the whole run may recover");
        windows.second(1, &failing, &[]);
        let broken = windows.broken().unwrap();
        assert_eq!((broken.threshold.text.as_str(), broken.value), ("queries_failed<=1", 2.0));
        windows.second(2, &second(&[60]), &[]);
        assert_eq!(windows.broken().unwrap().threshold.text, "e2el_ms[2s]:max<50");
    }

    proptest! {
        /// Computes every window again from the values of its seconds.
        #[test]
        fn windows_are_those_of_the_union_of_their_seconds(
            run in proptest::collection::vec(proptest::collection::vec(1i64..5_000, 0..6), 1..25),
            length in 1usize..9,
        ) {
            let threshold = threshold(&format!("e2el_ms[{length}s]:p90<1"));
            let mut windows = Windows::of(std::slice::from_ref(&threshold));
            for (at, e2el_ms) in run.iter().enumerate() {
                windows.second(at as u64, &second(e2el_ms), &[]);
            }
            let figure = |seconds: &[Vec<i64>]| second(&seconds.concat()).get(Metric::E2el).quantile_ms(0.9);
            let naive = run.windows(length.min(run.len())).filter_map(figure).reduce(f64::max);
            prop_assert_eq!(windows.worst(&threshold).ok().map(|worst| worst.value), naive);
        }
    }
}

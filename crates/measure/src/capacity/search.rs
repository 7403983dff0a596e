//! Which load comes next, and what is known of the ceiling.

use super::{belief::Belief, window::Outcome};
use serde::{Deserialize, Serialize};

/// Probability with which the ceiling lies in the interval that is reported.
const CONFIDENCE: f64 = 0.9;
/// Probability that the ceiling lies below the interval, and that it lies above it.
const MARGIN: f64 = (1.0 - CONFIDENCE) / 2.0;
/// How near the generator's limit is approached, as a share of the load.
const NEAR_ENOUGH: f64 = 0.05;

/// Width of the interval, as a share of the ceiling, from which the range is halved.
const WIDE: f64 = 0.5;
/// Probability that the ceiling is lower than the load of a step on the lower side.
const SIDE: f64 = 0.25;

/// What is searched, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The first load, at least `unit`.
    pub from: f64,
    /// The highest load to try.
    pub to: f64,
    /// The smallest difference of two loads: 1 for sessions.
    pub unit: f64,
    /// The search ends when the interval of the ceiling is no wider than this share of the ceiling.
    pub precision: f64,
    /// Largest number of steps.
    pub steps: usize,
}

impl Limits {
    /// Returns the nearest load that can be tried.
    pub(super) fn whole(&self, load: f64) -> f64 {
        ((load / self.unit).round() * self.unit).clamp(self.unit, self.to)
    }
}

/// Why the search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The ceiling is known with the precision that was asked for.
    Found,
    /// The number of steps was not enough for the precision.
    OutOfSteps,
    /// The time was not enough for the precision.
    OutOfTime,
    /// The search was interrupted.
    Interrupted,
    /// The generator cannot produce more load with a valid measurement. The ceiling of the system is higher.
    GeneratorLimit,
    /// The highest load that was to be tried holds.
    AboveRange,
    /// No load holds.
    NothingHolds,
}

/// Largest ratio of a load to the highest one that held.
const GROWTH: f64 = 2.0;

/// What is known of the ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The most likely ceiling: at this load, half of the steps hold. The highest load that held if `high` is `None`.
    pub value: f64,
    /// With the probability of `confidence` the ceiling is not lower than this.
    pub low: f64,
    /// With the probability of `confidence` the ceiling is not higher than this. `None`: unknown, because no load was too high for the
    /// system.
    pub high: Option<f64>,
    /// Probability that the ceiling lies between `low` and `high`.
    pub confidence: f64,
    /// Width of the range around the ceiling in which a step may hold or break, as a share of the ceiling.
    pub noise: f64,
}

/// A search. It is a function of its steps: the same steps lead to the same next load, so a search can be continued from its results.
#[derive(Clone, Debug)]
pub struct Search {
    limits: Limits,
    belief: Belief,
    steps: Vec<(f64, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Held,
    Broken,
    Unmeasurable,
}

impl Search {
    /// Begins a search.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let belief = Belief::between(limits.unit / 2.0, limits.to * 2.0);
        Self { limits, belief, steps: Vec::new() }
    }

    /// Returns what is searched.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes the outcome of a step into account.
    pub fn add(&mut self, load: f64, outcome: &Outcome) {
        let kind = match outcome {
            Outcome::Held => Kind::Held,
            Outcome::Broken(_) => Kind::Broken,
            Outcome::Unmeasurable(_) => Kind::Unmeasurable,
        };
        if kind != Kind::Unmeasurable {
            self.belief.learn(load, kind == Kind::Held);
        }
        self.steps.push((load, kind));
    }

    /// Returns the next load, or why there is none.
    ///
    /// # Errors
    /// The search is over. The error says why.
    pub fn next(&self) -> Result<f64, End> {
        let Limits { from, to, unit, steps, .. } = self.limits;
        let Some(&(last, kind)) = self.steps.last() else { return Ok(from) };
        if let Some(end) = self.end() {
            return Err(end);
        }
        if self.steps.len() >= steps {
            return Err(End::OutOfSteps);
        }
        // The generator may have been disturbed.
        if kind == Kind::Unmeasurable && self.count(Kind::Unmeasurable, |load| self.is_same(load, last)) < 2 {
            return Ok(last);
        }
        let limit = self.generator_limit();
        let load = match (self.any(Kind::Broken), limit) {
            (true, _) => self.belief.quantile(self.most_informative()),
            (false, Some(limit)) => (self.highest(Kind::Held).unwrap_or(unit) * limit).sqrt(),
            (false, None) => last * GROWTH,
        };
        // However little is known above it: a load far beyond the ceiling can bring the system down for the rest of the search.
        let load = load.min(self.highest(Kind::Held).map_or(from, |held| held * GROWTH));
        // Near the generator's limit nothing can be learnt about the system: rather repeat a load that was too high for it.
        let broken = self.highest(Kind::Broken);
        let highest = limit.map_or(to, |limit| broken.unwrap_or(limit - unit).min(limit - unit).max(unit));
        Ok(self.limits.whole(load).min(highest))
    }

    /// Returns the quantile of the possible ceilings at which the next step tells most. First the median, which halves the range. Then both
    /// sides in turn: a step at the ceiling itself may hold or break, and says little about how wide the range is.
    fn most_informative(&self) -> f64 {
        let Ceiling { value, low, high, .. } = self.ceiling();
        let is_wide = high.is_none_or(|high| high - low > WIDE * value);
        match self.steps.last() {
            _ if is_wide => 0.5,
            Some((_, Kind::Held)) => 1.0 - SIDE,
            _ => SIDE,
        }
    }

    /// Returns why the search is over, apart from the number of its steps.
    fn end(&self) -> Option<End> {
        let unit = self.limits.unit;
        let highest_held = self.highest(Kind::Held);
        if let Some(limit) = self.generator_limit() {
            let reached = highest_held.unwrap_or(0.0);
            let is_near = limit <= reached * (1.0 + NEAR_ENOUGH) || limit - reached <= unit;
            // The system's ceiling, if there is one, is not below the generator's.
            if is_near && self.belief.quantile(0.5) >= reached {
                return Some(End::GeneratorLimit);
            }
        }
        if self.is_above_range() {
            return Some(End::AboveRange);
        }
        if highest_held.is_none() && self.count(Kind::Broken, |load| load <= unit) >= 2 {
            return Some(End::NothingHolds);
        }
        (self.any(Kind::Broken) && (self.is_narrow() || self.has_neighbours())).then_some(End::Found)
    }

    /// Returns whether the highest load to try holds. As with the ceiling, a single step does not decide, and neither does one that broke.
    fn is_above_range(&self) -> bool {
        let to = self.limits.to;
        self.count(Kind::Held, |load| load >= to) >= 2
            && (!self.any(Kind::Broken) || self.belief.quantile(MARGIN) >= to)
    }

    /// Returns whether the interval of the ceiling is as narrow as asked for, and several steps on both sides support it.
    fn is_narrow(&self) -> bool {
        let precision = self.limits.precision;
        let [low, value, high] = self.interval();
        let below = self.count(Kind::Held, |load| (low * (1.0 - precision)..=value).contains(&load));
        let above = self.count(Kind::Broken, |load| (value..=high * (1.0 + precision)).contains(&load));
        high - low <= precision * value && below >= 2 && above >= 2
    }

    /// Returns whether two loads that differ by one unit differ in their outcome, each twice and without exception.
    fn has_neighbours(&self) -> bool {
        let unit = self.limits.unit;
        let low = (self.belief.quantile(0.5) / unit).floor() * unit;
        let only = |kind, other, load| {
            self.count(kind, |of| self.is_same(of, load)) >= 2
                && self.count(other, |of| self.is_same(of, load)) == 0
        };
        only(Kind::Held, Kind::Broken, low) && only(Kind::Broken, Kind::Held, low + unit)
    }

    /// Returns the lower end of the ceiling's interval, the most likely ceiling, and the upper end.
    fn interval(&self) -> [f64; 3] {
        [MARGIN, 0.5, 1.0 - MARGIN].map(|share| self.belief.quantile(share))
    }

    fn is_same(&self, load: f64, other: f64) -> bool {
        (load - other).abs() < self.limits.unit / 2.0
    }

    /// Returns the lowest load that the generator could not produce, twice. It does not count if the system broke at that load or a higher
    /// one, and that could be measured.
    fn generator_limit(&self) -> Option<f64> {
        let broken = self.highest(Kind::Broken).unwrap_or(0.0);
        let unmeasurable =
            self.steps.iter().filter(|(load, kind)| *kind == Kind::Unmeasurable && *load > broken);
        let twice = |load: f64| self.count(Kind::Unmeasurable, |other| self.is_same(load, other)) >= 2;
        unmeasurable.map(|(load, _)| *load).filter(|&load| twice(load)).reduce(f64::min)
    }

    fn highest(&self, kind: Kind) -> Option<f64> {
        self.steps.iter().filter(|(_, of)| *of == kind).map(|(load, _)| *load).reduce(f64::max)
    }

    fn any(&self, kind: Kind) -> bool {
        self.count(kind, |_| true) > 0
    }

    fn count(&self, kind: Kind, at: impl Fn(f64) -> bool) -> usize {
        self.steps.iter().filter(|(load, of)| *of == kind && at(*load)).count()
    }

    /// Returns what is known of the ceiling.
    #[must_use]
    pub fn ceiling(&self) -> Ceiling {
        let noise = self.belief.noise();
        if self.any(Kind::Broken) && !self.is_above_range() {
            let [low, value, high] = self.interval();
            return Ceiling { value, low, high: Some(high), confidence: CONFIDENCE, noise };
        }
        let held = self.highest(Kind::Held).unwrap_or(0.0);
        Ceiling { value: held, low: held, high: None, confidence: CONFIDENCE, noise }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { from: 8.0, to: 100_000.0, unit: 1.0, precision: 0.05, steps: 60 };

    fn outcome(held: bool) -> Outcome {
        if held { Outcome::Held } else { Outcome::Broken("e2el_ms p(99)=2000".to_owned()) }
    }

    /// Searches in a system. Returns the ceiling, the end and the loads that were tried.
    fn search(limits: Limits, mut system: impl FnMut(f64) -> Outcome) -> (Ceiling, End, Vec<f64>) {
        let mut search = Search::new(limits);
        let mut tried = Vec::new();
        loop {
            match search.next() {
                Ok(load) => {
                    search.add(load, &system(load));
                    tried.push(load);
                }
                Err(end) => return (search.ceiling(), end, tried),
            }
        }
    }

    #[test]
    fn it_doubles_then_narrows() {
        let (ceiling, end, tried) = search(LIMITS, |load| outcome(load <= 300.0));
        assert_eq!(tried[..7], [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]);
        assert_eq!(end, End::Found);
        assert!((ceiling.value - 300.0).abs() < 6.0, "{ceiling:?}");
        assert!(ceiling.low <= 301.0 && ceiling.high.unwrap() >= 300.0, "{ceiling:?}");
        assert!(tried.len() <= 22, "{tried:?}");
    }

    #[test]
    fn no_load_is_far_above_one_that_held() {
        // The step at 1,024 breaks by accident, then 1,434 hold.
        let mut accident = true;
        let (_, _, tried) = search(LIMITS, |load| {
            outcome(load <= 1500.0 && !(load > 1000.0 && std::mem::take(&mut accident)))
        });
        let mut held = 8.0_f64;
        for load in tried {
            assert!(load <= held * 2.0, "{load} after {held}");
            held = held.max(if load <= 1500.0 { load } else { 0.0 });
        }
    }

    #[test]
    fn small_ceilings_are_exact() {
        for limit in [1.0, 2.0, 3.0, 7.0] {
            let (ceiling, end, tried) = search(LIMITS, |load| outcome(load <= limit));
            assert_eq!(end, End::Found, "{limit}: {tried:?}");
            assert!((limit - 0.1..=limit + 1.1).contains(&ceiling.value), "{limit}: {ceiling:?}");
        }
        assert_eq!(search(LIMITS, |_| outcome(false)).1, End::NothingHolds);
    }

    #[test]
    fn the_highest_load_is_a_lower_bound() {
        let limits = Limits { to: 1000.0, ..LIMITS };
        let (ceiling, end, tried) = search(limits, |_| outcome(true));
        assert_eq!((ceiling.value, ceiling.high, end), (1000.0, None, End::AboveRange));
        assert_eq!(tried[tried.len() - 2..], [1000.0, 1000.0]);
    }

    #[test]
    fn the_generators_limit_is_never_reported_as_a_ceiling() {
        let tired = || Outcome::Unmeasurable("its event loop was late".to_owned());
        let (ceiling, end, tried) = search(LIMITS, |load| if load > 700.0 { tired() } else { outcome(true) });
        assert_eq!((end, ceiling.high), (End::GeneratorLimit, None));
        assert!((660.0..=700.0).contains(&ceiling.value), "{ceiling:?} {tried:?}");
        // A ceiling below the generator's limit is found all the same.
        let below = |load: f64| if load > 700.0 { tired() } else { outcome(load <= 600.0) };
        let (ceiling, end, tried) = search(LIMITS, below);
        assert_eq!(end, End::Found, "{ceiling:?} {tried:?}");
        assert!((ceiling.value - 600.0).abs() < 12.0, "{ceiling:?}");
        // A generator that is disturbed once is asked again.
        let mut disturbed = false;
        let once = |load: f64| {
            if load > 100.0 && !std::mem::replace(&mut disturbed, true) {
                tired()
            } else {
                outcome(load <= 300.0)
            }
        };
        let (ceiling, end, tried) = search(LIMITS, once);
        assert_eq!((end, tried[4..6].to_vec()), (End::Found, vec![128.0, 128.0]));
        assert!((ceiling.value - 300.0).abs() < 6.0, "{ceiling:?}");
    }

    #[test]
    fn the_number_of_steps_is_bounded() {
        let mut step = 0;
        let limits = Limits { steps: 12, precision: 0.001, from: 1000.0, ..LIMITS };
        let (_, end, tried) = search(limits, |_| {
            step += 1;
            outcome(step % 2 == 0)
        });
        assert_eq!((end, tried.len()), (End::OutOfSteps, 12));
    }

    /// A generator of pseudo-random numbers from 0 to 1 (Knuth's MMIX multiplier).
    fn numbers(mut state: u64) -> impl FnMut() -> f64 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from((state >> 33) as u32) / f64::from(1u32 << 31)
        }
    }

    /// Searches in 100 systems with this noise. Returns how many searches found a ceiling, and how often it was in the interval.
    fn noisy(noise: f64, precision: f64) -> (u32, u32) {
        let (mut found, mut inside) = (0, 0);
        for seed in 0..100 {
            let mut number = numbers(seed);
            let ceiling = 50.0 * (number() * 6.0).exp();
            let system = |load: f64| {
                let holds = 0.01 + 0.98 / (1.0 + ((load / ceiling).ln() / noise).exp());
                outcome(number() < holds)
            };
            let (interval, end, _) = search(Limits { precision, ..LIMITS }, system);
            if end == End::Found {
                found += 1;
                inside +=
                    u32::from(interval.low <= ceiling && interval.high.is_some_and(|high| ceiling <= high));
            }
        }
        (found, inside)
    }

    #[test]
    fn the_interval_contains_a_noisy_ceiling_about_as_often_as_it_says() {
        for (noise, precision) in [(0.002, 0.05), (0.01, 0.05), (0.03, 0.1), (0.06, 0.2)] {
            let (found, inside) = noisy(noise, precision);
            // 90 % are meant. That a search ends when its interval is narrow costs a little.
            assert!(found >= 60 && inside * 100 >= found * 80, "noise {noise}: {inside} of {found}");
        }
    }

    #[test]
    fn a_measured_break_cancels_the_generators_limit() {
        // The measurement error hides what happens at 304, and at 310 the system breaks.
        let system = |load: f64| match load {
            hidden if (302.0..=306.0).contains(&hidden) => Outcome::Unmeasurable("hidden".to_owned()),
            load => outcome(load <= 303.0),
        };
        let (ceiling, end, tried) = search(LIMITS, system);
        assert_ne!(end, End::GeneratorLimit, "{tried:?}");
        assert!(
            ceiling.low <= 304.0 && ceiling.high.is_some_and(|high| high >= 303.0),
            "{ceiling:?} {tried:?}"
        );
    }

    #[test]
    fn one_accident_does_not_hide_that_the_range_is_too_small() {
        let mut step = 0;
        let accident = |_| {
            step += 1;
            outcome(step != 3)
        };
        let (ceiling, end, tried) = search(Limits { to: 1000.0, ..LIMITS }, accident);
        assert_eq!((end, ceiling.value, ceiling.high), (End::AboveRange, 1000.0, None), "{tried:?}");
    }

    proptest! {
        #[test]
        fn a_sharp_ceiling_is_found_within_two_percent(limit in 10u32..20_000, from in 1u32..400) {
            let limits = Limits { from: f64::from(from), precision: 0.03, ..LIMITS };
            let (ceiling, end, tried) = search(limits, |load| outcome(load <= f64::from(limit)));
            prop_assert_eq!(end, End::Found);
            let limit = f64::from(limit);
            prop_assert!((ceiling.value - limit).abs() <= (limit * 0.02).max(1.1), "{:?} {:?}", ceiling, tried);
            prop_assert!(tried.len() < 40, "{:?}", tried);
        }
    }
}

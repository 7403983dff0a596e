//! Which load comes next, and what is known of the ceiling.

use super::{belief::Belief, window::Outcome};
use serde::{Deserialize, Serialize};

/// Probability with which the ceiling lies in the interval that is reported.
const CONFIDENCE: f64 = 0.9;
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
        if kind == Kind::Unmeasurable && self.count(Kind::Unmeasurable, |load| load <= last) < 2 {
            return Ok(last);
        }
        let limit = self.generator_limit();
        let load = match (self.any(Kind::Broken), limit) {
            (true, _) => self.belief.quantile(self.most_informative()),
            (false, Some(limit)) => (self.highest_held().unwrap_or(unit) * limit).sqrt(),
            (false, None) => last * 2.0,
        };
        // Near the generator's limit nothing can be learnt about the system: rather repeat a load that was too high for it.
        let broken = self
            .steps
            .iter()
            .filter(|(_, kind)| *kind == Kind::Broken)
            .map(|(load, _)| *load)
            .reduce(f64::max);
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
        let Limits { to, unit, precision, .. } = self.limits;
        let highest_held = self.highest_held();
        if let Some(limit) = self.generator_limit() {
            let reached = highest_held.unwrap_or(0.0);
            let is_near = limit <= reached * (1.0 + NEAR_ENOUGH) || limit - reached <= unit;
            // The system's ceiling, if there is one, is not below the generator's.
            if is_near && self.belief.quantile(0.5) >= reached {
                return Some(End::GeneratorLimit);
            }
        }
        if !self.any(Kind::Broken) {
            // As with the ceiling, a single step does not decide.
            return (self.count(Kind::Held, |load| load >= to) >= 2).then_some(End::AboveRange);
        }
        if highest_held.is_none() && self.count(Kind::Broken, |load| load <= unit) >= 2 {
            return Some(End::NothingHolds);
        }
        let Ceiling { value, low, high, .. } = self.ceiling();
        let width = high.map_or(f64::INFINITY, |high| high - low);
        let neighbours = || {
            let low = (value / unit).floor() * unit;
            self.count(Kind::Held, |load| load == low) >= 2
                && self.count(Kind::Broken, |load| load == low + unit) >= 2
        };
        (width <= precision * value || neighbours()).then_some(End::Found)
    }

    /// Returns the load that the generator could not produce, twice.
    fn generator_limit(&self) -> Option<f64> {
        let unmeasurable =
            || self.steps.iter().filter(|(_, kind)| *kind == Kind::Unmeasurable).map(|(load, _)| *load);
        unmeasurable()
            .filter(|&load| unmeasurable().filter(|&other| other <= load).count() >= 2)
            .reduce(f64::min)
    }

    fn highest_held(&self) -> Option<f64> {
        let held = self.steps.iter().filter(|(_, kind)| *kind == Kind::Held);
        held.map(|(load, _)| *load).reduce(f64::max)
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
        let margin = (1.0 - CONFIDENCE) / 2.0;
        let noise = self.belief.noise();
        if self.any(Kind::Broken) {
            let [low, value, high] = [margin, 0.5, 1.0 - margin].map(|share| self.belief.quantile(share));
            return Ceiling { value, low, high: Some(high), confidence: CONFIDENCE, noise };
        }
        let held = self.highest_held().unwrap_or(0.0);
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

    #[test]
    fn the_interval_contains_a_noisy_ceiling_about_as_often_as_it_says() {
        let mut inside = 0;
        let searches = 200;
        for seed in 0..searches {
            let mut number = numbers(seed);
            let ceiling = 50.0 * (number() * 6.0).exp();
            let noise = 0.03;
            let system = |load: f64| {
                let holds = 1.0 / (1.0 + ((load / ceiling).ln() / noise).exp());
                outcome(number() < holds)
            };
            let (found, ..) = search(Limits { precision: 0.10, ..LIMITS }, system);
            inside += u32::from(found.low <= ceiling && found.high.is_none_or(|high| ceiling <= high));
        }
        // 90 % are meant. Stopping early costs a little.
        assert!(inside * 100 >= searches as u32 * 80, "{inside} of {searches}");
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

//! Which hop made tokens slower: compares the calmest with the worst part of a run.

use super::{Hop, part::HopPart};

/// Smallest number of samples of a part that is compared.
const MIN_SAMPLES: u64 = 200;
/// Smallest number of parts of a run.
const MIN_PARTS: usize = 4;
/// Smallest growth of the mean time, in milliseconds, and its smallest ratio to the calmest part, that is reported.
const MIN_GROWTH_MS: f64 = 5.0;
const MIN_RATIO: f64 = 1.0;
/// Share of the growth from which a hop explains most of it.
const MOST: f64 = 0.6;

/// The growth of the time of tokens between two parts of a run, and the hop that explains most of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HopGrowth {
    /// The hop.
    pub hop: Hop,
    /// The calmest part.
    pub calm: HopMean,
    /// The worst part.
    pub worst: HopMean,
}

/// Mean times in a part of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HopMean {
    /// First second.
    pub from_s: u64,
    /// First second after it.
    pub to_s: u64,
    /// Mean time in all hops, in milliseconds.
    pub total_ms: f64,
    /// Mean time in the hop, in milliseconds.
    pub hop_ms: f64,
    /// Number of sampled tokens.
    pub samples: u64,
}

impl HopMean {
    fn of(part: &HopPart, hop: Hop) -> Self {
        Self {
            from_s: part.from_s,
            to_s: part.to_s,
            total_ms: part.total_ms(),
            hop_ms: part.mean_ms(hop),
            samples: part.samples(),
        }
    }
}

impl HopGrowth {
    /// Compares parts, which come in order. Returns `None` if the time grew too little, or no hop explains most of the growth.
    pub(super) fn of(parts: &[HopPart]) -> Option<Self> {
        let parts = with_enough_samples(parts);
        if parts.len() < MIN_PARTS {
            return None;
        }
        let by_total = |one: &&HopPart, other: &&HopPart| one.total_ms().total_cmp(&other.total_ms());
        let (calm, worst) = (parts.iter().min_by(by_total)?, parts.iter().max_by(by_total)?);
        let growth = worst.total_ms() - calm.total_ms();
        if growth < MIN_GROWTH_MS.max(calm.total_ms() * MIN_RATIO) {
            return None;
        }
        let grew = |hop: Hop| worst.mean_ms(hop) - calm.mean_ms(hop);
        let hop = Hop::ALL.into_iter().max_by(|&one, &other| grew(one).total_cmp(&grew(other)))?;
        let found = Self { hop, calm: HopMean::of(calm, hop), worst: HopMean::of(worst, hop) };
        (found.share() >= MOST).then_some(found)
    }

    /// Returns the share of the growth that the hop explains, 0 to 1. It is above 1 if other hops became faster.
    #[must_use]
    pub fn share(&self) -> f64 {
        (self.worst.hop_ms - self.calm.hop_ms) / (self.worst.total_ms - self.calm.total_ms)
    }
}

/// Joins neighbouring parts until each has enough samples. The last ones may have too few, and are left out then.
fn with_enough_samples(parts: &[HopPart]) -> Vec<HopPart> {
    let mut joined: Vec<HopPart> = Vec::new();
    for part in parts {
        match joined.last_mut().filter(|last| last.samples() < MIN_SAMPLES) {
            Some(last) => last.add(part),
            None => joined.push(*part),
        }
    }
    joined.retain(|part| part.samples() >= MIN_SAMPLES);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HopTrend, Interval};

    /// Returns the growth of a run with these mean times by hop and second, in milliseconds.
    fn growth(seconds: &[[f64; 4]], samples: u64) -> Option<HopGrowth> {
        let mut trend = HopTrend::default();
        for (second, means) in (0..).zip(seconds) {
            let mut interval = Interval::default();
            for (hop, ms) in Hop::ALL.into_iter().zip(means) {
                #[allow(clippy::cast_possible_truncation)]
                (0..samples).for_each(|_| interval.record(hop.metric(), (ms * 1e6) as i64));
            }
            trend.second(second, &interval);
        }
        trend.growth()
    }

    const CALM: [f64; 4] = [0.1, 0.4, 0.1, 0.2];

    #[test]
    fn the_hop_that_explains_most_of_the_growth_is_named() {
        for (nth, hop) in Hop::ALL.into_iter().enumerate() {
            let mut slow = CALM;
            slow[nth] += 8.0;
            slow[(nth + 1) % 4] += 1.0;
            let found = growth(&[CALM, CALM, CALM, slow, CALM], 240).unwrap();
            assert_eq!((found.hop, found.worst.from_s, found.worst.to_s), (hop, 3, 4));
            assert!((found.share() - 8.0 / 9.0).abs() < 1e-3, "{found:?}");
            assert!((found.worst.total_ms - 9.8).abs() < 1e-3 && (found.calm.total_ms - 0.8).abs() < 1e-3);
            assert_eq!((found.calm.samples, found.worst.samples), (240, 240));
        }
    }

    #[test]
    fn without_a_clear_cause_nothing_is_named() {
        let slow = |by: [f64; 4]| std::array::from_fn(|hop| CALM[hop] + by[hop]);
        for (why, worst, samples) in [
            ("it grew too little", slow([0.0, 0.9, 0.0, 0.0]), 240),
            ("two hops grew alike", slow([0.0, 5.0, 5.0, 0.0]), 240),
            ("there are too few samples", slow([0.0, 9.0, 0.0, 0.0]), 30),
        ] {
            assert_eq!(growth(&[CALM, CALM, CALM, worst, CALM], samples), None, "{why}");
        }
        assert_eq!(growth(&[CALM, CALM, slow([0.0, 9.0, 0.0, 0.0])], 240), None, "the run is too short");
        let busy = [5.0, 5.0, 5.0, 5.0];
        let more = [5.0, 12.0, 5.0, 5.0];
        assert_eq!(growth(&[busy, busy, busy, more], 240), None, "it did not even double");
    }

    #[test]
    fn seconds_with_few_samples_are_joined() {
        let slow = [0.1, 29.0, 0.1, 0.2];
        let seconds: Vec<_> = (0..24).map(|second| if second < 18 { CALM } else { slow }).collect();
        let found = growth(&seconds, 40).unwrap();
        assert_eq!((found.hop, found.calm.samples), (Hop::Bus, 200));
        assert!(found.worst.samples >= 200 && found.worst.from_s >= 15, "{found:?}");
    }
}

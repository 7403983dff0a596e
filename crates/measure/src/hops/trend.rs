//! The mean time of each hop over the run. Memory does not grow with the length of the run.

use super::{growth::HopGrowth, part::HopPart};
use crate::Interval;

/// Largest number of parts of a run. Beyond it, parts become twice as long.
const MAX_PARTS: usize = 512;

/// The mean time of each hop over the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopTrend {
    parts: Vec<HopPart>,
    /// Length of a part in seconds.
    length_s: u64,
}

impl Default for HopTrend {
    fn default() -> Self {
        Self { parts: Vec::new(), length_s: 1 }
    }
}

impl HopTrend {
    /// Adds a second of the run. Seconds come in order.
    pub fn second(&mut self, second: u64, interval: &Interval) {
        let part = HopPart::of(second, interval);
        if part.samples() == 0 {
            return;
        }
        self.push(part);
        while self.parts.len() > MAX_PARTS {
            self.length_s *= 2;
            std::mem::take(&mut self.parts).into_iter().for_each(|part| self.push(part));
        }
    }

    fn push(&mut self, part: HopPart) {
        match self.parts.last_mut().filter(|last| last.from_s / self.length_s == part.from_s / self.length_s)
        {
            Some(last) => last.add(&part),
            None => self.parts.push(part),
        }
    }

    /// Returns the growth from the calmest to the worst part of the run, if one hop explains most of it.
    #[must_use]
    pub fn growth(&self) -> Option<HopGrowth> {
        HopGrowth::of(&self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hop;

    #[test]
    fn a_days_trend_is_bounded_and_true() {
        let (mut trend, mut interval) = (HopTrend::default(), Interval::default());
        for hop in Hop::ALL {
            interval.record(hop.metric(), 1_000_000 * (hop as i64 + 1));
        }
        (0..86_400).for_each(|second| trend.second(second, &interval));
        assert!((256..=MAX_PARTS).contains(&trend.parts.len()), "{}", trend.parts.len());
        assert_eq!(trend.parts.iter().map(HopPart::samples).sum::<u64>(), 86_400);
        assert!(trend.parts.windows(2).all(|pair| pair[0].to_s == pair[1].from_s));
        for part in &trend.parts {
            assert_eq!(Hop::ALL.map(|hop| part.mean_ms(hop)), [1.0, 2.0, 3.0, 4.0]);
        }
    }
}

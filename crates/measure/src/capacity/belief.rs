//! What the steps of a search say about the ceiling: a probability for each possible ceiling and each amount of noise.
//!
//! The model is that of a psychometric function (Watson and Pelli, 1983, "QUEST: A Bayesian adaptive psychometric method"): near the ceiling
//! `c`, a step at load `x` holds with probability `1 / (1 + exp((ln x - ln c) / s))`. `s` is the noise, as a share of the load. Every step
//! is wrong by accident with probability [`ACCIDENT`], so that no single step decides.

/// Probability that a step holds or breaks for a reason that has nothing to do with the load.
const ACCIDENT: f64 = 0.02;
/// Distance of two possible ceilings, as a share of the load.
const RESOLUTION: f64 = 0.0025;
/// Possible amounts of noise, as shares of the load.
const NOISE: [f64; 7] = [0.002, 0.005, 0.01, 0.03, 0.06, 0.12, 0.25];

/// Probabilities of ceilings between two loads.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    /// Logarithm of the lowest possible ceiling.
    lowest: f64,
    /// Probabilities by ceiling, for each amount of noise. Their sum is 1.
    cells: Vec<[f64; NOISE.len()]>,
}

impl Belief {
    /// All ceilings between these loads are equally likely, on a logarithmic scale.
    pub(super) fn between(low: f64, high: f64) -> Self {
        let lowest = low.ln();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cells = 1 + ((high.ln() - lowest) / RESOLUTION).ceil().max(1.0) as usize;
        #[allow(clippy::cast_precision_loss)]
        let each = 1.0 / (cells * NOISE.len()) as f64;
        Self { lowest, cells: vec![[each; NOISE.len()]; cells] }
    }

    #[allow(clippy::cast_precision_loss)]
    fn log_ceiling(&self, cell: usize) -> f64 {
        self.lowest + cell as f64 * RESOLUTION
    }

    /// Takes a step into account: whether the objectives held at this load.
    pub(super) fn learn(&mut self, load: f64, held: bool) {
        let lowest = self.lowest;
        let mut sum = 0.0;
        for (cell, row) in self.cells.iter_mut().enumerate() {
            #[allow(clippy::cast_precision_loss)]
            let distance = load.ln() - (lowest + cell as f64 * RESOLUTION);
            for (probability, noise) in row.iter_mut().zip(NOISE) {
                let holds = ACCIDENT + (1.0 - 2.0 * ACCIDENT) / (1.0 + (distance / noise).exp());
                *probability *= if held { holds } else { 1.0 - holds };
                sum += *probability;
            }
        }
        self.cells.iter_mut().flatten().for_each(|probability| *probability /= sum);
    }

    /// Returns the load below which the ceiling lies with this probability.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sum = 0.0;
        for (cell, row) in self.cells.iter().enumerate() {
            let before = sum;
            sum += row.iter().sum::<f64>();
            if sum >= share {
                let inside = if sum > before { (share - before) / (sum - before) } else { 0.5 };
                return (self.log_ceiling(cell) + (inside - 0.5) * RESOLUTION).exp();
            }
        }
        self.log_ceiling(self.cells.len() - 1).exp()
    }

    /// Returns the expected noise, as a share of the load.
    pub(super) fn noise(&self) -> f64 {
        self.cells
            .iter()
            .flat_map(|row| row.iter().zip(NOISE))
            .map(|(probability, noise)| probability * noise)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_with_no_preference() {
        let belief = Belief::between(1.0, 10_000.0);
        assert!((belief.quantile(0.5) - 100.0).abs() < 1.0, "{}", belief.quantile(0.5));
        assert!((belief.quantile(0.25) - 10.0).abs() < 0.1, "{}", belief.quantile(0.25));
    }

    #[test]
    fn one_accident_is_overruled() {
        let mut belief = Belief::between(1.0, 10_000.0);
        for (load, held) in [(8.0, true), (16.0, true), (32.0, false)] {
            belief.learn(load, held);
        }
        let median = belief.quantile(0.5);
        assert!((16.0..32.0).contains(&median), "{median}");
        for (load, held) in [(24.0, true), (31.0, true), (32.0, true), (32.0, true), (64.0, true)] {
            belief.learn(load, held);
        }
        assert!(belief.quantile(0.5) > 64.0, "{}", belief.quantile(0.5));
    }

    #[test]
    fn a_ceiling_that_scatters_is_noisy() {
        let mut sharp = Belief::between(1.0, 1000.0);
        let mut blurred = sharp.clone();
        for load in [95.0, 97.0, 99.0, 101.0, 103.0, 105.0] {
            sharp.learn(load, load < 100.0);
            // Every second step holds, far below and far above.
            blurred.learn(load * 0.95, true);
            blurred.learn(load * 1.05, true);
            blurred.learn(load * 0.95, false);
            blurred.learn(load * 1.05, false);
        }
        assert!(sharp.noise() < blurred.noise(), "{} {}", sharp.noise(), blurred.noise());
        assert!(blurred.noise() > 0.05, "{}", blurred.noise());
    }
}

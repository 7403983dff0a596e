//! Laws of scalability: throughput as a function of the number of users.

use serde::Serialize;

/// A measured throughput: number of users, and tokens per second.
pub type Sample = (f64, f64);

/// A law of scalability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// Universal scalability law (Gunther): contention and coherence.
    Usl,
    /// Amdahl's law: contention only.
    Amdahl,
    /// Each user adds the same throughput.
    Linear,
}

impl Law {
    /// All laws, the preferred one first.
    pub const ALL: [Self; 3] = [Self::Usl, Self::Amdahl, Self::Linear];

    /// Returns the name for readers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usl => "universal scalability law (USL, Gunther)",
            Self::Amdahl => "Amdahl's law",
            Self::Linear => "linear law",
        }
    }

    /// Returns the formula of the throughput X at N users.
    #[must_use]
    pub const fn formula(self) -> &'static str {
        match self {
            Self::Usl => "X(N) = λN / (1 + σ(N−1) + κN(N−1))",
            Self::Amdahl => "X(N) = λN / (1 + σ(N−1))",
            Self::Linear => "X(N) = λN",
        }
    }
}

/// A law with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The law.
    pub law: Law,
    /// Throughput of one user, λ, in tokens per second.
    pub lambda: f64,
    /// Contention, σ: the share of the work for which users wait in turn.
    pub sigma: f64,
    /// Coherence, κ: the cost that each pair of users adds.
    pub kappa: f64,
}

impl Curve {
    /// Returns the throughput in tokens per second at this number of users.
    #[must_use]
    pub fn at(&self, users: f64) -> f64 {
        self.lambda * users / self.slowdown(users)
    }

    /// Returns the throughput as a share of that of `users` users without contention and coherence.
    #[must_use]
    pub fn efficiency(&self, users: f64) -> f64 {
        1.0 / self.slowdown(users)
    }

    fn slowdown(&self, users: f64) -> f64 {
        1.0 + self.sigma * (users - 1.0) + self.kappa * users * (users - 1.0)
    }

    /// Returns the number of users from which more users lower the throughput. `None` without coherence.
    #[must_use]
    pub fn peak(&self) -> Option<f64> {
        (self.kappa > 0.0 && self.sigma < 1.0).then(|| ((1.0 - self.sigma) / self.kappa).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throughput_is_highest_at_the_peak() {
        let curve = Curve { law: Law::Usl, lambda: 20.0, sigma: 0.001, kappa: 1e-6 };
        let peak = curve.peak().unwrap();
        assert!((peak - 999.5).abs() < 0.1, "{peak}");
        assert!(curve.at(peak) > curve.at(peak * 0.9) && curve.at(peak) > curve.at(peak * 1.1));
        assert_eq!(Curve { kappa: 0.0, ..curve }.peak(), None);
    }

    #[test]
    fn without_contention_users_add_up() {
        let curve = Curve { law: Law::Linear, lambda: 20.0, sigma: 0.0, kappa: 0.0 };
        assert_eq!((curve.at(50.0), curve.efficiency(50.0)), (1000.0, 1.0));
    }
}

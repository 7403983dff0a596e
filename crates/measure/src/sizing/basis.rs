//! What a figure is based on: a measurement, or a distance from the nearest one.

use serde::Serialize;

/// Loads that differ by at most this share count as the same.
pub(super) const SAME: f64 = 0.05;
/// Factor beyond the measured range from which a figure needs a warning.
pub const FAR: f64 = 2.0;

/// What a figure is based on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "basis", content = "factor")]
pub enum Basis {
    /// A point has this load, within 5 %.
    Measured,
    /// The load lies between two points.
    Interpolated,
    /// The load is this factor above the highest one that was measured.
    Extrapolated(f64),
    /// The load is this factor below the lowest one that was measured.
    Below(f64),
}

impl Basis {
    /// Returns whether the figure is more than twice as far as any measurement.
    #[must_use]
    pub fn is_far(self) -> bool {
        matches!(self, Self::Extrapolated(factor) if factor > FAR)
    }

    /// Returns the worse of two.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    const fn rank(self) -> (u8, f64) {
        match self {
            Self::Measured => (0, 0.0),
            Self::Interpolated => (1, 0.0),
            Self::Below(factor) => (2, factor),
            Self::Extrapolated(factor) => (3, factor),
        }
    }
}

/// The loads that were measured, in users.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured(Vec<f64>);

impl Measured {
    /// Creates the range of these loads.
    #[must_use]
    pub fn new(mut loads: Vec<f64>) -> Self {
        loads.sort_by(f64::total_cmp);
        Self(loads)
    }

    /// Returns the lowest load. 0 without loads.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    /// Returns the highest load. 0 without loads.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// Returns the number of loads that differ from each other by more than 5 %.
    #[must_use]
    pub fn distinct(&self) -> usize {
        let mut last = 0.0;
        let is_new = |load: &&f64| {
            let new = **load > last * (1.0 + SAME);
            if new {
                last = **load;
            }
            new
        };
        self.0.iter().filter(is_new).count()
    }

    /// Returns what a figure at this load is based on.
    #[must_use]
    pub fn basis(&self, load: f64) -> Basis {
        let (least, most) = (self.least(), self.most());
        if self.0.iter().any(|measured| (load - measured).abs() <= SAME * measured) {
            Basis::Measured
        } else if load > most {
            Basis::Extrapolated(if most > 0.0 { load / most } else { f64::INFINITY })
        } else if load < least {
            Basis::Below(if load > 0.0 { least / load } else { f64::INFINITY })
        } else {
            Basis::Interpolated
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_has_its_basis() {
        let measured = Measured::new(vec![400.0, 50.0, 200.0]);
        for (load, basis) in [
            (400.0, Basis::Measured),
            (195.0, Basis::Measured),
            (300.0, Basis::Interpolated),
            (800.0, Basis::Extrapolated(2.0)),
            (25.0, Basis::Below(2.0)),
        ] {
            assert_eq!(measured.basis(load), basis, "{load}");
        }
        assert!(!Basis::Extrapolated(2.0).is_far() && Basis::Extrapolated(2.1).is_far());
        assert_eq!(Measured::new(Vec::new()).basis(1.0), Basis::Extrapolated(f64::INFINITY));
    }

    #[test]
    fn the_worst_of_several_counts() {
        let far = Basis::Extrapolated(3.0);
        assert_eq!(Basis::Measured.or_worse(far), far);
        assert_eq!(far.or_worse(Basis::Extrapolated(1.5)), far);
        assert_eq!(Basis::Interpolated.or_worse(Basis::Measured), Basis::Interpolated);
    }

    #[test]
    fn repeated_loads_count_once() {
        assert_eq!(Measured::new(vec![100.0, 101.0, 99.0, 200.0, 300.0, 301.0]).distinct(), 3);
    }
}

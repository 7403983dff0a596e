//! The repetitions of a variant as one row.

use super::{Outcome, Point, Variant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A figure over the repetitions of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Median. Of two repetitions it is their mean.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Number of repetitions that have the figure, at least 1.
    pub count: usize,
}

impl Spread {
    /// Returns the spread of these values, or `None` without values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max, count: values.len() })
    }

    /// Returns the distance between the smallest and the largest value.
    #[must_use]
    pub fn width(&self) -> f64 {
        self.max - self.min
    }
}

/// How many runs of a variant ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Runs that passed.
    pub pass: usize,
    /// Runs that failed.
    pub fail: usize,
    /// Runs whose measurement cannot be trusted.
    pub invalid: usize,
    /// Runs without a result.
    pub no_result: usize,
}

impl Outcomes {
    /// Returns whether there is a run, and every run passed.
    #[must_use]
    pub const fn all_passed(self) -> bool {
        self.pass > 0 && self.fail + self.invalid + self.no_result == 0
    }

    /// Returns the verdict of the variant: `PASS`, or every other way in which a run ended, for example `FAIL 1/2, INVALID 1/2`.
    /// Without runs it is `-`.
    #[must_use]
    pub fn text(self) -> String {
        let total = self.pass + self.fail + self.invalid + self.no_result;
        let others = [
            (Outcome::Fail, self.fail),
            (Outcome::Invalid, self.invalid),
            (Outcome::NoResult, self.no_result),
        ];
        let named = |(outcome, count): (Outcome, usize)| match count {
            all if all == total => outcome.name().to_owned(),
            _ => format!("{} {count}/{total}", outcome.name()),
        };
        let others: Vec<_> = others.into_iter().filter(|(_, count)| *count > 0).map(named).collect();
        match (total, others.is_empty()) {
            (0, _) => "-".to_owned(),
            (_, true) => Outcome::Pass.name().to_owned(),
            _ => others.join(", "),
        }
    }

    const fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Pass => self.pass += 1,
            Outcome::Fail => self.fail += 1,
            Outcome::Invalid => self.invalid += 1,
            Outcome::NoResult => self.no_result += 1,
        }
    }
}

/// A variant with the figures of its repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantSummary {
    /// Number of the variant, from 1.
    pub number: usize,
    /// Settings with their values.
    pub settings: Variant,
    /// The verdict of all runs.
    pub verdict: String,
    /// How the runs ended.
    pub runs: Outcomes,
    /// Figures by their keys, of the runs with a result.
    pub figures: BTreeMap<String, Spread>,
}

impl VariantSummary {
    /// Returns the median of a figure.
    #[must_use]
    pub fn median(&self, key: &str) -> Option<f64> {
        self.figures.get(key).map(|spread| spread.median)
    }
}

/// Returns one row per variant. If a run has several points, the last one counts.
#[must_use]
pub fn summarize(variants: &[Variant], points: &[Point]) -> Vec<VariantSummary> {
    let latest: BTreeMap<_, _> = points.iter().map(|point| (point.turn(), point)).collect();
    let row = |(index, settings): (usize, &Variant)| {
        let number = index + 1;
        let (mut runs, mut values) = (Outcomes::default(), BTreeMap::<&str, Vec<f64>>::new());
        for point in latest.values().filter(|point| point.variant == number) {
            runs.add(point.verdict);
            for (key, value) in &point.figures {
                values.entry(key).or_default().push(*value);
            }
        }
        let figures =
            values.into_iter().filter_map(|(key, values)| Some((key.to_owned(), Spread::of(values)?)));
        VariantSummary {
            number,
            settings: settings.clone(),
            verdict: runs.text(),
            runs,
            figures: figures.collect(),
        }
    };
    variants.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Dimension, Turn, variants};
    use super::*;
    use proptest::prelude::*;

    fn point(variant: usize, repetition: usize, verdict: Outcome, e2el: f64) -> Point {
        let figures = [("e2el_p99_ms".to_owned(), e2el)].into();
        Point { verdict, figures, ..Point::without_result(Turn { variant, repetition }, String::new()) }
    }

    #[test]
    fn repetitions_become_one_row() {
        let dimension: Dimension = "wsproxy=1,2,3".parse().unwrap();
        let points = [
            point(1, 1, Outcome::Pass, 100.0),
            point(2, 1, Outcome::Fail, 200.0),
            point(2, 2, Outcome::Invalid, 220.0),
            point(1, 2, Outcome::Pass, 104.0),
        ];
        let rows = summarize(&variants(&[dimension]).unwrap(), &points);
        assert_eq!(
            rows[0].figures["e2el_p99_ms"],
            Spread { median: 102.0, min: 100.0, max: 104.0, count: 2 }
        );
        let verdicts: Vec<_> = rows.iter().map(|row| row.verdict.as_str()).collect();
        assert_eq!(verdicts, ["PASS", "FAIL 1/2, INVALID 1/2", "-"]);
        assert!(rows[0].runs.all_passed() && !rows[1].runs.all_passed() && !rows[2].runs.all_passed());
        assert_eq!(
            (rows[2].settings.to_string().as_str(), rows[2].median("e2el_p99_ms")),
            ("wsproxy=3", None)
        );
    }

    #[test]
    fn a_bad_run_is_never_hidden() {
        let text = |pass, fail, invalid, no_result| Outcomes { pass, fail, invalid, no_result }.text();
        assert_eq!(text(1, 1, 0, 0), "FAIL 1/2");
        assert_eq!(text(0, 2, 0, 0), "FAIL");
        assert_eq!(text(1, 0, 1, 0), "INVALID 1/2");
        assert_eq!(text(0, 0, 0, 2), "NO RESULT");
        assert_eq!(text(3, 0, 0, 1), "NO RESULT 1/4");
    }

    #[test]
    fn a_run_that_was_played_again_counts_once() {
        let dimension: Dimension = "wsproxy=1".parse().unwrap();
        let points = [point(1, 1, Outcome::NoResult, 9.0), point(1, 1, Outcome::Pass, 5.0)];
        let rows = summarize(&variants(&[dimension]).unwrap(), &points);
        assert_eq!((rows[0].verdict.as_str(), rows[0].median("e2el_p99_ms")), ("PASS", Some(5.0)));
    }

    proptest! {
        #[test]
        fn the_median_lies_between_the_ends(values in proptest::collection::vec(-1e9f64..1e9, 1..9)) {
            let spread = Spread::of(values.clone()).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            prop_assert_eq!(spread.count, values.len());
            let below = values.iter().filter(|value| **value <= spread.median).count();
            prop_assert!(2 * below >= values.len());
        }
    }
}

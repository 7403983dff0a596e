//! A comparison as text: the answer first, then a row a figure.
//! It needs no colours.

use super::{Answer, Change, Comparison, statistics::Estimate};
use crate::output::{Column, Page, short};

const COLUMNS: [Column; 5] = [
    Column::left("", 24),
    Column::right("baseline", 10, 1),
    Column::right("candidate", 11, 2),
    Column::right("change", 10, 3),
    Column::left("   95 % interval", 21),
];

/// What the noise was taken from.
pub(super) const BETWEEN: &str = "noise between runs";
pub(super) const WITHIN: &str = "noise within runs";

/// A share as percent, one digit where it has one.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if (percent - percent.round()).abs() < 1e-9 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}

/// A ratio as growth: `+12.3 %`.
pub(super) fn growth(ratio: f64) -> String {
    let percent = ((ratio - 1.0) * 1e3).round() / 10.0;
    // Not -0.0: nothing shrank.
    format!("{:+.1} %", percent + 0.0)
}

pub(super) fn grown(change: &Change, tolerance: f64) -> String {
    let Some(ratio) = change.ratio else { return String::new() };
    let (value, low, high) = (growth(ratio.value), growth(ratio.low), growth(ratio.high));
    format!("{} changed by {value} ({low} to {high}), more than {}.", change.name, percent(tolerance))
}

const fn mark(answer: Answer) -> &'static str {
    match answer {
        Answer::Pass => "✓",
        Answer::Regressed => "✗",
        Answer::CannotTell => "?",
    }
}

impl Comparison {
    /// The comparison for a terminal of so many columns.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        let headline = match self.answer {
            Answer::Pass => "PASS",
            Answer::Regressed => "FAIL",
            Answer::CannotTell => "CANNOT TELL",
        };
        let mut page = Page::new(columns);
        page.sentence(&format!("{headline}  "), &self.reason);
        page.gap();
        page.sentence("  ", &format!("tolerance {}", percent(self.tolerance)));
        page.table(&COLUMNS, self.changes.iter().map(row).chain(self.failures.map(failures_row)));
        for warning in &self.warnings {
            page.gap();
            page.sentence("note: ", warning);
        }
        page.finish()
    }
}

fn row(change: &Change) -> Vec<String> {
    let (before, after) =
        change.sides.map_or_else(Default::default, |(before, after)| (short(before), short(after)));
    let (grown, interval) = change.ratio.map_or_else(Default::default, |ratio| {
        (growth(ratio.value), format!("   {} to {}", growth(ratio.low), growth(ratio.high)))
    });
    vec![format!("{} {}", mark(change.answer), change.name), before, after, grown, interval]
}

fn failures_row((found, answer): (Estimate, Answer)) -> Vec<String> {
    let points = |share: f64| format!("{:+.2} %", share * 100.0);
    let interval = format!("   {} to {}", points(found.low), points(found.high));
    let name = format!("{} failed queries, points", mark(answer));
    vec![name, String::new(), String::new(), points(found.value), interval]
}

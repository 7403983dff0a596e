//! A comparison as text: the answer first, then a row a figure.
//! It needs no colours.

use super::{Comparison, Decision, FigureChange, FigureKind, statistics::Estimate};
use crate::{
    text_builder::{Column, TextBuilder},
    values::short,
};

const COLUMNS: [Column; 5] = [
    Column::left("", 24),
    Column::right("baseline", 10, 1),
    Column::right("candidate", 11, 2),
    Column::right("change", 10, 3),
    Column::left("   95 % interval", 21),
];

/// What the noise was taken from.
pub(super) const BETWEEN: &str = "noise between runs";
pub(super) const ASSUMED: &str = "noise within runs, and assumed between them";

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

/// A difference of shares in percentage points.
fn points(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}

/// A change as a sentence. `accepted` is the growth that would not have mattered.
pub(super) fn grown(change: &FigureChange, accepted: f64) -> String {
    let Some(Estimate { value, low, high }) = change.change else { return String::new() };
    let than = if accepted > 0.0 { format!(", more than {}", percent(accepted)) } else { String::new() };
    match change.kind {
        FigureKind::Duration => {
            let (value, low, high) = (growth(value), growth(low), growth(high));
            format!("{} changed by {value} ({low} to {high}){than}.", change.name)
        }
        FigureKind::FailedQueries => {
            let value = value * 100.0;
            format!("The candidate fails {value:.2} % of its queries more than the baseline{than}.")
        }
        FigureKind::BrokenTokens => {
            let (before, after) = change.sides.unwrap_or_default();
            let (before, after) = (before * 100.0, after * 100.0);
            format!(
                "The candidate lost, duplicated or reordered {after:.4} % of its tokens, the baseline {before:.4} %."
            )
        }
    }
}

const fn mark(decision: Decision) -> &'static str {
    match decision {
        Decision::Pass => "✓",
        Decision::Regressed => "✗",
        Decision::CannotTell => "?",
    }
}

impl Comparison {
    /// The comparison for a terminal of so many columns.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        let headline = match self.decision {
            Decision::Pass => "PASS",
            Decision::Regressed => "FAIL",
            Decision::CannotTell => "CANNOT TELL",
        };
        let mut out = TextBuilder::new(columns);
        out.sentence(&format!("{headline}  "), &self.reason);
        out.gap();
        out.sentence("  ", &format!("tolerance {}", percent(self.tolerance)));
        out.table(&COLUMNS, self.changes.iter().map(row));
        for warning in &self.warnings {
            out.gap();
            out.sentence("note: ", warning);
        }
        out.finish()
    }
}

fn row(change: &FigureChange) -> Vec<String> {
    let is_duration = change.kind == FigureKind::Duration;
    let side = |value| if is_duration { short(value) } else { percent_of(value) };
    let by = |value| if is_duration { growth(value) } else { points(value) };
    let (before, after) =
        change.sides.map_or_else(Default::default, |(before, after)| (side(before), side(after)));
    let (grown, interval) = change.change.map_or_else(Default::default, |Estimate { value, low, high }| {
        let range = if low < high { format!("   {} to {}", by(low), by(high)) } else { String::new() };
        (by(value), range)
    });
    vec![format!("{} {}", mark(change.decision), change.name), before, after, grown, interval]
}

/// A share of failures, to four digits where it is small.
fn percent_of(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 1.0 { format!("{percent:.2} %") } else { format!("{percent:.4} %") }
}

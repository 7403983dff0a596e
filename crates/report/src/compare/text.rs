//! Prints a comparison: first the decision, then a row per figure.

use crate::{
    text_builder::{Column, TextBuilder},
    values::short,
};
use measure::comparison::{
    Comparison, Decision, FigureChange, FigureKind, growth, percent, statistics::Estimate,
};

const COLUMNS: [Column; 5] = [
    Column::left("", 24),
    Column::right("baseline", 10, 1),
    Column::right("candidate", 11, 2),
    Column::right("change", 10, 3),
    Column::left("   95 % interval", 21),
];

/// Returns a difference of shares in percentage points.
fn points(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}

const fn mark(decision: Decision) -> &'static str {
    match decision {
        Decision::Pass => "✓",
        Decision::Regressed => "✗",
        Decision::CannotTell => "?",
    }
}

/// Returns the comparison as text for a terminal with `columns` columns.
#[must_use]
pub fn text(comparison: &Comparison, columns: usize) -> String {
    let headline = match comparison.decision {
        Decision::Pass => "PASS",
        Decision::Regressed => "FAIL",
        Decision::CannotTell => "CANNOT TELL",
    };
    let mut out = TextBuilder::new(columns);
    out.sentence(&format!("{headline}  "), &comparison.reason);
    out.gap();
    out.sentence("  ", &format!("tolerance {}", percent(comparison.tolerance)));
    out.table(&COLUMNS, comparison.changes.iter().map(row));
    for warning in &comparison.warnings {
        out.gap();
        out.sentence("note: ", warning);
    }
    out.finish()
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

/// Returns a share of failures as percent, with four digits if it is below 1 %.
fn percent_of(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 1.0 { format!("{percent:.2} %") } else { format!("{percent:.4} %") }
}

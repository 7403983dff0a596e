//! A comparison as text: the answer first, then a row a figure.
//! It fits 80 columns and needs no colours.

use super::{Answer, Change, Comparison};
use crate::output::{short, wrap};
use std::{fmt, fmt::Write as _};

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

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headline = match self.answer {
            Answer::Pass => "PASS",
            Answer::Regressed => "FAIL",
            Answer::CannotTell => "CANNOT TELL",
        };
        writeln!(f, "{}\n", wrap(&format!("{headline}  {}", self.reason), 80, "  "))?;
        let title = format!("tolerance {}", percent(self.tolerance));
        writeln!(f, "    {title:<22}{:>10}{:>11}{:>10}   95 % interval", "baseline", "candidate", "change")?;
        self.changes.iter().try_for_each(|change| writeln!(f, "  {}", row(change)))?;
        if let Some((found, answer)) = self.failures {
            let points = |share: f64| format!("{:+.2} %", share * 100.0);
            let interval = format!("{} to {}", points(found.low), points(found.high));
            let mark = mark(answer);
            writeln!(f, "  {mark} {:<43}{:>10}   {interval}", "failed queries, points", points(found.value))?;
        }
        for warning in &self.warnings {
            writeln!(f, "\n{}", wrap(&format!("note: {warning}"), 80, "  "))?;
        }
        Ok(())
    }
}

fn row(change: &Change) -> String {
    let mut row = format!("{} {:<22}", mark(change.answer), change.name);
    if let Some((before, after)) = change.sides {
        let _ = write!(row, "{:>10}{:>11}", short(before), short(after));
    }
    if let Some(ratio) = change.ratio {
        let interval = format!("{} to {}", growth(ratio.low), growth(ratio.high));
        let _ = write!(row, "{:>10}   {interval}", growth(ratio.value));
    }
    row
}

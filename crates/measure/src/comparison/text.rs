//! The sentences of a comparison.

use super::{FigureChange, FigureKind, statistics::Estimate};

/// Returns a share as percent, with one digit if it is not a whole number.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if (percent - percent.round()).abs() < 1e-9 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}

/// Returns a ratio as growth, for example `+12.3 %` for 1.123.
#[must_use]
pub fn growth(ratio: f64) -> String {
    let percent = ((ratio - 1.0) * 1e3).round() / 10.0;
    // Adding 0.0 turns -0.0 into 0.0.
    format!("{:+.1} %", percent + 0.0)
}

/// Returns a regression as a sentence. `accepted` is the largest growth that would have passed.
pub(super) fn regression(change: &FigureChange, accepted: f64) -> String {
    let Some(Estimate { value, low, high }) = change.change else { return String::new() };
    let than = if accepted > 0.0 { format!(", more than {}", percent(accepted)) } else { String::new() };
    match change.kind {
        FigureKind::Duration => {
            let (value, low, high) = (growth(value), growth(low), growth(high));
            format!("{} changed by {value} ({low} to {high}){than}.", change.name)
        }
        FigureKind::FailedQueries => {
            let value = value * 100.0;
            format!("The share of failed queries grew by {value:.2} percentage points{than}.")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_growth_has_no_minus() {
        assert_eq!((growth(0.9999), growth(1.0504)), ("+0.0 %".to_owned(), "+5.0 %".to_owned()));
    }
}

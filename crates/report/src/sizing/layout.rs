//! Lines and tables of a Markdown document.

use super::figures::{cell, role};
use measure::sizing::{guide::Guide, point::GENERATOR};
use std::fmt::Write as _;

/// Appends a line.
pub(super) fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", text.trim_end_matches(' '));
}

/// Appends a table. Its first column is aligned to the left.
pub(super) fn table(out: &mut String, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    line(out, &format!("| {} |", titles.join(" | ")));
    // Figures are aligned to the right, names in the first column to the left.
    let marks: Vec<_> = (0..titles.len()).map(|index| if index == 0 { "---" } else { "---:" }).collect();
    line(out, &format!("|{}|", marks.join("|")));
    rows.for_each(|row| line(out, &format!("| {} |", row.join(" | "))));
}

/// Returns the name of a role for readers.
pub(super) fn named(guide: &Guide, name: &str) -> String {
    if name == GENERATOR && guide.is_embedded() {
        return "stack and load generator".to_owned();
    }
    cell(role(name))
}

//! Adds terminal colours to the verdict and the marks of the checks.

use super::text::INTERRUPTED;
use crate::text_builder::MARGIN;
use std::fmt::Write;

/// Returns the text with the verdict and the marks of the checks in colour.
#[must_use]
pub fn colored(text: &str) -> String {
    const GREEN: &str = "32";
    const RED: &str = "31";
    const YELLOW: &str = "33";
    let words = [
        ("✓", GREEN),
        ("✗", RED),
        ("?", YELLOW),
        ("PASS", GREEN),
        ("FAIL", RED),
        ("INVALID", YELLOW),
        (INTERRUPTED, YELLOW),
    ];
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let body = line.strip_prefix(MARGIN).unwrap_or(line);
        match words.iter().find(|(word, _)| body.strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
        {
            Some((word, color)) => {
                let rest = &body[word.len()..];
                let _ = write!(out, "{MARGIN}\x1b[{color}m{word}\x1b[0m{rest}");
            }
            None => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_verdict_and_the_marks_are_coloured() {
        assert_eq!(colored("  FAIL  A FAIL ure.\n"), "  \x1b[31mFAIL\x1b[0m  A FAIL ure.\n");
        assert_eq!(colored("\n  ✓ a  1\n  b ✓\n"), "\n  \x1b[32m✓\x1b[0m a  1\n  b ✓\n");
    }
}

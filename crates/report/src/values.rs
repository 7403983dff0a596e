//! Formats values for a reader. Digits and control characters are removed only here.

use measure::defects::is_bidirectional;
use std::borrow::Cow;

/// Returns the text of a server without control characters, and truncated to 200 characters.
pub(crate) fn printable(text: &str) -> String {
    const MAX: usize = 200;
    let mut clean: String = uncontrolled(text).chars().take(MAX).collect();
    if text.chars().nth(MAX).is_some() {
        clean.push('…');
    }
    clean
}

/// Replaces each control character and line separator by a space, and escapes characters that change the direction of writing.
/// The text of a server then cannot change how the text after it looks.
pub(crate) fn uncontrolled(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}' | '\u{2029}' => clean.push(' '),
            _ if c.is_control() => clean.push(' '),
            _ if is_bidirectional(c) => clean.extend(c.escape_unicode()),
            _ => clean.push(c),
        }
    }
    clean
}

/// Escapes line separators and bidirectional control characters in JSON. The values remain the same.
pub(crate) fn escaped_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ if is_bidirectional(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

/// Escapes bidirectional control characters and keeps everything else, for texts with terminal colours.
pub(crate) fn undirected(text: &str) -> Cow<'_, str> {
    if !text.contains(is_bidirectional) {
        return Cow::Borrowed(text);
    }
    let piece = |c: char| {
        if is_bidirectional(c) { c.escape_unicode().to_string() } else { c.to_string() }
    };
    Cow::Owned(text.chars().map(piece).collect())
}

/// Applies [`uncontrolled`] to each line of a text.
pub(crate) fn uncontrolled_lines(text: &str) -> String {
    text.split('\n').map(uncontrolled).collect::<Vec<_>>().join("\n")
}

/// Returns a share as percent, rounded down: 99.996 % is not 100.00 %.
pub(super) fn percent(share: f64) -> String {
    let percent = (share * 1e4).floor() / 1e2;
    format!("{percent:.2} %")
}

/// Returns milliseconds with about four digits, in at most eight characters.
pub(crate) fn short(ms: f64) -> String {
    match ms.abs() {
        size if size < 10.0 => format!("{ms:.2}"),
        size if size < 10_000.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// Returns milliseconds as [`short`] does, with a `~` in front if the value cannot be trusted.
pub(crate) fn marked(ms: f64, is_trusted: bool) -> String {
    let mark = if is_trusted { "" } else { "~" };
    format!("{mark}{}", short(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_rounded_up() {
        for (share, expected) in
            [(1.0, "100.00 %"), (0.999_999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %")]
        {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn texts_of_servers_cannot_control_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a [31mb ");
        assert_eq!(printable(&"é".repeat(300)).chars().count(), 201);
        assert_eq!(
            uncontrolled("a\u{202e}cod\u{2066}\u{200f}b\u{2028}c"),
            "a\\u{202e}cod\\u{2066}\\u{200f}b c"
        );
        assert_eq!(uncontrolled("ab\u{200d}ג"), "ab\u{200d}ג", "letters and joiners stay");
        let json = serde_json::json!({ "a\u{202e}": "\u{2066}é" });
        let escaped = escaped_json(&json.to_string());
        assert_eq!(escaped, r#"{"a\u202e":"\u2066é"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), json);
        assert_eq!(undirected("\x1b[1ma\u{202e}\x1b[0m\n"), "\x1b[1ma\\u{202e}\x1b[0m\n");
        assert_eq!(uncontrolled_lines("a\nb\x1b\u{2067}"), "a\nb \\u{2067}");
    }
}

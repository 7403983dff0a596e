//! Values as a person reads them.
//! They lose digits and control characters here, and nowhere else.

use std::borrow::Cow;

/// A server's text must not steer the terminal, nor fill it.
pub(crate) fn printable(text: &str) -> String {
    const MAX: usize = 200;
    let mut clean: String = uncontrolled(text).chars().take(MAX).collect();
    if text.chars().nth(MAX).is_some() {
        clean.push('…');
    }
    clean
}

/// The same text with a space for each control character and line separator. Characters that change the direction of
/// writing are escaped, so that a foreign text cannot make what follows it look like something else.
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

/// Unicode's bidirectional control characters: marks, embeddings, overrides and isolates.
const fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON in which the same characters are escaped: for a JSON parser it is the same text.
pub(super) fn escaped_json(text: &str) -> String {
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

/// The same text with bidirectional control characters escaped and everything else kept: for texts that have colours.
pub(crate) fn undirected(text: &str) -> Cow<'_, str> {
    if !text.contains(is_bidirectional) {
        return Cow::Borrowed(text);
    }
    let piece = |c: char| {
        if is_bidirectional(c) { c.escape_unicode().to_string() } else { c.to_string() }
    };
    Cow::Owned(text.chars().map(piece).collect())
}

/// A message of several lines with its lines kept, and each of them as [`uncontrolled`] makes it.
pub(crate) fn uncontrolled_lines(text: &str) -> String {
    text.split('\n').map(uncontrolled).collect::<Vec<_>>().join("\n")
}

/// A share as percent; 99.996 % is not 100.00 %.
pub(super) fn percent(share: f64) -> String {
    let percent = (share * 1e4).floor() / 1e2;
    format!("{percent:.2} %")
}

/// Milliseconds in at most eight characters, to about four digits.
pub(crate) fn short(ms: f64) -> String {
    match ms.abs() {
        size if size < 10.0 => format!("{ms:.2}"),
        size if size < 10_000.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// The same with a `~` before it where it cannot be trusted.
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
    fn a_servers_text_is_tamed() {
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

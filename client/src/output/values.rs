//! Values as a person reads them.
//! They lose digits and control characters here, and nowhere else.

/// A server's text must not steer the terminal, nor fill it.
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let mut clean: String = uncontrolled(text).chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        clean.push('…');
    }
    clean
}

/// The same text with a space for each control character.
pub(super) fn uncontrolled(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
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
    }
}

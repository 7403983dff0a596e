//! Figures of a guide as text.

use crate::values::uncontrolled;
use measure::sizing::basis::Basis;

/// Returns a whole number with a comma between thousands. Infinite and huge numbers become `-`.
pub(super) fn whole(number: f64) -> String {
    if !number.is_finite() || number.abs() >= 1e15 {
        return "-".to_owned();
    }
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

/// Returns a figure with three significant digits, or `-` if there is none.
pub(super) fn short(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) if number.abs() >= 999.5 => whole(number),
        Some(number) if number.abs() >= 99.95 => format!("{number:.0}"),
        Some(number) if number.abs() >= 9.995 => format!("{number:.1}"),
        Some(number) => format!("{number:.2}"),
    }
}

/// Returns a lowest and a highest number of processes.
pub(super) fn processes([least, most]: [u32; 2]) -> String {
    if least == most { most.to_string() } else { format!("{least} to {most}") }
}

/// Returns a share as percent.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.abs() {
        _ if !percent.is_finite() => "-".to_owned(),
        size if size >= 10.0 => format!("{percent:.0} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// Returns a difference as percent with its sign.
pub(super) fn signed_percent(share: f64) -> String {
    // Adding 0.0 turns -0.0 into 0.0.
    format!("{:+.1} %", (share * 1e3).round() / 10.0 + 0.0)
}

/// Returns what a figure is based on.
pub(super) fn basis(basis: Basis) -> String {
    match basis {
        Basis::Measured => "measured".to_owned(),
        Basis::Interpolated => "interpolated".to_owned(),
        Basis::Extrapolated(factor) => format!("extrapolated {factor:.1}×"),
        Basis::Below(factor) => format!("below the range {factor:.1}×"),
    }
}

/// Returns the name of a role for readers. Others keep their name.
pub(super) fn role(role: &str) -> &str {
    match role {
        "wsproxy" => "gateway",
        "haproxy" => "HAProxy",
        "redis" => "Redis",
        "client" => "load generator",
        other => other,
    }
}

/// Returns the name of a point without its directory and the ending of its file, for a table.
pub(super) fn point(name: &str) -> String {
    let short = name.rsplit('/').next().unwrap_or(name);
    format!("`{}`", cell(&short.replace("_summary.json", "").replace("_capacity.json", "")).replace('`', "'"))
}

/// Returns a text that is safe in a cell of a Markdown table.
pub(super) fn cell(text: &str) -> String {
    uncontrolled(text).replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (number, text) in [
            (0.0, "0.00"),
            (0.126, "0.13"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234.0, "1,234"),
            (1e7, "10,000,000"),
        ] {
            assert_eq!(short(Some(number)), text);
        }
        assert_eq!(
            (short(None), whole(f64::INFINITY), whole(-1_000.4)),
            ("-".into(), "-".into(), "-1,000".into())
        );
        assert_eq!(
            (percent(0.0123), percent(0.7), signed_percent(-0.000_01)),
            ("1.2 %".into(), "70 %".into(), "+0.0 %".into())
        );
    }

    #[test]
    fn a_cell_stays_a_cell() {
        assert_eq!(cell("a|b\n<c>\\"), "a\\|b &lt;c>\\\\");
        assert_eq!(point("a/b_1_summary.json"), "`b_1`");
        assert_eq!(point("a/b_1_capacity.json, step 3"), "`b_1, step 3`");
    }
}

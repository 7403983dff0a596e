//! Durations of faults as text: `500ms`, `5s` or `1m30s`. They are whole milliseconds, from 1 ms to 1 h.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(3600);

/// Reads a duration.
///
/// # Errors
/// The text is not a duration, or it is zero or longer than an hour.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid =
        || format!("invalid duration `{text}`: expected 1ms to 60m, for example 500ms, 5s or 1m30s");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut largest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let count: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let unit_ms = match &unit[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => return Err(invalid()),
        };
        if unit_ms >= largest {
            return Err(invalid());
        }
        largest = unit_ms;
        sum = sum.saturating_add(Duration::from_millis(count.checked_mul(unit_ms).ok_or_else(invalid)?));
        rest = &unit[end..];
    }
    if sum.is_zero() || sum > LONGEST { Err(invalid()) } else { Ok(sum) }
}

/// Formats a duration as whole seconds (`5s`) or, if it has a fraction, as milliseconds (`1500ms`).
pub(super) fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

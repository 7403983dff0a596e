//! Spans of time as a person writes them: `500ms`, `5s`, `1m30s`. Whole milliseconds, an hour at most.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(3600);

/// Reads a span longer than nothing.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let fault =
        || format!("`{text}` is no span of time: give for example 500ms, 5s or 1m30s, an hour at most");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut largest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let count: u64 = rest[..digits].parse().map_err(|_| fault())?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let unit_ms = match &unit[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => return Err(fault()),
        };
        if unit_ms >= largest {
            return Err(fault());
        }
        largest = unit_ms;
        sum = sum.saturating_add(Duration::from_millis(count.checked_mul(unit_ms).ok_or_else(fault)?));
        rest = &unit[end..];
    }
    if sum.is_zero() || sum > LONGEST { Err(fault()) } else { Ok(sum) }
}

/// The shortest text that reads as the same span.
pub(super) fn show(span: Duration) -> String {
    let ms = span.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

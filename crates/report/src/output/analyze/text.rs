//! Prints the contents of result files: counts, percentiles, a histogram of the latency, errors by kind.

use super::{Analysis, OF_A_QUERY, OF_A_SESSION};
use crate::{
    text_builder::{Column, TextBuilder},
    values::{percent, short},
};
use measure::{Distribution, Summary};

const COLUMNS: [Column; 9] = [
    Column::left("milliseconds", 14),
    Column::right("count", 8, 6),
    Column::right("p10", 8, 1),
    Column::right("p25", 8, 2),
    Column::right("p50", 8, 7),
    Column::right("p75", 8, 3),
    Column::right("p90", 8, 4),
    Column::right("p95", 8, 5),
    Column::right("p99", 8, 8),
];
/// Number of bins of the histogram. One more bin counts everything above the last one.
const BINS: usize = 12;
/// Number of characters before a bar.
const BEFORE_A_BAR: usize = 23;
const LONGEST_BAR: usize = 40;

pub(super) fn print(out: &mut TextBuilder, analysis: &Analysis, title: &str) {
    out.line(title);
    counts(out, analysis);
    out.gap();
    let rows = OF_A_QUERY.into_iter().chain(OF_A_SESSION).filter_map(|(_, title, _)| row(analysis, title));
    out.table(&COLUMNS, rows);
    if let Some(latency) = analysis.durations.get("latency") {
        histogram(out, latency);
    }
    let mut errors: Vec<_> = analysis.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !errors.is_empty() {
        out.gap();
        out.sentence("", "errors by kind");
    }
    for (kind, count) in errors {
        out.sentence(&format!("{count:>8}  "), kind);
    }
    out.gap();
}

fn counts(out: &mut TextBuilder, analysis: &Analysis) {
    let (rows, ok) = (analysis.rows, analysis.ok);
    #[allow(clippy::cast_precision_loss)]
    let rate = if rows > 0 { percent(ok as f64 / rows as f64) } else { "none".to_owned() };
    out.entry("sessions", &analysis.sessions.len().to_string());
    out.entry("queries", &rows.to_string());
    out.entry("success rate", &format!("{rate}  ({ok} ok)"));
    let statuses: Vec<_> =
        analysis.statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
    out.entry("statuses", &statuses.join(", "));
    let sum = |name| analysis.sums.get(name).copied();
    let or_unknown = |count: Option<u64>| count.map_or_else(|| "not announced".to_owned(), |n| n.to_string());
    out.entry("tokens expected", &or_unknown(sum("tokens_expected")));
    out.entry("tokens received", &sum("tokens").unwrap_or(0).to_string());
    for name in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        if let Some(count) = sum(name) {
            out.entry(&name.replace('_', " "), &count.to_string());
        }
    }
    let (attempts, ok) = (sum("reconnect_attempts"), sum("successful_reconnects"));
    out.entry("reconnect attempts", &format!("{}, {} ok", attempts.unwrap_or(0), ok.unwrap_or(0)));
    if analysis.cut_off {
        out.entry("note", "the last row is cut off and was left out");
    }
}

fn row(analysis: &Analysis, title: &str) -> Option<Vec<String>> {
    let Summary { count, p10, p25, p50, p75, p90, p95, p99, .. } =
        analysis.durations.get(title)?.summary()?;
    let cells = [p10, p25, p50, p75, p90, p95, p99].map(short);
    Some([title.to_owned(), count.to_string()].into_iter().chain(cells).collect())
}

/// Prints bins of equal width from the minimum to p99, and one bin for everything above.
fn histogram(out: &mut TextBuilder, latency: &Distribution) {
    let (Some(histogram), Some(p99), Some(least)) =
        (latency.positive(), latency.quantile_ns(0.99), latency.quantile_ns(0.0))
    else {
        return;
    };
    let (low, high) = (u64::try_from(least).unwrap_or(0), u64::try_from(p99).unwrap_or(0));
    let width = (high.saturating_sub(low) / BINS as u64 + 1).max(1_000);
    let mut bins = [0u64; BINS + 1];
    for step in histogram.iter_recorded() {
        let value = histogram.lowest_equivalent(step.value_iterated_to());
        let bin = value.saturating_sub(low) / width;
        bins[usize::try_from(bin).unwrap_or(BINS).min(BINS)] += step.count_since_last_iteration();
    }
    let last = bins.iter().rposition(|&count| count > 0).unwrap_or(0);
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    let longest = LONGEST_BAR.min(out.columns() - BEFORE_A_BAR) as u64;
    out.gap();
    out.sentence("", "latency, milliseconds from");
    for (bin, &count) in bins.iter().enumerate().take(last + 1) {
        #[allow(clippy::cast_precision_loss)]
        let from = (low + bin as u64 * width) as f64 / 1e6;
        let bar = "█".repeat(usize::try_from((count * longest).div_ceil(most)).unwrap_or(0));
        out.line(&format!("  {:>10} {count:>9} {bar}", short(from)));
    }
}

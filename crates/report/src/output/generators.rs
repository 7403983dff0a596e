//! The section about the generators of a run that has several: what each did, its load on its host, and which were lost.

use super::RunInfo;
use crate::{
    text_builder::{Column, TextBuilder},
    values::short,
};
use measure::{GeneratorFigures, GeneratorReport, RunData};
use serde_json::{Value, json};
use std::time::Duration;

/// Returns whether the run has a section about its generators.
fn has_several(info: &RunInfo) -> bool {
    info.generator_count > 1
}

/// Returns how far apart the generators may have started: the largest difference of their delays, plus the errors of their clocks.
/// `None` if the results do not tell, because fewer than two reported.
pub(super) fn start_skew(info: &RunInfo) -> Option<Duration> {
    let delays = || info.generators.values().map(|report| report.start_delay);
    let error = info.generators.values().map(|report| report.clock_error).max()?;
    (info.generators.len() > 1).then_some(delays().max()?.saturating_sub(delays().min()?) + error * 2)
}

/// Returns one object per generator for the summary. Empty in a run with one generator.
pub(super) fn json(run: &RunData, info: &RunInfo) -> Vec<Value> {
    if !has_several(info) {
        return Vec::new();
    }
    let none = GeneratorFigures::default();
    let of = |shard: u32| {
        let (report, figures) = (info.generators.get(&shard), run.generators.get(&shard).unwrap_or(&none));
        let ms = |duration: fn(&GeneratorReport) -> Duration| report.map(|report| millis(duration(report)));
        json!({
            "shard": shard + 1,
            "host": report.map(|report| &report.host),
            "lost": info.lost_generators.get(&shard),
            "sessions": figures.sessions.total,
            "sessions_ok": figures.sessions.ok,
            "queries": figures.queries.total,
            "queries_ok": figures.queries.ok,
            "tokens_received": figures.tokens.received,
            "tokens_lost": figures.tokens.lost,
            "e2el_p95_ms": figures.e2el.quantile_ms(0.95),
            "loop_lag_p99_ms": figures.loop_lag.quantile_ms(0.99),
            "cpu_starved_share": report.and_then(GeneratorReport::cpu_starved_share),
            "start_delay_ms": ms(|report| report.start_delay),
            "clock_error_ms": ms(|report| report.clock_error),
        })
    };
    (0..info.generator_count).map(of).collect()
}

/// Writes a table with a row per generator, and the start skew. Nothing in a run with one generator.
pub(super) fn text(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    if !has_several(info) {
        return;
    }
    let columns = [
        Column::left("generator", 12),
        Column::right("sessions", 9, 3),
        Column::right("queries", 9, 2),
        Column::right("tokens", 10, 1),
        Column::right("lost", 6, 5),
        Column::right("e2el p95", 9, 4),
        Column::right("lag p99", 8, 6),
        Column::right("start", 8, 7),
    ];
    let none = GeneratorFigures::default();
    let rows = (0..info.generator_count).map(|shard| {
        let figures = run.generators.get(&shard).unwrap_or(&none);
        let figure = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), short);
        let start = info.generators.get(&shard).map(|report| millis(report.start_delay));
        let name = if info.lost_generators.contains_key(&shard) {
            format!("{} (lost)", shard + 1)
        } else {
            (shard + 1).to_string()
        };
        vec![
            name,
            figures.sessions.total.to_string(),
            figures.queries.total.to_string(),
            figures.tokens.received.to_string(),
            figures.tokens.lost.to_string(),
            figure(figures.e2el.quantile_ms(0.95)),
            figure(figures.loop_lag.quantile_ms(0.99)),
            figure(start),
        ]
    });
    out.gap();
    out.table(&columns, rows);
    if let Some(skew) = start_skew(info) {
        out.entry("start skew", &format!("{} ms at most", short(millis(skew))));
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(delay_us: u64, error_us: u64) -> GeneratorReport {
        GeneratorReport {
            start_delay: Duration::from_micros(delay_us),
            clock_error: Duration::from_micros(error_us),
            ..GeneratorReport::default()
        }
    }

    #[test]
    fn the_skew_includes_the_errors_of_the_clocks() {
        let mut info = RunInfo { generator_count: 3, ..RunInfo::default() };
        assert_eq!(start_skew(&info), None);
        info.generators = [(0, report(100, 2)), (2, report(450, 40))].into();
        assert_eq!(start_skew(&info), Some(Duration::from_micros(430)));
    }

    #[test]
    fn every_generator_has_a_row_and_lost_ones_are_named() {
        let mut info = RunInfo { generator_count: 2, ..RunInfo::default() };
        info.generators.insert(0, report(1_000, 0));
        info.lost_generators.insert(1, "killed".into());
        let listed = json(&RunData::default(), &info);
        assert_eq!((&listed[0]["lost"], &listed[1]["lost"]), (&Value::Null, &json!("killed")));
        assert_eq!(listed[0]["start_delay_ms"], 1.0);
        let mut out = TextBuilder::new(80);
        text(&mut out, &RunData::default(), &info);
        let table = out.finish();
        assert!(table.contains("2 (lost)") && !table.contains("start skew"), "{table}");
        let mut out = TextBuilder::new(80);
        text(&mut out, &RunData::default(), &RunInfo { generator_count: 1, ..info });
        assert_eq!(out.finish().trim(), "");
    }
}

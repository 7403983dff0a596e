//! `index.jsonl`: one line per run with its main figures, to find a run among many.
//! The program only appends to it and never reads it.

use super::{RunInfo, files::Files, ratios::rate};
use crate::values::escaped_json;
use measure::{Judgement, Metric, RunData, Statistic, defects::Defect};
use serde_json::json;
use std::{fs::OpenOptions, io, io::Write};
use time::format_description::well_known::Rfc3339;

/// Appends the line of the run to `index.jsonl` in one write, so that the lines of simultaneous runs do not mix.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo, judgement: &Judgement) -> io::Result<()> {
    let quantile = |metric, quantile| run.metrics.get(metric).quantile_ms(quantile);
    let figures = [
        (Metric::Ttft, 50.0),
        (Metric::Ttft, 99.0),
        (Metric::Itl, 99.0),
        (Metric::E2el, 50.0),
        (Metric::E2el, 99.0),
    ];
    let doubtful =
        figures.iter().filter(|(metric, p)| !run.metrics.is_trusted(*metric, Statistic::Percentile(*p)));
    let untrusted: Vec<_> = doubtful.map(|(metric, p)| format!("p{p}_{}", metric.name_ms())).collect();
    let mut line = json!({
        "run_id": files.id(),
        "started_at": files.started_at.format(&Rfc3339).map_err(io::Error::other)?,
        "config_hash": format!("{:016x}", fnv1a(info.config.to_string().as_bytes())),
        "verdict": judgement.verdict.name(),
        "verdict_reason": judgement.reason,
        "interrupted": info.interrupted,
        "clients": info.clients,
        "queries_total": run.queries.total,
        "queries_ok": run.queries.ok,
        "tokens_expected": run.tokens.expected,
        "tokens_received": run.tokens.received,
        "tokens_lost": run.tokens.lost,
        "tokens_unsent": run.tokens.unsent,
        "tokens_duplicated": run.tokens.duplicated,
        "tokens_reordered": run.tokens.reordered,
        "duration_s": run.duration().as_secs_f64(),
        "output_throughput": rate(run.tokens.received, run.duration()),
        "p50_ttft_ms": quantile(Metric::Ttft, 0.5),
        "p99_ttft_ms": quantile(Metric::Ttft, 0.99),
        "p99_itl_ms": quantile(Metric::Itl, 0.99),
        "p50_e2el_ms": quantile(Metric::E2el, 0.5),
        "p99_e2el_ms": quantile(Metric::E2el, 0.99),
        "untrusted": untrusted,
    });
    for defect in Defect::ALL {
        line[defect.name()] = run.defects.count(defect).into();
    }
    let mut index = OpenOptions::new().create(true).append(true).open(files.index())?;
    index.write_all(format!("{}\n", escaped_json(&line.to_string())).as_bytes())
}

/// Computes the 64-bit FNV-1a hash. A configuration has the same hash in every version and on every machine.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}

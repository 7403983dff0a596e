//! `_summary.md`: a short summary for a pull request or a build page, verdict first.

use super::{
    RunInfo,
    conclusion::{Check, Conclusion},
    files::Files,
    ratios::{delivery_ratio, integrity, rate},
    text::headline,
};
use crate::values::{marked, percent, printable, uncontrolled};
use measure::{Metric, RunData, Statistic, threshold::State};
use settings::plural::counted;
use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

/// Latency rows, in this order.
const LATENCIES: [Metric; 8] = [
    Metric::Ttft,
    Metric::Tpot,
    Metric::Itl,
    Metric::E2el,
    Metric::Delivery,
    Metric::Connect,
    Metric::FirstSocket,
    Metric::ReconnectGap,
];

/// Latency columns behind the count.
const SHOWN: [Statistic; 6] = [
    Statistic::Mean,
    Statistic::Percentile(50.0),
    Statistic::Percentile(90.0),
    Statistic::Percentile(95.0),
    Statistic::Percentile(99.0),
    Statistic::Max,
];

/// Writes `_summary.md`.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> io::Result<()> {
    files.document("_summary.md").write_all(render(files.id(), run, info, conclusion).as_bytes())
}

fn render(id: &str, run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> String {
    let judgement = &conclusion.judgement;
    let mut out = String::new();
    let mark = match headline(info, judgement) {
        "PASS" => "✅",
        "FAIL" => "❌",
        _ => "⚠️",
    };
    let _ = writeln!(out, "## {mark} {}: {}\n", headline(info, judgement), plain(&judgement.reason));
    thresholds(&mut out, run, conclusion);
    delivery(&mut out, run, conclusion);
    latency(&mut out, run);
    failures(&mut out, run);
    let elapsed = info.elapsed.as_secs_f64();
    let _ = writeln!(out, "\n{}, {elapsed:.0} s, `{}`", counted(run.sessions.total, "sessions"), code(id));
    out
}

fn thresholds(out: &mut String, run: &RunData, conclusion: &Conclusion) {
    out.push_str("| threshold | value | |\n|---|---|---|\n");
    for check in conclusion.checks(run) {
        let (outcome, (mark, value)) = (check.outcome, judged(check));
        let _ = writeln!(out, "| `{}` | {} | {mark} |", code(&outcome.threshold.to_string()), plain(&value));
    }
    out.push('\n');
}

fn judged(check: Check<'_>) -> (&'static str, String) {
    let outcome = check.outcome;
    match outcome.state {
        _ if check.unknown.is_some() => ("❔", check.unknown_word().unwrap_or_default().to_owned()),
        State::Held => ("✅", outcome.value_text()),
        State::Broken => ("❌", check.value_text()),
        State::Unknown(_) | State::Undecided { .. } => ("❔", outcome.value_text()),
    }
}

fn delivery(out: &mut String, run: &RunData, conclusion: &Conclusion) {
    let (tokens, queries) = (&run.tokens, &run.queries);
    let ratio = delivery_ratio(run).map_or_else(String::new, |ratio| format!(" ({})", percent(ratio)));
    let _ = writeln!(
        out,
        "Tokens: {} expected, {} received{ratio}, {} lost, {} unsent, {} duplicated, {} reordered; integrity {}.",
        tokens.expected,
        tokens.received,
        tokens.lost,
        tokens.unsent,
        tokens.duplicated,
        tokens.reordered,
        integrity(run)
    );
    if queries.contents_unverified > 0 {
        let (count, all) = (queries.contents_unverified, counted(queries.ok, "complete queries"));
        let _ = writeln!(out, "Contents are unverified in {count} of {all}.");
    }
    for (defect, count, example) in run.defects.found() {
        let first = example.map(|frame| format!(", first: `{}`", code(frame))).unwrap_or_default();
        let _ = writeln!(out, "- {}: {count}{first}", defect.name());
    }
    let duration = run.duration();
    let good = if conclusion.objectives.is_empty() {
        String::new()
    } else {
        format!(", goodput {:.1} queries/s", rate(run.metrics.counts().good, duration))
    };
    let _ = writeln!(
        out,
        "Queries: {} of {} ok; {:.1} queries/s, {:.1} tokens/s{good}; {}.\n",
        queries.ok,
        queries.total,
        rate(queries.ok, duration),
        rate(tokens.received, duration),
        counted(run.reconnects_ok, "reconnects")
    );
}

fn latency(out: &mut String, run: &RunData) {
    out.push_str("| milliseconds | count | avg | p50 | p90 | p95 | p99 | max |\n");
    out.push_str("|---|--:|--:|--:|--:|--:|--:|--:|\n");
    let mut untrusted = false;
    for metric in LATENCIES {
        let distribution = run.metrics.get(metric);
        if distribution.count() == 0 {
            continue;
        }
        let cell = |statistic: Statistic| {
            let trusted = run.metrics.is_trusted(metric, statistic);
            statistic.of(distribution).map_or_else(|_| String::new(), |ms| marked(ms, trusted))
        };
        let cells = SHOWN.map(cell).join(" | ");
        untrusted |= cells.contains('~');
        let _ = writeln!(out, "| {} | {} | {cells} |", metric.name_ms(), distribution.count());
    }
    if untrusted {
        out.push_str("\n`~`: cannot be trusted, because the measurement error exceeds 1 ms and 10 %.\n");
    }
}

fn failures(out: &mut String, run: &RunData) {
    let groups = run.failures.by_count();
    if !groups.is_empty() {
        out.push('\n');
    }
    for (name, group) in groups.iter().take(5) {
        let _ = writeln!(out, "- {} × {name}: `{}`", group.count, code(&printable(&group.example)));
    }
}

/// Escapes text from a server for a table, so that it cannot break the table or act as markup.
fn plain(text: &str) -> String {
    code(text).replace('&', "&amp;").replace('<', "&lt;")
}

/// Escapes text for a code span in a table.
fn code(text: &str) -> String {
    uncontrolled(text).replace('|', "\\|").replace('`', "'")
}

//! The text summary on stdout, in k6's shape: verdict and checks, delivery, latency, throughput, connections,
//! and the generator's own health. It fits 80 columns and is readable without colours.

use super::{
    RunInfo, faults,
    judging::Conclusion,
    summary::{delivery_ratio, integrity, mean_present, rate, share},
};
use crate::measure::{Evidence, Judgement, Metric, RunData, threshold::State};
use std::fmt::Write;

const WIDTH: usize = 80;
const MARGIN: &str = "  ";
const INTERRUPTED: &str = "INTERRUPTED";

/// Latency rows, in this order.
const LATENCIES: [Metric; 15] = [
    Metric::Ttft,
    Metric::TtftSched,
    Metric::E2el,
    Metric::E2elSched,
    Metric::Tpot,
    Metric::Itl,
    Metric::FrameGap,
    Metric::Delivery,
    Metric::ReplayDelivery,
    Metric::TtftOverhead,
    Metric::E2elOverhead,
    Metric::Create,
    Metric::Connect,
    Metric::Close,
    Metric::ReconnectGap,
];

/// The whole summary.
pub(super) fn render(run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> String {
    let evidence = &conclusion.evidence;
    let mut out = String::new();
    head(&mut out, info, &conclusion.judgement);
    checks(&mut out, run, conclusion);
    findings(&mut out, run, info);
    delivery(&mut out, run);
    latency(&mut out, run, info);
    throughput(&mut out, run, info, conclusion);
    connections(&mut out, run);
    faults::section(&mut out, info);
    generator(&mut out, run, info, evidence);
    failures(&mut out, run);
    out
}

/// The same text for a terminal: the verdict and the marks of the checks in colour.
#[must_use]
pub fn colored(text: &str) -> String {
    const GREEN: &str = "32";
    const RED: &str = "31";
    const YELLOW: &str = "33";
    let words = [
        ("✓", GREEN),
        ("✗", RED),
        ("?", YELLOW),
        ("PASS", GREEN),
        ("FAIL", RED),
        ("INVALID", YELLOW),
        (INTERRUPTED, YELLOW),
    ];
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let body = line.strip_prefix(MARGIN).unwrap_or(line);
        match words.iter().find(|(word, _)| body.strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
        {
            Some((word, color)) => {
                let rest = &body[word.len()..];
                let _ = write!(out, "{MARGIN}\x1b[{color}m{word}\x1b[0m{rest}");
            }
            None => out.push_str(line),
        }
    }
    out
}

/// The verdict; of a run that was ended before its time only that.
pub(super) const fn headline(info: &RunInfo, judgement: &Judgement) -> &'static str {
    if info.interrupted { INTERRUPTED } else { judgement.verdict.name() }
}

fn head(out: &mut String, info: &RunInfo, judgement: &Judgement) {
    let until = if info.interrupted { "The run was interrupted. Until then: " } else { "" };
    let sentence = format!("{}  {until}{}", headline(info, judgement), judgement.reason);
    let _ = writeln!(out, "{}", wrap(&sentence, WIDTH, MARGIN));
    out.push('\n');
}

const fn mark(ok: bool) -> &'static str {
    if ok { "✓" } else { "✗" }
}

fn checks(out: &mut String, run: &RunData, conclusion: &Conclusion) {
    let evidence = &conclusion.evidence;
    let unverified = integrity(run) == "unverified";
    let tokens = [
        ("tokens_lost", evidence.tokens_lost),
        ("tokens_duplicated", evidence.tokens_duplicated),
        ("tokens_reordered", evidence.tokens_reordered),
    ];
    for (name, value) in tokens {
        let (mark, value) = if unverified && value == 0 {
            ("?", "unverified".to_owned())
        } else {
            (mark(value == 0), value.to_string())
        };
        let _ = writeln!(out, "{MARGIN}{mark} {:<28} {value}", format!("{name}==0"));
    }
    if conclusion.users().is_empty() {
        let (ok, total) = (evidence.queries_ok, evidence.queries_total);
        let mark = mark(ok == total && total > 0);
        let _ = writeln!(out, "{MARGIN}{mark} {:<28} {ok}", format!("queries_ok=={total}"));
    }
    for outcome in conclusion.users() {
        let mark = match outcome.state {
            State::Held => "✓",
            State::Broken => "✗",
            State::Unknown(_) => "?",
        };
        let row = format!("{mark} {:<28} {}", outcome.threshold.to_string(), outcome.shown());
        let _ = writeln!(out, "{}", wrap_row(&row));
    }
    out.push('\n');
}

/// One `name....: value` line.
fn findings(out: &mut String, run: &RunData, info: &RunInfo) {
    let findings = super::info::findings(run, info);
    for finding in &findings {
        let text = format!("! {}: {}", finding.title, finding.evidence);
        let _ = writeln!(out, "{}", wrap(&printable(&text), WIDTH, MARGIN));
    }
    if !findings.is_empty() {
        out.push('\n');
    }
}

pub(super) fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{MARGIN}{name:.<26}: {value}");
}

fn delivery(out: &mut String, run: &RunData) {
    let tokens = &run.tokens;
    let ratio = delivery_ratio(run).map_or_else(String::new, |ratio| format!("  {}", percent(ratio)));
    line(out, "tokens_expected", &tokens.expected.to_string());
    line(out, "tokens_received", &format!("{}{ratio}", tokens.received));
    let where_lost = if tokens.lost > 0 {
        format!("  {} while connected, {} in gaps", tokens.lost_connected, tokens.lost_in_gap)
    } else {
        String::new()
    };
    line(out, "tokens_lost", &format!("{}{where_lost}", tokens.lost));
    if tokens.lost_to_error_events > 0 {
        line(out, "  to error events", &tokens.lost_to_error_events.to_string());
    }
    line(out, "tokens_duplicated", &tokens.duplicated.to_string());
    line(out, "tokens_reordered", &tokens.reordered.to_string());
    if tokens.after_terminator > 0 {
        line(out, "events_after_terminator", &tokens.after_terminator.to_string());
    }
    if tokens.replayed > 0 {
        line(out, "events_replayed", &format!("{}  (allowed to come again)", tokens.replayed));
    }
    line(out, "integrity", integrity(run));
    if tokens.unverified > 0 {
        line(out, "tokens_unverified", &format!("{}  (the server numbers nothing)", tokens.unverified));
    }
    if tokens.cut_off > 0 {
        line(out, "tokens_cut_off", &format!("{}  (still to come at the end)", tokens.cut_off));
    }
    line(out, "stalls", &format!("{}  {:.0} ms in excess", run.stall_count, run.stall.as_secs_f64() * 1e3));
    if let Some(longest) = run.longest_gap {
        let session = longest.session.map(|id| id.to_string()).unwrap_or_default();
        let ms = short(longest.gap.as_secs_f64() * 1e3);
        line(out, "longest_token_gap", &format!("{ms} ms  in {session}"));
    }
    out.push('\n');
}

fn latency(out: &mut String, run: &RunData, info: &RunInfo) {
    let _ = writeln!(
        out,
        "{MARGIN}{:<18}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}",
        "milliseconds", "avg", "min", "med", "p(90)", "p(95)", "p(99)", "max"
    );
    for metric in LATENCIES {
        row(out, run, metric);
    }
    if info.shared_clock == Some(false) {
        let note =
            "no delivery_ms: client and simulator run on different kernels, whose clocks do not compare";
        let _ = writeln!(out, "{}", wrap(note, WIDTH, MARGIN));
    }
    out.push('\n');
}

fn row(out: &mut String, run: &RunData, metric: Metric) {
    let Some(figures) = run.metrics.get(metric).summary() else { return };
    let wide = [figures.mean, figures.min, figures.p50].map(|ms| format!("{:>8}", short(ms)));
    let wider = [figures.p90, figures.p95, figures.p99, figures.max].map(|ms| format!("{:>9}", short(ms)));
    let name = format!("{}_ms", metric.name());
    let _ = writeln!(out, "{MARGIN}{name:<18}{}{}", wide.concat(), wider.concat());
}

fn throughput(out: &mut String, run: &RunData, info: &RunInfo, conclusion: &Conclusion) {
    let duration = run.duration();
    let (queries, sessions) = (&run.queries, &run.sessions);
    line(
        out,
        "duration",
        &format!("{:.1} s  ({:.1} s in all)", duration.as_secs_f64(), info.elapsed.as_secs_f64()),
    );
    line(out, "sessions", &format!("{} of {} ok", sessions.ok, sessions.total));
    line(out, "queries", &format!("{} of {} ok{}", queries.ok, queries.total, unfinished(run)));
    line(out, "request_throughput", &format!("{:.1} queries/s", rate(queries.ok, duration)));
    line(out, "output_throughput", &format!("{:.1} tokens/s", rate(run.tokens.received, duration)));
    if !conclusion.objectives.is_empty() {
        let good = run.metrics.counts().good;
        let of_all =
            share(good, queries.total).map_or_else(String::new, |share| format!("  {}", percent(share)));
        let objectives: Vec<_> = conclusion.objectives.iter().map(ToString::to_string).collect();
        line(out, "request_goodput", &format!("{:.1} queries/s{of_all}", rate(good, duration)));
        line(out, "  objectives", &objectives.join(" "));
    }
    if let Some(steady) = &run.steady {
        let tokens = format!("{:.1} tokens/s", steady.metrics.tokens() as f64 / steady.seconds());
        let p95 = steady.metrics.get(Metric::E2el).quantile_ms(0.95);
        let p95 = p95.map_or_else(String::new, |ms| format!(", e2el_ms p(95)={}", short(ms)));
        line(out, "steady state", &format!("{} s to {} s: {tokens}{p95}", steady.from_s, steady.to_s));
    }
    let mean = mean_present(sessions.time, info.elapsed);
    line(out, "concurrent sessions", &format!("mean {mean:.1}, peak {}", info.peak_sessions));
    let mean = mean_present(queries.time, duration);
    line(out, "concurrent queries", &format!("mean {mean:.1}, peak {}", info.peak_queries));
    if info.dropped_iterations > 0 {
        line(out, "dropped_iterations", &info.dropped_iterations.to_string());
    }
    out.push('\n');
}

/// Counts of the statuses that are not `ok`.
fn unfinished(run: &RunData) -> String {
    let queries = &run.queries;
    let counts = [
        (queries.incomplete, "incomplete"),
        (queries.timeout, "timeout"),
        (queries.error, "error"),
        (queries.rejected, "rejected"),
        (queries.abandoned, "abandoned"),
    ];
    counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!(", {count} {name}")).collect()
}

fn connections(out: &mut String, run: &RunData) {
    line(out, "reconnect_attempts", &format!("{}, {} ok", run.reconnect_attempts, run.reconnects_ok));
    line(out, "sessions with reconnects", &run.sessions.with_reconnects.to_string());
    if !run.close_codes.is_empty() {
        let codes: Vec<_> = run.close_codes.iter().map(|(code, count)| format!("{code} × {count}")).collect();
        line(out, "close codes", &codes.join(", "));
    }
    faults::connection_lines(out, run);
    out.push('\n');
}

fn generator(out: &mut String, run: &RunData, info: &RunInfo, evidence: &Evidence) {
    let lag = |metric| {
        run.metrics.get(metric).summary().map_or_else(
            || "not measured".to_owned(),
            |figures| format!("p(99)={} ms  max={} ms", short(figures.p99), short(figures.max)),
        )
    };
    let schedule = if evidence.burst { "  (burst: not judged)" } else { "" };
    line(out, "schedule_lag", &format!("{}{schedule}", lag(Metric::ScheduleLag)));
    line(out, "loop_lag", &lag(Metric::LoopLag));
    line(out, "pace_lag (simulator)", &lag(Metric::PaceLag));
    let wait = info.cpu_wait_share.map_or_else(|| "not measured".to_owned(), percent);
    line(out, "waiting for a CPU", &wait);
    let outside: u64 = Metric::ALL.iter().map(|&metric| run.metrics.get(metric).outside()).sum();
    if outside > 0 {
        line(out, "beyond the histograms", &format!("{outside} samples of more than 10 minutes"));
    }
}

fn failures(out: &mut String, run: &RunData) {
    let mut groups: Vec<_> = run.failures.iter().collect();
    if groups.is_empty() {
        return;
    }
    groups.sort_by_key(|(.., group)| std::cmp::Reverse(group.count));
    out.push('\n');
    for (kind, code, group) in groups.iter().take(8) {
        let code = code.map(|code| format!(" {code}")).unwrap_or_default();
        let text = format!("{} × {kind}{code}: {}", group.count, printable(&group.example));
        let _ = writeln!(out, "{}", wrap(&text, WIDTH, MARGIN));
    }
    if groups.len() > 8 {
        let _ = writeln!(out, "{MARGIN}… and {} more kinds in _failures.csv", groups.len() - 8);
    }
}

/// A server's text must not steer the terminal, nor fill it.
pub(super) fn printable(text: &str) -> String {
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

/// A row that fits is left as it is, also its spaces.
fn wrap_row(row: &str) -> String {
    let fits = MARGIN.len() + row.chars().count() <= WIDTH;
    if fits { format!("{MARGIN}{row}") } else { wrap(row, WIDTH, MARGIN) }
}

/// Breaks at spaces; what has none is left whole.
pub(crate) fn wrap(text: &str, width: usize, margin: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), margin.to_owned());
    for word in text.split(' ') {
        let begun = line.len() > margin.len();
        if begun && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, margin.to_owned()));
        } else if begun {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
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
    fn only_the_verdict_and_the_marks_are_coloured() {
        assert_eq!(colored("  FAIL  A FAIL ure.\n"), "  \x1b[31mFAIL\x1b[0m  A FAIL ure.\n");
        assert_eq!(colored("\n  ✓ a  1\n  b ✓\n"), "\n  \x1b[32m✓\x1b[0m a  1\n  b ✓\n");
    }

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("aa bb cc", 7, "  "), "  aa bb\n  cc");
        assert_eq!(wrap("", 7, "  "), "  ");
        assert_eq!(wrap("unbreakable", 4, "  "), "  unbreakable");
    }

    #[test]
    fn a_servers_text_is_tamed() {
        assert_eq!(printable("a\x1b[31mb\n"), "a [31mb ");
        assert_eq!(printable(&"é".repeat(300)).chars().count(), 201);
    }
}

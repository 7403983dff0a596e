//! The text summary on stdout, similar to that of k6: verdict and checks, delivery, latency, throughput, connections,
//! and the health of the generator. It needs at least 60 columns and no colours.

use super::{
    RunInfo,
    conclusion::Conclusion,
    faults, generators, hops, memory,
    ratios::{MeanAndPeak, delivery_ratio, integrity, queries_at_once, rate, sessions_at_once, share},
    resources,
};
use crate::{
    text_builder::{Column, TextBuilder},
    values::{marked, percent, printable, short},
};
use measure::{Judgement, Metric, RunData, Statistic, threshold::State};
use settings::plural::counted;

pub(super) const INTERRUPTED: &str = "INTERRUPTED";

/// Latency rows, in this order.
const LATENCIES: [Metric; 18] = [
    Metric::Ttft,
    Metric::TtftSched,
    Metric::TtftReasoning,
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
    Metric::FirstSocket,
    Metric::Close,
    Metric::ReconnectGap,
    Metric::SocketWait,
];

/// Statistics of the columns.
const SHOWN: [Statistic; 7] = [
    Statistic::Mean,
    Statistic::Min,
    Statistic::Percentile(50.0),
    Statistic::Percentile(90.0),
    Statistic::Percentile(95.0),
    Statistic::Percentile(99.0),
    Statistic::Max,
];

const LATENCY_COLUMNS: [Column; 8] = [
    Column::left("milliseconds", 18),
    Column::right("avg", 8, 3),
    Column::right("min", 8, 1),
    Column::right("med", 8, 6),
    Column::right("p(90)", 9, 2),
    Column::right("p(95)", 9, 5),
    Column::right("p(99)", 9, 7),
    Column::right("max", 9, 4),
];

/// Renders the summary for a terminal with that many columns.
pub(super) fn render(run: &RunData, info: &RunInfo, conclusion: &Conclusion, columns: usize) -> String {
    let mut out = TextBuilder::new(columns);
    head(&mut out, info, &conclusion.judgement);
    checks(&mut out, run, conclusion);
    findings(&mut out, run, info);
    delivery(&mut out, run);
    latency(&mut out, run, info);
    hops::text(&mut out, run, info);
    throughput(&mut out, run, info, conclusion);
    connections(&mut out, run);
    faults::section(&mut out, info);
    generator(&mut out, run, info);
    amendments(&mut out, info);
    generators::text(&mut out, run, info);
    resources::section(&mut out, run, info);
    memory::section(&mut out, info);
    failures(&mut out, run);
    out.finish()
}

/// Returns the name of the verdict, or that the run was interrupted.
pub(super) const fn headline(info: &RunInfo, judgement: &Judgement) -> &'static str {
    if info.interrupted { INTERRUPTED } else { judgement.verdict.name() }
}

fn head(out: &mut TextBuilder, info: &RunInfo, judgement: &Judgement) {
    let until = if info.interrupted { "The run was interrupted. Until then: " } else { "" };
    let headline = format!("{}  ", headline(info, judgement));
    out.sentence(&headline, &format!("{until}{}", judgement.reason));
    out.gap();
}

/// Lists the changes of the plan during the run.
fn amendments(out: &mut TextBuilder, info: &RunInfo) {
    for amendment in info.amendments() {
        out.entry(&format!("amendment {}", amendment.number), &amendment.to_string());
    }
}

fn checks(out: &mut TextBuilder, run: &RunData, conclusion: &Conclusion) {
    for check in conclusion.checks(run) {
        let outcome = check.outcome;
        let (mark, value) = match (&outcome.state, check.unknown_word()) {
            (_, Some(unknown)) => ("?", unknown.to_owned()),
            (State::Held, None) => ("✓", outcome.value_text()),
            (State::Broken, None) => ("✗", check.value_text()),
            (State::Unknown(_) | State::Undecided { .. }, None) => ("?", outcome.value_text()),
        };
        out.sentence(&format!("{mark} {:<28} ", outcome.threshold.to_string()), &value);
    }
    out.gap();
}

fn findings(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    let findings = super::info::findings(run, info);
    for finding in &findings {
        out.sentence("! ", &format!("{}: {}", finding.title, finding.evidence));
        for explained in &finding.explains {
            out.sentence("    - ", &format!("{}: {}", explained.title, explained.evidence));
        }
    }
    if !findings.is_empty() {
        out.gap();
    }
}

fn delivery(out: &mut TextBuilder, run: &RunData) {
    let tokens = &run.tokens;
    let ratio = delivery_ratio(run).map_or_else(String::new, |ratio| format!("  {}", percent(ratio)));
    out.entry("tokens_expected", &tokens.expected.to_string());
    out.entry("tokens_received", &format!("{}{ratio}", tokens.received));
    let where_lost = if tokens.lost > 0 {
        format!("  {} while connected, {} in gaps", tokens.lost_connected, tokens.lost_in_gap)
    } else {
        String::new()
    };
    out.entry("tokens_lost", &format!("{}{where_lost}", tokens.lost));
    if tokens.unsent > 0 {
        out.entry("tokens_unsent", &format!("{}  (cut off by error events)", tokens.unsent));
    }
    out.entry("tokens_duplicated", &tokens.duplicated.to_string());
    out.entry("tokens_reordered", &tokens.reordered.to_string());
    defects(out, run);
    if tokens.replayed > 0 {
        out.entry("events_replayed", &format!("{}  (repeats that are allowed)", tokens.replayed));
    }
    if tokens.frames_rolled > 0 {
        let frames = counted(tokens.frames_rolled, "frames");
        out.entry("tokens_rolled", &format!("{}  in {frames}", tokens.rolled));
    }
    out.entry("integrity", integrity(run));
    if run.queries.contents_unverified > 0 {
        let (count, all) = (run.queries.contents_unverified, run.queries.ok);
        out.entry("contents unverified", &format!("{count} of {}", counted(all, "complete queries")));
    }
    if tokens.unverified > 0 {
        out.entry(
            "tokens_unverified",
            &format!("{}  (the server does not number its events)", tokens.unverified),
        );
    }
    if tokens.reported > 0 {
        let events = counted(tokens.reported_events, "events");
        out.entry("tokens_reported", &format!("{}  by the server, in {events} with text", tokens.reported));
    }
    if tokens.reasoning > 0 {
        out.entry("reasoning_events", &format!("{}  (not among the tokens received)", tokens.reasoning));
    }
    if tokens.cut_off > 0 {
        out.entry("tokens_cut_off", &format!("{}  (not yet sent at the end)", tokens.cut_off));
    }
    out.entry("stalls", &format!("{}  {:.0} ms in excess", run.stall_count, run.stall.as_secs_f64() * 1e3));
    if let Some(longest) = run.longest_gap {
        let session = longest.session.map(|id| id.to_string()).unwrap_or_default();
        let ms = short(longest.gap.as_secs_f64() * 1e3);
        out.entry("longest_token_gap", &format!("{ms} ms  in {session}"));
    }
    out.gap();
}

/// Adds the defects, each with the beginning of the first example.
fn defects(out: &mut TextBuilder, run: &RunData) {
    for (defect, count, example) in run.defects.found() {
        let first = example.map(|frame| format!("  first: {frame}")).unwrap_or_default();
        out.entry(defect.name(), &format!("{count}{first}"));
    }
}

fn latency(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    out.table(&LATENCY_COLUMNS, LATENCIES.into_iter().filter_map(|metric| row(run, metric)));
    let untrusted = LATENCIES
        .into_iter()
        .any(|metric| SHOWN.iter().any(|&statistic| !run.metrics.is_trusted(metric, statistic)));
    if untrusted {
        out.sentence(
            "",
            "~: cannot be trusted: the generator or the simulator was late, and the measurement error exceeds 1 ms and 10 %",
        );
    }
    if info.generator.shared_clock == Some(false) {
        let note =
            "no delivery_ms: client and simulator run on different kernels, whose clocks cannot be compared";
        out.sentence("", note);
    }
    out.gap();
}

fn row(run: &RunData, metric: Metric) -> Option<Vec<String>> {
    let distribution = run.metrics.get(metric);
    if distribution.count() == 0 || metric == Metric::SocketWait && distribution.quantile_ms(1.0) == Some(0.0)
    {
        return None;
    }
    let cells = SHOWN.iter().map(|&statistic| {
        let trusted = run.metrics.is_trusted(metric, statistic);
        statistic.of(distribution).map_or_else(|_| String::new(), |ms| marked(ms, trusted))
    });
    Some(std::iter::once(metric.name_ms()).chain(cells).collect())
}

fn throughput(out: &mut TextBuilder, run: &RunData, info: &RunInfo, conclusion: &Conclusion) {
    let duration = run.duration();
    let (queries, sessions) = (&run.queries, &run.sessions);
    out.entry(
        "duration",
        &format!("{:.1} s  ({:.1} s in all)", duration.as_secs_f64(), info.elapsed.as_secs_f64()),
    );
    out.entry("sessions", &format!("{} of {} ok", sessions.ok, sessions.total));
    out.entry("queries", &format!("{} of {} ok{}", queries.ok, queries.total, unfinished(run)));
    out.entry("request_throughput", &format!("{:.1} queries/s", rate(queries.ok, duration)));
    out.entry("output_throughput", &format!("{:.1} tokens/s", rate(run.tokens.received, duration)));
    if let Some(published) = super::info::published_throughput(run, info) {
        let missed = &info.observations.stack_counters.missed;
        let note = if missed.is_empty() { "" } else { "  (a lower bound: counters were missed)" };
        out.entry("published_throughput", &format!("{published:.1} tokens/s{note}"));
    }
    if !conclusion.objectives.is_empty() {
        let good = run.metrics.counts().good;
        let of_all =
            share(good, queries.total).map_or_else(String::new, |share| format!("  {}", percent(share)));
        let objectives: Vec<_> = conclusion.objectives.iter().map(ToString::to_string).collect();
        out.entry("request_goodput", &format!("{:.1} queries/s{of_all}", rate(good, duration)));
        out.entry("  objectives", &objectives.join(" "));
    }
    if let Some(steady) = &run.steady {
        let tokens = format!("{:.1} tokens/s", steady.metrics.tokens() as f64 / steady.seconds());
        let p95 = steady.metrics.get(Metric::E2el).quantile_ms(0.95);
        let p95 = p95.map_or_else(String::new, |ms| format!(", e2el_ms p(95)={}", short(ms)));
        out.entry("steady state", &format!("{} s to {} s: {tokens}{p95}", steady.from_s, steady.to_s));
    }
    let text = |MeanAndPeak { mean, peak }: MeanAndPeak| {
        format!("mean {mean:.1}, peak {}", (peak * 10.0).round() / 10.0)
    };
    out.entry("concurrent sessions", &text(sessions_at_once(run, info.elapsed)));
    out.entry("concurrent queries", &text(queries_at_once(run)));
    if info.generator.arrivals.dropped > 0 {
        out.entry("dropped_iterations", &info.generator.arrivals.dropped.to_string());
    }
    out.gap();
}

/// Lists the counts of statuses other than `ok`.
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

fn connections(out: &mut TextBuilder, run: &RunData) {
    out.entry("reconnect_attempts", &format!("{}, {} ok", run.reconnect_attempts, run.reconnects_ok));
    out.entry("sessions with reconnects", &run.sessions.with_reconnects.to_string());
    if !run.close_codes.is_empty() {
        let codes: Vec<_> = run.close_codes.iter().map(|(code, count)| format!("{code} × {count}")).collect();
        out.entry("close codes", &codes.join(", "));
    }
    faults::connection_lines(out, run);
    out.gap();
}

fn generator(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    let lag = |metric| {
        run.metrics.get(metric).summary().map_or_else(
            || "not measured".to_owned(),
            |figures| format!("p(99)={} ms  max={} ms", short(figures.p99), short(figures.max)),
        )
    };
    out.entry("schedule_lag", &lag(Metric::ScheduleLag));
    out.entry("loop_lag", &lag(Metric::LoopLag));
    out.entry("pace_lag (simulator)", &lag(Metric::PaceLag));
    let wait = info.generator.cpu_wait_share().map_or_else(|| "not measured".to_owned(), percent);
    let starved = info
        .generator
        .cpu_starved_share()
        .map_or_else(String::new, |share| format!("  ({} without normal wake-ups)", percent(share)));
    out.entry("waiting for a CPU", &format!("{wait}{starved}"));
    if info.generator.clock_steps > 0 {
        let note = "for a second after each, arrivals are times of reads";
        out.entry("wall clock steps", &format!("{}  ({note})", info.generator.clock_steps));
    }
    let outside: u64 = Metric::ALL.iter().map(|&metric| run.metrics.get(metric).outside()).sum();
    if outside > 0 {
        out.entry("beyond the histograms", &counted(outside, "samples of more than 10 minutes"));
    }
    if let Some(events) = info.events.as_ref().filter(|events| events.dropped > 0) {
        let (all, place) = (events.written + events.dropped, printable(&events.destination));
        let why = events.error.as_deref().unwrap_or("its reader is too slow");
        out.entry("events_dropped", &format!("{} of {all}  ({place}: {why})", events.dropped));
    }
}

fn failures(out: &mut TextBuilder, run: &RunData) {
    let groups = run.failures.by_count();
    if groups.is_empty() {
        return;
    }
    out.gap();
    for (name, group) in groups.iter().take(8) {
        out.sentence(&format!("{} × {name}: ", group.count), &printable(&group.example));
    }
    if groups.len() > 8 {
        out.sentence("", &format!("… and {}", counted(groups.len() - 8, "more kinds in _failures.csv")));
    }
}

//! The sections of the HTML report, in their order. A section without content is left out.

use super::{
    chart::{Axis, Base, COLOURS, Chart, Drawing, Series, short},
    downsample::{Downsampled, Line},
    percentiles::{Latency, WANTED},
    stored::{Process, StoredRun},
};
use maud::{Markup, PreEscaped, html};
use measure::{Metric, memory::Phase};
use serde_json::Value;

/// Largest number of rows in the table of failures.
const MAX_FAILURES: usize = 200;

/// Formats a number with groups of three digits (`1 234 567`), or with two decimals if it is small and not whole.
pub(super) fn grouped(value: f64) -> String {
    if value.fract().abs() > 1e-9 && value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let text = format!("{value:.0}");
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("−", digits));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

pub(super) fn thresholds(stored: &StoredRun) -> Markup {
    let of = |threshold: &Value| match threshold.get("ok").and_then(Value::as_bool) {
        Some(true) => ("✓", "good"),
        Some(false) => ("✗", "bad"),
        None => ("?", "unsure"),
    };
    html! {
        @if !stored.list("thresholds").is_empty() {
            h2 { "Thresholds" }
            ul.checks {
                @for threshold in stored.list("thresholds") {
                    @let (mark, class) = of(threshold);
                    li {
                        span class={ "mark " (class) } { (mark) }
                        span.what { (text(threshold, "threshold")) }
                        span.value {
                            @match (text(threshold, "reason"), number(threshold, "value")) {
                                ("", Some(value)) => {
                                    (grouped(value))
                                    @if !text(threshold, "example").is_empty() {
                                        span.note { " first: " code { (text(threshold, "example")) } }
                                    }
                                }
                                (reason, _) => span.note { (reason) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn findings(stored: &StoredRun) -> Markup {
    html! {
        @if !stored.list("findings").is_empty() {
            h2 { "Findings" }
            ul.checks {
                @for finding in stored.list("findings") {
                    li {
                        span.mark.unsure { "!" }
                        span.what {
                            strong { (with_code(text(finding, "title"))) }
                            div { (with_code(text(finding, "evidence"))) }
                            @for explained in list(finding, "explains") {
                                div { "– " strong { (text(explained, "title")) } ": " (with_code(text(explained, "evidence"))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Renders text between backticks as code. A backtick without a partner is kept.
fn with_code(words: &str) -> Markup {
    let parts: Vec<_> = words.split('`').collect();
    html! {
        @for (index, part) in parts.iter().enumerate() {
            @if index % 2 == 0 { (part) } @else if index + 1 < parts.len() { code { (part) } } @else { "`" (part) }
        }
    }
}

pub(super) fn delivery(stored: &StoredRun) -> Markup {
    let zero = |key: &str| match stored.number(key) {
        Some(count) if count > 0.0 => "bad",
        _ => "good",
    };
    let tiles = [
        ("expected", "tokens_expected", ""),
        ("received", "tokens_received", ""),
        ("lost", "tokens_lost", zero("tokens_lost")),
        ("duplicated", "tokens_duplicated", zero("tokens_duplicated")),
        ("reordered", "tokens_reordered", zero("tokens_reordered")),
        ("unsent", "tokens_unsent", ""),
        ("events_unknown_type", "events_unknown_type", ""),
    ];
    let queries = [
        ("queries ok", "queries_ok"),
        ("incomplete", "queries_incomplete"),
        ("timed out", "queries_timeout"),
        ("error", "queries_error"),
        ("rejected", "queries_rejected"),
        ("abandoned", "queries_abandoned"),
    ];
    let optional = ["tokens_unsent", "events_unknown_type"];
    let tile = |key| stored.number(key).filter(|&count| count > 0.0 || !optional.contains(&key));
    let shown = |key| stored.number(key).filter(|&count| count > 0.0 || key == "queries_ok");
    html! {
        h2 { "Token delivery" }
        div.tiles {
            @for (name, key, class) in tiles {
                @if let Some(count) = tile(key) {
                    div { b class=(class) { (grouped(count)) } span { (breakable(name)) } }
                }
            }
            @if let Some(ratio) = stored.number("delivery_ratio") {
                div { b { (percent(ratio)) } span { "delivered, " (stored.text("integrity")) } }
            }
            @for (name, key) in queries {
                @if let Some(count) = shown(key) {
                    div { b class=(if key == "queries_ok" { "" } else { "bad" }) { (grouped(count)) } span { (name) } }
                }
            }
        }
    }
}

/// Renders a name that may break after each underscore.
fn breakable(name: &str) -> Markup {
    html! { @for part in name.split_inclusive('_') { (part) @if part.ends_with('_') { wbr; } } }
}

/// Formats a ratio as percent. Never rounds up to 100 %.
fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    match ratio {
        all if all >= 1.0 => "100\u{a0}%".to_owned(),
        almost if almost > 0.9999 => format!("{:.4}\u{a0}%", (percent * 1e4).floor() / 1e4),
        _ => format!("{percent:.2}\u{a0}%"),
    }
}

pub(super) fn latency(stored: &StoredRun) -> Markup {
    let metrics = stored.summary.get("metrics").and_then(Value::as_object);
    let columns = ["count", "mean", "p50", "p90", "p95", "p99", "p99_9", "max"];
    let bands = |latency: &Latency| {
        let [p50, p95, p99] = latency.bands();
        vec![Series::filled("p50", p50), Series::line("p95", p95), Series::line("p99", p99)]
    };
    let known = || WANTED.into_iter().filter_map(|name| Some((name, stored.latencies.get(name)?)));
    html! {
        h2 { "Latency" }
        p.note { "All figures are in milliseconds. The charts over time show percentiles of each second (in long runs, the highest of several seconds). A query counts in the second in which it ended. An axis that does not start at zero is labelled." }
        @if metrics.is_some_and(|metrics| metrics.values().any(|figures| figures.get("trusted") == Some(&Value::Bool(false)))) {
            p.note { "Grey figures cannot be trusted: the generator or the simulator was late, and the measurement error exceeds 1 ms and 10 %." }
        }
        @if let Some(metrics) = metrics {
            div.scroll tabindex="0" role="group" aria-label="table" { table {
                thead { tr { th { "" } @for column in columns { th { (column.replace('_', ".")) } } } }
                tbody { @for (name, figures) in rows(metrics) { tr {
                    th { (name) }
                    @for column in columns {
                        td class=[is_untrusted(figures, column).then_some("untrusted")] {
                            @if let Some(value) = number(figures, column) { (cell(column, value)) }
                        }
                    }
                } } }
            } }
        }
        div.charts {
            @for (name, latency) in known() {
                (figure(&Chart {
                    base: Base::Near,
                    ..chart_over_time(stored, &format!("{name}_ms per second"), bands(latency))
                }, &stored.faults()))
            }
            @for (name, latency) in known() {
                (percentiles(&format!("{name}_ms by percentile"), vec![Series::filled(name, latency.curve())]))
            }
        }
    }
}

/// Returns the metrics in the order of all outputs. Unknown names come last.
fn rows(metrics: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let place =
        |name: &str| Metric::ALL.iter().position(|metric| name.strip_suffix("_ms") == Some(metric.name()));
    let mut rows: Vec<_> = metrics.iter().collect();
    rows.sort_by_key(|(name, _)| place(name).unwrap_or(Metric::COUNT));
    rows
}

/// Returns whether the summary marks this figure as untrusted.
fn is_untrusted(figures: &Value, column: &str) -> bool {
    let keys = figures.get("untrusted").and_then(Value::as_array);
    keys.is_some_and(|keys| keys.iter().any(|key| key == column))
}

fn cell(column: &str, value: f64) -> String {
    match column {
        "count" => grouped(value),
        _ if value.abs() >= 1000.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(super) fn load(stored: &StoredRun) -> Markup {
    let line = |column| stored.over_time(column);
    html! {
        h2 { "Load and throughput" }
        div.charts {
            (over_time(stored, "Open sessions", vec![Series::filled("sessions", line("User Count"))]))
            (over_time(stored, "Tokens per second", vec![Series::filled("tokens/s", line("Tokens/s"))]))
            (over_time(stored, "Queries ended per second", vec![
                Series::filled("ended", line("Requests/s")),
                Series::line("failed", line("Failures/s")),
            ]))
            (over_time(stored, "Lag of the load generator, p99, ms", vec![
                Series::filled("loop_lag_ms", line("loop_lag_ms p99")),
            ]))
        }
    }
}

/// Lists the changes of the plan during the run.
pub(super) fn amendments(stored: &StoredRun) -> Markup {
    const FIGURES: [(&str, &str); 4] = [
        ("from second", "at_s"),
        ("sessions", "clients"),
        ("arrivals per second", "arrival_rate"),
        ("changed within, s", "ramp_up_s"),
    ];
    html! {
        @if !stored.list("amendments").is_empty() {
            h2 { "Amendments" }
            div.scroll tabindex="0" role="group" aria-label="table" { table {
                thead { tr { th { "number" } @for (title, _) in FIGURES { th { (title) } } } }
                tbody { @for amendment in stored.list("amendments") { tr {
                    td { @if let Some(value) = number(amendment, "number") { (grouped(value)) } }
                    @for (_, key) in FIGURES { td { @if let Some(value) = number(amendment, key) { (grouped(value)) } } }
                } } }
            } }
        }
    }
}

pub(super) fn generators(stored: &StoredRun) -> Markup {
    const FIGURES: [(&str, &str); 8] = [
        ("sessions", "sessions"),
        ("queries", "queries"),
        ("tokens", "tokens_received"),
        ("lost tokens", "tokens_lost"),
        ("e2el p95, ms", "e2el_p95_ms"),
        ("loop lag p99, ms", "loop_lag_p99_ms"),
        ("started late by, ms", "start_delay_ms"),
        ("clock error, ms", "clock_error_ms"),
    ];
    html! {
        @if !stored.list("generators").is_empty() {
            h2 { "Generators" }
            div.scroll tabindex="0" role="group" aria-label="table" { table {
                thead { tr { th { "generator" } @for (title, _) in FIGURES { th { (title) } } } }
                tbody { @for generator in stored.list("generators") { tr {
                    td {
                        @if let Some(shard) = number(generator, "shard") { (grouped(shard)) }
                        " " (text(generator, "host"))
                        @if !text(generator, "lost").is_empty() { " " span.bad { "lost" } ": " (text(generator, "lost")) }
                    }
                    @for (_, key) in FIGURES { td { @if let Some(value) = number(generator, key) { (grouped(value)) } } }
                } } }
            } }
            @if let Some(skew) = stored.number("start_skew_ms") {
                p.note { "They started at most " (format!("{skew:.2}")) " ms apart." }
            }
        }
    }
}

/// Returns how long each instance that a fault started took until it served a session or query: `wsproxy-4 412 ms`.
fn cold_starts(fault: &Value) -> String {
    let shown = |start: &Value| {
        let after =
            number(start, "first_served_ms").map_or_else(|| "none".to_owned(), |ms| format!("{ms:.0} ms"));
        format!("{} {after}", text(start, "instance"))
    };
    list(fault, "cold_starts").iter().map(shown).collect::<Vec<_>>().join(", ")
}

pub(super) fn disturbances(stored: &StoredRun) -> Markup {
    let anything = |line: &Line| line.iter().any(|point| point.1 > 0.0);
    let lost = stored.over_time("Tokens lost/s");
    let (attempts, ok) = (stored.over_time("Reconnect attempts/s"), stored.over_time("Reconnects/s"));
    let broken = stored.list("faults");
    let failed = stored.over_time("Failures/s");
    let nothing = [&lost, &attempts, &failed].iter().all(|line| !anything(line));
    let rows = stored.failures.rows();
    html! {
        h2 { "Faults, losses and reconnects" }
        @if nothing && broken.is_empty() && rows.is_empty() { p { "None." } }
        @if !broken.is_empty() {
            div.scroll tabindex="0" role="group" aria-label="table" { table.words {
                thead { tr { th { "fault" } th { "began" } th { "outcome" } th { "recovery" } th { "outages" } th { "new instances served after" } } }
                tbody { @for fault in broken { tr {
                    td { (text(fault, "fault")) }
                    td { @if let Some(at) = number(fault, "began_s") { (format!("{at:.1} s")) } }
                    td { (text(fault, "outcome")) }
                    td { @if let Some(ms) = number(fault, "time_to_recover_ms") { (format!("{ms:.0} ms")) } }
                    td { @if let Some(outages) = number(fault, "outages") { (grouped(outages)) } }
                    td { (cold_starts(fault)) }
                } } }
            } }
        }
        @if !nothing || !broken.is_empty() {
            div.charts {
                (over_time(stored, "Reconnects per second", vec![
                    Series::filled("attempts", attempts),
                    Series::line("succeeded", ok),
                ]))
                @if anything(&lost) {
                    (over_time(stored, "Tokens lost per second", vec![Series::filled("lost", lost)]))
                }
                @if anything(&failed) {
                    (over_time(stored, "Queries failed per second", vec![Series::filled("failed", failed)]))
                }
            }
        }
        @if !rows.is_empty() {
            h3 { "Failures by kind" }
            div.scroll tabindex="0" role="group" aria-label="table" { table.words {
                thead { tr { @for column in stored.failures.header() { th { (column) } } } }
                tbody { @for row in rows.iter().take(MAX_FAILURES) {
                    tr { @for cell in row { td { (cell) } } }
                } }
            } }
        }
    }
}

pub(super) fn resources(stored: &StoredRun) -> Markup {
    let by_process = |of: fn(&Process) -> &Downsampled| -> Vec<Series> {
        let series = |(name, process): (&String, &Process)| Series::line(name.clone(), of(process).line());
        stored.processes.iter().map(series).collect()
    };
    let health =
        stored.health.iter().map(|(target, line)| Series::line(target.clone(), line.line())).collect();
    html! {
        @if !(stored.processes.is_empty() && stored.health.is_empty()) {
            h2 { "Resources and health" }
            div.charts {
                (over_time(stored, "CPU by process, cores", by_process(|process| &process.cpu)))
                (over_time(stored, "Memory by process, MB", by_process(|process| &process.rss)))
                (over_time(stored, "Open descriptors", by_process(|process| &process.descriptors)))
                (over_time(stored, "Threads", by_process(|process| &process.threads)))
                (over_time(stored, "Slowest health check, ms", health))
            }
            (memory(&stored.summary["memory"]))
        }
    }
}

/// Returns the mean memory of each process and role by phase of the run.
fn memory(memory: &Value) -> Markup {
    let processes = memory["processes"].as_object().into_iter().flatten();
    let low = ["low", "low_redis"].map(|key| &memory[key]);
    html! {
        @if !memory.is_null() {
            h3 { "Memory by phase, mean MB" }
            @for low in low {
                @if let (Some(available), Some(total), Some(second)) =
                    (number(low, "available_mb"), number(low, "total_mb"), number(low, "second")) {
                    p { span.bad { "low" } " " (text(low, "of")) " had only " (format!("{available:.0} of {total:.0} MB"))
                        " left, first at " (format!("{second:.0} s")) "." }
                }
            }
            div.scroll tabindex="0" role="group" aria-label="table" { table {
                thead { tr { th { "process" } @for phase in Phase::ALL { th { (phase.name()) } } } }
                tbody { @for (name, phases) in processes { tr {
                    td { (name) }
                    @for phase in Phase::ALL {
                        td { @if let Some(mb) = number(&phases[phase.name()], "mean_mb") { (format!("{mb:.1}")) } }
                    }
                } } }
            } }
        }
    }
}

pub(super) fn configuration(stored: &StoredRun) -> Markup {
    let part = |key: &str| {
        let value = stored.summary.get(key).filter(|value| !value.is_null())?;
        serde_json::to_string_pretty(value).ok()
    };
    html! {
        h2 { "Configuration" }
        @for (title, key) in [("The run", "config"), ("The host", "host"), ("The generator", "generator"), ("Versions", "versions")] {
            @if let Some(json) = part(key) { details { summary { (title) } pre { (json) } } }
        }
    }
}

fn over_time(stored: &StoredRun, title: &str, series: Vec<Series>) -> Markup {
    figure(&chart_over_time(stored, title, series), &stored.faults())
}

fn chart_over_time(stored: &StoredRun, title: &str, series: Vec<Series>) -> Chart {
    let until = stored.over_time("User Count").last().map_or(0.0, |point| point.0);
    let marks = stored.faults().iter().map(|fault| fault.0).collect();
    Chart { title: title.to_owned(), axis: Axis::Time, base: Base::Zero, series, marks, until }
}

fn percentiles(title: &str, series: Vec<Series>) -> Markup {
    let title = title.to_owned();
    let (axis, base) = (Axis::Percentile, Base::Near);
    let chart = Chart { title, axis, base, series, marks: Vec::new(), until: 0.0 };
    figure(&chart, &[])
}

pub(super) fn figure(chart: &Chart, faults: &[(f64, String)]) -> Markup {
    let most = |series: &Series| series.points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    html! {
        @if let Some(Drawing { svg, begins, data }) = chart.draw() {
            figure data-chart=(data) {
                figcaption {
                    h3 { (chart.title) }
                    div.legend {
                        @for (index, series) in chart.series.iter().enumerate() {
                            @if !series.points.is_empty() {
                                span { i class=(format!("c{}", index % COLOURS + 1)) {} (series.name) ", max " (short(most(series))) }
                            }
                        }
                        @if !faults.is_empty() { span { i.fault {} "fault" } }
                        @if let Some(begins) = begins { span.begins { "axis from " (begins) } }
                    }
                }
                (PreEscaped(svg))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn code_in_a_sentence() {
        for (words, markup) in [
            ("by `a:<kill>` at 3 s", "by <code>a:&lt;kill&gt;</code> at 3 s"),
            ("`a` and `b", "<code>a</code> and `b"),
            ("none", "none"),
        ] {
            assert_eq!(with_code(words).into_string(), markup);
        }
    }

    #[test]
    fn a_machine_and_a_redis_with_little_memory_are_named() {
        let low = |of: &str| json!({ "second": 7, "available_mb": 70.4, "total_mb": 768, "of": of });
        let of = |low: Value, low_redis: Value| {
            let memory = json!({ "processes": {}, "low": low, "low_redis": low_redis });
            memory_text(&memory)
        };
        let sentence = |of: &str| format!("{of} had only 70 of 768 MB left, first at 7 s.");
        let both = of(low("this machine"), low("Redis"));
        assert!(both.contains(&sentence("this machine")) && both.contains(&sentence("Redis")), "{both}");
        assert!(!of(Value::Null, Value::Null).contains("had only"));
        // Results of earlier versions.
        assert!(!memory_text(&json!({ "processes": {}, "low": null })).contains("had only"));
    }

    fn memory_text(value: &Value) -> String {
        memory(value).into_string()
    }

    #[test]
    fn figures_are_grouped_and_never_rounded_up_to_100_percent() {
        for (value, text) in
            [(0.0, "0"), (999.0, "999"), (1234567.0, "1\u{202f}234\u{202f}567"), (2.5, "2.50")]
        {
            assert_eq!(grouped(value), text);
        }
        assert_eq!(percent(1.0), "100\u{a0}%");
        assert_eq!(percent(0.999_999_99), "99.9999\u{a0}%");
    }
}

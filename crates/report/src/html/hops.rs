//! Where a token's time went: a table of the hops, and a stacked bar of the mean times for each stretch of the run.

use super::{
    chart::{clock, short},
    downsample::Line,
    stored::StoredRun,
};
use maud::{Markup, html};
use measure::Hop;
use serde_json::Value;

/// Largest number of bars.
const MAX_BARS: usize = 60;
/// The plot in pixels: left, right, top and bottom edge in an image of this width and height.
const SIZE: [f64; 2] = [460.0, 220.0];
const PLOT: [f64; 4] = [50.0, 446.0, 8.0, 194.0];

/// Mean times by hop over a stretch of the run.
#[derive(Clone, Debug, PartialEq)]
struct Bar {
    from_s: f64,
    to_s: f64,
    /// Milliseconds by [`Hop`], 0 for a hop without samples.
    ms: [f64; Hop::COUNT],
}

impl Bar {
    fn total(&self) -> f64 {
        self.ms.iter().sum()
    }
}

/// Renders the section. Nothing if the hops were not measured.
pub(super) fn section(stored: &StoredRun) -> Markup {
    let summary = stored.summary.get("hops");
    let is_measured = summary.and_then(|hops| hops.get("state")) == Some(&Value::from("measured"));
    let rows = summary.and_then(|hops| hops.get("hops")).and_then(Value::as_array).filter(|_| is_measured);
    html! {
        @if let (Some(summary), Some(rows)) = (summary, rows) {
            h2 { "Where a token's time went" }
            p.note { (scope(summary)) }
            @if let Some(why) = summary.get("unreliable_because").and_then(Value::as_str) { p.bad { (why) } }
            (table(rows))
            div.charts { (figure(&bars(&lines(stored)))) }
        }
    }
}

fn scope(summary: &Value) -> String {
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or_default();
    let stretch = summary.get("steady_s").filter(|steady| steady.is_array()).map_or_else(
        || "over the whole run".to_owned(),
        |steady| format!("over the steady state, {} s to {} s", number(steady.get(0)), number(steady.get(1))),
    );
    format!(
        "The first and every {}th further token of a query, {stretch}. All figures are in milliseconds. The bars show the mean of all seconds of the run, and a token counts in the second in which its query ended.",
        number(summary.get("every"))
    )
}

fn table(rows: &[Value]) -> Markup {
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |row: &Value, key: &str| row.get(key).and_then(Value::as_f64);
    let cell = |row: &Value, key: &str| number(row, key).map(short).unwrap_or_default();
    html! {
        div.scroll tabindex="0" role="group" aria-label="table" { table {
            thead { tr { th { "hop" } th { "mean" } th { "p50" } th { "p99" } th { "samples" } th { "clock error" } th { "from → to" } } }
            tbody { @for row in rows { tr {
                th { (text(row, "hop")) }
                @for key in ["mean", "p50", "p99"] { td { (cell(row, key)) } }
                td { @if let Some(count) = number(row, "samples") { (super::sections::grouped(count)) } }
                td { @match number(row, "clock_error_ms") { Some(error) => { "±" (short(error)) }, None => "unknown" } }
                td { (text(row, "what")) @if !text(row, "unmeasured").is_empty() { ": " (text(row, "unmeasured")) } }
            } } }
        } }
    }
}

/// Returns the mean times of each second by hop.
fn lines(stored: &StoredRun) -> [Line; Hop::COUNT] {
    Hop::ALL.map(|hop| {
        let latency = stored.latencies.get(hop.metric().name());
        latency.map(super::percentiles::Latency::means).unwrap_or_default()
    })
}

/// Divides the run into equally long stretches with a bar each.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn bars(lines: &[Line; Hop::COUNT]) -> Vec<Bar> {
    let seconds = || lines.iter().flatten().map(|point| point.0);
    let (from, to) = (seconds().fold(f64::INFINITY, f64::min), seconds().fold(0.0, f64::max) + 1.0);
    if from > to {
        return Vec::new();
    }
    let width = ((to - from) / MAX_BARS as f64).max(1.0);
    let count = ((to - from) / width).ceil() as usize;
    let mut sums = vec![[(0.0, 0.0); Hop::COUNT]; count];
    for (hop, line) in lines.iter().enumerate() {
        for &(at, ms) in line {
            let (sum, seconds) = &mut sums[(((at - from) / width) as usize).min(count - 1)][hop];
            (*sum, *seconds) = (*sum + ms, *seconds + 1.0);
        }
    }
    let bar = |(number, sums): (usize, [(f64, f64); Hop::COUNT])| {
        let from_s = from + number as f64 * width;
        let ms = sums.map(|(sum, seconds)| if seconds > 0.0 { sum / seconds } else { 0.0 });
        Bar { from_s, to_s: (from_s + width).min(to), ms }
    };
    sums.into_iter().enumerate().map(bar).filter(|bar| bar.total() > 0.0).collect()
}

fn figure(bars: &[Bar]) -> Markup {
    let Some((first, last)) = bars.first().zip(bars.last()) else { return html! {} };
    let [left, right, top, bottom] = PLOT;
    let most = bars.iter().map(Bar::total).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let (from, length) = (first.from_s, last.to_s - first.from_s);
    let x = |second: f64| left + (second - from) / length * (right - left);
    let height = |ms: f64| ms / most * (bottom - top);
    let ticks = [0.0, 0.25, 0.5, 0.75, 1.0];
    html! {
        figure {
            figcaption {
                h3 { "mean time by hop, ms" }
                div.legend { @for (index, hop) in Hop::ALL.iter().enumerate() { span { i class=(format!("c{}", index + 1)) {} (hop.place()) } } }
            }
            svg role="img" aria-label="mean time of a token by hop over the run" viewBox=(format!("0 0 {} {}", SIZE[0], SIZE[1])) xmlns="http://www.w3.org/2000/svg" {
                @for share in ticks {
                    @let y = bottom - share * (bottom - top);
                    line x1=(left) x2=(right) y1=(format!("{y:.1}")) y2=(format!("{y:.1}")) stroke="#000001" {}
                    text x=(left - 6.0) y=(format!("{:.1}", y + 4.0)) text-anchor="end" font-size="13" { (short(share * most)) }
                }
                @for share in [0.0, 0.5, 1.0] {
                    text x=(format!("{:.1}", left + share * (right - left))) y=(bottom + 18.0) text-anchor="middle" font-size="13" { (clock((from + share * length).round(), length)) }
                }
                @for bar in bars { g {
                    title { (label(bar)) }
                    @for (index, (above, ms)) in stacked(&bar.ms).enumerate() {
                        rect fill=(format!("#0{}0000", index + 1)) x=(format!("{:.1}", x(bar.from_s))) width=(format!("{:.1}", x(bar.to_s) - x(bar.from_s)))
                            y=(format!("{:.1}", bottom - height(above + ms))) height=(format!("{:.1}", height(ms))) {}
                    }
                } }
            }
        }
    }
}

/// Returns each time with the sum of those below it.
fn stacked(ms: &[f64; Hop::COUNT]) -> impl Iterator<Item = (f64, f64)> + '_ {
    ms.iter().scan(0.0, |below, &ms| {
        let at = *below;
        *below += ms;
        Some((at, ms))
    })
}

fn label(bar: &Bar) -> String {
    let hops: Vec<_> =
        Hop::ALL.iter().zip(bar.ms).map(|(hop, ms)| format!("{} {}", hop.place(), short(ms))).collect();
    format!("{} s to {} s: {}", short(bar.from_s), short(bar.to_s), hops.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: std::ops::Range<u32>, ms: f64) -> Line {
        seconds.map(|second| (f64::from(second), ms)).collect()
    }

    #[test]
    fn each_second_of_a_short_run_is_a_bar() {
        let lines = [line(2..5, 0.5), line(2..5, 1.0), line(3..5, 2.0), Line::new()];
        let found = bars(&lines);
        let bar = |from_s, ms| Bar { from_s, to_s: from_s + 1.0, ms };
        let expected =
            [bar(2.0, [0.5, 1.0, 0.0, 0.0]), bar(3.0, [0.5, 1.0, 2.0, 0.0]), bar(4.0, [0.5, 1.0, 2.0, 0.0])];
        assert_eq!(found, expected);
        assert_eq!(bars(&Default::default()), []);
        let page = figure(&found).into_string();
        assert_eq!(page.matches("<rect").count(), 12);
        assert!(page.contains("3 s to 4 s: simulator 0.5, bus 1, gateway 2, network 0"), "{page}");
        assert_eq!(figure(&[]).into_string(), "");
    }

    #[test]
    fn a_long_run_has_few_bars_with_means() {
        let mut slow = line(0..3_000, 1.0);
        slow.extend(line(3_000..6_000, 3.0));
        let found = bars(&[line(0..6_000, 0.5), slow, Line::new(), Line::new()]);
        assert_eq!(found.len(), MAX_BARS);
        assert_eq!((found[0].ms, found[59].ms), ([0.5, 1.0, 0.0, 0.0], [0.5, 3.0, 0.0, 0.0]));
        assert!((found[59].to_s - 6_000.0).abs() < 1e-6);
    }

    #[test]
    fn parts_of_a_bar_lie_on_each_other() {
        assert_eq!(
            stacked(&[1.0, 0.0, 2.0, 4.0]).collect::<Vec<_>>(),
            [(0.0, 1.0), (1.0, 0.0), (1.0, 2.0), (3.0, 4.0)]
        );
    }
}

//! The page of a search for the ceiling: the answer, latency and throughput over the load, the steps, and the evidence.

use super::{
    chart::{Axis, Base, Chart, Series},
    page::document,
    sections::{figure, grouped},
};
use crate::capacity::CapacityResult;
use maud::{Markup, html};
use measure::capacity::{Outcome, Step};

/// Returns the page.
pub(super) fn render(result: &CapacityResult) -> Markup {
    let text = result.text(120);
    let (headline, sentence) = text.trim_start().split_once("  ").unwrap_or_default();
    let sentence =
        sentence.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let class = match result.exit_code() {
        0 => "good",
        99 => "bad",
        _ => "unsure",
    };
    let body = html! {
        header {
            p.run { (result.run_id) }
            h1 class=(class) { (headline) }
            p.reason { (sentence) }
            p.facts { (result.target) " · objectives of every step: " (result.objectives.join(" ")) }
        }
        @if let Some(by) = &result.limited_by {
            section {
                h2 { "What limits it" }
                p { b { (by) } }
                ul { @for evidence in &result.evidence { li { (evidence) } } }
            }
        }
        section {
            h2 { "Over the load" }
            @if result.ceiling_high.is_some() { p.note { "The dashed lines are the ends of the interval in which the ceiling lies." } }
            div.charts {
                @for chart in charts(result) { (figure(&chart, &[])) }
            }
        }
        (steps(result))
        section {
            h2 { "Options" }
            pre { (given(&result.options)) }
        }
    };
    document(&format!("{headline} · {}", result.run_id), &body)
}

/// Returns the options that are not switched off or empty.
fn given(options: &str) -> String {
    let is_given = |line: &&str| !line.ends_with(" = false") && !line.ends_with(" = []");
    options.lines().filter(is_given).collect::<Vec<_>>().join("\n")
}

/// Returns latency and throughput over the load. The vertical lines are the ends of the ceiling's interval.
fn charts(result: &CapacityResult) -> Vec<Chart> {
    let points = |outcome: &str, value: fn(&Step) -> Option<f64>| {
        let steps = result.steps.iter().filter(|step| step.outcome.name() == outcome);
        let mut points: Vec<_> = steps.filter_map(|step| Some((step.load, value(step)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let interval: Vec<f64> = match result.ceiling_high {
        // The interval is in the unit of the answer, the axis in that of the load.
        Some(high) if result.ceiling > 0.0 => {
            [result.ceiling_low, high].map(|end| end / result.ceiling * result.load).to_vec()
        }
        _ => Vec::new(),
    };
    let unit = result.by.of_load();
    let chart = |title: &str, value: fn(&Step) -> Option<f64>| Chart {
        title: format!("{title} over {unit}"),
        axis: Axis::Load,
        base: Base::Zero,
        series: ["held", "broken", "not measurable"]
            .map(|outcome| Series::line(outcome, points(outcome, value)))
            .into_iter()
            .filter(|series| !series.points.is_empty())
            .collect(),
        marks: interval.clone(),
        until: 0.0,
    };
    vec![
        chart("e2el_ms p99", |step| step.e2el_ms[1]),
        chart("ttft_ms p99", |step| step.ttft_ms[1]),
        chart("itl_ms p99", |step| step.itl_ms[1]),
        chart("tokens/s", |step| Some(step.tokens_per_s)),
    ]
}

fn steps(result: &CapacityResult) -> Markup {
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
    html! {
        section {
            h2 { "Steps" }
            div.scroll tabindex="0" role="group" aria-label="table" {
                table.words {
                    thead {
                        tr {
                            @for title in ["step", result.by.of_load(), "outcome", "e2el p50", "e2el p99", "ttft p99", "itl p99", "tokens/s", "queries/s", "reason"] {
                                th { (title) }
                            }
                        }
                    }
                    tbody {
                        @for (number, step) in result.steps.iter().enumerate() {
                            @let class = match step.outcome {
                                Outcome::Held => "good",
                                Outcome::Broken(_) => "bad",
                                Outcome::Unmeasurable(_) => "unsure",
                            };
                            tr {
                                td { (number + 1) }
                                td { (grouped(step.load)) }
                                td class=(class) { (step.outcome.name()) }
                                @for value in [step.e2el_ms[0], step.e2el_ms[1], step.ttft_ms[1], step.itl_ms[1]] { td { (cell(value)) } }
                                td { (grouped(step.tokens_per_s.round())) }
                                td { (format!("{:.1}", step.queries_per_s)) }
                                td { (step.outcome.reason()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

//! The page of a sweep: the comparison, the figures over a setting or as bars, and the table.

use super::{
    chart::{Axis, Base, Chart, Series, short},
    page::document,
    sections::{figure, grouped},
    with_ending,
};
use crate::sweep::{SweepEnd, SweepResult, headline, sentences};
use maud::{Markup, html};
use measure::sweep::{FIGURES, Point, RANKED, Spread, VariantSummary, cpu_key, rss_key};
use std::{collections::BTreeMap, path::Path};

/// Returns the page. `directory` is the one of the page; runs with a report below it are linked.
pub(super) fn render(result: &SweepResult, directory: &Path) -> Markup {
    let (head, sentence) = headline(result);
    let class = match result.exit_code() {
        0 => "good",
        99 | 1 => "bad",
        _ => "unsure",
    };
    let body = html! {
        header {
            p.run { (result.run_id) }
            h1 class=(class) { (head) }
            p.reason { (sentence) }
            p.facts { (result.target) " · seed " (result.seed) " · " (result.vary.join("  ")) }
        }
        @let sentences = sentences(result);
        @if !sentences.is_empty() {
            section { h2 { "Comparison" } ul { @for sentence in &sentences { li { (sentence) } } } }
        }
        (plots(result))
        (table(result))
        (runs(result, directory))
        section { h2 { "Options" } pre { (given(&result.options)) } }
    };
    let title = if result.end == SweepEnd::Complete { "Sweep" } else { head };
    document(&format!("{title} · {}", result.run_id), &body)
}

/// Returns the options that are not switched off or empty.
fn given(options: &str) -> String {
    let is_given = |line: &&str| !line.ends_with(" = false") && !line.ends_with(" = []");
    options.lines().filter(is_given).collect::<Vec<_>>().join("\n")
}

/// Returns the setting of the horizontal axis: the numeric one with the most values.
fn axis(result: &SweepResult) -> Option<String> {
    let distinct = |name: &str| -> Option<usize> {
        let values = result.variants.iter().map(|variant| variant.settings.value(name)?.parse::<f64>().ok());
        let mut values = values.collect::<Option<Vec<f64>>>()?;
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        values.dedup();
        Some(values.len()).filter(|count| *count > 1)
    };
    let counted = result.names().into_iter().filter_map(|name| Some((distinct(name)?, name)));
    // The first one of equals.
    let most = counted.reduce(|best, next| if next.0 > best.0 { next } else { best });
    most.map(|(_, name)| name.to_owned())
}

fn plots(result: &SweepResult) -> Markup {
    let figures = RANKED.map(|(figure, _)| figure);
    let broken = FIGURES[7];
    let any_broken =
        result.variants.iter().any(|variant| variant.median(broken.key).is_some_and(|count| count > 0.0));
    let figures = figures.into_iter().chain(any_broken.then_some(broken));
    let axis = axis(result);
    html! {
        section {
            @if let Some(axis) = &axis { h2 { "Over " (axis) } } @else { h2 { "By variant" } }
            p.note { "Medians of the repetitions. Runs that did not pass are included." }
            div.charts {
                @for shown in figures {
                    @match &axis {
                        Some(axis) => (figure(&lines(result, axis, shown.key, shown.title), &[])),
                        None => (bars(result, shown.key, shown.title)),
                    }
                }
            }
        }
    }
}

/// Returns one line per combination of the other settings.
fn lines(result: &SweepResult, axis: &str, key: &str, title: &str) -> Chart {
    let mut lines: BTreeMap<(usize, String), Vec<(f64, f64)>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let left_out: Vec<&str> = result.fixed().into_iter().chain([axis]).collect();
    for variant in &result.variants {
        let others = variant.settings.without(&left_out);
        let place = order.iter().position(|known| *known == others).unwrap_or_else(|| {
            order.push(others.clone());
            order.len() - 1
        });
        let at = variant.settings.value(axis).and_then(|value| value.parse().ok());
        if let (Some(at), Some(value)) = (at, variant.median(key)) {
            lines.entry((place, others)).or_default().push((at, value));
        }
    }
    let series = lines.into_iter().map(|((_, others), mut points)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series::line(if others.is_empty() { title.to_owned() } else { others }, points)
    });
    Chart {
        title: format!("{title} over {axis}"),
        axis: Axis::Setting,
        base: Base::Zero,
        series: series.collect(),
        marks: Vec::new(),
        until: f64::NEG_INFINITY,
    }
}

/// Returns a bar for each variant, with a line over the range of the repetitions.
fn bars(result: &SweepResult, key: &str, title: &str) -> Markup {
    let rows: Vec<(String, &Spread)> = result
        .variants
        .iter()
        .filter_map(|variant| Some((result.label(variant.number), variant.figures.get(key)?)))
        .collect();
    let most = rows.iter().map(|(_, spread)| spread.max).fold(0.0, f64::max);
    let share = |value: f64| if most > 0.0 { (value / most * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    html! {
        @if !rows.is_empty() {
            figure {
                figcaption { h3 { (title) } }
                div.bars {
                    @for (label, spread) in &rows {
                        div.name { (label) }
                        div.bar title=(format!("{} to {}", short(spread.min), short(spread.max))) {
                            i.c1 style=(format!("width:{:.2}%", share(spread.median))) {}
                            i.range style=(format!("left:{:.2}%;width:{:.2}%", share(spread.min), share(spread.max) - share(spread.min))) {}
                        }
                        div.value { (short(spread.median)) }
                    }
                }
            }
        }
    }
}

fn table(result: &SweepResult) -> Markup {
    let columns = FIGURES.iter().map(|figure| (figure.title.to_owned(), figure.key.to_owned()));
    let cpu = result.roles(cpu_key).into_iter().map(|role| (format!("{role} cores"), cpu_key(role)));
    let memory = result.roles(rss_key).into_iter().map(|role| (format!("{role} MB"), rss_key(role)));
    let (titles, keys): (Vec<String>, Vec<String>) = columns.chain(cpu).chain(memory).unzip();
    html! {
        section {
            h2 { "Table" }
            p.note { "Medians of the repetitions, with the smallest and the largest value. Broken tokens are lost, duplicated or reordered." }
            div.scroll tabindex="0" role="group" aria-label="table" {
                table.sweep {
                    thead { tr {
                        th { "variant" } th { "verdict" }
                        @for title in &titles { th { (title) } }
                    } }
                    tbody { @for variant in &result.variants { (row(result, variant, &keys)) } }
                }
            }
        }
    }
}

fn row(result: &SweepResult, variant: &VariantSummary, keys: &[String]) -> Markup {
    let class = if variant.runs.all_passed() {
        "good"
    } else if variant.runs.fail + variant.runs.no_result > 0 {
        "bad"
    } else {
        "unsure"
    };
    html! {
        tr {
            th { (result.label(variant.number)) }
            td class=(class) { (variant.verdict) }
            @for key in keys {
                td {
                    @match variant.figures.get(key) {
                        Some(spread) => {
                            @let (low, high) = (cell(spread.min), cell(spread.max));
                            (cell(spread.median))
                            @if low != high { br; span.note { (low) " to " (high) } }
                        },
                        None => "–",
                    }
                }
            }
        }
    }
}

fn cell(value: f64) -> String {
    if value.abs() >= 100.0 { grouped(value.round()) } else { grouped((value * 100.0).round() / 100.0) }
}

/// Returns the runs in the order in which they were played, with links to their reports.
fn runs(result: &SweepResult, directory: &Path) -> Markup {
    let report = |point: &Point| {
        let path = with_ending(Path::new(&point.run), "_report.html");
        let exists = !point.run.is_empty() && path.is_relative() && directory.join(&path).is_file();
        exists.then(|| path.to_string_lossy().into_owned())
    };
    html! {
        section {
            h2 { "Runs" }
            div.scroll tabindex="0" role="group" aria-label="table" { table.words.runs {
                thead { tr { th { "variant" } th { "repetition" } th { "verdict" } th { "reason" } } }
                tbody { @for point in &result.points {
                    @let label = result.label(point.variant);
                    tr {
                        td { @match report(point) { Some(link) => a href=(link) { (label) }, None => (label) } }
                        td { (point.repetition) }
                        td class=(match point.verdict.name() { "PASS" => "good", "INVALID" => "unsure", _ => "bad" }) { (point.verdict.name()) }
                        td { (point.reason) }
                    }
                } }
            } }
        }
    }
}

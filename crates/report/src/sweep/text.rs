//! The result of a sweep as text: two tables, the comparison, and a plot of bars.

use super::{SweepEnd, SweepResult};
use crate::{
    text_builder::{Column, TextBuilder},
    values::short,
};
use measure::{
    comparison::percent,
    sweep::{Ranking, Standing, VariantSummary, Wanted, cpu_key, rank, rss_key},
};

/// Largest width of the column with the settings.
const WIDEST_LABEL: usize = 44;
/// Widths of the longest bar: at least, and at most.
const BAR: (usize, usize) = (4, 40);
/// Room for the figures behind a bar.
const RANGE: usize = 28;
/// Largest number of variants that a sentence names.
const NAMED: usize = 4;
/// Largest number of runs that did not pass to list.
const MAX_REASONS: usize = 10;
/// The figure of the plot.
const PLOTTED: &str = "e2el_p99_ms";

pub(super) fn render(result: &SweepResult, columns: usize) -> String {
    let mut text = TextBuilder::new(columns);
    text.gap();
    let (head, sentence) = headline(result);
    text.sentence(&format!("{head}  "), &sentence);
    text.gap();
    text.entry("target", &result.target);
    let fixed = result.fixed();
    if let Some(variant) = result.variants.first().filter(|_| !fixed.is_empty()) {
        let varied: Vec<_> = result.names().into_iter().filter(|name| !fixed.contains(name)).collect();
        text.entry("all variants", &variant.settings.without(&varied));
    }
    text.gap();
    figures(&mut text, result);
    resources(&mut text, result);
    for sentence in sentences(result) {
        text.gap();
        text.sentence("", &sentence);
    }
    reasons(&mut text, result);
    plot(&mut text, result);
    text.gap();
    text.finish()
}

/// Returns the state of the sweep and what it means.
pub(crate) fn headline(result: &SweepResult) -> (&'static str, String) {
    let (variants, repeat) = (result.variants.len(), result.repeat);
    let finished = result.points.iter().filter(|point| point.is_finished()).count();
    let plan = format!("{variants} variants, each played {repeat} times");
    let plan = if repeat == 1 { format!("{variants} variants, each played once") } else { plan };
    let head = match result.end {
        SweepEnd::Complete => "SWEEP",
        SweepEnd::Interrupted => "INTERRUPTED",
        SweepEnd::Unfinished => "UNFINISHED",
    };
    if result.end != SweepEnd::Complete {
        let total = variants * repeat;
        let file = format!("{}_sweep.json", result.run_id);
        let next = format!("Continue with --resume {file} and the same options.");
        return (head, format!("{finished} of {total} runs are finished ({plan}). {next}"));
    }
    let passed = result.variants.iter().filter(|variant| variant.runs.all_passed()).count();
    match variants - passed {
        0 => (head, format!("{plan}. All runs passed.")),
        1 => (head, format!("{plan}. 1 variant has runs that did not pass.")),
        bad => (head, format!("{plan}. {bad} variants have runs that did not pass.")),
    }
}

/// Adds the table of figures: the medians of the repetitions.
fn figures(text: &mut TextBuilder, result: &SweepResult) {
    let cell = |variant: &VariantSummary, key| variant.median(key).map_or_else(|| "-".to_owned(), short);
    let count = |variant: &VariantSummary, key| {
        variant.median(key).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
    };
    let verdicts = result.variants.iter().map(|variant| variant.verdict.chars().count()).max().unwrap_or(0);
    let columns = [
        Column::left("variant", label_width(result)),
        Column::left("verdict", verdicts.max(7) + 1),
        Column::right("queries ok", 14, 2),
        Column::right("e2el p50", 10, 5),
        Column::right("e2el p99", 10, 8),
        Column::right("ttft p50", 10, 3),
        Column::right("ttft p99", 10, 6),
        Column::right("tokens/s", 10, 7),
        Column::right("broken", 8, 4),
    ];
    let rows = result.variants.iter().map(|variant| {
        vec![
            result.label(variant.number),
            variant.verdict.clone(),
            format!("{}/{}", count(variant, "queries_ok"), count(variant, "queries_total")),
            cell(variant, "e2el_p50_ms"),
            cell(variant, "e2el_p99_ms"),
            cell(variant, "ttft_p50_ms"),
            cell(variant, "ttft_p99_ms"),
            count(variant, "tokens_per_s"),
            count(variant, "tokens_broken"),
        ]
    });
    text.table(&columns, rows);
}

/// Adds the table of CPU time and memory by role, if anything was observed.
fn resources(text: &mut TextBuilder, result: &SweepResult) {
    let (cpu, rss) = (result.roles(cpu_key), result.roles(rss_key));
    if cpu.is_empty() && rss.is_empty() {
        return;
    }
    text.gap();
    let title = match cpu.is_empty() {
        true => "peak memory in MB; the runs were too short for CPU time",
        false => "CPU in mean cores, and peak memory in MB",
    };
    text.sentence("", title);
    let mut columns = vec![Column::left("variant", label_width(result))];
    // The memory goes first if the terminal is narrow.
    columns.extend((1..).zip(&cpu).map(|(place, role)| Column::right(role, 9, 100 - place)));
    columns.extend((1..).zip(&rss).map(|(place, role)| Column::right(memory(role), 12, 50 - place)));
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let rows = result.variants.iter().map(|variant| {
        let cpu = cpu.iter().map(|role| cell(variant.median(&cpu_key(role)), 2));
        let memory = rss.iter().map(|role| cell(variant.median(&rss_key(role)), 0));
        [result.label(variant.number)].into_iter().chain(cpu).chain(memory).collect::<Vec<String>>()
    });
    text.table(&columns, rows);
}

/// Returns the title of a role's column of memory.
fn memory(role: &str) -> &'static str {
    match role {
        "client" => "client MB",
        "server" => "server MB",
        "wsproxy" => "wsproxy MB",
        "haproxy" => "haproxy MB",
        _ => "redis MB",
    }
}

fn label_width(result: &SweepResult) -> usize {
    let widest = (1..=result.variants.len()).map(|number| result.label(number).chars().count()).max();
    widest.unwrap_or(0).clamp(7, WIDEST_LABEL) + 1
}

/// Returns a sentence for each ranked figure.
pub(crate) fn sentences(result: &SweepResult) -> Vec<String> {
    let left_out = result.variants.iter().filter(|variant| !variant.runs.all_passed()).count();
    let mut sentences: Vec<_> =
        rank(&result.variants).iter().map(|ranking| sentence(result, ranking)).collect();
    if left_out > 0 && !sentences.is_empty() {
        let are = if left_out == 1 { "variant is" } else { "variants are" };
        sentences.push(format!("{left_out} {are} not compared, because not every run of it passed."));
    }
    sentences
}

fn sentence(result: &SweepResult, ranking: &Ranking) -> String {
    let (number, best) = ranking.best;
    let superlative = if ranking.wanted == Wanted::Low { "lowest" } else { "highest" };
    let title = ranking.figure.title;
    let start = format!(
        "{title}: {superlative} with {} ({}, {} to {}).",
        result.label(number),
        short(best.median),
        short(best.min),
        short(best.max)
    );
    let of = |wanted: fn(&Standing) -> bool| -> Vec<String> {
        let others = ranking.others.iter().filter(|(_, _, standing)| wanted(standing));
        others.map(|(number, ..)| result.label(*number)).collect()
    };
    if ranking.others.iter().any(|(_, _, standing)| *standing == Standing::Unknown) {
        return format!("{start} One repetition does not show the noise: use --repeat 2 or more to compare.");
    }
    let within = of(|standing| *standing == Standing::WithinNoise);
    if within.len() == ranking.others.len() {
        return format!("{start} All differences are within the noise of the repetitions.");
    }
    let within = match within.is_empty() {
        true => String::new(),
        false => format!(" Within the noise of it: {}.", listed(&within)),
    };
    let worse = ranking.others.iter().filter_map(|(number, spread, standing)| match standing {
        Standing::Worse(share) => Some(format!(
            "{} ({}, {})",
            result.label(*number),
            short(spread.median),
            signed(*share, ranking.wanted)
        )),
        _ => None,
    });
    format!("{start}{within} Worse: {}.", listed(&worse.collect::<Vec<_>>()))
}

/// Returns a relative difference with the sign of its direction.
fn signed(share: f64, wanted: Wanted) -> String {
    let sign = if wanted == Wanted::Low { "+" } else { "-" };
    if share.is_finite() {
        format!("{sign}{}", percent((share * 1000.0).round() / 1000.0))
    } else {
        "from 0".to_owned()
    }
}

/// Returns the first names and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Adds why runs did not pass.
fn reasons(text: &mut TextBuilder, result: &SweepResult) {
    let bad: Vec<_> = result.bad_points().collect();
    if bad.is_empty() {
        return;
    }
    text.gap();
    for point in bad.iter().take(MAX_REASONS) {
        let label = result.label(point.variant);
        let (verdict, reason) = (point.verdict.name(), &point.reason);
        text.sentence("· ", &format!("{label}, repetition {}: {verdict}: {reason}", point.repetition));
    }
    if bad.len() > MAX_REASONS {
        text.sentence("· ", &format!("and {} more; see _sweep.json", bad.len() - MAX_REASONS));
    }
}

/// Adds a bar for each variant.
fn plot(text: &mut TextBuilder, result: &SweepResult) {
    let spreads =
        || result.variants.iter().filter_map(|variant| Some((variant, variant.figures.get(PLOTTED)?)));
    let most = spreads().map(|(_, spread)| spread.median).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    text.gap();
    text.sentence("", "e2el_ms p99, median and range of the repetitions");
    let width = label_width(result);
    let longest = text.columns().saturating_sub(2 + width + RANGE).clamp(BAR.0, BAR.1);
    for (variant, spread) in spreads() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cells = (spread.median / most * longest as f64).round().max(1.0) as usize;
        let (label, bar) = (result.label(variant.number), "█".repeat(cells));
        let range = format!("{} ({} to {})", short(spread.median), short(spread.min), short(spread.max));
        text.line(&format!("  {label:<width$}{bar} {range}"));
    }
}

//! The result of a search as text.

use super::{CapacityResult, Unit};
use crate::text_builder::{Column, TextBuilder};
use measure::{capacity::End, threshold::figure_text};

/// Columns of the table of steps.
const COLUMNS: [Column; 9] = [
    Column::right("step", 4, 9),
    Column::right("load", 10, 10),
    Column::left("  outcome", 17),
    Column::right("e2el p50", 9, 5),
    Column::right("e2el p99", 9, 8),
    Column::right("ttft p50", 9, 2),
    Column::right("ttft p99", 9, 3),
    Column::right("tokens/s", 10, 6),
    Column::right("queries/s", 10, 4),
];

pub(super) fn render(result: &CapacityResult, columns: usize) -> String {
    let mut text = TextBuilder::new(columns);
    text.gap();
    let (headline, sentence) = headline(result);
    text.sentence(&format!("{headline}  "), &sentence);
    if let Some(by) = &result.limited_by {
        text.gap();
        text.sentence("limited by ", by);
        for evidence in &result.evidence {
            text.sentence("  · ", evidence);
        }
    }
    text.gap();
    text.entry("objectives of every step", &result.objectives.join(" "));
    if let (Some(tokens), Some(queries)) = (result.tokens_per_s, result.queries_per_s) {
        let load = figure_text(result.load.round());
        let unit = result.by.of_load();
        text.entry(
            "near the ceiling",
            &format!("{load} {unit}, {tokens:.0} tokens/s, {queries:.1} queries/s"),
        );
    }
    text.entry("noise", &format!("{:.1} % of the load", result.noise * 100.0));
    text.gap();
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let rows = result.steps.iter().enumerate().map(|(number, step)| {
        vec![
            (number + 1).to_string(),
            figure_text(step.load),
            format!("  {}", step.outcome.name()),
            cell(step.e2el_ms[0]),
            cell(step.e2el_ms[1]),
            cell(step.ttft_ms[0]),
            cell(step.ttft_ms[1]),
            format!("{:.0}", step.tokens_per_s),
            format!("{:.1}", step.queries_per_s),
        ]
    });
    text.table(&COLUMNS, rows);
    text.gap();
    text.finish()
}

/// Returns the ceiling with its interval and unit: `300 sessions (295 to 306)`.
pub(super) fn interval(result: &CapacityResult) -> String {
    let figure = |value: f64| match result.by {
        Unit::SessionRate => format!("{value:.1}"),
        Unit::Sessions | Unit::Tokens => format!("{value:.0}"),
    };
    let unit = result.by.name();
    match result.ceiling_high {
        Some(high) => {
            format!("{} {unit} ({} to {})", figure(result.ceiling), figure(result.ceiling_low), figure(high))
        }
        None => format!("at least {} {unit}", figure(result.ceiling_low)),
    }
}

/// Returns the lowest precision, in percent and a multiple of 5, that the interval has. `None` if it is wider than any that can be asked for.
fn wide_precision(result: &CapacityResult) -> Option<f64> {
    let width = (result.ceiling_high? - result.ceiling_low) / result.ceiling;
    Some((width * 20.0).ceil() * 5.0).filter(|&percent| percent <= 50.0)
}

fn headline(result: &CapacityResult) -> (&'static str, String) {
    let interval = interval(result);
    let confidence = format!("with a probability of {:.0} %", result.confidence * 100.0);
    let so_far =
        if result.ceiling_high.is_some() { format!("{interval}, {confidence}") } else { interval.clone() };
    match result.end {
        End::Found => ("CEILING", format!("The system holds {interval}, {confidence}.")),
        End::AboveRange => (
            "ABOVE RANGE",
            format!("The system holds {interval}, the highest load to try: use a larger --to."),
        ),
        End::NothingHolds => {
            let least = figure_text(result.limits.unit);
            (
                "FAIL",
                format!(
                    "The objectives do not even hold at the smallest load, {least} {}.",
                    result.by.of_load()
                ),
            )
        }
        End::GeneratorLimit => (
            "INVALID",
            format!(
                "The generator is the limit: the system holds {interval}. Use a larger machine for the generator."
            ),
        ),
        End::OutOfSteps | End::OutOfTime => {
            let (what, more) = match result.end {
                End::OutOfSteps => ("steps were", " and a larger --max-steps"),
                _ => ("time was", ""),
            };
            let accept = wide_precision(result)
                .map(|percent| format!(", or accept this interval with --resume --precision {percent:.0}"))
                .unwrap_or_default();
            (
                "INVALID",
                format!(
                    "The {what} not enough for the precision. So far: {so_far}. Continue with --resume{more}{accept}."
                ),
            )
        }
        End::Interrupted => ("INTERRUPTED", format!("So far: {so_far}. Continue with --resume.")),
    }
}

//! Renders records of several runs as Markdown: medians with their spread, what was used up, ratios to the first variant
//! and to a baseline. It decides nothing, because figures of two machines or two days cannot be compared.

use crate::record::{Record, Verdict};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write};

/// Figures that are compared with the baseline.
const COMPARED: [&str; 9] = [
    "highest_clean_tokens_per_second",
    "connects_per_second",
    "cpu_us_per_token{gateway}",
    "cpu_us_per_token{redis}",
    "cpu_us_per_token{client}",
    "cpu_us_per_connect{gateway}",
    "rss_kib_per_connection{gateway}",
    "rss_kib_per_connection{client}",
    "idle_core_share",
];

/// Medians of an earlier version, by `suite | variant | figure`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Commit of the measured version.
    pub commit: String,
    /// Processor, number of cores and kernel.
    pub machine: String,
    /// The medians.
    pub medians: BTreeMap<String, f64>,
}

impl Baseline {
    /// Computes the medians of these records.
    #[must_use]
    pub fn of(records: &[Record], commit: String, machine: String) -> Self {
        let mut medians = BTreeMap::new();
        for suite in suites(records) {
            for variant in suite.variants {
                for name in COMPARED {
                    if let Some(spread) = Spread::of(&variant.runs, name) {
                        medians.insert(key(suite.name, variant.name, name), spread.median);
                    }
                }
            }
        }
        Self { commit, machine, medians }
    }
}

/// Returns one table per suite, and a comparison with the baseline if there is one.
#[must_use]
pub fn markdown(records: &[Record], baseline: Option<&Baseline>) -> String {
    let suites = suites(records);
    let mut text: String = suites.iter().map(table).collect();
    if let Some(baseline) = baseline {
        text += &comparison(&suites, baseline);
    }
    text
}

struct Suite<'a> {
    name: &'a str,
    variants: Vec<Variant<'a>>,
}

struct Variant<'a> {
    name: &'a str,
    runs: Vec<&'a Record>,
}

/// Groups records by suite and variant, in the order in which these first appear.
fn suites(records: &[Record]) -> Vec<Suite<'_>> {
    let mut suites: Vec<Suite<'_>> = Vec::new();
    for record in records {
        let at = suites.iter().position(|suite| suite.name == record.suite).unwrap_or_else(|| {
            suites.push(Suite { name: &record.suite, variants: Vec::new() });
            suites.len() - 1
        });
        let variants = &mut suites[at].variants;
        match variants.iter_mut().find(|variant| variant.name == record.variant) {
            Some(variant) => variant.runs.push(record),
            None => variants.push(Variant { name: &record.variant, runs: vec![record] }),
        }
    }
    suites
}

/// Median, least and most of several runs.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Computes the spread over the runs that are not INVALID. Returns `None` if there are none.
    fn of(runs: &[&Record], name: &str) -> Option<Self> {
        let valid = runs.iter().filter(|run| run.verdict != Verdict::Invalid);
        let mut values: Vec<f64> = valid.filter_map(|run| run.figure(name)).collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, least, most })
    }

    fn text(&self) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(number);
        if least == most { median } else { format!("{median} ({least}–{most})") }
    }
}

fn table(suite: &Suite<'_>) -> String {
    let mut text = format!("### {}\n\n| |", suite.name);
    let row = |text: &mut String, name: &str, cell: &dyn Fn(usize, &Variant<'_>) -> String| {
        let cells: Vec<String> = suite.variants.iter().enumerate().map(|(at, it)| cell(at, it)).collect();
        writeln!(text, "| {name} | {} |", cells.join(" | ")).expect("a string takes every write");
    };
    let names: Vec<&str> = suite.variants.iter().map(|variant| variant.name).collect();
    text += &format!(" {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    row(&mut text, "clean runs", &|_, variant| verdicts(&variant.runs));
    row(&mut text, "used up", &|_, variant| notes(&variant.runs, |run| &run.saturated));
    row(&mut text, "not clean because", &|_, variant| notes(&variant.runs, |run| &run.reasons));
    for name in figures(suite) {
        let first = suite.variants.first().and_then(|variant| Spread::of(&variant.runs, name));
        row(&mut text, name, &|at, variant| match Spread::of(&variant.runs, name) {
            None => "–".to_owned(),
            Some(spread) => {
                match first.filter(|first| {
                    at > 0 && first.median > 0.0 && name != "tokens_per_second" && name.contains("_per_")
                }) {
                    Some(first) => format!("{} **×{:.2}**", spread.text(), spread.median / first.median),
                    None => spread.text(),
                }
            }
        });
    }
    text.push('\n');
    text
}

/// Returns the names of all figures in the order of the records, without figures of groups that are zero in every run.
fn figures<'a>(suite: &Suite<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in suite.variants.iter().flat_map(|variant| &variant.runs).flat_map(|run| &run.figures) {
        let idle = figure.name.contains('{') && figure.value.abs() < 0.01;
        if !idle && !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names
}

fn verdicts(runs: &[&Record]) -> String {
    let count = |verdict| runs.iter().filter(|run| run.verdict == verdict).count();
    match count(Verdict::Invalid) {
        0 => format!("{} of {}", count(Verdict::Clean), runs.len()),
        invalid => format!("{} of {}, **{invalid} INVALID**", count(Verdict::Clean), runs.len()),
    }
}

/// Joins the sentences of all runs. Sentences that differ only in their numbers appear once.
fn notes(runs: &[&Record], of: impl Fn(&Record) -> &Vec<String>) -> String {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for sentence in runs.iter().flat_map(|run| of(run)) {
        let kind: String = sentence.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
        if !seen.iter().any(|(known, _)| *known == kind) {
            seen.push((kind, sentence));
        }
    }
    let sentences: Vec<&str> = seen.into_iter().map(|(_, sentence)| sentence).collect();
    if sentences.is_empty() { "nothing".to_owned() } else { sentences.join("; ") }
}

fn comparison(suites: &[Suite<'_>], baseline: &Baseline) -> String {
    let mut text = format!(
        "### compared with the baseline\n\nBaseline: {} on {}. Ratios between two machines or two days are not reliable.\n\n\
         | suite | variant | figure | baseline | now | ratio |\n|---|---|---|---|---|---|\n",
        baseline.commit, baseline.machine
    );
    for suite in suites {
        for variant in &suite.variants {
            for name in COMPARED {
                let Some(&then) = baseline.medians.get(&key(suite.name, variant.name, name)) else {
                    continue;
                };
                let Some(now) = Spread::of(&variant.runs, name) else { continue };
                let ratio = if then == 0.0 { "–".to_owned() } else { format!("{:.2}", now.median / then) };
                let (then, now) = (number(then), now.text());
                text +=
                    &format!("| {} | {} | {name} | {then} | {now} | {ratio} |\n", suite.name, variant.name);
            }
        }
    }
    text
}

fn key(suite: &str, variant: &str, figure: &str) -> String {
    format!("{suite} | {variant} | {figure}")
}

/// Formats a number with about three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size < 0.1 => format!("{value:.3}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(variant: &str, cpu: f64, verdict: Verdict) -> Record {
        let mut record = Record::new("gateway", variant.into());
        record.verdict = verdict;
        record.add("connections", 2_000.0);
        record.add("cpu_us_per_token{gateway}", cpu);
        record.add("cpu_us_per_token{haproxy}", 0.0);
        record.add("gap_ms_p99", 52.25);
        record
    }

    fn records() -> Vec<Record> {
        let mut full = record("peer over tcp", 13.0, Verdict::NotClean);
        full.saturated.push("gateway: a thread used 97 % of its core".into());
        full.reasons.push("12 tokens were lost".into());
        let mut again = record("peer over tcp", 15.0, Verdict::NotClean);
        again.saturated.push("gateway: a thread used 99 % of its core".into());
        let mut late = record("wsproxy over tcp", 99.0, Verdict::Invalid);
        late.reasons.push("INVALID: the generator was 11.0 ms late at p99, the limit is 10 ms".into());
        let ours = [6.0, 7.0, 6.5].map(|cpu| record("wsproxy over tcp", cpu, Verdict::Clean));
        ours.into_iter().chain([late, full, again]).collect()
    }

    #[test]
    fn medians_with_spread_and_ratios() {
        let baseline = Baseline::of(&records(), "abc1234".into(), "2 cores".into());
        assert_eq!(baseline.medians["gateway | wsproxy over tcp | cpu_us_per_token{gateway}"], 6.5);
        insta::assert_snapshot!(markdown(&records(), Some(&baseline)));
    }
}

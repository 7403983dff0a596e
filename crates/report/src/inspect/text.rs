//! A query as text: its figures, then what happened in the order of time. Tokens that came as planned are one line.

use super::stored::{ENDING, StoredQuery, StoredToken};
use crate::text_builder::{Column, TextBuilder};
use crate::values::short;
use measure::Hop;

/// A gap between two tokens that is longer than this gets a line, in milliseconds.
const LONG_GAP_MS: f64 = 250.0;
/// Largest number of sampled tokens and of further queries in the text.
const MOST_ROWS: usize = 20;

const FURTHER: [Column; 7] = [
    Column::left("query", 38),
    Column::right("session:number", 16, 6),
    Column::right("status", 12, 5),
    Column::right("due s", 10, 2),
    Column::right("late ms", 10, 4),
    Column::right("lost", 7, 3),
    Column::right("tokens", 8, 1),
];

const HOPS: [Column; 6] = [
    Column::left("token", 8),
    Column::right("after ms", 11, 1),
    Column::right(Hop::Pace.place(), 11, 2),
    Column::right(Hop::Bus.place(), 11, 3),
    Column::right(Hop::Gateway.place(), 11, 4),
    Column::right(Hop::Network.place(), 11, 5),
];

/// Renders the first query in detail and the others as a list.
pub(super) fn render(queries: &[StoredQuery], run: &str, columns: usize, all_tokens: bool) -> String {
    let mut out = TextBuilder::new(columns);
    let Some((first, others)) = queries.split_first() else { return out.finish() };
    head(&mut out, first);
    out.gap();
    events(&mut out, first, all_tokens);
    hops(&mut out, first);
    if first.kept_as.is_empty() {
        out.gap();
        let why = format!(
            "No timeline: only those of the {} slowest and of up to {} broken queries are kept. The figures are from {run}.csv.",
            measure::timeline::SLOWEST,
            measure::timeline::BROKEN
        );
        out.sentence("", &why);
    }
    if !others.is_empty() {
        out.gap();
        out.sentence(
            "",
            &format!("Further {} queries:", if first.kept_as == "slowest" { "slow" } else { "broken" }),
        );
        out.table(&FURTHER, others.iter().take(MOST_ROWS).map(further));
        if others.len() > MOST_ROWS {
            out.sentence("", &format!("… and {} more in {run}{ENDING}", others.len() - MOST_ROWS));
        }
        out.line(&format!("  One of them: streamstress inspect {run} {}", others[0].query_id));
    }
    out.finish()
}

fn further(query: &StoredQuery) -> Vec<String> {
    vec![
        query.query_id.clone(),
        format!("{}:{}", query.session_index, query.query_num),
        query.status.clone(),
        format!("{:.3}", query.due_s),
        query.slowness_ms.map(short).unwrap_or_default(),
        query.tokens_lost.to_string(),
        query.tokens_received.to_string(),
    ]
}

fn head(out: &mut TextBuilder, query: &StoredQuery) {
    out.sentence("", &format!("query {}: {}", query.query_id, query.status));
    let session = query.session_id.as_deref().unwrap_or("never created");
    out.entry("session", &format!("{}  {session}", query.session_index));
    out.entry("number in the session", &query.query_num.to_string());
    if let Some(server) = &query.server {
        out.entry("server", server);
    }
    let ms =
        |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |ms| format!("{} ms", short(ms)));
    let took = |to: Option<f64>| to.zip(query.sent_s).map(|(to, sent)| (to - sent) * 1e3);
    out.entry("ttft", &format!("{}, ideal {}", ms(took(query.first_token_s)), ms(query.ideal_ttft_ms)));
    out.entry("e2el", &format!("{}, ideal {}", ms(took(query.done_s)), ms(query.ideal_e2el_ms)));
    if let Some(slowness) = query.slowness_ms {
        out.entry("late, from the due instant", &format!("{} ms beyond the ideal", short(slowness)));
    }
    let expected = query.tokens_expected.map_or_else(|| "?".to_owned(), |expected| expected.to_string());
    let broken = [
        (query.tokens_lost, "lost"),
        (query.tokens_duplicated, "duplicated"),
        (query.tokens_reordered, "reordered"),
    ];
    let broken: String =
        broken.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    out.entry("tokens", &format!("{} of {expected}{broken}", query.tokens_received));
    if !query.missing.is_empty() {
        let range = |&(first, last): &(u64, u64)| {
            if first == last { first.to_string() } else { format!("{first}–{last}") }
        };
        let ranges: Vec<_> = query.missing.iter().map(range).collect();
        out.entry("events that are missing", &ranges.join(", "));
    }
    if let Some(failure) = &query.failure {
        out.entry("failure", failure);
    }
}

/// A line of the timeline.
struct Line {
    /// Seconds of the run.
    at_s: f64,
    what: String,
    detail: String,
}

fn events(out: &mut TextBuilder, query: &StoredQuery, all_tokens: bool) {
    let line = |at_s: f64, what: &str, detail: String| Line { at_s, what: what.to_owned(), detail };
    let mut lines = vec![line(query.due_s, "due", String::new())];
    let mut known = |at: Option<f64>, what: &str, detail: String| {
        lines.extend(at.map(|at| line(at, what, detail)));
    };
    let response = if query.accepted_s.is_some() { "" } else { "without a response" };
    known(query.sent_s, "sent", response.to_owned());
    known(
        query.accepted_s,
        "accepted",
        query.server.clone().map(|name| format!("by {name}")).unwrap_or_default(),
    );
    if query.tokens.is_empty() {
        known(query.first_token_s, "first token", String::new());
        known(query.last_token_s, "last token", String::new());
    }
    known(query.done_s, "terminator", String::new());
    if query.done_s.is_none() {
        known(Some(query.ended_s), "given up", query.status.clone());
    }
    for fault in &query.faults {
        // A row of the table names faults without their times.
        if fault.outcome.is_empty() {
            lines.push(line(query.due_s, "fault around it", fault.fault.clone()));
            continue;
        }
        lines.push(line(fault.began_s, "fault begins", fault.fault.clone()));
        lines.extend(fault.in_force_s.map(|at| line(at, "fault in force", fault.fault.clone())));
    }
    lines.extend(
        query.notes.iter().map(|note| line(note.at_s, &note.event.replace('_', " "), note.text.clone())),
    );
    let breaks: Vec<f64> = lines.iter().map(|line| line.at_s).collect();
    lines.extend(token_lines(query, &breaks, all_tokens));
    lines.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    out.line(&format!("  {:>12}{:>12}  {}", "second", "after ms", "event"));
    for Line { at_s, what, detail } in lines {
        let after = (at_s - query.due_s) * 1e3;
        out.sentence(&format!("{at_s:>12.6}{after:>12.1}  {what:<16}  "), &detail);
    }
    if query.tokens_left_out > 0 {
        out.sentence("", &format!("{} further tokens are not stored", query.tokens_left_out));
    }
    if query.notes_left_out > 0 {
        out.sentence("", &format!("{} further events of the session are not stored", query.notes_left_out));
    }
}

/// Returns the lines of the tokens. Tokens in a row without a long gap, a jump, or another event between them share a line.
fn token_lines(query: &StoredQuery, breaks: &[f64], all_tokens: bool) -> Vec<Line> {
    let at = |token: &StoredToken| query.due_s + token.ms / 1e3;
    let mut groups: Vec<Vec<&StoredToken>> = Vec::new();
    for token in &query.tokens {
        let last = groups.last().and_then(|group| group.last());
        let joins = last.is_some_and(|last| {
            let is_next = last.seq + 1 == token.seq && token.ms - last.ms <= LONG_GAP_MS;
            let between = |&when: &f64| when > at(last) && when <= at(token);
            is_next && last.replay == token.replay && !breaks.iter().any(between)
        });
        match groups.last_mut().filter(|_| joins && !all_tokens) {
            Some(group) => group.push(token),
            None => groups.push(vec![token]),
        }
    }
    let mut before: Option<&StoredToken> = None;
    let mut lines = Vec::new();
    for group in groups {
        let (first, last) = (group[0], group[group.len() - 1]);
        let mut details = Vec::new();
        if let Some(before) = before {
            details.push(format!("{} ms after the one before", short(first.ms - before.ms)));
            if before.seq + 1 != first.seq {
                details.push(format!("expected {}", before.seq + 1));
            }
        }
        let what = if group.len() == 1 {
            format!("token {}", first.seq)
        } else {
            let gaps = group.windows(2).map(|pair| pair[1].ms - pair[0].ms);
            details.push(format!(
                "{} tokens within {} ms, longest gap {} ms",
                group.len(),
                short(last.ms - first.ms),
                short(gaps.fold(0.0, f64::max))
            ));
            format!("tokens {}–{}", first.seq, last.seq)
        };
        if let Some(longest) = group.iter().filter_map(|token| token.delivery_ms).reduce(f64::max) {
            details.push(format!(
                "delivery {}{} ms",
                if group.len() > 1 { "up to " } else { "" },
                short(longest)
            ));
        }
        if first.replay {
            details.push("sent before the socket was open".to_owned());
        }
        lines.push(Line { at_s: at(first), what, detail: details.join(", ") });
        before = Some(last);
    }
    lines
}

fn hops(out: &mut TextBuilder, query: &StoredQuery) {
    let sampled: Vec<_> = query.tokens.iter().filter(|token| token.hops_ms.is_some()).collect();
    if sampled.is_empty() {
        return;
    }
    out.gap();
    out.sentence("", "Sampled tokens by hop, in milliseconds:");
    let row = |token: &&StoredToken| {
        let hops = token.hops_ms.unwrap_or([None; Hop::COUNT]);
        let mut cells = vec![token.seq.to_string(), short(token.ms)];
        cells.extend(hops.map(|ms| ms.map_or_else(|| "?".to_owned(), short)));
        cells
    };
    out.table(&HOPS, sampled.iter().take(MOST_ROWS).map(row));
    if sampled.len() > MOST_ROWS {
        out.sentence("", &format!("… and {} more with --format json", sampled.len() - MOST_ROWS));
    }
}

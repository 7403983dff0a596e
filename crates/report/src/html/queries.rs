//! The slowest and the broken queries: a table of each, whose rows lead to small timelines in the page.

use super::{chart::short, stored::StoredRun};
use crate::{inspect::StoredQuery, values::uncontrolled};
use maud::{Markup, html};

/// Largest number of timelines of slow and of broken queries in the page. The others are in the file.
const MOST: [(&str, usize); 2] = [("slowest", 10), ("broken", 30)];
/// Edges of the drawing in pixels.
const LEFT: f64 = 8.0;
const RIGHT: f64 = 892.0;
/// Largest number of tokens that are drawn for themselves. Of more, those that share a pixel are drawn once.
const MOST_TOKENS: usize = 600;

/// Renders the section. Nothing if no timelines are stored.
pub(super) fn section(stored: &StoredRun) -> Markup {
    let of = |reason: &str| stored.queries.iter().filter(|query| query.kept_as == reason).collect::<Vec<_>>();
    let groups = MOST.map(|(reason, most)| (reason, most, of(reason)));
    html! {
        @if groups.iter().any(|(.., queries)| !queries.is_empty()) {
            h2 id="queries" { "Single queries" }
            p.note {
                "Bars mark the ideal time of the answer, ticks the tokens. Red marks are lost sockets, gaps and failed calls; dashed lines are faults. "
                code { "streamstress inspect RUN QUERY" } " prints a timeline as text."
            }
            @for (reason, most, queries) in &groups {
                @if !queries.is_empty() {
                    h3 { @if *reason == "slowest" { "The slowest complete queries" } @else { "Broken queries" } }
                    (table(&queries[..queries.len().min(*most)]))
                    @if queries.len() > *most {
                        p.note { (queries.len() - most) " more are in the file " code { "…_queries.jsonl" } "." }
                    }
                }
            }
            @for (_, most, queries) in &groups {
                @for query in queries.iter().take(*most) { (timeline(query)) }
            }
        }
    }
}

fn anchor(query: &StoredQuery) -> String {
    format!("query-{}-{}", query.kept_as, query.rank)
}

fn table(queries: &[&StoredQuery]) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="table" { table {
            thead { tr { th { "query" } th { "session:number" } th { "status" } th { "due" } th { "late, ms" } th { "tokens" } th { "lost" } } }
            tbody { @for query in queries { tr {
                td { a href={ "#" (anchor(query)) } { code { (uncontrolled(&query.query_id)) } } }
                td { (query.session_index) ":" (query.query_num) }
                td { (uncontrolled(&query.status)) }
                td { (format!("{:.2} s", query.due_s)) }
                td { @if let Some(ms) = query.slowness_ms { (short(ms)) } }
                td { (query.tokens_received) }
                td { (query.tokens_lost) }
            } } }
        } }
    }
}

/// The horizontal axis of a timeline: seconds of the run.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn of(query: &StoredQuery) -> Self {
        let first =
            query.notes.iter().map(|note| note.at_s).chain([query.due_s]).fold(f64::INFINITY, f64::min);
        // A note long before the query would leave no room for it.
        let from = first.max(query.due_s - (query.ended_s - query.due_s).max(0.1));
        let to = query.done_s.unwrap_or(query.ended_s).max(from + 0.001);
        let end = query.tokens.last().map_or(to, |token| query.due_s + token.ms / 1e3).max(to);
        Self { from, to: end }
    }

    fn x(&self, at: f64) -> f64 {
        let share = ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + share * (RIGHT - LEFT)
    }

    fn has(&self, at: f64) -> bool {
        at.is_finite() && at >= self.from && at <= self.to
    }
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

fn timeline(query: &StoredQuery) -> Markup {
    let axis = Axis::of(query);
    let ideal = query.sent_s.zip(query.ideal_e2el_ms).map(|(sent, ms)| (sent, sent + ms / 1e3));
    let span = (axis.to - axis.from) * 1e3;
    let failure = query.failure.as_deref().map(uncontrolled);
    html! {
        details id=(anchor(query)) open[query.rank <= 3] {
            summary { code { (uncontrolled(&query.query_id)) } " " (uncontrolled(&query.status))
                @if let Some(ms) = query.slowness_ms { ", " (short(ms)) " ms late" }
                @if query.tokens_lost > 0 { ", " (query.tokens_lost) " tokens lost" }
                @if let Some(server) = &query.server { ", " (uncontrolled(server)) }
            }
            @if let Some(failure) = failure { p.note { (failure) } }
            div.timeline tabindex="0" role="group" aria-label="timeline" { svg viewBox="0 0 900 86" role="img" aria-label={ "timeline of query " (uncontrolled(&query.query_id)) } {
                @if let Some((from, to)) = ideal {
                    rect.ideal x=(px(axis.x(from))) y="30" width=(px((axis.x(to) - axis.x(from)).max(1.0))) height="24" {}
                }
                line.axis x1=(px(LEFT)) x2=(px(RIGHT)) y1="42" y2="42" {}
                @for (from, to) in downtimes(query) {
                    line.down x1=(px(axis.x(from))) x2=(px(axis.x(to))) y1="42" y2="42" {}
                }
                @for (x, is_replay) in ticks(query, &axis) {
                    line class=(if is_replay { "replay" } else { "token" }) x1=(px(x)) x2=(px(x)) y1="32" y2="52" {}
                }
                @for fault in query.faults.iter().filter(|fault| axis.has(fault.began_s)) {
                    line.fault x1=(px(axis.x(fault.began_s))) x2=(px(axis.x(fault.began_s))) y1="14" y2="62" {
                        title { (uncontrolled(&fault.fault)) }
                    }
                }
                @for (at, name) in marks(query) {
                    @if axis.has(at) {
                        line.call x1=(px(axis.x(at))) x2=(px(axis.x(at))) y1="24" y2="60" { title { (name) } }
                    }
                }
                @for note in query.notes.iter().filter(|note| axis.has(note.at_s)) {
                    line.trouble x1=(px(axis.x(note.at_s))) x2=(px(axis.x(note.at_s))) y1="20" y2="64" {
                        title { (note.event.replace('_', " ")) " " (uncontrolled(&note.text)) }
                    }
                }
                text x=(px(LEFT)) y="80" { (format!("{:.3} s", axis.from)) }
                text x=(px(RIGHT)) y="80" text-anchor="end" { "+" (short(span)) " ms" }
                @for (at, name) in marks(query) {
                    @if axis.has(at) && name != "accepted" { text x=(px(axis.x(at))) y="12" text-anchor=(end(&axis, at)) { (name) } }
                }
            } }
            @if !query.notes.is_empty() {
                ul { @for note in query.notes.iter().take(20) {
                    li { (format!("{:+.1} ms ", (note.at_s - query.due_s) * 1e3)) (note.event.replace('_', " ")) " " (uncontrolled(&note.text)) }
                } }
            }
        }
    }
}

/// Returns where a label is anchored, so that it stays inside the drawing.
fn end(axis: &Axis, at: f64) -> &'static str {
    if axis.x(at) > (LEFT + RIGHT) / 2.0 { "end" } else { "start" }
}

fn marks(query: &StoredQuery) -> Vec<(f64, &'static str)> {
    let end = query.done_s.map(|at| (at, "terminator")).or(Some((query.ended_s, "given up")));
    let accepted = query.accepted_s.map(|at| (at, "accepted"));
    [Some((query.due_s, "due")), accepted, end].into_iter().flatten().collect()
}

/// Returns the times without a socket.
fn downtimes(query: &StoredQuery) -> Vec<(f64, f64)> {
    let (mut times, mut lost) = (Vec::new(), None);
    for note in &query.notes {
        match note.event.as_str() {
            "socket_lost" | "socket_cut" | "socket_ended" => {
                lost.get_or_insert(note.at_s);
            }
            "reconnected" | "socket_opened" => times.extend(lost.take().map(|from| (from, note.at_s))),
            _ => {}
        }
    }
    times.extend(lost.map(|from| (from, query.ended_s)));
    times
}

/// Returns the position of each token, and whether it waited for its socket.
fn ticks(query: &StoredQuery, axis: &Axis) -> Vec<(f64, bool)> {
    let at = |token: &crate::inspect::StoredToken| (axis.x(query.due_s + token.ms / 1e3), token.replay);
    let mut ticks: Vec<_> = query.tokens.iter().map(at).collect();
    if ticks.len() > MOST_TOKENS {
        ticks.dedup_by(|a, b| (a.0 - b.0).abs() < 1.0 && a.1 == b.1);
    }
    ticks
}

//! The frame of the HTML report: order of the sections, style, and the header. The template escapes all text.

use super::{hops, queries, sections, stored::StoredRun};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use settings::plural::noun;

/// Script for the tooltips of charts. Script and style sheet are embedded, so that the report works offline.
pub const POINTER: &str = include_str!("pointer.js");
/// The style sheet of reports.
pub const STYLE: &str = include_str!("style.css");

pub(super) fn render(stored: &StoredRun) -> Markup {
    let body = html! {
        (head(stored))
        (sections::thresholds(stored))
        (sections::findings(stored))
        (sections::delivery(stored))
        (sections::latency(stored))
        (hops::section(stored))
        (sections::load(stored))
        (sections::amendments(stored))
        (sections::generators(stored))
        (sections::disturbances(stored))
        (queries::section(stored))
        (sections::resources(stored))
        (sections::configuration(stored))
    };
    document(&format!("{} · {}", stored.text("verdict"), stored.text("run_id")), &body)
}

/// Returns a page with this body.
pub(super) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                script { (PreEscaped(POINTER)) }
            }
        }
    }
}

fn head(stored: &StoredRun) -> Markup {
    let interrupted = stored.summary.get("interrupted").and_then(serde_json::Value::as_bool) == Some(true);
    let verdict = if interrupted { "INTERRUPTED" } else { stored.text("verdict") };
    let class = match verdict {
        "PASS" => "good",
        "FAIL" => "bad",
        _ => "unsure",
    };
    let facts = [
        ("sessions", stored.number("total_sessions")),
        ("queries", stored.number("queries_total")),
        ("tokens", stored.number("tokens_received")),
        ("tokens/s", stored.number("output_throughput")),
    ];
    let started = stored.text("started_at");
    let (day, time) = started.split_once('T').unwrap_or((started, ""));
    html! {
        header {
            p.run { (stored.text("run_id")) }
            h1 class=(class) { (verdict) }
            p.reason { (stored.text("verdict_reason")) }
            p.facts {
                (day) " " (time.get(..8).unwrap_or_default())
                @if let Some(seconds) = stored.number("duration_s") { " · " (format!("{seconds:.1} s")) }
                @for (name, value) in facts {
                    @if let Some(value) = value { " · " (sections::grouped(value)) " " (noun(value, name)) }
                }
            }
        }
    }
}

//! The rules of the fault matrix: whether a run's summary shows that nothing was lost. Pure functions.

use super::{
    rows::{MOST_RECONNECTS, Row},
    summary::{Injection, Summary},
};
use std::collections::BTreeMap;

/// Returns the rules that the run breaks. `clients` is the number of sessions that were asked for.
pub(super) fn violations(row: &Row, clients: u32, summary: &Summary) -> Vec<String> {
    let mut violations = Vec::new();
    let mut check = |holds: bool, rule: String| {
        if !holds {
            violations.push(rule);
        }
    };
    let Summary { total_sessions, queries_total, queries_ok, .. } = *summary;
    check(
        total_sessions == u64::from(clients),
        format!("total_sessions is {total_sessions}, expected {clients}"),
    );
    let (injected, expected) = (summary.faults.len(), row.faults());
    check(injected == expected, format!("the summary lists {injected} faults, expected {expected}"));
    for Injection { fault, outcome, detail, unrecovered, .. } in &summary.faults {
        check(outcome == "injected", format!("{fault} was not injected: {detail}"));
        check(*unrecovered == 0, format!("{unrecovered} sessions did not recover from {fault}"));
    }
    if let Some(evidence) = row.evidence {
        check((evidence.holds)(summary), format!("nothing shows the fault: not true that {}", evidence.what));
    }
    let peak = summary.peak_reconnect_rate;
    check(
        peak <= MOST_RECONNECTS,
        format!("peak_reconnect_rate is {peak}, the gateways admit {MOST_RECONNECTS}"),
    );
    for (name, count) in [
        ("tokens_lost", summary.tokens_lost),
        ("tokens_duplicated", summary.tokens_duplicated),
        ("tokens_reordered", summary.tokens_reordered),
        ("announced_gaps", summary.announced_gaps),
    ] {
        check(count == 0, format!("{name} is {count}, expected 0"));
    }
    if row.kills_server() {
        let server_lost = |codes: &BTreeMap<String, u64>| codes.get("server_lost").copied().unwrap_or(0);
        let ended = server_lost(&summary.queries_error_by_code);
        let in_time = summary.faults.first().map_or(0, |fault| server_lost(&fault.error_events));
        check(ended > 0, "no query ended with server_lost".to_owned());
        check(
            ended == in_time,
            format!("{ended} queries ended with server_lost, {in_time} of them within five seconds"),
        );
        check(
            queries_ok + ended == queries_total,
            format!("{queries_ok} queries ok and {ended} server_lost are not all {queries_total}"),
        );
    } else {
        let (ok, expected, received) =
            (summary.successful_sessions, summary.tokens_expected, summary.tokens_received);
        check(ok == total_sessions, format!("{ok} of {total_sessions} sessions are ok"));
        check(queries_ok == queries_total, format!("{queries_ok} of {queries_total} queries are ok"));
        check(received == expected, format!("{received} of {expected} tokens were received"));
    }
    violations
}

/// The head of the table.
pub(super) const HEAD: &str = "\
| fault | sessions ok | tokens expected | received once | lost | duplicated | reordered | announced gaps | longest gap | time to recover | peak reconnects | holds |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// Returns the row's line of the table.
pub(super) fn line(name: &str, summary: &Summary, holds: bool) -> String {
    let recovery = summary.faults.first().and_then(|fault| fault.time_to_recover_ms);
    let cells = [
        name.to_owned(),
        format!("{} of {}", summary.successful_sessions, summary.total_sessions),
        summary.tokens_expected.to_string(),
        summary.tokens_received.to_string(),
        summary.tokens_lost.to_string(),
        summary.tokens_duplicated.to_string(),
        summary.tokens_reordered.to_string(),
        summary.announced_gaps.to_string(),
        seconds(summary.longest_token_gap_ms),
        seconds(recovery),
        format!("{}/s", summary.peak_reconnect_rate),
        if holds { "yes" } else { "**no**" }.to_owned(),
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn seconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "–".to_owned(), |ms| format!("{} s", (ms / 10.0).round() / 100.0))
}

/// Returns the document with the table between its markers, or `None` if the markers are missing.
pub(super) fn with_table(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once("<!-- matrix -->\n")?;
    let (_, after) = rest.split_once("<!-- end of matrix -->")?;
    Some(format!("{before}<!-- matrix -->\n{table}<!-- end of matrix -->{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::rows::{self, Load};
    use serde::Deserialize;
    use serde_json::{Value, json};

    const CLIENTS: u32 = 100;

    fn row(name: &str) -> Row {
        rows::all(Load::quick(CLIENTS)).into_iter().find(|row| row.name == name).unwrap()
    }

    fn fault() -> Value {
        json!({
            "fault": "the fault", "outcome": "injected", "detail": "as ordered", "unrecovered": 0,
            "time_to_recover_ms": 400.4, "error_events": {}
        })
    }

    /// Returns the summary of a run in which everything arrived.
    fn complete(faults: usize) -> Value {
        json!({
            "total_sessions": 100, "successful_sessions": 100, "queries_total": 200, "queries_ok": 200,
            "queries_error": 0, "queries_error_by_code": {}, "tokens_expected": 10000, "tokens_received": 10000,
            "tokens_lost": 0, "tokens_duplicated": 0, "tokens_reordered": 0, "announced_gaps": 0,
            "sockets_cut": 0, "sessions_stalled": 0, "longest_token_gap_ms": 123.4, "peak_reconnect_rate": 0,
            "reconnects_by_close_code": {}, "faults": vec![fault(); faults]
        })
    }

    /// Returns the summary with a value changed, for example at `/faults/0/outcome`.
    fn changed(mut summary: Value, path: &str, value: impl Into<Value>) -> Value {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = summary.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list[key.parse::<usize>().unwrap()] = value.into(),
            None => parent[key] = value.into(),
        }
        summary
    }

    fn judged(name: &str, summary: &Value) -> Vec<String> {
        violations(&row(name), CLIENTS, &Summary::deserialize(summary).unwrap())
    }

    #[test]
    fn a_complete_run_holds() {
        assert_eq!(judged("HAProxy reload", &complete(1)), [""; 0]);
        assert_eq!(judged("Redis data lost, a server starts 1 s later", &complete(2)), [""; 0]);
        assert_eq!(judged("no fault, clients of the old contract", &complete(0)), [""; 0]);
    }

    #[test]
    fn each_rule_is_broken_by_one_figure() {
        for (path, value, rule) in [
            ("/total_sessions", json!(99), "total_sessions is 99, expected 100"),
            ("/faults", json!([]), "the summary lists 0 faults, expected 1"),
            ("/faults/0/outcome", json!("failed"), "the fault was not injected: as ordered"),
            ("/faults/0/unrecovered", json!(3), "3 sessions did not recover from the fault"),
            ("/peak_reconnect_rate", json!(661), "peak_reconnect_rate is 661, the gateways admit 660"),
            ("/tokens_lost", json!(1), "tokens_lost is 1, expected 0"),
            ("/tokens_duplicated", json!(2), "tokens_duplicated is 2, expected 0"),
            ("/tokens_reordered", json!(3), "tokens_reordered is 3, expected 0"),
            ("/announced_gaps", json!(4), "announced_gaps is 4, expected 0"),
            ("/successful_sessions", json!(98), "98 of 100 sessions are ok"),
            ("/queries_ok", json!(199), "199 of 200 queries are ok"),
            ("/tokens_received", json!(9999), "9999 of 10000 tokens were received"),
        ] {
            let broken = judged("HAProxy reload", &changed(complete(1), path, value));
            assert!(broken.iter().any(|found| found == rule), "{path}: {broken:?}");
            // Fewer sessions than expected break the rule about sessions, too.
            assert!(broken.len() == 1 || path == "/total_sessions", "{path}: {broken:?}");
        }
    }

    #[test]
    fn a_killed_server_may_end_its_own_queries_only() {
        let name = "server SIGKILL";
        let mut killed = complete(1);
        for (path, value) in [
            ("/successful_sessions", json!(60)),
            ("/queries_ok", json!(160)),
            ("/queries_error", json!(40)),
            ("/queries_error_by_code", json!({ "server_lost": 40 })),
            ("/tokens_received", json!(9000)),
            ("/faults/0/error_events", json!({ "server_lost": 40 })),
        ] {
            killed = changed(killed, path, value);
        }
        assert_eq!(judged(name, &killed), [""; 0]);
        assert!(judged("server SIGTERM", &killed).len() >= 3, "another row must be complete");
        for (path, value, rule) in [
            (
                "/faults/0/error_events",
                json!({ "server_lost": 39 }),
                "40 queries ended with server_lost, 39 of them within five seconds",
            ),
            ("/queries_ok", json!(159), "159 queries ok and 40 server_lost are not all 200"),
            ("/tokens_lost", json!(1), "tokens_lost is 1, expected 0"),
            ("/queries_error", json!(0), "nothing shows the fault: not true that queries_error is above 0"),
        ] {
            assert_eq!(judged(name, &changed(killed.clone(), path, value)), [rule], "{path}");
        }
        let nothing = changed(killed, "/queries_error_by_code", json!({}));
        assert!(judged(name, &nothing).contains(&"no query ended with server_lost".to_owned()));
    }

    /// A row needs the figures that prove its fault, and a figure just below them is not enough.
    #[test]
    fn each_row_needs_its_evidence() {
        let codes = |code: &str, count: u64| json!({ code: count });
        for (name, path, least, too_little) in [
            ("client cuts 10 % of its sockets a second", "/sockets_cut", json!(51), json!(50)),
            ("wsproxy SIGKILL", "/reconnects_by_close_code", codes("none", 1), codes("cut", 9)),
            ("wsproxy SIGTERM", "/reconnects_by_close_code", codes("1012", 1), codes("none", 9)),
            (
                "rolling restart of all proxies",
                "/reconnects_by_close_code",
                codes("1012", 50),
                codes("1012", 49),
            ),
            (
                "HAProxy killed and restarted",
                "/reconnects_by_close_code",
                codes("none", 50),
                codes("none", 49),
            ),
            ("Redis paused 5 s", "/longest_token_gap_ms", json!(4500.1), json!(4500)),
            ("Redis refuses writes for 0.3 s", "/longest_token_gap_ms", json!(250.1), json!(250)),
            ("Redis demoted and promoted", "/longest_token_gap_ms", json!(2500.1), json!(2500)),
            ("Redis full for 3 s", "/longest_token_gap_ms", json!(2500.1), Value::Null),
            ("a link half-open for 10 s", "/longest_token_gap_ms", json!(3000.1), json!(3000)),
            ("50 readers stalled for 10 s", "/sessions_stalled", json!(1), json!(0)),
        ] {
            let summary = |value| changed(complete(row(name).faults()), path, value);
            assert_eq!(judged(name, &summary(least)), [""; 0], "{name}");
            let broken = judged(name, &summary(too_little));
            assert!(
                matches!(broken.as_slice(), [only] if only.starts_with("nothing shows the fault")),
                "{name}"
            );
        }
        let storm = changed(complete(1), "/reconnects_by_close_code", json!({ "none": 40 }));
        assert_eq!(judged("wsproxy SIGKILL", &changed(storm.clone(), "/peak_reconnect_rate", 440)), [""; 0]);
        assert_eq!(judged("wsproxy SIGKILL", &changed(storm, "/peak_reconnect_rate", 441)).len(), 1);
    }

    #[test]
    fn the_table_has_a_line_per_row() {
        let columns = |line: &str| line.matches('|').count();
        let summary = Summary::deserialize(&complete(1)).unwrap();
        let held = line("wsproxy SIGKILL", &summary, true);
        assert_eq!(
            held,
            "| wsproxy SIGKILL | 100 of 100 | 10000 | 10000 | 0 | 0 | 0 | 0 | 0.12 s | 0.4 s | 0/s | yes |\n"
        );
        assert!(HEAD.lines().all(|head| columns(head) == columns(&held)));
        let summary =
            Summary::deserialize(&changed(complete(0), "/longest_token_gap_ms", Value::Null)).unwrap();
        assert!(line("x", &summary, false).ends_with("| – | – | 0/s | **no** |\n"));
    }

    #[test]
    fn the_table_replaces_the_old_one() {
        let document = "a\n<!-- matrix -->\nold\nold\n<!-- end of matrix -->\nb\n";
        let written = with_table(document, "new\n").unwrap();
        assert_eq!(written, "a\n<!-- matrix -->\nnew\n<!-- end of matrix -->\nb\n");
        assert_eq!(with_table("a\n<!-- matrix -->\n", "new\n"), None);
    }
}

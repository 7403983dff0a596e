//! Frames and events that should not arrive on a socket. Each kind is counted and appears in the outputs. Each fails the run, except
//! events of an unknown type.

mod fake;
mod runs;

use client::cli::RunArgs;
use fake::{Action, Extra, Running, Script};
use plan::Stop;
use runs::{args, check, everything_came, read_summary, run};
use serde_json::Value;

/// Runs `queries` queries in one session against `script`. Returns the summary, and every output with its name.
fn played(script: Script, queries: i64, change: impl FnOnce(&mut RunArgs)) -> (Value, Vec<(String, String)>) {
    let server = Running::start(script);
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(&server, dir.path(), 1, queries);
    args.query_timeout = Some(10.0.into());
    args.out = Some("json".into());
    change(&mut args);
    let finished = run(args, &Stop::default()).unwrap();
    let mut outputs = vec![("text".to_owned(), finished.text(400))];
    for ending in [".csv", "_summary.json", "_junit.xml", "_summary.md", "_report.html", "_events.ndjson"] {
        let path = dir.path().join(format!("loadtest_20261121_000000{ending}"));
        outputs.push((ending.to_owned(), std::fs::read_to_string(path).unwrap()));
    }
    let index = std::fs::read_to_string(dir.path().join("index.jsonl")).unwrap();
    outputs.push(("index.jsonl".to_owned(), index));
    (read_summary(dir.path()), outputs)
}

#[test]
fn each_kind_is_counted_judged_and_shown_everywhere() {
    const FOREIGN: &str =
        r#"{"id":"99999999999999-1","type":"token","content":"theirs","query_id":"EXAMPLE"}"#;
    let kinds: [(&str, Extra); 5] = [
        ("events_foreign", |n| (n == 5).then_some(FOREIGN)),
        ("frames_unreadable", |n| (n == 5).then_some("<EXAMPLE>502")),
        ("frames_unreadable", |n| (n == 5).then_some(r#"{"type":"token","content":"EXAMPLE"}"#)),
        ("frames_binary", |n| (n == 5).then_some("\0EXAMPLE")),
        ("events_unknown_type", |n| (n == 5).then_some(r#"{"type":"EXAMPLE"}"#)),
    ];
    let example = "EXAMPLE";
    for (figure, extra) in kinds {
        let (summary, outputs) = played(Script { extra, ..Script::default() }, 1, |_| {});
        let judged = figure != "events_unknown_type";
        check(&summary, &[(figure, 1), ("tokens_received", 18), ("queries_ok", u64::from(!judged))]);
        if judged {
            assert_eq!(summary["verdict"], "FAIL", "{figure}: {summary:#}");
            assert!(summary["verdict_reason"].as_str().unwrap().contains(example), "{summary:#}");
        } else {
            everything_came(&summary, 1, 1, 18);
        }
        for (output, text) in outputs.iter().filter(|(output, _)| judged || output != "_junit.xml") {
            // The HTML report allows line breaks after the underscores of a long name.
            assert!(text.replace("<wbr>", "").contains(figure), "{figure} is missing in {output}: {text}");
            let shown = text.contains(example) || ["index.jsonl", "_report.html"].contains(&output.as_str());
            assert!(shown, "{figure} has no example in {output}: {text}");
        }
    }
}

#[test]
fn every_rule_is_in_every_output_of_a_good_run() {
    let (summary, outputs) = played(Script::default(), 2, |_| {});
    everything_came(&summary, 1, 2, 18);
    check(&summary, &[("contents_unverified", 0), ("tokens_unsent", 0)]);
    let rules = [
        "tokens_lost",
        "tokens_duplicated",
        "tokens_reordered",
        "tokens_unannounced",
        "events_foreign",
        "events_duplicated",
        "events_reordered",
        "events_after_terminator",
        "frames_unreadable",
        "frames_binary",
    ];
    for (output, text) in &outputs {
        for rule in rules {
            assert!(text.contains(rule), "{rule} is missing in {output}: {text}");
        }
        let corrupt = if [".csv", "_events.ndjson"].contains(&output.as_str()) {
            "verified"
        } else {
            "queries_corrupt"
        };
        assert!(text.contains(corrupt), "{corrupt} is missing in {output}: {text}");
    }
    let ok = |threshold: &Value| threshold["ok"] == true;
    assert!(summary["thresholds"].as_array().unwrap().iter().all(ok), "{summary:#}");
}

#[test]
fn contents_are_compared_with_the_digest() {
    let garbled =
        Script { edit: |n| if n == 20 { Action::Garble } else { Action::Send }, ..Script::default() };
    let (corrupt, outputs) = played(garbled, 2, |_| {});
    check(
        &corrupt,
        &[("queries_corrupt", 1), ("queries_ok", 1), ("queries_incomplete", 1), ("tokens_lost", 0)],
    );
    assert_eq!(corrupt["verdict"], "FAIL", "{corrupt:#}");
    assert!(outputs[0].1.contains("✗ queries_corrupt==0"), "{}", outputs[0].1);
    assert!(outputs[1].1.contains(",corrupt,"), "{}", outputs[1].1);
    let (unverified, outputs) = played(Script { digest: false, ..Script::default() }, 2, |_| {});
    everything_came(&unverified, 1, 2, 18);
    check(&unverified, &[("queries_corrupt", 0), ("contents_unverified", 2)]);
    assert!(outputs[0].1.contains("? queries_corrupt==0"), "{}", outputs[0].1);
    assert!(outputs[0].1.to_lowercase().contains("2 of 2 complete queries"), "{}", outputs[0].1);
}

#[test]
fn a_damaged_digest_is_corrupt_and_a_foreign_one_verifies_nothing() {
    let damaged = Script { digest_as: Some(r#""zzzzzzzzzzzzzzzz""#), ..Script::default() };
    let (summary, outputs) = played(damaged, 2, |_| {});
    check(&summary, &[("queries_corrupt", 2), ("queries_ok", 0), ("tokens_lost", 0)]);
    assert_eq!(summary["verdict"], "FAIL", "{summary:#}");
    assert!(
        summary["integrity_examples"]["queries_corrupt"].as_str().unwrap().contains("zzzz"),
        "{summary:#}"
    );
    assert!(outputs[0].1.contains("✗ queries_corrupt==0"), "{}", outputs[0].1);
    for foreign in
        [r#""sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=""#, "7", "null", r#"{"sha1":"x"}"#]
    {
        let (summary, _) = played(Script { digest_as: Some(foreign), ..Script::default() }, 1, |_| {});
        everything_came(&summary, 1, 1, 18);
        check(&summary, &[("queries_corrupt", 0), ("contents_unverified", 1)]);
    }
}

/// The second of two queries loses a token or gets one twice, so only the first query contributes latencies. In a further run
/// both queries end with an error, and neither contributes any.
#[test]
fn a_query_that_fails_contributes_to_no_latency() {
    for edit in [
        |n| if n == 30 { Action::Drop } else { Action::Send },
        |n| {
            if n == 30 { Action::Double } else { Action::Send }
        },
    ] {
        let (summary, _) = played(Script { edit, ..Script::default() }, 2, |_| {});
        check(&summary, &[("queries_ok", 1), ("queries_incomplete", 1), ("stall_count", 0)]);
        assert_eq!(summary["metrics"]["itl_ms"]["count"], 17, "{summary:#}");
        assert!(
            summary["metrics"]["frame_gap_ms"]["count"].as_u64().is_some_and(|gaps| gaps <= 17),
            "{summary:#}"
        );
        assert_eq!(summary["metrics"]["delivery_ms"]["count"], 19, "tokens and terminator: {summary:#}");
    }
    let (summary, _) = played(Script { error: Some("broken"), ..Script::default() }, 2, |_| {});
    check(&summary, &[("queries_ok", 0), ("queries_error", 2), ("tokens_received", 36)]);
    assert!(summary["metrics"].get("itl_ms").is_none(), "{summary:#}");
}

#[test]
fn contents_are_compared_across_a_reconnect() {
    for close in [(5, 1011, "again"), (5, 0, "")] {
        let (summary, _) = played(Script { close: Some(close), ..Script::default() }, 2, |_| {});
        everything_came(&summary, 1, 2, 18);
        check(&summary, &[("contents_unverified", 0), ("total_successful_reconnects", 1)]);
    }
}

/// Frames as servers of other projects send them. The files have one frame per line.
#[test]
fn frames_of_other_servers() {
    let script = |frames| Script { old_contract: true, frames: Some(frames), ..Script::default() };
    let (summary, outputs) = played(
        script(concat!(include_str!("data/frames_unreadable.jsonl"), "{\"type\":\"done\"}")),
        1,
        |_| {},
    );
    check(&summary, &[("queries_ok", 0), ("queries_incomplete", 1), ("frames_unreadable", 2)]);
    assert_eq!(summary["integrity_examples"]["frames_unreadable"], "<html>502 Bad Gateway</html>");
    assert!(outputs[0].1.contains("<html>502 Bad Gateway</html>"), "{}", outputs[0].1);
    assert_eq!(summary["verdict"], "FAIL", "{summary:#}");
    let (summary, _) = played(script(include_str!("data/frames_readable.jsonl")), 1, |_| {});
    check(
        &summary,
        &[("queries_ok", 1), ("tokens_received", 3), ("tokens_unverified", 3), ("frames_unreadable", 0)],
    );
    assert_eq!(summary["integrity"], "unverified");
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
}

/// An error terminator ends the stream early. The tokens after it count as unsent, and a missing token before it counts as lost.
#[test]
fn what_an_error_cuts_off_is_unsent() {
    const FRAMES: &str = concat!(
        r#"{"id":"1-1","type":"token","content":"a"}"#,
        "\n",
        r#"{"id":"1-3","type":"token","content":"c"}"#,
        "\n",
        r#"{"id":"1-4","type":"error","code":"gone","message":"early"}"#,
    );
    let (summary, _) = played(Script { frames: Some(FRAMES), ..Script::default() }, 1, |_| {});
    check(
        &summary,
        &[
            ("tokens_expected", 18),
            ("tokens_received", 2),
            ("tokens_lost", 1),
            ("tokens_unsent", 15),
            ("queries_error", 1),
        ],
    );
}

#[test]
fn nothing_created_is_nothing_measured() {
    let refuse = [("create", vec![(403, None); 10])];
    let server = Running::start(Script { refuse: refuse.into(), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let finished = run(args(&server, dir.path(), 2, 2), &Stop::default()).unwrap();
    let (summary, text) = (read_summary(dir.path()), finished.text(120));
    assert_eq!((&summary["integrity"], &summary["verdict"]), (&"not measured".into(), &"FAIL".into()));
    assert!(text.contains("? tokens_lost==0") && !text.contains("✓ "), "{text}");
}

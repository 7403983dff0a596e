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

/// Returns the script of a server that sends four tokens per frame.
fn rolling() -> Script {
    Script { rollup: Some(4), ..Script::default() }
}

fn asks(args: &mut RunArgs) {
    args.rollup_ms = Some(40);
}

/// Changes the parts of a rolled frame. `change` gets its first and last sequence numbers and the arrays.
fn edited(frame: &str, change: impl Fn(&mut u64, &mut [&mut Vec<Value>; 3])) -> Vec<String> {
    let mut json: Value = serde_json::from_str(frame).unwrap();
    let (generation, seq) = json["first"].as_str().unwrap().split_once('-').unwrap();
    let (generation, mut first) = (generation.to_owned(), seq.parse().unwrap());
    let mut arrays = ["content", "due_us", "sent_us"].map(|name| json[name].as_array().unwrap().clone());
    let [contents, due_us, sent_us] = &mut arrays;
    change(&mut first, &mut [contents, due_us, sent_us]);
    json["first"] = format!("{generation}-{first}").into();
    let [contents, due_us, sent_us] = arrays;
    (json["content"], json["due_us"], json["sent_us"]) = (contents.into(), due_us.into(), sent_us.into());
    vec![json.to_string()]
}

#[test]
fn rolled_tokens_are_counted_and_measured_one_by_one() {
    let server = Running::start(rolling());
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(&server, dir.path(), 1, 2);
    asks(&mut args);
    let finished = run(args, &Stop::default()).unwrap();
    let (summary, text) = (read_summary(dir.path()), finished.text(120));
    everything_came(&summary, 1, 2, 18);
    check(
        &summary,
        &[("frames_rolled", 8), ("tokens_rolled", 32), ("queries_corrupt", 0), ("contents_unverified", 0)],
    );
    assert_eq!(summary["verdict"], "PASS", "{summary:#}");
    assert_eq!(summary["config"]["rollup_ms"], 40);
    assert_eq!(summary["metrics"]["itl_ms"]["count"], 34, "{summary:#}");
    assert_eq!(summary["metrics"]["delivery_ms"]["count"], 38, "tokens and terminators: {summary:#}");
    let gaps = summary["metrics"]["frame_gap_ms"]["count"].as_u64().unwrap();
    assert!(gaps <= 10, "six reads carry tokens of a query: {gaps}");
    assert!(text.contains("tokens_rolled") && text.contains("32  in 8 frames"), "{text}");
    let paths: Vec<_> = server.seen().heads.into_iter().map(|(target, _)| target).collect();
    assert!(paths.iter().any(|path| path.ends_with("?rollup=40")), "{paths:?}");
}

#[test]
fn a_defect_inside_a_rolled_frame_is_found() {
    type Case = (&'static str, fake::RolledEdit, &'static [(&'static str, u64)]);
    let cases: [Case; 9] = [
        (
            "a token is missing, and the frame has one position too many",
            |n, frame| match n {
                2 => edited(&frame, |_, arrays| arrays.iter_mut().for_each(|array| _ = array.remove(1))),
                _ => vec![frame],
            },
            &[("frames_unreadable", 1), ("tokens_lost", 4)],
        ),
        (
            "a token is missing, and the frame begins later",
            |n, frame| match n {
                2 => edited(&frame, |first, arrays| {
                    *first += 1;
                    arrays.iter_mut().for_each(|array| _ = array.remove(0));
                }),
                _ => vec![frame],
            },
            &[("tokens_lost", 1), ("frames_unreadable", 0)],
        ),
        (
            "a text is missing",
            |n, frame| match n {
                2 => edited(&frame, |_, [contents, ..]| _ = contents.remove(2)),
                _ => vec![frame],
            },
            &[("frames_unreadable", 1), ("tokens_lost", 4)],
        ),
        (
            "a time is missing",
            |n, frame| match n {
                2 => edited(&frame, |_, [_, _, sent_us]| _ = sent_us.remove(2)),
                _ => vec![frame],
            },
            &[("frames_unreadable", 1), ("tokens_lost", 4)],
        ),
        (
            "a token is doubled, and the frame has one position too few",
            |n, frame| match n {
                2 => edited(&frame, |_, arrays| {
                    arrays.iter_mut().for_each(|array| array.insert(1, array[1].clone()));
                }),
                _ => vec![frame],
            },
            &[("frames_unreadable", 1), ("tokens_lost", 4)],
        ),
        (
            "the last token of the frame before comes again",
            |n, frame| match n {
                2 => edited(&frame, |first, arrays| {
                    *first -= 1;
                    arrays.iter_mut().for_each(|array| array.insert(0, array[0].clone()));
                }),
                _ => vec![frame],
            },
            &[("tokens_duplicated", 1), ("tokens_lost", 0)],
        ),
        (
            "two texts are swapped",
            |n, frame| match n {
                2 => edited(&frame, |_, [contents, ..]| contents.swap(1, 2)),
                _ => vec![frame],
            },
            &[("queries_corrupt", 1), ("tokens_lost", 0)],
        ),
        (
            "the frame comes twice",
            |n, frame| if n == 2 { vec![frame.clone(), frame] } else { vec![frame] },
            &[("tokens_duplicated", 4), ("tokens_lost", 0)],
        ),
        (
            "the frame does not come",
            |n, frame| if n == 2 { Vec::new() } else { vec![frame] },
            &[("tokens_lost", 4), ("tokens_reordered", 0)],
        ),
    ];
    for (what, rolled, figures) in cases {
        let (summary, _) = played(Script { rolled, ..rolling() }, 1, |args| {
            asks(args);
            args.query_timeout = Some(1.0.into());
        });
        check(&summary, figures);
        assert_eq!(summary["verdict"], "FAIL", "{what}: {summary:#}");
    }
}

#[test]
fn a_gateway_that_rolls_tokens_up_without_being_asked_is_found() {
    let (summary, _) = played(rolling(), 1, |args| args.query_timeout = Some(1.0.into()));
    check(&summary, &[("events_unknown_type", 4), ("tokens_lost", 16), ("frames_rolled", 0)]);
    assert_eq!(summary["verdict"], "FAIL", "{summary:#}");
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

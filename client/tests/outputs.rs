//! The result files and the printed text of a run, from records that the tests write by hand.
//! The records are the only input: the tests use neither the engine nor a socket.

mod records;

use measure::{
    FaultLog, FaultStatus, QuerySamples,
    record::{LossCause, QueryRecord, QueryStatus, Reconnect, SessionRecord},
};
use protocol::EventCounts;
use records::{
    bad_run, good_run, info, ms, open, open_with, query, read, session, settings, summary, unasked,
};
use report::output::{Criteria, Destination, EventSettings, OutputSettings, Results, RunInfo};
use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc, time::Duration};

/// Checks that no line is wider than the terminal, at usual widths.
#[track_caller]
fn fits(text: impl Fn(usize) -> String) {
    for columns in [60, 80, 120, 200] {
        let text = text(columns);
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
    }
}

#[test]
fn a_good_run() {
    let dir = tempfile::tempdir().unwrap();
    let finished = good_run(dir.path());
    assert_eq!(finished.exit_code(), 0);
    assert!(finished.files.iter().all(|file| file.exists()), "{:?}", finished.files);
    fits(|columns| finished.text(columns));
    insta::assert_snapshot!("good_text_60", finished.text(60));
    insta::assert_snapshot!("good_text", finished.text(80));
    insta::assert_json_snapshot!("good_summary", summary(dir.path()), { ".host" => "[host]", ".versions" => "[versions]" });
    insta::assert_snapshot!("good_csv", read(dir.path(), ".csv"));
    insta::assert_snapshot!("good_history", read(dir.path(), "_history.csv"));
}

#[test]
fn a_bad_run() {
    let dir = tempfile::tempdir().unwrap();
    let finished = bad_run(dir.path());
    assert_eq!(finished.exit_code(), 99);
    assert!(!finished.text(80).contains('\x1b'), "{}", finished.text(80));
    fits(|columns| finished.text(columns));
    insta::assert_snapshot!("bad_text_60", finished.text(60));
    insta::assert_snapshot!("bad_text", finished.text(80));
    insta::assert_snapshot!("bad_text_120", finished.text(120));
    insta::assert_snapshot!("bad_csv", read(dir.path(), ".csv"));
    insta::assert_snapshot!("bad_stats", read(dir.path(), "_stats.csv"));
    insta::assert_snapshot!("bad_failures", read(dir.path(), "_failures.csv"));
    assert_eq!(summary(dir.path())["tokens_lost"], 2);
}

#[test]
fn a_server_of_the_old_contract_is_unverified() {
    let dir = tempfile::tempdir().unwrap();
    let results = open(dir.path());
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    let old = QueryRecord { tokens_expected: None, ideal_ttft: None, ideal_e2el: None, ..query(0, 1, 100) };
    recorder.session_ended(SessionRecord { old_contract: true, ..session(0, 90, 1_100) }, vec![old]);
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&info()).unwrap();
    assert_eq!(finished.exit_code(), 0);
    assert!(finished.judgement().reason.contains("unverified"), "{}", finished.judgement().reason);
    assert!(finished.text(80).contains("? tokens_lost==0"), "{}", finished.text(80));
    let summary = summary(dir.path());
    assert_eq!(summary["integrity"], "unverified");
    let lost = &summary["thresholds"][0];
    assert_eq!(
        (&lost["ok"], &lost["value"]),
        (&serde_json::Value::Null, &0.0.into()),
        "the threshold must not be judged"
    );
    assert!(lost["reason"].as_str().unwrap().contains("does not number its events"), "{lost}");
    assert_eq!(summary["delivery_ratio"], serde_json::Value::Null);
}

#[test]
fn what_an_interruption_cut_off_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let results = open(dir.path());
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    let cut = QueryRecord {
        done: None,
        status: QueryStatus::Abandoned,
        tally: EventCounts { tokens_received: 4, ..EventCounts::default() },
        ..query(0, 1, 100)
    };
    recorder.session_ended(SessionRecord { ok: false, cut_off: true, ..session(0, 90, 500) }, vec![cut]);
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&RunInfo { interrupted: true, ..info() }).unwrap();
    assert_eq!((finished.exit_code(), finished.headline()), (105, "INTERRUPTED"));
    assert!(finished.text(80).starts_with("  INTERRUPTED  "), "{}", finished.text(80));
    assert!(!finished.text(80).contains("FAIL"), "{}", finished.text(80));
    assert_eq!(finished.judgement().reason, "Nothing was measured: no query was complete.");
    assert_eq!(summary(dir.path())["tokens_lost"], 0);
    assert_eq!(summary(dir.path())["tokens_cut_off"], 14);
    assert!(finished.text(80).contains("The run was interrupted."), "{}", finished.text(80));
}

#[test]
fn the_latency_log_reads_back_and_adds_up() {
    use hdrhistogram::serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    };
    let dir = tempfile::tempdir().unwrap();
    good_run(dir.path());
    let log = read(dir.path(), "_latency.hlog");
    let (mut tags, mut ttft, mut last) = (BTreeSet::new(), 0, Duration::ZERO);
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let tag = interval.tag().unwrap().as_str().to_owned();
            assert!(interval.start_timestamp() >= last, "{tag}");
            last = interval.start_timestamp();
            if tag == "ttft" {
                let bytes = base64(interval.encoded_histogram());
                let histogram: hdrhistogram::Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                ttft += histogram.len();
            }
            tags.insert(tag);
        }
    }
    assert_eq!(ttft, 4);
    insta::assert_snapshot!(
        "hlog_header",
        log.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n")
    );
    insta::assert_debug_snapshot!("hlog_tags", tags);
}

/// Decodes standard base64.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|&byte| byte != b'=') {
        let value = ALPHABET.iter().position(|&letter| letter == byte).unwrap();
        bits = (bits << 6) | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    out
}

#[test]
fn rows_are_whole_on_disk_while_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let results = open(dir.path());
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    assert_eq!(read(dir.path(), ".csv").lines().count(), 1, "the header must be written at the start");
    let queries = (1..=1_000).map(|num| query(0, num, 100)).collect();
    recorder.session_ended(session(0, 90, 1_100), queries);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while read(dir.path(), ".csv").lines().count() < 1_001 {
        assert!(std::time::Instant::now() < end, "the rows were not written in time");
        std::thread::yield_now();
    }
    drop(recorder);
    generator.finish().unwrap();
    results.finish(&info()).unwrap();
    let path: PathBuf = dir.path().join("loadtest_20261121_004509.csv");
    let text = report::output::analyze(&[path.clone(), path], 80).unwrap();
    assert!(text.contains("queries...................: 2000"), "{text}");
}

/// The rows of a session with thousands of queries must not stay in memory until its end, and must not be counted twice.
#[test]
fn rows_of_a_long_session_do_not_wait_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let results = open(dir.path());
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    let so_far = || SessionRecord { close: None, reconnect_attempts: 1, ok: false, ..session(0, 90, 1_000) };
    (1..=250).for_each(|num| recorder.query_ended(query(0, num, 100), &QuerySamples::default(), so_far));
    recorder.session_ended(
        SessionRecord { reconnect_attempts: 2, ..session(0, 90, 1_100) },
        vec![query(0, 251, 100)],
    );
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&info()).unwrap();
    assert_eq!(finished.exit_code(), 0);
    let rows = read(dir.path(), ".csv");
    let ends: Vec<_> =
        rows.lines().skip(1).map(|row| row.split(',').skip(6).take(2).collect::<Vec<_>>()).collect();
    assert_eq!((ends.len(), &ends[0], &ends[199]), (251, &vec!["", "1"], &vec!["", "1"]));
    assert!(ends[200..].iter().all(|end| *end == ["0.002000", "2"]), "{:?}", &ends[200..]);
    let summary = summary(dir.path());
    assert_eq!((&summary["queries_ok"], &summary["total_sessions"]), (&251.into(), &1.into()));
    assert_eq!(summary["total_reconnect_attempts"], 2);
}

#[test]
fn every_run_has_a_line_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    good_run(dir.path());
    bad_run(dir.path());
    let index = fs::read_to_string(dir.path().join("index.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["verdict"], &lines[1]["verdict"]), (&"PASS".into(), &"FAIL".into()));
    assert_eq!(lines[1]["run_id"], "loadtest_20261121_004509_2");
    assert_eq!(lines[0]["config_hash"], lines[1]["config_hash"]);
}

#[test]
fn analyze_reads_what_a_run_wrote() {
    let dir = tempfile::tempdir().unwrap();
    bad_run(dir.path());
    let path = dir.path().join("loadtest_20261121_004509.csv");
    let text = |columns| {
        let text = report::output::analyze(std::slice::from_ref(&path), columns).unwrap();
        text.lines().skip(1).collect::<Vec<_>>().join("\n")
    };
    fits(text);
    insta::assert_snapshot!("analyze_60", text(60));
    insta::assert_snapshot!("analyze", text(80));
}

#[test]
fn late_queries_are_named_in_the_reason_of_a_pass() {
    let dir = tempfile::tempdir().unwrap();
    let results = open(dir.path());
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    let outage = QueryRecord { held_up: ms(3_100), ..query(0, 2, 1_100) };
    recorder.query_ended(query(0, 1, 100), &QuerySamples::default(), unasked);
    recorder.query_ended(outage, &QuerySamples::default(), unasked);
    recorder.session_ended(session(0, 90, 2_100), Vec::new());
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&info()).unwrap();
    let reason = "All 2 queries were complete and in order; 1 of 2 was late, by up to 3.1 s.";
    assert_eq!((finished.exit_code(), finished.judgement().reason.as_str()), (0, reason));
}

#[test]
fn events_are_lines_and_the_last_is_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(FaultLog::new([("wsproxy-1:kill", ms(400))]));
    let config = serde_json::json!({ "token": "redacted" });
    let wanted = EventSettings { destination: Destination::Results, config, seed: 7 };
    let settings = OutputSettings { events: Some(wanted), ..settings(dir.path(), Criteria::default()) };
    let results = Results::open(&settings, Arc::clone(&log)).unwrap();
    log.begin(0, ms(100), ms(500));
    log.end(0, Some(ms(510)), FaultStatus::Injected("process 1 is gone".into()));
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    recorder.reconnected(ms(600), 0, Reconnect { cause: LossCause::Closed(4002), gap: ms(90) });
    recorder.query_ended(query(0, 1, 100), &QuerySamples::default(), unasked);
    recorder.session_ended(session(0, 90, 1_900), vec![query(0, 2, 900)]);
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&info()).unwrap();
    assert!(!finished.text(80).contains("events_dropped"), "{}", finished.text(80));
    let lines: Vec<serde_json::Value> =
        read(dir.path(), "_events.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written = lines.len();
    // The number of status events depends on time.
    let mut lines: Vec<_> = lines.into_iter().filter(|line| line["type"] != "status").collect();
    let counted = lines.last().unwrap()["events_written"].as_u64().unwrap();
    let statuses = (written - lines.len()) as u64;
    lines.last_mut().unwrap()["events_written"] = (counted - statuses).into();
    let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    let expected = ["run", "reconnect", "query", "fault", "query", "session", "second", "second", "verdict"];
    assert_eq!(BTreeSet::from_iter(&types), BTreeSet::from_iter(&expected), "{types:?}");
    assert_eq!((types[0], types[types.len() - 1], types.len()), ("run", "verdict", expected.len()));
    assert!(lines.iter().all(|line| line["t"].is_number()));
    for kind in BTreeSet::from(expected) {
        let line = &lines[types.iter().position(|found| *found == kind).unwrap()];
        insta::assert_json_snapshot!(format!("event_{kind}"), line);
    }
    assert_eq!(summary(dir.path())["events"]["written"], written);
    assert_eq!(summary(dir.path())["events"]["dropped"], 0);
}

/// A gateway is killed at two seconds. It affects one query, and the other query ended before.
#[test]
fn a_fault_is_marked_wherever_it_was_felt() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(FaultLog::new([("wsproxy-1:kill", ms(1_900)), ("redis:pause=5s", ms(60_000))]));
    let results = open_with(dir.path(), Arc::clone(&log));
    log.begin(0, ms(100), ms(2_000));
    log.end(0, Some(ms(2_100)), FaultStatus::Injected("process 1 is gone".into()));
    log.end(1, None, FaultStatus::Failed("the run was over before its time".into()));
    log.outage(ms(1_980), ms(3_500));
    log.error_event(ms(2_500), "peer_lost");
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    recorder.reconnect_attempt(ms(2_200));
    recorder.reconnected(ms(2_300), 0, Reconnect { cause: LossCause::Broken, gap: ms(300) });
    let error_code = Some("peer_lost".to_owned());
    let affecting = QueryRecord { error_code, status: QueryStatus::Error, ..query(0, 2, 1_500) };
    recorder.query_ended(query(0, 1, 100), &QuerySamples::default(), unasked);
    recorder.session_ended(session(0, 90, 2_500), vec![affecting]);
    drop(recorder);
    generator.finish().unwrap();
    let finished = results.finish(&RunInfo { faults: log.records(), ..info() }).unwrap();
    assert_eq!(finished.judgement().verdict.name(), "FAIL");
    assert!(finished.judgement().reason.starts_with("1 of 2 queries failed"), "{:?}", finished.judgement());
    fits(|columns| finished.text(columns));
    let rows = read(dir.path(), ".csv");
    let mut reader = csv::Reader::from_reader(rows.as_bytes());
    let column = reader.headers().unwrap().iter().position(|name| name == "fault").unwrap();
    let cells: Vec<_> = reader.records().map(|row| row.unwrap()[column].to_owned()).collect();
    assert_eq!(cells, ["", "wsproxy-1:kill"]);
    let history = read(dir.path(), "_history.csv");
    let row = history.lines().last().unwrap();
    assert!(row.contains(",1,1,0,,wsproxy-1:kill,"), "{row}");
    let summary = summary(dir.path());
    insta::assert_json_snapshot!("faults", summary["faults"]);
    assert_eq!(summary["queries_error_by_code"]["peer_lost"], 1);
    assert_eq!(summary["peak_reconnect_rate"], 1);
    insta::assert_snapshot!("fault_section", finished.text(80).split("\n\n").nth(6).unwrap());
    insta::assert_snapshot!("fault_section_60", finished.text(60).split("\n\n").nth(6).unwrap());
}

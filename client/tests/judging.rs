//! The verdict of runs with thresholds, goodput objectives and a steady state, its place in the outputs, and runs that a broken threshold
//! ends early.

mod fake;
mod records;
mod runs;

use fake::{Running, Script};
use measure::{
    BoundedSample, Objective, Quantity, QuerySamples, Reading,
    record::{LagKind, QueryRecord, QueryStatus, SessionRecord},
};
use plan::{LiveSchedule, Shard, Stop, schedule::Schedule};
use records::{ms, read};
use report::output::{Criteria, Finished, OutputSettings, Results, RunInfo};
use std::{path::Path, sync::Arc, time::Duration};

/// A query of 18 tokens that is sent at `at` and takes `e2el`, both in milliseconds.
fn query(num: u32, at: u64, e2el: u64) -> QueryRecord {
    QueryRecord {
        scheduled: ms(at),
        first_token: Some(ms(at + e2el / 10)),
        last_token: Some(ms(at + e2el)),
        done: Some(ms(at + e2el)),
        ended: ms(at + e2el),
        longest_gap: None,
        ideal_ttft: None,
        ideal_e2el: None,
        ..records::query(0, num, at)
    }
}

fn session(ended: u64, ok: bool) -> SessionRecord {
    SessionRecord { ok, ..records::session(0, 0, ended) }
}

/// Twenty seconds with one query each, of 500 ms, or of 800 ms in the middle ten seconds. One query takes 4 s and one is refused.
fn run(dir: &Path, thresholds: &[&str], goodput: &[&str], stages: Option<&str>) -> Finished {
    let criteria = Criteria {
        thresholds: thresholds.iter().map(|text| text.parse().unwrap()).collect(),
        objectives: goodput.iter().map(|text| text.parse::<Objective>().unwrap()).collect(),
        ..Criteria::default()
    };
    let schedule = stages.map(|stages| Arc::new(Schedule::staged(&stages.parse().unwrap())));
    let settings = OutputSettings {
        schedule: schedule.map(|schedule| LiveSchedule::new(schedule, Shard::WHOLE)),
        ..records::settings(dir, criteria)
    };
    let results = Results::open(&settings, Arc::default()).unwrap();
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    for second in 0..20 {
        let e2el = if (5..15).contains(&second) { 800 } else { 500 };
        let mut query = query(second + 1, u64::from(second) * 1_000, e2el);
        if second == 19 {
            query = QueryRecord { status: QueryStatus::Rejected, done: None, ..query };
        }
        let mut samples = QuerySamples::default();
        samples.itl(BoundedSample::exact(25_000_000), true);
        recorder.token(query.ended);
        recorder.query_ended(query, &samples, || session(24_100, false));
    }
    recorder.query_ended(query(21, 20_000, 4_000), &QuerySamples::default(), || session(24_100, false));
    recorder.session_ended(session(24_100, false), Vec::new());
    drop(recorder);
    generator.finish().unwrap();
    let redis = Reading { quantity: Quantity::RssMb, label: "redis".into(), value: 12.5 };
    results.readings().push(3, vec![redis]);
    let info = RunInfo { elapsed: ms(24_200), ..RunInfo::default() };
    results.finish(&info).unwrap()
}

#[test]
fn thresholds_goodput_and_steady_state_are_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let thresholds = [
        "e2el_ms:p95<3000",
        "e2el_ms{steady}:max<=800",
        "e2el_ms[5s]:max<1000",
        "error_rate<0.1",
        "goodput_share>0.5",
        "rss_mb{redis}<10",
    ];
    let finished = run(dir.path(), &thresholds, &["ttft:60", "e2el:900"], Some("5s:0,0s:9,10s:9,0s:0,6s:0"));
    assert_eq!(finished.exit_code(), 99);
    assert!(finished.text(80).lines().all(|line| line.chars().count() <= 80), "{}", finished.text(80));
    let text = finished.text(80);
    let head: Vec<_> = text.split("\n\n").take(2).collect();
    insta::assert_snapshot!("judged_text", head.join("\n\n"));
    let summary = records::summary(dir.path());
    insta::assert_json_snapshot!(
        "judged_summary",
        [
            &summary["thresholds"],
            &summary["steady"],
            &summary["request_goodput"],
            &summary["goodput_share"],
            &summary["goodput_objectives"],
        ]
    );
    insta::assert_snapshot!("judged_junit", read(dir.path(), "_junit.xml"));
    insta::assert_snapshot!("judged_markdown", read(dir.path(), "_summary.md"));
}

/// One of 21 queries was refused, and its session ended badly.
#[test]
fn without_a_threshold_every_query_and_session_is_judged_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run(dir.path(), &[], &[], None);
    let summary: serde_json::Value = serde_json::from_str(&read(dir.path(), "_summary.json")).unwrap();
    let judged: Vec<_> = summary["thresholds"].as_array().unwrap().iter().skip(11).collect();
    let shown: Vec<_> =
        judged.iter().map(|judged| (judged["threshold"].as_str().unwrap(), &judged["ok"])).collect();
    let no = false.into();
    assert_eq!(shown, [("queries_ok==21", &no), ("sessions_ok==1", &no)]);
    let text = finished.text(80);
    for (name, page) in [
        ("text", text.as_str()),
        ("Markdown", &read(dir.path(), "_summary.md")),
        ("JUnit", &read(dir.path(), "_junit.xml")),
        ("HTML", &read(dir.path(), "_report.html")),
    ] {
        let missing = ["tokens_lost==0", "queries_ok==21", "sessions_ok==1"];
        assert!(missing.iter().all(|threshold| page.contains(threshold)), "{name}: {page}");
    }
}

/// One of 21 queries was refused. Only a limit on failures of the same unit (queries or sessions) replaces the default and allows it.
#[test]
fn a_default_is_replaced_by_a_bound_on_its_own_failures_alone() {
    for (threshold, exit_code, default) in [
        ("e2el_ms:p95<30000", 99, "queries_ok==21"),
        ("tokens_received>0", 99, "queries_ok==21"),
        ("success_rate>=0", 99, "queries_ok==21"),
        ("error_rate{steady}<0.5", 99, "queries_ok==21"),
        ("queries_ok!=3", 99, "queries_ok==21"),
        ("error_rate>0.01", 99, "queries_ok==21"),
        ("error_rate<0.5", 0, "sessions_broken==0"),
        ("error_rate[5s]<=1", 0, "sessions_broken==0"),
        ("queries_failed<=1", 0, "sessions_broken==0"),
        ("queries_ok>=20", 0, "sessions_broken==0"),
        ("error_rate<0.01", 99, "sessions_broken==0"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let finished = run(dir.path(), &[threshold], &[], Some("1s:0,0s:9,14s:9,0s:0,6s:0"));
        assert_eq!(finished.exit_code(), exit_code, "{threshold}: {}", finished.text(80));
        assert!(finished.text(80).contains(default), "{threshold}: {}", finished.text(80));
    }
}

/// All queries were refused, so there is no latency. No threshold can make such a run pass.
#[test]
fn a_run_without_a_complete_query_never_passes() {
    for threshold in ["e2el_ms:p95<500", "error_rate<=1", "queries_ok>=0"] {
        let dir = tempfile::tempdir().unwrap();
        let criteria = Criteria { thresholds: vec![threshold.parse().unwrap()], ..Criteria::default() };
        let results = Results::open(&records::settings(dir.path(), criteria), Arc::default()).unwrap();
        let generator = results.generator(None).unwrap();
        let mut recorder = generator.recorder();
        let failed = QueryRecord { status: QueryStatus::Incomplete, ..query(1, 0, 100) };
        recorder.session_ended(session(200, false), vec![failed]);
        drop(recorder);
        generator.finish().unwrap();
        let finished = results.finish(&RunInfo { elapsed: ms(300), ..RunInfo::default() }).unwrap();
        assert_eq!(finished.exit_code(), 99, "{threshold}: {}", finished.text(80));
        assert!(!records::summary(dir.path())["metrics"].as_object().unwrap().contains_key("e2el_ms"));
    }
}

/// A query times out. If a stall of the generator excuses it, the timeout proves nothing about the system and the run is INVALID.
/// Otherwise the run is FAIL.
#[test]
fn a_timeout_that_a_stall_excuses_makes_the_run_invalid() {
    for (excused, exit_code) in [(false, 99), (true, 98)] {
        let dir = tempfile::tempdir().unwrap();
        let results =
            Results::open(&records::settings(dir.path(), Criteria::default()), Arc::default()).unwrap();
        let generator = results.generator(None).unwrap();
        let mut recorder = generator.recorder();
        recorder.sample(LagKind::LoopLag, 2_000_000_000, ms(90));
        let late = QueryRecord { status: QueryStatus::Timeout, excused, ..query(2, 100, 100) };
        recorder
            .session_ended(SessionRecord { excused, ..session(200, false) }, vec![query(1, 0, 100), late]);
        drop(recorder);
        generator.finish().unwrap();
        let finished = results.finish(&RunInfo { elapsed: ms(300), ..RunInfo::default() }).unwrap();
        assert_eq!(finished.exit_code(), exit_code, "{}", finished.text(80));
    }
}

#[test]
fn a_threshold_that_cannot_be_judged_makes_the_run_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run(dir.path(), &["e2el_ms{steady}:p95<3000", "error_rate<0.5"], &[], None);
    assert_eq!(finished.exit_code(), 98);
    let reason = "The threshold e2el_ms{steady} p(95)<3000 cannot be judged: the run had no steady state of 10 s or more.";
    assert_eq!(finished.judgement().reason, reason);
    assert!(read(dir.path(), "_junit.xml").contains("errors=\"2\""), "errors: verdict and threshold");
}

#[test]
fn thresholds_say_how_many_queries_may_fail() {
    let dir = tempfile::tempdir().unwrap();
    let finished = run(dir.path(), &["error_rate<0.5"], &[], None);
    assert_eq!((finished.exit_code(), finished.headline()), (0, "PASS"), "{}", finished.text(80));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &[], &[], None).exit_code(), 99, "by default every query must be ok");
}

/// The server sends 10 tokens per query, 20 ms apart. Without the threshold, the 40 queries of a session would take eight seconds.
#[test]
fn a_window_that_breaks_its_threshold_ends_the_run() {
    let server = Running::start(Script { tokens: 10, itl: ms(20), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut args = runs::args(&server, dir.path(), 4, 40);
    args.thresholds = vec!["e2el_ms[1s]:p50<50".into()];
    args.abort_on_fail = true;
    args.abort_delay = Some("2s".into());
    let began = std::time::Instant::now();
    let finished = runs::run(args, &Stop::default()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let summary = runs::read_summary(dir.path());
    let reason = &finished.judgement().reason;
    assert!(finished.exit_code() == 99 || reason.contains("lag"), "{reason}");
    assert!(reason.contains("The run was stopped early: e2el_ms[1s] p(50)<50 was broken after"), "{reason}");
    assert_eq!((&summary["interrupted"], &summary["tokens_lost"]), (&false.into(), &0.into()));
    assert!(summary["dropped_iterations"].as_u64().unwrap() > 40, "{summary:#}");
}

/// A binary message arrives in the first second of a run that would take eight seconds.
#[test]
fn a_rule_of_integrity_ends_the_run() {
    let extra: fake::Extra = |n| (n == 25).then_some("\0binary");
    let server = Running::start(Script { tokens: 10, itl: ms(20), extra, ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut args = runs::args(&server, dir.path(), 4, 40);
    args.abort_on_fail = true;
    let finished = runs::run(args, &Stop::default()).unwrap();
    let summary = runs::read_summary(dir.path());
    let reason = &finished.judgement().reason;
    assert_eq!(finished.exit_code(), 99, "{reason}");
    assert!(reason.contains("The run was stopped early: frames_binary==0 was broken after"), "{reason}");
    assert!(summary["dropped_iterations"].as_u64().unwrap() > 40, "{summary:#}");
}

#[test]
fn goodput_of_a_run() {
    let server = Running::start(Script { tokens: 5, ..Script::default() });
    for (objective, share) in [("e2el:5000 tpot:5000", 1.0), ("ttft:5000 e2el:1", 0.0)] {
        let summary = runs::summary(&server, |args| args.goodput = vec![objective.into()], 3, 2);
        assert_eq!(summary["goodput_share"], share, "{objective}");
        let (good, all) = (summary["request_goodput"].as_f64(), summary["request_throughput"].as_f64());
        assert_eq!(good, all.map(|all| all * share), "{objective}");
    }
    let summary = runs::summary(&server, |_| {}, 1, 1);
    assert!(summary.get("request_goodput").is_none(), "no objective was given");
}

use super::*;
use measure::capacity::StepWindow;

const LIMITS: Limits = Limits { from: 8.0, to: 1000.0, unit: 1.0, precision: 0.05, steps: 60 };

fn step(load: f64, outcome: Outcome) -> Step {
    let p99 = if outcome == Outcome::Held { 912.0 } else { 1400.0 };
    Step {
        running: load * 0.98,
        tokens_per_s: load * 20.0,
        queries_per_s: load * 2.0,
        sessions: load,
        seconds: 10,
        e2el_ms: [Some(905.0), Some(p99)],
        ttft_ms: [Some(1.5), Some(4.0)],
        ..StepWindow::default().step(load, outcome, 0, &[], None)
    }
}

fn broken() -> Outcome {
    Outcome::Broken("e2el_ms p(99)=1400, limit 1350".to_owned())
}

fn result(by: Unit, end: End) -> CapacityResult {
    let steps = [
        step(8.0, Outcome::Held),
        step(64.0, Outcome::Held),
        step(128.0, broken()),
        step(99.0, Outcome::Held),
        step(102.0, broken()),
    ];
    let high = if matches!(end, End::GeneratorLimit | End::AboveRange) { None } else { Some(102.4) };
    let ceiling = Ceiling { value: 100.0, low: 97.6, high, confidence: 0.9, noise: 0.012 };
    let search = Search {
        run_id: "capacity_20260101_000000".to_owned(),
        target: "embedded".to_owned(),
        by,
        objectives: vec!["e2el_ms:p99<1.5x".to_owned()],
        step: StepSettings { warm_up_s: 3, window_s: 10, counts_sessions: true },
        limits: LIMITS,
        options: "embedded = true\n".to_owned(),
    };
    let limit = Limit::of(&steps, &ceiling, Some(end), 2.0);
    CapacityResult::new(search, Known { ceiling, end, limit, steps: &steps })
}

#[test]
fn the_text_at_two_widths() {
    insta::assert_snapshot!("capacity_80", result(Unit::Sessions, End::Found).text(80));
    insta::assert_snapshot!("capacity_40", result(Unit::Tokens, End::OutOfTime).text(40));
}

#[test]
fn each_end_has_its_headline_and_exit_code() {
    for (end, headline, code) in [
        (End::Found, "CEILING  The system holds 100 sessions (98 to 102)", 0),
        (End::AboveRange, "ABOVE RANGE  The system holds at least 98 sessions", 0),
        (End::NothingHolds, "FAIL  The objectives do not even hold at the smallest load, 1 sessions.", 99),
        (
            End::GeneratorLimit,
            "INVALID  The generator is the limit: the system holds at least 98 sessions",
            98,
        ),
        (End::OutOfSteps, "INVALID  The steps were not enough for the precision. So far: 100 sessions", 98),
        (
            End::OutOfSteps,
            "Continue with --resume and a larger --max-steps, or accept this interval with",
            98,
        ),
        (End::OutOfTime, "Continue with --resume, or accept this interval with --resume --precision 5.", 98),
        (End::Interrupted, "INTERRUPTED  So far: 100 sessions", 105),
    ] {
        let result = result(Unit::Sessions, end);
        let text = result.text(120);
        assert!(text.contains(headline), "{text}");
        assert_eq!(result.exit_code(), code);
    }
}

#[test]
fn the_files_of_a_search_are_complete_and_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let written = result(Unit::Tokens, End::Found);
    let files = crate::capacity_files::write(&written, &dir.path().join("capacity_1")).unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(CapacityResult::read(&files[0]).unwrap(), written);
    let rows = fs::read_to_string(&files[1]).unwrap();
    assert_eq!(rows.lines().count(), 6, "{rows}");
    assert!(
        rows.lines()
            .nth(3)
            .unwrap()
            .starts_with("3,128,broken,\"e2el_ms p(99)=1400, limit 1350\",0,10,128.0"),
        "{rows}"
    );
    let page = fs::read_to_string(&files[2]).unwrap();
    assert!(page.contains("2000 tokens/s (1952 to 2048)") && page.contains("<svg"), "{page}");
    fs::write(&files[0], "{}").unwrap();
    let error = CapacityResult::read(&files[0]).unwrap_err().to_string();
    assert!(error.contains("_capacity.json"), "{error}");
}

#[test]
fn a_ceiling_falls_only_if_the_intervals_have_no_common_part() {
    let at = |low: f64, high: f64| CapacityResult {
        ceiling: f64::midpoint(low, high),
        ceiling_low: low,
        ceiling_high: Some(high),
        ..result(Unit::Sessions, End::Found)
    };
    let baseline = at(95.0, 105.0);
    let stopped =
        CapacityResult { ceiling_high: None, ceiling_low: 50.0, end: End::AboveRange, ..at(50.0, 50.0) };
    assert!(stopped.fell_from(&baseline).unwrap().contains("use a larger --to"));
    assert_eq!(at(90.0, 96.0).fell_from(&baseline), None);
    assert_eq!(at(200.0, 210.0).fell_from(&baseline), None);
    let why = at(80.0, 90.0).fell_from(&baseline).unwrap();
    assert_eq!(
        why,
        "the ceiling fell from 100 sessions (95 to 105) to 85 sessions (80 to 90) by more than the noise"
    );
}

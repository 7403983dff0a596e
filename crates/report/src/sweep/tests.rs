//! Results of generated sweeps: text, rows, page, and what is stored.

use super::*;
use measure::sweep::{Turn, order, variants};

/// A sweep over two settings with two repetitions.
fn sweep() -> Sweep {
    let vary = ["wsproxy=1,2,4", "delivery=pubsub,log", "server=2"];
    Sweep {
        run_id: "sweep_20260101_000000".to_owned(),
        target: "a native stack for each run".to_owned(),
        vary: vary.map(str::to_owned).to_vec(),
        variants: variants(&vary.map(|text| text.parse().unwrap())).unwrap(),
        repeat: 2,
        seed: 7,
        options: "clients = 10\nburst = false\nfaults = []\n".to_owned(),
    }
}

/// Its runs: more gateways are faster, and delivery does not matter.
fn points(sweep: &Sweep) -> Vec<Point> {
    order(sweep.variants.len(), 2).map(|turn| point(turn, sweep)).collect()
}

fn result(end: SweepEnd) -> SweepResult {
    let sweep = sweep();
    SweepResult::new(&sweep, points(&sweep), end)
}

#[allow(clippy::cast_precision_loss)]
fn point(turn: Turn, sweep: &Sweep) -> Point {
    let gateways: f64 = sweep.variants[turn.variant - 1].value("wsproxy").unwrap().parse().unwrap();
    let drift = turn.repetition as f64 * 4.0;
    let figures = [
        ("queries_ok", 100.0),
        ("queries_total", 100.0),
        ("e2el_p50_ms", 900.0 + drift),
        ("e2el_p99_ms", 1_000.0 + 400.0 / gateways + drift),
        ("ttft_p50_ms", 5.0),
        ("ttft_p99_ms", 9.0 + drift),
        ("tokens_per_s", 200.0 - drift),
        ("tokens_broken", 0.0),
        ("cpu_cores_stack", 0.5),
        ("cpu_cores_redis", 0.2),
        ("cpu_cores_wsproxy", 0.3),
        ("rss_mb_redis", 12.0),
        ("rss_mb_wsproxy", 20.0 * gateways),
    ];
    let figures = figures.map(|(key, value)| (key.to_owned(), value)).into();
    let run = format!("sweep/v{:03}-r{}", turn.variant, turn.repetition);
    Point { run, verdict: Outcome::Pass, figures, ..Point::without_result(turn, "all fine".into()) }
}

#[test]
fn the_text_fits_terminals() {
    let result = result(SweepEnd::Complete);
    insta::assert_snapshot!("usual", result.text(120));
    insta::assert_snapshot!("narrow", result.text(80));
    for columns in [80, 100, 120] {
        let text = result.text(columns);
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
    }
}

#[test]
fn a_bad_run_is_shown_with_its_reason() {
    let sweep = sweep();
    let mut points = points(&sweep);
    points[1].verdict = Outcome::Invalid;
    points[1].reason = "the generator was late".to_owned();
    points[4].verdict = Outcome::Fail;
    let bad = SweepResult::new(&sweep, points, SweepEnd::Complete);
    let text = bad.text(120);
    for part in [
        "2 variants have runs that did not pass",
        "INVALID 1/2",
        "FAIL 1/2",
        "wsproxy=1 delivery=log, repetition 1: INVALID: the generator was late",
        "2 variants are not compared",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(bad.exit_code(), 99);
    let page = crate::html::sweep_page(&bad);
    assert!(page.contains("INVALID 1/2") && page.contains("the generator was late"), "{page}");
}

#[test]
fn exit_codes_tell_the_worst_run() {
    let with = |verdict| {
        let mut changed = result(SweepEnd::Complete);
        changed.variants[0].runs = match verdict {
            Outcome::Pass => changed.variants[0].runs,
            Outcome::Fail => measure::sweep::Outcomes { fail: 1, ..Default::default() },
            Outcome::Invalid => measure::sweep::Outcomes { invalid: 1, ..Default::default() },
            Outcome::NoResult => measure::sweep::Outcomes { no_result: 1, ..Default::default() },
        };
        changed.exit_code()
    };
    let codes = [Outcome::Pass, Outcome::Fail, Outcome::Invalid, Outcome::NoResult].map(with);
    assert_eq!(codes, [0, 99, 98, 1]);
    assert_eq!(result(SweepEnd::Interrupted).exit_code(), 105);
}

#[test]
fn a_result_is_stored_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("a_20260101_000000");
    let result = result(SweepEnd::Interrupted);
    let files = crate::sweep_files::write(&result, &base).unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(SweepResult::read(&files[0]).unwrap(), result);
    let rows = std::fs::read_to_string(&files[1]).unwrap();
    let mut lines = rows.lines();
    let header = lines.next().unwrap();
    assert!(
        header.starts_with("variant,wsproxy,delivery,server,verdict,runs,queries_ok,queries_ok_min,"),
        "{header}"
    );
    assert!(lines.next().unwrap().starts_with("1,1,pubsub,2,PASS,2,100.000,"), "{rows}");
    assert_eq!(lines.count(), 5);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3, "no temporary file is left");
    for (text, why) in [("{", "cannot read"), ("{}", "missing field"), ("[]", "name a _sweep.json")] {
        let path = directory.path().join("wrong.json");
        std::fs::write(&path, text).unwrap();
        let error = SweepResult::read(&path).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("wrong.json"), "{error}");
    }
}

#[test]
fn one_repetition_says_that_it_shows_no_noise() {
    let mut once = result(SweepEnd::Complete);
    for variant in &mut once.variants {
        variant.figures.values_mut().for_each(|spread| spread.count = 1);
    }
    let text = once.text(120).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("One repetition does not show the noise: use --repeat 2"), "{text}");
}

#[test]
fn the_page_has_lines_over_a_number_and_bars_otherwise() {
    let numeric = crate::html::sweep_page(&result(SweepEnd::Complete));
    assert!(
        numeric.contains("e2el_ms p99 over wsproxy") && numeric.contains("delivery=pubsub, max"),
        "{numeric}"
    );
    let mut words = result(SweepEnd::Complete);
    let dimension = ["delivery=pubsub,log"].map(|text| text.parse().unwrap());
    words.variants.truncate(2);
    for (variant, settings) in words.variants.iter_mut().zip(variants(&dimension).unwrap()) {
        variant.settings = settings;
    }
    words.points.clear();
    let bars = crate::html::sweep_page(&words);
    assert!(bars.contains("By variant") && bars.matches("class=\"bar\"").count() == 8, "{bars}");
    words.options = "name = \"<script>\"".to_owned();
    assert!(!crate::html::sweep_page(&words).contains("name = \"<script>"));
}

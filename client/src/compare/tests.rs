//! Comparisons of results made by hand: rows and summaries on disk, answers by their reasons.

use super::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{fmt::Write, fs, path::Path};

/// A run's rows: 60 sessions of 10 queries around `e2el_ms`, in steps of noise.
fn rows(dir: &Path, name: &str, e2el_ms: f64, seed: u64, lost: u64, failed: usize) -> PathBuf {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut text = "session_id,query_num,latency,ttft_ms,tpot_ms,status,tokens_lost\n".to_owned();
    for session in 0..60 {
        let own: f64 = rng.random_range(0.95..1.05);
        for query in 0..10 {
            let e2el = e2el_ms * own * rng.random_range(0.98..1.02);
            let failed = session * 10 + query < failed;
            let (status, latency) =
                if failed { ("timeout", String::new()) } else { ("ok", (e2el / 1e3).to_string()) };
            let _ =
                writeln!(text, "{session},{query},{latency},{},{},{status},{lost}", e2el / 10.0, e2el / 20.0);
        }
    }
    let path = dir.join(format!("{name}.csv"));
    fs::write(&path, text).unwrap();
    path
}

fn summary(dir: &Path, name: &str, p95: f64, more: &str) -> PathBuf {
    let path = dir.join(format!("{name}_summary.json"));
    let text = format!(
        r#"{{"queries_total":10,"queries_ok":10,"verdict":"PASS","metrics":{{"e2el_ms":{{"p95":{p95}}}}},"config":{{"clients":5}}{more}}}"#
    );
    fs::write(&path, text).unwrap();
    path
}

fn ask(baseline: Vec<PathBuf>, candidate: Vec<PathBuf>) -> Comparison {
    let compared = vec!["e2el_ms:p95".parse().unwrap()];
    compare(&Question { baseline, candidate, compared, tolerance: 0.05, least_ms: 1.0, seed: 1 }).unwrap()
}

#[track_caller]
fn check(comparison: &Comparison, answer: Answer, words: &str) {
    let text = comparison.text(80);
    assert_eq!(comparison.answer, answer, "{text}");
    assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {text}");
    for columns in [60, 80, 120] {
        let text = comparison.text(columns);
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
    }
}

#[test]
fn one_run_a_side_by_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let same = rows(dir.path(), "same", 905.0, 2, 0, 0);
    let slow = rows(dir.path(), "slow", 1_100.0, 3, 0, 0);
    let border = rows(dir.path(), "border", 945.0, 4, 0, 0);
    check(
        &ask(vec![before.clone()], vec![same]),
        Answer::Pass,
        "noise was taken from the sessions within the runs",
    );
    check(&ask(vec![before.clone()], vec![slow.clone()]), Answer::Regressed, "e2el_ms p(95) changed by +22");
    check(&ask(vec![slow], vec![before.clone()]), Answer::Pass, "Nothing grew by more than 5 % or 1 ms");
    check(&ask(vec![before], vec![border]), Answer::CannotTell, "too wide a range to tell");
}

#[test]
fn what_is_lost_or_fails_is_worse_than_what_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let lossy = rows(dir.path(), "lossy", 800.0, 2, 1, 0);
    check(
        &ask(vec![before.clone()], vec![lossy]),
        Answer::Regressed,
        "lost, doubled or reordered 600 tokens",
    );
    let failing = rows(dir.path(), "failing", 800.0, 2, 0, 30);
    check(&ask(vec![before], vec![failing]), Answer::Regressed, "fails 5.00 % of its queries more");
}

#[test]
fn several_runs_a_side_by_their_summaries() {
    let dir = tempfile::tempdir().unwrap();
    let side = |name: &str, figures: &[f64]| -> Vec<PathBuf> {
        let run = |(index, p95): (usize, &f64)| summary(dir.path(), &format!("{name}{index}"), *p95, "");
        figures.iter().enumerate().map(run).collect()
    };
    let before = || side("before", &[900.0, 910.0, 905.0, 895.0, 902.0]);
    check(&ask(before(), side("same", &[903.0, 899.0, 911.0, 907.0])), Answer::Pass, "Nothing grew");
    check(&ask(before(), side("slow", &[1000.0, 1010.0, 995.0, 1004.0])), Answer::Regressed, "more than 5 %");
    check(
        &ask(before(), side("wild", &[700.0, 1300.0, 900.0, 1100.0])),
        Answer::CannotTell,
        "too wide a range",
    );
    check(
        &ask(before(), side("few", &[2000.0, 2000.0, 2000.0])),
        Answer::CannotTell,
        "so few runs without their rows",
    );
}

#[test]
fn a_narrow_terminal_keeps_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let slow = rows(dir.path(), "slow", 1_100.0, 3, 0, 0);
    let comparison = ask(vec![before], vec![slow]);
    insta::assert_snapshot!("narrow", comparison.text(60));
    insta::assert_snapshot!("usual", comparison.text(80));
}

#[test]
fn a_fifth_of_next_to_nothing_is_no_regression() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 1.0, 1, 0, 0);
    let slower = rows(dir.path(), "slower", 1.5, 2, 0, 0);
    check(&ask(vec![before], vec![slower]), Answer::Pass, "e2el_ms p(95) 1.05 1.5");
    assert_eq!((text::growth(0.9999), text::growth(1.0504)), ("+0.0 %".to_owned(), "+5.0 %".to_owned()));
}

#[test]
fn what_cannot_be_trusted_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let good = summary(dir.path(), "good", 900.0, "");
    let cut = summary(dir.path(), "cut", 900.0, r#","interrupted":true"#);
    check(&ask(vec![good.clone()], vec![cut]), Answer::CannotTell, "it was interrupted");
    let other = dir.path().join("other_summary.json");
    let text = fs::read_to_string(&good).unwrap().replace("\"clients\":5", "\"clients\":9");
    fs::write(&other, text).unwrap();
    check(&ask(vec![good], vec![other]), Answer::CannotTell, "clients differ");
}

#[test]
fn what_is_no_result_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let good = rows(dir.path(), "good", 900.0, 1, 0, 0);
    for (path, why) in [
        (dir.path().join("none.csv"), "No such file"),
        (write("report.html", b""), "neither a summary nor a CSV"),
        (write("a_summary.json", b"{"), "no JSON"),
        (write("b_summary.json", b"[1]"), "lacks queries_total"),
        (write("c.csv", b"a,b\n1,2\n"), "no column session_id"),
        (write("d.csv", b"session_id,e2el_ms\n1,soon\n"), "line 2: e2el_ms is \"soon\""),
        (write("f.csv", b"session_id,e2el_ms\n1\n1,3\n"), "line 2: not as many fields"),
        (write("e.csv", b"session_id,e2el_ms\n1,\xff\n"), "UTF-8"),
    ] {
        let compared = vec!["e2el_ms:p95".parse().unwrap()];
        let (baseline, candidate) = (vec![good.clone()], vec![path.clone()]);
        let error =
            compare(&Question { baseline, candidate, compared, tolerance: 0.05, least_ms: 1.0, seed: 1 })
                .unwrap_err();
        let error = error.to_string();
        assert!(error.contains(why) && error.contains(&*path.to_string_lossy()), "{why}: {error}");
    }
    assert!("e2e:p95".parse::<Compared>().unwrap_err().contains("e2el_ms"));
    assert!("e2el_ms:avg".parse::<Compared>().is_err());
    assert_eq!(Compared::defaults().len(), 5);
}

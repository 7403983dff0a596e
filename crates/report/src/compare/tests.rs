//! Comparisons of generated results: rows and summaries on disk, and the reasons of the decisions.

use super::*;
use measure::comparison::Decision;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{fmt::Write, fs, path::Path, slice};

/// Writes the rows of a run: 60 sessions of 10 queries around `e2el_ms`, with noise. `lost` of the 18 tokens of each query are
/// lost, and the first query of `failed` sessions fails.
fn rows(dir: &Path, name: &str, e2el_ms: f64, seed: u64, lost: u64, failed: usize) -> PathBuf {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut text = "session_id,query_num,latency,ttft_ms,tpot_ms,status,tokens,tokens_lost\n".to_owned();
    for session in 0..60 {
        let own: f64 = rng.random_range(0.95..1.05);
        for query in 0..10 {
            let e2el = e2el_ms * own * rng.random_range(0.98..1.02);
            let failed = query == 0 && session < failed;
            let (status, latency) =
                if failed { ("timeout", String::new()) } else { ("ok", (e2el / 1e3).to_string()) };
            let _ = writeln!(
                text,
                "{session},{query},{latency},{},{},{status},18,{lost}",
                e2el / 10.0,
                e2el / 20.0
            );
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

fn options() -> ComparisonOptions {
    ComparisonOptions {
        compared: vec!["e2el_ms:p95".parse().unwrap()],
        tolerance: 0.05,
        least_ms: 1.0,
        failure_tolerance: 0.0,
        assumed_noise: 0.15,
        seed: 1,
    }
}

fn ask(baseline: &[PathBuf], candidate: &[PathBuf]) -> Comparison {
    compare(baseline, candidate, &options()).unwrap()
}

#[track_caller]
fn check(comparison: &Comparison, decision: Decision, words: &str) {
    let page = text(comparison, 80);
    assert_eq!(comparison.decision, decision, "{page}");
    assert!(page.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {page}");
    for columns in [60, 80, 120] {
        let page = text(comparison, columns);
        assert!(page.lines().all(|line| line.chars().count() <= columns), "{page}");
    }
}

#[test]
fn one_run_per_side_decides_only_beyond_the_assumed_noise() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let run = |name: &str, e2el_ms| rows(dir.path(), name, e2el_ms, 2, 0, 0);
    let near = ask(std::slice::from_ref(&before), &[run("near", 905.0)]);
    check(&near, Decision::CannotTell, "is not beyond the assumed noise of 15 %");
    check(&near, Decision::CannotTell, "runs per side are needed to decide");
    check(
        &near,
        Decision::CannotTell,
        "fewer than 4 runs per side: two runs of one version are assumed to differ",
    );
    let slow = run("slow", 1_100.0);
    check(
        &ask(std::slice::from_ref(&before), std::slice::from_ref(&slow)),
        Decision::Regressed,
        "e2el_ms p(95) changed by +21",
    );
    check(
        &ask(std::slice::from_ref(&slow), std::slice::from_ref(&before)),
        Decision::Pass,
        "Nothing grew by more than 5 % or 1 ms",
    );
    check(
        &ask(std::slice::from_ref(&before), &[run("border", 1_000.0)]),
        Decision::CannotTell,
        "assumed noise",
    );
    let ask_with_noise = |assumed_noise, candidate| {
        let options = ComparisonOptions { assumed_noise, ..options() };
        compare(slice::from_ref(&before), &[candidate], &options).unwrap()
    };
    check(&ask_with_noise(0.3, slow), Decision::CannotTell, "assumed noise of 30 %");
    check(&ask_with_noise(0.01, run("quiet", 1_000.0)), Decision::Regressed, "e2el_ms p(95) changed by +1");
}

#[test]
fn what_is_lost_or_fails_is_worse_than_what_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let lossy = rows(dir.path(), "lossy", 700.0, 2, 1, 0);
    let words = "lost, duplicated or reordered 5.5556 % of its tokens, the baseline 0.0000 %";
    check(&ask(std::slice::from_ref(&before), &[lossy]), Decision::Regressed, words);
    let failing = rows(dir.path(), "failing", 700.0, 2, 0, 30);
    check(
        &ask(std::slice::from_ref(&before), std::slice::from_ref(&failing)),
        Decision::Regressed,
        "The share of failed queries grew by 5.00 percentage points.",
    );
    let accepting = ComparisonOptions { failure_tolerance: 0.06, ..options() };
    let accepted = compare(slice::from_ref(&before), &[failing], &accepting).unwrap();
    check(&accepted, Decision::Pass, "Nothing grew");
    let one = rows(dir.path(), "one", 700.0, 2, 0, 1);
    check(&ask(&[before], &[one]), Decision::CannotTell, "may be chance");
}

#[test]
fn a_run_never_regresses_against_itself() {
    let dir = tempfile::tempdir().unwrap();
    let lossy = rows(dir.path(), "lossy", 900.0, 1, 2, 20);
    check(
        &ask(std::slice::from_ref(&lossy), std::slice::from_ref(&lossy)),
        Decision::CannotTell,
        "assumed noise",
    );
    // A longer run of the same version loses more tokens, and no larger share of them.
    let twice = dir.path().join("twice.csv");
    let text = fs::read_to_string(&lossy).unwrap();
    let again = text.lines().skip(1).map(|row| format!("again-{row}\n")).collect::<String>();
    fs::write(&twice, format!("{text}{again}")).unwrap();
    check(
        &ask(std::slice::from_ref(&lossy), std::slice::from_ref(&twice)),
        Decision::CannotTell,
        "assumed noise",
    );
    check(&ask(&[twice], &[lossy]), Decision::CannotTell, "assumed noise");
    let lost = r#","tokens_lost":7,"tokens_expected":100"#;
    let side = |name: &str| -> Vec<PathBuf> {
        (0..4).map(|n| summary(dir.path(), &format!("{name}{n}"), 900.0, lost)).collect()
    };
    check(&ask(&side("a"), &side("b")), Decision::Pass, "Nothing grew");
}

#[test]
fn several_runs_per_side_by_their_summaries() {
    let dir = tempfile::tempdir().unwrap();
    let side = |name: &str, figures: &[f64]| -> Vec<PathBuf> {
        let run = |(index, p95): (usize, &f64)| summary(dir.path(), &format!("{name}{index}"), *p95, "");
        figures.iter().enumerate().map(run).collect()
    };
    let before = || side("before", &[900.0, 910.0, 905.0, 895.0, 902.0]);
    check(&ask(&before(), &side("same", &[903.0, 899.0, 911.0, 907.0])), Decision::Pass, "Nothing grew");
    check(
        &ask(&before(), &side("slow", &[1000.0, 1010.0, 995.0, 1004.0])),
        Decision::Regressed,
        "more than 5 %",
    );
    let wild = ask(&before(), &side("wild", &[700.0, 1300.0, 900.0, 1100.0]));
    check(&wild, Decision::CannotTell, "is too wide; about");
    let few = |p95: f64| ask(&before(), &side("few", &[p95, p95, p95]));
    check(&few(2000.0), Decision::Regressed, "changed by +121");
    check(&few(700.0), Decision::Pass, "Nothing grew");
    check(&few(980.0), Decision::CannotTell, "assumed noise");
}

#[test]
fn a_run_that_is_named_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, seed| {
        let rows = rows(dir.path(), name, 900.0, seed, 0, 0);
        vec![summary(dir.path(), name, 900.0, ""), rows.clone(), rows, dir.path().join(name)]
    };
    let mut candidate = run("b", 2);
    let stats = dir.path().join("b_stats.csv");
    fs::write(&stats, "Type,Name\nWS,query\n").unwrap();
    candidate.push(stats.clone());
    let twice = ask(&[run("a", 1), run("a2", 3)].concat(), &candidate);
    check(&twice, Decision::CannotTell, "fewer than 4 runs per side");
    check(&twice, Decision::CannotTell, "skipped, because they contain no queries");
    let error =
        compare(slice::from_ref(&stats), slice::from_ref(&stats), &options()).unwrap_err().to_string();
    assert!(error.contains("b_stats.csv is not a table of queries: its header lacks session_id"), "{error}");
}

#[test]
fn a_narrow_terminal_keeps_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 900.0, 1, 0, 0);
    let slow = rows(dir.path(), "slow", 1_100.0, 3, 0, 0);
    let comparison = ask(&[before], &[slow]);
    insta::assert_snapshot!("narrow", text(&comparison, 60));
    insta::assert_snapshot!("usual", text(&comparison, 80));
}

#[test]
fn a_fifth_of_next_to_nothing_is_no_regression() {
    let dir = tempfile::tempdir().unwrap();
    let before = rows(dir.path(), "before", 1.0, 1, 0, 0);
    let slower = rows(dir.path(), "slower", 1.5, 2, 0, 0);
    check(&ask(&[before], &[slower]), Decision::Pass, "e2el_ms p(95) 1.05 1.5");
}

#[test]
fn what_cannot_be_trusted_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let good = summary(dir.path(), "good", 900.0, "");
    let cut = summary(dir.path(), "cut", 900.0, r#","interrupted":true"#);
    check(&ask(std::slice::from_ref(&good), &[cut]), Decision::CannotTell, "it was interrupted");
    let other = dir.path().join("other_summary.json");
    let summary = fs::read_to_string(&good).unwrap().replace("\"clients\":5", "\"clients\":9");
    fs::write(&other, summary).unwrap();
    check(&ask(&[good], &[other]), Decision::CannotTell, "the runs differ in these settings: clients");
}

#[test]
fn errors_name_the_file_and_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let good = rows(dir.path(), "good", 900.0, 1, 0, 0);
    for (path, why) in [
        (dir.path().join("none.csv"), "No such file"),
        (dir.path().join("none"), "found neither"),
        (dir.path().join("none_stats.csv"), "No such file"),
        (write("report.html", b""), "expected an ending of .csv or _summary.json"),
        (write("a_summary.json", b"{"), "is not valid JSON"),
        (write("b_summary.json", b"[1]"), "lacks queries_total"),
        (write("c.csv", b"a,b\n1,2\n"), "its header lacks session_id"),
        (
            write("d.csv", b"session_id,e2el_ms\n1,soon\n"),
            "invalid value \"soon\" in column e2el_ms, line 2 of",
        ),
        (write("f.csv", b"session_id,e2el_ms\n1\n1,3\n"), "it has 1 fields, expected 2 as in the header"),
        (write("e.csv", b"session_id,e2el_ms\n1,\xff\n"), "expected UTF-8 text"),
        (
            write("g.csv", b"session_id,e2el_ms,tokens_lost\n1,3,many\n"),
            "invalid value \"many\" in column tokens_lost, line 2 of",
        ),
    ] {
        let named = [good.clone(), path.clone()];
        let error = compare(slice::from_ref(&good), &named, &options()).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&*path.to_string_lossy()), "{why}: {error}");
        assert!(
            error.contains("; name a .csv") || error.contains("; correct or remove that line"),
            "{error}"
        );
    }
}

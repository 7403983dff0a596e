//! Guides from files: what is read from them, what is refused, and the page.

use super::*;
use crate::capacity::{CapacityResult, Known, Search, Unit};
use measure::{
    capacity::{Ceiling, End, Limits, Outcome, Resource, Step, StepSettings, StepWindow},
    sizing::{guide::Options, make::guide, point::Point},
};
use serde_json::{Value, json};
use std::{fmt::Write as _, path::PathBuf};
use tempfile::TempDir;

const LOADS: [u32; 8] = [50, 100, 150, 200, 250, 300, 350, 400];

/// Returns the summary of a run whose steady state lasts from second 3 to 23.
fn summary(users: u32) -> Value {
    let load = f64::from(users);
    json!({
        "started_at": format!("2026-01-01T00:{:02}:00.5Z", users / 10),
        "verdict": "PASS", "verdict_reason": "", "interrupted": false, "duration_s": 25.0,
        "output_throughput": load * 18.0, "queries_sent": users * 20, "tokens_expected": users * 360,
        "concurrency": { "sessions_mean": load * 0.9 },
        "generator": { "loop_lag_p99_ms": 2.0 },
        "metrics": { "e2el_ms": { "p50": 905.0, "p99": 920.0 } },
        "steady": {
            "from_s": 3.0, "to_s": 23.0, "output_throughput": load * 20.0 / (1.0 + 1e-4 * (load - 1.0)),
            "metrics": { "e2el_ms": { "p99": 910.0 + load / 10.0 } },
        },
        "health": {
            "cpu_share{client}": 0.3, "cpu_share{wsproxy}": 0.2, "cpu_share{wsproxy-1}": 0.1, "cpu_share{wsproxy-2}": 0.1,
            "rss_mb{wsproxy}": 40.0, "rss_mb{wsproxy-1}": 20.0, "rss_mb{wsproxy-2}": 20.0, "health_ms{api}:p95": 1.0,
        },
        "config": {
            "model": "closed", "embedded": false, "resume": true, "faults": [],
            "users": [{ "name": "user", "weight": 1.0, "think_time_seconds": "0", "queries": null, "tokens": null }],
        },
        "host": { "cpu_model": "Test CPU", "cores": 4, "memory_bytes": 8_589_934_592_u64 },
        "versions": { "client": "1.0.0" },
    })
}

/// Returns the samples of a run: the start and the end use less than the steady state.
fn resources(users: u32) -> String {
    let mut text = "second,process,cpu_share,rss_mb,fds,threads\n".to_owned();
    for second in 1..=25 {
        let busy = if (4..=23).contains(&second) { f64::from(users) } else { 0.0 };
        for (process, cores, mb, fds) in [
            ("client", 0.001, 0.05, 2.0),
            ("haproxy", 0.0005, 0.03, 2.2),
            ("redis", 0.0004, 0.02, 0.0),
            ("server-1", 0.0003, 0.01, 0.1),
            ("wsproxy-1", 0.0004, 0.02, 0.5),
            ("wsproxy-2", 0.0004, 0.02, 0.5),
        ] {
            let (cores, mb, fds) = (0.01 + cores * busy, 10.0 + mb * busy, 30.0 + fds * busy);
            let _ = writeln!(text, "{second},{process},{cores:.4},{mb:.2},{fds:.0},2");
        }
    }
    text
}

fn write_file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn run(dir: &TempDir, users: u32, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut summary = summary(users);
    change(&mut summary);
    write_file(dir, &format!("run_{users}_resources.csv"), &resources(users));
    write_file(dir, &format!("run_{users}_summary.json"), &summary.to_string())
}

fn runs(dir: &TempDir) {
    for users in LOADS {
        run(dir, users, |_| {});
    }
}

fn found(dir: &TempDir) -> Found {
    read(&[dir.path().to_owned()]).unwrap()
}

fn options(found: &Found) -> Options {
    Options {
        users: vec![300.0, 2_000.0],
        headroom: 0.3,
        machine: found.machine.clone(),
        threads: [("haproxy".to_owned(), 2.0)].into(),
        ceilings: found.ceilings.clone(),
        ..Options::default()
    }
}

#[test]
fn only_the_steady_state_counts() {
    let dir = tempfile::tempdir().unwrap();
    run(&dir, 200, |_| {});
    let mut history = "Timestamp,User Count\n".to_owned();
    // The run started at 00:20:00.5, so its second 3 begins in the second 1767226803 since 1970.
    for second in 0..25 {
        let users = if (3..23).contains(&second) { 199 } else { 7 };
        let _ = writeln!(history, "{},{users}", 1_767_226_800 + second);
    }
    write_file(&dir, "run_200_history.csv", &history);
    let point = found(&dir).points.remove(0);
    assert_eq!((point.users, point.window.as_str()), (199.0, "steady state, 20 s"));
    assert_eq!((point.tokens_per_query, point.e2el_p99_ms), (Some(18.0), Some(930.0)));
    let gateways = point.roles["wsproxy"];
    assert_eq!((gateways.instances, gateways.descriptors), (2, Some(260.0)));
    assert!((gateways.cores.unwrap() - 0.18).abs() < 1e-9, "{gateways:?}");
    assert_eq!(point.conditions["machine"], "Test CPU, 4 cores, 8.0 GB memory");
}

#[test]
fn a_summary_alone_has_the_whole_run() {
    let dir = tempfile::tempdir().unwrap();
    let no_steady = |summary: &mut Value| summary["steady"] = Value::Null;
    fs::remove_file(run(&dir, 100, no_steady).with_file_name("run_100_resources.csv")).unwrap();
    let point = found(&dir).points.remove(0);
    assert_eq!((point.users, point.tokens_per_s, point.window.as_str()), (90.0, 1_800.0, "whole run, 25 s"));
    let gateways = point.roles["wsproxy"];
    assert_eq!((gateways.instances, gateways.cores, gateways.descriptors), (2, Some(0.2), None));
}

#[test]
fn what_shows_no_load_is_not_used() {
    for (key, value, why) in [
        ("/interrupted", json!(true), "it was interrupted"),
        ("/verdict", json!("INVALID"), "its verdict is INVALID"),
        (
            "/generator/loop_lag_p99_ms",
            json!(400.0),
            "the generator was the limit: its event loop was late by 400 ms",
        ),
        ("/config/faults", json!([{ "fault": "redis:kill" }]), "faults were injected"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        run(&dir, 100, |summary| *summary.pointer_mut(key).unwrap() = value);
        let problem = found(&dir).points[0].problem();
        assert!(problem.as_ref().is_some_and(|problem| problem.contains(why)), "{why}: {problem:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    run(&dir, 100, |summary| summary["amendments"] = json!([{ "at_s": 5 }]));
    assert_eq!(found(&dir).points[0].problem().unwrap(), "its load was changed while it ran");
}

#[test]
fn the_page_is_reviewed() {
    let dir = tempfile::tempdir().unwrap();
    runs(&dir);
    run(&dir, 500, |summary| {
        (summary["verdict"], summary["verdict_reason"]) =
            (json!("INVALID"), json!("the generator | was late"));
    });
    let found = found(&dir);
    let options = options(&found);
    let guide = guide(found.points, options).unwrap();
    insta::assert_snapshot!("guide", markdown(&guide).replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    let json: Value = serde_json::from_str(&json(&guide)).unwrap();
    assert_eq!((&json["schema_version"], json["plans"].as_array().unwrap().len()), (&json!(1), 2));
    assert_eq!(json["plans"][1]["basis"], "extrapolated");
    assert_eq!(json["plans"][1]["factor"].as_f64(), Some(2_000.0 / 360.0));
    assert_eq!(json["laws"][0]["curve"]["law"], "usl");
}

#[test]
fn runs_of_other_workloads_are_named() {
    let dir = tempfile::tempdir().unwrap();
    runs(&dir);
    run(&dir, 100, |summary| summary["config"]["rollup_ms"] = json!(40));
    let found = found(&dir);
    let options = options(&found);
    let error = guide(found.points, options).unwrap_err().to_string();
    assert!(error.contains("rollup (ms): 40 (") && error.contains("run_100_summary.json"), "{error}");
}

#[test]
fn runs_with_other_settings_of_the_stack_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    for users in LOADS {
        run(&dir, users, |summary| {
            let delivery = if users == 100 { "pubsub" } else { "log" };
            summary["stack_settings"] = json!({
                "server": { "delivery": delivery, "max-streams": "300" }, "stack": { "redis-persistence": "none" },
            });
        });
    }
    let mut found = found(&dir);
    let conditions = &found.points[0].conditions;
    assert_eq!(
        ["server delivery", "server max-streams", "redis-persistence"].map(|name| conditions[name].as_str()),
        ["pubsub", "300", "none"]
    );
    let points = std::mem::take(&mut found.points);
    let error = guide(points.clone(), options(&found)).unwrap_err().to_string();
    assert!(
        error.contains("server delivery: log (") && error.contains("--where 'server delivery=log'"),
        "{error}"
    );
    let choices = vec!["delivery=log".parse().unwrap()];
    let guide = guide(points, Options { choices, ..options(&found) }).unwrap();
    assert_eq!((guide.used().count(), guide.unused.len()), (7, 1));
    assert!(markdown(&guide).contains("server delivery log; "), "{}", markdown(&guide));
}

/// Writes a search with steps of these loads, and its summary.
fn search(dir: &TempDir, by: Unit, end: End) {
    let step = |users: u32| {
        let load = f64::from(users);
        let outcome = match users {
            500 => Outcome::Unmeasurable("late".to_owned()),
            350.. => Outcome::Broken("e2el_ms p(99)=1400, limit 1350".to_owned()),
            _ => Outcome::Held,
        };
        let resource =
            |name: &str| Resource { name: name.to_owned(), cores: Some(load / 1e3), rss_mb: Some(20.0) };
        Step {
            sessions: load,
            tokens_per_s: load * 20.0,
            queries_per_s: load * 20.0 / 18.0,
            seconds: 10,
            e2el_ms: [Some(905.0), Some(950.0)],
            resources: ["client", "wsproxy", "wsproxy-1"].map(resource).to_vec(),
            ..StepWindow::default().step(load, outcome, u64::from(users), &[], None)
        }
    };
    let steps: Vec<Step> = LOADS.into_iter().chain([500]).map(step).collect();
    let ceiling = Ceiling { value: 320.0, low: 310.0, high: Some(330.0), confidence: 0.9, noise: 0.01 };
    let about = Search {
        run_id: "capacity".to_owned(),
        target: "native".to_owned(),
        by,
        objectives: Vec::new(),
        step: StepSettings { warm_up_s: 3, window_s: 10, counts_sessions: true },
        limits: Limits { from: 8.0, to: 1e3, unit: 1.0, precision: 0.05, steps: 60 },
        options: String::new(),
    };
    let result = CapacityResult::new(about, Known { ceiling, end, limit: None, steps: &steps });
    write_file(dir, "capacity_capacity.json", &serde_json::to_string(&result).unwrap());
    let mut summary = summary(100);
    summary["amendments"] = json!([{ "at_s": 5 }]);
    write_file(dir, "capacity_summary.json", &summary.to_string());
}

#[test]
fn each_step_of_a_search_is_a_point() {
    let dir = tempfile::tempdir().unwrap();
    search(&dir, Unit::Sessions, End::Found);
    let found = found(&dir);
    assert_eq!(found.points.len(), 9, "the summary of the search is no point");
    let problems: Vec<&Point> = found.points.iter().filter(|point| point.problem().is_some()).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].name.ends_with("capacity_capacity.json, step 9"), "{}", problems[0].name);
    assert_eq!(found.points[0].tokens_per_query.map(f64::round), Some(18.0));
    assert_eq!(found.points[0].roles["wsproxy"].instances, 1, "the sum of a role is no process");
    assert_eq!(found.ceilings.iter().map(|ceiling| ceiling.users).collect::<Vec<_>>(), [320.0]);
    let options = options(&found);
    let guide = guide(found.points, options).unwrap();
    let page = markdown(&guide);
    assert!(page.contains("Measured ceiling of the whole stack: **320 users**"), "{page}");
    assert!(page.contains("| `capacity, step 9` |"), "{page}");
}

#[test]
fn a_ceiling_in_another_unit_or_without_an_end_does_not_count() {
    for (by, end) in [(Unit::SessionRate, End::Found), (Unit::Sessions, End::OutOfTime)] {
        let dir = tempfile::tempdir().unwrap();
        search(&dir, by, end);
        assert_eq!(found(&dir).ceilings, []);
    }
}

#[test]
fn errors_name_the_file_and_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let bad = |name: &str, text: &str| write_file(&dir, name, text);
    for (path, why) in [
        (dir.path().join("none_summary.json"), "cannot read"),
        (dir.path().join("none"), "cannot find"),
        (empty, "contains no _summary.json and no _capacity.json"),
        (bad("report.html", ""), "is not a point by its name: expected a directory, or an ending of"),
        (bad("a_sweep.json", "{}"), "lists the runs of a sweep"),
        (bad("a_summary.json", "{"), "is not valid JSON"),
        (bad("b_summary.json", "[1]"), "lacks config"),
        (bad("c_summary.json", r#"{"config":{}}"#), "lacks concurrency.sessions_mean"),
        (bad("d_capacity.json", "{}"), "as the result of a search"),
    ] {
        let error = read(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(&*path.to_string_lossy()), "{why}: {error}");
        assert!(error.contains("; name a"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    search(&dir, Unit::Sessions, End::Found);
    fs::remove_file(dir.path().join("capacity_summary.json")).unwrap();
    let error = read(&[dir.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("capacity_summary.json"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    run(&dir, 100, |_| {});
    write_file(
        &dir,
        "run_100_resources.csv",
        "second,process,cpu_share,rss_mb\n5,redis,much,1\n6,redis,1,1\n",
    );
    let error = read(&[dir.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("invalid value \"much\" in column cpu_share, line 2 of"), "{error}");
}

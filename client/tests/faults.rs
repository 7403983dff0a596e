//! Planned faults with an injector that only records them: when they are injected, what the outputs report, and the verdict if an
//! injection fails.

mod fake;
mod runs;

use client::{config::Config, engine, run_error::RunError};
use fake::{Running, Script};
use load::injection::{FaultEffect, Injector};
use plan::{PlannedFault, Stop};
use report::output::Finished;
use runs::{args, read_summary};
use serde_json::Value;
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use time::macros::datetime;

/// Records the faults that it gets. A target named `broken` fails, and a target named `missing` does not exist.
#[derive(Default)]
struct Pretender {
    injected: Mutex<Vec<(String, Instant)>>,
}

impl Injector for Pretender {
    fn check(&self, spec: &str) -> anyhow::Result<()> {
        anyhow::ensure!(!spec.starts_with("missing"), "there is no such target");
        Ok(())
    }

    fn inject(&self, spec: &str) -> anyhow::Result<FaultEffect> {
        self.injected.lock().unwrap().push((spec.to_owned(), Instant::now()));
        anyhow::ensure!(!spec.starts_with("broken"), "it would not break");
        Ok(FaultEffect { detail: "gone".into(), ..FaultEffect::default() })
    }
}

/// Runs queries of half a second each, with these faults at these times in milliseconds.
fn run(dir: &Path, faults: &[(&str, u64)], script: Script) -> (Result<Finished, RunError>, Arc<Pretender>) {
    let server = Running::start(Script { tokens: 50, itl: Duration::from_millis(10), ..script });
    let mut config = Config::new(args(&server, dir, 3, 2), 2, 1).unwrap();
    config.plan.faults.planned = faults
        .iter()
        .map(|&(spec, ms)| PlannedFault { spec: spec.to_owned(), at: Duration::from_millis(ms) })
        .collect();
    let pretender = Arc::new(Pretender::default());
    let injector: Arc<dyn Injector> = pretender.clone();
    let finished =
        engine::run_with(config, Some(&injector), &Stop::default(), datetime!(2026-11-21 00:00 UTC));
    (finished, pretender)
}

fn fault<'a>(summary: &'a Value, spec: &str) -> &'a Value {
    let faults = summary["faults"].as_array().unwrap();
    faults.iter().find(|fault| fault["fault"] == spec).unwrap()
}

#[test]
fn a_fault_happens_at_its_time_and_its_recovery_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    // Every session loses its first socket after thirty tokens, that is 0.3 s.
    let script = Script { close: Some((30, 0, "")), ..Script::default() };
    let (finished, pretender) = run(dir.path(), &[("late:kill", 500), ("wsproxy-1:kill", 200)], script);
    assert_ne!(finished.unwrap().judgement().verdict.name(), "FAIL");
    assert_eq!(
        pretender.injected.lock().unwrap().iter().map(|(spec, _)| spec.as_str()).collect::<Vec<_>>(),
        ["wsproxy-1:kill", "late:kill"]
    );
    let summary = read_summary(dir.path());
    let killed = fault(&summary, "wsproxy-1:kill");
    assert_eq!((&killed["outcome"], &killed["detail"]), (&"injected".into(), &"gone".into()));
    let (first, began) = (killed["first_send_s"].as_f64().unwrap(), killed["began_s"].as_f64().unwrap());
    assert!((0.2..0.3).contains(&(began - first)), "{killed:#}");
    assert_eq!((&killed["outages"], &killed["unrecovered"]), (&3.into(), &0.into()), "{summary:#}");
    assert!((50.0..1000.0).contains(&killed["time_to_recover_ms"].as_f64().unwrap()), "{killed:#}");
    assert_eq!(fault(&summary, "late:kill")["outages"], 0, "{summary:#}");
    let rows = std::fs::read_to_string(dir.path().join("loadtest_20261121_000000.csv")).unwrap();
    assert!(rows.lines().skip(1).all(|row| row.contains("wsproxy-1:kill")), "{rows}");
    let history = std::fs::read_to_string(dir.path().join("loadtest_20261121_000000_history.csv")).unwrap();
    assert!(history.contains(",late:kill wsproxy-1:kill,"), "{history}");
}

#[test]
fn a_fault_that_did_not_happen_makes_the_run_invalid() {
    for (spec, ms, why) in
        [("broken:kill", 100, "it would not break"), ("never:kill", 60_000, "ended before the fault was due")]
    {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let (finished, _) = run(dir.path(), &[(spec, ms)], Script::default());
        assert!(started.elapsed() < Duration::from_secs(30), "the run waited for the fault");
        let finished = finished.unwrap();
        assert_eq!((finished.exit_code(), finished.headline()), (98, "INVALID"));
        assert!(finished.judgement().reason.contains(why), "{}", finished.judgement().reason);
        assert_eq!(fault(&read_summary(dir.path()), spec)["outcome"], "failed");
    }
}

#[test]
fn what_is_not_there_is_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let faults = [("missing-1:kill", 100), ("wsproxy-1:kill", 100), ("missing-2:kill", 100)];
    let (refused, pretender) = run(dir.path(), &faults, Script::default());
    let error = refused.unwrap_err();
    assert_eq!(error.exit_code(), 104);
    for part in ["missing-1:kill", "missing-2:kill", "no such target", "--fault-stack"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(
        pretender.injected.lock().unwrap().is_empty()
            && std::fs::read_dir(dir.path()).unwrap().next().is_none()
    );
}

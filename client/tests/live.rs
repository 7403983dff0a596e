//! When a second of a run is evaluated: as soon as it is complete, while the run continues. The tests see this from a threshold that the
//! second breaks. They pass times as values.

use measure::{Recorder, record::LagKind};
use report::output::{Abort, Criteria, GeneratorResults, OutputSettings, Results, RunInfo};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use time::macros::datetime;

const SLOW_NS: i64 = 60_000_000;

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Records a token of a simulator that was late, in the second of `at`.
fn token(recorder: &mut Recorder, at: Duration) {
    recorder.token(at);
    recorder.sample(LagKind::PaceLag, SLOW_NS, at);
}

/// Performs `goes_on` with two recorders, then ends both. Returns why the run was ended early, or `None` if it was not.
fn ended_early(
    dir: &Path,
    patience: Option<Duration>,
    goes_on: impl FnOnce(&Results, &GeneratorResults, &mut Recorder, &mut Recorder),
) -> Option<String> {
    let abort = Abort::default();
    let criteria = Criteria {
        thresholds: vec!["pace_lag_ms[1s]:max<50".parse().unwrap()],
        abort: Some(abort.clone()),
        ..Criteria::default()
    };
    let settings = OutputSettings {
        dir: dir.to_owned(),
        name: "loadtest".to_owned(),
        started_at: datetime!(2026-11-21 00:45:09 +2),
        criteria,
        suffix: String::new(),
        generators: 1,
        patience,
        schedule: None,
        shared_status: None,
        metrics: None,
        seconds: None,
        events: None,
    };
    let results = Results::open(&settings, Arc::default()).unwrap();
    let generator = results.generator(None).unwrap();
    let (mut one, mut other) = (generator.recorder(), generator.recorder());
    goes_on(&results, &generator, &mut one, &mut other);
    drop((one, other));
    generator.finish().unwrap();
    results.finish(&RunInfo::default()).unwrap();
    abort.reason.get().cloned()
}

/// Returns the tokens per second from each row of the history.
fn rows(dir: &Path) -> Vec<String> {
    let mut rows = csv::Reader::from_path(dir.join("loadtest_20261121_004509_history.csv")).unwrap();
    let tokens = rows.headers().unwrap().iter().position(|name| name == "Tokens/s").unwrap();
    rows.records().map(|row| row.unwrap()[tokens].to_owned()).collect()
}

#[test]
fn a_second_is_evaluated_as_soon_as_every_recorder_has_passed_it() {
    let dir = tempfile::tempdir().unwrap();
    let why = ended_early(dir.path(), Some(Duration::from_secs(2)), |_, _, one, other| {
        token(one, s(0));
        one.tick(s(1));
        other.tick(s(1));
    });
    assert!(why.unwrap().contains("after 1 s ("));
}

#[test]
fn a_second_does_not_wait_for_a_recorder_that_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let why = ended_early(dir.path(), Some(Duration::from_secs(2)), |_, generator, one, other| {
        *other = generator.recorder();
        token(one, s(0));
        one.tick(s(1));
        other.tick(s(1));
    });
    assert!(why.is_some());
}

#[test]
fn a_second_waits_for_a_recorder_that_is_behind_but_not_for_ever() {
    for (patience, is_evaluated) in [(None, false), (Some(Duration::from_millis(200)), true)] {
        let dir = tempfile::tempdir().unwrap();
        let why = ended_early(dir.path(), patience, |_, _, one, other| {
            (0..4).for_each(|second| token(one, s(second)));
            if is_evaluated {
                let deadline = Instant::now() + s(20);
                while rows(dir.path()).is_empty() {
                    assert!(Instant::now() < deadline, "the second is not written");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            token(other, s(0));
        });
        assert_eq!(why.is_some(), is_evaluated);
        let expected: &[&str] = if is_evaluated { &["1", "1", "2", "1"] } else { &["2", "1", "1", "1"] };
        assert_eq!(rows(dir.path()), expected, "tokens of a late recorder must be counted too");
    }
}

#[test]
fn a_second_waits_for_the_readings_of_that_second() {
    for (reached, is_evaluated) in [(0, false), (1, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut producer = None;
        let why = ended_early(dir.path(), Some(Duration::from_secs(2)), |results, _, one, other| {
            producer.insert(results.readings().producer()).has_reached(reached);
            token(one, s(0));
            one.tick(s(1));
            other.tick(s(1));
        });
        assert_eq!(why.is_some(), is_evaluated, "{reached}");
    }
}

//! The result files of several generators are those of one generator that measured the same, bit for bit.

mod records;

use measure::{
    Interval, Metric, Part,
    defects::Defect,
    record::{Failure, FailureKind, LossCause, QueryRecord, QueryStatus, Reconnect, SessionRecord},
};
use proptest::{collection::vec, prelude::*};
use report::output::{Criteria, OutputSettings, Results};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Something that a generator measured: its second of the run, and numbers from which it is made.
type Measured = (u64, u64, i64);

const SECONDS: u64 = 6;

/// Adds what was measured to a part.
fn add(part: &mut Part, &(second, kind, number): &Measured) {
    let at = Duration::from_millis(second * 1_000 + number.unsigned_abs() % 1_000);
    let interval: &mut Interval = part.seconds.entry(second).or_default();
    let metric = Metric::ALL[kind as usize % Metric::COUNT];
    match kind % 4 {
        0 => interval.record(metric, number),
        1 => interval.active(number.unsigned_abs() % 3_000_000_000, number.unsigned_abs() % 2_000_000_000),
        2 => {
            let status = [QueryStatus::Ok, QueryStatus::Incomplete, QueryStatus::Error]
                [number.unsigned_abs() as usize % 3];
            let mut query = QueryRecord {
                ended: at,
                session_index: number.unsigned_abs() % 9,
                longest_gap: Some(Duration::from_millis(number.unsigned_abs() % 50)),
                ..QueryRecord::sample(status)
            };
            if status == QueryStatus::Error {
                query.error_code = Some(format!("code {}", number % 60));
                query.failure = Some(Failure {
                    kind: FailureKind::Stream,
                    code: None,
                    message: format!("message {}", number % 5),
                });
                query.defects.note(Defect::Foreign, format!("frame {}", number % 7).as_bytes());
            }
            interval.query_ended(&query, &[]);
            part.sums.add_query(&query);
        }
        _ => {
            let reconnect = Reconnect { cause: LossCause::Closed(1012), gap: Duration::from_millis(20) };
            let session = SessionRecord { ended: at, reconnects: vec![reconnect], ..SessionRecord::sample() };
            interval.reconnect_attempt();
            interval.reconnected();
            part.sums.add_session(&session, &[]);
        }
    }
}

/// Returns the contents of the result files of generators that sent one part per second.
fn files(generators: &[Vec<Measured>]) -> BTreeMap<&'static str, String> {
    let dir = tempfile::tempdir().unwrap();
    let settings = OutputSettings {
        generators: generators.len() as u32,
        patience: None,
        ..records::settings(dir.path(), Criteria::default())
    };
    let results = Results::open(&settings, Arc::default()).unwrap();
    for second in 0..SECONDS {
        for (number, measured) in generators.iter().enumerate() {
            let mut part = Part { reached: second + 1, ..Part::default() };
            measured.iter().filter(|(at, ..)| *at == second).for_each(|measured| add(&mut part, measured));
            results.add(number as u32, part);
        }
    }
    results.finish(&records::info()).unwrap();
    ["_summary.json", "_stats.csv", "_history.csv", "_latency.hlog", "_failures.csv"]
        .map(|ending| {
            let path = dir.path().join(format!("loadtest_20261121_004509{ending}"));
            (ending, fs::read_to_string(path).unwrap())
        })
        .into()
}

/// Returns the number of ended queries of each second in the history.
fn ended(dir: &Path) -> Vec<String> {
    let mut rows = csv::Reader::from_path(dir.join("loadtest_20261121_004509_history.csv")).unwrap();
    let at = rows.headers().unwrap().iter().position(|header| header == "Requests/s").unwrap();
    rows.records().map(|row| row.unwrap()[at].to_owned()).collect()
}

/// A generator's parts of an outage arrive in one burst, before those of the others.
#[test]
fn seconds_that_arrive_late_and_all_at_once_are_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OutputSettings { generators: 2, ..records::settings(dir.path(), Criteria::default()) };
    let results = Results::open(&settings, Arc::default()).unwrap();
    for generator in 0..2 {
        for second in 0..30 {
            let mut part = Part { reached: second + 1, ..Part::default() };
            add(&mut part, &(second, 2, 0));
            results.add(generator, part);
        }
    }
    results.finish(&records::info()).unwrap();
    let ended = ended(dir.path());
    assert_eq!(ended.len(), 30);
    assert!(ended.iter().all(|ended| ended.starts_with('2')), "{ended:?}");
}

/// A second does not wait for ever for a generator that is behind, and what comes later is counted.
#[test]
fn a_second_waits_for_a_time_only() {
    let dir = tempfile::tempdir().unwrap();
    let patience = Some(Duration::from_millis(200));
    let settings =
        OutputSettings { generators: 2, patience, ..records::settings(dir.path(), Criteria::default()) };
    let results = Results::open(&settings, Arc::default()).unwrap();
    let part = |second| {
        let mut part = Part { reached: second + 1, ..Part::default() };
        add(&mut part, &(second, 2, 0));
        part
    };
    (0..3).for_each(|second| results.add(0, part(second)));
    let began = Instant::now();
    while ended(dir.path()).len() < 3 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", ended(dir.path()));
        std::thread::sleep(Duration::from_millis(10));
    }
    results.add(1, part(0));
    results.add(1, part(3));
    results.finish(&records::info()).unwrap();
    let counts: f64 = ended(dir.path()).iter().map(|ended| ended.parse::<f64>().unwrap()).sum();
    assert_eq!(counts, 5.0, "{:?}", ended(dir.path()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_files_of_several_generators_are_those_of_one(
        measured in vec(((0..SECONDS, any::<u64>(), -2_000_000_000i64..2_000_000_000), 0usize..5), 1..80),
    ) {
        let mut generators = vec![Vec::new(); 5];
        for (measured, generator) in &measured {
            generators[*generator].push(*measured);
        }
        let alone: Vec<Measured> = measured.iter().map(|(measured, _)| *measured).collect();
        let (one, several) = (files(&[alone]), files(&generators));
        for (ending, expected) in &one {
            prop_assert_eq!(expected, &several[ending], "{}", ending);
        }
    }
}

//! The result files of several generators are those of one generator that measured the same, bit for bit.

mod records;

use measure::{
    Interval, Metric, Part,
    defects::Defect,
    record::{Failure, FailureKind, LossCause, QueryRecord, QueryStatus, Reconnect, SessionRecord},
};
use proptest::{collection::vec, prelude::*};
use report::output::{Criteria, OutputSettings, Results};
use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

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
        patience_s: u64::MAX,
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

//! Tests schedules with tables of cases and with properties.

use super::*;
use proptest::prelude::*;

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn arrivals(at: &[u64]) -> Vec<Arrival> {
    at.iter().map(|&ms| Arrival { at: Duration::from_millis(ms), tokens: None }).collect()
}

#[test]
fn a_closed_run_starts_its_sessions_evenly() {
    let schedule = Schedule::closed(10, seconds(10), None);
    assert_eq!((schedule.sessions(), schedule.most_concurrent()), (10, 10));
    assert_eq!(schedule.session(3), SessionTimes { start: seconds(3), until: None, tokens: None });
    assert_eq!(schedule.steady_window(), None, "the end depends on the system");
    assert_eq!(schedule.offered(), None);
}

#[test]
fn steady_windows() {
    let window = |schedule: &Schedule| schedule.steady_window().map(|(a, b)| (a.as_secs(), b.as_secs()));
    assert_eq!(window(&Schedule::closed(100, seconds(20), Some(seconds(60)))), Some((19, 60)));
    assert_eq!(window(&Schedule::closed(100, seconds(50), Some(seconds(60)))), Some((48, 60)));
    assert_eq!(window(&Schedule::closed(100, seconds(58), Some(seconds(60)))), None, "too short");
    let staged: Stages = "2m:100,3m:300,3m:600,2m:1000,5m:1000,2m:500,2m:0".parse().unwrap();
    assert_eq!(window(&Schedule::staged(&staged)), Some((585, 912)));
    let open = Schedule::open_sessions(&arrivals(&[0, 500]), seconds(30), 5, false);
    assert_eq!(window(&open), Some((0, 30)));
    assert_eq!(window(&Schedule::open_sessions(&arrivals(&[0, 500]), seconds(30), 5, true)), None);
    assert_eq!(window(&Schedule::default()), None);
}

#[test]
fn targets_of_seconds() {
    let closed = Schedule::closed(100, seconds(10), Some(seconds(20)));
    let targets: Vec<_> =
        [0, 4, 9, 15, 19, 20, u64::MAX].map(|second| closed.target_in(second).round()).into();
    assert_eq!(targets, [10.0, 50.0, 100.0, 100.0, 100.0, 0.0, 0.0]);
    let open = Schedule::open_queries(arrivals(&[0, 10, 1999, 2000]), seconds(3), 5, seconds(1), false);
    assert_eq!([0, 1, 2, 3, 4].map(|second| open.target_in(second)), [0.0, 2.0, 1.0, 1.0, 0.0]);
    let offered = open.offered().unwrap();
    assert_eq!((offered.count, offered.start, offered.duration), (4, seconds(1), seconds(3)));
}

/// Returns schedules of all workload models with `sessions` sessions or arrivals.
fn all_models(sessions: u64, at: &[u64]) -> Vec<Schedule> {
    let stages: Stages = format!("10s:{sessions},5s:{},5s:0", sessions / 2).parse().unwrap();
    vec![
        Schedule::closed(sessions, seconds(10), None),
        Schedule::closed(sessions, seconds(3), Some(seconds(20))),
        Schedule::staged(&stages),
        Schedule::open_sessions(&arrivals(at), seconds(20), sessions, false),
        Schedule::open_queries(arrivals(at), seconds(20), sessions, seconds(2), true),
    ]
}

proptest! {
    #[test]
    fn the_shards_of_every_model_are_the_whole(
        sessions in 1u64..60, count in 1u32..9, mut at in prop::collection::vec(0u64..20_000, 0..100),
    ) {
        at.sort_unstable();
        for whole in all_models(sessions, &at) {
            let parts: Vec<_> =
                (0..count).map(|index| whole.part(Shard::new(index, count).unwrap())).collect();
            let sum = |of: &dyn Fn(&Schedule) -> u64| parts.iter().map(of).sum::<u64>();
            prop_assert_eq!(sum(&Schedule::sessions), whole.sessions());
            prop_assert_eq!(sum(&Schedule::most_concurrent), whole.most_concurrent());
            let offered = |schedule: &Schedule| schedule.offered().map_or(0, |offered| offered.count);
            prop_assert_eq!(sum(&offered), offered(&whole));
            // Row by row: session and arrival `i` of the whole run are in shard `i mod count`, with the same times.
            for index in whole.share(0, 1) {
                let part = &parts[(index % u64::from(count)) as usize];
                prop_assert!(part.share(0, 1).any(|own| own == index));
                prop_assert_eq!(part.session(index), whole.session(index));
                prop_assert_eq!(part.all_sessions(), whole.all_sessions());
            }
            for (index, arrival) in whole.arrivals().iter().enumerate() {
                let part = &parts[index % count as usize];
                prop_assert_eq!(&part.arrivals()[index / count as usize], arrival);
            }
            for second in 0..25 {
                let target: f64 = parts.iter().map(|part| part.target_in(second)).sum();
                prop_assert!((target - whole.target_in(second)).abs() < 1e-6, "second {}", second);
            }
            prop_assert!(parts.iter().all(|part| part.steady_window() == whole.steady_window()));
        }
    }

    #[test]
    fn sessions_come_in_order_and_each_has_one_worker(sessions in 0u64..500, ms in 0u64..100_000, workers in 1usize..9) {
        let schedule = Schedule::closed(sessions, Duration::from_millis(ms), None);
        let starts: Vec<_> = (0..sessions).map(|index| schedule.session(index).start).collect();
        prop_assert!(starts.is_sorted());
        let mut all: Vec<u64> = (0..workers).flat_map(|worker| schedule.share(worker, workers)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..sessions).collect::<Vec<_>>());
    }

    #[test]
    fn no_second_holds_an_arrival_twice(at in prop::collection::vec(0u64..20_000, 0..200)) {
        let mut at = at;
        at.sort_unstable();
        let schedule = Schedule::open_sessions(&arrivals(&at), seconds(20), 5, false);
        let sum: f64 = (0..20).map(|second| schedule.target_in(second)).sum();
        prop_assert_eq!(sum as usize, at.len());
    }
}

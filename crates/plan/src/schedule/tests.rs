//! Tests schedules with tables of cases and with properties.

use super::*;
use crate::live::LiveSchedule;
use proptest::prelude::*;
use std::sync::Arc;

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

const DRAWN: ArrivalSource = ArrivalSource::Drawn { process: Process::Constant, seed: 1 };

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
    let open = Schedule::open_sessions(&arrivals(&[0, 500]), seconds(30), 5, DRAWN);
    assert_eq!(window(&open), Some((0, 30)));
    assert_eq!(
        window(&Schedule::open_sessions(&arrivals(&[0, 500]), seconds(30), 5, ArrivalSource::Listed)),
        None
    );
    assert_eq!(window(&Schedule::default()), None);
}

#[test]
fn targets_of_seconds() {
    let closed = Schedule::closed(100, seconds(10), Some(seconds(20)));
    let targets: Vec<_> =
        [0, 4, 9, 15, 19, 20, u64::MAX].map(|second| closed.target_in(second).round()).into();
    assert_eq!(targets, [10.0, 50.0, 100.0, 100.0, 100.0, 0.0, 0.0]);
    let open = Schedule::open_queries(arrivals(&[0, 10, 1999, 2000]), seconds(3), 5, seconds(1), DRAWN);
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
        Schedule::open_sessions(&arrivals(at), seconds(20), sessions, DRAWN),
        Schedule::open_queries(arrivals(at), seconds(20), sessions, seconds(2), DRAWN),
    ]
}

const fn amendment(number: u32, at_s: u64, change: Change, ramp_up_s: u64) -> Amendment {
    Amendment { number, at_s, change, ramp_up: seconds(ramp_up_s) }
}

/// Returns the change that fits the model: a number of sessions, or of arrivals per second.
fn change(schedule: &Schedule, load: u64) -> Change {
    if schedule.model().is_open() { Change::ArrivalRate(load.max(1) as f64) } else { Change::Clients(load) }
}

/// Returns the number of sessions that are planned to be open at `at`.
fn open_at(schedule: &Schedule, at: Duration) -> usize {
    let all = (0..schedule.all_sessions()).map(|index| schedule.session(index));
    all.filter(|session| session.start <= at && session.until.is_none_or(|until| until > at)).count()
}

#[test]
fn an_amendment_changes_the_rest_of_the_plan() {
    let plan = Schedule::closed(100, seconds(10), Some(seconds(60)));
    let more = plan.amended(amendment(1, 20, Change::Clients(300), 10)).unwrap();
    let less = more.amended(amendment(2, 45, Change::Clients(50), 1)).unwrap();
    let open: Vec<_> = [5, 15, 20, 25, 30, 44, 46, 59, 60].map(|s| open_at(&less, seconds(s))).into();
    assert_eq!(open, [51, 100, 101, 201, 300, 300, 50, 50, 0]);
    assert_eq!(less.steady_window(), Some((seconds(30), seconds(45))), "without the changes");
    assert_eq!(
        plan.amended(amendment(1, 20, Change::Clients(101), 1)).unwrap().steady_window(),
        Some((seconds(21), seconds(60)))
    );
    assert_eq!(less.as_stages().unwrap().to_string(), "10s:100,10s:100,10s:300,15s:300,1s:50,14s:50");
    assert_eq!(less.most_concurrent(), 300);
    assert_eq!(less.target_in(44).round(), 300.0);
    assert_eq!(less.end(), plan.end());
}

#[test]
fn a_late_amendment_is_noted_and_ends_what_it_removes() {
    let plan = Schedule::staged(&"40s:400,20s:400".parse().unwrap());
    let live = LiveSchedule::new(Arc::new(plan), Shard::WHOLE);
    let change = amendment(1, 20, Change::Clients(50), 1);
    live.amend(change, seconds(23)).unwrap();
    assert!(live.in_time().is_empty(), "it came three seconds late");
    // Session 220 started by the plan before, at 22 s.
    let removed = live.current().session(220);
    assert_eq!((removed.until, removed.start), (Some(Duration::ZERO), Duration::MAX));
    live.amend(change, seconds(24)).unwrap();
    let other = Amendment { change: Change::Clients(60), ..change };
    assert_eq!(live.amend(other, seconds(1)), Err(AmendError::NumberTaken { number: 1 }));
    live.amend(amendment(2, 30, Change::Clients(60), 1), seconds(28)).unwrap();
    assert_eq!(live.in_time(), [2]);
}

#[test]
fn impossible_amendments() {
    let error = |schedule: &Schedule, amendment| schedule.amended(amendment).unwrap_err();
    let clients = |at_s| amendment(1, at_s, Change::Clients(5), 1);
    let rate = |rate| amendment(1, 5, Change::ArrivalRate(rate), 1);
    let closed = Schedule::closed(10, seconds(1), Some(seconds(20)));
    let open = |source| Schedule::open_queries(arrivals(&[0, 10]), seconds(30), 5, seconds(1), source);
    assert_eq!(error(&Schedule::closed(10, seconds(1), None), clients(5)), AmendError::NoEnd);
    assert_eq!(error(&closed, rate(5.0)), AmendError::NeedsClients);
    assert_eq!(error(&closed, clients(20)), AmendError::TooLate { end_s: 20.0, complete_s: 21.0 });
    assert_eq!(error(&open(DRAWN), clients(5)), AmendError::NeedsRate);
    assert_eq!(error(&open(ArrivalSource::Listed), rate(5.0)), AmendError::Trace);
    assert_eq!(
        error(&open(DRAWN), rate(f64::NAN)).to_string(),
        AmendError::InvalidRate(f64::NAN).to_string()
    );
    assert_eq!(error(&open(DRAWN), rate(1e6)), AmendError::TooManyPlanned { planned: 26e6 });
    let early = amendment(1, 0, Change::ArrivalRate(5.0), 1);
    assert_eq!(error(&open(DRAWN), early), AmendError::TooEarly { connected_s: 1.0 });
    let amended = closed.amended(clients(10)).unwrap();
    assert_eq!(error(&amended, amendment(2, 9, Change::Clients(3), 1)), AmendError::OutOfOrder { at_s: 10 });
    let many = amendment(2, 11, Change::Clients(MAX_PLANNED + 1), 1);
    assert!(matches!(error(&amended, many), AmendError::TooManyPlanned { .. }));
}

proptest! {
    #[test]
    fn amendments_keep_the_past_and_are_shared_by_all_shards(
        sessions in 1u64..60, count in 1u32..5, at in prop::collection::vec(0u64..20_000, 1..100),
        changes in prop::collection::vec((1u64..19, 0u64..90, 1u64..4), 1..5),
    ) {
        let (mut at, mut changes) = (at, changes);
        at.sort_unstable();
        changes.sort_unstable();
        for plan in all_models(sessions, &at).into_iter().filter(Schedule::is_amendable) {
            let live: Vec<_> = (0..count)
                .map(|index| LiveSchedule::new(Arc::new(plan.clone()), Shard::new(index, count).unwrap()))
                .collect();
            let mut whole = plan;
            for (number, &(at_s, load, ramp_up_s)) in (1..).zip(&changes) {
                let amendment = amendment(number, at_s, change(&whole, load), ramp_up_s);
                let Ok(amended) = whole.amended(amendment) else { continue };
                live.iter().for_each(|live| live.amend(amendment, Duration::ZERO).unwrap());
                let rows = |schedule: &Schedule| {
                    let starts: Vec<_> = (0..schedule.all_sessions()).map(|index| schedule.session(index).start).collect();
                    let arrivals = schedule.arrivals().iter().map(|arrival| arrival.at);
                    starts.into_iter().chain(arrivals).filter(|&start| start < amendment.at()).collect::<Vec<_>>()
                };
                prop_assert_eq!(rows(&amended), rows(&whole), "the past stays");
                if let Change::Clients(clients) = amendment.change {
                    prop_assert_eq!(open_at(&amended, amendment.complete_at()), if Some(amendment.complete_at()) == amended.end() { 0 } else { clients as usize });
                }
                if let Some((from, to)) = amended.steady_window() {
                    // A change ends at the latest where the next one begins.
                    let made = amended.amendments();
                    let ends = made.iter().skip(1).map(Amendment::at).chain([Duration::MAX]);
                    for (change, next) in made.iter().zip(ends) {
                        let (begin, end) = (change.at(), change.complete_at().min(next));
                        prop_assert!(begin >= to || end <= from, "{} s in {:?}", change.at_s, (from, to));
                    }
                }
                whole = amended;
            }
            let parts: Vec<_> = live.iter().map(LiveSchedule::current).collect();
            prop_assert!(live.iter().all(|live| live.in_time().len() == whole.amendments().len()));
            prop_assert_eq!(parts.iter().map(|part| part.sessions()).sum::<u64>(), whole.sessions());
            for (index, arrival) in whole.arrivals().iter().enumerate() {
                let part = &parts[index % count as usize];
                prop_assert_eq!(&part.arrivals()[index / count as usize], arrival);
            }
            prop_assert!(parts.iter().all(|part| part.steady_window() == whole.steady_window()));
            for part in &parts {
                prop_assert!((0..whole.all_sessions()).all(|index| part.session(index) == whole.session(index)));
            }
        }
    }

    #[test]
    fn an_amended_plan_can_be_replayed_as_stages(
        sessions in 1u64..60, changes in prop::collection::vec((5u64..55, 0u64..90, 1u64..4), 1..5), second in 0u64..60,
    ) {
        let mut changes = changes;
        changes.sort_unstable();
        changes.dedup_by_key(|change| change.0);
        let mut amended = Schedule::closed(sessions, seconds(5), Some(seconds(60)));
        for (number, &(at_s, load, ramp_up_s)) in (1..).zip(&changes) {
            amended = amended.amended(amendment(number, at_s, Change::Clients(load), ramp_up_s)).unwrap();
        }
        let text = amended.as_stages().unwrap().to_string();
        let replayed = Schedule::staged(&text.parse().unwrap());
        prop_assert_eq!(replayed.end(), amended.end());
        prop_assert!(open_at(&replayed, seconds(second)).abs_diff(open_at(&amended, seconds(second))) <= 1);
    }
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
        let schedule = Schedule::open_sessions(&arrivals(&at), seconds(20), 5, DRAWN);
        let sum: f64 = (0..20).map(|second| schedule.target_in(second)).sum();
        prop_assert_eq!(sum as usize, at.len());
    }
}

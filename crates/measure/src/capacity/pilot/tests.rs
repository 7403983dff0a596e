//! Searches against a simulated system, second by second.

use super::*;

/// A system that answers in 900 ms up to a number of sessions, and ever later above it until the backlog is gone.
struct System {
    ceiling: f64,
    backlog: f64,
}

impl System {
    fn second(&mut self, sessions: f64) -> Interval {
        self.backlog = (self.backlog + sessions - self.ceiling).max(0.0);
        let ms = 900.0 * (1.0 + self.backlog / self.ceiling);
        let mut interval = Interval::default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        for _ in 0..(sessions.min(self.ceiling) as usize).max(1) {
            interval.record(Metric::E2el, (ms * 1e6) as i64);
            interval.record_ideal(None, Some(900_000_000));
            interval.count(|counts| counts.queries += 1);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        interval.active((sessions * 1e9) as u64, 0);
        interval
    }
}

const LIMITS: Limits = Limits { from: 8.0, to: 10_000.0, unit: 1.0, precision: 0.05, steps: 60 };
const SETTINGS: StepSettings = StepSettings { warm_up_s: 2, window_s: 5, counts_sessions: true };

/// Runs a search against a system. Returns how it ended, the pilot, and the length of the run in seconds.
fn run(mut pilot: Pilot, system: &mut System, most_s: u64) -> (Option<End>, Pilot, u64) {
    pilot.changes(1);
    let mut load = pilot.load();
    for second in 0..most_s {
        let interval = system.second(load);
        match pilot.second(second, &interval, &[], Running::default()) {
            Action::Wait => {}
            Action::Change(next) => {
                load = next;
                pilot.changes(second + 4);
            }
            Action::Finish(end) => return (Some(end), pilot, second),
        }
    }
    (None, pilot, most_s)
}

fn pilot(earlier: Vec<Step>) -> Pilot {
    Pilot::new(LIMITS, vec!["e2el_ms:p99<1.5x".parse().unwrap()], SETTINGS, earlier)
}

#[test]
fn it_finds_the_ceiling_of_a_system_with_a_backlog() {
    let mut system = System { ceiling: 300.0, backlog: 0.0 };
    let (end, pilot, seconds) = run(pilot(Vec::new()), &mut system, 2000);
    let ceiling = pilot.search().ceiling();
    assert_eq!(end, Some(End::Found), "{ceiling:?}");
    // A few seconds of a small overload hold 1.5 times the ideal.
    assert!((295.0..330.0).contains(&ceiling.value), "{ceiling:?} {:#?}", pilot.steps());
    assert!(
        seconds < 600,
        "{seconds} {:?}",
        pilot
            .steps()
            .iter()
            .map(|step| (step.load, step.from_s, step.outcome == Outcome::Held))
            .collect::<Vec<_>>()
    );
    let broken = pilot.steps().iter().find_map(|step| match &step.outcome {
        Outcome::Broken(why) => Some(why.clone()),
        _ => None,
    });
    assert!(broken.unwrap().starts_with("e2el_ms p(99)="));
}

#[test]
fn a_search_is_continued_where_it_was() {
    let mut system = System { ceiling: 300.0, backlog: 0.0 };
    let (end, cut, _) = run(pilot(Vec::new()), &mut system, 70);
    assert_eq!(end, None, "it was interrupted");
    let earlier = cut.steps().to_vec();
    assert!(earlier.len() >= 3);
    let continued = pilot(earlier.clone());
    assert_eq!(continued.load(), cut.search().next().unwrap());
    let (end, continued, _) = run(continued, &mut System { ceiling: 300.0, backlog: 0.0 }, 2000);
    assert_eq!(end, Some(End::Found));
    assert_eq!(continued.steps()[..earlier.len()], earlier[..]);
}

#[test]
fn failures_end_a_step_early() {
    let mut pilot = pilot(Vec::new());
    pilot.changes(0);
    let mut failing = Interval::default();
    failing.count(|counts| (counts.queries, counts.failed) = (100, 50));
    // A system in which nothing works ends the search, whatever the length of its steps.
    let (mut end, mut first_end) = (None, None);
    let mut seconds = 0;
    while end.is_none() && seconds < 1000 {
        match pilot.second(seconds, &failing, &[], Running::default()) {
            Action::Wait => {}
            Action::Change(_) => pilot.changes(seconds + 1),
            Action::Finish(why) => end = Some(why),
        }
        seconds += 1;
        first_end = first_end.or((!pilot.steps().is_empty()).then_some(seconds));
    }
    assert_eq!(first_end, Some(LONGEST_START + EARLIEST_END));
    assert_eq!(pilot.steps()[0].outcome, Outcome::Broken("failed queries: 150 of 300".to_owned()));
    assert_eq!(end, Some(End::NothingHolds), "{:?}", pilot.steps().len());
}

/// A query that has had no event since this second of the run, and is allowed three seconds.
fn silence(since_s: u64, now_s: u64) -> Running {
    let silent = Silence {
        since: Duration::from_secs(since_s),
        lasted: Duration::from_secs(now_s - since_s),
        allowed: Duration::from_secs(3),
        is_answered: true,
    };
    Running { times: Vec::new(), silent: vec![silent] }
}

/// Runs a search with 8 sessions until it measures. Returns it with the next second.
fn measuring() -> (Pilot, System, u64) {
    let (mut pilot, mut system) = (pilot(Vec::new()), System { ceiling: 300.0, backlog: 0.0 });
    pilot.changes(0);
    let mut second = 0;
    while !matches!(pilot.phase, Phase::Measuring { .. }) {
        assert_eq!(pilot.second(second, &system.second(8.0), &[], Running::default()), Action::Wait);
        second += 1;
    }
    (pilot, system, second)
}

/// Runs a search until its first step with 8 sessions has held. Returns it with the next second.
fn after_a_step() -> (Pilot, System, u64) {
    let (mut pilot, mut system, mut second) = measuring();
    while pilot.steps().is_empty() {
        pilot.second(second, &system.second(8.0), &[], Running::default());
        second += 1;
    }
    (pilot, system, second)
}

#[test]
fn a_query_that_stops_breaks_its_step_at_once() {
    let (mut stopping, mut system, second) = measuring();
    let action = stopping.second(second, &system.second(8.0), &[], silence(second - 2, second + 2));
    assert_eq!(action, Action::Change(2.0));
    let stopped = "stopped queries: 1 query had no token for more than 3.0 s".to_owned();
    assert_eq!(stopping.steps()[0].outcome, Outcome::Broken(stopped));
    // It is charged once, also while the next load is established.
    stopping.changes(second + 2);
    for later in second + 1..second + 6 {
        stopping.second(later, &system.second(2.0), &[], silence(second - 2, later + 1));
    }
    assert_eq!(stopping.steps().len(), 1, "{:?}", stopping.steps());
}

#[test]
fn a_silence_is_charged_to_the_load_under_which_it_began() {
    let (mut stopping, mut system, second) = after_a_step();
    let stopped_s = second - 1;
    stopping.changes(second + 2);
    for later in second..second + 6 {
        stopping.second(later, &system.second(16.0), &[], silence(stopped_s, later + 1));
    }
    let outcomes: Vec<_> = stopping.steps().iter().map(|step| (step.load, step.outcome.name())).collect();
    assert_eq!(outcomes, [(8.0, "held"), (8.0, "broken")]);
}

#[test]
fn a_silence_that_begins_while_the_load_changes_is_charged_to_the_new_load() {
    let (mut stopping, mut system, second) = after_a_step();
    stopping.changes(second + 5);
    for later in second..second + 7 {
        stopping.second(later, &system.second(16.0), &[], silence(second + 1, later + 2));
    }
    let outcomes: Vec<_> = stopping.steps().iter().map(|step| (step.load, step.outcome.name())).collect();
    assert_eq!(outcomes, [(8.0, "held"), (16.0, "broken")]);
}

#[test]
fn an_old_silence_hides_no_newer_ones() {
    let (mut stopping, mut system, second) = after_a_step();
    let (stopped_s, asked_s) = (second - 1, second);
    stopping.changes(asked_s + 1);
    for later in asked_s..asked_s + 8 {
        let mut running = silence(stopped_s, later + 1);
        running.silent.extend(silence(asked_s + 3, (later + 1).max(asked_s + 3)).silent);
        stopping.second(later, &system.second(16.0), &[], running);
    }
    let outcomes: Vec<_> = stopping.steps().iter().map(|step| (step.load, step.outcome.name())).collect();
    assert_eq!(outcomes, [(8.0, "held"), (8.0, "broken"), (16.0, "broken")]);
}

#[test]
fn a_silence_that_the_objectives_allow_or_the_generator_may_cause_breaks_nothing() {
    let with = |slo: &str| Pilot::new(LIMITS, vec![slo.parse().unwrap()], SETTINGS, Vec::new());
    let second = || System { ceiling: 300.0, backlog: 0.0 }.second(8.0);
    let breaks = |mut pilot: Pilot, interval: &Interval, is_answered: bool| {
        pilot.changes(0);
        let mut running = silence(1, 6);
        running.silent[0].is_answered = is_answered;
        pilot.second(5, interval, &[], running);
        !pilot.steps().is_empty()
    };
    assert!(breaks(with("e2el_ms:p99<1.5x"), &second(), true));
    assert!(!breaks(with("ttft_ms:p99<8s"), &second(), false), "it may wait for its first token");
    assert!(breaks(with("ttft_ms:p99<8s"), &second(), true));
    assert!(!breaks(with("itl_ms:p99<8s"), &second(), true));
    assert!(!breaks(with("error_rate<0.01"), &second(), true), "some queries may fail");
    let mut late = second();
    (0..100).for_each(|_| late.record(Metric::LoopLag, 400_000_000));
    assert!(!breaks(with("e2el_ms:p99<1.5x"), &late, true), "the generator was late");
}

#[test]
fn a_loss_outside_the_measured_seconds_breaks_a_step() {
    let mut losing = Interval::default();
    losing.count(|counts| (counts.queries, counts.lost) = (100, 7));
    let broken = Outcome::Broken("tokens_lost=7, outside the measured seconds".to_owned());
    // In the warm-up the new load is to blame.
    let mut warming = pilot(Vec::new());
    warming.changes(0);
    warming.second(0, &losing, &[], Running::default());
    assert_eq!((warming.steps()[0].load, &warming.steps()[0].outcome), (8.0, &broken));
    // While the load changes, the one before.
    let mut changing = pilot(Vec::new());
    changing.changes(0);
    let mut system = System { ceiling: 300.0, backlog: 0.0 };
    let mut second = 0;
    while changing.second(second, &system.second(8.0), &[], Running::default()) == Action::Wait {
        second += 1;
    }
    assert_eq!(changing.load(), 16.0);
    changing.second(second + 1, &losing, &[], Running::default());
    let last = changing.steps().last().unwrap();
    assert_eq!((last.load, &last.outcome), (8.0, &broken));
    // What an overload loses while it ends, or in the next warm-up, belongs to the same step.
    let steps = changing.steps().len();
    changing.second(second + 2, &losing, &[], Running::default());
    assert_eq!(changing.steps().len(), steps);
}

//! Tables of decisions, and properties over random rules and loads.

use super::*;
use proptest::prelude::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Plays readings every five seconds against a stack that does as decided. `load`: all open sockets at a time, spread evenly.
fn play(rule: &Rule, start: u16, seconds: u64, load: impl Fn(u64) -> u64) -> Vec<(u64, Decision)> {
    let mut autoscaler = Autoscaler::new(rule.clone(), start);
    let (mut current, mut decisions) = (start, Vec::new());
    for now in (0..=seconds).step_by(5) {
        let (all, count) = (load(now), u64::from(current));
        let readings: Vec<_> = (0..count).map(|n| Some(all / count + u64::from(n < all % count))).collect();
        let decision = autoscaler.decide(s(now), &readings, 0);
        if decision.wanted != current {
            autoscaler.changed(s(now), current, decision.wanted);
            current = decision.wanted;
        }
        decisions.push((now, decision));
    }
    decisions
}

/// Returns the changes: time and new number.
fn changes(decisions: &[(u64, Decision)]) -> Vec<(u64, u16)> {
    let changed = decisions.iter().filter(|(_, decision)| decision.wanted != decision.current);
    changed.map(|(at, decision)| (*at, decision.wanted)).collect()
}

#[test]
fn the_recommendation_is_the_load_divided_by_the_target_rounded_up() {
    for (readings, expected) in [
        (vec![Some(1_000)], 1),
        (vec![Some(1_100)], 1),
        (vec![Some(1_101)], 2),
        (vec![Some(900), Some(900)], 2),
        (vec![Some(500), Some(500)], 1),
        (vec![Some(500), Some(501)], 2),
        (vec![Some(0), Some(0)], 0),
        (vec![Some(3_000), Some(0), None], 3),
        (vec![Some(5_000), Some(0), None], 5),
        (vec![Some(100), Some(100), None], 2),
        (vec![None, None], 2),
        (vec![], 0),
        (vec![Some(u64::MAX)], u16::MAX),
    ] {
        assert_eq!(recommend(&readings, 1_000), expected, "{readings:?}");
    }
}

#[test]
fn a_surge_doubles_the_number_each_minute() {
    let rule = "wsproxy: connections/1000, 1..8".parse().unwrap();
    let decisions = play(&rule, 1, 300, |_| 7_500);
    assert_eq!(changes(&decisions), [(0, 2), (60, 4), (120, 8)]);
    assert_eq!(decisions[1].1.reason, Reason::Limited);
}

#[test]
fn the_end_of_a_load_removes_one_at_a_time_after_the_window() {
    let rule = "wsproxy: connections/1000, 1..8".parse().unwrap();
    let decisions = play(&rule, 4, 2_000, |at| if at < 100 { 4_000 } else { 900 });
    // The last high recommendation is at 95 s.
    assert_eq!(changes(&decisions), [(700, 3), (1_000, 2), (1_300, 1)]);
    let (_, waiting) = decisions[40];
    assert_eq!((waiting.recommended, waiting.wanted, waiting.reason), (1, 4, Reason::Stabilizing));
    assert!(
        waiting.to_string().contains("900 connections on 4 gateways, 1 recommended, 4 because of"),
        "{waiting}"
    );
}

#[test]
fn the_last_gateway_leaves_and_a_refused_connection_starts_one() {
    let rule: Rule = "wsproxy: connections/1000, 0..8, down-window=60s".parse().unwrap();
    let decisions = play(&rule, 1, 200, |at| if at < 50 { 10 } else { 0 });
    assert_eq!(changes(&decisions), [(110, 0)]);
    for (refused, wanted) in [(0, 0), (1, 1), (1_001, 2), (5_000, 2)] {
        let mut autoscaler = Autoscaler::new(rule.clone(), 0);
        let decision = autoscaler.decide(s(1), &[], refused);
        assert_eq!(decision.wanted, wanted, "{decision}");
        // Its clients need time to come back.
        autoscaler.changed(s(1), 0, wanted);
        let idle = vec![Some(0); wanted.into()];
        assert_eq!(autoscaler.decide(s(6), &idle, refused).wanted, wanted);
    }
}

#[test]
fn a_short_dip_changes_nothing() {
    let rule = "wsproxy: connections/1000, 1..8".parse().unwrap();
    assert_eq!(changes(&play(&rule, 4, 4_000, |at| if at % 600 < 300 { 1_000 } else { 4_000 })), []);
}

#[test]
fn a_stack_outside_the_bounds_moves_into_them_at_once() {
    let rule: Rule = "wsproxy: connections/1000, 3..5".parse().unwrap();
    assert_eq!(changes(&play(&rule, 1, 100, |_| 0)), [(0, 3)]);
    assert_eq!(changes(&play(&rule, 9, 100, |_| 0)), [(0, 5)]);
    assert_eq!(play(&rule, 3, 0, |_| 0)[0].1.reason, Reason::Bounded);
}

fn rule() -> impl Strategy<Value = Rule> {
    let seconds = || (0..120u64).prop_map(s);
    (1..5_000u64, 1..=64u16, 1..=64u16, seconds(), seconds(), seconds()).prop_map(
        |(target, a, b, up_period, down_window, down_period)| Rule {
            target,
            min: a.min(b),
            max: a.max(b),
            up_period,
            down_window,
            down_period,
        },
    )
}

proptest! {
    #[test]
    fn it_is_never_outside_the_bounds(
        rule in rule(),
        start in 1..=64u16,
        steps in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0..=u64::MAX), 1..64), 1..40),
    ) {
        let mut autoscaler = Autoscaler::new(rule.clone(), start);
        for (at, readings) in (0u64..).step_by(5).zip(steps) {
            let decision = autoscaler.decide(s(at), &readings, 0);
            prop_assert!((rule.min..=rule.max).contains(&decision.wanted), "{decision:?}");
            autoscaler.changed(s(at), decision.current, decision.wanted);
        }
    }

    #[test]
    fn a_constant_load_causes_changes_in_one_direction_and_then_none(
        rule in rule(), start in 1..=64u16, load in 0..400_000u64,
    ) {
        // Long enough to remove 63 gateways, one per period.
        let decisions = play(&rule, start, 64 * 125 + 600, |_| load);
        let changes = changes(&decisions);
        let numbers: Vec<_> = std::iter::once(start).chain(changes.iter().map(|(_, number)| *number)).collect();
        // Only the move into the bounds, which is the first, may have another direction.
        let moved = usize::from(!(rule.min..=rule.max).contains(&start));
        let numbers = &numbers[moved.min(numbers.len() - 1)..];
        let rises = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        let falls = numbers.windows(2).all(|pair| pair[0] > pair[1]);
        prop_assert!(rises || falls, "{changes:?}");
        let (_, last) = decisions[decisions.len() - 1];
        prop_assert_eq!(last.wanted, last.recommended.clamp(rule.min, rule.max));
    }

    #[test]
    fn the_number_at_most_doubles_in_a_period_and_decreases_by_one(
        rule in rule(), start in 1..=64u16, loads in proptest::collection::vec(0..400_000u64, 40),
    ) {
        prop_assume!((rule.min..=rule.max).contains(&start));
        let decisions = play(&rule, start, 5 * 39, |at| loads[usize::try_from(at / 5).unwrap()]);
        for (at, decision) in &decisions {
            let within = |period: Duration| {
                let from = decisions.iter().filter(|(then, _)| then <= at && s(*then) + period > s(*at));
                from.map(|(_, decision)| decision.current).collect::<Vec<_>>()
            };
            if decision.wanted > decision.current {
                let first = *within(rule.up_period).first().unwrap_or(&decision.current);
                let removed = within(rule.up_period).windows(2).any(|pair| pair[1] < pair[0]);
                prop_assert!(removed || decision.wanted <= first.max(1) * 2, "{at}: {decision:?}");
            } else if decision.wanted < decision.current {
                prop_assert!(decision.wanted + 1 == decision.current || within(rule.down_period).windows(2).any(|pair| pair[1] > pair[0]), "{at}: {decision:?}");
            }
        }
    }
}

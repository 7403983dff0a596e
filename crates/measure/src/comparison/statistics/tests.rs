//! Checks how often intervals contain the true value, how often chance causes an alarm, and published examples.

use super::*;

/// Draws a standard normal value by the method of Box and Muller.
fn normal(rng: &mut SmallRng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn runs(rng: &mut SmallRng, count: usize, median: f64, noise: f64) -> Vec<f64> {
    (0..count).map(|_| median * (noise * normal(rng)).exp()).collect()
}

/// Draws queries of sessions that differ from each other, log-normal around `median`.
fn sessions(rng: &mut SmallRng, count: usize, median: f64) -> Sessions {
    let mut values = Vec::new();
    for session in 0..count {
        let own = 0.3 * normal(rng);
        values.extend((0..10).map(|_| (median * (own + 0.2 * normal(rng)).exp(), session)));
    }
    Sessions::new(values, count)
}

/// Returns how often the interval contained the true value, in percent.
fn coverage(trials: u32, truth: f64, mut one: impl FnMut(&mut SmallRng, u64) -> Estimate) -> u32 {
    let mut rng = SmallRng::seed_from_u64(11);
    let held = (0..trials).filter(|&trial| {
        let estimate = one(&mut rng, u64::from(trial));
        (estimate.low..=estimate.high).contains(&truth)
    });
    u32::try_from(held.count()).unwrap() * 100 / trials
}

#[test]
fn the_interval_holds_the_truth_about_as_often_as_it_says_of_runs() {
    for count in [4, 5, 10] {
        let held = coverage(300, 1.2, |rng, _| {
            let (before, after) = (runs(rng, count, 500.0, 0.05), runs(rng, count, 600.0, 0.05));
            ratio_of_runs(&before, &after, 1.0).unwrap().estimate
        });
        assert!((92..=98).contains(&held), "{count} runs: {held} %");
    }
}

#[test]
fn the_interval_holds_the_truth_about_as_often_as_it_says_of_sessions() {
    for quantile in [0.5, 0.95] {
        let held = coverage(100, 1.1, |rng, seed| {
            let (before, after) = (sessions(rng, 60, 500.0), sessions(rng, 60, 550.0));
            ratio_of_sessions(&before, &after, quantile, 1.0, seed).unwrap().estimate
        });
        assert!((89..=100).contains(&held), "p{quantile}: {held} %");
    }
}

/// Returns how many of 1,000 pairs without a difference cause an alarm. The expected share is 2.5 %.
fn alarms(mut one: impl FnMut(&mut SmallRng) -> f64) -> usize {
    let mut rng = SmallRng::seed_from_u64(3);
    (0..1_000).filter(|_| one(&mut rng) <= ALPHA).count()
}

#[test]
fn chance_is_rarely_taken_for_a_change() {
    let of_runs = alarms(|rng| {
        let (before, after) = (runs(rng, 4, 500.0, 0.1), runs(rng, 6, 500.0, 0.1));
        ratio_of_runs(&before, &after, 1.0).unwrap().p
    });
    assert!((5..=40).contains(&of_runs), "{of_runs}");
    // In a session that fails, all ten queries fail.
    let of_shares = alarms(|rng| {
        let mut side = || -> Vec<_> {
            let one = |_| Share { part: if rng.random_bool(0.05) { 10.0 } else { 0.0 }, whole: 10.0 };
            (0..100).map(one).collect()
        };
        difference_of_shares(&side(), &side(), 0.0).unwrap().p
    });
    assert!((1..=40).contains(&of_shares), "{of_shares}");
}

#[test]
fn a_large_change_is_seen_and_none_is_not() {
    let mut rng = SmallRng::seed_from_u64(5);
    let (before, after) = (runs(&mut rng, 6, 500.0, 0.01), runs(&mut rng, 6, 600.0, 0.01));
    let Tested { estimate: grown, p } = ratio_of_runs(&before, &after, 1.05).unwrap();
    assert!(grown.low > 1.15 && grown.high < 1.25 && p < 1e-4, "{grown:?} {p}");
    let same = ratio_of_runs(&before, &before, 1.0).unwrap();
    assert!(same.estimate.low <= 1.0 && same.estimate.high >= 1.0 && (same.p - 0.5).abs() < 1e-6, "{same:?}");
    let fixed = |figure: f64| ratio_of_runs(&[900.0; 4], &[figure; 4], 1.05).unwrap().p;
    assert_eq!((fixed(900.0), fixed(1000.0)), (1.0, 0.0), "without any noise");
    assert_eq!(ratio_of_runs(&[1.0], &after, 1.0), None);
    assert_eq!(ratio_of_runs(&[1.0, 0.0], &after, 1.0), None);
    let of_sessions = |factor: f64, bound: f64| {
        let mut rng = SmallRng::seed_from_u64(8);
        let (before, after) = (sessions(&mut rng, 60, 500.0), sessions(&mut rng, 60, 500.0 * factor));
        ratio_of_sessions(&before, &after, 0.5, bound, 1).unwrap()
    };
    assert!(of_sessions(1.5, 1.05).p < 0.001 && of_sessions(1.0, 1.05).p > 0.2);
    assert_eq!(of_sessions(1.5, 1.05), of_sessions(1.5, 1.05), "seeded");
}

#[test]
fn quantiles_are_those_of_the_sorted_list() {
    let sample = Sessions::new((1..=100).rev().map(|n| (f64::from(n), 0)).collect(), 1);
    for (quantile, expected) in [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (0.951, 96.0), (1.0, 100.0)] {
        assert_eq!(sample.quantile(quantile), Some(expected), "{quantile}");
    }
    assert_eq!(Sessions::default().quantile(0.5), None);
    let nothing = Sessions::default();
    assert_eq!(ratio_of_sessions(&nothing, &sample, 0.5, 1.0, 1), None);
}

#[test]
fn the_tails_are_those_of_the_tables() {
    assert!((normal_below(-1.959_964) - 0.025).abs() < 1e-6);
    assert!((normal_below(-1.0) - 0.158_655).abs() < 1e-5);
    for (freedom, t) in [(1.0, 12.706), (3.0, 3.182), (10.0, 2.228), (30.0, 2.042), (1e6, 1.960)] {
        assert!((t_quantile(freedom) - t).abs() < 2e-3, "{freedom}: {}", t_quantile(freedom));
    }
    // One side of 0.1 % with 5 degrees of freedom, and of 90 %.
    assert!((t_above(5.893, 5.0) - 0.001).abs() < 1e-5 && (t_above(-1.476, 5.0) - 0.9).abs() < 1e-3);
    assert!((tail(1_000_000) - 0.025).abs() < 1e-5);
    assert!(tail(5) < 0.001 && tail(30) > 0.015);
}

#[test]
fn a_difference_of_shares_is_the_published_one() {
    let share = |part: u32, whole: u32| [Share { part: f64::from(part), whole: f64::from(whole) }];
    // Newcombe's own example: 56/70 and 48/80 differ by 0.0524 to 0.3339. One session has no noise between sessions.
    let found = difference_of_shares(&share(48, 80), &share(56, 70), 0.0).unwrap();
    let Estimate { value, low, high } = found.estimate;
    assert!((value - 0.2).abs() < 1e-9, "{found:?}");
    assert!((low - 0.0524).abs() < 1e-4 && (high - 0.3339).abs() < 1e-4, "{found:?}");
    assert!(found.p < 0.01 && difference_of_shares(&share(48, 80), &share(56, 70), 0.1).unwrap().p > ALPHA);
    assert_eq!(difference_of_shares(&share(0, 0), &share(1, 2), 0.0), None);
    let none = difference_of_shares(&share(0, 1000), &share(0, 1000), 0.0).unwrap();
    assert!(none.estimate.low < 0.0 && none.estimate.high > 0.0 && none.p > 0.5, "{none:?}");
}

#[test]
fn queries_of_one_session_are_not_independent() {
    let side = |failing: usize, each: f64| -> Vec<_> {
        (0..60).map(|n| Share { part: if n < failing { each } else { 0.0 }, whole: 10.0 }).collect()
    };
    let p = |failing, each| difference_of_shares(&side(0, 0.0), &side(failing, each), 0.0).unwrap().p;
    assert!(p(30, 1.0) < 1e-4, "30 failures in 30 sessions");
    assert!(p(3, 10.0) > ALPHA, "30 failures in three sessions");
    assert!(p(12, 10.0) < ALPHA / 7.0, "twelve sessions are many");
}

#[test]
fn several_figures_need_more_than_one() {
    assert_eq!(holm(&[0.02]), [true]);
    assert_eq!(holm(&[0.02, 0.9, 0.9]), [false, false, false]);
    assert_eq!(holm(&[0.012, 0.9, 0.001]), [true, false, true], "each rejection makes room for the next");
    assert_eq!(holm(&[]), Vec::<bool>::new());
}

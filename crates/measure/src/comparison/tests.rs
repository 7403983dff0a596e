//! False alarms of whole comparisons, and the names of figures.

use super::{
    statistics::{Sessions, Share},
    *,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Generates a run: durations with noise between runs, between sessions and between queries. One session in fifty fails
/// entirely, and one in a hundred loses half of its tokens.
fn random_run(rng: &mut SmallRng, compared: &[ComparedFigure], sessions: usize, noise: f64) -> ComparedRun {
    // Approximately normal, with deviation 1.
    let normal = |rng: &mut SmallRng| (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0;
    let mut run = ComparedRun::default();
    let common = normal(rng);
    for one in compared {
        let of_run = (noise * (0.7 * common + 0.7 * normal(rng))).exp();
        let mut values = Vec::new();
        for session in 0..sessions {
            let own = 0.1 * normal(rng);
            values.extend((0..4).map(|_| (500.0 * of_run * (own + 0.05 * normal(rng)).exp(), session)));
        }
        run.rows.insert(one.metric.clone(), Sessions::new(values, sessions));
    }
    for _ in 0..sessions {
        let (fails, loses) = (rng.random_bool(0.02), rng.random_bool(0.01));
        let failed = Share { part: if fails { 5.0 } else { 0.0 }, whole: 5.0 };
        let broken = Share { part: if loses { 45.0 } else { 0.0 }, whole: 90.0 };
        run.sessions.push(Shares { failed, broken });
    }
    run.sum_sessions();
    run
}

/// Compares two runs per side, or five, without a difference. The figures of a run have noise in common and noise of their
/// own, and whole sessions fail and lose tokens by chance.
#[test]
fn pairs_without_a_difference_rarely_regress() {
    for (runs_per_side, noise, sessions, figures) in [(1, 0.03, 25, 2), (5, 0.1, 25, 5)] {
        let compared = &ComparedFigure::defaults()[5 - figures..];
        let options = ComparisonOptions {
            compared: compared.to_vec(),
            tolerance: 0.0,
            least_ms: 1.0,
            failure_tolerance: 0.0,
            assumed_noise: 0.15,
            seed: 1,
        };
        let mut rng = SmallRng::seed_from_u64(7);
        let mut side = || -> Vec<ComparedRun> {
            (0..runs_per_side).map(|_| random_run(&mut rng, compared, sessions, noise)).collect()
        };
        let alarm = |_: &usize| {
            let (baseline, candidate) = (side(), side());
            judge(&options, &baseline, &candidate).exit_code() == 99
        };
        let alarms = (0..200).filter(alarm).count();
        assert!(alarms <= 10, "{alarms} of 200 with {runs_per_side} runs per side");
    }
}

#[test]
fn a_figure_is_a_percentile_of_a_duration() {
    let parse = |text: &str| text.parse::<ComparedFigure>();
    assert!(parse("e2e:p95").unwrap_err().contains("e2el_ms"));
    assert!(parse("e2el_ms:avg").is_err());
    assert!(parse("e2el_ms:p0.95").unwrap_err().contains("did you mean p95?"));
    assert_eq!(ComparedFigure::defaults().len(), 5);
}

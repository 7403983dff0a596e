//! The growth of memory over the steady state: the least-squares slope of a role's or process's resident memory, in MB per hour.

use crate::{series::Series, trend::slope};

/// Shortest steady state for a slope, in seconds. In less time, the memory that a process takes once looks like a leak.
pub const SHORTEST_S: u64 = 300;
/// Share of the steady state that the samples must span.
const COVERED: f64 = 0.8;
const SECONDS_PER_HOUR: f64 = 3_600.0;

/// Returns the slope of memory in MB per hour from second `from_s` to `to_s`.
///
/// # Errors
/// The steady state is shorter than five minutes, or there are too few samples in it.
#[allow(clippy::cast_precision_loss)]
pub fn mb_per_hour(memory: &Series, from_s: u64, to_s: u64) -> Result<f64, String> {
    let length = to_s.saturating_sub(from_s);
    if length < SHORTEST_S {
        return Err(format!("its slope needs {SHORTEST_S} s of steady state, and this run had {length} s"));
    }
    let points: Vec<_> =
        memory.points().filter(|(second, _)| (from_s as f64..=to_s as f64).contains(second)).collect();
    let span = points.first().zip(points.last()).map_or(0.0, |(first, last)| last.0 - first.0);
    if span < length as f64 * COVERED {
        return Err(format!("its samples cover {span:.0} s of {length} s of steady state"));
    }
    let (slope, _) = slope(&points).ok_or("it has too few samples in the steady state")?;
    Ok(slope * SECONDS_PER_HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the slope of a series of this many seconds, all of them steady.
    fn slope_of(seconds: u32, memory: impl Fn(f64) -> f64) -> Result<f64, String> {
        let mut series = Series::default();
        (0..=seconds).map(f64::from).for_each(|second| series.add(second, memory(second)));
        mb_per_hour(&series, 0, seconds.into())
    }

    fn near(slope: Result<f64, String>, expected: f64, tolerance: f64) {
        let slope = slope.unwrap();
        assert!((slope - expected).abs() <= tolerance, "{slope}, expected {expected}");
    }

    #[test]
    fn a_line_has_its_slope_over_minutes_and_over_a_day() {
        for seconds in [300, 3_600, 86_400] {
            near(slope_of(seconds, |s| 80.0 + 36.0 * s / 3_600.0), 36.0, 0.1);
            near(slope_of(seconds, |s| 500.0 - 5.0 * s / 3_600.0), -5.0, 0.1);
            near(slope_of(seconds, |_| 80.0), 0.0, 1e-9);
        }
    }

    #[test]
    fn a_sawtooth_does_not_grow_but_its_floor_may() {
        // 20 MB more in each minute, which are then freed.
        let teeth = |s: f64| s % 60.0 / 60.0 * 20.0;
        near(slope_of(3_600, |s| 100.0 + teeth(s)), 0.0, 1.5);
        near(slope_of(3_600, |s| 100.0 + teeth(s) + 30.0 * s / 3_600.0), 30.0, 1.5);
    }

    #[test]
    fn a_step_counts_as_growth_and_less_so_in_a_longer_run() {
        // Least squares: a step in the middle of T hours has 1.5 times its height divided by T.
        near(slope_of(3_600, |s| if s < 1_800.0 { 100.0 } else { 110.0 }), 15.0, 0.2);
        near(slope_of(36_000, |s| if s < 18_000.0 { 100.0 } else { 110.0 }), 1.5, 0.1);
    }

    #[test]
    fn what_is_too_short_or_has_gaps_is_not_measured() {
        assert!(
            slope_of(299, |s| s).unwrap_err().contains("needs 300 s of steady state, and this run had 299 s")
        );
        let mut series = Series::default();
        assert!(mb_per_hour(&series, 0, 400).unwrap_err().contains("cover 0 s of 400 s"));
        (0..100).map(f64::from).for_each(|second| series.add(second, 1.0));
        assert!(mb_per_hour(&series, 0, 400).unwrap_err().contains("cover 99 s of 400 s"));
        assert!(mb_per_hour(&series, 500, 400).is_err(), "not in order");
    }

    #[test]
    fn samples_before_and_after_the_steady_state_do_not_count() {
        let mut series = Series::default();
        for second in (0..=1_000).map(f64::from) {
            series.add(
                second,
                if second < 200.0 {
                    10.0 * second
                } else if second > 800.0 {
                    0.0
                } else {
                    50.0
                },
            );
        }
        near(mb_per_hour(&series, 210, 790), 0.0, 1e-6);
    }
}

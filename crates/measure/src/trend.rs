//! Linear regression through a series: slope and standard error.

/// Returns the points of the second half of a run, because memory that fills at the beginning is not a leak.
#[must_use]
pub fn second_half(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let ends = points.first().zip(points.last()).map_or((0.0, 0.0), |(first, last)| (first.0, last.0));
    points.into_iter().filter(|point| point.0 >= f64::midpoint(ends.0, ends.1)).collect()
}

/// Returns the least-squares slope and its standard error, or `None` for fewer than ten points.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn slope(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    if points.len() < 10 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let sxx: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let sxy: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if sxx <= 0.0 {
        return None;
    }
    let slope = sxy / sxx;
    let residual: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    Some((slope, (residual / (n - 2.0) / sxx).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_at_the_beginning_is_left_out() {
        let points = vec![(10.0, 0.0), (20.0, 7.0), (29.0, 8.0), (30.0, 9.0), (50.0, 9.0)];
        assert_eq!(second_half(points), [(30.0, 9.0), (50.0, 9.0)]);
        assert_eq!(second_half(Vec::new()), []);
    }

    #[test]
    fn the_slope_of_a_line_is_its_slope() {
        let line: Vec<_> = (0..20).map(|x| (f64::from(x), 3.0 + 2.0 * f64::from(x))).collect();
        let (slope_of_it, error) = slope(&line).unwrap();
        assert!((slope_of_it - 2.0).abs() < 1e-9 && error < 1e-6);
        assert_eq!(slope(&line[..9]), None);
        assert_eq!(slope(&[(1.0, 1.0); 20]), None);
    }
}

//! Downsampling of values over the seconds of a run: neighbouring buckets are merged when there are too many.
//! Values are never interpolated, and values that are not finite are ignored.

/// Largest number of points, more than a chart has pixels.
const MAX: usize = 600;
/// Smallest width of a bucket in seconds.
const FINEST: f64 = 1.0;

/// Points (second of the run, value).
pub(super) type Line = Vec<(f64, f64)>;

/// How the values of a bucket are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Aggregation {
    /// Maximum, for latencies and levels.
    #[default]
    Highest,
    /// Mean, for rates.
    Mean,
}

/// A line that is downsampled while values are added. Values must be in order of time. A late value counts in the last bucket.
#[derive(Clone, Debug)]
pub(super) struct Downsampled {
    aggregation: Aggregation,
    width: f64,
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: f64,
    sum: f64,
    most: f64,
    count: f64,
}

impl Downsampled {
    pub(super) const fn new(aggregation: Aggregation) -> Self {
        Self { aggregation, width: FINEST, buckets: Vec::new() }
    }

    pub(super) fn push(&mut self, at: f64, value: f64) {
        if !(at.is_finite() && value.is_finite()) {
            return;
        }
        let number = (at / self.width).floor();
        self.add(Bucket { number, sum: value, most: value, count: 1.0 });
        while self.buckets.len() > MAX {
            self.width *= 2.0;
            for bucket in std::mem::take(&mut self.buckets) {
                self.add(Bucket { number: (bucket.number / 2.0).floor(), ..bucket });
            }
        }
    }

    fn add(&mut self, new: Bucket) {
        match self.buckets.last_mut().filter(|last| last.number >= new.number) {
            Some(last) => {
                last.sum += new.sum;
                last.most = last.most.max(new.most);
                last.count += new.count;
            }
            None => self.buckets.push(new),
        }
    }

    /// Returns the start of each bucket in seconds, with its value.
    pub(super) fn line(&self) -> Line {
        let point = |bucket: &Bucket| {
            let value = match self.aggregation {
                Aggregation::Highest => bucket.most,
                Aggregation::Mean => bucket.sum / bucket.count,
            };
            (bucket.number * self.width, value)
        };
        self.buckets.iter().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn downsample(aggregation: Aggregation, values: impl Iterator<Item = (f64, f64)>) -> Line {
        let mut downsample = Downsampled::new(aggregation);
        values.for_each(|(at, value)| downsample.push(at, value));
        downsample.line()
    }

    #[test]
    fn four_hours_keep_their_peak_and_their_mean() {
        let spike = |at| (f64::from(at), if at == 7_777 { 600.0 } else { 1.0 });
        let highest = downsample(Aggregation::Highest, (0..14_400).map(spike));
        assert!(highest.len() <= MAX, "{}", highest.len());
        assert_eq!(highest.iter().filter(|point| point.1 > 1.0).collect::<Vec<_>>(), [&(7_776.0, 600.0)]);
        let mean = downsample(Aggregation::Mean, (0..14_400).map(|at| (f64::from(at), f64::from(at % 2))));
        assert!(mean.iter().all(|point| (point.1 - 0.5).abs() < 1e-9));
    }

    #[test]
    fn short_runs_keep_every_second_and_holes_stay_holes() {
        let line = vec![(0.0, 1.0), (1.0, 2.0), (30.0, 3.0)];
        assert_eq!(downsample(Aggregation::Mean, line.iter().copied()), line);
        let odd = [(2.0, 5.0), (1.0, 9.0), (f64::NAN, 1.0), (3.0, f64::INFINITY)];
        assert_eq!(downsample(Aggregation::Highest, odd.into_iter()), [(2.0, 9.0)]);
    }
}

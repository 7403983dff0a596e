//! A series of values over time whose size does not grow with its length: neighbouring values are merged to their mean.

/// Largest number of blocks. Beyond it, neighbouring blocks are merged.
const MAX_BLOCKS: usize = 512;

/// Values over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Mean second of a block, mean value, number of values.
    blocks: Vec<(f64, f64, u32)>,
    /// Values per block.
    width: u32,
}

impl Series {
    /// Adds the value at a second. Seconds do not decrease.
    pub fn add(&mut self, second: f64, value: f64) {
        self.width = self.width.max(1);
        match self.blocks.last_mut().filter(|block| block.2 < self.width) {
            Some(block) => {
                let values = f64::from(block.2);
                let mean = |old: f64, new: f64| (old * values + new) / (values + 1.0);
                *block = (mean(block.0, second), mean(block.1, value), block.2 + 1);
            }
            None => self.blocks.push((second, value, 1)),
        }
        if self.blocks.len() > MAX_BLOCKS {
            self.width *= 2;
            let half = |pair: &[(f64, f64, u32)]| match pair {
                [a, b] => (f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1), a.2 + b.2),
                _ => pair[0],
            };
            self.blocks = self.blocks.chunks(2).map(half).collect();
        }
    }

    /// Iterates over second and value.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.blocks.iter().map(|block| (block.0, block.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_bounded_and_true() {
        let mut series = Series::default();
        for second in 0..86_400 {
            let second = f64::from(second);
            series.add(second, 100.0 + second / 1_000.0);
        }
        let points: Vec<_> = series.points().collect();
        assert!(points.len() <= MAX_BLOCKS, "{}", points.len());
        for (at, value) in points {
            assert!((value - 100.0 - at / 1_000.0).abs() < 0.5, "{at}: {value}");
        }
    }
}

//! What was read beside the run, a second at a time: health checks, restarts, memory and CPU, and their sums over any stretch.
//! It reads nothing itself, and what nobody read has no figure.

use super::{Distribution, Statistic};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Seconds that wait to be written; a writer further behind than this loses the oldest.
const MAX_SECONDS: usize = 120;
/// Figures that are told apart; readings of further ones count in their sums alone.
const MAX_FIGURES: usize = 4_000;

/// What can be read, named as in thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// How long a health check took, milliseconds: a distribution.
    HealthMs,
    /// Health checks that failed: summed.
    HealthFailures,
    /// Processes that another took the place of: summed.
    Restarts,
    /// Resident memory, MB: the most.
    RssMb,
    /// Cores in use: the mean.
    CpuShare,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::HealthMs, Self::HealthFailures, Self::Restarts, Self::RssMb, Self::CpuShare];

    /// As a threshold names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HealthMs => "health_ms",
            Self::HealthFailures => "health_failures",
            Self::Restarts => "restarts",
            Self::RssMb => "rss_mb",
            Self::CpuShare => "cpu_share",
        }
    }

    /// Readings of several processes make one figure together: the others are somebody's own.
    #[must_use]
    pub const fn adds_up(self) -> bool {
        matches!(self, Self::HealthMs | Self::HealthFailures | Self::Restarts)
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Of what.
    pub quantity: Quantity,
    /// Whose: `wsproxy-1`, `redis`, a door (`api`); of memory and CPU also a whole role (`wsproxy`).
    pub label: String,
    /// In the quantity's unit.
    pub value: f64,
}

/// What `wsproxy-1` is.
#[must_use]
pub fn role(process: &str) -> &str {
    process.split('-').next().unwrap_or(process)
}

/// What a threshold asks for: `health_ms{api}:p95`, `rss_mb{redis}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingSelector {
    /// Of what.
    pub quantity: Quantity,
    /// Whose; everybody's where absent.
    pub label: Option<String>,
    /// Of distributions.
    pub statistic: Option<Statistic>,
}

impl ReadingSelector {
    /// Whether a reading counts for it.
    #[must_use]
    pub fn selects(&self, reading: &Reading) -> bool {
        let is_meant = |label: &String| {
            *label == reading.label || (self.quantity.adds_up() && role(&reading.label) == label)
        };
        self.quantity == reading.quantity && self.label.as_ref().is_none_or(is_meant)
    }
}

/// Readings of one quantity over a stretch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadingStats {
    count: u64,
    sum: f64,
    most: f64,
    /// Of durations alone.
    distribution: Distribution,
}

impl ReadingStats {
    /// Takes one.
    pub fn add(&mut self, quantity: Quantity, value: f64) {
        self.most = if self.count == 0 { value } else { self.most.max(value) };
        self.count += 1;
        self.sum += value;
        if quantity == Quantity::HealthMs {
            #[allow(clippy::cast_possible_truncation)]
            self.distribution.record((value * 1e6) as i64);
        }
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.most = match (self.count, other.count) {
            (0, _) => other.most,
            (_, 0) => self.most,
            _ => self.most.max(other.most),
        };
        self.count += other.count;
        self.sum += other.sum;
        self.distribution.merge(&other.distribution);
    }

    /// The figure.
    ///
    /// # Errors
    /// Nothing was read, or too little for the statistic.
    pub fn figure(&self, quantity: Quantity, statistic: Option<Statistic>) -> Result<f64, String> {
        if self.count == 0 {
            return Err("nothing watched it in this run".to_owned());
        }
        match (quantity, statistic) {
            (Quantity::HealthMs, Some(statistic)) => statistic.of(&self.distribution),
            (Quantity::HealthMs, None) => Err("it has no statistic".to_owned()),
            (Quantity::HealthFailures | Quantity::Restarts, _) => Ok(self.sum),
            (Quantity::RssMb, _) => Ok(self.most),
            #[allow(clippy::cast_precision_loss)]
            (Quantity::CpuShare, _) => Ok(self.sum / self.count as f64),
        }
    }

    /// The distribution, of durations.
    #[must_use]
    pub const fn distribution(&self) -> &Distribution {
        &self.distribution
    }
}

/// Readings of the whole run, by quantity and by whose they are; without a name: everybody's.
#[derive(Clone, Debug, Default)]
pub struct ReadingTotals(BTreeMap<(Quantity, Option<String>), ReadingStats>);

impl ReadingTotals {
    /// Takes one.
    pub fn add(&mut self, reading: &Reading) {
        let own = Some(reading.label.clone());
        let role = Some(role(&reading.label).to_owned()).filter(|role| *role != reading.label);
        let wider = if reading.quantity.adds_up() { vec![role, None] } else { Vec::new() };
        let wider = wider.into_iter().enumerate().filter(|(at, label)| *at == 1 || label.is_some());
        for label in std::iter::once(own).chain(wider.map(|(_, label)| label)) {
            let key = (reading.quantity, label);
            if self.0.len() < MAX_FIGURES || key.1.is_none() || self.0.contains_key(&key) {
                self.0.entry(key).or_default().add(reading.quantity, reading.value);
            }
        }
    }

    /// The figure that is asked for.
    ///
    /// # Errors
    /// Nothing was read of it, or too little.
    pub fn figure(&self, selector: &ReadingSelector) -> Result<f64, String> {
        let nothing = ReadingStats::default();
        let readings = self.0.get(&(selector.quantity, selector.label.clone())).unwrap_or(&nothing);
        readings.figure(selector.quantity, selector.statistic)
    }

    /// All of them: of what, whose, and what was read.
    pub fn iter(&self) -> impl Iterator<Item = (Quantity, Option<&str>, &ReadingStats)> {
        self.0.iter().map(|((quantity, label), readings)| (*quantity, label.as_deref(), readings))
    }
}

/// Where the watch puts what it read, and the results take it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ReadingBuffer(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    totals: ReadingTotals,
    waiting: BTreeMap<u64, Vec<Reading>>,
    /// The first second that was not taken yet.
    next: u64,
    dropped: u64,
    /// Who reads, and which second each has reached.
    watchers: BTreeMap<u64, u64>,
    /// How many there were.
    joined: u64,
}

/// Somebody who reads, one second after the other: each second waits for it. Drop it when it reads no more.
#[derive(Debug)]
pub struct ReadingProducer {
    number: u64,
    readings: ReadingBuffer,
}

impl ReadingProducer {
    /// It will tell nothing more of what was before this second.
    pub fn has_reached(&self, second: u64) {
        self.readings.0.lock().watchers.insert(self.number, second);
    }
}

impl Drop for ReadingProducer {
    fn drop(&mut self) {
        self.readings.0.lock().watchers.remove(&self.number);
    }
}

impl ReadingBuffer {
    /// Somebody begins to read, at second 0.
    #[must_use]
    pub fn producer(&self) -> ReadingProducer {
        let mut shared = self.0.lock();
        let number = shared.joined;
        shared.joined += 1;
        shared.watchers.insert(number, 0);
        ReadingProducer { number, readings: self.clone() }
    }

    /// The second that everybody who reads has reached: nothing more is to come of those before it.
    #[must_use]
    pub fn reached(&self) -> u64 {
        self.0.lock().watchers.values().copied().min().unwrap_or(u64::MAX)
    }

    /// What was read of a second of the run.
    pub fn tell(&self, second: u64, readings: Vec<Reading>) {
        let mut shared = self.0.lock();
        readings.iter().for_each(|reading| shared.totals.add(reading));
        if second < shared.next {
            shared.dropped += readings.len() as u64;
            return;
        }
        shared.waiting.entry(second).or_default().extend(readings);
        if shared.waiting.len() > MAX_SECONDS
            && let Some((_, oldest)) = shared.waiting.pop_first()
        {
            shared.dropped += oldest.len() as u64;
        }
    }

    /// What was read of a second, once; earlier ones are then gone.
    #[must_use]
    pub fn take(&self, second: u64) -> Vec<Reading> {
        let mut shared = self.0.lock();
        shared.next = second + 1;
        let later = shared.waiting.split_off(&(second + 1));
        let mut past = std::mem::replace(&mut shared.waiting, later);
        let taken = past.remove(&second).unwrap_or_default();
        shared.dropped += past.values().map(|readings| readings.len() as u64).sum::<u64>();
        taken
    }

    /// Everything that was read so far.
    #[must_use]
    pub fn totals(&self) -> ReadingTotals {
        self.0.lock().totals.clone()
    }

    /// Readings that came too late for their second, or waited too long; they are in the totals all the same.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(quantity: Quantity, label: &str, value: f64) -> Reading {
        Reading { quantity, label: label.to_owned(), value }
    }

    fn selector(quantity: Quantity, label: Option<&str>) -> ReadingSelector {
        let statistic = (quantity == Quantity::HealthMs).then_some(Statistic::Max);
        ReadingSelector { quantity, label: label.map(str::to_owned), statistic }
    }

    #[test]
    fn each_quantity_has_its_sum() {
        let mut totals = ReadingTotals::default();
        for (quantity, label, value) in [
            (Quantity::RssMb, "redis", 10.0),
            (Quantity::RssMb, "redis", 30.0),
            (Quantity::RssMb, "redis", 20.0),
            (Quantity::CpuShare, "wsproxy", 0.5),
            (Quantity::CpuShare, "wsproxy", 1.5),
            (Quantity::Restarts, "wsproxy-1", 1.0),
            (Quantity::Restarts, "wsproxy-2", 2.0),
            (Quantity::Restarts, "redis", 0.0),
            (Quantity::HealthMs, "api", 4.0),
            (Quantity::HealthMs, "server-1", 9.0),
        ] {
            totals.add(&reading(quantity, label, value));
        }
        for (quantity, label, expected) in [
            (Quantity::RssMb, Some("redis"), 30.0),
            (Quantity::CpuShare, Some("wsproxy"), 1.0),
            (Quantity::Restarts, Some("wsproxy-2"), 2.0),
            (Quantity::Restarts, Some("wsproxy"), 3.0),
            (Quantity::Restarts, Some("redis"), 0.0),
            (Quantity::Restarts, None, 3.0),
            (Quantity::HealthMs, Some("api"), 4.0),
            (Quantity::HealthMs, None, 9.0),
        ] {
            let figure = totals.figure(&selector(quantity, label)).unwrap();
            assert!((figure - expected).abs() < 0.02, "{quantity:?} {label:?}: {figure}");
        }
        for (quantity, label) in
            [(Quantity::RssMb, None), (Quantity::RssMb, Some("haproxy")), (Quantity::HealthFailures, None)]
        {
            assert!(totals.figure(&selector(quantity, label)).unwrap_err().contains("nothing watched"));
        }
    }

    #[test]
    fn merging_is_reading_both() {
        let of = |values: &[f64]| {
            let mut readings = ReadingStats::default();
            values.iter().for_each(|&value| readings.add(Quantity::RssMb, value));
            readings
        };
        for (a, b) in
            [(vec![], vec![]), (vec![], vec![-1.0]), (vec![3.0], vec![]), (vec![1.0, 5.0], vec![4.0])]
        {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            assert_eq!(merged, of(&[a, b].concat()));
        }
    }

    #[test]
    fn a_second_is_taken_once_and_what_is_late_is_counted() {
        let readings = ReadingBuffer::default();
        let one = || vec![reading(Quantity::RssMb, "redis", 1.0)];
        readings.tell(0, one());
        readings.tell(1, one());
        readings.tell(1, one());
        assert_eq!(readings.take(1).len(), 2);
        assert_eq!(readings.dropped(), 1, "second 0 was never taken");
        readings.tell(1, one());
        assert_eq!((readings.take(2).len(), readings.dropped()), (0, 2));
        for second in 3..=200 {
            readings.tell(second, one());
        }
        assert_eq!(readings.dropped(), 2 + 198 - MAX_SECONDS as u64);
        assert_eq!(readings.totals().iter().count(), 1);
    }

    #[test]
    fn a_second_is_complete_when_everybody_who_reads_has_passed_it() {
        let readings = ReadingBuffer::default();
        assert_eq!(readings.reached(), u64::MAX, "nobody reads");
        let (quick, slow) = (readings.producer(), readings.producer());
        quick.has_reached(5);
        assert_eq!(readings.reached(), 0);
        slow.has_reached(3);
        assert_eq!(readings.reached(), 3);
        drop(slow);
        assert_eq!(readings.reached(), 5);
    }
}

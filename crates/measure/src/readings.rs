//! Monitoring readings of each second (health checks, restarts, memory, CPU) and their statistics over a window or the run.
//! The monitor threads of the `load` crate produce the readings; a quantity without readings has no figure.

use super::{Distribution, Statistic, Steady, growth::mb_per_hour, series::Series};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Seconds that the buffer holds for the writer. A writer further behind than this loses the oldest ones.
const MAX_SECONDS: usize = 120;
/// Largest number of figures with a label. Readings of further labels count only in the totals without a label.
const MAX_FIGURES: usize = 4_000;
/// Largest number of series of memory.
const MAX_SERIES: usize = 1_000;

/// A monitored quantity, named as in thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Duration of health checks in milliseconds. Kept as a distribution.
    HealthMs,
    /// Failed health checks. Summed.
    HealthFailures,
    /// Processes that were replaced by a new one. Summed.
    Restarts,
    /// Resident memory in MB. The maximum counts.
    RssMb,
    /// Growth of resident memory over the steady state, in MB per hour. It has no readings: it is computed from those of the memory.
    RssGrowth,
    /// CPU cores in use. The mean counts.
    CpuShare,
}

impl Quantity {
    /// All quantities.
    pub const ALL: [Self; 6] =
        [Self::HealthMs, Self::HealthFailures, Self::Restarts, Self::RssMb, Self::RssGrowth, Self::CpuShare];

    /// Returns the name in thresholds.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HealthMs => "health_ms",
            Self::HealthFailures => "health_failures",
            Self::Restarts => "restarts",
            Self::RssMb => "rss_mb",
            Self::RssGrowth => "rss_growth_mb_per_h",
            Self::CpuShare => "cpu_share",
        }
    }

    /// Returns whether readings of several processes can be combined into one figure. Memory and CPU cannot: each belongs to
    /// one process or role.
    #[must_use]
    pub const fn adds_up(self) -> bool {
        matches!(self, Self::HealthMs | Self::HealthFailures | Self::Restarts)
    }
}

/// One reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What was read.
    pub quantity: Quantity,
    /// Process or health target: `wsproxy-1`, `redis`, `api`. For memory and CPU also a whole role (`wsproxy`).
    pub label: String,
    /// Value in the unit of the quantity.
    pub value: f64,
}

/// Returns the role of a process: `wsproxy` for `wsproxy-1`.
#[must_use]
pub fn role(process: &str) -> &str {
    process.split('-').next().unwrap_or(process)
}

/// Selects the readings of a threshold such as `health_ms{api}:p95` or `rss_mb{redis}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingSelector {
    /// Quantity to select.
    pub quantity: Quantity,
    /// Process, role or health target. `None` selects all of them.
    pub label: Option<String>,
    /// Statistic, for quantities with a distribution.
    pub statistic: Option<Statistic>,
}

impl ReadingSelector {
    /// Returns whether the selector matches a reading.
    #[must_use]
    pub fn selects(&self, reading: &Reading) -> bool {
        let matches_label = |label: &String| {
            *label == reading.label || (self.quantity.adds_up() && role(&reading.label) == label)
        };
        self.quantity == reading.quantity && self.label.as_ref().is_none_or(matches_label)
    }
}

/// Statistics of one quantity over a window or the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadingStats {
    count: u64,
    sum: f64,
    most: f64,
    /// Distribution. Empty unless the quantity is a duration.
    distribution: Distribution,
}

impl ReadingStats {
    /// Adds a value.
    pub fn add(&mut self, quantity: Quantity, value: f64) {
        self.most = if self.count == 0 { value } else { self.most.max(value) };
        self.count += 1;
        self.sum += value;
        if quantity == Quantity::HealthMs {
            #[allow(clippy::cast_possible_truncation)]
            self.distribution.record((value * 1e6) as i64);
        }
    }

    /// Merges `other` into this one.
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

    /// Returns the figure of a quantity.
    ///
    /// # Errors
    /// There are no readings, or too few for the statistic.
    pub fn figure(&self, quantity: Quantity, statistic: Option<Statistic>) -> Result<f64, String> {
        if self.count == 0 {
            return Err("it was not monitored in this run".to_owned());
        }
        match (quantity, statistic) {
            (Quantity::HealthMs, Some(statistic)) => statistic.of(&self.distribution),
            (Quantity::HealthMs, None) => Err("it has no statistic".to_owned()),
            (Quantity::HealthFailures | Quantity::Restarts, _) => Ok(self.sum),
            (Quantity::RssMb, _) => Ok(self.most),
            (Quantity::RssGrowth, _) => Err("it has a value for the steady state only".to_owned()),
            #[allow(clippy::cast_precision_loss)]
            (Quantity::CpuShare, _) => Ok(self.sum / self.count as f64),
        }
    }

    /// Returns the distribution. Empty unless the quantity is a duration.
    #[must_use]
    pub const fn distribution(&self) -> &Distribution {
        &self.distribution
    }
}

/// Time at the ends of the steady state without a reading of a process that may still have run: a share of it, and at least so many seconds.
const UNREAD: f64 = 0.05;
const UNREAD_S: f64 = 10.0;

/// Statistics of the whole run by quantity and label. The entry without a label covers all processes.
#[derive(Clone, Debug, Default)]
pub struct ReadingTotals {
    stats: BTreeMap<(Quantity, Option<String>), ReadingStats>,
    /// Memory over time in MB, by process or role.
    memory: BTreeMap<String, Series>,
}

impl ReadingTotals {
    /// Adds a reading of a second of the run.
    pub fn add(&mut self, second: u64, reading: &Reading) {
        let is_known = self.memory.contains_key(&reading.label);
        if reading.quantity == Quantity::RssMb && (is_known || self.memory.len() < MAX_SERIES) {
            #[allow(clippy::cast_precision_loss)]
            self.memory.entry(reading.label.clone()).or_default().add(second as f64, reading.value);
        }
        let own = Some(reading.label.clone());
        let role = Some(role(&reading.label).to_owned()).filter(|role| *role != reading.label);
        let wider = if reading.quantity.adds_up() { vec![role, None] } else { Vec::new() };
        let wider = wider.into_iter().enumerate().filter(|(at, label)| *at == 1 || label.is_some());
        for label in std::iter::once(own).chain(wider.map(|(_, label)| label)) {
            let key = (reading.quantity, label);
            if self.stats.len() < MAX_FIGURES || key.1.is_none() || self.stats.contains_key(&key) {
                self.stats.entry(key).or_default().add(reading.quantity, reading.value);
            }
        }
    }

    /// Returns the figure that the selector asks for.
    ///
    /// # Errors
    /// There are no such readings, or too few for the statistic.
    pub fn figure(&self, selector: &ReadingSelector) -> Result<f64, String> {
        let nothing = ReadingStats::default();
        let readings = self.stats.get(&(selector.quantity, selector.label.clone())).unwrap_or(&nothing);
        readings.figure(selector.quantity, selector.statistic)
    }

    /// Returns the growth of the memory of a process or role over the steady state, in MB per hour.
    ///
    /// # Errors
    /// Its memory was not monitored, or the steady state is too short.
    pub fn growth(&self, label: Option<&str>, steady: Option<&Steady>) -> Result<f64, String> {
        let memory = label.and_then(|label| self.memory.get(label));
        let memory = memory.ok_or_else(|| "it was not monitored in this run".to_owned())?;
        let steady = steady.ok_or_else(|| "the run had no steady state of 10 s or more".to_owned())?;
        if let Some(process) = label.and_then(|label| self.came_or_left(label, steady)) {
            return Err(format!(
                "{process} did not run in the whole steady state, so that the sum grew or fell by its memory"
            ));
        }
        mb_per_hour(memory, steady.from_s, steady.to_s)
    }

    /// Returns a process of a role that started or ended in the steady state.
    #[allow(clippy::cast_precision_loss)]
    fn came_or_left(&self, label: &str, steady: &Steady) -> Option<&str> {
        let (from, to) = (steady.from_s as f64, steady.to_s as f64);
        let is_partial = |series: &Series| {
            let mut inside = series.points().map(|(second, _)| second).filter(|at| (from..=to).contains(at));
            let slack = ((to - from) * UNREAD).max(UNREAD_S);
            let first = inside.next();
            first.is_some_and(|first| first > from + slack || inside.last().unwrap_or(first) < to - slack)
        };
        let processes = self.memory.iter().filter(|(name, _)| *name != label && role(name) == label);
        processes.filter(|(_, series)| is_partial(series)).map(|(name, _)| name.as_str()).next()
    }

    /// Iterates over the processes and roles whose memory was monitored.
    pub fn with_memory(&self) -> impl Iterator<Item = &str> {
        self.memory.keys().map(String::as_str)
    }

    /// Iterates over quantity, label and statistics.
    pub fn iter(&self) -> impl Iterator<Item = (Quantity, Option<&str>, &ReadingStats)> {
        self.stats.iter().map(|((quantity, label), readings)| (*quantity, label.as_deref(), readings))
    }
}

/// Buffer between the monitor threads, which add readings, and the collector, which takes them second by second.
/// Clones share the buffer.
#[derive(Clone, Debug, Default)]
pub struct ReadingBuffer(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    totals: ReadingTotals,
    waiting: BTreeMap<u64, Vec<Reading>>,
    /// First second that was not taken yet.
    next: u64,
    dropped: u64,
    /// Active producers with the second that each has reached.
    watchers: BTreeMap<u64, u64>,
    /// Number of producers so far, for their identifiers.
    joined: u64,
}

/// Registration of a monitor thread. A second is complete only when every producer has passed it. Drop it when the thread
/// ends.
#[derive(Debug)]
pub struct ReadingProducer {
    number: u64,
    readings: ReadingBuffer,
}

impl ReadingProducer {
    /// Declares that no more readings of seconds before this one will follow.
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
    /// Registers a producer, which starts at second 0.
    #[must_use]
    pub fn producer(&self) -> ReadingProducer {
        let mut shared = self.0.lock();
        let number = shared.joined;
        shared.joined += 1;
        shared.watchers.insert(number, 0);
        ReadingProducer { number, readings: self.clone() }
    }

    /// Returns the second that every producer has reached: all earlier seconds are complete. Returns `u64::MAX` without
    /// producers.
    #[must_use]
    pub fn reached(&self) -> u64 {
        self.0.lock().watchers.values().copied().min().unwrap_or(u64::MAX)
    }

    /// Adds the readings of a second of the run. Readings of a second that was already taken count in the totals only.
    pub fn push(&self, second: u64, readings: Vec<Reading>) {
        let mut shared = self.0.lock();
        readings.iter().for_each(|reading| shared.totals.add(second, reading));
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

    /// Takes the readings of a second and drops those of earlier seconds.
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

    /// Returns the totals of all readings so far.
    #[must_use]
    pub fn totals(&self) -> ReadingTotals {
        self.0.lock().totals.clone()
    }

    /// Returns the number of readings that were added too late for their second or waited too long. The totals include them.
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
            totals.add(1, &reading(quantity, label, value));
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
            assert!(totals.figure(&selector(quantity, label)).unwrap_err().contains("not monitored"));
        }
    }

    #[test]
    fn memory_has_a_slope_over_the_steady_state() {
        let mut totals = ReadingTotals::default();
        for second in 0..400 {
            #[allow(clippy::cast_precision_loss)]
            totals.add(second, &reading(Quantity::RssMb, "wsproxy", 50.0 + second as f64 / 60.0));
        }
        let steady = |from_s, to_s| Steady { from_s, to_s, metrics: crate::Interval::default() };
        let growth = totals.growth(Some("wsproxy"), Some(&steady(50, 390))).unwrap();
        assert!((growth - 60.0).abs() < 0.1, "{growth}");
        assert!(totals.growth(Some("wsproxy"), Some(&steady(50, 90))).unwrap_err().contains("40 s"));
        assert!(totals.growth(Some("wsproxy"), None).unwrap_err().contains("no steady state"));
        assert!(totals.growth(Some("redis"), Some(&steady(50, 390))).unwrap_err().contains("not monitored"));
        assert_eq!(totals.with_memory().collect::<Vec<_>>(), ["wsproxy"]);
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
        readings.push(0, one());
        readings.push(1, one());
        readings.push(1, one());
        assert_eq!(readings.take(1).len(), 2);
        assert_eq!(readings.dropped(), 1, "second 0 was never taken");
        readings.push(1, one());
        assert_eq!((readings.take(2).len(), readings.dropped()), (0, 2));
        for second in 3..=200 {
            readings.push(second, one());
        }
        assert_eq!(readings.dropped(), 2 + 198 - MAX_SECONDS as u64);
        assert_eq!(readings.totals().iter().count(), 1);
    }

    #[test]
    fn a_second_is_complete_when_everybody_who_reads_has_passed_it() {
        let readings = ReadingBuffer::default();
        assert_eq!(readings.reached(), u64::MAX, "without producers");
        let (quick, slow) = (readings.producer(), readings.producer());
        quick.has_reached(5);
        assert_eq!(readings.reached(), 0);
        slow.has_reached(3);
        assert_eq!(readings.reached(), 3);
        drop(slow);
        assert_eq!(readings.reached(), 5);
    }
}

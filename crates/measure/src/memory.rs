//! Memory by phase of a run: before it, with open sessions, while tokens arrive, and after it. And the moment at which the machine or
//! Redis was about to run out of memory.

use crate::live::LiveTotals;
use serde::Serialize;
use std::collections::BTreeMap;

/// Largest number of processes and roles that are kept.
const MAX: usize = 1_000;
/// Available share of memory below which a warning is given.
pub const LOW_SHARE: f64 = 0.1;

/// A phase of a run, for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No session is open: before the run, and between sessions.
    Idle,
    /// Sessions are open, and no token arrived in this second.
    Connected,
    /// Tokens arrived in this second.
    Streaming,
    /// The run is over.
    After,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Connected, Self::Streaming, Self::After];

    /// Returns the name in the results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connected => "connected",
            Self::Streaming => "streaming",
            Self::After => "after",
        }
    }

    /// Returns the phase of a second of the run, from the live totals at its start and at its end.
    #[must_use]
    pub const fn of(start: &LiveTotals, end: &LiveTotals) -> Self {
        if end.tokens > start.tokens {
            Self::Streaming
        } else if end.open_sessions() > 0 {
            Self::Connected
        } else {
            Self::Idle
        }
    }
}

/// Memory of a process or role in one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PhaseMemory {
    /// Mean resident memory, in MB.
    pub mean_mb: f64,
    /// Highest resident memory, in MB.
    pub max_mb: f64,
    /// Number of samples; one per second.
    pub samples: u64,
}

impl PhaseMemory {
    #[allow(clippy::cast_precision_loss)]
    fn add(&mut self, mb: f64) {
        let before = self.samples as f64;
        self.mean_mb = (self.mean_mb * before + mb) / (before + 1.0);
        self.max_mb = self.max_mb.max(mb);
        self.samples += 1;
    }
}

/// Memory of all processes and roles by phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryByPhase(BTreeMap<String, [PhaseMemory; Phase::ALL.len()]>);

impl MemoryByPhase {
    /// Adds a sample of a process or role. Names beyond the first 1,000 are ignored.
    pub fn add(&mut self, name: &str, phase: Phase, mb: f64) {
        if self.0.len() < MAX || self.0.contains_key(name) {
            self.0.entry(name.to_owned()).or_default()[phase as usize].add(mb);
        }
    }

    /// Returns whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the names and the phases of each that have samples.
    pub fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = (Phase, &PhaseMemory)>)> {
        self.0.iter().map(|(name, phases)| {
            let sampled = Phase::ALL.into_iter().zip(phases).filter(|(_, memory)| memory.samples > 0);
            (name.as_str(), sampled)
        })
    }
}

/// The least available memory after it fell below 10 %.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LowMemory {
    /// First second of the run at which less than 10 % was available.
    pub second: u64,
    /// Least available memory in MB from then on.
    pub available_mb: f64,
    /// Memory of the machine, or the limit of the control group or of Redis, in MB.
    pub total_mb: f64,
    /// Whose memory it is.
    pub of: MemoryOf,
}

/// Whose memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum MemoryOf {
    /// The machine of this process.
    Machine,
    /// The control group of this process, which has a limit of its own.
    ControlGroup,
    /// The Redis of the stack, which has a limit (`maxmemory`).
    Redis,
}

impl From<MemoryOf> for &'static str {
    fn from(of: MemoryOf) -> Self {
        of.name()
    }
}

impl MemoryOf {
    /// Returns whose memory it is, in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "this machine",
            Self::ControlGroup => "the control group",
            Self::Redis => "Redis",
        }
    }

    /// Returns what happens when no memory is left, and what to do about it.
    fn consequence(self) -> &'static str {
        match self {
            Self::Machine | Self::ControlGroup => {
                "the kernel may soon end a process; use fewer sessions or more memory"
            }
            Self::Redis => {
                "at its limit Redis refuses every write, and queries stop; raise its `maxmemory` or use fewer sessions"
            }
        }
    }
}

impl LowMemory {
    /// Returns a warning for the user.
    #[must_use]
    pub fn warning(&self) -> String {
        let (of, consequence) = (self.of.name(), self.of.consequence());
        let Self { second, available_mb, total_mb, .. } = self;
        format!(
            "{of} has only {available_mb:.0} of {total_mb:.0} MB of memory left ({second} s into the run): {consequence}"
        )
    }
}

/// Notes the available memory at a second. Returns the warning the first time that less than 10 % is available.
pub fn note_available(
    low: &mut Option<LowMemory>,
    second: u64,
    available_mb: f64,
    total_mb: f64,
    of: MemoryOf,
) -> Option<String> {
    match low {
        Some(low) if low.of == of => {
            low.available_mb = low.available_mb.min(available_mb);
            None
        }
        None if available_mb < total_mb * LOW_SHARE => {
            let found = LowMemory { second, available_mb, total_mb, of };
            Some(low.insert(found).warning())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_of_a_second() {
        let totals = |started, ended, tokens| LiveTotals { started, ended, tokens, ..LiveTotals::default() };
        let nothing = totals(0, 0, 0);
        for (start, end, expected) in [
            (nothing, nothing, Phase::Idle),
            (nothing, totals(3, 0, 0), Phase::Connected),
            (totals(3, 0, 0), totals(3, 0, 7), Phase::Streaming),
            (totals(3, 0, 7), totals(3, 1, 7), Phase::Connected),
            (totals(3, 1, 7), totals(3, 3, 9), Phase::Streaming),
            (totals(3, 3, 9), totals(3, 3, 9), Phase::Idle),
        ] {
            assert_eq!(Phase::of(&start, &end), expected, "{start:?} {end:?}");
        }
    }

    #[test]
    fn a_phase_has_mean_and_peak_and_others_are_absent() {
        let mut memory = MemoryByPhase::default();
        assert!(memory.is_empty());
        for (phase, mb) in [(Phase::Idle, 10.0), (Phase::Streaming, 20.0), (Phase::Streaming, 40.0)] {
            memory.add("wsproxy", phase, mb);
        }
        let (name, phases) = memory.iter().next().unwrap();
        let phases: Vec<_> =
            phases.map(|(phase, m)| (phase.name(), m.mean_mb, m.max_mb, m.samples)).collect();
        assert_eq!((name, phases), ("wsproxy", vec![("idle", 10.0, 10.0, 1), ("streaming", 30.0, 40.0, 2)]));
        (0..2_000).for_each(|n| memory.add(&format!("p{n}"), Phase::Idle, 1.0));
        assert_eq!(memory.iter().count(), MAX);
    }

    #[test]
    fn one_warning_comes_when_memory_is_low_and_the_least_is_kept() {
        let mut low = None;
        assert_eq!(note_available(&mut low, 1, 200.0, 1_000.0, MemoryOf::Machine), None);
        assert_eq!(note_available(&mut low, 2, 100.0, 1_000.0, MemoryOf::Machine), None, "exactly 10 %");
        let warning = note_available(&mut low, 3, 90.0, 1_000.0, MemoryOf::Machine).unwrap();
        assert!(
            warning.contains("this machine has only 90 of 1000 MB of memory left (3 s into the run)"),
            "{warning}"
        );
        for (second, mb) in [(4, 40.0), (5, 300.0)] {
            assert_eq!(note_available(&mut low, second, mb, 1_000.0, MemoryOf::Machine), None);
        }
        let low = low.unwrap();
        assert_eq!((low.second, low.available_mb), (3, 40.0));
    }
}

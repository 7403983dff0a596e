//! The steady state of a schedule: the time during which nearly the highest target is scheduled.
//! It is computed from the phases alone, not from the sessions that were really open.

use super::times::Phase;
use std::time::Duration;

/// A target of at least this share of the highest one counts as steady.
const SHARE: f64 = 0.95;
/// A shorter window is not reported: its figures would vary too much.
const SHORTEST: Duration = Duration::from_secs(10);

/// A time during which nearly the highest target of some phases is scheduled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plateau {
    /// Start, in whole seconds.
    pub(super) from: Duration,
    /// End, in whole seconds.
    pub(super) to: Duration,
    /// The highest target of the phases.
    pub(super) level: f64,
}

impl Plateau {
    /// Returns the longest plateau of the phases. `None` if it is shorter than 10 s.
    pub(super) fn of(phases: &[Phase]) -> Option<Self> {
        let level = phases.iter().map(|phase| phase.from.max(phase.target)).fold(0.0, f64::max);
        if level <= 0.0 {
            return None;
        }
        let mut windows: Vec<(Duration, Duration)> = Vec::new();
        for phase in phases {
            let Some((start, end)) = steady_part(phase, level * SHARE) else { continue };
            match windows.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => windows.push((start, end)),
            }
        }
        let (start, end) = windows.into_iter().max_by_key(|(start, end)| end.saturating_sub(*start))?;
        let from = Duration::from_secs(start.as_secs() + u64::from(start.subsec_nanos() > 0));
        Self { from, to: Duration::from_secs(end.as_secs()), level }.if_long_enough()
    }

    /// Returns the part before `at`, a whole second. `None` if it is shorter than 10 s.
    pub(super) fn before(self, at: Duration) -> Option<Self> {
        Self { to: self.to.min(at), ..self }.if_long_enough()
    }

    fn if_long_enough(self) -> Option<Self> {
        (self.to >= self.from + SHORTEST).then_some(self)
    }

    /// Returns the longest of those plateaus that have nearly the highest level.
    pub(super) fn best(plateaus: impl Iterator<Item = Self> + Clone) -> Option<Self> {
        let level = plateaus.clone().map(|plateau| plateau.level).fold(0.0, f64::max);
        plateaus
            .filter(|plateau| plateau.level >= level * SHARE)
            .max_by_key(|plateau| plateau.to.saturating_sub(plateau.from))
    }
}

/// Returns the part of the phase whose target is at least `least`.
fn steady_part(phase: &Phase, least: f64) -> Option<(Duration, Duration)> {
    let end = phase.end?;
    let crossing = || {
        let part = (least - phase.from) / (phase.target - phase.from);
        phase.start + (end - phase.start).mul_f64(part.clamp(0.0, 1.0))
    };
    match (phase.from >= least, phase.target >= least) {
        (true, true) => Some((phase.start, end)),
        (false, true) => Some((crossing(), end)),
        (true, false) => Some((phase.start, crossing())),
        (false, false) => None,
    }
}

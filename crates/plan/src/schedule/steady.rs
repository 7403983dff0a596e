//! The steady-state window of a schedule: the time during which nearly the highest target is scheduled.
//! It is computed from the phases alone, not from the sessions that were really open.

use super::times::Phase;
use std::time::Duration;

/// A target of at least this share of the highest one counts as steady.
const SHARE: f64 = 0.95;
/// A shorter window is not reported: its figures would vary too much.
const SHORTEST: Duration = Duration::from_secs(10);

/// Returns the start and end of the longest steady window, in whole seconds.
pub(super) fn window(phases: &[Phase]) -> Option<(Duration, Duration)> {
    let most = phases.iter().map(|phase| phase.from.max(phase.target)).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let mut windows: Vec<(Duration, Duration)> = Vec::new();
    for phase in phases {
        let Some((start, end)) = steady_part(phase, most * SHARE) else { continue };
        match windows.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => windows.push((start, end)),
        }
    }
    let (start, end) = windows.into_iter().max_by_key(|(start, end)| end.saturating_sub(*start))?;
    let whole = Duration::from_secs(start.as_secs() + u64::from(start.subsec_nanos() > 0));
    let end = Duration::from_secs(end.as_secs());
    (end >= whole + SHORTEST).then_some((whole, end))
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

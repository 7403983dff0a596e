//! The schedule as a bar of cells in which the present is marked, and times in the form of a clock.

use plan::schedule::Phase;
use std::time::Duration;

/// A cell of the bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Past,
    Present,
    ToCome,
    /// Start of a phase.
    Border,
}

impl Cell {
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Past => "█",
            Self::Present => "▓",
            Self::ToCome => "░",
            Self::Border => "│",
        }
    }
}

/// Returns the phases over `total` in `width` cells. The present is at `elapsed`.
pub fn schedule(phases: &[Phase], total: Duration, elapsed: Duration, width: u16) -> Vec<Cell> {
    let cell_of = |time: Duration| {
        let share = time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cell = (share * f64::from(width)).min(f64::from(u16::MAX)) as u16;
        cell
    };
    let borders: Vec<u16> = phases.iter().skip(1).map(|phase| cell_of(phase.start)).collect();
    let present = cell_of(elapsed);
    let cell = |at: u16| match at {
        _ if at == present => Cell::Present,
        _ if borders.contains(&at) => Cell::Border,
        _ if at < present => Cell::Past,
        _ => Cell::ToCome,
    };
    (0..width).map(cell).collect()
}

/// Returns the index of the current phase, or `None` after the last one.
pub fn present(phases: &[Phase], elapsed: Duration) -> Option<usize> {
    phases.iter().position(|phase| elapsed >= phase.start && phase.end.is_none_or(|end| elapsed < end))
}

/// Formats a time as `1:02:03` or `2:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(elapsed: u64, width: u16) -> String {
        let s = Duration::from_secs;
        let phase = |start, end| Phase {
            name: String::new(),
            start: s(start),
            end: Some(s(end)),
            from: 0.0,
            target: 1.0,
        };
        let phases = [phase(0, 20), phase(20, 60), phase(60, 100)];
        schedule(&phases, s(100), s(elapsed), width).into_iter().map(Cell::symbol).collect()
    }

    #[test]
    fn the_present_is_marked_wherever_it_is() {
        assert_eq!(bar(0, 10), "▓░│░░░│░░░");
        assert_eq!(bar(55, 10), "██│██▓│░░░");
        assert_eq!(bar(20, 10), "██▓░░░│░░░");
        assert_eq!(bar(140, 10), "██│███│███");
        assert_eq!(bar(50, 0), "");
    }

    #[test]
    fn clocks() {
        for (seconds, text) in [(0, "0:00"), (62, "1:02"), (3_723, "1:02:03")] {
            assert_eq!(clock(Duration::from_secs(seconds)), text);
        }
    }
}

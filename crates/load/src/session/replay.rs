//! Which events a new socket may repeat. A permitted repeat is a replay; any other repeat is a duplicate.

use protocol::Position;

/// The events that the present socket may repeat, each at most once.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow(Option<Window>);

#[derive(Clone, Copy, Debug)]
struct Window {
    /// Events up to this position may not be repeated, or not again.
    after: Position,
    /// The last event that had arrived when the socket was opened.
    until: Position,
    /// The window ends with a `resumed` frame, which has not arrived.
    awaits_resumed: bool,
}

impl ReplayWindow {
    /// Opens the window of a socket that resumed after `after`: a hole made it resume before the last event, `until`.
    pub(super) const fn open_resumed(&mut self, after: Position, until: Position) {
        self.0 = Some(Window { after, until, awaits_resumed: true });
    }

    /// Opens the window of a socket that named no position after a socket that broke: the gateway cannot know which events up
    /// to `until` arrived.
    pub(super) const fn open_unclean(&mut self, until: Position) {
        self.0 = Some(Window { after: Position::ZERO, until, awaits_resumed: false });
    }

    /// Closes the window.
    pub(super) const fn close(&mut self) {
        self.0 = None;
    }

    /// Returns whether a `resumed` frame is awaited.
    pub(super) const fn awaits_resumed(&self) -> bool {
        matches!(self.0, Some(Window { awaits_resumed: true, .. }))
    }

    /// Returns whether the event at `position` is a permitted repeat. `has_arrived` tells whether it arrived before; it is called
    /// only if the position is inside the window.
    pub(super) fn permits(
        &mut self,
        position: Option<Position>,
        has_arrived: impl FnOnce(Position) -> bool,
    ) -> bool {
        let (Some(window), Some(position)) = (&mut self.0, position) else { return false };
        if position <= window.after || position > window.until {
            return false;
        }
        let is_repeat = has_arrived(position);
        if is_repeat {
            window.after = position;
        }
        is_repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seq: u64) -> Option<Position> {
        Some(Position::new(1, seq))
    }

    #[test]
    fn an_event_may_be_repeated_once_and_only_inside_the_window() {
        let mut replay = ReplayWindow::default();
        assert!(!replay.permits(at(3), |_| true), "there is no window");
        replay.open_resumed(Position::new(1, 2), Position::new(1, 5));
        assert!(replay.awaits_resumed());
        assert!(!replay.permits(at(2), |_| true), "the client named this position");
        assert!(!replay.permits(at(3), |_| false), "the hole itself");
        assert!(replay.permits(at(4), |_| true));
        assert!(!replay.permits(at(4), |_| true), "a second repeat");
        assert!(!replay.permits(at(6), |_| true), "beyond the last event");
        assert!(!replay.permits(None, |_| true), "an event without a position");
        replay.close();
        assert!(!replay.permits(at(5), |_| true) && !replay.awaits_resumed());
        replay.open_unclean(Position::new(1, 5));
        assert!(replay.permits(at(1), |_| true) && !replay.awaits_resumed());
    }
}

//! The cursor of a client that closes. A client may close after the end of a query and submit the next one at once. The first events of that
//! query crossed its close frame, so they must not count as read.

use protocol::{Position, Prefix};
use std::time::{Duration, Instant};

/// A close frame that arrives this soon after a query's first event may have been sent before that event was received.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// The last query that ended on a socket, and when the one after it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CloseCursor {
    ended: Option<Position>,
    next_began: Option<Instant>,
}

impl CloseCursor {
    /// Notes an event that was sent or queued.
    pub(super) fn event(&mut self, event: Prefix) {
        if event.kind.is_terminator() {
            *self = Self { ended: Some(event.position), next_began: None };
        } else if self.ended.is_some() && self.next_began.is_none() {
            self.next_began = Some(Instant::now());
        }
    }

    /// Returns the position up to which a client that closes at `now` has read. `handed_over` is the last position that its socket took.
    pub(super) fn cursor(self, handed_over: Position, now: Instant) -> Position {
        match self {
            Self { ended: Some(ended), next_began: Some(began) }
                if now.saturating_duration_since(began) < UNDER_WAY =>
            {
                ended.min(handed_over)
            }
            _ => handed_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Kind;

    #[test]
    fn events_that_crossed_the_close_frame_do_not_count_as_read() {
        let at = Position::new;
        let mut close_cursor = CloseCursor::default();
        let now = Instant::now();
        close_cursor.event(Prefix { position: at(5, 1), kind: Kind::Token });
        assert_eq!(
            close_cursor.cursor(at(5, 1), now),
            at(5, 1),
            "its only query: what was handed over counts"
        );
        close_cursor.event(Prefix { position: at(5, 2), kind: Kind::Done });
        assert_eq!(close_cursor.cursor(at(5, 2), now), at(5, 2));
        assert_eq!(close_cursor.cursor(at(5, 1), now), at(5, 1), "the end still waits");
        close_cursor.event(Prefix { position: at(9, 1), kind: Kind::Token });
        assert_eq!(close_cursor.cursor(at(9, 1), now), at(5, 2));
        assert_eq!(close_cursor.cursor(at(9, 7), now + 2 * UNDER_WAY), at(9, 7), "it reads the next one");
        close_cursor.event(Prefix { position: at(9, 8), kind: Kind::Error });
        assert_eq!(close_cursor.cursor(at(9, 8), now), at(9, 8));
    }
}

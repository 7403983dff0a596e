//! Where a client that takes its leave stands. One that closes after its query's end and asks the next one at once must not have
//! the next one's first events counted as read: they were on the way when its close frame was.

use protocol::{Position, Prefix};
use std::time::{Duration, Instant};

/// So long after a query's first event a close frame may have been sent before that event was seen.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// The last query that ended on a socket, and when the one after it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parting {
    ended: Option<Position>,
    next_began: Option<Instant>,
}

impl Parting {
    /// An event went out, or waits to.
    pub(super) fn event(&mut self, event: Prefix) {
        if event.kind.is_terminator() {
            *self = Self { ended: Some(event.position), next_began: None };
        } else if self.ended.is_some() && self.next_began.is_none() {
            self.next_began = Some(Instant::now());
        }
    }

    /// Up to where a client that closes now counts as having read, of what was handed over to its socket.
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
    fn what_began_as_the_client_left_was_not_read() {
        let at = Position::new;
        let mut parting = Parting::default();
        let now = Instant::now();
        parting.event(Prefix { position: at(5, 1), kind: Kind::Token });
        assert_eq!(parting.cursor(at(5, 1), now), at(5, 1), "its only query: what was handed over counts");
        parting.event(Prefix { position: at(5, 2), kind: Kind::Done });
        assert_eq!(parting.cursor(at(5, 2), now), at(5, 2));
        assert_eq!(parting.cursor(at(5, 1), now), at(5, 1), "the end still waits");
        parting.event(Prefix { position: at(9, 1), kind: Kind::Token });
        assert_eq!(parting.cursor(at(9, 1), now), at(5, 2));
        assert_eq!(parting.cursor(at(9, 7), now + 2 * UNDER_WAY), at(9, 7), "it reads the next one");
        parting.event(Prefix { position: at(9, 8), kind: Kind::Error });
        assert_eq!(parting.cursor(at(9, 8), now), at(9, 8));
    }
}

//! Merges a session's live events with those read from its log into one ordered stream.
//!
//! A lane stores positions and no events. What it cannot forward at once it drops, because the log still holds it. So merging needs
//! no buffer, and no buffer can overflow.
//!
//! ```
//! use protocol::{GapPolicy, Kind, Lane, LiveAction, LoggedAction, Position, Prefix, ReadEnd};
//!
//! let token = |seq| Prefix { position: Position::new(7, seq), kind: Kind::Token };
//! // The client has everything up to 7-2. A new lane is behind, so it reads the log first.
//! let mut lane = Lane::after(Position::new(7, 2));
//! let read = lane.read_start();
//! assert_eq!(lane.live(token(3)), LiveAction::Ignore);
//! assert_eq!(lane.logged(token(3), GapPolicy::Announce), LoggedAction::Forward);
//! // 7-3 was published after the read began, but the read brought it.
//! assert_eq!(lane.log_end(read, GapPolicy::Announce), ReadEnd::CaughtUp);
//! // From here on events go through, until one is missing.
//! assert_eq!(lane.live(token(4)), LiveAction::Forward);
//! assert_eq!(lane.live(token(4)), LiveAction::Ignore);
//! assert_eq!(lane.live(token(6)), LiveAction::ReadLog);
//! assert_eq!(lane.last(), Position::new(7, 4));
//! ```

mod action;
#[cfg(test)]
mod tests;

pub use action::{GapPolicy, LiveAction, LoggedAction, ReadEnd};

use crate::{Kind, Position, Prefix};

/// The order of one session's events on their way to its client. A new lane is behind: it forwards no live event before a read of
/// the log.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The last position that was forwarded, noted or announced.
    last: Position,
    /// The highest position that came over the subscription while the lane was behind.
    newest: Position,
    /// Interruptions of the subscription so far.
    interruptions: u64,
    live: bool,
}

/// What a lane knew when a read of its log began.
///
/// A read proves that nothing is missing only if it began after the last interruption of the subscription, and only for events that
/// were published before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadStart {
    newest: Position,
    interruptions: u64,
}

impl Lane {
    /// Creates the lane of a client that has everything up to and including `last`.
    #[must_use]
    pub const fn after(last: Position) -> Self {
        Self { last, newest: Position::ZERO, interruptions: 0, live: false }
    }

    /// Returns the position up to which everything was forwarded or announced.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// Returns what [`Lane::log_end`] needs later. Call it before a read of the log begins at [`Lane::last`].
    #[must_use]
    pub const fn read_start(&self) -> ReadStart {
        ReadStart { newest: self.newest, interruptions: self.interruptions }
    }

    /// Returns whether live events are forwarded as they come.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// Notes that the subscription was interrupted, so that events of this time are in the log alone.
    pub const fn interrupted(&mut self) {
        self.live = false;
        self.interruptions += 1;
    }

    /// Takes an event of the subscription.
    pub fn live(&mut self, event: Prefix) -> LiveAction {
        if event.position <= self.last {
            return match event.kind {
                // A merge of logs dropped events that this lane has passed. It never reads the log there again, so only this
                // live copy of the log's gap entry can announce them.
                Kind::Gap { from } => LiveAction::Gap { from, to: event.position },
                // The first end marker was lost with the log, and its position was announced as a gap.
                Kind::Closed if event.position == self.last => LiveAction::Note,
                _ => LiveAction::Ignore,
            };
        }
        if !self.live {
            self.newest = self.newest.max(event.position);
            return LiveAction::Ignore;
        }
        if self.is_next(event) && !matches!(event.kind, Kind::Gap { .. }) {
            self.last = event.position;
            return if event.kind.is_for_client() { LiveAction::Forward } else { LiveAction::Note };
        }
        self.newest = event.position;
        self.live = false;
        LiveAction::ReadLog
    }

    /// Takes an event that was read from the log. Events are passed in the log's order.
    pub fn logged(&mut self, event: Prefix, policy: GapPolicy) -> LoggedAction {
        if event.position <= self.last {
            return LoggedAction::Ignore;
        }
        let from = self.last;
        let next = self.is_next(event);
        if !next && policy == GapPolicy::Wait {
            return LoggedAction::Wait;
        }
        self.last = event.position;
        let forward = event.kind.is_for_client();
        match (next, event.kind) {
            (_, Kind::Gap { .. }) => LoggedAction::Gap { from, to: event.position, forward },
            (true, _) if forward => LoggedAction::Forward,
            (true, _) => LoggedAction::Note,
            (false, Kind::Fence { prev }) => {
                LoggedAction::Gap { from, to: prev.unwrap_or(event.position), forward }
            }
            (false, _) => LoggedAction::Gap { from, to: event.position.previous(), forward },
        }
    }

    /// Takes the end of the log, as a read reached it that began at `start`.
    pub fn log_end(&mut self, start: ReadStart, policy: GapPolicy) -> ReadEnd {
        if start.interruptions != self.interruptions {
            ReadEnd::ReadAgain
        } else if self.last >= self.newest {
            self.live = true;
            ReadEnd::CaughtUp
        } else if self.last >= start.newest {
            // What is missing was published during the read, so the read cannot prove that it is lost.
            ReadEnd::ReadAgain
        } else if policy == GapPolicy::Wait {
            ReadEnd::Wait
        } else {
            let from = std::mem::replace(&mut self.last, start.newest);
            ReadEnd::Missing { from, to: start.newest }
        }
    }

    /// Returns whether no event lies between `last` and this one.
    fn is_next(&self, event: Prefix) -> bool {
        match event.kind {
            // A fence of unknown predecessor may hide events before it.
            Kind::Fence { prev } => prev.is_some_and(|prev| prev <= self.last),
            Kind::Gap { from } => from <= self.last,
            _ => event.position == self.last.next(),
        }
    }
}

//! What a lane tells its caller to do with an event, and at the end of a read of the log.

use crate::Position;

/// What to do with an event that came over the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveAction {
    /// The event is the next one: send it to the client.
    Forward,
    /// The event is the next one and concerns the gateway alone: send nothing.
    Note,
    /// The event was sent before, or a read of the log will bring it: ignore it.
    Ignore,
    /// An event before this one is missing: read the log from [`Lane::last`](crate::Lane::last).
    ReadLog,
    /// A merge of logs lost events that the lane had passed: announce that the events after `from`, up to and including `to`,
    /// cannot be delivered.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in the gap.
        to: Position,
    },
}

/// What to do with an event that was read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedAction {
    /// The event is the next one: send it to the client.
    Forward,
    /// The event is the next one and concerns the gateway alone: send nothing.
    Note,
    /// The event was sent before: ignore it.
    Ignore,
    /// Events are missing before this one: announce that the events after `from`, up to and including `to`, cannot be delivered.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in the gap.
        to: Position,
        /// Whether the event that was read is sent to the client after the announcement.
        forward: bool,
    },
    /// Events are missing before this one and may still be restored: stop here and read again later.
    Wait,
}

/// What a lane does about events that the log lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapPolicy {
    /// Announce them as a gap, because the log lost them for good.
    Announce,
    /// Wait for them, because Redis lost data and the servers are still restoring it.
    Wait,
}

/// What to do after a read reached the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The lane is live: events of the subscription are sent as they come.
    CaughtUp,
    /// Events came over the subscription during the read: read again.
    ReadAgain,
    /// The log lacks events that were published before the read began: announce that the events after `from`, up to and
    /// including `to`, cannot be delivered, then read again.
    Missing {
        /// The last position before the gap.
        from: Position,
        /// The last position in the gap.
        to: Position,
    },
    /// The log lacks events that may still be restored: read again later.
    Wait,
}

//! The messages that scripts publish to processes on their control channels.

use protocol::{Position, SessionId};
use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ControlMessage {
    /// For a server: the session was closed while it plays this generation.
    Cancel { session: SessionId, generation: u64 },
    /// For a gateway: another attachment has taken the session over. The epoch is the new one's.
    Takeover { session: SessionId, epoch: u64 },
    /// For a gateway: the attachment with this epoch was released, and this is the session's cursor.
    Released { session: SessionId, epoch: u64, cursor: Position },
}

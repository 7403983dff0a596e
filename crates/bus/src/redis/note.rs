//! What processes tell each other on their control channels.

use protocol::{Position, SessionId};
use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// To a server: the session was closed while this generation ran here.
    Cancel { session: SessionId, generation: u64 },
    /// To a gateway: another attachment of the session, with this epoch, exists.
    Takeover { session: SessionId, epoch: u64 },
    /// To a gateway: the attachment with this epoch was released, the session's cursor is this.
    Released { session: SessionId, epoch: u64, cursor: Position },
}

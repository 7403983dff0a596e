//! What a gateway holds while one of its sockets has a session: the lane's reader for the log, and the way out.

use crate::{BusError, hub::Slot};
use async_trait::async_trait;
use protocol::{Position, SessionId};
use std::sync::Arc;

/// What a call of [`Attachment::catch_up`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The lane is live; nothing to do until the outlet hears `behind` again.
    Live {
        /// The position up to which everything was handed on.
        at: Position,
    },
    /// A page was handed on and more is to be read: call again when there is room.
    More,
    /// The log lacks something that a broker which forgot is being given back: call again a little later.
    Wait,
    /// The lane has ended; the outlet was told.
    Ended,
}

/// What a broker does for its attachments.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Hands the events after the lane's last position to the lane, `limit` at most.
    async fn read_page(
        &self,
        session: SessionId,
        slot: &Arc<Slot>,
        limit: usize,
    ) -> Result<CatchUp, BusError>;

    /// Ends the attachment of `slot` (compare and set by its epoch); keeps `cursor` where there is one.
    async fn release(
        &self,
        session: SessionId,
        slot: &Slot,
        cursor: Option<Position>,
    ) -> Result<(), BusError>;

    /// Forgets the lane at once, and keeps no cursor: the attachment was dropped.
    fn forget(self: Arc<Self>, session: SessionId, slot: &Arc<Slot>);
}

/// A session's lane, open to one outlet. Dropped without [`Attachment::release`], it keeps the old cursor:
/// the next socket may get some events twice, never too few.
pub struct Attachment {
    pub(crate) session: SessionId,
    pub(crate) slot: Arc<Slot>,
    pub(crate) backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Attachment {
    /// Where the stream starts: the client's own position, or the session's cursor.
    #[must_use]
    pub fn start(&self) -> Position {
        self.slot.start()
    }

    /// Reads one page of at most `limit` events from the log and hands it to the outlet. Call it once after
    /// attaching, again after [`CatchUp::More`] (and a little later after [`CatchUp::Wait`]), and whenever the outlet heard `behind`; each time only when the
    /// outlet has room.
    ///
    /// # Errors
    /// The bus failed; the lane stays behind, and the call may be repeated.
    pub async fn catch_up(&self, limit: usize) -> Result<CatchUp, BusError> {
        self.backend.read_page(self.session, &self.slot, limit).await
    }

    /// Ends the attachment. `cursor` is the last position that was handed to the socket, where the socket ended cleanly.
    ///
    /// # Errors
    /// The bus failed; the lane has ended all the same.
    pub async fn release(self, cursor: Option<Position>) -> Result<(), BusError> {
        // Only then forgotten, by the drop: who attaches meanwhile finds either a holder or its cursor.
        self.backend.release(self.session, &self.slot, cursor).await
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        Arc::clone(&self.backend).forget(self.session, &self.slot);
    }
}

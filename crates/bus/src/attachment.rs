//! An attachment: one socket's hold on a session in a gateway. It reads the log for the lane, and releases the session.

use crate::{
    BusError,
    open_lane::{CatchUp, OpenLane},
};
use async_trait::async_trait;
use protocol::{Position, SessionId};
use std::{sync::Arc, time::Duration};

/// How long an attachment without a position waits for the cursor of the socket that it takes over.
pub(crate) const TAKEOVER_WAIT: Duration = Duration::from_millis(500);

/// The part of a broker that serves its attachments.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Delivers the events after the lane's last position, at most `limit` of them.
    async fn read_page(
        &self,
        session: SessionId,
        lane: &Arc<OpenLane>,
        limit: usize,
    ) -> Result<CatchUp, BusError>;

    /// Ends the attachment of `lane`, if no later epoch has taken the session over. Stores `cursor` if there is one.
    async fn release(
        &self,
        session: SessionId,
        lane: &OpenLane,
        cursor: Option<Position>,
    ) -> Result<(), BusError>;

    /// Forgets the lane at once and stores no cursor, because the attachment was dropped.
    fn forget(self: Arc<Self>, session: SessionId, lane: &Arc<OpenLane>);
}

/// A session's lane, open to one outlet. If it is dropped without [`Attachment::release`], the session keeps its
/// earlier cursor. The next socket then receives some events twice, but misses none.
pub struct Attachment {
    pub(crate) session: SessionId,
    pub(crate) lane: Arc<OpenLane>,
    pub(crate) backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Attachment {
    /// Returns the position after which the stream starts: the client's own, or the session's cursor.
    #[must_use]
    pub fn start(&self) -> Position {
        self.lane.start()
    }

    /// Reads one page of at most `limit` events from the log and delivers it to the outlet. Call it once after
    /// attaching, after [`CatchUp::More`], some time after [`CatchUp::Wait`], and after each call of the outlet's
    /// `behind`, but only when the outlet has room for a page.
    ///
    /// # Errors
    /// The bus failed. The lane stays behind, and the call may be repeated.
    pub async fn catch_up(&self, limit: usize) -> Result<CatchUp, BusError> {
        self.backend.read_page(self.session, &self.lane, limit).await
    }

    /// Ends the attachment. `cursor` is the last position that was handed to the socket, if the socket ended cleanly.
    ///
    /// # Errors
    /// The bus failed. The lane has ended all the same.
    pub async fn release(self, cursor: Option<Position>) -> Result<(), BusError> {
        // The lane is forgotten by the drop, after the release. A gateway that attaches meanwhile finds a holder or its
        // cursor.
        self.backend.release(self.session, &self.lane, cursor).await
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        Arc::clone(&self.backend).forget(self.session, &self.lane);
    }
}

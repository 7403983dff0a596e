//! What an attachment asks of Redis while it lives and when it ends: pages of the log, and its release.
//! What came live does not pass here.

use super::Inner;
use crate::{
    BusError, CatchUp, Delivery,
    attachment::Backend,
    hub::{Page, Slot},
};
use async_trait::async_trait;
use protocol::{GapPolicy, Position, SessionId};
use std::sync::Arc;
use tokio::runtime::Handle;

#[async_trait]
impl Backend for Inner {
    async fn read_page(
        &self,
        session: SessionId,
        slot: &Arc<Slot>,
        limit: usize,
    ) -> Result<CatchUp, BusError> {
        if self.config.delivery == Delivery::PubSub {
            let (_, mark) = slot.begin_read();
            return Ok(slot.end_read(mark, Page::Last, GapPolicy::Announce).into());
        }
        self.reading.page(session, slot.clone(), limit).await
    }

    async fn release(
        &self,
        session: SessionId,
        slot: &Slot,
        cursor: Option<Position>,
    ) -> Result<(), BusError> {
        slot.left();
        let epoch = slot.epoch();
        if let Some(cursor) = cursor {
            self.cursors.lock().remember(session, epoch, cursor);
        }
        self.release_epoch(session, epoch, cursor).await
    }

    fn forget(self: Arc<Self>, session: SessionId, slot: &Arc<Slot>) {
        // Said first: from here on nobody puts it back into the hub.
        let unsaid = slot.left();
        if self.hub.remove(session, slot) {
            self.subscriber(session).unsubscribe(session);
        }
        // Whoever comes next must not wait for one that went away without a word.
        if unsaid
            && slot.epoch() != 0
            && let Ok(runtime) = Handle::try_current()
        {
            let epoch = slot.epoch();
            runtime.spawn(async move {
                if let Err(error) = self.release_epoch(session, epoch, None).await {
                    tracing::debug!(%session, "an attachment was not released: {error}");
                }
            });
        }
    }
}

impl Inner {
    async fn release_epoch(
        &self,
        session: SessionId,
        epoch: u64,
        cursor: Option<Position>,
    ) -> Result<(), BusError> {
        let mut script = self.scripts.release.key(self.names.attach(session));
        script
            .arg(self.names.prefix())
            .arg(session.to_string())
            .arg(self.ttl())
            .arg(epoch)
            .arg(cursor.map_or_else(String::new, |cursor| cursor.to_string()));
        self.invoke(&script).await
    }
}

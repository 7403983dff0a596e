//! The Redis side of an attachment: pages of the log, and the release. Live events do not pass through here.

use super::Inner;
use crate::{
    BusError, CatchUp, Delivery,
    attachment::Backend,
    open_lane::{OpenLane, PageEnd},
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
        lane: &Arc<OpenLane>,
        limit: usize,
    ) -> Result<CatchUp, BusError> {
        if self.config.delivery == Delivery::PubSub {
            let (_, read_start) = lane.begin_read();
            return Ok(lane.end_read(read_start, PageEnd::EndOfLog, GapPolicy::Announce));
        }
        self.reading.page(session, lane.clone(), limit).await
    }

    async fn release(
        &self,
        session: SessionId,
        lane: &OpenLane,
        cursor: Option<Position>,
    ) -> Result<(), BusError> {
        lane.start_release();
        let epoch = lane.epoch();
        if let Some(cursor) = cursor {
            self.cursors.lock().remember(session, epoch, cursor);
        }
        self.release_epoch(session, epoch, cursor).await
    }

    fn forget(self: Arc<Self>, session: SessionId, lane: &Arc<OpenLane>) {
        if self.hub.remove(session, lane) {
            self.subscriber(session).unsubscribe(session);
        }
        // An attachment dropped without a release is released here. Otherwise the next one would wait for its cursor in
        // vain.
        if lane.start_release()
            && lane.epoch() != 0
            && let Ok(runtime) = Handle::try_current()
        {
            let epoch = lane.epoch();
            runtime.spawn(async move {
                if let Err(error) = self.release_epoch(session, epoch, None).await {
                    tracing::debug!(%session, "the release of an attachment failed: {error}");
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

//! What an attachment asks of Redis while it lives and when it ends: pages of the log, and its release.
//! What came live does not pass here.

use super::Inner;
use crate::{
    BusError, CatchUp, Counters, Delivery,
    attachment::Backend,
    hub::{Page, Slot},
};
use async_trait::async_trait;
use protocol::{Gaps, Position, Prefix, SessionId};
use redis::Value;
use std::sync::Arc;
use tokio::runtime::Handle;

#[async_trait]
impl Backend for Inner {
    async fn read_page(&self, session: SessionId, slot: &Slot, limit: usize) -> Result<CatchUp, BusError> {
        let (last, mark_of_lane) = slot.begin_read();
        if self.config.delivery == Delivery::PubSub {
            return Ok(slot.end_read(mark_of_lane, Page::Last, Gaps::Announce).into());
        }
        let gaps = self.gaps();
        let limit = limit.max(1);
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.incarnation.mark_key());
        let range = pipeline.cmd("XRANGE").arg(self.names.log(session));
        range.arg(format!("({last}")).arg("+").arg("COUNT").arg(limit);
        let (mark, entries): (Option<Vec<u8>>, Vec<Value>) = self.call(&pipeline).await?;
        let gaps = if self.incarnation.saw_mark(mark.as_deref()) { gaps } else { Gaps::Await };
        let mut page = if entries.len() < limit { Page::Last } else { Page::Full };
        for entry in &entries {
            match logged_frame(entry).and_then(|frame| Some((Prefix::parse(frame)?, frame))) {
                Some((prefix, frame)) => {
                    if !slot.logged(prefix, frame, gaps) {
                        page = Page::Holed;
                        break;
                    }
                }
                None => Counters::add(&self.counters.malformed, 1),
            }
        }
        Ok(slot.end_read(mark_of_lane, page, gaps).into())
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

/// The frame in one entry of XRANGE's answer: `[id, [field, frame]]`.
fn logged_frame(entry: &Value) -> Option<&[u8]> {
    let Value::Array(entry) = entry else { return None };
    let Some(Value::Array(fields)) = entry.get(1) else { return None };
    match fields.get(1) {
        Some(Value::BulkString(frame)) => Some(frame),
        _ => None,
    }
}

//! Ends an answer that a foreign server keeps, and that nobody reads to its end: closing the connection would not end it.

use super::Session;
use crate::{endpoint::DialOptions, http_stream::StreamPart, socket::DataMessage};
use dialects::Call;
use protocol::SessionId;
use settings::secret::Secret;
use std::{rc::Rc, sync::Arc, time::Duration};

/// Time limit of the call.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Makes the call that ends an answer, over a connection of its own, so that the session does not wait for it. Its result is ignored:
    /// the answer may have ended meanwhile.
    pub(super) fn stop_answer(&self, call: Call) {
        let (connector, buffers) =
            (Arc::clone(&self.worker.run().connector), Rc::clone(self.worker.buffers()));
        let session = self.id.unwrap_or_else(|| SessionId::new(uuid::Uuid::nil()));
        let index = self.planned.index;
        let dial = DialOptions { from: connector.local_ip(index), endpoint: index, ..DialOptions::default() };
        tokio::task::spawn_local(async move {
            let stopping = Box::pin(async {
                let token = Secret::new("");
                let Ok(opened) = connector.open(session, &token, None, 0, dial, None).await else { return };
                let mut socket = opened.socket;
                let Ok(request) = connector.call(socket.endpoint(), &call) else {
                    return;
                };
                socket.send(&request);
                let mut is_over = false;
                while !is_over {
                    let Ok(chunk) = socket.read(&buffers).await else { return };
                    is_over = chunk.bytes().is_empty();
                    let take = |message: DataMessage<'_>, _| {
                        is_over |= matches!(message, DataMessage::Http(StreamPart::End { .. }));
                    };
                    if socket.decode(&chunk, take).is_err() {
                        return;
                    }
                }
            });
            let _ = tokio::time::timeout(STOP_TIMEOUT, stopping).await;
        });
    }
}

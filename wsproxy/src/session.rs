//! The task of one socket, from the upgrade to the release of its session. It reads from the client, writes the queue out, and reads the log
//! for the lane. Live events do not pass through it: the bus's reader passes them to the outbox.

use crate::{
    gateway::Gateway,
    inbound::{Client, End, Inbound, discard},
    outbox::{Outbox, PageRequest, Phase},
    replay::ReplayBudget,
    socket::Socket,
    socket_table::SocketEntry,
};
use bus::{Attachment, BusError, CatchUp};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::{CloseReason, Position, SessionId};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

/// Time for the client of a session that was taken over to answer the close frame before its cursor is given up. The successor waits
/// 500 ms for that cursor.
const ANSWER_WAIT: Duration = Duration::from_millis(400);

/// Pause before a failed read of the log is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// A session whose socket is about to open.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The client named a position, so it gets a `resumed` frame at the end of its replay.
    pub(crate) resumes: bool,
    pub(crate) attachment: Attachment,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) entry: SocketEntry,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The state of an open connection: what its task keeps for as long as the socket is open.
struct Connection {
    client: Client,
    inbound: Inbound,
    attachment: Option<Attachment>,
    _entry: SocketEntry,
    _permit: OwnedSemaphorePermit,
}

/// Serves a session on the socket of `upgrade`. The future is what an idle socket costs, so that the upgrade has its own, which is
/// dropped when it is over.
pub(crate) fn run(
    gateway: Arc<Gateway>,
    session: Session,
    upgrade: OnUpgrade,
) -> impl Future<Output = ()> + Send + 'static {
    let opening = Box::pin(open(gateway, session, upgrade));
    async {
        let Some(mut connection) = opening.await else { return };
        let end = connection.converse().await;
        Box::pin(connection.end(end)).await;
    }
}

/// Waits for the upgrade. Returns `None` if it failed, and has released the session then.
async fn open(gateway: Arc<Gateway>, session: Session, upgrade: OnUpgrade) -> Option<Connection> {
    let Session { id, resumes, attachment, outbox, entry, permit } = session;
    if resumes {
        outbox.announce_resume();
    }
    match take_socket(&gateway, &outbox, upgrade).await {
        Ok(inbound) => Some(Connection {
            client: Client { session: id, outbox, gateway },
            inbound,
            attachment: Some(attachment),
            _entry: entry,
            _permit: permit,
        }),
        Err(error) => {
            debug!(session = %id, "the upgrade failed: {error:#}");
            gateway.shared.metrics.close("lost");
            release(attachment, None).await;
            None
        }
    }
}

/// Waits for the upgrade and connects the outbox. Returns the reader, with the bytes that arrived together with the request.
async fn take_socket(gateway: &Gateway, outbox: &Outbox, upgrade: OnUpgrade) -> anyhow::Result<Inbound> {
    let upgraded = tokio::time::timeout(gateway.config.header_timeout, upgrade).await??;
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| anyhow::anyhow!("the upgraded stream is not the one that was accepted"))?;
    outbox.connect(parts.io.into_inner());
    Ok(Inbound::new(&parts.read_buf))
}

impl Connection {
    /// Reads, writes and feeds until either side ends. If the session was taken over and the client does not answer, the session is released
    /// here without a cursor, because its new holder waits for the release.
    async fn converse(&mut self) -> End {
        let Self { client, inbound, attachment, .. } = self;
        let outbox = &*client.outbox;
        let mut reader = pin!(inbound.run(client));
        let mut writer = pin!(outbox.write_out());
        let feeding = async {
            if let Some(lane) = &*attachment {
                feed(outbox, lane, &client.gateway.replay).await;
            }
            if outbox.phase() != Phase::Closing(CloseReason::TakenOver) {
                std::future::pending::<()>().await;
            }
            Box::pin(tokio::time::sleep(ANSWER_WAIT)).await;
        };
        tokio::select! {
            end = &mut reader => return end,
            () = &mut writer => return End::Lost,
            () = feeding => {}
        }
        if let Some(lane) = attachment.take() {
            // Not cancelled by the end of the socket.
            Box::pin(release(lane, None)).await;
        }
        tokio::select! {
            end = &mut reader => end,
            () = &mut writer => End::Lost,
        }
    }

    /// Sends the rest of the queue and releases the session.
    async fn end(self, end: End) {
        let outbox = &self.client.outbox;
        let clean = finish(outbox, end).await;
        match outbox.phase() {
            Phase::Open => outbox.shared().metrics.close("lost"),
            Phase::ClosedByPeer => outbox.shared().metrics.close("client"),
            Phase::Closing(_) => {}
        }
        if let Some(attachment) = self.attachment {
            release(attachment, clean.then(|| outbox.cursor())).await;
        }
    }
}

/// Reads the log for the lane whenever it is behind and the outbox has room, until the socket closes.
async fn feed(outbox: &Outbox, lane: &Attachment, replay: &ReplayBudget) {
    while let Some(page) = outbox.next_page().await {
        // Boxed like all rare futures here, so that the task of an idle socket stays small.
        Box::pin(feed_page(outbox, lane, replay, page)).await;
    }
}

/// Reads a page of the log, unless the socket closes. The lane stays behind if it needs more.
async fn feed_page(outbox: &Outbox, lane: &Attachment, replay: &ReplayBudget, page: PageRequest) {
    let read = tokio::select! {
        read = read_page(replay, lane, page) => read,
        () = outbox.closing() => return,
    };
    match read {
        Ok(CatchUp::Live { .. } | CatchUp::Ended) => {}
        Ok(CatchUp::More) => bus::Outlet::behind(outbox),
        Ok(CatchUp::Wait) => read_again_later(outbox).await,
        Err(error) => {
            debug!("the log could not be read, trying again: {error}");
            read_again_later(outbox).await;
        }
    }
}

/// Requests the next page after a pause. The lane stays behind.
async fn read_again_later(outbox: &Outbox) {
    tokio::select! {
        () = tokio::time::sleep(RETRY) => bus::Outlet::behind(outbox),
        () = outbox.closing() => {}
    }
}

/// Reads a page as soon as the replay budget has room for it.
async fn read_page(replay: &ReplayBudget, lane: &Attachment, page: PageRequest) -> Result<CatchUp, BusError> {
    let _room = replay.room(page.bytes).await;
    lane.catch_up(page.events).await
}

/// Sends the rest of the queue. Returns whether the next socket may continue after the outbox's cursor.
///
/// Only the client's own close frame allows that. Either it answers ours, which followed everything that was written, or the client wants
/// no more. The end of the connection and an empty send queue of the kernel prove nothing: a load balancer accepts bytes for
/// clients that are long dead.
async fn finish(outbox: &Outbox, end: End) -> bool {
    match end {
        End::Handshake => outbox.flush().await,
        End::Violation => {
            if outbox.flush().await {
                Box::pin(half_close(outbox)).await;
            }
            false
        }
        End::Eof | End::Lost => false,
    }
}

/// Shuts our side down, then waits until the client shuts down its side.
async fn half_close(outbox: &Outbox) {
    let Some(socket) = outbox.socket() else { return };
    let _ = socket.shutdown_write();
    tokio::select! {
        () = discard(socket) => {}
        () = outbox.write_out() => {}
    }
}

/// Releases the session with its cursor, if it has one.
async fn release(attachment: Attachment, cursor: Option<Position>) {
    if let Err(error) = attachment.release(cursor).await {
        debug!("the session's cursor was not stored, some events may be sent twice: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the size of the future that a function of three arguments returns.
    const fn size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_an_idle_socket_stays_small() {
        let size = size(run);
        assert!(size <= 400, "{size} bytes, expected at most 400: box what an idle socket does not need");
    }
}

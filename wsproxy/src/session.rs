//! The task of one socket, from the upgrade to the release of its session. It reads from the client, writes the queue out, and reads the log
//! for the lane. Live events do not pass through it: the bus's reader passes them to the outbox.

use crate::{
    gateway::Gateway,
    inbound::{End, Inbound, discard},
    outbox::{Outbox, PageRequest, Phase},
    replay::ReplayBudget,
    socket::Socket,
    socket_table::SocketEntry,
};
use bus::{Attachment, BusError, CatchUp};
use bytes::Bytes;
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

/// Serves a session on the socket of `upgrade`.
pub(crate) async fn run(gateway: Arc<Gateway>, session: Session, upgrade: OnUpgrade) {
    let Session { id, resumes, attachment, outbox, entry, permit } = session;
    if resumes {
        outbox.announce_resume();
    }
    let early = match Box::pin(take_socket(&gateway, &outbox, upgrade)).await {
        Ok(early) => early,
        Err(error) => {
            debug!(session = %id, "the upgrade failed: {error:#}");
            gateway.shared.metrics.close("lost");
            return release(attachment, None).await;
        }
    };
    let mut inbound = Inbound::new(outbox.clone(), gateway.bus.clone(), id, early);
    let mut attachment = Some(attachment);
    let end = converse(&outbox, &mut inbound, &mut attachment, &gateway.replay).await;
    let clean = finish(&outbox, end).await;
    match outbox.phase() {
        Phase::Open => gateway.shared.metrics.close("lost"),
        Phase::ClosedByPeer => gateway.shared.metrics.close("client"),
        Phase::Closing(_) => {}
    }
    if let Some(attachment) = attachment {
        release(attachment, clean.then(|| outbox.cursor())).await;
    }
    drop((entry, permit));
}

/// Waits for the upgrade and connects the outbox. Returns the bytes that arrived together with the request.
async fn take_socket(gateway: &Gateway, outbox: &Outbox, upgrade: OnUpgrade) -> anyhow::Result<Bytes> {
    let upgraded = tokio::time::timeout(gateway.config.header_timeout, upgrade).await??;
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| anyhow::anyhow!("the upgraded stream is not the one that was accepted"))?;
    outbox.connect(parts.io.into_inner());
    // Copied, because the buffer of the request is 40 times as large as all else that a socket needs for reading.
    Ok(Bytes::copy_from_slice(&parts.read_buf))
}

/// Reads, writes and feeds until either side ends. If the session was taken over and the client does not answer, the session is released
/// here without a cursor, because its new holder waits for the release.
async fn converse(
    outbox: &Outbox,
    inbound: &mut Inbound,
    attachment: &mut Option<Attachment>,
    replay: &ReplayBudget,
) -> End {
    let mut reader = pin!(inbound.run());
    let mut writer = pin!(outbox.write_out());
    if let Some(lane) = attachment.as_ref() {
        tokio::select! {
            end = &mut reader => return end,
            () = &mut writer => return End::Lost,
            () = feed(outbox, lane, replay) => {}
        }
    }
    if outbox.phase() == Phase::Closing(CloseReason::TakenOver) && attachment.is_some() {
        tokio::select! {
            end = &mut reader => return end,
            () = &mut writer => return End::Lost,
            () = Box::pin(tokio::time::sleep(ANSWER_WAIT)) => {}
        }
        if let Some(lane) = attachment.take() {
            Box::pin(release(lane, None)).await;
        }
    }
    tokio::select! {
        end = &mut reader => end,
        () = &mut writer => End::Lost,
    }
}

/// Reads the log for the lane whenever it is behind and the outbox has room, until the socket closes.
async fn feed(outbox: &Outbox, lane: &Attachment, replay: &ReplayBudget) {
    while let Some(page) = outbox.next_page().await {
        let read = tokio::select! {
            // Boxed like all rare futures here, so that the task of an idle socket stays small.
            read = Box::pin(read_page(replay, lane, page)) => read,
            () = outbox.closing() => return,
        };
        match read {
            Ok(CatchUp::Live { .. } | CatchUp::Ended) => {}
            Ok(CatchUp::More) => bus::Outlet::behind(outbox),
            Ok(CatchUp::Wait) => Box::pin(read_again_later(outbox)).await,
            Err(error) => {
                debug!("the log could not be read, trying again: {error}");
                Box::pin(read_again_later(outbox)).await;
            }
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

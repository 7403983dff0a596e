//! One socket's task, from the upgrade to the release of its session: what the client sends, what waits for it, and what
//! its lane has to read again. Events do not pass through here; they go from the bus's reader into the outbox.

use crate::{
    gateway::Gateway,
    inbound::{End, Inbound, discard},
    outbox::{Outbox, Page, Phase},
    replay::Replay,
    roster::Seat,
    socket::Socket,
};
use bus::{Attachment, BusError, CatchUp};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::{CloseReason, Position, SessionId};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

/// How long the holder of a session that was taken over has to answer our close frame before its cursor is given up.
/// Its successor waits half a second for that cursor.
const ANSWER_WAIT: Duration = Duration::from_millis(400);

/// Pause before a page is asked for again that the bus did not give.
const RETRY: Duration = Duration::from_millis(200);

/// A session whose socket is about to open.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The client gave a position: it is told where its replay ended.
    pub(crate) resumes: bool,
    pub(crate) attachment: Attachment,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) seat: Seat,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Serves a session once `upgrade` has given its socket.
pub(crate) async fn run(gateway: Arc<Gateway>, session: Session, upgrade: OnUpgrade) {
    let Session { id, resumes, attachment, outbox, seat, permit } = session;
    if resumes {
        outbox.announce_resume();
    }
    let early = match Box::pin(take_socket(&gateway, &outbox, upgrade)).await {
        Ok(early) => early,
        Err(error) => {
            debug!(session = %id, "the upgrade came to nothing: {error:#}");
            gateway.terms.metrics.close("lost");
            return release(attachment, None).await;
        }
    };
    let mut inbound = Inbound::new(outbox.clone(), gateway.bus.clone(), id, early);
    let mut attachment = Some(attachment);
    let end = converse(&outbox, &mut inbound, &mut attachment, &gateway.replay).await;
    let clean = last_words(&outbox, end).await;
    match outbox.phase() {
        Phase::Open => gateway.terms.metrics.close("lost"),
        Phase::ClosedByPeer => gateway.terms.metrics.close("client"),
        Phase::Closing(_) => {}
    }
    if let Some(attachment) = attachment {
        release(attachment, clean.then(|| outbox.cursor())).await;
    }
    drop((seat, permit));
}

/// Waits for the upgrade and connects the outbox; answers what the client sent right behind its request.
async fn take_socket(gateway: &Gateway, outbox: &Outbox, upgrade: OnUpgrade) -> anyhow::Result<Bytes> {
    let upgraded = tokio::time::timeout(gateway.config.header_timeout, upgrade).await??;
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| anyhow::anyhow!("the upgraded stream is not the one that was accepted"))?;
    outbox.connect(parts.io.into_inner());
    // A copy: the buffer that the request was read into is forty times as large as all else that a socket needs to read.
    Ok(Bytes::copy_from_slice(&parts.read_buf))
}

/// Reads, writes and feeds until either side ends the conversation. A session that was taken over from a client that
/// does not answer is released here, without a cursor, because its new holder waits for that.
async fn converse(
    outbox: &Outbox,
    inbound: &mut Inbound,
    attachment: &mut Option<Attachment>,
    replay: &Replay,
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

/// Reads the log for the lane whenever it is behind and there is room, until the socket closes.
async fn feed(outbox: &Outbox, lane: &Attachment, replay: &Replay) {
    while let Some(page) = outbox.next_page().await {
        let read = tokio::select! {
            // Boxed, as all that is rare here: a socket that only listens need not have room for it.
            read = Box::pin(read_page(replay, lane, page)) => read,
            () = outbox.closing() => return,
        };
        match read {
            Ok(CatchUp::Live { .. } | CatchUp::Ended) => {}
            Ok(CatchUp::More) => bus::Outlet::behind(outbox),
            Ok(CatchUp::Wait) => Box::pin(ask_again_later(outbox)).await,
            Err(error) => {
                debug!("the log was not read, trying again: {error}");
                Box::pin(ask_again_later(outbox)).await;
            }
        }
    }
}

/// The lane stays behind, and the next page is asked for after a pause.
async fn ask_again_later(outbox: &Outbox) {
    tokio::select! {
        () = tokio::time::sleep(RETRY) => bus::Outlet::behind(outbox),
        () = outbox.closing() => {}
    }
}

/// Reads a page once there is room for it among all that are being read.
async fn read_page(replay: &Replay, lane: &Attachment, page: Page) -> Result<CatchUp, BusError> {
    let _room = replay.room(page.bytes).await;
    lane.catch_up(page.events).await
}

/// Sends what is still to be sent. True if the next socket may continue behind the outbox's cursor.
///
/// Only the client's own close frame allows that: it answers ours, behind everything that was written, or says that the
/// client wants no more. The end of the connection, and an empty send queue in the kernel, tell of the balancer alone:
/// it takes bytes for clients that are long dead.
async fn last_words(outbox: &Outbox, end: End) -> bool {
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

/// Ends our side, then waits for the client to end its own.
async fn half_close(outbox: &Outbox) {
    let Some(socket) = outbox.socket() else { return };
    let _ = socket.shutdown_write();
    tokio::select! {
        () = discard(socket) => {}
        () = outbox.write_out() => {}
    }
}

async fn release(attachment: Attachment, cursor: Option<Position>) {
    if let Err(error) = attachment.release(cursor).await {
        debug!("the session's cursor was not kept, some events may come twice: {error}");
    }
}

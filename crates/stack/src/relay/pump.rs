//! One direction of one connection: reads pieces of data, holds each until it is due, and writes them in order. The amount of held
//! data is limited. At the limit the relay stops reading, so the sender is slowed down as on a real link.

use super::impairment::{Flow, Impairment};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

const PIECE_BYTES: usize = 16 << 10;
/// Held pieces per direction: with [`PIECE_BYTES`] 1 MiB.
const PIECES: usize = 64;
/// Time between two bytes of a slow link.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// Copies data from `reader` to `writer` until the reader ends or either fails.
pub(super) async fn pump(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    impairment: watch::Receiver<Impairment>,
) -> io::Result<()> {
    let (pieces, inbox) = mpsc::channel(PIECES);
    tokio::try_join!(read(reader, pieces, impairment.clone()), write(inbox, writer, impairment))?;
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    pieces: mpsc::Sender<Piece>,
    mut impairment: watch::Receiver<Impairment>,
) -> io::Result<()> {
    let mut last_due = Instant::now();
    let mut buffer = BytesMut::new();
    loop {
        until_open(&mut impairment).await;
        // This comes before reading, so that a piece that was read never has to wait for capacity.
        let Ok(permit) = pieces.reserve().await else { return Ok(()) };
        buffer.reserve(PIECE_BYTES);
        let got = tokio::select! {
            got = reader.read_buf(&mut buffer) => got?,
            // Data that arrives while the link is half open is not read.
            () = until_half_open(&mut impairment) => continue,
        };
        if got == 0 {
            return Ok(());
        }
        let Impairment { delay, jitter, .. } = *impairment.borrow();
        let more =
            if jitter.is_zero() { Duration::ZERO } else { jitter.mul_f64(rand::rng().random::<f64>()) };
        last_due = last_due.max(Instant::now() + delay + more);
        permit.send(Piece { due: last_due, bytes: buffer.split().freeze() });
    }
}

async fn write(
    mut inbox: mpsc::Receiver<Piece>,
    mut writer: impl AsyncWrite + Unpin,
    mut impairment: watch::Receiver<Impairment>,
) -> io::Result<()> {
    while let Some(Piece { due, mut bytes }) = inbox.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        while !bytes.is_empty() {
            until_open(&mut impairment).await;
            let slow = impairment.borrow().flow == Flow::Slow;
            let portion = if slow { &bytes[..1] } else { &bytes[..] };
            let written = writer.write(portion).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let _ = bytes.split_to(written);
            if slow {
                tokio::select! {
                    () = sleep(SLOW_PAUSE) => {}
                    _ = impairment.wait_for(|now| now.flow != Flow::Slow) => {}
                }
            }
        }
    }
    until_open(&mut impairment).await;
    writer.shutdown().await
}

/// Waits until the link is not half open.
pub(super) async fn until_open(impairment: &mut watch::Receiver<Impairment>) {
    // A closed channel means that the relay was dropped, which ends this connection.
    let _ = impairment.wait_for(|now| now.flow != Flow::HalfOpen).await;
}

/// Waits until the link is half open.
async fn until_half_open(impairment: &mut watch::Receiver<Impairment>) {
    if impairment.wait_for(|now| now.flow == Flow::HalfOpen).await.is_err() {
        std::future::pending::<()>().await;
    }
}

//! One direction of one connection: reads pieces, keeps each until it is due, writes them in order. What waits is bounded;
//! beyond that it stops reading, and the sender feels it as on a real link.

use super::conduct::{Conduct, Flow};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

const PIECE_BYTES: usize = 16 << 10;
/// Pieces under way in one direction: with their size, a megabyte.
const PIECES: usize = 64;
const SLOW_PAUSE: Duration = Duration::from_secs(1);

struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// Carries everything from `reader` to `writer` until the end of the one or the failure of either.
pub(super) async fn pump(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    conduct: watch::Receiver<Conduct>,
) -> io::Result<()> {
    let (pieces, inbox) = mpsc::channel(PIECES);
    tokio::try_join!(read(reader, pieces, conduct.clone()), write(inbox, writer, conduct))?;
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    pieces: mpsc::Sender<Piece>,
    mut conduct: watch::Receiver<Conduct>,
) -> io::Result<()> {
    let mut last_due = Instant::now();
    let mut buffer = BytesMut::new();
    loop {
        until_open(&mut conduct).await;
        // A place first: what has been read always has one.
        let Ok(place) = pieces.reserve().await else { return Ok(()) };
        buffer.reserve(PIECE_BYTES);
        let got = tokio::select! {
            got = reader.read_buf(&mut buffer) => got?,
            // What comes during a half-open spell is to stay outside.
            () = closes(&mut conduct) => continue,
        };
        if got == 0 {
            return Ok(());
        }
        let Conduct { delay, jitter, .. } = *conduct.borrow();
        let more =
            if jitter.is_zero() { Duration::ZERO } else { jitter.mul_f64(rand::rng().random::<f64>()) };
        last_due = last_due.max(Instant::now() + delay + more);
        place.send(Piece { due: last_due, bytes: buffer.split().freeze() });
    }
}

async fn write(
    mut inbox: mpsc::Receiver<Piece>,
    mut writer: impl AsyncWrite + Unpin,
    mut conduct: watch::Receiver<Conduct>,
) -> io::Result<()> {
    while let Some(Piece { due, mut bytes }) = inbox.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        while !bytes.is_empty() {
            until_open(&mut conduct).await;
            let slow = conduct.borrow().flow == Flow::Slow;
            let portion = if slow { &bytes[..1] } else { &bytes[..] };
            let written = writer.write(portion).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let _ = bytes.split_to(written);
            if slow {
                tokio::select! {
                    () = sleep(SLOW_PAUSE) => {}
                    _ = conduct.wait_for(|now| now.flow != Flow::Slow) => {}
                }
            }
        }
    }
    until_open(&mut conduct).await;
    writer.shutdown().await
}

/// Waits for the end of a half-open spell.
pub(super) async fn until_open(conduct: &mut watch::Receiver<Conduct>) {
    // A closed channel means that the relay is gone, and this connection with it.
    let _ = conduct.wait_for(|now| now.flow != Flow::HalfOpen).await;
}

async fn closes(conduct: &mut watch::Receiver<Conduct>) {
    if conduct.wait_for(|now| now.flow == Flow::HalfOpen).await.is_err() {
        std::future::pending::<()>().await;
    }
}

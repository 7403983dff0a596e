//! The question a container's health check asks: is the server on this machine ready? A few lines of HTTP over a plain
//! socket, so that an image needs no other program.

use anyhow::{Context, bail};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// Asks `/ready` of the server at `address`.
///
/// # Errors
/// Nobody answers within two seconds, or the answer is not 200.
pub(crate) async fn check(address: SocketAddr) -> anyhow::Result<()> {
    let status = timeout(PATIENCE, status_line(address))
        .await
        .with_context(|| format!("{address} did not answer within {PATIENCE:?}"))??;
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { bail!("{address} is not ready: {status}") }
}

async fn status_line(address: SocketAddr) -> anyhow::Result<String> {
    let mut socket =
        TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
    socket.set_nodelay(true)?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.take(4096).read_to_end(&mut answer).await?;
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

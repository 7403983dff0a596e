//! The health check of a container: requests `/ready` from the server on this host, so that the image needs no curl.

use anyhow::{Context, bail};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Time limit of the whole check.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests `/ready` from the server at `address`.
///
/// # Errors
/// The server does not answer within two seconds, or its answer is not 200.
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

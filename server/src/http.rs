//! The listener: accepts connections, sets TCP_NODELAY, bounds how long one may take over the head of a request, and
//! lets answers finish when it closes. It knows nothing of what is served.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The largest head of a request: far above any of ours.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long to wait where the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers may take to get out once the listener is closed.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Serves `router` until `close` is cancelled; then requests that were begun are answered, and connections are closed.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    read_timeout: Duration,
    close: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                connections.spawn(connection(socket, router.clone(), read_timeout, close.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections, trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(LAST_ANSWERS, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "left connections that would not end");
    }
}

async fn connection(socket: TcpStream, router: Router, read_timeout: Duration, close: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
    );
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

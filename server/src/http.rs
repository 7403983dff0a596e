//! Accepts HTTP connections. It bounds their number and the time of a request's head, and lets answers finish when it closes.

use crate::metrics::Metrics;
use axum::Router;
use guard::{Acceptor, accept_now};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use std::{io, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The largest head of a request, in bytes. Our own requests have less than 1 KiB.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Time for open requests to be answered after the listener closed.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Limits of a listener.
pub(crate) struct Limits {
    /// Largest number of open connections. Further ones are closed at once.
    pub(crate) connections: usize,
    pub(crate) read_timeout: Duration,
}

/// Serves `router` until `close` is cancelled. Then it answers the requests that were begun and closes all connections. `connections` has
/// a task for each of them; the router adds those that it took over.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    connections: TaskTracker,
    close: CancellationToken,
) {
    let mut acceptor = Acceptor::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => break,
        };
        match accepted {
            Ok(_) if connections.len() >= limits.connections => metrics.not_accepted("too_many_connections"),
            Ok((socket, _)) => {
                acceptor.accepted();
                let serving = connection(socket, router.clone(), limits.read_timeout, close.clone());
                let open = metrics.connections.clone();
                open.inc();
                connections.spawn(async move {
                    serving.await;
                    open.dec();
                });
            }
            Err(error) => {
                let failed = acceptor.failed(&error, || accept_now(listener.accept())).await;
                metrics.not_accepted(failed.label());
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(LAST_ANSWERS, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "some connections did not end in time and were dropped"
        );
    }
}

async fn connection(socket: TcpStream, router: Router, read_timeout: Duration, close: CancellationToken) {
    if let Err(error) = prepare(&socket, read_timeout) {
        tracing::debug!(%error, "a connection ended before its first request");
        return;
    }
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
            .with_upgrades()
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

/// Sends small pieces at once, and lets the kernel break the connection of a client that takes nothing for too long: such a client would
/// otherwise hold the place of its stream for ever.
fn prepare(socket: &TcpStream, longest: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_user_timeout(Some(longest))
}

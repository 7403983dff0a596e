//! Accepts connections and serves HTTP on them until they upgrade or end. It bounds the number of connections, and the size and the time
//! of each request's head.

use crate::{
    config::Config,
    gateway::Gateway,
    http,
    socket::{Listeners, Socket},
    sources::Peer,
};
use guard::{Acceptor, accept_now};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

/// The largest head of a request, in bytes: enough for the longest token and the headers of browsers and load balancers.
const MAX_HEAD: usize = 16 << 10;

/// Number of connections without a WebSocket that are allowed in addition to `MAX_CONNECTIONS`.
pub(crate) const SPARE_CONNECTIONS: usize = 256;

/// Accepts connections until `stop`. Then it waits at most a second for open requests.
pub(crate) async fn accept(listeners: Listeners, gateway: Arc<Gateway>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let most = gateway.config.max_connections.saturating_add(SPARE_CONNECTIONS);
    let mut acceptor = Acceptor::default();
    let mut http_connections = HttpConnections::default();
    loop {
        let Some(accepted) = stop.run_until_cancelled(next(&listeners, &gateway.config)).await else { break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let failed = acceptor.failed(&error, || accept_now(listeners.accept())).await;
                gateway.shared.metrics.not_accepted(failed.label());
                continue;
            }
        };
        acceptor.accepted();
        if connections.len() + gateway.sessions.len() >= most {
            let reason = if http_connections.close_silent() { "silent" } else { "too_many_connections" };
            gateway.shared.metrics.not_accepted(reason);
            if reason != "silent" {
                continue;
            }
        }
        let busy = Arc::new(AtomicBool::new(false));
        let task = connections.spawn(serve(stream, peer, gateway.clone(), busy.clone(), stop.clone()));
        http_connections.add(task.abort_handle(), busy);
    }
    drop(listeners);
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
}

/// The connections without a WebSocket, the oldest first, each with a flag that is set while a request is answered. If there are too
/// many, one without a request is closed, so that clients that connect and send nothing cannot lock others out.
#[derive(Default)]
struct HttpConnections(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl HttpConnections {
    fn add(&mut self, task: AbortHandle, busy: Arc<AtomicBool>) {
        while self.0.front().is_some_and(|(task, _)| task.is_finished()) {
            self.0.pop_front();
        }
        // A long connection at the front keeps finished ones behind it. They are removed before the queue would grow.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|(task, _)| !task.is_finished());
        }
        self.0.push_back((task, busy));
    }

    /// Closes the oldest connection without a request. Returns false if all have one.
    fn close_silent(&mut self) -> bool {
        let silent = |(task, busy): &(AbortHandle, Arc<AtomicBool>)| {
            !task.is_finished() && !busy.load(Ordering::Relaxed)
        };
        let Some(at) = self.0.iter().position(silent) else { return false };
        if let Some((task, _)) = self.0.remove(at) {
            task.abort();
        }
        true
    }
}

/// Accepts the next connection and sets its options.
async fn next(listeners: &Listeners, config: &Config) -> io::Result<(Socket, Peer)> {
    let (socket, peer) = listeners.accept().await?;
    if let Some(bytes) = config.send_buffer_bytes {
        socket.set_send_buffer(bytes)?;
    }
    Ok((socket, peer))
}

/// Serves one connection. `busy` is set while a request is answered, and stays set after an upgrade.
async fn serve(
    stream: Socket,
    peer: Peer,
    gateway: Arc<Gateway>,
    busy: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(gateway.config.header_timeout).max_buf_size(MAX_HEAD);
    let service = service_fn(move |request| {
        let (gateway, busy) = (gateway.clone(), busy.clone());
        async move {
            busy.store(true, Ordering::Relaxed);
            let response = http::respond(&gateway, peer, request).await;
            busy.store(response.status() == ::http::StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http1.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!("a connection ended with an error: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn accepted_sockets_have_nodelay_and_the_configured_send_buffer() {
        let config = Config { send_buffer_bytes: Some(8192), ..Config::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = Listeners::from(listener);
        let (accepted, _client) = tokio::join!(next(&listeners, &config), TcpStream::connect(address));
        let Ok((Socket::Tcp(accepted), _)) = accepted else { panic!("{accepted:?}") };
        assert!(accepted.nodelay().unwrap());
        assert!(socket2::SockRef::from(&accepted).send_buffer_size().unwrap() <= 2 * 8192);
    }
}

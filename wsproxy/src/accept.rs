//! Accepts connections and serves HTTP on them until they upgrade or end. Whoever is slow to say what it wants, or says
//! too much, is cut off here; it knows nothing of sessions.

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

/// The longest head of a request, in bytes: room for the longest token and what browsers and balancers add.
const MAX_HEAD: usize = 16 << 10;

/// Connections that speak HTTP and are no sockets (yet), above the number of sockets.
pub(crate) const SPARE_CONNECTIONS: usize = 256;

/// Accepts until `stop`, then lets requests that are being answered finish.
pub(crate) async fn accept(listeners: Listeners, gateway: Arc<Gateway>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let most = gateway.config.max_connections.saturating_add(SPARE_CONNECTIONS);
    let mut acceptor = Acceptor::default();
    let mut silent = Silent::default();
    loop {
        let Some(accepted) = stop.run_until_cancelled(next(&listeners, &gateway.config)).await else { break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let failed = acceptor.failed(&error, || accept_now(listeners.accept())).await;
                gateway.terms.metrics.not_accepted(failed.label());
                continue;
            }
        };
        acceptor.accepted();
        if connections.len() + gateway.sessions.len() >= most {
            let reason = if silent.end_one() { "silent" } else { "too_many_connections" };
            gateway.terms.metrics.not_accepted(reason);
            if reason != "silent" {
                continue;
            }
        }
        let asks = Arc::new(AtomicBool::new(false));
        let task = connections.spawn(serve(stream, peer, gateway.clone(), asks.clone(), stop.clone()));
        silent.add(task.abort_handle(), asks);
    }
    drop(listeners);
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
}

/// The connections that speak HTTP, the oldest first. Where there are too many, one that asks for nothing makes room: clients that
/// connect and say nothing, or say it very slowly, shut nobody out.
#[derive(Default)]
struct Silent(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl Silent {
    fn add(&mut self, task: AbortHandle, asks: Arc<AtomicBool>) {
        while self.0.front().is_some_and(|(task, _)| task.is_finished()) {
            self.0.pop_front();
        }
        // One that lives long at the front keeps those behind it: they are removed before they are many.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|(task, _)| !task.is_finished());
        }
        self.0.push_back((task, asks));
    }

    /// Ends the oldest that asks for nothing; false if all ask for something.
    fn end_one(&mut self) -> bool {
        let silent = |(task, asks): &(AbortHandle, Arc<AtomicBool>)| {
            !task.is_finished() && !asks.load(Ordering::Relaxed)
        };
        let Some(at) = self.0.iter().position(silent) else { return false };
        if let Some((task, _)) = self.0.remove(at) {
            task.abort();
        }
        true
    }
}

/// The next connection, with the options that every socket has.
async fn next(listeners: &Listeners, config: &Config) -> io::Result<(Socket, Peer)> {
    let (socket, peer) = listeners.accept().await?;
    if let Some(bytes) = config.send_buffer_bytes {
        socket.set_send_buffer(bytes)?;
    }
    Ok((socket, peer))
}

/// Serves one connection; `asks` is set while a request is being answered.
async fn serve(
    stream: Socket,
    peer: Peer,
    gateway: Arc<Gateway>,
    asks: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(gateway.config.header_timeout).max_buf_size(MAX_HEAD);
    let service = service_fn(move |request| {
        let (gateway, asks) = (gateway.clone(), asks.clone());
        async move {
            asks.store(true, Ordering::Relaxed);
            let answer = http::answer(&gateway, peer, request).await;
            asks.store(answer.status() == ::http::StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
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
        debug!("a connection ended badly: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Secret;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn accepted_sockets_do_not_delay() {
        let mut config = Config::new(Secret::new(&"k".repeat(32)).unwrap());
        config.send_buffer_bytes = Some(8192);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = Listeners::from(listener);
        let (accepted, _client) = tokio::join!(next(&listeners, &config), TcpStream::connect(address));
        let Ok((Socket::Tcp(accepted), _)) = accepted else { panic!("{accepted:?}") };
        assert!(accepted.nodelay().unwrap());
        assert!(socket2::SockRef::from(&accepted).send_buffer_size().unwrap() <= 2 * 8192);
    }
}

//! Accepts connections and serves HTTP on them until they upgrade or end. Whoever is slow to say what it wants, or says
//! too much, is cut off here; it knows nothing of sessions.

use crate::{
    config::Config,
    gateway::Gateway,
    http,
    socket::{Listeners, Socket},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// The longest head of a request, in bytes: room for the longest token and what browsers and balancers add.
const MAX_HEAD: usize = 16 << 10;

/// Connections that speak HTTP and are no sockets (yet), above the number of sockets.
pub(crate) const SPARE_CONNECTIONS: usize = 256;

/// Pause after the system refused to accept, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `stop`, then lets requests that are being answered finish.
pub(crate) async fn accept(listeners: Listeners, gateway: Arc<Gateway>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(gateway.config.max_connections.saturating_add(SPARE_CONNECTIONS)));
    while let Some(accepted) = stop.run_until_cancelled(next(&listeners, &gateway.config)).await {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!("a connection was not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            gateway.terms.metrics.upgrade("too_many_connections");
            continue;
        };
        let serving = serve(stream, gateway.clone(), stop.clone());
        connections.spawn(async move {
            serving.await;
            drop(permit);
        });
    }
    drop(listeners);
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
}

/// The next connection, with the options that every socket has.
async fn next(listeners: &Listeners, config: &Config) -> io::Result<Socket> {
    let socket = listeners.accept().await?;
    if let Some(bytes) = config.send_buffer_bytes {
        socket.set_send_buffer(bytes)?;
    }
    Ok(socket)
}

async fn serve(stream: Socket, gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(gateway.config.header_timeout).max_buf_size(MAX_HEAD);
    let service = service_fn(move |request| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(http::answer(&gateway, request).await) }
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
        let Ok(Socket::Tcp(accepted)) = accepted else { panic!("{accepted:?}") };
        assert!(accepted.nodelay().unwrap());
        assert!(socket2::SockRef::from(&accepted).send_buffer_size().unwrap() <= 2 * 8192);
    }
}

//! The HTTP server of the page: accepts a limited number of connections, with TLS if it is configured, and serves until it is stopped.

use crate::{
    api, assets,
    connections::{Connection, Connections, Place},
    links::Links,
    program::{Program, Run},
    protection::{is_loopback, protect},
    refusal::Refusal,
    run::Runs,
    token::Token,
    trial::Trial,
};
use axum::{Router, http::StatusCode, middleware};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// Most open connections.
const MOST_CONNECTIONS: usize = 128;
/// Most streams of events at the same time.
const MOST_STREAMS: usize = 32;
/// Most commands that run at the same time. Further ones wait.
const MOST_CALLS: usize = 4;
/// Time for the head of a request to arrive, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request in bytes.
const LARGEST_HEAD: usize = 16 << 10;
/// Time for the TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Time after which a peer that acknowledges nothing is given up.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// Pause after an error of the listener, for example because no descriptor is free.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// Who may use the page, and how.
#[derive(Clone, Debug, Default)]
pub struct PageSettings {
    /// Names and addresses besides loopback by which browsers reach the page.
    pub names: Vec<String>,
    /// TLS. `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl PageSettings {
    /// Returns whether `host`, perhaps with a port, names this page.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => host,
        };
        is_loopback(bare) || self.names.iter().any(|name| name.eq_ignore_ascii_case(bare))
    }

    /// Returns the origin of the page if a browser reaches it as `host`.
    pub(crate) fn origin(&self, host: &str) -> String {
        format!("{}://{host}", if self.tls.is_some() { "https" } else { "http" })
    }
}

impl Page {
    /// Returns the right to one more stream.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many open pages: close one of them")
        })
    }
}

/// Everything that requests share.
pub(crate) struct Page {
    pub(crate) settings: PageSettings,
    pub(crate) token: Token,
    pub(crate) program: Arc<dyn Program>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) trial: Trial,
    pub(crate) links: Links,
    /// Limits the streams of events and frames.
    pub(crate) streams: Arc<Semaphore>,
    /// Limits the commands that run at the same time.
    pub(crate) calls: Semaphore,
    /// Ends the streams of events.
    pub(crate) shutdown: CancellationToken,
}

/// Serves the page on `listener` until `shutdown` is cancelled. `run`: a run that goes on already. Runs go on when the page ends.
pub async fn serve(
    listener: TcpListener,
    program: Arc<dyn Program>,
    settings: PageSettings,
    token: Token,
    run: Option<Box<dyn Run>>,
    shutdown: CancellationToken,
) {
    let runs = Runs::new(Arc::clone(&program));
    if let Some(run) = run {
        runs.adopt(run.into());
    }
    let tls = settings.tls.clone().map(TlsAcceptor::from);
    let page = Arc::new(Page {
        settings,
        token,
        program,
        runs,
        trial: Trial::default(),
        links: Links::default(),
        streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        calls: Semaphore::new(MOST_CALLS),
        shutdown: shutdown.clone(),
    });
    let router = assets::router()
        .merge(api::router())
        .layer(middleware::from_fn_with_state(Arc::clone(&page), protect))
        .with_state(page);
    let connections = Connections::new(MOST_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) => {
                let Some(place) = connections.enter() else { continue };
                tokio::spawn(connection(socket, tls.clone(), router.clone(), place, shutdown.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the page was not accepted");
                sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Serves a connection until it ends, or has to make room for another one.
async fn connection(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    place: Place,
    shutdown: CancellationToken,
) {
    let connection = &place.connection;
    let serving = async {
        prepare(&socket)?;
        match tls {
            None => requests(socket, router, connection).await,
            Some(tls) => {
                let secured = timeout(HANDSHAKE_WITHIN, tls.accept(socket)).await;
                requests(secured.map_err(io::Error::other)??, router, connection).await
            }
        }
    };
    let served = tokio::select! {
        served = serving => served,
        () = connection.close.cancelled() => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the page ended early");
    }
}

/// Lets a peer that is gone be found, also while an answer waits to be sent.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_AFTER))
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    connection: &Arc<Connection>,
) -> io::Result<()> {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(connection));
        router.clone().call(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_hosts() {
        let settings = PageSettings { names: vec!["load.example".into()], tls: None };
        for own in ["127.0.0.1:8089", "localhost", "[::1]:8089", "load.example", "LOAD.example:443"] {
            assert!(settings.is_own(own), "{own}");
        }
        for other in
            ["evil.example:8089", "", "127.0.0.1.evil.example", "load.example.evil", "load.example:x"]
        {
            assert!(!settings.is_own(other), "{other}");
        }
    }
}

//! The HTTP server of the page: accepts a limited number of connections, with TLS if it is configured, and serves until it is stopped.

use crate::{
    api, assets,
    connections::{Connection, Connections, Place},
    links::Links,
    page::{Page, PageSettings},
    program::{Program, Run},
    protection::protect,
    run::Runs,
    token::Token,
    trial::Trial,
};
use axum::{Router, middleware};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
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
        calls: Arc::new(Semaphore::new(MOST_CALLS)),
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

//! Serves `/metrics` over HTTP, from a separate thread.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    runtime::Builder,
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// Largest number of open connections. Further ones wait in the queue of the kernel.
const CONNECTIONS: usize = 16;
/// Longest life of a connection. Scrapers open a new one then.
const LIFETIME: Duration = Duration::from_secs(120);
/// Pause after a connection could not be accepted, for example because no descriptor is free.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread that serves. Dropping it ends the thread and all connections.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Starts to serve on `listener` what `read` returns: metrics in OpenMetrics' text form.
    ///
    /// # Errors
    /// The listener has no address, or the thread cannot be started.
    pub fn start(
        listener: TcpListener,
        read: impl Fn() -> String + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    // An error means that the server was dropped.
                    _ = stopped => {}
                    () = accept(listener, Arc::new(read)) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(run)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address that it serves.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, read: Arc<impl Fn() -> String + Send + Sync + 'static>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let read = read.clone();
                tokio::spawn(async move {
                    // A connection that lives too long is closed; its end says nothing that matters.
                    let _ = timeout(LIFETIME, connection(socket, read)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn connection(socket: TcpStream, read: Arc<impl Fn() -> String + Send + Sync + 'static>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, &*read);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFETIME)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the metrics ended early");
    }
}

fn respond(request: &Request<Incoming>, read: impl Fn() -> String) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, text) = match request.uri().path() {
        "/metrics" if is_read => (StatusCode::OK, host::METRICS_TYPE, read()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "expected GET /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

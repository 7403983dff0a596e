//! HTTP calls of the watch, limited in time and bytes. Each call opens a connection, as new clients do: a kept connection could
//! still reach a process that new clients no longer reach.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    io,
    time::{Duration, Instant},
};

/// Time limit of a call.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Upper limit of a response body in bytes.
const MOST_BYTES: usize = 1 << 20;

/// A `GET` call to make.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) url: String,
    pub(super) headers: HeaderMap,
}

/// The result of a call.
#[derive(Debug)]
pub(super) struct CallResult {
    /// Status and body, or why there is no response.
    pub(super) response: Result<(StatusCode, Bytes), &'static str>,
    /// Duration of the call.
    pub(super) took: Duration,
}

/// Makes calls and blocks the thread until they end.
#[derive(Debug)]
pub(super) struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Caller {
    pub(super) fn new(tls: &rustls::ClientConfig) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector.enable_http1().wrap_connector(tcp));
        Ok(Self { runtime, client })
    }

    /// Makes all calls concurrently. Returns the results in the order of the calls.
    pub(super) fn get(&self, calls: &[Call]) -> Vec<CallResult> {
        self.runtime.block_on(join_all(calls.iter().map(|call| self.call(call))))
    }

    async fn call(&self, Call { url, headers }: &Call) -> CallResult {
        let began = Instant::now();
        let call = async {
            let mut request = Request::get(url).body(Empty::new()).map_err(|_| "invalid URL")?;
            request.headers_mut().clone_from(headers);
            let response = self.client.request(request).await.map_err(|_| "no answer")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            let body = body.map_err(|_| "incomplete answer")?;
            Ok((status, body.to_bytes()))
        };
        let response = tokio::time::timeout(TIMEOUT, call).await.unwrap_or(Err("no answer in 2 s"));
        CallResult { response, took: began.elapsed() }
    }
}

//! One HTTP call of the watch: a connection each, bounded in time and bytes.
//! A connection that is kept would go on to a process that nobody new reaches.

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

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// No page of ours is longer.
const MOST_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) url: String,
    pub(super) headers: HeaderMap,
}

/// An answer, or why there is none.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) said: Result<(StatusCode, Bytes), &'static str>,
    pub(super) took: Duration,
}

/// Makes calls, and blocks its thread meanwhile.
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

    /// All at once, in their order.
    pub(super) fn get(&self, calls: &[Call]) -> Vec<Answer> {
        self.runtime.block_on(join_all(calls.iter().map(|call| self.ask(call))))
    }

    async fn ask(&self, Call { url, headers }: &Call) -> Answer {
        let began = Instant::now();
        let call = async {
            let mut request = Request::get(url).body(Empty::new()).map_err(|_| "no address")?;
            request.headers_mut().clone_from(headers);
            let answer = self.client.request(request).await.map_err(|_| "no answer")?;
            let status = answer.status();
            let body =
                Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(|_| "half an answer")?;
            Ok((status, body.to_bytes()))
        };
        let said = tokio::time::timeout(PATIENCE, call).await.unwrap_or(Err("no answer in 2 s"));
        Answer { said, took: began.elapsed() }
    }
}

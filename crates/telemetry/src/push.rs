//! Pushes metrics to an OpenTelemetry collector: protobuf over HTTP, from a separate thread.
//! One request is under way at a time and nothing is queued, so a slow collector costs no memory: it gets fewer, later readings.

use crate::{
    exposition,
    otlp::{self, Resource, Span},
};
use bytes::Bytes;
use host::Reading;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{Instant, timeout},
};
pub use url::Url;

/// Time between two exports.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time limit of an export.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time limit of the last export, for which the end of the program waits.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Path of the metrics below a collector's address, as OTLP defines it.
const PATH: &str = "/v1/metrics";
/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// A URL to which metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is not an HTTP URL with a host.
    #[error(
        "invalid URL \"{0}\" for --otlp: expected http:// or https:// and a host, for example http://127.0.0.1:4318"
    )]
    Invalid(String),
    /// It has a user or a password, which would not be sent.
    #[error(
        "the URL for --otlp has a user or a password, which is not sent: push to a collector on this host that adds it"
    )]
    Password,
}

/// Reads the URL of a collector. Without a path, that of OTLP's metrics is added.
///
/// # Errors
/// It is not an HTTP URL with a host, or has a user or a password.
pub fn push_url(text: &str) -> Result<Url, PushError> {
    let hidden = || PushError::Invalid(text.split('@').next_back().unwrap_or_default().to_owned());
    let mut url = Url::parse(text).map_err(|_| hidden())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(hidden());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(PushError::Password);
    }
    if url.path() == "/" {
        url.set_path(PATH);
    }
    Ok(url)
}

/// Counts of exports, which clones share.
#[derive(Clone, Debug, Default)]
pub struct PushCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    /// Milliseconds that the last export took.
    last_ms: AtomicU64,
}

impl PushCounts {
    /// Returns the number of exports that the collector accepted.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.0.ok.load(Relaxed)
    }

    /// Returns the number of exports that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Relaxed)
    }

    /// Returns the counts as readings for the program's own metrics.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::counter("otlp_exports", "Exports that the OpenTelemetry collector accepted", self.ok()),
            Reading::counter(
                "otlp_exports_failed",
                "Exports that failed or took longer than 5 s",
                self.failed(),
            ),
            #[allow(clippy::cast_precision_loss)]
            Reading::seconds(
                "otlp_last_export",
                "Duration of the last export",
                self.0.last_ms.load(Relaxed) as f64 / 1e3,
            ),
        ]
    }
}

/// The thread that pushes. Dropping it ends the thread without a last export, and does not wait for it.
#[derive(Debug)]
pub struct Push {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    counts: PushCounts,
}

impl Push {
    /// Starts to push every ten seconds what `read` returns: metrics in OpenMetrics' text form.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        url: &Url,
        resource: Resource,
        counts: PushCounts,
        read: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let exporter = Exporter {
            url: url.clone(),
            client: client(),
            resource,
            counts: counts.clone(),
            started: host::unix_time(),
            read: Box::new(read),
        };
        let run = move || {
            runtime.block_on(exporter.run(stopped));
            // A name lookup that does not return must not hold the thread.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("otlp".to_owned()).spawn(run)?;
        Ok(Self { stop, thread, counts })
    }

    /// Pushes once more, for at most two seconds, and ends the thread. Returns the counts.
    #[must_use]
    pub fn end(self) -> PushCounts {
        // Fails only if the thread has ended.
        let _ = self.stop.send(());
        let _ = self.thread.join();
        self.counts
    }
}

struct Exporter {
    url: Url,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    resource: Resource,
    counts: PushCounts,
    started: Duration,
    read: Box<dyn Fn() -> String + Send>,
}

impl Exporter {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let mut next = Instant::now() + INTERVAL;
        let mut failing = false;
        loop {
            tokio::select! {
                ended = &mut stopped => {
                    if ended.is_ok() {
                        self.export(LAST_PATIENCE, &mut failing).await;
                    }
                    return;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            tokio::select! {
                biased;
                ended = &mut stopped => {
                    if ended.is_ok() {
                        self.export(LAST_PATIENCE, &mut failing).await;
                    }
                    return;
                }
                () = self.export(PATIENCE, &mut failing) => {}
            }
            // Late exports are left out, so that a slow collector does not get several in a row.
            next = (next + INTERVAL).max(Instant::now());
        }
    }

    /// Exports once. The first failure of several is logged.
    async fn export(&self, patience: Duration, failing: &mut bool) {
        let span = Span { since: self.started, until: host::unix_time() };
        let request = otlp::request(&exposition::parse(&(self.read)()), &self.resource, span);
        let began = Instant::now();
        let outcome = timeout(patience, self.post(request.encode_to_vec().into())).await;
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counts.0.last_ms.store(took, Relaxed);
        let why = match outcome {
            Ok(Ok(())) => {
                self.counts.0.ok.fetch_add(1, Relaxed);
                *failing = false;
                return;
            }
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", patience.as_secs()),
        };
        self.counts.0.failed.fetch_add(1, Relaxed);
        if !std::mem::replace(failing, true) {
            let host = self.url.host_str().unwrap_or_default();
            tracing::warn!("metrics could not be pushed to {host}: {why}. Further failures are counted only");
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let request = Request::post(self.url.as_str())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| cause(&error))?;
        let (status, answer) = (response.status(), response.into_body());
        let text = Limited::new(answer, MAX_ANSWER).collect().await.map(|whole| whole.to_bytes());
        match status {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                rejected(&text.unwrap_or_default()).map_or(Ok(()), Err)
            }
            _ => {
                let text = text.unwrap_or_default();
                let text: String =
                    String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).take(200).collect();
                Err(format!("{status} {text}").trim_end().to_owned())
            }
        }
    }
}

/// Returns why the collector did not take a part of what it answered with success.
fn rejected(answer: &[u8]) -> Option<String> {
    // Some collectors answer with something else, which says nothing about metrics.
    let part = ExportMetricsServiceResponse::decode(answer).ok()?.partial_success?;
    let why: String = part.error_message.chars().filter(|c| !c.is_control()).take(200).collect();
    (part.rejected_data_points > 0)
        .then(|| format!("{} points were rejected {why}", part.rejected_data_points))
}

/// Returns the innermost cause of an error, which says what went wrong.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn client() -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_needs_a_host_and_gets_the_path_of_otlp() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/metrics"),
            ("https://otel.example/", "https://otel.example/v1/metrics"),
            ("http://otel.example/custom/metrics", "http://otel.example/custom/metrics"),
        ] {
            assert_eq!(push_url(text).unwrap().as_str(), expected);
        }
        let password = push_url("http://me:hush@otel.example").unwrap_err().to_string();
        assert!(password.contains("password") && !password.contains("hush"), "{password}");
        for text in ["127.0.0.1:4318", "grpc://x:4317", "http://", "", "ftp://me:hush@x"] {
            let error = push_url(text).unwrap_err().to_string();
            assert!(error.contains("--otlp") && error.contains("4318") && !error.contains("hush"), "{error}");
        }
    }

    /// Answers one request with this body. Returns the URL.
    fn collector(body: Vec<u8>) -> Url {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = push_url(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 4096]).unwrap();
            write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
            socket.write_all(&body).unwrap();
            // Until the client has read it.
            let _ = socket.read(&mut [0; 4096]);
        });
        url
    }

    #[test]
    fn what_a_collector_rejects_is_counted_as_failed() {
        use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
        let answer = |rejected_data_points| {
            let partial_success =
                Some(ExportMetricsPartialSuccess { rejected_data_points, error_message: "too old".into() });
            ExportMetricsServiceResponse { partial_success }.encode_to_vec()
        };
        for (body, expected) in [
            (Vec::new(), (1, 0)),
            (answer(0), (1, 0)),
            (answer(3), (0, 1)),
            (b"{\"partialSuccess\":{}}".to_vec(), (1, 0)),
        ] {
            let resource = Resource { service: "streamstress-test", instance: "1".into(), version: "1" };
            let counts = PushCounts::default();
            let push = Push::start(&collector(body), resource, counts, String::new).unwrap();
            let counts = push.end();
            assert_eq!((counts.ok(), counts.failed()), expected);
        }
    }
}

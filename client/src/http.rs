//! The HTTP calls of a session, over one bounded pool a worker, repeated where a repeat is safe.
//! It follows no redirect, knows nothing of sockets, and counts no attempt as success.

use crate::{
    backoff::{Backoff, is_retryable, retry_after},
    config::Target,
    record::{Failure, FailureKind},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use protocol::{CreateResponse, ErrorBody, RunRequest, RunResponse, SessionId};
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// One call may take no longer than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer longer than this is none of ours.
const LONGEST_ANSWER: usize = 1 << 20;

/// The API, as one worker calls it.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    connections: Semaphore,
    base: String,
    headers: http::HeaderMap,
}

/// Why one attempt failed.
struct Attempt {
    failure: Failure,
    /// Worth another, after at least this long.
    again: Option<Duration>,
}

impl Http {
    /// A pool of at most `connections` to the target.
    ///
    /// # Errors
    /// The TLS settings are refused.
    pub fn new(target: &Target, connections: usize, tls: rustls::ClientConfig) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_max_idle_per_host(connections)
            .timeout(CALL_TIMEOUT)
            .build()?;
        Ok(Self {
            client,
            connections: Semaphore::new(connections.max(1)),
            base: target.api.as_str().trim_end_matches('/').to_owned(),
            headers: target.headers.clone(),
        })
    }

    /// `POST /session/create`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn create(&self, backoff: &mut Backoff) -> Result<CreateResponse, Failure> {
        self.repeat(FailureKind::Create, "/session/create", None, backoff, |_| {}).await
    }

    /// `POST /session/{id}/run`; `on_send` is told when the first attempt went out.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn run(
        &self,
        session: SessionId,
        body: &RunRequest,
        backoff: &mut Backoff,
        on_send: impl FnOnce(Instant),
    ) -> Result<RunResponse, Failure> {
        let body = serde_json::to_vec(body).map_or_else(|_| Bytes::new(), Bytes::from);
        self.repeat(FailureKind::Run, &format!("/session/{session}/run"), Some(body), backoff, on_send).await
    }

    /// `POST /session/{id}/close`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn close(&self, session: SessionId, backoff: &mut Backoff) -> Result<(), Failure> {
        let path = format!("/session/{session}/close");
        let answer: Result<serde_json::Value, Failure> =
            self.repeat(FailureKind::Close, &path, None, backoff, |_| {}).await;
        answer.map(|_| ())
    }

    /// Whether the API is there and says that it can serve: `None` when it has no such page.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn ready(&self) -> Result<Option<(StatusCode, String)>, reqwest::Error> {
        let answer =
            self.client.get(format!("{}/ready", self.base)).headers(self.headers.clone()).send().await?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some((status, answer.text().await.unwrap_or_default())))
    }

    async fn repeat<T: DeserializeOwned>(
        &self,
        kind: FailureKind,
        path: &str,
        body: Option<Bytes>,
        backoff: &mut Backoff,
        on_send: impl FnOnce(Instant),
    ) -> Result<T, Failure> {
        let mut on_send = Some(on_send);
        loop {
            let attempt = {
                let _connection = self.connections.acquire().await;
                if let Some(on_send) = on_send.take() {
                    on_send(Instant::now());
                }
                self.post(kind.clone(), path, body.clone()).await
            };
            let Attempt { failure, again } = match attempt {
                Ok(answer) => return Ok(answer),
                Err(attempt) => attempt,
            };
            let Some(delay) = again.and_then(|told| backoff.next(Some(told))) else { return Err(failure) };
            tokio::time::sleep(delay).await;
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        kind: FailureKind,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, Attempt> {
        let url = format!("{}{path}", self.base);
        let failed =
            |code, message, again| Attempt { failure: Failure { kind: kind.clone(), code, message }, again };
        let broken = |error: &reqwest::Error| {
            failed(None, format!("POST {url}: {}", root_cause(error)), Some(Duration::ZERO))
        };
        let mut request = self.client.post(&url).headers(self.headers.clone());
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body);
        }
        let mut answer = request.send().await.map_err(|error| broken(&error))?;
        let (status, told) = (answer.status(), retry_after(answer.headers()));
        let mut text = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| broken(&error))? {
            if text.len() + chunk.len() > LONGEST_ANSWER {
                let message = format!("POST {url}: the answer is longer than {LONGEST_ANSWER} bytes");
                return Err(failed(Some(status.as_u16()), message, None));
            }
            text.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let message = format!("POST {url}: {status}{}", detail(&text));
            let again = is_retryable(status).then(|| told.unwrap_or_default());
            return Err(failed(Some(status.as_u16()), message, again));
        }
        serde_json::from_slice(&text).map_err(|error| {
            failed(Some(status.as_u16()), format!("POST {url}: cannot read the answer: {error}"), None)
        })
    }
}

/// `: detail` of an error's body, cut short.
fn detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => error.detail,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = text.trim().chars().take(200).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// The innermost cause: the outer ones repeat the URL.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

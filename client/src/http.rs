//! The HTTP calls of a session, over one bounded pool a worker, repeated where a repeat is safe.
//! It follows no redirect, knows nothing of sockets, and counts no attempt as success.

use crate::{
    backoff::{Backoff, is_retryable, retry_after},
    config::Target,
    pulse,
    record::{Failure, FailureKind},
    tcp::{Noting, SharedTimes, Times},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::CONTENT_TYPE, uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use protocol::{CreateResponse, ErrorBody, RunRequest, RunResponse, SessionId};
use serde::de::DeserializeOwned;
use std::{
    future::poll_fn,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// One call may take no longer than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer longer than this is none of ours.
const LONGEST_ANSWER: usize = 1 << 20;
/// Shorter than servers and load balancers keep an idle connection, so that none is used as it is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The API, as one worker calls it.
#[derive(Debug)]
pub struct Http {
    client: Client<HttpsConnector<Noting>, Full<Bytes>>,
    connections: Semaphore,
    /// The target, for a person.
    shown: String,
    base: uri::Parts,
    /// What stands before every path; usually nothing.
    prefix: String,
    headers: HeaderMap,
}

/// A whole answer.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
    /// Of the connection, when the answer was there.
    times: Times,
}

/// What a call that succeeded returned, and when.
#[derive(Debug)]
pub struct Done<T> {
    /// The answer.
    pub value: T,
    /// When it arrived, by the kernel where it says so.
    pub at: Instant,
    /// How much of the time until then may be the generator's own doing.
    pub slack: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    /// The target's URL is none that a request can be made of.
    pub fn new(target: &Target, connections: usize, tls: rustls::ClientConfig) -> anyhow::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .build(connector.wrap_connector(Noting(tcp)));
        Ok(Self {
            client,
            connections: Semaphore::new(connections.max(1)),
            shown: target.api.as_str().trim_end_matches('/').to_owned(),
            base: target.api.as_str().parse::<Uri>()?.into_parts(),
            prefix: target.api.path().trim_end_matches('/').to_owned(),
            headers: target.headers.clone(),
        })
    }

    /// `POST /session/create`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn create(
        &self,
        backoff: &mut Backoff,
        until: Instant,
    ) -> Result<Done<CreateResponse>, Failure> {
        self.repeat(FailureKind::Create, "/session/create", None, backoff, until, |_| {}).await
    }

    /// `POST /session/{id}/run`; `on_send` is told when the first attempt goes out, and once more when it is known exactly.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn run(
        &self,
        session: SessionId,
        body: &RunRequest,
        backoff: &mut Backoff,
        until: Instant,
        on_send: impl Fn(Instant),
    ) -> Result<RunResponse, Failure> {
        let body = serde_json::to_vec(body).map_or_else(|_| Bytes::new(), Bytes::from);
        let path = format!("/session/{session}/run");
        let done = self.repeat(FailureKind::Run, &path, Some(body), backoff, until, on_send).await?;
        Ok(done.value)
    }

    /// `POST /session/{id}/close`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn close(
        &self,
        session: SessionId,
        backoff: &mut Backoff,
        until: Instant,
    ) -> Result<(), Failure> {
        let path = format!("/session/{session}/close");
        let answer: Result<Done<serde_json::Value>, Failure> =
            self.repeat(FailureKind::Close, &path, None, backoff, until, |_| {}).await;
        answer.map(|_| ())
    }

    /// Whether the API is there and says that it can serve: `None` when it has no such page.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn ready(&self) -> Result<Option<(StatusCode, String)>, BoxError> {
        let answer = self.send(Method::GET, "/ready", None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some((answer.status, String::from_utf8_lossy(&answer.body).into_owned())))
    }

    /// Repeats a call that was refused for the moment until `until`, and one that nobody answered a few times.
    async fn repeat<T: DeserializeOwned>(
        &self,
        kind: FailureKind,
        path: &str,
        body: Option<Bytes>,
        backoff: &mut Backoff,
        until: Instant,
        on_send: impl Fn(Instant),
    ) -> Result<Done<T>, Failure> {
        let mut is_first = true;
        loop {
            let (sending, attempt) = {
                let _connection = self.connections.acquire().await;
                let sending = Instant::now();
                if is_first {
                    on_send(sending);
                }
                (sending, self.post(kind.clone(), path, body.clone()).await)
            };
            let Attempt { failure, again } = match attempt {
                Ok((value, times)) => {
                    let own_delay = times.own_delay(sending);
                    if is_first {
                        on_send(sending + own_delay);
                    }
                    let now = Instant::now();
                    let (at, slack) = times
                        .arrived
                        .map_or_else(|| (now, pulse::unseen(now)), |arrived| (arrived.at, arrived.slack));
                    return Ok(Done { value, at, slack: own_delay + slack });
                }
                Err(attempt) => attempt,
            };
            is_first = false;
            let delay = match (again, failure.code) {
                (None, _) => None,
                (told, Some(_)) => Some(backoff.again(told)),
                (told, None) => backoff.next(told),
            };
            match delay.filter(|&delay| Instant::now() + delay < until) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(failure),
            }
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        kind: FailureKind,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(T, Times), Attempt> {
        let failed = |code, message: &dyn std::fmt::Display, again| {
            let message = format!("POST {}{path}: {message}", self.shown);
            Attempt { failure: Failure { kind: kind.clone(), code, message }, again }
        };
        let answer = match tokio::time::timeout(CALL_TIMEOUT, self.send(Method::POST, path, body)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let again = (!error.is::<LengthLimitError>()).then_some(Duration::ZERO);
                return Err(failed(None, &root_cause(&*error), again));
            }
            Err(_) => {
                let message = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
                return Err(failed(None, &message, Some(Duration::ZERO)));
            }
        };
        let status = answer.status;
        if !status.is_success() {
            let again = is_retryable(status).then(|| answer.retry_after.unwrap_or_default());
            return Err(failed(
                Some(status.as_u16()),
                &format_args!("{status}{}", detail(&answer.body)),
                again,
            ));
        }
        serde_json::from_slice(&answer.body).map(|value| (value, answer.times)).map_err(|error| {
            failed(Some(status.as_u16()), &format_args!("cannot read the answer: {error}"), None)
        })
    }

    /// One call, to the end of its answer.
    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer, BoxError> {
        let has_body = body.is_some();
        let mut uri = Uri::builder().path_and_query(format!("{}{path}", self.prefix));
        if let (Some(scheme), Some(authority)) = (&self.base.scheme, &self.base.authority) {
            uri = uri.scheme(scheme.clone()).authority(authority.clone());
        }
        let mut request =
            Request::builder().method(method).uri(uri.build()?).body(Full::new(body.unwrap_or_default()))?;
        if has_body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        let (head, body) = self.client.request(request).await?.into_parts();
        // Before anything else runs: another call may have the connection next.
        let mut times = head.extensions.get::<SharedTimes>().map(|times| *times.lock()).unwrap_or_default();
        let mut collected = pin!(Limited::new(body, LONGEST_ANSWER).collect());
        let body = poll_fn(|cx| {
            let polled = collected.as_mut().poll(cx);
            if polled.is_pending() {
                // Its end came later than its beginning.
                times.arrived = None;
            }
            polled
        });
        let body = body.await?.to_bytes();
        Ok(Answer { status: head.status, retry_after: retry_after(&head.headers), body, times })
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

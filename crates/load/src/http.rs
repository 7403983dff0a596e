//! The HTTP calls of a session, over one bounded pool a worker, repeated where a repeat is safe.
//! It follows no redirect, knows nothing of sockets, and counts no attempt as success.

use crate::{
    backoff::{Backoff, is_retryable, retry_after},
    explain::{self, trouble},
    pulse,
    tcp::{Noting, SharedTimes, Times},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use measure::record::{Failure, FailureKind};
use plan::Target;
use protocol::{RunRequest, RunResponse, SessionId};
use serde::{Deserialize, de::DeserializeOwned};
use settings::{
    address::{Address, replace_headers},
    secret::{Secret, Secrets},
};
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
    address: Address,
    headers: HeaderMap,
    secrets: Secrets,
    /// The sockets get their token from the answer to `create` alone.
    needs_token: bool,
}

/// The answer to `POST /session/create`.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// The new session.
    pub session_id: SessionId,
    /// Opens the session's socket. Empty where the server gives none and none is needed.
    #[serde(default)]
    auth_token: Option<String>,
}

impl Created {
    /// Opens the session's socket; empty where the server gives none and none is needed.
    #[must_use]
    pub fn token(&self) -> Secret {
        Secret::new(self.auth_token.as_deref().unwrap_or_default())
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    headers: HeaderMap,
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

/// Why a call got no answer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why one attempt failed.
struct Attempt {
    failure: Failure,
    /// Worth another, after at least this long.
    again: Option<Duration>,
}

impl Http {
    /// A pool of at most `connections` to the target.
    #[must_use]
    pub fn new(target: &Target, connections: usize, tls: rustls::ClientConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .build(connector.wrap_connector(Noting(tcp)));
        Self {
            client,
            connections: Semaphore::new(connections.max(1)),
            address: target.api.clone(),
            headers: target.headers.clone(),
            secrets: target.secrets.clone(),
            needs_token: target.token.is_none()
                && [&target.ws].into_iter().chain(&target.more_ws).any(|ws| ws.authorization().is_none())
                && !target.headers.contains_key(AUTHORIZATION),
        }
    }

    /// `POST /session/create`.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn create(&self, backoff: &mut Backoff, until: Instant) -> Result<Done<Created>, Failure> {
        let path = "/session/create";
        let Done { value: answer, at, slack } =
            self.repeat(FailureKind::Create, path, None, backoff, until, |_| {}).await?;
        let created: Created = self.read(&FailureKind::Create, path, &answer)?;
        if self.needs_token && created.auth_token.is_none() {
            let message = "the answer has no `auth_token`: give the token of the sockets with --token, or an Authorization header with --header";
            return Err(self.failure(FailureKind::Create, path, Some(answer.status), &message));
        }
        Ok(Done { value: created, at, slack })
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
        let answer = done.value;
        if answer.body.trim_ascii().is_empty() {
            // Nothing in it is needed: what comes is then unverified.
            return Ok(RunResponse::default());
        }
        self.read(&FailureKind::Run, &path, &answer)
    }

    /// `POST /session/{id}/close`. Any success will do, whatever its body.
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
        self.repeat(FailureKind::Close, &path, None, backoff, until, |_| {}).await.map(|_| ())
    }

    /// What the API answers to `GET /ready`.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn ready(&self) -> Result<Answer, BoxError> {
        self.send(Method::GET, "/ready", None).await
    }

    /// A refusal in words: its status, where it redirects to, and what it says.
    #[must_use]
    pub fn explain(&self, answer: &Answer) -> String {
        self.secrets.hide(&explain::refusal(answer.status, &answer.headers, &answer.body))
    }

    /// Repeats a call that was refused for the moment until `until`, and one that nobody answered a few times.
    async fn repeat(
        &self,
        kind: FailureKind,
        path: &str,
        body: Option<Bytes>,
        backoff: &mut Backoff,
        until: Instant,
        on_send: impl Fn(Instant),
    ) -> Result<Done<Answer>, Failure> {
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
                Ok(value) => {
                    let times = value.times;
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

    async fn post(&self, kind: FailureKind, path: &str, body: Option<Bytes>) -> Result<Answer, Attempt> {
        let failed = |status, message: &dyn std::fmt::Display, again| Attempt {
            failure: self.failure(kind.clone(), path, status, message),
            again,
        };
        let answer = match tokio::time::timeout(CALL_TIMEOUT, self.send(Method::POST, path, body)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let trouble = trouble(&*error);
                let is_lasting = trouble.is_lasting || error.is::<LengthLimitError>();
                return Err(failed(None, &trouble.text, (!is_lasting).then_some(Duration::ZERO)));
            }
            Err(_) => {
                let message = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
                return Err(failed(None, &message, Some(Duration::ZERO)));
            }
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        let again = is_retryable(answer.status).then(|| retry_after(&answer.headers).unwrap_or_default());
        let refusal = explain::refusal(answer.status, &answer.headers, &answer.body);
        Err(failed(Some(answer.status), &refusal, again))
    }

    fn read<T: DeserializeOwned>(
        &self,
        kind: &FailureKind,
        path: &str,
        answer: &Answer,
    ) -> Result<T, Failure> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            let message = explain::unreadable(&answer.body, &error);
            self.failure(kind.clone(), path, Some(answer.status), &message)
        })
    }

    fn failure(
        &self,
        kind: FailureKind,
        path: &str,
        status: Option<StatusCode>,
        message: &dyn std::fmt::Display,
    ) -> Failure {
        let message = format!("POST {}{path}: {message}", self.address.base());
        let code = status.map(|status| status.as_u16());
        Failure { kind, code, message: self.secrets.hide(&message) }
    }

    /// One call, to the end of its answer.
    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer, BoxError> {
        let url = self.address.url();
        let uri = Uri::builder()
            .scheme(url.scheme())
            .authority(self.address.authority())
            .path_and_query(self.address.join(path))
            .build()?;
        let has_body = body.is_some();
        let mut request =
            Request::builder().method(method).uri(uri).body(Full::new(body.unwrap_or_default()))?;
        let headers = request.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = self.address.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        replace_headers(headers, &self.headers);
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
        Ok(Answer { status: head.status, headers: head.headers, body, times })
    }
}

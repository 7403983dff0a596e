//! The HTTP calls of sessions. Each worker has one pool of a limited number of connections.
//! Calls are repeated after errors that may pass. A call without a response tries the other addresses of the API at once. It does not if
//! it was sent and would create a session, because the server may have created one already. Redirects are not followed.

use crate::{
    api::{ApiAddresses, CALL_TIMEOUT},
    backoff::{Backoff, is_retryable, retry_after},
    connector::add_headers,
    event_loop,
    explain::{self, describe},
    tcp::{ConnectionTimes, SharedConnectionTimes, TimedConnector},
};
use bytes::Bytes;
use dialects::Call;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
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

/// Time limit of a connection, if the API has another address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper limit of a response body in bytes.
const LONGEST_ANSWER: usize = 1 << 20;
/// How long an idle connection is kept. Shorter than servers and load balancers keep it, so that no call meets a connection
/// that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The HTTP client of one worker.
#[derive(Debug)]
pub struct Http {
    client: Client<HttpsConnector<TimedConnector>, Full<Bytes>>,
    api: ApiAddresses,
    headers: HeaderMap,
    secrets: Secrets,
    /// Sockets have no token but the one in the response to `create`.
    needs_token: bool,
}

/// The response to `POST /session/create`.
#[derive(Debug, Deserialize)]
pub struct Created {
    /// The new session's id.
    pub session_id: SessionId,
    /// The token of the session's sockets. `None` if the server returns none.
    #[serde(default)]
    auth_token: Option<String>,
}

impl Created {
    /// Returns the token of the session's sockets. Empty if the server returned none.
    #[must_use]
    pub fn token(&self) -> Secret {
        Secret::new(self.auth_token.as_deref().unwrap_or_default())
    }
}

/// A complete response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// The times of the connection when the response was complete.
    times: ConnectionTimes,
}

impl HttpResponse {
    /// Returns the text of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// A call that may be repeated.
struct Repeated<'a> {
    kind: FailureKind,
    method: Method,
    path: &'a str,
    headers: &'a [(String, String)],
    body: Option<Bytes>,
    /// The server recognizes a repeat, because it knows the session or the query id.
    is_safe: bool,
}

impl<'a> Repeated<'a> {
    /// Returns a call of the project's own contract.
    fn post(kind: FailureKind, path: &'a str, body: Option<Bytes>) -> Self {
        let is_safe = kind != FailureKind::Create;
        Self { kind, method: Method::POST, path, headers: &[], body, is_safe }
    }

    /// Returns whether the call may be made later if it was sent and there was no response. A question could start a second answer.
    fn may_be_repeated(&self) -> bool {
        self.is_safe || self.kind != FailureKind::Run
    }
}

/// A response and the address that it came from.
#[derive(Debug)]
struct Received<'a> {
    response: HttpResponse,
    from: &'a Address,
}

/// The result of a call that succeeded, and when it arrived.
#[derive(Debug)]
pub struct Timed<T> {
    /// The result.
    pub value: T,
    /// When the response arrived: the kernel's timestamp if there is one, else the time of the read.
    pub at: Instant,
    /// The part of the time until `at` that the generator itself may have caused, at most.
    pub slack: Duration,
}

/// What a call reports before it ends.
#[derive(Clone, Copy, Debug)]
pub enum CallStep<'a> {
    /// The first attempt was sent at this time. Reported once more when the exact time is known.
    Sent(Instant),
    /// An attempt failed. Another one may follow.
    Failed(&'a Failure),
}

/// Why a call got no response.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why one attempt failed.
struct FailedAttempt {
    failure: Failure,
    /// The minimum delay before another attempt. `None`: another attempt would fail as well.
    retry_after: Option<Duration>,
    progress: Progress,
}

/// How far an attempt came before it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There was no connection, so that nothing was sent.
    NotConnected,
    /// The call was sent, or a part of it. There is no complete response.
    Sent,
    Responded,
}

impl Http {
    /// Creates a client that makes at most `connections` calls to each address of the API at a time, each over its own connection.
    #[must_use]
    pub fn new(target: &Target, connections: usize, tls: rustls::ClientConfig) -> Self {
        let api = ApiAddresses::new(target, connections);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout((api.count() > 1).then_some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections)
            .build(connector.wrap_connector(TimedConnector(tcp)));
        Self {
            client,
            api,
            headers: target.headers.clone(),
            secrets: target.secrets.clone(),
            needs_token: target.token.is_none()
                && [&target.ws].into_iter().chain(&target.more_ws).any(|ws| ws.authorization().is_none())
                && !target.headers.contains_key(AUTHORIZATION),
        }
    }

    /// Calls `POST /session/create`, with repeats until `until`.
    ///
    /// # Errors
    /// The failure of the last attempt, or a response without a token that the sockets need.
    pub async fn create(&self, backoff: &mut Backoff, until: Instant) -> Result<Timed<Created>, Failure> {
        let path = "/session/create";
        let Timed { value: response, at, slack } =
            self.repeat(&Repeated::post(FailureKind::Create, path, None), backoff, until, |_| {}).await?;
        let created: Created = self.read(&FailureKind::Create, path, &response)?;
        if self.needs_token && created.auth_token.is_none() {
            let message = "the response has no `auth_token`: give the token of the sockets with --auth-token, or an Authorization header with --header";
            let status = Some(response.response.status);
            return Err(self.failure(FailureKind::Create, response.from, path, status, &message));
        }
        Ok(Timed { value: created, at, slack })
    }

    /// Calls `POST /session/{id}/run`, with repeats until `until`. Calls `on_step` with each step.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub async fn run(
        &self,
        session: SessionId,
        body: &RunRequest,
        backoff: &mut Backoff,
        until: Instant,
        on_step: impl Fn(CallStep<'_>),
    ) -> Result<RunResponse, Failure> {
        let body = serde_json::to_vec(body).map_or_else(|_| Bytes::new(), Bytes::from);
        let path = format!("/session/{session}/run");
        let call = Repeated::post(FailureKind::Run, &path, Some(body));
        let timed = self.repeat(&call, backoff, until, on_step).await?;
        let response = timed.value;
        if response.response.body.trim_ascii().is_empty() {
            // All fields are optional. Without them, the number of tokens cannot be verified.
            return Ok(RunResponse::default());
        }
        self.read(&FailureKind::Run, &path, &response)
    }

    /// Calls `POST /session/{id}/close`, with repeats until `until`. The body of the response is ignored.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub async fn close(
        &self,
        session: SessionId,
        backoff: &mut Backoff,
        until: Instant,
    ) -> Result<(), Failure> {
        let path = format!("/session/{session}/close");
        self.repeat(&Repeated::post(FailureKind::Close, &path, None), backoff, until, |_| {})
            .await
            .map(|_| ())
    }

    /// Makes a call of a target file, with repeats until `until`. Calls `on_step` with each step.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub async fn call(
        &self,
        kind: FailureKind,
        call: &Call,
        backoff: &mut Backoff,
        until: Instant,
        on_step: impl Fn(CallStep<'_>),
    ) -> Result<Timed<HttpResponse>, Failure> {
        let body = call.body.as_ref().map(|body| Bytes::copy_from_slice(body.as_bytes()));
        let (path, headers) = (call.path.as_str(), call.headers.as_slice());
        let method = Method::from_bytes(call.method.as_bytes()).unwrap_or(Method::POST);
        let repeated = Repeated { kind, method, path, headers, body, is_safe: false };
        let Timed { value, at, slack } = self.repeat(&repeated, backoff, until, on_step).await?;
        Ok(Timed { value: value.response, at, slack })
    }

    /// Calls `GET /ready` once.
    ///
    /// # Errors
    /// The API cannot be reached.
    pub async fn ready(&self) -> Result<HttpResponse, BoxError> {
        let ready = Repeated {
            kind: FailureKind::Create,
            method: Method::GET,
            path: "/ready",
            headers: &[],
            body: None,
            is_safe: true,
        };
        self.send(&self.api.at(&self.api.route()).address, &ready).await
    }

    /// Describes a refusal for people: status, redirect target, and the start of the body.
    #[must_use]
    pub fn explain(&self, response: &HttpResponse) -> String {
        self.secrets.hide(&explain::refusal(response.status, &response.headers, &response.body))
    }

    /// Makes a call and repeats it: until `until` if the server refused it temporarily, and for the backoff's limited number
    /// of attempts if there was no response from any address.
    async fn repeat(
        &self,
        call: &Repeated<'_>,
        backoff: &mut Backoff,
        until: Instant,
        on_step: impl Fn(CallStep<'_>),
    ) -> Result<Timed<Received<'_>>, Failure> {
        let mut is_first = true;
        let mut route = self.api.route();
        // The delay that an earlier address of the route needs. It is used if the error of the last one is permanent.
        let mut earlier = None;
        loop {
            let permit = self.api.permit(&mut route).await;
            let api = self.api.at(&route);
            let sending = Instant::now();
            if is_first {
                on_step(CallStep::Sent(sending));
            }
            let attempt = self.attempt(&api.address, call).await;
            drop(permit);
            let FailedAttempt { failure, retry_after, progress } = match attempt {
                Ok(response) => {
                    api.responded();
                    let times = response.times;
                    let own_delay = times.own_delay(sending);
                    if is_first {
                        on_step(CallStep::Sent(sending + own_delay));
                    }
                    let now = Instant::now();
                    let (at, slack) = times.arrived.map_or_else(
                        || (now, event_loop::unseen(now)),
                        |arrived| (arrived.at, arrived.slack),
                    );
                    let value = Received { response, from: &api.address };
                    return Ok(Timed { value, at, slack: own_delay + slack });
                }
                Err(attempt) => attempt,
            };
            is_first = false;
            on_step(CallStep::Failed(&failure));
            let retry_after = retry_after.or(earlier.take());
            let retry_after = retry_after.filter(|_| progress != Progress::Sent || call.may_be_repeated());
            let may_move = match progress {
                Progress::NotConnected => true,
                Progress::Sent => call.is_safe,
                Progress::Responded => false,
            };
            if progress == Progress::Responded {
                api.responded();
            } else {
                api.failed(sending);
            }
            if may_move && Instant::now() < until && self.api.move_on(&mut route) {
                earlier = retry_after;
                continue;
            }
            let delay = match (retry_after, failure.code) {
                (None, _) => None,
                (requested, Some(_)) => Some(backoff.next_requested(requested)),
                (requested, None) => backoff.next(requested),
            };
            match delay.filter(|&delay| Instant::now() + delay < until) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(failure),
            }
            route = self.api.route();
        }
    }

    /// Makes one attempt.
    async fn attempt(&self, address: &Address, call: &Repeated<'_>) -> Result<HttpResponse, FailedAttempt> {
        let failed = |status, message: &dyn std::fmt::Display, retry_after, progress| FailedAttempt {
            failure: self.failure_of(&call.method, call.kind.clone(), address, call.path, status, message),
            retry_after,
            progress,
        };
        let sending = self.send(address, call);
        let response = match tokio::time::timeout(CALL_TIMEOUT, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let described = describe(&*error);
                let progress = progress(&error);
                let is_permanent = described.is_permanent || progress == Progress::Responded;
                let delay = (!is_permanent).then_some(Duration::ZERO);
                return Err(failed(None, &described.text, delay, progress));
            }
            Err(_) => {
                let message = format!("no response within {} s", CALL_TIMEOUT.as_secs());
                return Err(failed(None, &message, Some(Duration::ZERO), Progress::Sent));
            }
        };
        if response.status.is_success() {
            return Ok(response);
        }
        let delay = is_retryable(response.status).then(|| retry_after(&response.headers).unwrap_or_default());
        let refusal = explain::refusal(response.status, &response.headers, &response.body);
        Err(failed(Some(response.status), &refusal, delay, Progress::Responded))
    }

    /// Reads the body of a response as JSON.
    fn read<T: DeserializeOwned>(
        &self,
        kind: &FailureKind,
        path: &str,
        received: &Received<'_>,
    ) -> Result<T, Failure> {
        let response = &received.response;
        serde_json::from_slice(&response.body).map_err(|error| {
            let message = explain::unreadable(&response.body, &error);
            self.failure(kind.clone(), received.from, path, Some(response.status), &message)
        })
    }

    fn failure(
        &self,
        kind: FailureKind,
        address: &Address,
        path: &str,
        status: Option<StatusCode>,
        message: &dyn std::fmt::Display,
    ) -> Failure {
        self.failure_of(&Method::POST, kind, address, path, status, message)
    }

    fn failure_of(
        &self,
        method: &Method,
        kind: FailureKind,
        address: &Address,
        path: &str,
        status: Option<StatusCode>,
        message: &dyn std::fmt::Display,
    ) -> Failure {
        // A query may hold a secret.
        let path = path.split('?').next().unwrap_or_default();
        let message = format!("{method} {}{path}: {message}", address.base());
        let code = status.map(|status| status.as_u16());
        Failure { kind, code, message: self.secrets.hide(&message) }
    }

    /// Sends one request and reads the complete response.
    async fn send(&self, address: &Address, call: &Repeated<'_>) -> Result<HttpResponse, BoxError> {
        let uri = Uri::builder()
            .scheme(address.url().scheme())
            .authority(address.authority())
            .path_and_query(address.join(call.path))
            .build()?;
        let has_body = call.body.is_some();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .body(Full::new(call.body.clone().unwrap_or_default()))?;
        let headers = request.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = address.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        add_headers(headers, call.headers)?;
        replace_headers(headers, &self.headers);
        let (head, body) = self.client.request(request).await?.into_parts();
        // Copied before the next await: afterwards another call may use the connection and change its times.
        let mut times =
            head.extensions.get::<SharedConnectionTimes>().map(|times| *times.lock()).unwrap_or_default();
        let mut collected = pin!(Limited::new(body, LONGEST_ANSWER).collect());
        let body = poll_fn(|cx| {
            let polled = collected.as_mut().poll(cx);
            if polled.is_pending() {
                // The end of the body had not arrived yet, so that the copied arrival is too early.
                times.arrived = None;
            }
            polled
        });
        let body = body.await?.to_bytes();
        Ok(HttpResponse { status: head.status, headers: head.headers, body, times })
    }
}

/// Returns how far an attempt came that ended with `error`.
fn progress(error: &BoxError) -> Progress {
    if error.is::<LengthLimitError>() {
        return Progress::Responded;
    }
    match error.downcast_ref::<legacy::Error>() {
        Some(error) if error.is_connect() => Progress::NotConnected,
        _ => Progress::Sent,
    }
}

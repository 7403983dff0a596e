//! The HTTP calls: sessions, runs, health and metrics. Handlers check the request and call the bus. Long work runs in other tasks.

use crate::{
    body,
    error::ApiError,
    openai::{self, OpenAi, Problem},
    request::Query,
    runs::{BUS_PATIENCE, Runs},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequest, MatchedPath, Path, Request, State},
    http::header::CONTENT_TYPE,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bus::BusError;
use guard::Budget;
use host::Exporter;
use protocol::{Claims, CloseResponse, CreateResponse, RunResponse, SessionId, Signer};
use std::sync::Arc;
use telemetry::PushCounts;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The state that all handlers share.
pub(crate) struct App {
    pub(crate) runs: Arc<Runs>,
    pub(crate) signer: Signer,
    pub(crate) exporter: Arc<Exporter>,
    pub(crate) pushed: PushCounts,
    pub(crate) draining: CancellationToken,
    /// The bytes that all bodies may hold together while they are read.
    pub(crate) bodies: Arc<Budget>,
    pub(crate) openai: Arc<OpenAi>,
}

type Shared = State<Arc<App>>;

impl App {
    /// Returns the routes of all calls.
    pub(crate) fn router(self) -> Router {
        let openai = self.openai.clone();
        let app = Arc::new(self);
        Router::new()
            .route("/session/create", post(create))
            .route("/session/{id}/run", post(run))
            .route("/session/{id}/close", post(close))
            .route("/health", get(|| async { Json(serde_json::json!({"status": "ok"})) }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .merge(openai::router(openai))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(from_fn_with_state(app.clone(), count))
            .with_state(app)
    }

    /// Checks that the server can finish new work.
    ///
    /// # Errors
    /// The server is draining, or the bus is not ready.
    fn check_able(&self) -> Result<(), ApiError> {
        if self.draining.is_cancelled() {
            return Err(ApiError::Draining);
        }
        if *self.runs.bus.ready().borrow() { Ok(()) } else { Err(ApiError::BusUnreachable) }
    }

    fn token(&self, session_id: SessionId) -> String {
        let iat = host::unix_time().as_secs();
        let exp = self.runs.config.token_ttl.map(|ttl| iat.saturating_add(ttl.as_secs()));
        self.signer.sign(&Claims { session_id, iat, exp })
    }
}

async fn create(State(app): Shared, _body: Body) -> Result<Json<CreateResponse>, ApiError> {
    app.check_able()?;
    let session_id = SessionId::new(Uuid::new_v4());
    patiently(app.runs.bus.create(session_id)).await?;
    Ok(Json(CreateResponse { session_id, auth_token: app.token(session_id) }))
}

async fn run(
    PathSession(session): PathSession,
    State(app): Shared,
    Body(body): Body,
) -> Result<Json<RunResponse>, ApiError> {
    let query = Query::parse(&body)?;
    match app.check_able() {
        Ok(()) => app.runs.clone().run(session, query).await.map(Json),
        // A repeated call still gets its answer: its query runs already, here or on another server.
        Err(refusal) => app.runs.recall(session, &query, refusal).await.map(Json),
    }
}

async fn close(
    PathSession(session): PathSession,
    State(app): Shared,
    _body: Body,
) -> Result<Json<CloseResponse>, ApiError> {
    if patiently(app.runs.bus.close(session)).await? {
        Ok(Json(CloseResponse { status: "closed".to_owned() }))
    } else {
        Err(ApiError::UnknownSession)
    }
}

async fn ready(State(app): Shared) -> Result<Json<serde_json::Value>, ApiError> {
    app.check_able()?;
    Ok(Json(serde_json::json!({"status": "ready"})))
}

async fn metrics(State(app): Shared) -> impl IntoResponse {
    ([(CONTENT_TYPE, host::METRICS_TYPE)], app.exporter.text())
}

/// Returns the error for an unknown path, in the form of the calls beside it.
async fn unknown_path(request: Request) -> Response {
    let path = request.uri().path();
    if path.starts_with(openai::PREFIX) {
        Problem::UnknownUrl(format!("{} {path}", request.method())).into_response()
    } else {
        ApiError::UnknownPath.into_response()
    }
}

/// Returns the error for a wrong method, in the form of the calls beside it.
async fn unknown_method(request: Request) -> Response {
    if request.uri().path().starts_with(openai::PREFIX) {
        Problem::UnknownMethod(request.method().to_string()).into_response()
    } else {
        ApiError::UnknownMethod.into_response()
    }
}

async fn count(State(app): Shared, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let call = route.as_ref().map_or("unknown", MatchedPath::as_str);
    app.runs.metrics.answered(call, response.status().as_u16());
    response
}

/// Waits for a call of the bus, at most [`BUS_PATIENCE`].
async fn patiently<T>(call: impl Future<Output = Result<T, BusError>>) -> Result<T, ApiError> {
    match timeout(BUS_PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a call of the bus failed");
            Err(ApiError::BusUnreachable)
        }
        Err(_) => {
            tracing::warn!(patience = ?BUS_PATIENCE, "the bus did not answer a call in time");
            Err(ApiError::BusUnreachable)
        }
    }
}

/// The session id in a path. A text that is not a UUID gets the answer for an unknown session.
struct PathSession(SessionId);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for PathSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, ApiError> {
        let Path(id) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|_| ApiError::UnknownSession)?;
        id.parse().map(Self).map_err(|_| ApiError::UnknownSession)
    }
}

/// A complete body of any content type. Its size, its time and the memory of all bodies are bounded.
struct Body(Bytes);

impl FromRequest<Arc<App>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        body::read(request.into_body(), &app.bodies, app.runs.config.read_timeout).await.map(Self)
    }
}

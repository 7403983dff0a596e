//! What a caller is told when a call fails: one table from the reason to its status, its text and when to come back.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use protocol::ErrorBody;

/// When to come back, in seconds: capacity and the bus return soon, and a draining server has peers.
const RETRY_AFTER_SECONDS: &str = "1";

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("Not Found")]
    UnknownPath,
    #[error("Method Not Allowed")]
    UnknownMethod,
    #[error("Session not found")]
    UnknownSession,
    #[error("this query was run before, others have followed: give a new one a query_id of its own")]
    Past,
    #[error("session is closed: create another one")]
    Closed,
    #[error("a query is running already: wait for its terminator")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error("the body is larger than {limit} bytes", limit = crate::app::MAX_BODY_BYTES)]
    TooLarge,
    #[error("the body did not arrive in time")]
    SlowBody,
    #[error("the server reads too many bodies at once: try again later")]
    NoRoom,
    #[error("all {0} streams are taken: try again later")]
    Full(usize),
    #[error("the server is shutting down: try again, another one answers")]
    Draining,
    #[error("the bus does not answer: try again later")]
    BusUnreachable,
    #[error("internal error")]
    Internal,
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath | Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::UnknownMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Past | Self::Closed | Self::Busy => StatusCode::CONFLICT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoom | Self::Draining | Self::BusUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn is_temporary(&self) -> bool {
        matches!(self, Self::NoRoom | Self::Full(_) | Self::Draining | Self::BusUnreachable)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody { detail: self.to_string() })).into_response();
        if self.is_temporary() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

//! The table of failed calls: status, text and `Retry-After` of each.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use protocol::ErrorBody;

/// The value of `Retry-After`, in seconds. It is short because capacity and the bus return soon, and a draining server has peers.
pub(crate) const RETRY_AFTER_SECONDS: &str = "1";

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("Not Found")]
    UnknownPath,
    #[error("Method Not Allowed")]
    UnknownMethod,
    #[error("Session not found")]
    UnknownSession,
    #[error("this query_id belongs to an earlier query of the session: send a new query_id")]
    Past,
    #[error("the session is closed: create another one")]
    Closed,
    #[error("a query of this session is running: wait for its terminator")]
    Busy,
    #[error("{0}")]
    Invalid(String),
    #[error("the body is larger than {0} bytes: send a shorter one")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    SlowBody,
    #[error("the server is reading too many bodies at once: try again later")]
    NoRoom,
    #[error("the limit of streams, MAX_STREAMS={0}, is reached: try again later")]
    Full(usize),
    #[error("the server is shutting down: try again to reach another server")]
    Draining,
    #[error("the bus is not reachable: try again later")]
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
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoom | Self::Draining | Self::BusUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns whether the same call can succeed soon.
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

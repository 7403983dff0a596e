//! The table of failed requests in OpenAI's form: status, type, code, text and `Retry-After` of each.

use crate::error::{ApiError, RETRY_AFTER_SECONDS};
use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use dialects::{chat, responses};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("Unknown request URL: {0}. See docs/openai.md for the calls that the simulator answers.")]
    UnknownUrl(String),
    #[error("This URL does not accept the method {0}.")]
    UnknownMethod(String),
    #[error(
        "Incorrect API key provided: send it as `Authorization: Bearer KEY` (the server's SERVER_API_KEY)."
    )]
    WrongKey,
    /// A field is wrong: its message and its name.
    #[error("{0}")]
    Invalid(String, String),
    /// The body as a whole is wrong.
    #[error("{0}")]
    Malformed(String),
    #[error("the body is larger than {0} bytes: send a shorter one")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    SlowBody,
    #[error("The model '{0}' does not exist.")]
    UnknownModel(String),
    #[error("Response with id '{0}' not found.")]
    UnknownResponse(String),
    #[error("Previous response with id '{0}' not found.")]
    UnknownPrevious(String),
    #[error("No tool call found for function call output with call_id {0}.")]
    UnknownToolCall(String),
    #[error("Response with id '{0}' cannot be cancelled: only a response with `background: true` can.")]
    NotCancellable(String),
    #[error("invalid `stream_id`: expected 1 to 256 of A-Z, a-z, 0-9, `_`, `.` and `-`")]
    InvalidLane,
    #[error("this socket has {0} named streams already: reuse one, or open another socket")]
    TooManyLanes(usize),
    #[error("this socket has too many waiting requests: wait for a response to end")]
    TooManyTurns,
    #[error("the socket has reached its age limit of {0} seconds: open another one")]
    SocketTooOld(u64),
    #[error("the limit of streams, MAX_STREAMS={0}, is reached: try again later")]
    Full(usize),
    #[error("the server is reading too many bodies at once: try again later")]
    NoRoom,
    #[error("the server is shutting down: try again to reach another server")]
    Draining,
    #[error("the request asked for this error")]
    Injected,
    #[error("internal error")]
    Internal,
}

impl Problem {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownUrl(_) | Self::UnknownModel(_) | Self::UnknownResponse(_) => StatusCode::NOT_FOUND,
            Self::UnknownMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::WrongKey => StatusCode::UNAUTHORIZED,
            Self::Invalid(..)
            | Self::Malformed(_)
            | Self::UnknownPrevious(_)
            | Self::UnknownToolCall(_)
            | Self::NotCancellable(_)
            | Self::InvalidLane
            | Self::TooManyLanes(_)
            | Self::SocketTooOld(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Full(_) | Self::TooManyTurns => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoom | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Injected | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) const fn kind(&self) -> &'static str {
        match self.status().as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub(crate) const fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownUrl(_) => "unknown_url",
            Self::WrongKey => "invalid_api_key",
            Self::UnknownModel(_) => "model_not_found",
            Self::UnknownPrevious(_) => "previous_response_not_found",
            Self::InvalidLane => "invalid_stream_id",
            Self::TooManyLanes(_) => "websocket_stream_limit_reached",
            Self::SocketTooOld(_) => "websocket_connection_limit_reached",
            Self::Full(_) | Self::TooManyTurns => "rate_limit_exceeded",
            Self::Draining | Self::NoRoom => "service_unavailable",
            Self::Injected | Self::Internal => "server_error",
            _ => return None,
        })
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid(_, param) => Some(param),
            Self::UnknownModel(_) => Some("model"),
            Self::UnknownResponse(_) | Self::NotCancellable(_) => Some("response_id"),
            Self::UnknownPrevious(_) => Some("previous_response_id"),
            Self::UnknownToolCall(_) => Some("input"),
            Self::InvalidLane | Self::TooManyLanes(_) => Some("stream_id"),
            _ => None,
        }
    }

    /// Returns the event that reports the problem over a WebSocket, in the lane of this name.
    pub(crate) fn socket_event(&self, stream_id: Option<&str>) -> String {
        let error = (self.kind(), self.code(), &*self.to_string(), self.param());
        responses::write::socket_error(self.status().as_u16(), stream_id, error)
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Invalid(message) => Self::Malformed(message),
            ApiError::TooLarge(limit) => Self::TooLarge(limit),
            ApiError::SlowBody => Self::SlowBody,
            ApiError::NoRoom => Self::NoRoom,
            ApiError::Draining => Self::Draining,
            _ => Self::Internal,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = chat::write::error(&self.to_string(), self.kind(), self.param(), self.code());
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status(), json, body).into_response();
        if matches!(self.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

//! Why a request does not become a socket: status, headers, text and metric label of each reason.

use crate::{rate::whole_seconds, rollup::WINDOW_MS};
use http::{HeaderValue, StatusCode, header};
use protocol::{MAX_HOPS, ParsePositionError, TokenError};
use std::time::Duration;

/// Why a request does not become a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the gateway is draining, connect again to reach another one")]
    Draining,
    #[error("the gateway is full (MAX_CONNECTIONS), try again later")]
    Full,
    #[error("too many clients connect at once (MAX_CONNECT_RATE), try again in {} s", whole_seconds(*wait))]
    Rate {
        /// Time until a place is free.
        wait: Duration,
    },
    #[error("not found: {0}")]
    NotFound(String),
    #[error("this path requires a WebSocket handshake: send `Connection: upgrade` and `Upgrade: websocket`")]
    NotAnUpgrade,
    #[error("unsupported WebSocket version: send `Sec-WebSocket-Version: 13`")]
    Version,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("a token is required: send `Authorization: Bearer <jwt>` or the subprotocols `bearer, <jwt>`")]
    NoToken,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("too many bad tokens from this address, try again in {retry_after} s")]
    BadTokens {
        /// Wait before the next attempt, in seconds.
        retry_after: u64,
    },
    #[error("last event id: {0}")]
    Position(#[from] ParsePositionError),
    #[error("last event id: {0}")]
    BeyondTheEnd(String),
    #[error("rollup: expected a whole number of milliseconds from {} to {}, for example ?rollup=40", WINDOW_MS.start(), WINDOW_MS.end())]
    Rollup,
    #[error("hops: expected a whole number of tokens from 1 to {MAX_HOPS}, for example ?hops=16")]
    Hops,
    #[error("the gateway has no connection to the bus, try again later")]
    BusDown,
}

impl Refusal {
    /// Returns the HTTP status of the refusal.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Draining | Self::Full | Self::Rate { .. } | Self::BusDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed(_) | Self::Position(_) | Self::BeyondTheEnd(_) | Self::Rollup | Self::Hops => {
                StatusCode::BAD_REQUEST
            }
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Token(_) => StatusCode::FORBIDDEN,
            Self::BadTokens { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Returns the header that tells the client what to do next.
    pub(crate) fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::Rate { wait } => return Some((header::RETRY_AFTER, whole_seconds(*wait).into())),
            Self::BadTokens { retry_after } => return Some((header::RETRY_AFTER, (*retry_after).into())),
            Self::Draining => (header::RETRY_AFTER, "1"),
            Self::Full | Self::BusDown => (header::RETRY_AFTER, "2"),
            Self::NotAnUpgrade => (header::UPGRADE, "websocket"),
            Self::Version => (header::SEC_WEBSOCKET_VERSION, "13"),
            Self::NoToken => (header::WWW_AUTHENTICATE, "Bearer"),
            _ => return None,
        };
        Some((name, HeaderValue::from_static(value)))
    }

    /// Returns the value of `retry-after-ms`, in milliseconds. `Retry-After` has whole seconds, which may be longer than necessary.
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Rate { wait } => u64::try_from(wait.as_micros().div_ceil(1000)).ok(),
            _ => None,
        }
    }

    /// Returns the value of the label `result` of the metric `wsproxy_upgrades_total`.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Rate { .. } => "rate",
            Self::NotFound(_) => "not_found",
            Self::NotAnUpgrade | Self::Version | Self::Malformed(_) => "bad_handshake",
            Self::NoToken => "no_token",
            Self::Token(_) => "bad_token",
            Self::BadTokens { .. } => "bad_token_rate",
            Self::Position(_) | Self::BeyondTheEnd(_) => "bad_position",
            Self::Rollup => "bad_rollup",
            Self::Hops => "bad_hops",
            Self::BusDown => "bus_down",
        }
    }
}

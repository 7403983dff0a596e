//! Bodies of the HTTP calls. Fields that the old contract did not have are optional when read,
//! so that the client also runs against servers that speak only the old one.

use crate::SessionId;
use serde::{Deserialize, Serialize};

/// `POST /session/create` answers this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateResponse {
    /// The new session.
    pub session_id: SessionId,
    /// Opens the session's socket.
    pub auth_token: String,
}

/// `POST /session/{id}/run` takes this.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunRequest {
    /// The prompt.
    pub query: String,
    /// Made by the client: a repeat of the call starts nothing. The server makes one where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// How many tokens to play.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// Delay before the first token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Delay after each token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
}

/// `POST /session/{id}/run` answers this, at once. Old servers send `status` alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResponse {
    /// `streaming`.
    pub status: String,
    /// The query's id, the client's own where it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// The generation that the query's positions carry.
    #[serde(default, rename = "gen", skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How many `token` events will come before the terminator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Whose `CLOCK_MONOTONIC` the events' times are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The server that plays the stream, by the name of its instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// From the start of the stream to its first token, by the drawn schedule, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_ttft_ms: Option<f64>,
    /// From the start of the stream to its terminator, by the drawn schedule, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_e2el_ms: Option<f64>,
}

/// `POST /session/{id}/close` answers this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseResponse {
    /// `closed`.
    pub status: String,
}

/// Every error's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, for a person.
    pub detail: String,
}

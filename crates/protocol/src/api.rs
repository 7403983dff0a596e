//! Bodies of the HTTP calls. Fields that the first version of the contract lacked are optional when read, so that the client also runs
//! against servers of that version.

use crate::SessionId;
use serde::{Deserialize, Serialize};

/// The response to `POST /session/create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateResponse {
    /// The new session's id.
    pub session_id: SessionId,
    /// The token that opens the session's socket.
    pub auth_token: String,
}

/// The request of `POST /session/{id}/run`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunRequest {
    /// The prompt.
    pub query: String,
    /// The query's id, which the client makes so that a repeated call starts nothing. Without one, the server makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// Number of tokens to generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// Delay before the first token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Delay after each token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
}

/// The response to `POST /session/{id}/run`, sent before the first token. No field is required: servers of the first contract send
/// only `status`, and other servers may send `{}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResponse {
    /// `streaming`, or empty if the server sends no status.
    #[serde(default)]
    pub status: String,
    /// The query's id: the client's, if it sent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// The generation of the query's positions.
    #[serde(default, rename = "gen", skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Number of `token` events before the terminator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The boot id of the host whose `CLOCK_MONOTONIC` the events' times are read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The instance name of the server that generates the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Time from the start of the stream to its first token in the drawn schedule, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_ttft_ms: Option<f64>,
    /// Time from the start of the stream to its terminator in the drawn schedule, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_e2el_ms: Option<f64>,
    /// Longest time between two events in the drawn schedule, or from its start to the first token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ideal_gap_ms: Option<f64>,
}

/// The response to `POST /session/{id}/close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseResponse {
    /// Always `closed`.
    pub status: String,
}

/// The body of every HTTP error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error in words, for people.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_of_a_run_response_is_required() {
        let read = |text: &str| serde_json::from_str::<RunResponse>(text).unwrap();
        assert_eq!(read("{}"), RunResponse::default());
        assert_eq!(
            read(r#"{"ok":true,"tokens":3}"#),
            RunResponse { tokens: Some(3), ..RunResponse::default() }
        );
        assert_eq!(read(r#"{"status":"streaming"}"#).status, "streaming");
    }
}

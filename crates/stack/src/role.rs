//! The two roles of a stack's own processes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The role of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The LLM simulator.
    Server,
    /// The WebSocket gateway.
    Wsproxy,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Wsproxy => "wsproxy",
        })
    }
}

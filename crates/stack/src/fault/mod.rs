//! Faults as values: a target and an action, and the text form of both. This module injects nothing.

mod action;
mod duration;
mod target;
mod write_rejection;

pub use action::{Action, RestartData};
pub use target::{InstanceSelector, Link, Target};
pub(crate) use write_rejection::WriteRejection;

use crate::{role::Role, scaling::ColdStart};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A target and an action, for example `wsproxy-1:kill`, `redis:restart=empty` or `link:redis/wsproxy-1:delay=50ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fault {
    /// The part of the stack that the fault affects.
    pub target: Target,
    /// The failure to cause.
    pub action: Action,
}

/// A text is not a valid fault. The message lists valid ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultError(String);

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FaultError {}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let Some((target, action)) = text.trim().rsplit_once(':') else {
            return Err(FaultError(format!(
                "invalid fault `{text}`: expected TARGET:ACTION, for example wsproxy-1:kill or redis:pause=5s"
            )));
        };
        // In `link:wsproxy-1` the text after the last colon belongs to the target.
        if target == "link" {
            return Err(FaultError(format!(
                "fault `{text}` has no action: expected for example {text}:delay=50ms (or {})",
                Action::LINK_FORMS
            )));
        }
        let action: Action = action.parse().map_err(FaultError)?;
        let target: Target = match (target, action) {
            // As in `streamstress stack scale wsproxy=6`.
            ("server", Action::Scale(_)) => Target::Instance(Role::Server, InstanceSelector::All),
            ("wsproxy", Action::Scale(_)) => Target::Instance(Role::Wsproxy, InstanceSelector::All),
            _ => target.parse().map_err(FaultError)?,
        };
        if action.applies_to(&target) {
            return Ok(Self { target, action });
        }
        let forms = Action::forms(&target);
        Err(FaultError(format!("action `{action}` does not apply to {target}: expected one of {forms}")))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, self.action)
    }
}

impl TryFrom<String> for Fault {
    type Error = FaultError;

    fn try_from(text: String) -> Result<Self, FaultError> {
        text.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

/// A fault that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injected {
    /// The fault as text.
    pub fault: String,
    /// Time from the request until the fault was in force, in milliseconds.
    pub took_ms: f64,
    /// What was done, as a sentence for the user.
    pub detail: String,
    /// The members that were affected themselves or through their links, for example `server-1` or `redis`.
    #[serde(default)]
    pub members: Vec<String>,
    /// The instances that the fault started, with their times.
    #[serde(default)]
    pub started: Vec<ColdStart>,
}

#[cfg(test)]
mod tests;

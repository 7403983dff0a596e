//! Faults: what can be broken in a running stack, in words that a person types, and the order to break it.
//! It breaks nothing by itself; a native stack's supervisor does, or Docker.

mod action;
mod compose;
mod denial;
mod place;
mod span;
mod target;

pub use action::{Action, Memory};
pub(crate) use denial::Denial;
pub use place::{DEFAULT_NAME, Place, is_name, state_directory};
pub use target::{Link, Target, Which};

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// One thing to break, and how: `wsproxy-1:kill`, `redis:restart=empty`, `link:redis/wsproxy-1:delay=50ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fault {
    /// What is broken.
    pub target: Target,
    /// How.
    pub action: Action,
}

/// A text that is no fault, and what would be one.
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
                "`{text}` is no TARGET:ACTION: give for example wsproxy-1:kill or redis:pause=5s"
            )));
        };
        // `link:wsproxy-1` alone: what looks like an action is the other half of the target.
        if target == "link" {
            return Err(FaultError(format!(
                "`{text}` lacks an action: give for example {text}:delay=50ms (or {})",
                Action::LINK_FORMS
            )));
        }
        let target: Target = target.parse().map_err(FaultError)?;
        let action: Action = action.parse().map_err(FaultError)?;
        if action.fits(&target) {
            return Ok(Self { target, action });
        }
        Err(FaultError(format!("{target} cannot be told to {action}: it can {}", Action::forms(&target))))
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
    /// Which, as it was written.
    pub fault: String,
    /// From the order until it was in force, in milliseconds.
    pub took_ms: f64,
    /// What exactly was done, for a person.
    pub detail: String,
    /// The members that it was done to, or to whose links: `server-1`, `redis`.
    #[serde(default)]
    pub members: Vec<String>,
}

/// Breaks it. Blocks until the fault is in force: a killed process is gone, a restarted one ready again, a paused one
/// stopped. What heals by itself (a pause, a half-open link) does so later, in the background.
///
/// # Errors
/// No stack answers there, it has no such target, or the target is not in a state for this (down already, say).
pub fn inject(place: &Place, fault: &Fault) -> anyhow::Result<Injected> {
    place.inject(fault)
}

/// Checks before a run that a stack answers there and that it has the target. Breaks nothing.
///
/// # Errors
/// No stack answers there, or it has no such target.
pub fn check(place: &Place, fault: &Fault) -> anyhow::Result<()> {
    place.check(fault)
}

/// Lists the servers that state another name in answers to `/run` than faults call them by: the stated name, then the name in
/// faults (`server-1`). Empty for a native stack, where both are the same.
///
/// # Errors
/// No stack answers there.
pub fn stated_names(place: &Place) -> anyhow::Result<BTreeMap<String, String>> {
    place.stated_names()
}

#[cfg(test)]
mod tests;

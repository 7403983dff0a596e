//! Why a run has no result.

use crate::{config::ConfigErrors, signals};

/// The reason why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid or does not fit this machine. Nothing was started.
    #[error(transparent)]
    Refused(#[from] ConfigErrors),
    /// A signal arrived before the first session started.
    #[error("interrupted before the run began: nothing was started, and there are no results")]
    Interrupted,
    /// The program failed, for example because a thread could not be started.
    #[error("{0:#}")]
    Broken(#[from] anyhow::Error),
}

impl RunError {
    /// Returns the exit code of the program: 104 for a refused run, 105 for an interrupted one, 1 otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 104,
            Self::Interrupted => signals::INTERRUPTED,
            Self::Broken(_) => 1,
        }
    }
}

/// Returns the error of a run that is refused for one reason.
pub(crate) fn refused(error: &str) -> RunError {
    RunError::Refused(ConfigErrors(vec![error.to_owned()]))
}

//! Which stack is meant: a native one by its name, or Compose's. It knows where they are found, and who does the breaking.

use super::{Fault, Injected, compose};
use crate::control::{Request, Response, call};
use anyhow::bail;
use std::{collections::BTreeMap, path::PathBuf};

/// Which stack is to be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A native stack, by its state directory.
    Native(PathBuf),
    /// A stack that Compose started.
    Compose {
        /// Compose's name for it; the only one that runs where absent.
        project: Option<String>,
    },
}

impl Place {
    /// `compose` or `compose:PROJECT`: Compose's. A path with a slash: the native stack with that state directory.
    /// Anything else: the native stack of that name (`default` where absent), where the `stack` program finds it with
    /// STREAMSTRESS_STATE_DIR and XDG_RUNTIME_DIR.
    ///
    /// # Errors
    /// No stack can have this name.
    pub fn find(name: Option<&str>) -> anyhow::Result<Self> {
        let compose = |project: Option<&str>| Self::Compose { project: project.map(str::to_owned) };
        match name {
            Some("compose") => return Ok(compose(None)),
            Some(path) if path.contains('/') => return Ok(Self::Native(path.into())),
            _ => {}
        }
        if let Some(project) = name.and_then(|name| name.strip_prefix("compose:")) {
            return match is_name(project) {
                true => Ok(compose(Some(project))),
                false => bail!(
                    "`{project}` is no name of a Compose project: give for example compose:streamstress"
                ),
            };
        }
        let name = name.unwrap_or(DEFAULT_NAME);
        if !is_name(name) {
            bail!("`{name}` is no name of a stack: a name has 1 to 40 letters, digits, `-` or `_`");
        }
        let explicit = variable("STREAMSTRESS_STATE_DIR");
        Ok(Self::Native(explicit.unwrap_or_else(|| state_directory(name))))
    }

    pub(super) fn inject(&self, fault: &Fault) -> anyhow::Result<Injected> {
        match self {
            Self::Native(state_dir) => match call(state_dir, &Request::Fault { fault: fault.clone() })? {
                Response::Fault(injected) => Ok(injected),
                other => bail!("the supervisor answers a fault with {other:?}"),
            },
            Self::Compose { project } => compose::inject(project.as_deref(), fault),
        }
    }

    pub(super) fn check(&self, fault: &Fault) -> anyhow::Result<()> {
        match self {
            Self::Native(state_dir) => call(state_dir, &Request::Check { fault: fault.clone() }).map(|_| ()),
            Self::Compose { project } => compose::check(project.as_deref(), fault),
        }
    }

    pub(super) fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        match self {
            Self::Native(_) => Ok(BTreeMap::new()),
            Self::Compose { project } => compose::servers(project.as_deref()),
        }
    }
}

/// The stack that is meant where none is named.
pub const DEFAULT_NAME: &str = "default";

/// Whether a stack can be called so: its name is a directory's, too.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=40).contains(&text.len()) && text.chars().all(good)
}

/// Returns the state directory of the native stack `name` if the user names none: under `XDG_RUNTIME_DIR` if that is an absolute
/// path, otherwise under `/tmp/streamstress-UID`.
#[must_use]
pub fn state_directory(name: &str) -> PathBuf {
    match variable("XDG_RUNTIME_DIR") {
        Some(directory) if directory.is_absolute() => directory.join("streamstress").join(name),
        _ => PathBuf::from(format!("/tmp/streamstress-{}", nix::unistd::getuid())).join(name),
    }
}

/// Returns the path in an environment variable. An empty variable counts as not set.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

//! References to running stacks: a native stack by its state directory, or a Compose project.
//! This file only reads names and environment variables. It contacts no stack.

use anyhow::bail;
use std::path::PathBuf;

/// A reference to a running stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackRef {
    /// A native stack, by its state directory.
    Native(PathBuf),
    /// A stack that Docker Compose started.
    Compose {
        /// Name of the Compose project. `None` means the only project that is a stack.
        project: Option<String>,
    },
}

impl StackRef {
    /// Reads a reference as the user writes it:
    ///
    /// - `compose` or `compose:PROJECT`: a Compose project.
    /// - A path with a slash: the native stack with that state directory.
    /// - Another name, or `None` for `default`: the native stack of that name. It is found as `streamstress stack` finds it, with
    ///   `STREAMSTRESS_STATE_DIR` and `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// The name of the stack or of the project is not valid.
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
                false => {
                    bail!("invalid Compose project `{project}`: expected for example compose:streamstress")
                }
            };
        }
        let name = name.unwrap_or(DEFAULT_NAME);
        if !is_name(name) {
            bail!("invalid stack name `{name}`: expected 1 to 40 ASCII letters, digits, `-` or `_`");
        }
        let explicit = variable("STREAMSTRESS_STATE_DIR");
        Ok(Self::Native(explicit.unwrap_or_else(|| state_directory(name))))
    }
}

/// Name of the stack if the user names none.
pub(crate) const DEFAULT_NAME: &str = "default";

/// Returns whether `text` is a valid name of a stack or of a Compose project. The name is also the name of a directory.
pub(crate) fn is_name(text: &str) -> bool {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=40).contains(&text.len()) && text.chars().all(is_valid)
}

/// Returns the default state directory of the native stack `name`: under `XDG_RUNTIME_DIR` if that is an absolute path, otherwise
/// under `/tmp/streamstress-UID`.
pub(crate) fn state_directory(name: &str) -> PathBuf {
    match variable("XDG_RUNTIME_DIR") {
        Some(directory) if directory.is_absolute() => directory.join("streamstress").join(name),
        _ => PathBuf::from(format!("/tmp/streamstress-{}", nix::unistd::getuid())).join(name),
    }
}

/// Returns the path in an environment variable. An empty variable counts as not set.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_found_by_name() {
        assert_eq!(StackRef::find(Some("compose")).unwrap(), StackRef::Compose { project: None });
        let project = Some("load".to_owned());
        assert_eq!(StackRef::find(Some("compose:load")).unwrap(), StackRef::Compose { project });
        assert_eq!(StackRef::find(Some("/tmp/x")).unwrap(), StackRef::Native("/tmp/x".into()));
        for text in ["", "a b", "compose:", "compose:-;x"] {
            assert!(StackRef::find(Some(text)).is_err(), "{text:?}");
        }
    }
}

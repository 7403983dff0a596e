//! How the processes of a stack are started: our own programs as the caller says, Redis and HAProxy from the PATH.
//! Nothing is built or installed here. What is missing is named with the command that installs it.

use anyhow::bail;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// A program and the arguments that select a part of it: `streamstress server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable file.
    pub path: PathBuf,
    /// Leading arguments.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// Returns a command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

impl From<PathBuf> for Program {
    fn from(path: PathBuf) -> Self {
        Self { path, arguments: Vec::new() }
    }
}

/// Our own programs that a stack runs as processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The LLM simulator.
    pub server: Program,
    /// The gateway.
    pub wsproxy: Program,
}

impl Programs {
    /// Uses the subcommands `server` and `wsproxy` of one program.
    #[must_use]
    pub fn subcommands_of(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let part = |name: &str| Program { path: path.clone(), arguments: vec![name.into()] };
        Self { server: part("server"), wsproxy: part("wsproxy") }
    }

    /// Uses the programs `server` and `wsproxy` in `directory`.
    ///
    /// # Errors
    /// Names the files that are missing.
    pub fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let [server, wsproxy] = ["server", "wsproxy"].map(|name| directory.join(name));
        let missing: Vec<_> = [&server, &wsproxy].into_iter().filter(|path| !path.is_file()).collect();
        if missing.is_empty() {
            return Ok(Self { server: server.into(), wsproxy: wsproxy.into() });
        }
        let lines = missing.iter().map(|path| format!("{} is missing", path.display()));
        bail!(
            "{}: build them with `cargo build -p server -p wsproxy`, or leave STREAMSTRESS_BIN_DIR out",
            lines.collect::<Vec<_>>().join(", ")
        )
    }
}

/// All programs of a stack.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Our own.
    pub programs: Programs,
    /// Redis.
    pub redis: PathBuf,
    /// The load balancer.
    pub haproxy: PathBuf,
}

impl Binaries {
    /// Finds `redis-server` and `haproxy` on `path`, or where distributions install them.
    ///
    /// # Errors
    /// Names everything that is missing and how to install it.
    pub fn find(programs: Programs, path: &str) -> anyhow::Result<Self> {
        let mut missing = Vec::new();
        let mut find = |name: &str| {
            on_path(name, path).unwrap_or_else(|| {
                missing.push(format!(
                    "{name} is missing: install it, for example with `apt-get install {name}` or `brew install {}`",
                    name.trim_end_matches("-server")
                ));
                PathBuf::new()
            })
        };
        let (redis, haproxy) = (find("redis-server"), find("haproxy"));
        if missing.is_empty() { Ok(Self { programs, redis, haproxy }) } else { bail!(missing.join("\n")) }
    }
}

fn on_path(name: &str, path: &str) -> Option<PathBuf> {
    // HAProxy is often installed in a directory that only root has on its PATH.
    std::env::split_paths(path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_the_next_step() {
        let message = Programs::in_directory(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/server is missing"), "{message}");
        assert!(
            message.contains("cargo build -p server") && message.contains("STREAMSTRESS_BIN_DIR"),
            "{message}"
        );
    }

    #[test]
    fn a_subcommand_is_a_program_with_an_argument() {
        let programs = Programs::subcommands_of("/bin/streamstress");
        assert_eq!(programs.wsproxy.arguments, ["wsproxy"]);
        assert_eq!(programs.server.command().get_program(), "/bin/streamstress");
    }
}

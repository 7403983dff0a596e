//! The programs of a stack: servers and gateways as the caller specifies, Redis and HAProxy from the `PATH`.
//! Nothing is built or installed here. Errors name each missing program with the command that installs it.

use anyhow::bail;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// A program and its leading arguments, for example `streamstress server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable file.
    pub path: PathBuf,
    /// Leading arguments, which select a subcommand.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// Returns a command that starts the program.
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

/// The programs for servers and gateways.
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
    /// A file is missing. The message names all missing files.
    pub fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let [server, wsproxy] = ["server", "wsproxy"].map(|name| directory.join(name));
        let missing: Vec<_> = [&server, &wsproxy].into_iter().filter(|path| !path.is_file()).collect();
        if missing.is_empty() {
            return Ok(Self { server: server.into(), wsproxy: wsproxy.into() });
        }
        let files = missing.iter().map(|path| format!("{} is missing", path.display()));
        bail!(
            "{}: build them with `cargo build -p server -p wsproxy`, or remove --bin-dir and STREAMSTRESS_BIN_DIR",
            files.collect::<Vec<_>>().join(", ")
        )
    }
}

/// All programs of a stack.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Servers and gateways.
    pub programs: Programs,
    /// Path of `redis-server`.
    pub redis: PathBuf,
    /// Path of `haproxy`.
    pub haproxy: PathBuf,
}

impl Binaries {
    /// Finds `redis-server` and `haproxy` in the directories of `path`, in `/usr/sbin` or in `/usr/local/sbin`.
    ///
    /// # Errors
    /// A program is missing. The message names all missing programs, and the command that installs them.
    pub fn find(programs: Programs, path: &str) -> anyhow::Result<Self> {
        Self::find_in(programs, path, &["/usr/sbin", "/usr/local/sbin"])
    }

    fn find_in(programs: Programs, path: &str, more: &[&str]) -> anyhow::Result<Self> {
        let mut missing = Vec::new();
        let mut find = |name: &'static str| {
            on_path(name, path, more).unwrap_or_else(|| {
                missing.push(name);
                PathBuf::new()
            })
        };
        let (redis, haproxy) = (find("redis-server"), find("haproxy"));
        if missing.is_empty() {
            return Ok(Self { programs, redis, haproxy });
        }
        let (are, them) = if missing.len() == 1 { ("is", "it") } else { ("are", "them") };
        bail!(
            "a stack needs {}, which {are} not on the PATH: install {them}, for example with `apt-get install {}` \
             (`streamstress --embedded` runs without {them})",
            missing.join(" and "),
            missing.join(" ")
        )
    }
}

/// Returns the first file with this name in the directories of `path` and in `more`.
fn on_path(name: &str, path: &str, more: &[&str]) -> Option<PathBuf> {
    // HAProxy is often in a directory that only the PATH of root contains.
    std::env::split_paths(path)
        .chain(more.iter().map(PathBuf::from))
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
    fn missing_programs_of_the_system_are_named_in_one_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let find = || Binaries::find_in(Programs::subcommands_of("/bin/streamstress"), path, &[]);
        let both = find().unwrap_err().to_string();
        assert!(
            both.contains("needs redis-server and haproxy, which")
                && both.contains("`apt-get install redis-server haproxy`"),
            "{both}"
        );
        std::fs::write(directory.path().join("redis-server"), "").unwrap();
        let one = find().unwrap_err().to_string();
        assert!(one.contains("needs haproxy, which") && one.contains("`apt-get install haproxy`"), "{one}");
        std::fs::write(directory.path().join("haproxy"), "").unwrap();
        assert_eq!(find().unwrap().haproxy, directory.path().join("haproxy"));
    }

    #[test]
    fn a_subcommand_is_a_program_with_an_argument() {
        let programs = Programs::subcommands_of("/bin/streamstress");
        assert_eq!(programs.wsproxy.arguments, ["wsproxy"]);
        assert_eq!(programs.server.command().get_program(), "/bin/streamstress");
    }
}

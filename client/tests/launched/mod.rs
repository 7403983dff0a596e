//! Runs of the program as processes, against the scripted server.
#![allow(dead_code, reason = "each test binary uses its part")]

#[allow(dead_code, reason = "the tests of bus use the rest")]
#[path = "../../../crates/bus/tests/brokers/support/private_redis.rs"]
mod private_redis;

use crate::{
    fake::Running,
    rig::{programs::STREAMSTRESS, wait_until},
};
use private_redis::PrivateRedis;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

/// Returns the command of a run against the server with these further arguments.
pub fn command(server: &Running, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(STREAMSTRESS);
    command
        .args(["--api-url", &server.api, "--wsproxy-url", &server.ws, "--seed", "7", "--ramp-up", "100ms"])
        .args(["--quiet", "--output-dir"])
        .arg(dir)
        .args(arguments)
        .env_remove("OUTPUT_DIR");
    command
}

pub fn run(server: &Running, dir: &Path, arguments: &[&str]) -> Output {
    command(server, dir, arguments).output().unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns `command` in a separate mount namespace, where `dir` is a disk that holds this number of bytes.
pub fn on_a_small_disk(command: &Command, dir: &Path, bytes: u32) -> Command {
    let mut wrapped = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        wrapped.arg("--map-root-user");
    }
    let script = "mount -t tmpfs -o size=$1 none \"$2\" && shift 2 && exec \"$@\"";
    wrapped.args(["--mount", "sh", "-ec", script, "sh", &bytes.to_string()]).arg(dir);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    command.get_current_dir().map(|dir| wrapped.current_dir(dir));
    wrapped
}

/// Returns `command` as a child of `script`, which holds its terminal: when `script` is killed, the terminal is lost.
pub fn on_a_terminal(command: &Command) -> Command {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"));
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let mut wrapped = Command::new("script");
    wrapped.args(["--quiet", "--flush", "--command", &format!("exec {}", words.join(" ")), "/dev/null"]);
    for (name, value) in command.get_envs() {
        value.map(|value| wrapped.env(name, value));
    }
    command.get_current_dir().map(|dir| wrapped.current_dir(dir));
    wrapped.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    wrapped
}

/// Returns the files in a directory whose names end like this.
pub fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    files
}

/// Returns the only summary in a directory.
pub fn summary(dir: &Path) -> Value {
    let summaries = files(dir, "_summary.json");
    assert_eq!(summaries.len(), 1, "{summaries:?}");
    serde_json::from_str(&fs::read_to_string(&summaries[0]).unwrap()).unwrap()
}

/// Ends a run that a test started, with its generators.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a control Redis that replies.
pub fn control_redis() -> PrivateRedis {
    let redis = PrivateRedis::start();
    let socket = redis.url().trim_start_matches("redis+unix://").to_owned();
    wait_until("the control Redis replies", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    redis
}

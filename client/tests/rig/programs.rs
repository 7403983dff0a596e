//! The programs under test: `streamstress` and its subcommands.

use stack::native::{Binaries, Programs};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Path of the program under test.
pub const STREAMSTRESS: &str = env!("CARGO_BIN_EXE_streamstress");

/// Returns the program under test, and the Redis and HAProxy of this machine.
pub fn binaries() -> Binaries {
    let path = std::env::var("PATH").unwrap_or_default();
    Binaries::find(Programs::subcommands_of(STREAMSTRESS), &path)
        .unwrap_or_else(|e| panic!("{e}\nscripts/test.sh installs what the tests need"))
}

/// Returns the command `streamstress` with these arguments. It inherits no variable except `PATH`, because others could configure a run.
pub fn streamstress(arguments: &[&str]) -> Command {
    let mut command = Command::new(STREAMSTRESS);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Returns the command `streamstress NAME`.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(STREAMSTRESS);
    command.arg(name);
    command
}

/// Writes the rows of a run with one query to `directory`. Returns the path of the file.
pub fn rows(directory: &Path) -> String {
    let path = directory.join("run.csv");
    let header = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error";
    let row = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11,1,0.9,18,0.1,0.1,0.1,0,0,";
    std::fs::write(&path, format!("{header}\n{row}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Returns the command `streamstress stack` with a state directory and these arguments.
pub fn stack(state_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = program("stack");
    command.arg("--state-dir").arg(state_dir).args(arguments).env_remove("JWT_SECRET");
    command
}

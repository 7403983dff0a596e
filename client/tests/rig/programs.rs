//! The programs under test: `streamstress` and its subcommands.

use stack::native::{Binaries, Programs};
use std::{path::Path, process::Command};

/// Path of the program under test.
pub const STREAMSTRESS: &str = env!("CARGO_BIN_EXE_streamstress");

/// Returns the program under test, and the Redis and HAProxy of this machine.
pub fn binaries() -> Binaries {
    let path = std::env::var("PATH").unwrap_or_default();
    Binaries::find(Programs::subcommands_of(STREAMSTRESS), &path)
        .unwrap_or_else(|e| panic!("{e}\nscripts/test.sh installs what the tests need"))
}

/// Returns the command `streamstress NAME`.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(STREAMSTRESS);
    command.arg(name);
    command
}

/// Returns the command `streamstress stack` with a state directory and these arguments.
pub fn stack(state_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = program("stack");
    command.arg("--state-dir").arg(state_dir).args(arguments).env_remove("JWT_SECRET");
    command
}

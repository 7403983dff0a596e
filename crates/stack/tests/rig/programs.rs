//! The programs under test: those in STREAMSTRESS_BIN_DIR, or built once by cargo itself beside the test's own `stack`.
//! The build takes the whole workspace's features, so that after `cargo test --workspace` hardly anything is left to do.

use stack::native::Binaries;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where `server`, `wsproxy` and `stack` are.
pub fn directory() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("STREAMSTRESS_BIN_DIR") {
        Some(directory) => directory.into(),
        None => build(),
    })
}

/// They, and the Redis and HAProxy of this machine.
pub fn binaries() -> Binaries {
    let path = std::env::var("PATH").unwrap_or_default();
    Binaries::find(directory(), &path)
        .unwrap_or_else(|e| panic!("{e}\nscripts/test.sh installs what the tests need"))
}

/// `stack` with these arguments, over a state directory of its own and on free ports.
pub fn stack(state_dir: &Path, arguments: &[&str]) -> Command {
    directory();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stack"));
    command.arg("--state-dir").arg(state_dir).args(arguments).env_remove("JWT_SECRET");
    command
}

fn build() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_stack")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--workspace", "--exclude", "stack", "--bins", "--target-dir"])
        .arg(directory.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    assert!(command.status().unwrap().success(), "{command:?} failed");
    directory.to_owned()
}

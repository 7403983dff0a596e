//! The programs under test, built once by cargo itself, into the directory where the test's own `stack` is.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where `server`, `wsproxy` and `stack` are.
pub fn directory() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
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
        .args(["build", "--quiet", "--package", "server", "--package", "wsproxy", "--target-dir"])
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

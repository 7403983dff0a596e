//! Where the programs of a stack are: ours beside this one, Redis and HAProxy on the PATH.
//! It builds and installs nothing; what is missing is named with the command that brings it, all at once.

use anyhow::bail;
use std::path::{Path, PathBuf};

/// The programs of a stack.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The LLM simulator.
    pub server: PathBuf,
    /// The gateway.
    pub wsproxy: PathBuf,
    /// Redis.
    pub redis: PathBuf,
    /// The load balancer.
    pub haproxy: PathBuf,
}

impl Binaries {
    /// Finds `server` and `wsproxy` in `ours`, `redis-server` and `haproxy` on `path` (or where distributions put them).
    ///
    /// # Errors
    /// Names everything that is missing and what to do about it.
    pub fn find(ours: &Path, path: &str) -> anyhow::Result<Self> {
        let mut faults = Vec::new();
        let mut own = |name: &str| {
            let found = ours.join(name);
            if !found.is_file() {
                let profile = if ours.ends_with("release") { " --release" } else { "" };
                faults.push(format!(
                    "{} is missing: run `cargo build{profile} -p {name}`, or set STREAMSTRESS_BIN_DIR",
                    found.display()
                ));
            }
            found
        };
        let (server, wsproxy) = (own("server"), own("wsproxy"));
        let mut foreign = |name: &str, package: &str| {
            on_path(name, path).unwrap_or_else(|| {
                faults.push(format!(
                    "{name} is missing: run `apt-get install {package}` (or the like), or scripts/test.sh, which does"
                ));
                PathBuf::new()
            })
        };
        let (redis, haproxy) = (foreign("redis-server", "redis-server"), foreign("haproxy", "haproxy"));
        if faults.is_empty() {
            Ok(Self { server, wsproxy, redis, haproxy })
        } else {
            bail!(faults.join("\n"))
        }
    }
}

fn on_path(name: &str, path: &str) -> Option<PathBuf> {
    // HAProxy lives in a directory that is on root's PATH alone.
    std::env::split_paths(path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_missing_is_named_at_once() {
        let message = Binaries::find(Path::new("/nonexistent/release"), "").unwrap_err().to_string();
        for part in ["cargo build --release -p server", "-p wsproxy", "STREAMSTRESS_BIN_DIR"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}

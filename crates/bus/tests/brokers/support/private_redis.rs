//! A private `redis-server`, on a unix socket in a temporary directory.

use std::process::{Child, Command, Stdio};

/// A private `redis-server`. It ends with its owner.
pub struct PrivateRedis {
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl PrivateRedis {
    /// Prepares a Redis that is not started yet.
    pub fn prepare() -> Self {
        Self { child: None, directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn start() -> Self {
        let mut redis = Self::prepare();
        redis.launch();
        redis
    }

    pub fn launch(&mut self) {
        // setpriv ends the server even if this process is killed and runs no destructor.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.directory.path().join("redis.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server: run scripts/test.sh, which installs it");
        self.child = Some(child);
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Kills the server.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.path().join("redis.sock").display())
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.end();
    }
}

//! A private `redis-server`, on a unix socket in a temporary directory. It ends with its owner.

use super::PATIENCE;
use redis::{Connection, FromRedisValue};
use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub struct PrivateRedis {
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl PrivateRedis {
    pub fn start() -> Self {
        let mut redis = Self { child: None, directory: tempfile::tempdir().expect("a temporary directory") };
        redis.launch();
        redis
    }

    /// Starts the server without data, and waits until it replies.
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
        drop(self.connection());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Stops the process. Its connections stay open.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.path().join("redis.sock").display())
    }

    /// Returns a connection, once the server replies.
    pub fn connection(&self) -> Connection {
        let client = redis::Client::open(self.url()).expect("a url");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not reply: {error}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a command.
    pub fn query<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

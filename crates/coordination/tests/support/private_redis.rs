//! A private Redis whose state tests can read, and that can be paused.

#[allow(dead_code, reason = "the tests of bus use the rest")]
#[path = "../../../bus/tests/brokers/support/private_redis.rs"]
mod process;

use super::PATIENCE;
use redis::{Connection, FromRedisValue};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

pub struct PrivateRedis(process::PrivateRedis);

impl PrivateRedis {
    pub fn start() -> Self {
        let redis = Self(process::PrivateRedis::start());
        drop(redis.connection());
        redis
    }

    /// Starts the server without data, and waits until it replies.
    pub fn launch(&mut self) {
        self.0.launch();
        drop(self.connection());
    }

    pub fn kill(&mut self) {
        self.0.end();
    }

    fn signal(&self, signal: &str) {
        let pid = self.0.pid().to_string();
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
        self.0.url()
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

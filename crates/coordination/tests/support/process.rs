//! Generators and parents in processes: this test program, started again.

use super::PATIENCE;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// A process that ends with its owner.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts the ignored test `role` of this test program with these variables.
    pub fn start(role: &str, variables: &[(&str, String)]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        // setpriv ends the process even if this one is killed and runs no destructor.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(["--ignored", "--exact", "--nocapture", role])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("start this test program again");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with this beginning. Returns the rest of the line.
    pub fn expect(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| {
                panic!("the process did not print {beginning:?}, but {:?}", self.seen);
            });
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim().to_owned();
            }
            self.seen.push(line);
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Stops the process, like a frozen one. Its connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the process ends.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("it is a child").is_none() {
            assert!(Instant::now() < deadline, "the process does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

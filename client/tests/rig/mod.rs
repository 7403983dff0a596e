//! Helpers of the end-to-end tests: a simple client that checks every token, the programs, and the state of processes.
//! They share no code with the load client, so that neither hides errors of the other.
#![allow(dead_code, reason = "each test file uses a part of this module")]

pub mod processes;
pub mod programs;
pub mod stacks;
pub mod traffic;

use std::time::{Duration, Instant};

/// Time limit of every wait. It is long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `condition` is true. Fails after [`TIMEOUT`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timeout after {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

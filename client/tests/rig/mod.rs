//! What the end-to-end tests stand on: a plain client that checks every token, the programs, and an eye on processes.
//! It shares no code with the load client, so that neither hides the other's faults.
#![allow(dead_code, reason = "every test file takes a part of it")]

pub mod processes;
pub mod programs;
pub mod stacks;
pub mod traffic;

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, for [`PATIENCE`] at most.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! The runtime of a program that serves, and the signals that ask it to end.

use std::io;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Creates a runtime with this number of threads. 0 counts as 1.
///
/// # Errors
/// The system has no thread or no file descriptor left.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

/// SIGTERM, SIGINT and SIGHUP. A SIGHUP that the parent set to be ignored, as `nohup` does, stays ignored.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Installs the handlers. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        // `nohup` ignores SIGHUP, and a handler would undo it.
        let hangup = (!hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Returns a token that the first of the signals cancels.
///
/// # Errors
/// A handler cannot be installed.
pub fn shutdown_on_signal() -> io::Result<CancellationToken> {
    let mut signals = StopSignals::listen()?;
    let shutdown = CancellationToken::new();
    let signalled = shutdown.clone();
    tokio::spawn(async move {
        signals.next().await;
        signalled.cancel();
    });
    Ok(shutdown)
}

/// Returns whether this process started with SIGHUP ignored, and false if `/proc` does not show it.
fn hangup_is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Reads the line `SigIgn` of `/proc/self/status`: a mask in hexadecimal. SIGHUP is signal 1 and so the lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_of_the_mask_decides() {
        for (mask, ignored) in
            [("0000000000000001", true), ("0000000001001003", true), ("0000000001001000", false)]
        {
            assert_eq!(
                ignores_hangup(&format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\t1\n")),
                ignored,
                "{mask}"
            );
        }
        assert!(!ignores_hangup("") && !ignores_hangup("SigIgn:\tnone\n"));
    }
}

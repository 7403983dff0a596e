//! How a run is asked to stop: once politely, twice at once.
//! It ends nothing by force; whoever holds a `Stop` looks at it.

use crate::messages;
use std::io;
use tokio_util::sync::CancellationToken;

/// The two stages of stopping.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing new is started any more.
    pub starting: CancellationToken,
    /// What runs is abandoned.
    pub running: CancellationToken,
}

impl Stop {
    /// The same orders, heard without a lock that other threads contend for.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { starting: self.starting.child_token(), running: self.running.child_token() }
    }

    /// One step further: first nothing new, then nothing at all.
    pub fn escalate(&self) {
        if self.starting.is_cancelled() {
            self.running.cancel();
        }
        self.starting.cancel();
    }
}

/// Each SIGINT or SIGTERM escalates, from now on and until the process ends.
///
/// # Errors
/// The signals cannot be listened to.
pub fn listen(stop: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if !stop.starting.is_cancelled() {
                    messages::tell("stopping: running streams may end; once more to leave at once");
                }
                stop.escalate();
            }
        });
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_means_at_once() {
        let stop = Stop::default();
        let child = stop.child();
        stop.escalate();
        assert!(child.starting.is_cancelled() && !child.running.is_cancelled());
        stop.escalate();
        assert!(child.running.is_cancelled());
    }
}

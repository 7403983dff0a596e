//! How a run is asked to stop: once politely, twice at once; before its first session starts, at once in any case.
//! Whoever holds a `Stop` looks at it.

use host::StopSignals;
use plan::Stop;
use report::messages;
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a run that was interrupted.
pub const INTERRUPTED: u8 = 105;

/// Each SIGINT, SIGTERM or SIGHUP escalates, from now on and until the process ends. The first one ends the process while no
/// run has begun. A hangup that is ignored, as below `nohup`, stays so.
///
/// # Errors
/// The signals cannot be listened to.
pub fn listen(stop: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let Ok(mut signals) = StopSignals::listen() else { return };
            // Without a handler, a file that reaches the limit of its size would end the process; so, the write fails.
            let _too_large = signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32));
            loop {
                signals.next().await;
                if !stop.has_begun() {
                    messages::print_stderr(
                        "interrupted before the run began: nothing was started, and there are no results",
                    );
                    std::process::exit(INTERRUPTED.into());
                }
                if !stop.starting.is_cancelled() {
                    messages::print_stderr("stopping: running streams may end; once more to leave at once");
                }
                stop.escalate();
            }
        });
    })?;
    Ok(())
}

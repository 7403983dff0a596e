//! Signals that stop a run. The first one lets running queries end, the second one stops at once. Before the first session starts,
//! any signal ends the program.

use host::StopSignals;
use plan::Stop;
use report::messages;
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a run that was interrupted.
pub const INTERRUPTED: u8 = 105;

/// Starts a thread that escalates `stop` at each SIGINT, SIGTERM or SIGHUP. While no run has begun, the first signal ends the
/// process. If SIGHUP is ignored, as under `nohup`, it stays ignored.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn listen(stop: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let Ok(mut signals) = StopSignals::listen() else { return };
            // Without a handler, a file at the limit `ulimit -f` would end the process. With one, the write fails and is reported.
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
                    messages::print_stderr(
                        "stopping: waiting for running queries to end; repeat the signal to stop at once",
                    );
                }
                stop.escalate();
            }
        });
    })?;
    Ok(())
}

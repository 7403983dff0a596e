//! A run of a sweep as a process of this program. It reads its options from stdin, which stays open: when the sweep ends for any reason,
//! the run sees the end of its input and ends too.

use crate::cli::RunArgs;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use plan::Stop;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The hidden subcommand that a run of a sweep is.
pub(crate) const SUBCOMMAND: &str = "point";
/// Interval between two looks at the process.
const LOOK: Duration = Duration::from_millis(20);
/// Time that a run has to end after the second signal, before it is killed.
const END: Duration = Duration::from_secs(15);

/// A running run. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct RunProcess(Child);

impl RunProcess {
    /// Starts a run with these options. Its messages go to `log`.
    ///
    /// # Errors
    /// The process cannot be started, or does not read its options.
    pub(super) fn start(program: &Path, run: &RunArgs, log: File) -> io::Result<Self> {
        let options = toml::to_string(run).map_err(io::Error::other)?;
        let mut line = serde_json::to_vec(&options)?;
        line.push(b'\n');
        let mut command = Command::new(program);
        // In a separate process group, so that Ctrl+C reaches only the sweep, which passes it on.
        command.arg(SUBCOMMAND).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut process = Self(command.spawn()?);
        // The input stays open, as long as `process` lives.
        if let Some(stdin) = &mut process.0.stdin {
            stdin.write_all(&line)?;
        }
        Ok(process)
    }

    /// Waits for the end of the run, and passes each escalation of `stop` on as a signal.
    ///
    /// # Errors
    /// The state of the process cannot be read.
    pub(super) fn wait(mut self, stop: &Stop) -> io::Result<ExitStatus> {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        let (mut sent, mut deadline) = (0, None);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            let wanted = u8::from(stop.starting.is_cancelled()) + u8::from(stop.running.is_cancelled());
            if sent < wanted {
                let _ = kill(pid, Signal::SIGINT);
                sent += 1;
                deadline = (sent == 2).then(|| Instant::now() + END);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                self.0.kill()?;
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for RunProcess {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// Reads the options of a run from stdin, and lets this process end when the sweep does.
///
/// # Errors
/// The input has no options, because no sweep started this process.
pub(crate) fn options() -> Result<RunArgs, String> {
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).map_err(|error| error.to_string());
    let text = read.and_then(|_| serde_json::from_str::<String>(&line).map_err(|error| error.to_string()));
    let options = text.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()));
    let options = options.map_err(|error| {
        format!("`streamstress {SUBCOMMAND}` is started by `streamstress sweep`, which passes its options ({error})")
    })?;
    thread::Builder::new().name("sweep".into()).spawn(end_with_sweep).map_err(|error| error.to_string())?;
    Ok(options)
}

/// Ends this process at the end of its input: the sweep has ended, so the result is not read.
fn end_with_sweep() {
    let mut byte = [0];
    while io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
    std::process::exit(1);
}

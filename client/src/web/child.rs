//! A run as a child process. It has its own process group, so that neither Ctrl+C nor the end of the page ends it.

use super::{
    directory::{self, Found, RunDirectory},
    events::{EventPipe, EventReader},
    journal::Journal,
    watched::WatchedRun,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};
use web::{Called, Run, RunEnd};

/// Interval between two looks at the process.
const LOOK: Duration = Duration::from_millis(50);

/// Returns a command of this program, without what belongs to the page alone.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // A run that the page starts has neither its own page nor a terminal.
    command
        .env_remove("STREAMSTRESS_WEB")
        .env_remove("STREAMSTRESS_TUI")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started.
pub(super) fn call(program: &Path, arguments: &[String]) -> io::Result<Called> {
    let output = command(program).args(arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Called { code: output.status.code(), text: text(&output.stdout), messages: text(&output.stderr) })
}

/// A run that goes on as a child process.
pub(super) struct ChildRun {
    child: Mutex<Child>,
    watched: WatchedRun,
}

impl ChildRun {
    /// Starts a run with these arguments. `target`: those that say where it goes.
    ///
    /// # Errors
    /// The process cannot be started. [`io::ErrorKind::ResourceBusy`]: another page's run goes on at this target.
    pub(super) fn start(
        program: &Path,
        results: &Path,
        target: &[String],
        arguments: &[String],
    ) -> io::Result<Self> {
        let (results, _lock) = directory::lock(results)?;
        let is_same = |found: &Found| found.target == target && !target.contains(&"--embedded".to_owned());
        if let Some(Found { pid, .. }) = directory::find(&results)?.into_iter().find(is_same) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "a run of another page goes on at this target: wait for its end, or stop it with kill -INT {pid}"
                ),
            ));
        }
        let directory = RunDirectory::create(&results)?;
        let started = spawn(program, &directory, arguments);
        let (child, pipe, reader, journal) = started.inspect_err(|_| directory.remove())?;
        // Without this, a later page does not find the run.
        let _ = directory.identify(child.id(), target);
        let watched = WatchedRun::new(directory, pipe, journal, Box::new(reader));
        Ok(Self { child: Mutex::new(child), watched })
    }
}

/// Starts the process of a run. Returns it with its events and the journal for them.
fn spawn(
    program: &Path,
    directory: &RunDirectory,
    arguments: &[String],
) -> io::Result<(Child, EventPipe, BufReader<EventReader>, Journal)> {
    let pipe = EventPipe::create(directory.events())?;
    let reader = pipe.reader()?;
    let journal = directory.journal()?;
    let child = command(program)
        .arg("run")
        .args(arguments)
        .arg("--quiet")
        .arg(format!("--out=seconds={}", pipe.path().display()))
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(directory.messages_file()?)
        .spawn()?;
    Ok((child, pipe, reader, journal))
}

impl Run for ChildRun {
    fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.watched.events()
    }

    fn interrupt(&self) -> io::Result<()> {
        let mut child = self.child.lock();
        // An ended process has no id any more: another one could have it.
        if child.try_wait()?.is_none() {
            self.watched.directory.note_stop();
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
        }
        Ok(())
    }

    fn keep(&self, event: &str, is_needed: bool) {
        self.watched.keep(event, is_needed);
    }

    fn wait(&self) -> RunEnd {
        let code = loop {
            match self.child.lock().try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => break status.code(),
                Err(_) => break None,
            }
            thread::sleep(LOOK);
        };
        self.watched.end(code)
    }
}

/// Returns the names of the scenarios in the directory where scenarios are looked for.
pub(super) fn scenarios() -> Vec<String> {
    let Ok(entries) = fs::read_dir("scenarios") else { return Vec::new() };
    let name = |path: &Path| {
        let is_scenario = path.extension().is_some_and(|extension| extension == "toml");
        is_scenario.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
    };
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| name(&entry.path())).collect();
    names.sort();
    names
}

//! A run as a child process. It has its own process group, so that neither Ctrl+C nor the end of the page ends it.

use super::events::EventPipe;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};
use web::{Called, Run, RunEnd};

/// Interval between two looks at the process.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of messages that are kept, the last ones.
const KEPT: u64 = 16 << 10;

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
    pipe: EventPipe,
    reader: Mutex<Option<Box<dyn BufRead + Send>>>,
    /// What it prints on stderr.
    messages: File,
}

impl ChildRun {
    /// Starts a run with these arguments.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Result<Self> {
        let pipe = EventPipe::create()?;
        let reader = pipe.reader()?;
        let path = pipe.directory().join("messages");
        let messages = File::options().read(true).append(true).create_new(true).open(path)?;
        let child = command(program)
            .arg("run")
            .args(arguments)
            .arg("--quiet")
            .arg(format!("--out=seconds={}", pipe.path().display()))
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(messages.try_clone()?)
            .spawn()?;
        Ok(Self { child: Mutex::new(child), pipe, reader: Mutex::new(Some(Box::new(reader))), messages })
    }

    fn messages(&self) -> io::Result<String> {
        let mut file = &self.messages;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
        let mut bytes = Vec::new();
        file.take(KEPT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Run for ChildRun {
    fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.reader.lock().take()
    }

    fn interrupt(&self) -> io::Result<()> {
        let mut child = self.child.lock();
        // An ended process has no id any more: another one could have it.
        if child.try_wait()?.is_none() {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
        }
        Ok(())
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
        self.pipe.end();
        RunEnd { code, messages: self.messages().unwrap_or_default() }
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

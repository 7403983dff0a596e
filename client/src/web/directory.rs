//! The directory of a run that the page started: hidden, in the directory of the results. It holds the pipe of the run's events, what the
//! run prints, the events that were shown ([`journal`](super::journal)) and which process the run is. So a page that is started again
//! finds the run. The directory is removed at the end of the run, or by the next page if there was none then.
//!
//! A page locks the directory of its run. The directory of the results is locked while a page looks for runs and starts one.

use super::journal::Journal;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What the names of the directories begin with.
const PREFIX: &str = ".streamstress-web-";
/// Time for a new process to have its arguments. One that has ended before never has them.
const SETTLED: Duration = Duration::from_millis(200);
/// Bytes of messages that are shown, the last ones.
const SHOWN: u64 = 16 << 10;

/// Which process a run is, and where it goes.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    pid: u32,
    /// Start of the process, so that a later one with its id is not taken for it.
    started: u64,
    /// The boot to which both belong.
    boot: Option<String>,
    /// The options that say where it goes.
    target: Vec<String>,
}

/// The directory of a run. It is locked until this value is dropped.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    /// Locked, and holds the identity.
    identity: File,
}

/// A run that goes on, and which this page did not start.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) pid: u32,
    pub(super) target: Vec<String>,
    pub(super) process: OwnedFd,
    /// `None` if another page shows the run.
    pub(super) directory: Option<RunDirectory>,
}

/// Creates the directory of the results if it is missing, and locks it until the file is dropped. Returns its full path.
///
/// # Errors
/// It cannot be created or locked.
pub(super) fn lock(results: &Path) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(results)?;
    let results = results.canonicalize()?;
    let file = File::open(&results)?;
    file.lock()?;
    Ok((results, file))
}

/// Returns the runs that go on. Removes the directories of those that ended without a page. Call it under [`lock`].
///
/// # Errors
/// The directory of the results cannot be read.
pub(super) fn find(results: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(results)? {
        let path = entry?.path();
        if !is_own(&path) {
            continue;
        }
        let directory = RunDirectory::open(&path);
        match identity(&path).and_then(|identity| Some((process(&identity, &path)?, identity))) {
            Some((process, Identity { pid, target, .. })) => {
                found.push(Found { pid, target, process, directory: directory.ok() });
            }
            // The page of a run that has just ended still needs its directory, and has locked it.
            None => directory.map_or((), |directory| directory.remove()),
        }
    }
    Ok(found)
}

/// Returns whether a path is a directory of a run that this user made, and which only this user can enter.
fn is_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()))
        && host::is_private(path).unwrap_or(false)
}

fn identity(directory: &Path) -> Option<Identity> {
    serde_json::from_slice(&fs::read(directory.join("run.json")).ok()?).ok()
}

/// Opens the process of a run if it still is that run: the same start, boot and pipe.
fn process(identity: &Identity, directory: &Path) -> Option<OwnedFd> {
    let pid = Pid::from_raw(identity.pid.try_into().ok()?)?;
    // Opened before the checks, so that they are about the process that later gets signals.
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let is_same = host::boot_id() == identity.boot && host::started(identity.pid) == Some(identity.started);
    (is_same && writes_pipe(identity.pid, directory) && !has_ended(&process)).then_some(process)
}

/// Returns whether the pipe of a run is among the arguments of a process.
fn writes_pipe(pid: u32, directory: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let pipe = Path::new(directory.file_name().unwrap_or_default()).join("events");
    line.split(|byte| *byte == 0).any(|argument| argument.ends_with(pipe.as_os_str().as_bytes()))
}

/// Returns whether a process has ended.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
        .is_ok_and(|ready| ready > 0)
}

/// Waits for the end of a process.
pub(super) fn wait_for_end(process: &OwnedFd) {
    let mut asked = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    while poll(&mut asked, PollTimeout::NONE) == Err(Errno::EINTR) {}
}

impl RunDirectory {
    /// Creates and locks a directory. Call it under [`lock`].
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn create(results: &Path) -> io::Result<Self> {
        let only_user = Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(only_user).tempdir_in(results)?;
        let this = Self::open(directory.path())?;
        let _ = directory.keep();
        Ok(this)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let identity = File::options().append(true).create(true).open(path.join("run.json"))?;
        identity.try_lock()?;
        Ok(Self { path: path.to_owned(), identity })
    }

    /// Notes which process the run is. Waits until its arguments can be seen: it gets them a moment after it was started.
    ///
    /// # Errors
    /// The process has ended and is gone, or nothing can be written.
    pub(super) fn identify(&self, pid: u32, target: &[String]) -> io::Result<()> {
        let limit = Instant::now() + SETTLED;
        while !writes_pipe(pid, &self.path) && Instant::now() < limit {
            thread::sleep(Duration::from_millis(1));
        }
        let started = host::started(pid).ok_or(io::ErrorKind::NotFound)?;
        let identity = Identity { pid, started, boot: host::boot_id(), target: target.to_vec() };
        (&self.identity).write_all(&serde_json::to_vec(&identity)?)
    }

    /// Returns the path of the pipe of the events.
    pub(super) fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Opens the events that were shown.
    ///
    /// # Errors
    /// They cannot be opened.
    pub(super) fn journal(&self) -> io::Result<Journal> {
        Journal::open(&self.path)
    }

    /// Opens the file of what the run prints.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn messages_file(&self) -> io::Result<File> {
        File::options().read(true).append(true).create(true).open(self.path.join("messages"))
    }

    /// Returns the last part of what the run printed.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn messages(&self) -> io::Result<String> {
        let mut file = self.messages_file()?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Notes that the run was asked to end.
    pub(super) fn note_stop(&self) {
        // Without the note, a later page asks a third time, which changes nothing.
        let _ = File::options()
            .append(true)
            .create(true)
            .open(self.stops_file())
            .and_then(|mut file| file.write_all(b"."));
    }

    /// Returns how often the run was asked to end.
    pub(super) fn stops(&self) -> u8 {
        let stops = fs::metadata(self.stops_file()).map_or(0, |metadata| metadata.len());
        stops.try_into().unwrap_or(u8::MAX)
    }

    fn stops_file(&self) -> PathBuf {
        self.path.join("stops")
    }

    /// Removes the directory.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::fs::MetadataExt,
        process::{Child, Command},
    };

    /// Starts a process that has the pipe of a run among its arguments.
    fn sleeper(pipe: &Path) -> Child {
        let pipe = format!("--out=seconds={}", pipe.display());
        Command::new("sh")
            .args(["-c", "read line; true", "run"])
            .arg(pipe)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_run_is_found_while_it_goes_on_and_its_directory_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (results, _lock) = lock(&dir.path().join("results")).unwrap();
        let directory = RunDirectory::create(&results).unwrap();
        assert_eq!(fs::metadata(&directory.path).unwrap().mode() & 0o777, 0o700);
        let child = sleeper(&directory.events());
        let target = ["--embedded".to_owned()];
        directory.identify(child.id(), &target).unwrap();
        let found = find(&results).unwrap();
        assert!(found[0].directory.is_none(), "its page has locked it");
        directory.note_stop();
        drop(directory);
        let mut found = find(&results).unwrap();
        assert_eq!((found.len(), found[0].pid, &found[0].target[..]), (1, child.id(), &target[..]));
        let kept = found.remove(0);
        assert_eq!(kept.directory.as_ref().unwrap().stops(), 1);
        assert!(!has_ended(&kept.process));
        end(child);
        wait_for_end(&kept.process);
        assert!(has_ended(&kept.process));
        assert!(find(&results).unwrap().is_empty());
        assert_eq!(fs::read_dir(&results).unwrap().count(), 1, "the page that has locked it removes it");
        drop(kept);
        assert!(find(&results).unwrap().is_empty());
        assert_eq!(fs::read_dir(&results).unwrap().count(), 0);
    }

    #[test]
    fn another_process_is_not_taken_for_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let (results, _lock) = lock(dir.path()).unwrap();
        let directory = RunDirectory::create(&results).unwrap();
        let path = directory.path.clone();
        let child = sleeper(&directory.events());
        directory.identify(child.id(), &[]).unwrap();
        let (pid, started, boot) = (child.id(), host::started(child.id()).unwrap(), host::boot_id());
        let is_taken = |pid, started, boot| {
            process(&Identity { pid, started, boot, target: Vec::new() }, &path).is_some()
        };
        assert!(is_taken(pid, started, boot.clone()));
        assert!(!is_taken(pid, started + 1, boot.clone()), "a later process with the id");
        assert!(!is_taken(pid, started, Some("x".to_owned())), "a process after a restart of the machine");
        let own = std::process::id();
        assert!(!is_taken(own, host::started(own).unwrap(), boot.clone()), "a process without the pipe");
        assert!(!is_taken(0, started, boot.clone()) && !is_taken(u32::MAX, started, boot));
        end(child);
    }

    #[test]
    fn directories_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (results, _lock) = lock(dir.path()).unwrap();
        let open_to_all = results.join(format!("{PREFIX}open"));
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, Permissions::from_mode(0o755)).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), results.join(format!("{PREFIX}link"))).unwrap();
        fs::write(results.join(format!("{PREFIX}file")), "").unwrap();
        assert!(find(&results).unwrap().is_empty());
        assert_eq!(fs::read_dir(&results).unwrap().count(), 3);
        assert!(elsewhere.path().exists());
    }
}

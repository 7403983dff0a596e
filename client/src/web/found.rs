//! A run that an earlier page started and that goes on. This page shows it from then on. Its exit code is that of another process's child, and
//! so unknown.

use super::{
    directory::{self, Found, RunDirectory},
    events::EventPipe,
    watched::WatchedRun,
};
use rustix::process::{Signal, pidfd_send_signal};
use std::{
    io::{self, BufRead, Cursor, Read},
    os::fd::OwnedFd,
    path::Path,
};
use web::{Run, RunEnd};

/// A run that an earlier page started.
pub(super) struct FoundRun {
    process: OwnedFd,
    watched: WatchedRun,
}

/// Returns the run of an earlier page that goes on with these results, and its process. If there are several, the others go on unseen.
///
/// # Errors
/// The results or the files of the run cannot be read.
pub(super) fn find(results: &Path) -> io::Result<Option<(u32, FoundRun)>> {
    if !results.exists() {
        return Ok(None);
    }
    let (results, _lock) = directory::lock(results)?;
    for Found { pid, process, directory, .. } in directory::find(&results)? {
        if let Some(directory) = directory {
            return Ok(Some((pid, FoundRun::new(process, directory)?)));
        }
    }
    Ok(None)
}

impl FoundRun {
    fn new(process: OwnedFd, directory: RunDirectory) -> io::Result<Self> {
        let pipe = EventPipe::existing(directory.events());
        let mut journal = directory.journal()?;
        let reader = Box::new(Cursor::new(journal.read()?).chain(pipe.reader()?));
        Ok(Self { process, watched: WatchedRun::new(directory, pipe, journal, reader) })
    }
}

impl Run for FoundRun {
    fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.watched.events()
    }

    fn interrupt(&self) -> io::Result<()> {
        // The kernel refuses this if the process has ended, whatever has its id now.
        if !directory::has_ended(&self.process) {
            self.watched.directory.note_stop();
            pidfd_send_signal(&self.process, Signal::INT)?;
        }
        Ok(())
    }

    fn stops(&self) -> u8 {
        self.watched.directory.stops()
    }

    fn keep(&self, event: &str, is_needed: bool) {
        self.watched.keep(event, is_needed);
    }

    fn wait(&self) -> RunEnd {
        directory::wait_for_end(&self.process);
        self.watched.end(None)
    }
}

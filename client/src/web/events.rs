//! The named pipe through which a run tells its events, and its reading end.

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::mkfifo,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempDir;

/// Interval between two looks whether the run has ended, while it writes nothing.
const LOOK_MS: u16 = 100;

/// A named pipe in a directory that only this user can enter.
#[derive(Debug)]
pub(super) struct EventPipe {
    directory: TempDir,
    /// Set when the run has ended, so that the reader does not wait for a writer that never came.
    has_ended: Arc<AtomicBool>,
}

impl EventPipe {
    /// Creates the pipe.
    ///
    /// # Errors
    /// The directory or the pipe cannot be created.
    pub(super) fn create() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("streamstress-web-").tempdir()?;
        let pipe = Self { directory, has_ended: Arc::default() };
        mkfifo(&pipe.path(), Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(pipe)
    }

    /// Returns the directory of the pipe, for other files of the run.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of the pipe, for the writer.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("events")
    }

    /// Opens the reading end.
    ///
    /// # Errors
    /// The pipe cannot be opened.
    pub(super) fn reader(&self) -> io::Result<BufReader<EventReader>> {
        // Without waiting for a writer, which may never come.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(self.path())?;
        let directory = Some(self.directory.path().to_owned());
        Ok(BufReader::new(EventReader { file, has_ended: Arc::clone(&self.has_ended), directory }))
    }

    /// Notes that the run has ended. What it wrote before is still read.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
    }
}

/// The reading end of the pipe. It blocks until there is something to read or the run has ended.
#[derive(Debug)]
pub(super) struct EventReader {
    file: File,
    has_ended: Arc<AtomicBool>,
    /// The directory of the pipe. It is removed with the first event, so that it does not stay if the page ends before the run.
    directory: Option<PathBuf>,
}

impl Read for EventReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let has_ended = self.has_ended.load(Ordering::SeqCst);
            let mut asked = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut asked, PollTimeout::from(LOOK_MS))?;
            match self.file.read(buffer) {
                // No writer has come yet, or the last one has gone.
                Ok(0) if ready == 0 && !has_ended => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !has_ended => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                read => {
                    // The writer has opened the pipe, and keeps it open.
                    if let Some(directory) = self.directory.take() {
                        let _ = fs::remove_dir_all(directory);
                    }
                    return read;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead, thread};

    #[test]
    fn events_are_read_to_their_end_however_late_the_writer_comes() {
        let pipe = EventPipe::create().unwrap();
        let mut reader = pipe.reader().unwrap();
        let path = pipe.path();
        let reading = thread::spawn(move || reader.by_ref().lines().collect::<io::Result<Vec<_>>>().unwrap());
        std::fs::write(path, "a\nb\n").unwrap();
        assert_eq!(reading.join().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_run_that_never_writes_ends_the_events() {
        let pipe = EventPipe::create().unwrap();
        let mut reader = pipe.reader().unwrap();
        let reading = thread::spawn(move || reader.by_ref().lines().count());
        pipe.end();
        assert_eq!(reading.join().unwrap(), 0);
    }
}

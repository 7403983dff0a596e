//! The named pipe through which a run tells its events, and its reading end.

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::mkfifo,
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Read},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// Interval between two looks whether the run has ended, while it writes nothing.
const LOOK_MS: u16 = 100;

/// A named pipe that only this user can open.
#[derive(Debug)]
pub(super) struct EventPipe {
    path: PathBuf,
    /// The directory that was made for the pipe alone.
    temporary: Option<TempDir>,
    /// Set when the run has ended, so that the reader does not wait for a writer that never came.
    has_ended: Arc<AtomicBool>,
}

impl EventPipe {
    /// Creates the pipe in a directory of its own, which goes with the first event.
    ///
    /// # Errors
    /// The directory or the pipe cannot be created.
    pub(super) fn temporary() -> io::Result<Self> {
        let only_user = Permissions::from_mode(0o700);
        let directory =
            tempfile::Builder::new().prefix("streamstress-web-").permissions(only_user).tempdir()?;
        let pipe = Self::create(directory.path().join("events"))?;
        Ok(Self { temporary: Some(directory), ..pipe })
    }

    /// Creates the pipe.
    ///
    /// # Errors
    /// The pipe cannot be created.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        Ok(Self::existing(path))
    }

    /// Returns the pipe that an earlier page created.
    pub(super) fn existing(path: PathBuf) -> Self {
        Self { path, temporary: None, has_ended: Arc::default() }
    }

    /// Returns the path of the pipe, for the writer.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the reading end.
    ///
    /// # Errors
    /// The pipe cannot be opened.
    pub(super) fn reader(&self) -> io::Result<BufReader<EventReader>> {
        // Without waiting for a writer, which may never come.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.path)?;
        let directory = self.temporary.as_ref().map(|directory| directory.path().to_owned());
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
    /// The directory of the pipe alone. It is removed with the first event.
    directory: Option<PathBuf>,
}

impl Read for EventReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let has_ended = self.has_ended.load(Ordering::SeqCst);
            let mut asked = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut asked, PollTimeout::from(LOOK_MS))?;
            match self.file.read(buffer) {
                // No writer has come yet, or the last one has gone and may come again.
                Ok(0) if !has_ended => {
                    if ready > 0 {
                        thread::sleep(Duration::from_millis(LOOK_MS.into()));
                    }
                }
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
    use std::io::BufRead;

    #[test]
    fn events_are_read_to_their_end_however_late_the_writer_comes() {
        let pipe = EventPipe::temporary().unwrap();
        let directory = pipe.path().parent().unwrap().to_owned();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let mut reader = pipe.reader().unwrap();
        // A writer may leave and come again.
        fs::write(pipe.path(), "a\nb\n").unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(!directory.exists(), "it goes with the first event");
        let reading = thread::spawn(move || reader.lines().collect::<io::Result<Vec<_>>>().unwrap());
        pipe.end();
        assert_eq!((line.as_str(), reading.join().unwrap()), ("a\n", vec!["b".to_owned()]));
    }

    #[test]
    fn a_run_that_never_writes_ends_the_events() {
        let pipe = EventPipe::temporary().unwrap();
        let reader = pipe.reader().unwrap();
        let reading = thread::spawn(move || reader.lines().count());
        pipe.end();
        assert_eq!(reading.join().unwrap(), 0);
    }
}

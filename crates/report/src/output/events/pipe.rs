//! Writes to a file, a named pipe or stdout without waiting for long.
//! Before each piece it checks the time and whether there is room, so that it can give up if the reader of a pipe is slow. A
//! terminal can report room and then block in the middle of a piece. The caller therefore writes on a thread that it can abandon.

use super::{POLL_INTERVAL, TOO_SLOW};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Number of bytes that a pipe with room takes without blocking (`PIPE_BUF` of POSIX on Linux).
const PIECE: usize = 4096;

/// Destination of the lines.
#[derive(Debug)]
pub(in crate::output) struct Pipe {
    place: String,
    way: Way,
    /// A named pipe whose reader may leave and come again.
    lasting: Option<PathBuf>,
}

#[derive(Debug)]
enum Way {
    File(File),
    /// A named pipe that has no reader yet.
    Awaited(PathBuf),
}

impl Pipe {
    /// Opens stdout. It stays in blocking mode, because the shell and other processes share it.
    pub(in crate::output) fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { place: "stdout".into(), way: Way::File(file), lasting: None })
    }

    /// Creates or truncates a file. A named pipe is opened later, when it has a reader.
    pub(in crate::output) fn open(path: &Path) -> io::Result<Self> {
        let is_pipe = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        let way = if is_pipe { Way::Awaited(path.to_owned()) } else { Way::File(File::create(path)?) };
        Ok(Self { place: path.display().to_string(), way, lasting: None })
    }

    /// Opens a file or a named pipe like [`Pipe::open`]. If the reader of a named pipe leaves, lines wait for the next one.
    pub(in crate::output) fn lasting(path: &Path) -> io::Result<Self> {
        let pipe = Self::open(path)?;
        let is_pipe = matches!(pipe.way, Way::Awaited(_));
        Ok(Self { lasting: is_pipe.then(|| path.to_owned()), ..pipe })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Writes a line. Returns false if `gives_up` returned true before the first byte was written.
    ///
    /// # Errors
    /// The reader is gone for good, or it took only a part of the line before `gives_up` returned true.
    pub(super) fn write(&mut self, line: &[u8], gives_up: &impl Fn() -> bool) -> io::Result<bool> {
        let mut rest = line;
        while !rest.is_empty() {
            // A slow reader makes room now and then, so the time is checked before each piece.
            if gives_up() {
                if rest.len() == line.len() {
                    return Ok(false);
                }
                return Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW));
            }
            let Some(file) = self.with_room()? else { continue };
            match file.write(&rest[..rest.len().min(PIECE)]) {
                Ok(written) => rest = &rest[written..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => match &self.lasting {
                    Some(path) if error.kind() == io::ErrorKind::BrokenPipe => {
                        // The next reader gets the whole line.
                        self.way = Way::Awaited(path.clone());
                        rest = line;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// Waits for a reader and for room, for at most [`POLL_INTERVAL`] each. Returns `None` without them.
    fn with_room(&mut self) -> io::Result<Option<&mut File>> {
        if let Way::Awaited(path) = &self.way {
            let opened = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
            match opened {
                Ok(file) => self.way = Way::File(file),
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                    std::thread::sleep(POLL_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
        match &mut self.way {
            Way::File(file) => Ok(is_ready(file.as_fd())?.then_some(file)),
            Way::Awaited(_) => Ok(None),
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(POLL_INTERVAL).unwrap_or(PollTimeout::ZERO);
    match poll(&mut asked, limit) {
        // If the reader is gone, the write returns the error.
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

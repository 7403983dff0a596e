//! A file, a named pipe or stdout, written to without ever waiting for long.
//! Before each piece it asks whether there is time and room, so that it can give up whatever a pipe's reader does. A terminal says
//! that it has room and then takes less than a piece: a write to one can wait, and so whoever asks for it is ready to leave.

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

/// A pipe that has room takes so much without waiting (POSIX's `PIPE_BUF` on Linux).
const PIECE: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub(in crate::output) struct Pipe {
    place: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    File(File),
    /// A named pipe without a reader yet.
    Awaited(PathBuf),
}

impl Pipe {
    /// Stdout, in the mode that it has: it is also the shell's, and whoever else was given it.
    pub(in crate::output) fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { place: "stdout".into(), way: Way::File(file) })
    }

    /// A named pipe is opened when it has a reader; a file is made, or emptied.
    pub(in crate::output) fn open(path: &Path) -> io::Result<Self> {
        let is_pipe = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        let way = if is_pipe { Way::Awaited(path.to_owned()) } else { Way::File(File::create(path)?) };
        Ok(Self { place: path.display().to_string(), way })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Writes a line. `false`: `gives_up` said to leave before anything of it was written.
    ///
    /// # Errors
    /// The reader is gone, or took a part of it in time and not the rest.
    pub(super) fn write(&mut self, line: &[u8], gives_up: &impl Fn() -> bool) -> io::Result<bool> {
        let mut rest = line;
        while !rest.is_empty() {
            // However slowly somebody reads, there is room now and then: the time is looked at before each piece.
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
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Waits a little for a reader, and for room.
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
        // A reader that is gone is told by the write.
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

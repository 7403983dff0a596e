//! A file, a named pipe or stdout, written to without ever waiting for long.
//! Before each piece it asks whether there is room, so that it can give up in time whatever the reader does.

use super::LOOK;
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
    Stdout,
    File(File),
    /// A named pipe without a reader yet.
    Awaited(PathBuf),
}

impl Pipe {
    pub(in crate::output) fn stdout() -> Self {
        Self { place: "stdout".into(), way: Way::Stdout }
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

    /// Writes all of it, unless `gives_up` says to leave before.
    ///
    /// # Errors
    /// The reader is gone, or was waited for in vain.
    pub(super) fn write(&mut self, mut bytes: &[u8], gives_up: &impl Fn() -> bool) -> io::Result<()> {
        while !bytes.is_empty() {
            if !self.has_room()? {
                if gives_up() {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
                }
                continue;
            }
            let piece = &bytes[..bytes.len().min(PIECE)];
            match self.put(piece) {
                Ok(written) => bytes = &bytes[written..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits a little for room.
    fn has_room(&mut self) -> io::Result<bool> {
        if let Way::Awaited(path) = &self.way {
            let opened = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
            match opened {
                Ok(file) => self.way = Way::File(file),
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                    std::thread::sleep(LOOK);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        match &self.way {
            Way::Stdout => is_ready(io::stdout().as_fd()),
            Way::File(file) => is_ready(file.as_fd()),
            Way::Awaited(_) => Ok(false),
        }
    }

    fn put(&mut self, piece: &[u8]) -> io::Result<usize> {
        match &mut self.way {
            Way::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(piece).and_then(|()| stdout.flush()).map(|()| piece.len())
            }
            Way::File(file) => file.write(piece),
            Way::Awaited(_) => Ok(0),
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    match poll(&mut asked, limit) {
        // A reader that is gone is told by the write.
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

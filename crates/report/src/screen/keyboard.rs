//! The keys of the live view, read from the terminal in raw mode.
//!
//! The events of `crossterm` are not used: after a hang-up of the terminal, `event::poll` reads its end without pause and never returns.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    os::fd::AsFd,
    time::Duration,
};

/// What Ctrl+C sends in raw mode.
const CTRL_C: u8 = 0x03;
/// What the sequences of arrow keys, function keys and keys with Alt begin with.
const ESCAPE: u8 = 0x1b;

/// Effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Stops the run; pressed again, at once.
    Stop,
    /// Shows or hides the help.
    Help,
}

/// Opens the terminal that sends the keys: stdin, or the controlling terminal.
///
/// # Errors
/// Neither is a terminal.
pub(super) fn terminal() -> io::Result<File> {
    if io::stdin().is_terminal() {
        return Ok(io::stdin().as_fd().try_clone_to_owned()?.into());
    }
    File::options().read(true).write(true).open("/dev/tty")
}

/// The source of keys. Without a terminal, also after a hang-up, there are none.
#[derive(Debug)]
pub(super) struct Keyboard(Option<File>);

impl Keyboard {
    pub(super) fn open() -> Self {
        Self(terminal().ok())
    }

    /// Waits for keys for at most `patience`.
    pub(super) fn wait(&mut self, patience: Duration) -> Vec<Key> {
        match self.0.as_mut().map(|terminal| read_keys(terminal, patience)) {
            Some(Ok(keys)) => return keys,
            Some(Err(_)) => self.0 = None,
            None => {}
        }
        std::thread::sleep(patience);
        Vec::new()
    }
}

/// Waits for keys for at most `patience`.
///
/// # Errors
/// The terminal is gone.
fn read_keys(terminal: &mut File, patience: Duration) -> io::Result<Vec<Key>> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut bytes = [0; 64];
    match terminal.read(&mut bytes) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(meaning(&bytes[..count])),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Returns the effects of what one read returned. A terminal sends an escape sequence at once, so the rest of such a read is its own.
fn meaning(bytes: &[u8]) -> Vec<Key> {
    let keys = bytes.iter().take_while(|&&byte| byte != ESCAPE);
    keys.filter_map(|&byte| match byte {
        CTRL_C | b'q' => Some(Key::Stop),
        b'?' | b'h' => Some(Key::Help),
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::io::Write;

    #[test]
    fn what_keys_mean() {
        for (bytes, expected) in [
            (&b"q"[..], &[Key::Stop][..]),
            (b"\x03", &[Key::Stop]),
            (b"qq", &[Key::Stop, Key::Stop]),
            (b"x?c", &[Key::Help]),
            (b"\x1b", &[]),
            (b"\x1bOq", &[]),
            ("ä€".as_bytes(), &[]),
        ] {
            assert_eq!(meaning(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_hang_up_ends_the_keys_but_not_the_waiting() {
        let pty = openpty(None, None).unwrap();
        let mut master = File::from(pty.master);
        let mut keyboard = Keyboard(Some(pty.slave.into()));
        assert_eq!(keyboard.wait(Duration::ZERO), []);
        master.write_all(b"q\n").unwrap();
        while keyboard.wait(Duration::from_secs(1)) != [Key::Stop] {}
        drop(master);
        while keyboard.0.is_some() {
            assert_eq!(keyboard.wait(Duration::from_millis(1)), []);
        }
        assert_eq!(keyboard.wait(Duration::ZERO), []);
    }
}

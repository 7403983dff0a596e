//! What the program says on stderr: at once, or, while a full-screen view has the terminal, after it.
//! It keeps the first ones alone and counts the others; nothing here waits for anybody.

use crate::output::undirected;
use parking_lot::Mutex;
use std::io::{self, Write};

/// Lines kept while a view has the terminal.
const MOST: usize = 200;

static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Lines that wait for the terminal.
#[derive(Debug, Default)]
struct Held {
    lines: Vec<String>,
    dropped: u64,
}

impl Held {
    fn take(&mut self, text: &str) {
        for line in text.lines() {
            if self.lines.len() < MOST {
                self.lines.push(line.to_owned());
            } else {
                self.dropped += 1;
            }
        }
    }

    fn text(&self) -> String {
        let mut text: String = self.lines.iter().flat_map(|line| [line, "\n"]).collect();
        if self.dropped > 0 {
            text += &format!("{} more lines were left out\n", self.dropped);
        }
        text
    }
}

/// Says a line.
pub fn tell(line: &str) {
    let mut stderr = Stderr;
    let _ = writeln!(stderr, "{}", undirected(line));
}

/// Prints a text on stdout. What reads it may have ended, as in `| head`; another failure is reported on stderr. Neither changes
/// what the program is to end with.
pub fn print(text: &str) {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell(&format!("error: cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

/// Stderr for whoever writes lines: the log. It takes everything, whatever becomes of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match HELD.lock().as_mut() {
            Some(held) => held.take(&String::from_utf8_lossy(bytes)),
            // Where stderr takes nothing, nobody can be told; the log would try it there again, and panic.
            None => drop(io::stderr().write_all(bytes)),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(io::stderr().flush());
        Ok(())
    }
}

/// Holds lines back from now on.
pub(crate) fn hold() {
    HELD.lock().get_or_insert_default();
}

/// The line held back last.
pub(crate) fn last() -> Option<String> {
    HELD.lock().as_ref().and_then(|held| held.lines.last().cloned())
}

/// Says what was held back, and holds nothing any more. Never panics: it is also called where a panic is told.
pub(crate) fn release() {
    let Some(held) = HELD.lock().take() else { return };
    // If stderr takes nothing there is nobody who could be told.
    let _ = io::stderr().write_all(held.text().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted() {
        let mut held = Held::default();
        (0..MOST + 3).for_each(|n| held.take(&format!("{n}\n")));
        assert_eq!((held.lines.len(), held.dropped), (MOST, 3));
        assert_eq!(held.lines[1], "1");
        assert!(held.text().ends_with("\n199\n3 more lines were left out\n"), "{}", held.text());
    }
}

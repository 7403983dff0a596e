//! What the program says on stderr: at once, or, while a full-screen view has the terminal, after it.
//! It keeps the first ones alone and counts the others; nothing here waits for anybody.

use crate::values::undirected;
use parking_lot::Mutex;
use std::io::{self, Write};

/// Lines kept while a view has the terminal.
const MAX: usize = 200;

static DEFERRED: Mutex<Option<DeferredLines>> = Mutex::new(None);

/// Lines that wait for the terminal.
#[derive(Debug, Default)]
struct DeferredLines {
    lines: Vec<String>,
    dropped: u64,
}

impl DeferredLines {
    fn take(&mut self, text: &str) {
        for line in text.lines() {
            if self.lines.len() < MAX {
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
pub fn print_stderr(line: &str) {
    let mut stderr = Stderr;
    let _ = writeln!(stderr, "{}", undirected(line));
}

/// Prints a text on stdout. What reads it may have ended, as in `| head`; another failure is reported on stderr. Neither changes
/// what the program is to end with.
pub fn print_stdout(text: &str) {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_stderr(&format!("error: cannot write to stdout: {error}"));
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
        match DEFERRED.lock().as_mut() {
            Some(deferred) => deferred.take(&String::from_utf8_lossy(bytes)),
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
pub(crate) fn defer() {
    DEFERRED.lock().get_or_insert_default();
}

/// The line held back last.
pub(crate) fn last_deferred() -> Option<String> {
    DEFERRED.lock().as_ref().and_then(|deferred| deferred.lines.last().cloned())
}

/// Says what was held back, and holds nothing any more. Never panics: it is also called where a panic is told.
pub(crate) fn flush_deferred() {
    let Some(deferred) = DEFERRED.lock().take() else { return };
    // If stderr takes nothing there is nobody who could be told.
    let _ = io::stderr().write_all(deferred.text().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted() {
        let mut deferred = DeferredLines::default();
        (0..MAX + 3).for_each(|n| deferred.take(&format!("{n}\n")));
        assert_eq!((deferred.lines.len(), deferred.dropped), (MAX, 3));
        assert_eq!(deferred.lines[1], "1");
        assert!(deferred.text().ends_with("\n199\n3 more lines were left out\n"), "{}", deferred.text());
    }
}

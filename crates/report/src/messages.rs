//! Messages on stderr. While the full-screen view owns the terminal, they are deferred until it closes.
//! Only the first messages are kept; further ones are counted.

use crate::values::undirected;
use parking_lot::Mutex;
use settings::plural::counted;
use std::io::{self, Write};

/// Largest number of deferred lines.
const MAX: usize = 200;

static DEFERRED: Mutex<Option<DeferredLines>> = Mutex::new(None);

/// Lines that are deferred until the view closes.
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
            text += &format!("{}\n", counted(self.dropped, "more lines were omitted"));
        }
        text
    }
}

/// Prints a line on stderr, or defers it while the view is open.
pub fn print_stderr(line: &str) {
    let mut stderr = Stderr;
    let _ = writeln!(stderr, "{}", undirected(line));
}

/// Prints warnings on stderr.
pub fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| print_stderr(&format!("warning: {warning}")));
}

/// Prints a text on stdout. Ignores a closed pipe, as in `| head`, and reports other failures on stderr. Neither changes the
/// exit code.
pub fn print_stdout(text: &str) {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_stderr(&format!("error: cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

/// Writer for the log on stderr. Writing never fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match DEFERRED.lock().as_mut() {
            Some(deferred) => deferred.take(&String::from_utf8_lossy(bytes)),
            // Ignore a failure of stderr: there is nowhere to report it, and the log would panic.
            None => drop(io::stderr().write_all(bytes)),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(io::stderr().flush());
        Ok(())
    }
}

/// Defers lines from now on.
pub(crate) fn defer() {
    DEFERRED.lock().get_or_insert_default();
}

/// Returns the line that was deferred last.
pub(crate) fn last_deferred() -> Option<String> {
    DEFERRED.lock().as_ref().and_then(|deferred| deferred.lines.last().cloned())
}

/// Prints the deferred lines and stops deferring. Never panics, because the panic hook calls it.
pub(crate) fn flush_deferred() {
    let Some(deferred) = DEFERRED.lock().take() else { return };
    // Ignore a failure of stderr: there is nowhere to report it.
    let _ = io::stderr().write_all(deferred.text().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted() {
        let mut deferred = DeferredLines::default();
        (0..MAX + 3).for_each(|n| deferred.take(&format!("{n}\n")));
        assert_eq!((deferred.lines.len(), deferred.dropped), (MAX, 3));
        assert_eq!(deferred.lines[1], "1");
        assert!(deferred.text().ends_with("\n199\n3 more lines were omitted\n"), "{}", deferred.text());
    }
}

//! The events of a run that a page showed, on disk with a limit, so that a page that is started again can show them again.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Bytes of the newest events that are kept, twice at most, and of the events that every browser needs.
const LIMIT: u64 = 4 << 20;

/// The events that were shown.
#[derive(Debug)]
pub(super) struct Journal {
    /// What every browser needs.
    needed: Log,
    /// The newest events. When they reach the limit, they replace those in `earlier`.
    recent: Log,
    earlier: PathBuf,
    /// Events that are in the journal and will be shown again.
    known: usize,
}

impl Journal {
    /// Opens the journal in a directory, or creates it.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let (needed, recent) = (Log::open(directory.join("needed"))?, Log::open(directory.join("recent"))?);
        Ok(Self { needed, recent, earlier: directory.join("earlier"), known: 0 })
    }

    /// Returns all events as lines. They are not added again when they are shown again.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = fs::read(&self.needed.path)?;
        match File::open(&self.earlier) {
            Ok(mut file) => {
                file.read_to_end(&mut lines)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        lines.extend(fs::read(&self.recent.path)?);
        self.known = lines.iter().filter(|byte| **byte == b'\n').count();
        Ok(lines)
    }

    /// Adds an event that is shown.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn add(&mut self, event: &str, is_needed: bool) -> io::Result<()> {
        if self.known > 0 {
            self.known -= 1;
            return Ok(());
        }
        let length = event.len() as u64 + 1;
        if is_needed && self.needed.bytes + length <= LIMIT {
            return self.needed.add(event);
        }
        if self.recent.bytes + length > LIMIT {
            fs::rename(&self.recent.path, &self.earlier)?;
            self.recent = Log::open(self.recent.path.clone())?;
        }
        self.recent.add(event)
    }
}

/// A file of events as lines.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Opens or creates the file, and removes a line that was not written completely.
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(&path)?;
        let mut lines = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut lines)?;
        let bytes = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        file.set_len(bytes)?;
        Ok(Self { path, file, bytes })
    }

    fn add(&mut self, event: &str) -> io::Result<()> {
        self.file.write_all(format!("{event}\n").as_bytes())?;
        self.bytes += event.len() as u64 + 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_again_and_not_added_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Journal::open(dir.path()).unwrap();
        assert_eq!(first.read().unwrap(), b"");
        for (event, is_needed) in [("second 1", false), ("run", true), ("second 2", false)] {
            first.add(event, is_needed).unwrap();
        }
        // The page was killed in the middle of a line.
        first.recent.file.write_all(b"second").unwrap();
        drop(first);
        let mut next = Journal::open(dir.path()).unwrap();
        let lines = String::from_utf8(next.read().unwrap()).unwrap();
        assert_eq!(lines, "run\nsecond 1\nsecond 2\n");
        lines.lines().for_each(|line| next.add(line, line == "run").unwrap());
        next.add("second 3", false).unwrap();
        assert_eq!(next.read().unwrap(), b"run\nsecond 1\nsecond 2\nsecond 3\n");
    }

    #[test]
    fn the_journal_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let large = "x".repeat(1 << 20);
        (0..20).for_each(|_| journal.add(&large, true).unwrap());
        (0..20).for_each(|n| journal.add(&format!("{n}{large}"), false).unwrap());
        journal.add("last", false).unwrap();
        let sizes = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= 3 * LIMIT);
        let lines = journal.read().unwrap();
        assert!(lines.starts_with(b"x") && lines.ends_with(b"\nlast\n"));
    }
}

//! What the page has of a run besides its process: its events, what it prints, and its directory.

use super::{directory::RunDirectory, events::EventPipe, journal::Journal};
use parking_lot::Mutex;
use std::io::BufRead;
use web::RunEnd;

/// A run without its process.
pub(super) struct WatchedRun {
    pub(super) directory: RunDirectory,
    pipe: EventPipe,
    journal: Mutex<Journal>,
    reader: Mutex<Option<Box<dyn BufRead + Send>>>,
}

impl WatchedRun {
    pub(super) fn new(
        directory: RunDirectory,
        pipe: EventPipe,
        journal: Journal,
        reader: Box<dyn BufRead + Send>,
    ) -> Self {
        Self { directory, pipe, journal: Mutex::new(journal), reader: Mutex::new(Some(reader)) }
    }

    /// Takes the events.
    pub(super) fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.reader.lock().take()
    }

    /// Keeps an event that is shown.
    pub(super) fn keep(&self, event: &str, is_needed: bool) {
        // On a full disk, a later page shows less.
        let _ = self.journal.lock().add(event, is_needed);
    }

    /// Ends the events, and removes the directory.
    pub(super) fn end(&self, code: Option<i32>) -> RunEnd {
        self.pipe.end();
        let messages = self.directory.messages().unwrap_or_default();
        self.directory.remove();
        RunEnd { code, messages }
    }
}

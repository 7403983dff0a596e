//! The present process of one part of the stack. After its end another process can replace it, while other tasks read it.

use super::process::Process;
use parking_lot::Mutex;
use std::sync::Arc;

/// Holds one process, running or ended.
#[derive(Debug)]
pub(crate) struct Slot(Mutex<Arc<Process>>);

impl Slot {
    pub(crate) fn new(process: Process) -> Self {
        Self(Mutex::new(Arc::new(process)))
    }

    pub(crate) fn process(&self) -> Arc<Process> {
        Arc::clone(&self.0.lock())
    }

    /// Replaces a process that has ended. Returns the new one.
    pub(crate) fn replace(&self, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        *self.0.lock() = Arc::clone(&process);
        process
    }
}

//! Watches the stack beside the run: health of its doors, and what its processes take, a row a second.
//! It has threads of its own and no part in the load; what it cannot see is absent, and it never fails a run.

mod health;
mod proc;
mod stack;
mod usage;

pub use usage::{Ended, Usage, Watched};

use crate::config::Target;
use health::Doors;
use parking_lot::Mutex;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_secs(1);

/// Where the watch writes and what it looks at.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The doors.
    pub target: &'a Target,
    /// For doors behind TLS.
    pub tls: &'a rustls::ClientConfig,
    /// The native stack of that name, where its doors are the run's.
    pub stack: Option<&'a str>,
    /// The beginning of the run's clock.
    pub epoch: Instant,
    /// `…_resources.csv`.
    pub resources: PathBuf,
    /// `…_health.csv`.
    pub health: PathBuf,
}

/// A watch that goes on until it is ended.
#[derive(Debug)]
pub struct Watch {
    ends: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Watched>>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// A file cannot be made, or a thread not be started.
    pub fn start(plan: &Plan<'_>) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Watched::default()));
        let mut watch = Self { ends: Vec::new(), threads: Vec::new(), seen: Arc::clone(&seen) };
        let processes = stack::Processes::find(plan.stack, &plan.target.api);
        let known = processes.known();
        if let Some(processes) = processes.follow() {
            let seen = Arc::clone(&seen);
            watch.begin("watch-stack", plan.epoch, move |second| processes.look(second, &seen))?;
        }
        let mut resources = proc::Sampler::new(&plan.resources, known)?;
        let seen_too = Arc::clone(&seen);
        watch.begin("watch-processes", plan.epoch, move |second| resources.sample(second, &seen_too))?;
        let mut doors = Doors::new(plan)?;
        watch.begin("watch-health", plan.epoch, move |second| doors.ask(second, &seen))?;
        Ok(watch)
    }

    /// Does `look` each second of the run's clock, on a thread of its own. Seconds that it takes too long for are left out.
    fn begin(
        &mut self,
        name: &str,
        epoch: Instant,
        mut look: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<()> {
        let (end, ended) = channel();
        let watch = move || {
            while let Some(second) = next_second(epoch, &ended) {
                look(second);
            }
        };
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(watch)?);
        self.ends.push(end);
        Ok(())
    }

    /// Ends it; answers what it saw.
    #[must_use]
    pub fn end(mut self) -> Watched {
        self.stop();
        std::mem::take(&mut *self.seen.lock())
    }

    fn stop(&mut self) {
        self.ends.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the next whole second; `None` when the watch is ended.
fn next_second(epoch: Instant, ended: &Receiver<()>) -> Option<u64> {
    let second = Instant::now().saturating_duration_since(epoch).as_secs() + 1;
    let due = epoch + EVERY * u32::try_from(second).unwrap_or(u32::MAX);
    match ended.recv_timeout(due.saturating_duration_since(Instant::now())) {
        Err(RecvTimeoutError::Timeout) => Some(second),
        _ => None,
    }
}

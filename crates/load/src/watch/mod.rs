//! Watches the stack during a run: the health of its public addresses and members, their resources and their counters.
//! It runs on separate threads and does not affect the load. What it cannot observe is absent; it never fails a run.

mod call;
mod config;
mod exposition;
mod health;
mod inventory;
mod members;
mod memory;
mod proc;
mod scrape;
mod settings;
mod unmeasured;

pub use config::WatchConfig;
pub use inventory::{Inventory, Member, Source};
pub use measure::observations::Observations;
pub use memory::Warn;
pub use unmeasured::unmeasured;

use health::HealthChecks;
use measure::{ReadingProducer, live::LiveCounters, memory::Phase, threshold::Threshold};
use members::{MemberTracker, Members};
use memory::{MemoryWatch, PhaseTracker, sample_outside};
use parking_lot::Mutex;
use scrape::Scraper;
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The interval between two observations.
const EVERY: Duration = Duration::from_secs(1);

/// A running watch. It ends with [`Watch::end`] or when it is dropped.
#[derive(Debug)]
pub struct Watch {
    epoch: Instant,
    ends: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Observations>>,
    scraper: Arc<Mutex<Scraper>>,
    memory: Arc<Mutex<MemoryWatch>>,
    members: Members,
}

/// A watch that has read the stack's state before the run. This may take seconds, so that it comes before the run's clock starts.
#[derive(Debug)]
pub struct PreparedWatch {
    config: WatchConfig,
    seen: Arc<Mutex<Observations>>,
    tracker: MemberTracker,
    scraper: Scraper,
}

impl PreparedWatch {
    /// Lists the members of the stack and reads their counters for the first time.
    ///
    /// # Errors
    /// The HTTP client for the members cannot be created.
    pub fn prepare(config: WatchConfig, stack: Source) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Observations::default()));
        let tracker = MemberTracker::new(&config, stack, &seen);
        let mut scraper = Scraper::new(&config.tls, tracker.members())?;
        scraper.scrape(0, &seen);
        sample_outside(&tracker.members().lock(), Phase::Idle, &seen);
        Ok(Self { config, seen, tracker, scraper })
    }

    /// Returns a warning for each threshold on a figure that no member of the present stack provides.
    #[must_use]
    pub fn unmeasured_warnings(&self, thresholds: &[Threshold]) -> Vec<String> {
        let members = self.tracker.members();
        let members = members.lock();
        let names = members.iter().map(|member| member.name.as_str());
        let all = || names.chain(["the public addresses", "the client"]).collect::<Vec<_>>().join(", ");
        let seen = self.seen.lock().unseen.clone().unwrap_or_else(all);
        let warning = |threshold: &Threshold| {
            format!(
                "--threshold `{}`: no source for this figure so far (observed: {seen}); unless one appears, this run will be INVALID",
                threshold.text
            )
        };
        let more_public: Vec<_> = self.config.more_public().map(|(name, _)| name).collect();
        unmeasured(thresholds, &members, &more_public).map(warning).collect()
    }

    /// Starts the threads. `epoch` is the start of the run's clock, `counters` are those of all workers, and `warn` receives what the user
    /// should know during the run.
    ///
    /// # Errors
    /// A file cannot be created or a thread cannot be started.
    pub fn start(self, epoch: Instant, counters: Vec<Arc<LiveCounters>>, warn: Warn) -> io::Result<Watch> {
        let Self { config, seen, mut tracker, scraper } = self;
        let members = tracker.members();
        let memory = Arc::new(Mutex::new(MemoryWatch::new(warn)));
        let scraper = Arc::new(Mutex::new(scraper));
        let mut watch = Watch {
            epoch,
            ends: Vec::new(),
            threads: Vec::new(),
            seen: Arc::clone(&seen),
            scraper: Arc::clone(&scraper),
            memory: Arc::clone(&memory),
            members: Arc::clone(&members),
        };
        let seen_by_scraper = Arc::clone(&seen);
        // Without a producer: counters are sums over the run, so that no second waits for them.
        watch.begin("watch-metrics", None, move |second| scraper.lock().tick(second, &seen_by_scraper))?;
        let reads = || Some(config.readings.producer());
        if tracker.changes() {
            let seen = Arc::clone(&seen);
            watch.begin("watch-stack", reads(), move |second| tracker.update(second, &seen))?;
        }
        let phases = PhaseTracker::new(counters);
        let mut resources = proc::ProcessSampler::new(&config, Arc::clone(&members), phases)
            .map_err(|error| unwritable(&error, &config.resources))?;
        let seen_too = Arc::clone(&seen);
        watch.begin("watch-processes", reads(), move |second| {
            resources.sample(second, &seen_too);
            memory.lock().look(second, &seen_too);
        })?;
        let mut checks =
            HealthChecks::new(&config, members).map_err(|error| unwritable(&error, &config.health))?;
        watch.begin("watch-health", reads(), move |second| checks.run(second, &seen))?;
        Ok(watch)
    }
}

/// Returns the error with the file's name and the next step.
fn unwritable(error: &io::Error, path: &Path) -> io::Error {
    let text = format!("cannot write {}: {error}; choose another --output-dir", path.display());
    io::Error::new(error.kind(), text)
}

impl Watch {
    /// Starts a thread that calls `look` each second of the run's clock. `producer` reports how far it has come, for the
    /// thresholds that wait for its readings. If a call takes longer than a second, the seconds it missed are skipped.
    fn begin(
        &mut self,
        name: &str,
        producer: Option<ReadingProducer>,
        mut look: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<()> {
        let (epoch, (end, ended)) = (self.epoch, channel());
        let watch = move || {
            while let Some(second) = next_second(epoch, &ended) {
                look(second);
                if let Some(producer) = &producer {
                    producer.has_reached(seconds_since(epoch));
                }
            }
        };
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(watch)?);
        self.ends.push(end);
        Ok(())
    }

    /// Ends the watch, reads the counters once more, and returns what was observed.
    #[must_use]
    pub fn end(mut self) -> Observations {
        self.stop();
        let second = self.epoch.elapsed().as_secs().max(1);
        self.scraper.lock().scrape(second, &self.seen);
        self.memory.lock().look(second, &self.seen);
        sample_outside(&self.members.lock(), Phase::After, &self.seen);
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

fn seconds_since(epoch: Instant) -> u64 {
    Instant::now().saturating_duration_since(epoch).as_secs()
}

/// Waits for the next whole second of the run and returns its number. `None` if the watch ended.
fn next_second(epoch: Instant, ended: &Receiver<()>) -> Option<u64> {
    let second = seconds_since(epoch) + 1;
    let due = epoch + EVERY * u32::try_from(second).unwrap_or(u32::MAX);
    match ended.recv_timeout(due.saturating_duration_since(Instant::now())) {
        Err(RecvTimeoutError::Timeout) => Some(second),
        _ => None,
    }
}

//! Watches the stack beside the run: health of its doors, and what its processes take, a row a second.
//! It has threads of its own and no part in the load; what it cannot see is absent, and it never fails a run.

mod call;
mod exposition;
mod health;
mod inventory;
mod members;
mod proc;
mod scrape;
mod unread;

pub use inventory::{Inventory, Member, Source};
pub use measure::observations::{self as usage, Observations};
pub use unread::unread;

use health::Doors;
use measure::{ReadingBuffer, ReadingProducer, threshold::Threshold};
use members::Roll;
use parking_lot::Mutex;
use plan::Target;
use scrape::Scraper;
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
    /// `…_resources.csv`.
    pub resources: PathBuf,
    /// `…_health.csv`.
    pub health: PathBuf,
    /// Where readings go.
    pub readings: &'a ReadingBuffer,
}

/// A watch that goes on until it is ended.
#[derive(Debug)]
pub struct Watch {
    epoch: Instant,
    ends: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Observations>>,
    scraper: Arc<Mutex<Scraper>>,
}

/// The stack as it was before the run. Finding it may take a while, so that it is done before the run's clock starts.
#[derive(Debug)]
pub struct Found<'a> {
    plan: &'a Plan<'a>,
    seen: Arc<Mutex<Observations>>,
    roll: Roll,
    scraper: Scraper,
}

impl<'a> Found<'a> {
    /// Looks for the stack, and reads the counters of its members for the first time.
    ///
    /// # Errors
    /// There can be no client for its members.
    pub fn look(plan: &'a Plan<'a>, stack: Source) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Observations::default()));
        let roll = Roll::find(plan, stack, &seen);
        let mut scraper = Scraper::new(plan.tls, roll.members())?;
        scraper.look(0, &seen);
        Ok(Self { plan, seen, roll, scraper })
    }

    /// What a person should be told of thresholds on what nobody reads in the stack as it is.
    #[must_use]
    pub fn unanswerable(&self, thresholds: &[Threshold]) -> Vec<String> {
        let members = self.roll.members();
        let members = members.lock();
        let names = members.iter().map(|member| member.name.as_str()).chain(["the doors", "the client"]);
        let all = || names.collect::<Vec<_>>().join(", ");
        let seen = self.seen.lock().unseen.clone().unwrap_or_else(all);
        let warning = |threshold: &Threshold| {
            format!(
                "--threshold `{}`: nothing reads it so far (seen are: {seen}); unless that changes, this run will be INVALID",
                threshold.text
            )
        };
        unread(thresholds, &members).map(warning).collect()
    }

    /// Begins to watch; `epoch` is the beginning of the run's clock.
    ///
    /// # Errors
    /// A file cannot be made, or a thread not be started.
    pub fn watch(self, epoch: Instant) -> io::Result<Watch> {
        let Self { plan, seen, mut roll, scraper } = self;
        let members = roll.members();
        let scraper = Arc::new(Mutex::new(scraper));
        let mut watch = Watch {
            epoch,
            ends: Vec::new(),
            threads: Vec::new(),
            seen: Arc::clone(&seen),
            scraper: Arc::clone(&scraper),
        };
        let seen_by_scraper = Arc::clone(&seen);
        // Its counters belong to no second.
        watch.begin("watch-metrics", None, move |second| scraper.lock().tick(second, &seen_by_scraper))?;
        let reads = || Some(plan.readings.producer());
        if roll.changes() {
            let seen = Arc::clone(&seen);
            watch.begin("watch-stack", reads(), move |second| roll.look(second, &seen))?;
        }
        let mut resources = proc::Sampler::new(plan, Arc::clone(&members))?;
        let seen_too = Arc::clone(&seen);
        watch.begin("watch-processes", reads(), move |second| resources.sample(second, &seen_too))?;
        let mut doors = Doors::new(plan, members)?;
        watch.begin("watch-health", reads(), move |second| doors.ask(second, &seen))?;
        Ok(watch)
    }
}

impl Watch {
    /// Does `look` each second of the run's clock, on a thread of its own, as the `producer` that seconds wait for.
    /// Seconds that it takes too long for are left out.
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

    /// Ends it; answers what it saw.
    #[must_use]
    pub fn end(mut self) -> Observations {
        self.stop();
        let second = self.epoch.elapsed().as_secs().max(1);
        self.scraper.lock().look(second, &self.seen);
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

/// Waits for the next whole second; `None` when the watch is ended.
fn next_second(epoch: Instant, ended: &Receiver<()>) -> Option<u64> {
    let second = seconds_since(epoch) + 1;
    let due = epoch + EVERY * u32::try_from(second).unwrap_or(u32::MAX);
    match ended.recv_timeout(due.saturating_duration_since(Instant::now())) {
        Err(RecvTimeoutError::Timeout) => Some(second),
        _ => None,
    }
}

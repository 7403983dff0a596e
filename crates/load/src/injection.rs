//! Injects the planned faults. Each has a thread that waits for its time and then blocks until the fault is in force.
//! The threads end with the run. No worker waits for them.

use anyhow::Context;
use measure::{FaultLog, FaultStatus, cold_start::ColdStart};
use parking_lot::{Condvar, Mutex};
use plan::PlannedFault;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Instant,
};

/// Injects faults into a stack. The program implements this trait for the stacks that it knows.
pub trait Injector: Send + Sync {
    /// Checks that the fault `spec` can be injected. Changes nothing.
    ///
    /// # Errors
    /// What is missing, and the next step.
    fn check(&self, spec: &str) -> anyhow::Result<()>;

    /// Injects the fault and blocks until it is in force.
    ///
    /// # Errors
    /// The fault did not happen.
    fn inject(&self, spec: &str) -> anyhow::Result<FaultEffect>;

    /// Returns the servers whose stated name in responses to `/run` differs from their name in faults. Keys are the stated
    /// names, values the names in faults.
    ///
    /// # Errors
    /// The stack does not answer.
    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}

/// The effect of an injected fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultEffect {
    /// A description for people.
    pub detail: String,
    /// The affected members by their names in faults, for example `server-1`.
    pub members: Vec<String>,
    /// The instances that were started.
    pub cold_starts: Vec<ColdStart>,
}

/// The instant at which the first query was sent. The times of faults count from it.
#[derive(Debug, Default)]
pub struct FirstSend {
    at: OnceLock<Instant>,
    over: Mutex<bool>,
    changed: Condvar,
}

impl FirstSend {
    /// Notes that a query was sent at `at`. Only the first call has an effect.
    pub fn note(&self, at: Instant) {
        if self.at.get().is_none() && self.at.set(at).is_ok() {
            let _over = self.over.lock();
            self.changed.notify_all();
        }
    }

    /// Returns the instant, if a query was sent.
    #[must_use]
    pub fn instant(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    fn end(&self) {
        *self.over.lock() = true;
        self.changed.notify_all();
    }

    /// Blocks until `after` has passed since the first send, and returns the instant of that send. `None` if the run ended before.
    fn wait(&self, after: std::time::Duration) -> Option<Instant> {
        let mut over = self.over.lock();
        loop {
            if *over {
                return None;
            }
            match self.at.get() {
                None => self.changed.wait(&mut over),
                Some(&first) if Instant::now() >= first + after => return Some(first),
                Some(&first) => {
                    self.changed.wait_until(&mut over, first + after);
                }
            }
        }
    }
}

/// The threads that inject the faults of a run.
#[derive(Debug)]
pub struct FaultRunner {
    unplanned: Unplanned,
}

/// Injects faults that were not planned, while the run goes on. The run waits for them at its end, as for the others.
#[derive(Clone, Debug)]
pub struct Unplanned {
    first_send: Arc<FirstSend>,
    log: Arc<FaultLog>,
    epoch: Instant,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Unplanned {
    /// Begins to inject a fault, and adds it to the log. Does not wait until it is in force.
    ///
    /// # Errors
    /// No query was sent yet, the run ends, or a thread cannot be started.
    pub fn inject(&self, spec: &str, injector: Arc<dyn Injector>) -> anyhow::Result<()> {
        // Held until the thread is listed, so that the run does not end in between.
        let mut threads = self.threads.lock();
        anyhow::ensure!(!*self.first_send.over.lock(), "the run is ending");
        let first = self.first_send.instant().context("no query was sent yet: try again in a moment")?;
        let fault = PlannedFault { spec: spec.to_owned(), at: first.elapsed() };
        let index = self.log.add(spec, fault.at);
        threads.push(self.carry_out(index, fault, injector)?);
        Ok(())
    }

    fn carry_out(
        &self,
        index: usize,
        fault: PlannedFault,
        injector: Arc<dyn Injector>,
    ) -> std::io::Result<JoinHandle<()>> {
        let Self { first_send, log, epoch, .. } = self.clone();
        let carry_out = move || carry_out(index, &fault, &*injector, &log, &first_send, epoch);
        std::thread::Builder::new().name(format!("fault-{index}")).spawn(carry_out)
    }
}

impl FaultRunner {
    /// Starts one thread per fault that is still planned: another process may have injected the others. Faults wait for `first_send`. Recorded times count from `epoch`, the start of the run.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        planned: &[PlannedFault],
        injector: Option<&Arc<dyn Injector>>,
        log: &Arc<FaultLog>,
        first_send: &Arc<FirstSend>,
        epoch: Instant,
    ) -> std::io::Result<Self> {
        let (first_send, log) = (Arc::clone(first_send), Arc::clone(log));
        let unplanned = Unplanned { first_send, log, epoch, threads: Arc::default() };
        let schedule = Self { unplanned };
        let records = schedule.unplanned.log.records();
        for (index, fault) in planned.iter().enumerate() {
            let Some(injector) = injector.map(Arc::clone) else { break };
            if records.get(index).is_some_and(|record| record.status != FaultStatus::Planned) {
                continue;
            }
            let thread = schedule.unplanned.carry_out(index, fault.clone(), injector)?;
            schedule.unplanned.threads.lock().push(thread);
        }
        Ok(schedule)
    }

    /// Returns what injects further faults.
    #[must_use]
    pub fn unplanned(&self) -> Unplanned {
        self.unplanned.clone()
    }

    /// Cancels the faults that have not started, and waits for the others.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for FaultRunner {
    fn drop(&mut self) {
        self.unplanned.first_send.end();
        let threads = std::mem::take(&mut *self.unplanned.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn carry_out(
    index: usize,
    fault: &PlannedFault,
    injector: &dyn Injector,
    log: &FaultLog,
    first_send: &FirstSend,
    epoch: Instant,
) {
    let now = || Instant::now().saturating_duration_since(epoch);
    let Some(first) = first_send.wait(fault.at) else {
        log.end(index, None, FaultStatus::Failed("the run ended before the fault was due".into()));
        return;
    };
    log.begin(index, first.saturating_duration_since(epoch), now());
    let fate = match injector.inject(&fault.spec) {
        Ok(FaultEffect { detail, members, cold_starts }) => {
            log.set_members(index, members);
            log.set_cold_starts(index, cold_starts);
            FaultStatus::Injected(detail)
        }
        Err(error) => FaultStatus::Failed(format!("{error:#}")),
    };
    log.end(index, Some(now()), fate);
}

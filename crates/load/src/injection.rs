//! Carries the planned faults out: a thread each, that waits for its time and then blocks until the fault is in force.
//! No worker waits for it, and it outlives no run.

use measure::{FaultLog, FaultStatus};
use parking_lot::{Condvar, Mutex};
use plan::PlannedFault;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Instant,
};

/// Breaks parts of a stack. The program implements it for the stack that it knows.
pub trait Injector: Send + Sync {
    /// Checks that the fault `spec` can be injected. Changes nothing.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn check(&self, spec: &str) -> anyhow::Result<()>;

    /// Injects the fault and blocks until it is in force. Returns what was done.
    ///
    /// # Errors
    /// The fault did not happen.
    fn inject(&self, spec: &str) -> anyhow::Result<Done>;

    /// Lists the servers that state another name in answers to `/run` than faults call them by: the stated name, then the name
    /// in faults.
    ///
    /// # Errors
    /// The stack does not answer.
    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}

/// What a fault did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// A description for people.
    pub detail: String,
    /// The members that it was done to, by the names that faults give them: `server-1`.
    pub members: Vec<String>,
}

/// The moment from which faults are counted: the first query's sending.
#[derive(Debug, Default)]
pub struct FirstSend {
    at: OnceLock<Instant>,
    over: Mutex<bool>,
    changed: Condvar,
}

impl FirstSend {
    /// A query is sent: the first one counts.
    pub fn note(&self, at: Instant) {
        if self.at.get().is_none() && self.at.set(at).is_ok() {
            let _over = self.over.lock();
            self.changed.notify_all();
        }
    }

    fn end(&self) {
        *self.over.lock() = true;
        self.changed.notify_all();
    }

    /// The moment of the first send, `after` later; `None` when the run was over before.
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

/// The faults of a run that is going on.
#[derive(Debug)]
pub struct Schedule {
    first_send: Arc<FirstSend>,
    threads: Vec<JoinHandle<()>>,
}

impl Schedule {
    /// Starts a thread a fault. Moments are counted from `epoch`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        planned: &[PlannedFault],
        injector: Option<&Arc<dyn Injector>>,
        log: &Arc<FaultLog>,
        epoch: Instant,
    ) -> std::io::Result<Self> {
        let first_send = Arc::new(FirstSend::default());
        let mut schedule = Self { first_send, threads: Vec::new() };
        for (index, fault) in planned.iter().enumerate() {
            let Some(injector) = injector.map(Arc::clone) else { break };
            let (fault, log, first_send) = (fault.clone(), Arc::clone(log), Arc::clone(&schedule.first_send));
            let carry_out = move || carry_out(index, &fault, &*injector, &log, &first_send, epoch);
            schedule
                .threads
                .push(std::thread::Builder::new().name(format!("fault-{index}")).spawn(carry_out)?);
        }
        Ok(schedule)
    }

    /// Where the first send is noted.
    #[must_use]
    pub const fn first_send(&self) -> &Arc<FirstSend> {
        &self.first_send
    }

    /// The run is over: what did not begin will not. Waits for what has begun.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.first_send.end();
        for thread in self.threads.drain(..) {
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
        log.end(index, None, FaultStatus::Failed("the run was over before its time".into()));
        return;
    };
    log.begin(index, first.saturating_duration_since(epoch), now());
    let status = match injector.inject(&fault.spec) {
        Ok(Done { detail, members }) => {
            log.set_members(index, members);
            FaultStatus::Injected(detail)
        }
        Err(error) => FaultStatus::Failed(format!("{error:#}")),
    };
    log.end(index, Some(now()), status);
}

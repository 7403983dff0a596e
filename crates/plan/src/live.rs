//! The schedule of a run that may be amended while it is played.

use crate::{
    schedule::{AmendError, Amendment, Schedule},
    shard::Shard,
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// The present schedule of a run, or of one generator's part of it. Clones share it.
#[derive(Clone, Debug)]
pub struct LiveSchedule(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    state: Mutex<State>,
    current: watch::Sender<Arc<Schedule>>,
}

#[derive(Debug)]
struct State {
    whole: Arc<Schedule>,
    late: Vec<u32>,
}

impl LiveSchedule {
    /// Creates it from the schedule of the whole run. Its current schedule is that of `shard`.
    #[must_use]
    pub fn new(whole: Arc<Schedule>, shard: Shard) -> Self {
        let part = part(&whole, shard);
        let state = Mutex::new(State { whole, late: Vec::new() });
        Self(Arc::new(Inner { shard, state, current: watch::Sender::new(part) }))
    }

    /// Returns the schedule as it is now.
    #[must_use]
    pub fn current(&self) -> Arc<Schedule> {
        self.0.current.borrow().clone()
    }

    /// Returns a receiver that learns of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Schedule>> {
        self.0.current.subscribe()
    }

    /// Changes the schedule. `elapsed`: time since the start of the run. A change whose time has come already is made as well, but
    /// noted as late. An amendment that was made before changes nothing.
    ///
    /// # Errors
    /// The change is not possible. Nothing is changed then.
    pub fn amend(&self, amendment: Amendment, elapsed: Duration) -> Result<(), AmendError> {
        let mut state = self.0.state.lock();
        let number = amendment.number;
        if let Some(earlier) = state.whole.amendments().iter().find(|earlier| earlier.number == number) {
            return if *earlier == amendment { Ok(()) } else { Err(AmendError::NumberTaken { number }) };
        }
        state.whole = Arc::new(state.whole.amended(amendment)?);
        if elapsed >= amendment.at() {
            state.late.push(amendment.number);
        }
        self.0.current.send_replace(part(&state.whole, self.0.shard));
        Ok(())
    }

    /// Returns the numbers of the amendments that came in time. What was played before a late one came is not the plan.
    #[must_use]
    pub fn in_time(&self) -> Vec<u32> {
        let state = self.0.state.lock();
        let numbers = state.whole.amendments().iter().map(|amendment| amendment.number);
        numbers.filter(|number| !state.late.contains(number)).collect()
    }
}

fn part(whole: &Arc<Schedule>, shard: Shard) -> Arc<Schedule> {
    // A schedule with its shard set already, and the only generator's, are used as they are.
    if shard.is_whole() { Arc::clone(whole) } else { Arc::new(whole.part(shard)) }
}

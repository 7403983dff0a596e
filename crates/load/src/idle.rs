//! The idle sessions of one worker, in the model in which queries arrive at a rate.
//! An arriving query never waits: it goes to an idle session or is dropped.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::Instant,
};
use tokio::sync::oneshot;

/// A query that is due.
#[derive(Clone, Copy, Debug)]
pub struct DueQuery {
    /// When the plan wants the query sent.
    pub due: Instant,
    /// Tokens that the answer should have. `None`: the user's kind decides.
    pub tokens: Option<u32>,
}

/// The idle sessions of one worker, in the order in which they became idle.
#[derive(Debug, Default)]
pub struct IdleSessions {
    idle: RefCell<VecDeque<oneshot::Sender<DueQuery>>>,
    closed: Cell<bool>,
}

impl IdleSessions {
    /// Adds a session, which gets its query from the returned receiver. `None` if no more queries will arrive.
    pub fn join(&self) -> Option<oneshot::Receiver<DueQuery>> {
        if self.closed.get() {
            return None;
        }
        let (give, take) = oneshot::channel();
        self.idle.borrow_mut().push_back(give);
        Some(take)
    }

    /// Gives `query` to the session that has been idle longest. Returns false if no session is idle.
    pub fn give(&self, query: DueQuery) -> bool {
        while let Some(session) = self.idle.borrow_mut().pop_front() {
            if session.send(query).is_ok() {
                return true;
            }
        }
        false
    }

    /// Ends the wait of all idle sessions, because no more queries will arrive.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_that_is_idle_longest_is_next() {
        let pool = IdleSessions::default();
        let query = DueQuery { due: Instant::now(), tokens: Some(7) };
        assert!(!pool.give(query));
        drop(pool.join());
        let (mut first, mut second) = (pool.join().unwrap(), pool.join().unwrap());
        assert!(pool.give(query));
        assert!(first.try_recv().is_ok() && second.try_recv().is_err());
        pool.close();
        assert!(pool.join().is_none() && !pool.give(query));
    }
}

//! Sessions that wait for a query, in a model whose queries arrive by themselves.
//! It never makes a query wait: one that finds no session is told so at once.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::Instant,
};
use tokio::sync::oneshot;

/// A query that is due.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// When the plan wants it sent.
    pub due: Instant,
    /// The length that its answer is to have.
    pub tokens: Option<u32>,
}

/// One worker's idle sessions.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<VecDeque<oneshot::Sender<Turn>>>,
    closed: Cell<bool>,
}

impl Pool {
    /// A session has nothing to do; `None` when nothing will come any more.
    pub fn idle(&self) -> Option<oneshot::Receiver<Turn>> {
        if self.closed.get() {
            return None;
        }
        let (give, take) = oneshot::channel();
        self.idle.borrow_mut().push_back(give);
        Some(take)
    }

    /// Gives `turn` to the session that has been idle longest; false when there is none.
    pub fn give(&self, turn: Turn) -> bool {
        while let Some(session) = self.idle.borrow_mut().pop_front() {
            if session.send(turn).is_ok() {
                return true;
            }
        }
        false
    }

    /// Nothing more will come: those who wait are told.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_session_that_is_still_there_is_next() {
        let pool = Pool::default();
        let turn = Turn { due: Instant::now(), tokens: Some(7) };
        assert!(!pool.give(turn));
        drop(pool.idle());
        let (mut first, mut second) = (pool.idle().unwrap(), pool.idle().unwrap());
        assert!(pool.give(turn));
        assert!(first.try_recv().is_ok() && second.try_recv().is_err());
        pool.close();
        assert!(pool.idle().is_none() && !pool.give(turn));
    }
}

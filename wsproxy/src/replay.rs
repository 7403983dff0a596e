//! The budget in bytes for log pages that all sockets are reading. Room is given in the order of requests. A page larger than the whole
//! budget is read alone.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The replay budget of one gateway.
#[derive(Debug)]
pub(crate) struct ReplayBudget {
    free: Semaphore,
    size: u32,
    in_flight: Gauge,
    waits: Counter,
}

/// The room of a page that is being read. Dropping it returns the room.
#[derive(Debug)]
pub(crate) struct PageRoom<'a> {
    permit: SemaphorePermit<'a>,
    in_flight: &'a Gauge,
}

impl Drop for PageRoom<'_> {
    fn drop(&mut self) {
        self.in_flight.dec_by(i64::try_from(self.permit.num_permits()).unwrap_or(i64::MAX));
    }
}

impl ReplayBudget {
    /// Creates a budget of `bytes`. `in_flight` shows the bytes in use, and `waits` counts the pages that had to wait.
    pub(crate) fn new(bytes: u32, in_flight: Gauge, waits: Counter) -> Self {
        let size = bytes.max(1);
        Self { free: Semaphore::new(size as usize), size, in_flight, waits }
    }

    /// Waits for room for a page of `bytes`.
    pub(crate) async fn room(&self, bytes: usize) -> PageRoom<'_> {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.size);
        let permit = match self.free.try_acquire_many(share) {
            Ok(permit) => permit,
            Err(_) => {
                self.waits.inc();
                self.free.acquire_many(share).await.expect("the budget is never closed")
            }
        };
        self.in_flight.inc_by(share.into());
        PageRoom { permit, in_flight: &self.in_flight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, future::join_all};
    use std::cell::Cell;

    fn budget(bytes: u32) -> ReplayBudget {
        ReplayBudget::new(bytes, Gauge::default(), Counter::default())
    }

    #[tokio::test]
    async fn the_budget_is_never_exceeded() {
        let replay = budget(1000);
        let (most, done) = (Cell::new(0), Cell::new(0));
        let pages = (0..200usize).map(|n| {
            let (replay, most, done) = (&replay, &most, &done);
            async move {
                let room = replay.room(n * 7).await;
                most.set(most.get().max(replay.in_flight.get()));
                for _ in 0..n % 5 {
                    tokio::task::yield_now().await;
                }
                drop(room);
                done.set(done.get() + 1);
            }
        });
        join_all(pages).await;
        assert_eq!(done.get(), 200);
        assert!((500..=1000).contains(&most.get()), "{most:?}");
        assert_eq!(replay.in_flight.get(), 0);
        assert!(replay.waits.get() > 0);
    }

    #[tokio::test]
    async fn a_page_larger_than_the_budget_is_read_alone() {
        let replay = budget(10);
        let whole = replay.room(usize::MAX).await;
        assert_eq!(replay.in_flight.get(), 10);
        assert!(replay.room(1).now_or_never().is_none());
        drop(whole);
        assert!(replay.room(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_large_page_is_not_overtaken_by_small_ones() {
        let replay = budget(10);
        let first = replay.room(6).await;
        let mut large = Box::pin(replay.room(9));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(replay.room(2));
        assert!(small.as_mut().now_or_never().is_none(), "there is room, but the large page waits longer");
        drop(first);
        drop(large.now_or_never().expect("its turn"));
        assert!(small.now_or_never().is_some());
    }
}

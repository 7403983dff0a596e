//! Decides when the lane reads its next page of the log, and how large that page is.

use super::{Outbox, Phase, State};
use std::{
    future::poll_fn,
    task::{Poll, ready},
};

/// Largest number of events of a page.
const MAX_PAGE: usize = 128;

/// The size of a page of the log for which an outbox has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRequest {
    /// Largest number of events.
    pub(crate) events: usize,
    /// Their expected size, in bytes, by the largest event so far.
    pub(crate) bytes: usize,
}

impl Outbox {
    /// Waits until the lane is behind and half of the queue is free. Returns the size of the next page, or `None` when the socket closes.
    pub(crate) fn next_page(&self) -> impl Future<Output = Option<PageRequest>> + '_ {
        poll_fn(|cx| {
            loop {
                {
                    let mut state = self.state.lock();
                    if state.phase != Phase::Open || state.lost {
                        return Poll::Ready(None);
                    }
                    if state.behind && self.is_half_free(&state) {
                        state.behind = false;
                        let room = self.shared.limit / 2;
                        let largest = state.largest.max(1);
                        let events = (room / largest).clamp(1, MAX_PAGE);
                        return Poll::Ready(Some(PageRequest { events, bytes: events * largest }));
                    }
                }
                ready!(self.feeder.poll(cx));
            }
        })
    }

    /// Waits until the socket closes.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            loop {
                {
                    let state = self.state.lock();
                    if state.phase != Phase::Open || state.lost {
                        return Poll::Ready(());
                    }
                }
                ready!(self.feeder.poll(cx));
            }
        })
    }

    pub(super) fn is_half_free(&self, state: &State) -> bool {
        state.cost() <= self.shared.limit / 2
    }
}

//! Wakes one waiting future. `tokio::sync::Notify` serves several, and each of its futures has 64 bytes.

use futures_util::task::AtomicWaker;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

/// A flag that one future at a time waits for.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: AtomicBool,
    waiter: AtomicWaker,
}

impl Signal {
    /// Ends the wait of [`Signal::poll`], or the next one if no future waits.
    pub(super) fn notify_one(&self) {
        self.raised.store(true, Ordering::Release);
        self.waiter.wake();
    }

    /// Waits for [`Signal::notify_one`]. Only one future may wait at a time, because a new waker replaces the old one.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.raised.swap(false, Ordering::AcqRel) {
            self.waiter.register(cx.waker());
            // It may have been raised before the waker was registered.
            if !self.raised.swap(false, Ordering::AcqRel) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::{future::poll_fn, sync::Arc};

    fn notified(signal: &Signal) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| signal.poll(cx))
    }

    #[test]
    fn a_signal_is_kept_for_the_next_wait_and_ends_one() {
        let signal = Signal::default();
        assert_eq!(notified(&signal).now_or_never(), None);
        signal.notify_one();
        signal.notify_one();
        assert_eq!(notified(&signal).now_or_never(), Some(()));
        assert_eq!(notified(&signal).now_or_never(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_signal_is_lost_between_threads() {
        let (there, back) = (Arc::new(Signal::default()), Arc::new(Signal::default()));
        let echo = {
            let (there, back) = (there.clone(), back.clone());
            tokio::spawn(async move {
                for _ in 0..10_000 {
                    notified(&there).await;
                    back.notify_one();
                }
            })
        };
        for _ in 0..10_000 {
            there.notify_one();
            notified(&back).await;
        }
        echo.await.unwrap();
    }
}

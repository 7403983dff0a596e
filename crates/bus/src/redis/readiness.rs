//! The readiness of a process: it is ready when all its conditions hold, for example that every link is up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::watch;

#[derive(Clone)]
pub(super) struct Readiness {
    down: Arc<AtomicUsize>,
    ready: Arc<watch::Sender<bool>>,
}

/// One condition of readiness. It does not hold at first.
pub(super) struct Condition {
    readiness: Readiness,
    up: std::sync::atomic::AtomicBool,
}

impl Readiness {
    pub(super) fn new() -> Self {
        Self { down: Arc::default(), ready: Arc::new(watch::Sender::new(false)) }
    }

    pub(super) fn condition(&self) -> Condition {
        self.down.fetch_add(1, Ordering::SeqCst);
        Condition { readiness: self.clone(), up: false.into() }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

impl Condition {
    pub(super) fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::SeqCst) == up {
            return;
        }
        let down = &self.readiness.down;
        if up {
            down.fetch_sub(1, Ordering::SeqCst)
        } else {
            down.fetch_add(1, Ordering::SeqCst)
        };
        self.readiness.ready.send_if_modified(|ready| {
            let now = down.load(Ordering::SeqCst) == 0;
            std::mem::replace(ready, now) != now
        });
    }
}

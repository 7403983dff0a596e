//! Which Redis this is: the same as before, or one that may have forgotten. It notices; giving back what was known is for
//! others (see `restoration`), and until they have, the gate is shut.

use parking_lot::Mutex;
use redis::{InfoDict, RedisResult, aio::MultiplexedConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// So long after Redis may have forgotten, what is unknown may still be given back by others.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long after Redis may have forgotten, nobody claims: others may know of a later claim.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// What tells one Redis from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    /// Changes when the process starts again, with its data or without.
    run_id: String,
    /// Gone when the data is.
    mark: String,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Identity>,
    /// When Redis was last seen to be another.
    noticed: Option<Instant>,
    /// Counts the times that something has to be given back, and the times that it was.
    losses: u64,
    restored: u64,
}

/// What is known of the Redis behind all links.
pub(super) struct Incarnation {
    mark_key: String,
    state: Mutex<State>,
    changed: Notify,
    readiness: super::readiness::Link,
}

impl Incarnation {
    pub(super) fn new(mark_key: String, readiness: super::readiness::Link) -> Arc<Self> {
        Arc::new(Self { mark_key, state: Mutex::default(), changed: Notify::new(), readiness })
    }

    /// The key that a Redis with its data has.
    pub(super) fn mark_key(&self) -> &str {
        &self.mark_key
    }

    /// Asks a connection which Redis it leads to.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("server");
        let own = Uuid::new_v4().simple().to_string();
        pipeline.cmd("SET").arg(&self.mark_key).arg(own).arg("NX").ignore();
        pipeline.cmd("GET").arg(&self.mark_key);
        let (info, mark): (InfoDict, String) = pipeline.query_async(connection).await?;
        let run_id = info.get::<String>("run_id").unwrap_or_default();
        let mut state = self.state.lock();
        let identity = Identity { run_id, mark };
        if state.known.as_ref() == Some(&identity) {
            return Ok(());
        }
        // Where nothing is known it is the first, or its loss was noticed already.
        if state.known.replace(identity).is_some() {
            self.lost(&mut state, "it started again");
        } else if state.losses == state.restored {
            self.readiness.set(true);
        }
        Ok(())
    }

    /// An answer carried this mark. False if Redis is not the one that it was.
    pub(super) fn saw_mark(&self, mark: Option<&[u8]>) -> bool {
        let mut state = self.state.lock();
        let Some(known) = &state.known else { return false };
        if mark == Some(known.mark.as_bytes()) {
            return true;
        }
        state.known = None;
        self.lost(&mut state, "its data is gone");
        false
    }

    fn lost(&self, state: &mut State, why: &str) {
        tracing::warn!("Redis may have forgotten ({why}), giving back what is known");
        state.noticed = Some(Instant::now());
        state.losses += 1;
        self.readiness.set(false);
        self.changed.notify_one();
    }

    /// Whether everything that this process knew has been given back.
    pub(super) fn is_restored(&self) -> bool {
        let state = self.state.lock();
        state.known.is_some() && state.losses == state.restored
    }

    /// Whether a session may be claimed: what this process knew is given back, and others have had their time.
    pub(super) fn is_settled(&self) -> bool {
        self.is_restored() && !self.noticed_within(SETTLE)
    }

    /// Whether what is missing may still be given back by others.
    pub(super) fn is_young(&self) -> bool {
        !self.is_restored() || self.noticed_within(PATIENCE)
    }

    fn noticed_within(&self, time: Duration) -> bool {
        self.state.lock().noticed.is_some_and(|at| at.elapsed() < time)
    }

    /// Waits until there is something to give back; what [`Self::restored`] is to be told then.
    pub(super) async fn loss(&self) -> u64 {
        loop {
            {
                let state = self.state.lock();
                if state.losses != state.restored {
                    return state.losses;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Everything known was given back after so many losses.
    pub(super) fn restored(&self, losses: u64) {
        let mut state = self.state.lock();
        state.restored = losses;
        if state.losses == losses && state.known.is_some() {
            self.readiness.set(true);
            tracing::info!("Redis has back what this process knew");
        }
    }
}

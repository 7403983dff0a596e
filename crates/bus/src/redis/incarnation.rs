//! Which Redis this is: the same as before, or one that may have lost data. It notices; restoring what was known is for
//! others (see `restoration`), and until they have, the gate is shut.

use super::scripts::Scripts;
use parking_lot::Mutex;
use redis::{InfoDict, RedisResult, aio::MultiplexedConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// For so long after its mark was made, what a Redis does not know may still be restored by others.
const YOUNG_MS: u64 = 10_000;

/// What tells one Redis from another: `<uuid>:<Redis ms>`, made anew when the process starts again, with its data or
/// without, and gone when the data is.
#[derive(Clone, Debug)]
struct Mark {
    text: Arc<str>,
    /// When it is old: judged by Redis' time when the mark was read, counted from there on by this process' clock.
    old_at: Instant,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Mark>,
    /// The mark of the Redis that has back what this process kept.
    given_back: Option<Arc<str>>,
    /// Counts the times that something has to be given back, and the times that it was.
    losses: u64,
    restored: u64,
}

/// What is known of the Redis behind all links.
pub(super) struct Incarnation {
    mark_key: String,
    run_key: String,
    scripts: Arc<Scripts>,
    state: Mutex<State>,
    changed: Notify,
    gave_back: Notify,
    readiness: super::readiness::Link,
}

impl Incarnation {
    pub(super) fn new(
        names: &protocol::Names,
        scripts: Arc<Scripts>,
        readiness: super::readiness::Link,
    ) -> Arc<Self> {
        Arc::new(Self {
            mark_key: names.mark(),
            run_key: names.run(),
            scripts,
            state: Mutex::default(),
            changed: Notify::new(),
            gave_back: Notify::new(),
            readiness,
        })
    }

    /// The key that a Redis with its data has.
    pub(super) fn mark_key(&self) -> &str {
        &self.mark_key
    }

    /// The mark of the Redis that this process talks to, while it is known.
    pub(super) fn mark(&self) -> Option<Arc<str>> {
        self.state.lock().known.as_ref().map(|mark| mark.text.clone())
    }

    /// The mark of the Redis that has back all that this process kept.
    pub(super) fn given_back(&self) -> Option<Arc<str>> {
        self.state.lock().given_back.clone()
    }

    /// Asks a connection which Redis it leads to.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let info: InfoDict = redis::cmd("INFO").arg("server").query_async(connection).await?;
        let run_id = info.get::<String>("run_id").unwrap_or_default();
        let mut script = self.scripts.mark.key(&self.mark_key);
        script.key(&self.run_key).arg(Uuid::new_v4().simple().to_string()).arg(run_id);
        let (mark, now_ms): (String, u64) = script.invoke_async(connection).await?;
        let young = young_for(&mark, now_ms);
        let mut state = self.state.lock();
        if state.known.as_ref().is_some_and(|known| *known.text == *mark) {
            return Ok(());
        }
        let old_at = Instant::now() + young;
        let text: Arc<str> = mark.into();
        // Where nothing is known it is the first, or its loss was noticed already.
        let other = state.known.replace(Mark { text: text.clone(), old_at }).is_some();
        if other {
            self.lost(&mut state, "it started again");
        } else if state.losses == state.restored {
            // There is nothing to give back: this process has kept nothing yet.
            state.given_back = Some(text);
            self.readiness.set(true);
        }
        Ok(())
    }

    /// An answer carried this mark. False if Redis is not the one that it was.
    pub(super) fn saw_mark(&self, mark: Option<&[u8]>) -> bool {
        let mut state = self.state.lock();
        let Some(known) = &state.known else { return false };
        if mark == Some(known.text.as_bytes()) {
            return true;
        }
        state.known = None;
        self.lost(&mut state, "its data is gone");
        false
    }

    fn lost(&self, state: &mut State, why: &str) {
        tracing::warn!("Redis may have forgotten ({why}), giving back what is known");
        state.losses += 1;
        self.readiness.set(false);
        self.changed.notify_one();
    }

    /// Whether everything that this process knew has been given back.
    pub(super) fn is_restored(&self) -> bool {
        let state = self.state.lock();
        state.known.is_some() && state.losses == state.restored
    }

    /// Whether the mark is so old that nothing is waited for any more.
    pub(super) fn is_old(&self) -> bool {
        let state = self.state.lock();
        state.known.as_ref().is_some_and(|known| Instant::now() >= known.old_at)
    }

    /// Whether what is missing may still be given back, by this process or by others.
    pub(super) fn is_young(&self) -> bool {
        !self.is_restored() || !self.is_old()
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

    /// Waits until something was given back: peers wait to be told.
    pub(super) async fn gave_back(&self) {
        self.gave_back.notified().await;
    }

    /// Everything known was given back after so many losses, to the Redis with this mark.
    pub(super) fn restored(&self, losses: u64, mark: Arc<str>) {
        let mut state = self.state.lock();
        state.restored = losses;
        if state.losses == losses && state.known.as_ref().is_some_and(|known| known.text == mark) {
            state.given_back = Some(mark);
            self.gave_back.notify_one();
            self.readiness.set(true);
            tracing::info!("Redis has back what this process knew");
        }
    }
}

/// For how long the mark is still young, by Redis' time. A mark without a time comes from an earlier version: it is old. A
/// clock that was set back does not make it younger than new.
fn young_for(mark: &str, now_ms: u64) -> Duration {
    let made_ms: u64 = mark.rsplit_once(':').and_then(|(_, ms)| ms.parse().ok()).unwrap_or(0);
    Duration::from_millis(YOUNG_MS.saturating_sub(now_ms.saturating_sub(made_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_young_for_ten_seconds_of_redis_time() {
        for (mark, now, expected) in [
            ("u:1000", 1000, 10_000),
            ("u:1000", 5000, 6000),
            ("u:1000", 11_000, 0),
            ("u:1000", 999_000, 0),
            ("u:5000", 1000, 10_000),
            ("u", 1000, 9000),
            ("u:x", 999_000, 0),
        ] {
            assert_eq!(young_for(mark, now), Duration::from_millis(expected), "{mark} at {now}");
        }
    }
}

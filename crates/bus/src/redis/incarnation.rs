//! Detects whether Redis is the same as before or may have lost data. After a loss nothing is claimed or appended until
//! `restoration` has restored the data that this process knows.

use super::scripts::Scripts;
use parking_lot::Mutex;
use redis::{InfoDict, RedisResult, aio::MultiplexedConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// How long after the creation of its mark, in milliseconds, data that Redis lacks may still be restored.
const YOUNG_MS: u64 = 10_000;

/// The mark of a Redis: `<uuid>:<Redis ms>`. A new one is made when the Redis process starts, with or without its data.
/// It is lost together with the data.
#[derive(Clone, Debug)]
struct Mark {
    text: Arc<str>,
    /// When the mark is old. Its age at the time of reading is by Redis' clock; this process' monotonic clock counts
    /// from there.
    old_at: Instant,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Mark>,
    /// The mark of the Redis in which this process has restored its data.
    restored_mark: Option<Arc<str>>,
    /// Number of losses noticed, and number of those after which the data was restored.
    losses: u64,
    restored: u64,
}

/// What this process knows about the Redis behind its links.
pub(super) struct Incarnation {
    mark_key: String,
    run_key: String,
    scripts: Arc<Scripts>,
    state: Mutex<State>,
    changed: Notify,
    restoration_done: Notify,
    readiness: super::readiness::Condition,
}

impl Incarnation {
    pub(super) fn new(
        names: &protocol::Names,
        scripts: Arc<Scripts>,
        readiness: super::readiness::Condition,
    ) -> Arc<Self> {
        Arc::new(Self {
            mark_key: names.mark(),
            run_key: names.run(),
            scripts,
            state: Mutex::default(),
            changed: Notify::new(),
            restoration_done: Notify::new(),
            readiness,
        })
    }

    /// Returns the key of the mark.
    pub(super) fn mark_key(&self) -> &str {
        &self.mark_key
    }

    /// Returns the mark of the Redis that this process is connected to, if it is known.
    pub(super) fn mark(&self) -> Option<Arc<str>> {
        self.state.lock().known.as_ref().map(|mark| mark.text.clone())
    }

    /// Returns the mark of the Redis in which this process has restored its data.
    pub(super) fn restored_mark(&self) -> Option<Arc<str>> {
        self.state.lock().restored_mark.clone()
    }

    /// Finds out which Redis a connection leads to.
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
        // If no mark was known, this is the first connection, or the loss was noticed before.
        let other = state.known.replace(Mark { text: text.clone(), old_at }).is_some();
        if other {
            self.lost(&mut state, "its process was restarted");
        } else if state.losses == state.restored {
            // This process has no data to restore yet.
            state.restored_mark = Some(text);
            self.readiness.set(true);
        }
        Ok(())
    }

    /// Compares the mark in a reply with the known one. Returns false, and notes the loss, if Redis is not the same.
    pub(super) fn check_mark(&self, mark: Option<&[u8]>) -> bool {
        let mut state = self.state.lock();
        let Some(known) = &state.known else { return false };
        if mark == Some(known.text.as_bytes()) {
            return true;
        }
        state.known = None;
        self.lost(&mut state, "its mark is missing or different");
        false
    }

    fn lost(&self, state: &mut State, why: &str) {
        tracing::warn!("Redis may have lost data ({why}), restoring what this process knows");
        state.losses += 1;
        self.readiness.set(false);
        self.changed.notify_one();
    }

    /// Returns whether this process has restored its data.
    pub(super) fn is_restored(&self) -> bool {
        let state = self.state.lock();
        state.known.is_some() && state.losses == state.restored
    }

    /// Returns whether the mark is so old that no restoration is awaited.
    pub(super) fn is_old(&self) -> bool {
        let state = self.state.lock();
        state.known.as_ref().is_some_and(|known| Instant::now() >= known.old_at)
    }

    /// Returns whether missing data may still be restored, by this process or by others.
    pub(super) fn is_young(&self) -> bool {
        !self.is_restored() || !self.is_old()
    }

    /// Waits until there is data to restore. Returns the number of losses, for [`Self::restored`].
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

    /// Waits until this process has restored its data, so that it can report this to its peers.
    pub(super) async fn restoration_done(&self) {
        self.restoration_done.notified().await;
    }

    /// Notes that this process has restored its data in the Redis with this mark, after this number of losses.
    pub(super) fn restored(&self, losses: u64, mark: Arc<str>) {
        let mut state = self.state.lock();
        state.restored = losses;
        if state.losses == losses && state.known.as_ref().is_some_and(|known| known.text == mark) {
            state.restored_mark = Some(mark);
            self.restoration_done.notify_one();
            self.readiness.set(true);
            tracing::info!("restored the data of this process in Redis");
        }
    }
}

/// Returns for how long the mark is still young, by Redis' time. A mark without a time is from an earlier version and
/// is old. If Redis' clock was set back, the mark counts as just made.
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

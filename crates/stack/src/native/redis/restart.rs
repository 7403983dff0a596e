//! A Redis that is killed and comes back: with everything, with nothing, or without its last second. Each works whatever
//! the stack's persistence is, and leaves that as it was.

use super::{Persistence, Redis, directory, empty};
use crate::fault::Memory;
use anyhow::{Context, bail};
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep_until};

/// What a rollback loses.
const LOST: Duration = Duration::from_secs(1);
/// Redis's name for a snapshot.
const SNAPSHOT: &str = "dump.rdb";

impl Redis {
    /// Kills it and starts it again with this memory; answers what happened, for a person.
    pub(crate) async fn restart(&self, memory: Option<Memory>) -> anyhow::Result<String> {
        match memory {
            None => {
                self.slot.process().kill().await?;
                self.start_again().await?;
                Ok(match self.persistence {
                    Persistence::None => "killed, empty again: it has no persistence".into(),
                    _ => "killed, back with what it had written".into(),
                })
            }
            Some(Memory::Keep) => self.keep().await,
            Some(Memory::Empty) => {
                self.slot.process().kill().await?;
                empty(&directory(&self.state))?;
                self.start_again().await?;
                Ok("killed, empty again".into())
            }
            Some(Memory::Rollback) => self.roll_back().await,
        }
    }

    /// Redis hands a write to the kernel before it answers, if nothing holds that up: `always` sees to it. What the kernel
    /// has outlives the process.
    async fn keep(&self) -> anyhow::Result<String> {
        if self.persistence == Persistence::None {
            self.ask("CONFIG SET appendonly yes").await?;
        }
        let written = [
            "aof_enabled:1",
            "aof_rewrite_in_progress:0",
            "aof_rewrite_scheduled:0",
            "aof_last_bgrewrite_status:ok",
        ];
        self.until_info(&written).await?;
        self.ask("CONFIG SET appendfsync always").await?;
        let killed = Instant::now();
        self.slot.process().kill().await?;
        self.start_with(Persistence::Always).await?;
        let away = killed.elapsed();
        match self.persistence {
            Persistence::Always => {}
            Persistence::Everysec => drop(self.ask("CONFIG SET appendfsync everysec").await?),
            Persistence::None => {
                self.ask("CONFIG SET appendonly no").await?;
                // Or a later start would find it.
                empty(&directory(&self.state))?;
            }
        }
        Ok(format!("killed, back after {} ms with everything", away.as_millis()))
    }

    async fn roll_back(&self) -> anyhow::Result<String> {
        // Redis forks within the command: what is written after its answer is not in the snapshot.
        self.until_info(&["rdb_bgsave_in_progress:0", "aof_rewrite_in_progress:0"]).await?;
        self.ask("BGSAVE").await?;
        let snapshot = Instant::now();
        self.until_info(&["rdb_bgsave_in_progress:0"]).await?;
        if !self.ask("INFO persistence").await?.contains("rdb_last_bgsave_status:ok") {
            bail!("redis cannot write a snapshot: its log says why (`streamstress stack logs redis`)");
        }
        sleep_until(snapshot + LOST).await;
        let lost = snapshot.elapsed();
        self.slot.process().kill().await?;
        let directory = directory(&self.state);
        let kept = self.state.join(SNAPSHOT);
        fs::rename(directory.join(SNAPSHOT), &kept)
            .context("redis's snapshot is not where it was written")?;
        empty(&directory)?;
        fs::rename(&kept, directory.join(SNAPSHOT))?;
        // Only a Redis that appends to nothing reads a snapshot.
        self.start_with(Persistence::None).await?;
        empty(&directory)?;
        if self.persistence != Persistence::None {
            let [_, _, _, fsync] = self.persistence.args();
            self.ask(&format!("CONFIG SET appendfsync {fsync}")).await?;
            self.ask("CONFIG SET appendonly yes").await?;
            self.until_info(&["aof_enabled:1", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"])
                .await?;
        }
        Ok(format!("killed, back without its last {} ms", lost.as_millis()))
    }
}

//! Restarts of Redis: with all data, without data, or without the last second of writes. Each works with every persistence of the
//! stack and does not change it.

use super::{Persistence, Redis, clear, directory};
use crate::fault::RestartData;
use anyhow::{Context, bail};
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep_until};

/// Time whose writes a rollback loses.
const ROLLBACK_TIME: Duration = Duration::from_secs(1);
/// Name of a snapshot file of Redis.
const SNAPSHOT: &str = "dump.rdb";

impl Redis {
    /// Kills Redis and starts it again with this data; `None` means with what its persistence has stored. Returns what was done, for
    /// the user.
    pub(crate) async fn restart(&self, data: Option<RestartData>) -> anyhow::Result<String> {
        match data {
            None => {
                self.slot.process().kill().await?;
                self.start_again().await?;
                Ok(match self.persistence {
                    Persistence::None => {
                        "was killed and started without data, because it has no persistence".into()
                    }
                    _ => "was killed and started with its stored data".into(),
                })
            }
            Some(RestartData::Keep) => self.restart_with_all_data().await,
            Some(RestartData::Empty) => {
                self.slot.process().kill().await?;
                clear(&directory(&self.state_dir))?;
                self.start_again().await?;
                Ok("was killed and started without data".into())
            }
            Some(RestartData::Rollback) => self.restart_rolled_back().await,
        }
    }

    /// With `appendfsync always` Redis passes each write to the kernel before it acknowledges it. What the kernel has outlives the
    /// process.
    async fn restart_with_all_data(&self) -> anyhow::Result<String> {
        if self.persistence == Persistence::None {
            self.command("CONFIG SET appendonly yes").await?;
        }
        let written = [
            "aof_enabled:1",
            "aof_rewrite_in_progress:0",
            "aof_rewrite_scheduled:0",
            "aof_last_bgrewrite_status:ok",
        ];
        self.wait_for_info(&written).await?;
        self.command("CONFIG SET appendfsync always").await?;
        let killed = Instant::now();
        self.slot.process().kill().await?;
        self.start_with(Persistence::Always).await?;
        let downtime = killed.elapsed();
        match self.persistence {
            Persistence::Always => {}
            Persistence::Everysec => drop(self.command("CONFIG SET appendfsync everysec").await?),
            Persistence::None => {
                self.command("CONFIG SET appendonly no").await?;
                // A later start would read it.
                clear(&directory(&self.state_dir))?;
            }
        }
        Ok(format!("was killed and started after {} ms with all its data", downtime.as_millis()))
    }

    /// Restarts Redis from a snapshot that is one second old.
    async fn restart_rolled_back(&self) -> anyhow::Result<String> {
        // Redis forks within BGSAVE, so writes after its reply are not in the snapshot.
        self.wait_for_info(&["rdb_bgsave_in_progress:0", "aof_rewrite_in_progress:0"]).await?;
        self.command("BGSAVE").await?;
        let snapshot = Instant::now();
        self.wait_for_info(&["rdb_bgsave_in_progress:0"]).await?;
        if !self.command("INFO persistence").await?.contains("rdb_last_bgsave_status:ok") {
            bail!("redis cannot write a snapshot: see its log (`streamstress stack logs redis`)");
        }
        sleep_until(snapshot + ROLLBACK_TIME).await;
        let lost = snapshot.elapsed();
        self.slot.process().kill().await?;
        let directory = directory(&self.state_dir);
        let kept = self.state_dir.join(SNAPSHOT);
        fs::rename(directory.join(SNAPSHOT), &kept).context("cannot move the snapshot of redis")?;
        clear(&directory)?;
        fs::rename(&kept, directory.join(SNAPSHOT))?;
        // Redis reads a snapshot only if it has no append-only file.
        self.start_with(Persistence::None).await?;
        clear(&directory)?;
        if self.persistence != Persistence::None {
            let [_, _, _, fsync] = self.persistence.args();
            self.command(&format!("CONFIG SET appendfsync {fsync}")).await?;
            self.command("CONFIG SET appendonly yes").await?;
            self.wait_for_info(&["aof_enabled:1", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"])
                .await?;
        }
        Ok(format!("was killed and started without its last {} ms of writes", lost.as_millis()))
    }
}

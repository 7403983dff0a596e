//! A Redis that refuses writes for a while, each time by a means of its own: what a stack meets is the real reply.

use super::{ASK_EVERY, DATA_PATIENCE, Redis};
use crate::{
    fault::{Action, Denial},
    probe,
};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Redis {
    /// Lets it refuse writes from now on; it takes them again after `time`, by itself. Returns what happened, for a person.
    pub(crate) async fn deny_writes(&self, action: Action, time: Duration) -> anyhow::Result<String> {
        let Some(denial) = Denial::of(action) else { bail!("{action} denies no writes") };
        let mut before = Vec::new();
        for setting in denial.settings() {
            let answer = self.ask(&format!("CONFIG GET {setting}")).await?;
            let value = answer.lines().nth(4);
            before.push(value.with_context(|| format!("redis has no setting {setting}"))?.to_owned());
        }
        let (end, address) = (denial.end(&before)?, self.address());
        self.ask(&denial.begin()).await?;
        tokio::spawn(async move {
            sleep(time).await;
            let deadline = Instant::now() + DATA_PATIENCE;
            // One that was killed meanwhile comes back as it is configured.
            while let Err(error) = probe::redis(&address, &end).await {
                if Instant::now() > deadline {
                    return tracing::error!(%error, "cannot send {end} to redis: it goes on refusing writes");
                }
                sleep(ASK_EVERY).await;
            }
        });
        Ok(format!("{} for {time:?}", denial.what))
    }
}

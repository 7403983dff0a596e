//! Lets Redis reject writes for some time, with the real error of each cause.

use super::{DATA_TIMEOUT, POLL_INTERVAL, Redis};
use crate::{
    fault::{Action, WriteRejection},
    probe,
};
use anyhow::{Context, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Redis {
    /// Lets Redis reject writes for `time`. Returns when the rejection has begun, with a description for the user.
    pub(crate) async fn reject_writes(&self, action: Action, time: Duration) -> anyhow::Result<String> {
        let Some(rejection) = WriteRejection::of(action) else {
            bail!("action {action} does not reject writes")
        };
        let mut before = Vec::new();
        for setting in rejection.settings() {
            let reply = self.command(&format!("CONFIG GET {setting}")).await?;
            let value = reply.lines().nth(4);
            before.push(
                value.with_context(|| format!("this Redis version has no setting {setting}"))?.to_owned(),
            );
        }
        let (end, address) = (rejection.end(&before)?, self.address());
        self.command(&rejection.begin()).await?;
        tokio::spawn(async move {
            sleep(time).await;
            let deadline = Instant::now() + DATA_TIMEOUT;
            // After a restart Redis may not respond yet. It then has its configured settings.
            while let Err(error) = probe::redis(&address, &end).await {
                if Instant::now() > deadline {
                    return tracing::error!(%error, "cannot send `{end}` to redis: it still rejects writes");
                }
                sleep(POLL_INTERVAL).await;
            }
        });
        Ok(format!("{} for {time:?}", rejection.description))
    }
}

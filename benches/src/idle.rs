//! What a stack costs that nobody uses: heartbeats, health checks, probes. Nothing is sent and nothing is connected.

use crate::{
    args::Idle,
    gateway::variant,
    judge,
    record::Record,
    rig::Rig,
    usage::{Between, Look},
};
use std::time::Duration;

/// What a stack does once, when it has just started, is over by then.
const SETTLED: Duration = Duration::from_secs(3);

/// Starts a rig and looks on.
pub(crate) async fn measure(options: &Idle) -> anyhow::Result<Record> {
    let rig = Rig::start(&options.target).await?;
    let seen = look_on(&rig, options.duration).await;
    rig.stop().await;
    let between = seen?;
    let mut record = Record::new("idle", variant(&options.target));
    record.add("servers", f64::from(options.target.servers));
    record.add("gateways", f64::from(options.target.gateways));
    let seconds = options.duration.as_secs_f64();
    let shares = between.groups.iter().filter(|(name, _)| *name != "generator");
    let shares: Vec<_> = shares.map(|(name, usage)| (name, usage.cpu_s / seconds)).collect();
    record.add("idle_core_share", shares.iter().map(|(_, share)| share).sum());
    for (name, share) in shares {
        record.add(format!("idle_core_share{{{name}}}"), share);
    }
    record.add("machine", between.machine);
    judge::saturation(&mut record, &between);
    Ok(record)
}

async fn look_on(rig: &Rig, duration: Duration) -> anyhow::Result<Between> {
    let watched = rig.watched();
    tokio::time::sleep(SETTLED).await;
    let before = Look::at(&watched)?;
    tokio::time::sleep(duration).await;
    Ok(Look::at(&watched)?.since(&before))
}

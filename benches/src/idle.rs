//! `bench idle`: measures the CPU time of a stack without load, which is heartbeats, health checks and probes.

use crate::{
    args::Idle,
    judge,
    record::Record,
    rig::Rig,
    usage::{Snapshot, Used},
};
use std::time::Duration;

/// Time after which the work of the stack's start is over.
const SETTLED: Duration = Duration::from_secs(3);

/// Starts a rig and measures it without load.
pub(crate) async fn measure(options: &Idle) -> anyhow::Result<Record> {
    let rig = Rig::start(&options.target).await?;
    let used = observe(&rig, options.duration).await;
    rig.stop().await;
    let used = used?;
    let mut record = Record::new("idle", options.target.variant());
    record.add("servers", f64::from(options.target.servers));
    record.add("gateways", f64::from(options.target.gateways));
    let seconds = options.duration.as_secs_f64();
    let shares = used.groups.iter().filter(|(name, _)| *name != "generator");
    let shares: Vec<_> = shares.map(|(name, usage)| (name, usage.cpu_s / seconds)).collect();
    record.add("idle_core_share", shares.iter().map(|(_, share)| share).sum());
    for (name, share) in shares {
        record.add(format!("idle_core_share{{{name}}}"), share);
    }
    record.add("machine", used.machine);
    judge::saturation(&mut record, &used);
    Ok(record)
}

async fn observe(rig: &Rig, duration: Duration) -> anyhow::Result<Used> {
    let watched = rig.watched();
    tokio::time::sleep(SETTLED).await;
    let before = Snapshot::take(&watched)?;
    tokio::time::sleep(duration).await;
    Ok(Snapshot::take(&watched)?.since(&before))
}

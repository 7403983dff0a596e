//! `bench connect`: measures how many sockets per second a gateway opens, each with a token to check and a session to attach.
//! Requests are signed in advance, so the time is the gateway's and not the generator's.

use crate::{
    args::Connect,
    dial::{OpenedAll, open_all},
    judge,
    latency::percentile_ms,
    record::{Record, Verdict},
    rig::Rig,
    usage::{Snapshot, Used},
};

/// Starts a rig and opens sockets on it.
pub(crate) async fn measure(options: &Connect) -> anyhow::Result<Record> {
    let rig = Rig::start(&options.target).await?;
    let observed = connect(&rig, options).await;
    rig.stop().await;
    let (opened, used, snapshots) = observed?;
    let mut record = Record::new("connect", options.target.variant());
    let connections = f64::from(options.connections);
    record.add("connections", connections);
    record.add("concurrency", f64::from(options.concurrency));
    record.add("connects_per_second", connections / opened.seconds);
    record.add("connect_ms_p50", percentile_ms(&opened.latency, 50.0));
    record.add("connect_ms_p99", percentile_ms(&opened.latency, 99.0));
    for (name, usage) in &used.groups {
        record.add(format!("cpu_us_per_connect{{{name}}}"), usage.cpu_s * 1e6 / connections);
    }
    for (name, usage) in &used.groups {
        record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
        let grown = snapshots[1].rss_kib(name) - snapshots[0].rss_kib(name);
        record.add(format!("rss_kib_per_connection{{{name}}}"), grown / connections);
    }
    record.add("machine", used.machine);
    record.add("steal", used.steal);
    judge::saturation(&mut record, &used);
    // A closed loop is never late. If the generator's own thread is full, the generator is what was measured.
    if used.groups.get("generator").is_some_and(|usage| usage.busiest_thread >= judge::THREAD_IS_FULL) {
        record.verdict = Verdict::Invalid;
        record.reasons.push("INVALID: the generator used a whole core, so the figures are the generator's and not the gateway's".into());
    }
    Ok(record)
}

async fn connect(rig: &Rig, options: &Connect) -> anyhow::Result<(OpenedAll, Used, [Snapshot; 2])> {
    let watched = rig.watched();
    let sessions = rig.create(options.connections as usize).await?;
    let requests: Vec<_> = sessions.iter().map(|&session| rig.request(session)).collect();
    let address = rig.address(options.target.way)?;
    let before = Snapshot::take(&watched)?;
    let opened = open_all(&address, requests, options.concurrency as usize).await?;
    let after = Snapshot::take(&watched)?;
    Ok((opened, after.since(&before), [before, after]))
}

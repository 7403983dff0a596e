//! The connect role: how many sockets a second a gateway opens, each with a token to check and a session to attach.
//! Requests are signed beforehand, so that the time is the gateway's and not the generator's.

use crate::{
    args::Connect,
    dial::{Address, Opened, open},
    gateway::variant,
    judge,
    latency::{histogram, percentile_ms},
    record::{Record, Verdict},
    rig::Rig,
    usage::{Between, Look},
};
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use std::time::Instant;

/// Connections under way at a time, where the rate is not what is measured.
pub(crate) const DIALS: usize = 64;

/// What opening many sockets came to.
pub(crate) struct Dialled {
    pub(crate) opened: Vec<Opened>,
    seconds: f64,
    /// From the first byte to the answer, in microseconds.
    latency: Histogram<u32>,
}

/// Opens a socket for every request, in their order.
///
/// # Errors
/// The first one that was not opened.
pub(crate) async fn open_all(
    address: &Address,
    requests: Vec<Vec<u8>>,
    concurrency: usize,
) -> anyhow::Result<Dialled> {
    let began = Instant::now();
    let dials = requests.into_iter().map(|request| async move {
        let began = Instant::now();
        let opened = open(address, &request).await;
        (opened, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    });
    let mut dials = stream::iter(dials).buffered(concurrency);
    let (mut opened, mut latency) = (Vec::new(), histogram());
    while let Some((socket, us)) = dials.next().await {
        opened.push(socket?);
        latency.saturating_record(us.max(1));
    }
    Ok(Dialled { opened, seconds: began.elapsed().as_secs_f64(), latency })
}

/// Starts a rig and opens sockets on it.
pub(crate) async fn measure(options: &Connect) -> anyhow::Result<Record> {
    let rig = Rig::start(&options.target).await?;
    let seen = connect(&rig, options).await;
    rig.stop().await;
    let (dialled, between, looks) = seen?;
    let mut record = Record::new("connect", variant(&options.target));
    let connections = f64::from(options.connections);
    record.add("connections", connections);
    record.add("concurrency", f64::from(options.concurrency));
    record.add("connects_per_second", connections / dialled.seconds);
    record.add("connect_ms_p50", percentile_ms(&dialled.latency, 50.0));
    record.add("connect_ms_p99", percentile_ms(&dialled.latency, 99.0));
    for (name, usage) in &between.groups {
        record.add(format!("cpu_us_per_connect{{{name}}}"), usage.cpu_s * 1e6 / connections);
    }
    for (name, usage) in &between.groups {
        record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
        let grown = looks[1].rss_kib(name) - looks[0].rss_kib(name);
        record.add(format!("rss_kib_per_connection{{{name}}}"), grown / connections);
    }
    record.add("machine", between.machine);
    record.add("steal", between.steal);
    judge::saturation(&mut record, &between);
    // A closed loop is never late; one whose own thread is full measures itself.
    if between.groups.get("generator").is_some_and(|usage| usage.busiest_thread >= judge::THREAD_IS_FULL) {
        record.verdict = Verdict::Invalid;
        record.reasons.push("INVALID: the generator's thread was full before the gateway's".into());
    }
    Ok(record)
}

async fn connect(rig: &Rig, options: &Connect) -> anyhow::Result<(Dialled, Between, [Look; 2])> {
    let watched = rig.watched();
    let sessions = rig.create(options.connections as usize).await?;
    let requests: Vec<_> = sessions.iter().map(|&session| rig.request(session)).collect();
    let address = rig.address(options.target.way)?;
    let before = Look::at(&watched)?;
    let dialled = open_all(&address, requests, options.concurrency as usize).await?;
    let after = Look::at(&watched)?;
    Ok((dialled, after.since(&before), [before, after]))
}

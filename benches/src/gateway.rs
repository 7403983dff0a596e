//! `bench gateway`: sends tokens at one rate through the bus, Redis, a gateway and N sockets. Checks every position, and
//! measures CPU time, memory and latency inside the steady window.

use crate::{
    args::{Gateway, Shape, Target},
    dial::{CONCURRENCY, open_all},
    judge::{self, Delivered},
    latency::percentile_ms,
    pace::Pace,
    publisher::{Published, Publisher, Source},
    reader::{Progress, Reader, Received},
    record::Record,
    rig::Rig,
    usage::{Snapshot, Used, Watched},
};
use anyhow::bail;
use host::{Waited, monotonic_us};
use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};
use tokio::task::spawn_blocking;

/// Time between the last preparation and the first token, in microseconds.
const LEAD_US: u64 = 200_000;
/// Tokens that are missing this long after the last publication count as lost, in microseconds.
const GIVE_UP_US: u64 = 3_000_000;
/// Time in which a gateway can return the memory of closed connections.
const REST: Duration = Duration::from_secs(1);
/// Most tokens of a run. The memory of Redis has a limit, and Redis refuses appends beyond it.
const MAX_TOKENS: u64 = 2_200_000;

/// Starts a rig and measures it under one load.
pub(crate) async fn measure(options: &Gateway) -> anyhow::Result<Record> {
    measure_load(&options.target, options.shape, options.connections as usize).await
}

/// Starts a rig and measures it under `connections` connections.
pub(crate) async fn measure_load(
    target: &Target,
    shape: Shape,
    connections: usize,
) -> anyhow::Result<Record> {
    let rate = shape.per_connection * connections as f64;
    let seconds = shape.warm_up + shape.duration;
    let pace = Pace::new(connections, rate, micros(seconds));
    if pace.total() > MAX_TOKENS {
        let tokens = pace.total();
        bail!(
            "{tokens} tokens do not fit into Redis, at most {MAX_TOKENS} do: use a shorter --duration or --warm-up"
        );
    }
    let rig = Rig::start(target).await?;
    let observed = load(&rig, target, shape, pace, connections).await;
    rig.stop().await;
    let observed = observed?;
    let mut record = Record::new("gateway", target.variant());
    record.add("connections", connections as f64);
    record.add("tokens_per_second", rate);
    observed.write(&mut record, connections as f64);
    Ok(record)
}

/// Observations of one load.
struct Observed {
    published: Published,
    received: Received,
    /// Planned time between two tokens of a connection.
    interval_ms: f64,
    hold_ms: f64,
    /// Share of the time for which publisher or reader, whichever is larger, waited for a CPU.
    generator_waited: f64,
    /// Tokens received inside the window.
    in_window: u64,
    /// Resources used inside the window.
    used: Used,
    /// Taken before the connections, at the window's end, and after the connections.
    snapshots: [Snapshot; 3],
}

async fn load(
    rig: &Rig,
    target: &Target,
    shape: Shape,
    pace: Pace,
    connections: usize,
) -> anyhow::Result<Observed> {
    let watched = rig.watched();
    let sessions = rig.create(connections).await?;
    let before = Snapshot::take(&watched)?;
    let requests = sessions.iter().map(|&session| rig.request(session)).collect();
    let opened = open_all(&rig.address(target.way)?, requests, CONCURRENCY).await?.opened;
    let generations = rig.claim(&sessions).await?;
    let sources = std::iter::zip(&sessions, &generations).map(|(&id, &own)| Source::new(id, own)).collect();

    let outlet = rig.outlet().await?;
    let start_us = monotonic_us() + LEAD_US;
    let window_start = start_us + micros(shape.warm_up);
    let window = window_start..window_start + micros(shape.duration);
    let progress = Arc::new(Progress::default());
    let streams = std::iter::zip(opened, generations).collect();
    let mut reader = Reader::new(streams, pace.rounds(), window.clone(), progress.clone())?;
    let reading = spawn_blocking(move || reader.run().map(|()| reader));
    let sampling = spawn_blocking({
        let (progress, window, watched) = (progress.clone(), window.clone(), watched.clone());
        move || sample(&watched, window, &progress)
    });
    let (began, waited) = (Instant::now(), Waited::of_this_thread().unwrap_or_default());
    let published = Publisher::new(outlet, sources, pace, start_us, window).run().await?;
    let waited = Waited::of_this_thread().unwrap_or_default().since(waited).time;
    let publisher_waited = waited.as_secs_f64() / began.elapsed().as_secs_f64();
    progress.deadline_us.store(monotonic_us() + GIVE_UP_US, Ordering::Relaxed);
    let received = reading.await??.finish();
    let Sampled { begin, end, in_window } = sampling.await??;
    tokio::time::sleep(REST).await;
    Ok(Observed {
        generator_waited: publisher_waited.max(received.waited),
        interval_ms: 1e3 / shape.per_connection,
        hold_ms: target.hold_ms(),
        published,
        received,
        in_window,
        used: end.since(&begin),
        snapshots: [before, end, Snapshot::take(&watched)?],
    })
}

/// Resources used inside the window, and the tokens received in it.
pub(crate) struct Sampled {
    pub(crate) begin: Snapshot,
    pub(crate) end: Snapshot,
    pub(crate) in_window: u64,
}

pub(crate) fn sample(
    watched: &[Watched],
    window: Range<u64>,
    progress: &Progress,
) -> anyhow::Result<Sampled> {
    let snapshot_at = |us: u64| {
        thread::sleep(Duration::from_micros(us.saturating_sub(monotonic_us())));
        let received = progress.received.load(Ordering::Relaxed);
        Snapshot::take(watched).map(|snapshot| (snapshot, received))
    };
    let (begin, received_before) = snapshot_at(window.start)?;
    let (end, received) = snapshot_at(window.end)?;
    Ok(Sampled { begin, end, in_window: received - received_before })
}

impl Observed {
    fn write(&self, record: &mut Record, connections: f64) {
        let Self { published, received, used, snapshots, .. } = self;
        let Received { tally, latency, .. } = received;
        record.add("tokens_sent", published.sent as f64);
        record.add("tokens_received", tally.tokens_received as f64);
        record.add("tokens_lost", tally.tokens_lost as f64);
        record.add("tokens_duplicated", tally.tokens_duplicated as f64);
        record.add("tokens_reordered", tally.tokens_reordered as f64);
        record.add("delivery_ms_p50", latency.delivery_ms(50.0).value);
        record.add("delivery_ms_p99", latency.delivery_ms(99.0).value);
        record.add("delivery_ms_max", latency.delivery_ms(100.0).value);
        record.add("delivery_growth_ms", latency.growth_ms().value);
        record.add("delivery_error_ms_p99", judge::error(latency.delivery_ms(99.0)));
        record.add("gap_error_ms_p99", judge::error(latency.gap_ms(99.0)));
        record.add("gap_ms_p50", percentile_ms(&latency.gap, 50.0));
        record.add("gap_ms_p99", percentile_ms(&latency.gap, 99.0));
        record.add("gap_ms_max", percentile_ms(&latency.gap, 100.0));
        record.add("pace_lag_ms_p99", percentile_ms(&published.pace_lag, 99.0));
        record.add("bus_lag_ms_p99", percentile_ms(&published.bus_lag, 99.0));
        record.add("generator_waited", self.generator_waited);
        let tokens = self.in_window.max(1) as f64;
        for (name, usage) in &used.groups {
            record.add(format!("cpu_us_per_token{{{name}}}"), usage.cpu_s * 1e6 / tokens);
        }
        for (name, usage) in &used.groups {
            record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
        }
        let [before, end, after] = snapshots;
        for name in used.groups.keys().filter(|name| !matches!(name.as_str(), "generator" | "server")) {
            let grown = |snapshot: &Snapshot| (snapshot.rss_kib(name) - before.rss_kib(name)) / connections;
            record.add(format!("rss_kib_per_connection{{{name}}}"), grown(end));
            record.add(format!("rss_kib_per_connection_after{{{name}}}"), grown(after));
        }
        record.add("machine", used.machine);
        record.add("steal", used.steal);
        judge::saturation(record, used);
        judge::starvation(record, self.generator_waited);
        judge::verdict(record, &self.delivered());
    }

    fn delivered(&self) -> Delivered {
        let Received { tally, latency, closed, .. } = &self.received;
        Delivered {
            lost: tally.tokens_lost,
            duplicated: tally.tokens_duplicated,
            reordered: tally.tokens_reordered,
            closed: *closed,
            untaken: self.published.untaken,
            delivery_p50_ms: latency.delivery_ms(50.0).value,
            delivery_p99_ms: latency.delivery_ms(99.0),
            gap_p50_ms: latency.gap_ms(50.0).value,
            gap_p99_ms: latency.gap_ms(99.0),
            interval_ms: self.interval_ms,
            hold_ms: self.hold_ms,
            growth_ms: latency.growth_ms(),
        }
    }
}

/// Returns a duration in microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

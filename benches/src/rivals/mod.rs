//! `bench rivals`: measures one rival of `wsproxy` with the same tokens, connections and checks: its cost, or what its clients lose when
//! its process is killed and started again under load. Clients reconnect and resume as the rival's protocol lets them. Publishers
//! repeat what was not acknowledged, with what the rival offers against repeats.

mod http;
mod json;
mod lanes;
mod programs;
mod reader;
mod requests;
mod stream;
mod system;

use crate::{
    args::Rivals,
    gateway::{Sampled, micros, sample},
    judge,
    latency::percentile_ms,
    pace::Pace,
    publisher::Published,
    reader::Progress,
    record::{Record, Verdict},
    usage::{Snapshot, Used},
};
use anyhow::bail;
use host::{Waited, monotonic_us};
use reader::{Heard, Reader};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use system::System;
use tokio::{task::spawn_blocking, time::sleep, try_join};

/// Shortest time between the last connection and the first token, in microseconds.
const LEAD_US: u64 = 500_000;
/// Tokens that are missing this long after the last publication count as lost, in microseconds.
const GIVE_UP_US: u64 = 5_000_000;
/// Time in which every connection must be live.
const CONNECT: Duration = Duration::from_secs(5);
/// Processes whose CPU time a token costs: the gateway, its store, and what takes publications for it.
const PARTS: [&str; 4] = ["gateway", "redis", "postgres", "publisher"];
/// Time in which a process can settle before its memory is measured.
const REST: Duration = Duration::from_secs(1);
/// Measurement error of a delivery's p99 from which on a run is INVALID, in milliseconds.
const MOST_LAG_MS: f64 = 10.0;
/// Share of all cores that other programs may take in a valid run.
const MOST_OTHERS: f64 = 0.1;

/// Starts a rival and measures it.
pub(crate) async fn measure(options: &Rivals) -> anyhow::Result<Record> {
    let mut system = System::start(options).await?;
    let observed = load(&mut system, options).await;
    system.stop().await?;
    let (observed, heard) = observed?;
    let suite = if options.kill { "rivals, killed" } else { "rivals" };
    let mut record = Record::new(suite, options.rival.name().to_owned());
    let connections = f64::from(options.connections);
    record.add("connections", connections);
    record.add("tokens_per_second", options.per_connection * connections);
    observed.write(&mut record, connections);
    write_heard(&mut record, &heard, options.kill);
    verdict(&mut record, &heard, options.kill);
    Ok(record)
}

/// What was observed besides the tokens.
struct Observed {
    published: Published,
    /// Share of the time for which the publishing thread waited for a CPU.
    waited: f64,
    before: Snapshot,
    /// `None` if the process was killed, because figures of two processes cannot be subtracted.
    sampled: Option<Sampled>,
}

async fn load(system: &mut System, options: &Rivals) -> anyhow::Result<(Observed, Heard)> {
    let connections = options.connections as usize;
    let rate = options.per_connection * f64::from(options.connections);
    let pace = Pace::new(connections, rate, micros(options.warm_up + options.duration));
    system.prepare(connections).await?;
    sleep(REST).await;
    let watched = system.watched();
    let before = Snapshot::take(&watched)?;
    let start_us = monotonic_us() + micros(CONNECT);
    let window_start = start_us + micros(options.warm_up);
    let window = window_start..window_start + micros(options.duration);
    let (progress, live) = (Arc::new(Progress::default()), Arc::new(AtomicUsize::new(0)));
    let reader = Reader {
        address: system.address()?,
        streams: system.streams(connections),
        expected: pace.rounds(),
        window: window.clone(),
        progress: progress.clone(),
        live: live.clone(),
    };
    let reading = spawn_blocking(move || reader.run());
    if !all_live(&live, connections, start_us).await {
        progress.deadline_us.store(1, Ordering::Relaxed);
        let Heard { last_error, .. } = reading.await??;
        let (live, last_error) = (live.load(Ordering::Relaxed), last_error.unwrap_or_default());
        bail!("{live} of {connections} connections were live after {CONNECT:?}: {last_error}");
    }
    let sampling = (!options.kill).then(|| {
        let (progress, window) = (progress.clone(), window.clone());
        spawn_blocking(move || sample(&watched, window, &progress))
    });
    let (began, waited) = (Instant::now(), Waited::of_this_thread().unwrap_or_default());
    let publishing = system.publish(connections, pace, start_us, window.clone());
    let published = try_join!(publishing, interrupt(system, options, window.start));
    let waited = Waited::of_this_thread().unwrap_or_default().since(waited).time;
    let waited = waited.as_secs_f64() / began.elapsed().as_secs_f64();
    // The reader ends in any case: the program would wait for its thread.
    let give_up_us = if published.is_ok() { GIVE_UP_US } else { 0 };
    progress.deadline_us.store(monotonic_us() + give_up_us, Ordering::Relaxed);
    let heard = reading.await??;
    let (published, ()) = published?;
    let sampled = match sampling {
        Some(sampling) => Some(sampling.await??),
        None => None,
    };
    Ok((Observed { published, waited, before, sampled }, heard))
}

/// Waits until every connection is live. Returns false if that takes until shortly before `start_us`.
async fn all_live(live: &AtomicUsize, connections: usize, start_us: u64) -> bool {
    while live.load(Ordering::Relaxed) < connections {
        if monotonic_us() + LEAD_US > start_us {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Kills the gateway and starts it again, if the run asks for it.
async fn interrupt(system: &System, options: &Rivals, window_start: u64) -> anyhow::Result<()> {
    if options.kill {
        let kill_us = window_start + micros(options.kill_at);
        sleep(Duration::from_micros(kill_us.saturating_sub(monotonic_us()))).await;
        system.kill().await?;
        sleep(options.restart_after).await;
        system.restart().await?;
    }
    Ok(())
}

impl Observed {
    /// Writes the cost and what was published.
    fn write(&self, record: &mut Record, connections: f64) {
        let Self { published, waited, before, sampled } = self;
        if let Some(Sampled { begin, end, in_window }) = sampled {
            let used = end.since(begin);
            let tokens = (*in_window).max(1) as f64;
            let cost = |name: &str| used.groups.get(name).map_or(0.0, |usage| usage.cpu_s * 1e6 / tokens);
            record.add("cpu_us_per_token{total}", PARTS.iter().map(|name| cost(name)).sum());
            for name in PARTS.into_iter().chain(["generator"]).filter(|name| used.groups.contains_key(*name))
            {
                record.add(format!("cpu_us_per_token{{{name}}}"), cost(name));
            }
            for name in PARTS.into_iter().filter(|name| used.groups.contains_key(*name)) {
                let grown = (end.rss_kib(name) - before.rss_kib(name)) / connections;
                record.add(format!("rss_kib_per_connection{{{name}}}"), grown);
                record.add(format!("rss_mib_before{{{name}}}"), before.rss_kib(name) / 1024.0);
            }
            record.add("machine", used.machine);
            record.add("other_programs", others(&used, end.seconds_since(begin)));
            judge::saturation(record, &used);
        }
        record.add("publish_ms_p99", percentile_ms(&published.bus_lag, 99.0));
        record.add("pace_lag_ms_p99", percentile_ms(&published.pace_lag, 99.0));
        record.add("generator_waited", *waited);
        record.add("tokens_sent", published.sent as f64);
        record.add("tokens_refused", published.untaken as f64);
        judge::starvation(record, *waited);
    }
}

/// Returns the share of all cores that went to programs which take no part.
fn others(used: &Used, seconds: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let ours: f64 = used.groups.values().map(|usage| usage.cpu_s).sum();
    (used.machine - ours / (cores * seconds)).max(0.0)
}

/// Writes what was received.
fn write_heard(record: &mut Record, heard: &Heard, killed: bool) {
    let Heard { tally, latency, pauses, broken, waited, .. } = heard;
    record.add("tokens_received", tally.tokens_received as f64);
    record.add("tokens_lost", tally.tokens_lost as f64);
    record.add("tokens_duplicated", tally.tokens_duplicated as f64);
    record.add("tokens_reordered", tally.tokens_reordered as f64);
    record.add("delivery_ms_p50", latency.delivery_ms(50.0).value);
    record.add("delivery_ms_p99", latency.delivery_ms(99.0).value);
    record.add("delivery_ms_max", latency.delivery_ms(100.0).value);
    record.add("reader_lag_ms_p99", heard.lag_ms(99.0));
    record.add("reader_waited", *waited);
    if killed {
        record.add("longest_pause_ms_p50", percentile_ms(pauses, 50.0));
        record.add("longest_pause_ms_max", percentile_ms(pauses, 100.0));
    }
    record.add("connections_broken", *broken as f64);
}

/// A run is clean if every token arrived once and in order, and INVALID if the load program was late. Counts after a kill do not depend on
/// time.
fn verdict(record: &mut Record, heard: &Heard, killed: bool) {
    let tally = &heard.tally;
    for (count, what) in [
        (tally.tokens_lost, "lost"),
        (tally.tokens_duplicated, "duplicated"),
        (tally.tokens_reordered, "out of order"),
    ] {
        if count > 0 {
            record.verdict = Verdict::NotClean;
            record.reasons.push(format!("{count} tokens were {what}"));
        }
    }
    let pace_lag = record.figure("pace_lag_ms_p99").unwrap_or(0.0);
    let lag = heard.lag_ms(99.0).max(pace_lag);
    if !killed && lag > MOST_LAG_MS {
        record.verdict = Verdict::Invalid;
        record.reasons.push(format!(
            "INVALID: the load program was {lag:.1} ms late at p99, the limit is {MOST_LAG_MS} ms"
        ));
    }
    if let Some(others) = record.figure("other_programs").filter(|others| *others > MOST_OTHERS) {
        record.verdict = Verdict::Invalid;
        record.reasons.push(format!("INVALID: other programs took {:.0} % of all cores", others * 100.0));
    }
    if !killed && let (true, Some(error)) = (heard.broken > 0, &heard.last_error) {
        record.reasons.push(format!("connections ended: {error}"));
    }
}

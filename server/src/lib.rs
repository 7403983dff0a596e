//! The LLM simulator: sessions over HTTP, and for every query a seeded schedule of tokens, played onto the bus. It holds
//! no socket of a client's stream and decides nothing about delivery: that is the gateway's and the bus's part.

mod app;
mod args;
mod aside;
mod config;
mod distribution;
mod error;
mod health;
mod http;
mod lateness;
mod metrics;
mod outbox;
mod pacer;
mod permit;
mod plan;
pub mod process;
pub mod program;
#[cfg(test)]
#[path = "../tests/recording/mod.rs"]
mod recording;
mod request;
mod runs;
mod text;
mod worker;

pub use args::{Args, Faults, Settings};
pub use config::Config;
pub use distribution::{Distribution, ParseDistributionError};
pub use plan::{DELAY_MS, Ideal, Offsets, Plan, TOKENS, Timing};
pub use text::{DEFAULT_TEXT, ResponseText};

use anyhow::Context;
use app::App;
use bus::Broker;
use guard::Budget;
use host::ClockAnchor;
use metrics::{Metrics, Observed, Page};
use protocol::Signer;
use runs::Runs;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use worker::{COMMANDS, Worker};

/// How long the bus may take over the terminators of streams that the shutdown cut off.
const LAST_APPENDS: Duration = Duration::from_secs(5);

/// How long the bus may take to let this server leave.
const LEAVE: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown` is cancelled; then takes no new work, lets running queries end, for
/// [`Config::drain`] at most, and returns. Dropping the future stops everything at once.
///
/// # Errors
/// The listener has no address, or the task that serves it panicked.
pub async fn run(
    listener: TcpListener,
    config: Config,
    bus: Arc<dyn Broker>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the listener has no address")?;
    let (instance, seed) = (&config.instance, config.seed);
    tracing::info!(instance, workers = config.workers, seed, "listening on {address}");
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let _close_if_dropped = close.clone().drop_guard();

    let metrics = Metrics::default();
    let anchor = ClockAnchor::now();
    let mut workers = JoinSet::new();
    let commands = (0..config.workers.max(1)).map(|_| {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let worker = Worker::new(bus.clone(), metrics.clone(), anchor, config.outbox_bytes);
        workers.spawn(worker.run(receiver, stop.clone()));
        commands
    });
    let commands = commands.collect();
    let runs = Arc::new(Runs::new(config, bus.clone(), metrics, anchor, commands));
    let obeying =
        bus.control().map(|control| AbortOnDropHandle::new(tokio::spawn(runs.clone().obey(control))));
    let router = app(&runs, &shutdown).router();
    let Config { max_connections: connections, read_timeout, .. } = runs.config;
    let limits = http::Limits { connections, read_timeout };
    let serving = http::serve(listener, router, limits, runs.metrics.clone(), close.clone());
    let serving = AbortOnDropHandle::new(tokio::spawn(serving));

    shutdown.cancelled().await;
    let drained = drain(&runs, &stop, workers).await;
    drop(obeying);
    close.cancel();
    serving.await.context("the listener's task failed")?;
    if drained {
        leave(&*bus).await;
    }
    Ok(())
}

/// Tells the other servers that this one is gone and owes them nothing. Where that fails, they find out from its silence.
async fn leave(bus: &dyn Broker) {
    match timeout(LEAVE, bus.leave()).await {
        Ok(Ok(true)) => tracing::info!("left the bus"),
        Ok(Ok(false)) => {
            tracing::warn!("stays listed: a claim is open, or lost data is still being restored");
        }
        Ok(Err(error)) => tracing::warn!(%error, "the other servers were not told that this one is gone"),
        Err(_) => {
            tracing::warn!("the other servers were not told that this one is gone: the bus does not answer");
        }
    }
}

fn app(runs: &Arc<Runs>, shutdown: &CancellationToken) -> App {
    let observed = Observed {
        bus: runs.bus.clone(),
        permits: runs.permits.clone(),
        max_streams: runs.config.max_streams,
        draining: shutdown.clone(),
    };
    App {
        runs: runs.clone(),
        signer: Signer::new(&runs.config.secret),
        page: Page::new(&runs.metrics, observed),
        bodies: Budget::new(runs.config.body_bytes, runs.metrics.bodies.clone()),
        draining: shutdown.clone(),
    }
}

/// Waits for running queries, ends what is left with an error terminator, and waits for the bus to have that. Returns whether
/// it has all of it.
async fn drain(runs: &Runs, stop: &CancellationToken, mut workers: JoinSet<()>) -> bool {
    let running = || runs.config.max_streams - runs.permits.available_permits();
    tracing::info!(running = running(), within = ?runs.config.drain, "shutting down");
    let all = u32::try_from(runs.config.max_streams).unwrap_or(u32::MAX);
    if timeout(runs.config.drain, runs.permits.acquire_many(all)).await.is_err() {
        tracing::warn!(running = running(), "the time to drain is over, ending what still runs");
    }
    stop.cancel();
    let ended = timeout(LAST_APPENDS, async { while workers.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        let events = runs.metrics.unacknowledged.get();
        tracing::error!(events, "the bus did not take the last events, they are lost");
    }
    ended.is_ok()
}

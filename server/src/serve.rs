//! Runs a server: starts its workers and its listener, and drains both at the shutdown.

use crate::{
    app::App,
    config::Config,
    http,
    metrics::Metrics,
    openai::{OpenAi, Record, Shared},
    runs::Runs,
    worker::{COMMANDS, Worker},
};
use anyhow::Context;
use bus::Broker;
use guard::Budget;
use host::ClockAnchor;
use protocol::Signer;
use std::{sync::Arc, time::Duration};
use telemetry::{Push, PushCounts, Resource};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

/// Time for the bus to accept the terminators of streams that the shutdown ended.
const LAST_APPENDS: Duration = Duration::from_secs(5);

/// Time for the bus to remove this server from its list.
const LEAVE: Duration = Duration::from_secs(2);

/// Serves on `listener` until `shutdown` is cancelled. Then it refuses new work, waits at most [`Config::drain`] for running queries to
/// end, and returns. Dropping the future stops everything at once.
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
    let controlled = bus
        .control()
        .map(|control| AbortOnDropHandle::new(tokio::spawn(runs.clone().handle_control(control))));
    let connections = TaskTracker::new();
    let record = runs.config.openai.record.as_deref();
    let record = record.map(|path| Record::create(path, runs.metrics.clone())).transpose()?;
    let app = app(&runs, record.clone(), &shutdown, &stop, &connections);
    let push = push(&runs.config, &app)?;
    let router = app.router();
    let Config { max_connections, read_timeout, .. } = runs.config;
    let limits = http::Limits { connections: max_connections, read_timeout };
    let serving = http::serve(listener, router, limits, runs.metrics.clone(), connections, close.clone());
    let serving = AbortOnDropHandle::new(tokio::spawn(serving));

    shutdown.cancelled().await;
    let drained = drain(&runs, &stop, workers).await;
    drop(controlled);
    close.cancel();
    serving.await.context("the listener's task failed")?;
    if let Some(record) = record {
        record.sync().await;
    }
    if let Some(push) = push {
        tokio::task::spawn_blocking(|| push.end()).await.context("the last export failed")?;
    }
    if drained {
        leave(&*bus).await;
    }
    Ok(())
}

/// Removes this server from the bus's list, so that no peer waits for it. If that fails, peers declare it dead when its heartbeat stops.
async fn leave(bus: &dyn Broker) {
    match timeout(LEAVE, bus.leave()).await {
        Ok(Ok(true)) => tracing::info!("left the bus"),
        Ok(Ok(false)) => {
            tracing::warn!(
                "this server stays listed on the bus: a claim is open, or lost data is still being restored"
            );
        }
        Ok(Err(error)) => tracing::warn!(%error, "this server could not be removed from the bus's list"),
        Err(_) => {
            tracing::warn!("this server could not be removed from the bus's list: the bus does not answer");
        }
    }
}

/// Starts to push the metrics, if a collector is configured.
fn push(config: &Config, app: &App) -> anyhow::Result<Option<Push>> {
    let Some(url) = &config.otlp else { return Ok(None) };
    let resource = Resource {
        service: "streamstress-server",
        instance: config.instance.clone(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let exporter = app.exporter.clone();
    let push = Push::start(url, resource, app.pushed.clone(), move || exporter.text());
    push.map(Some).context("cannot start the thread that pushes metrics")
}

fn app(
    runs: &Arc<Runs>,
    record: Option<Record>,
    shutdown: &CancellationToken,
    stop: &CancellationToken,
    connections: &TaskTracker,
) -> App {
    let (bus, permits, pushed) = (runs.bus.clone(), runs.permits.clone(), PushCounts::default());
    let shown = runs.config.otlp.as_ref().map(|_| pushed.clone());
    let bodies = Budget::new(runs.config.body_bytes, runs.metrics.bodies.clone());
    let shared = Shared {
        permits: permits.clone(),
        bodies: bodies.clone(),
        metrics: runs.metrics.clone(),
        record,
        anchor: runs.anchor,
        draining: shutdown.clone(),
        stop: stop.clone(),
        connections: connections.clone(),
    };
    App {
        runs: runs.clone(),
        signer: Signer::new(&runs.config.secret),
        exporter: Arc::new(runs.metrics.exporter(
            bus,
            permits,
            runs.config.max_streams,
            shutdown.clone(),
            shown,
            runs.config.stated.clone(),
        )),
        pushed,
        bodies,
        openai: Arc::new(OpenAi::new(&runs.config, shared)),
        draining: shutdown.clone(),
    }
}

/// Waits for running queries, ends those that are left with an error terminator, and waits for the bus to accept it. Returns whether the
/// bus accepted all events.
async fn drain(runs: &Runs, stop: &CancellationToken, mut workers: JoinSet<()>) -> bool {
    let running = || runs.config.max_streams - runs.permits.available_permits();
    tracing::info!(running = running(), within = ?runs.config.drain, "shutting down");
    let all = u32::try_from(runs.config.max_streams).unwrap_or(u32::MAX);
    if timeout(runs.config.drain, runs.permits.acquire_many(all)).await.is_err() {
        tracing::warn!(running = running(), "DRAIN_SECONDS are over, ending the queries that still run");
    }
    stop.cancel();
    let ended = timeout(LAST_APPENDS, async { while workers.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        let events = runs.metrics.unacknowledged.get();
        tracing::error!(events, "the bus did not accept the last events, they are lost");
    }
    ended.is_ok()
}

//! The WebSocket gateway: one socket per session, fed from the bus, with bounds on everything that can grow.
//!
//! A gateway stores no sessions and looks none up. A valid token admits a client, and any gateway can serve any session.

mod accept;
mod admission;
mod args;
mod coalescing;
mod config;
mod decoder;
mod drain;
pub mod frame;
mod gateway;
mod handshake;
mod http;
mod inbound;
mod liveness;
mod metrics;
mod outbox;
pub mod program;
mod rate;
mod refusal;
mod replay;
mod rollup;
mod session;
mod socket;
mod socket_table;
mod sources;
mod throttle;

pub use args::Args;
pub use config::Config;
pub use socket::Listeners;
pub use sources::{ParseProxyError, TrustedProxies};

use bus::Broker;
use gateway::Gateway;
use protocol::Verifier;
use std::sync::Arc;
use telemetry::{Push, Resource};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Serves `listeners`, usually one `TcpListener`, until `shutdown`, then drains: it refuses new sockets and closes the open ones a few at
/// a time. Returns when the last socket is closed or [`Config::drain`] is over.
///
/// # Errors
/// The listener has no address, or a task of the gateway panicked.
pub async fn run(
    listeners: impl Into<Listeners>,
    verifier: Verifier,
    config: Config,
    bus: Arc<dyn Broker>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listeners = listeners.into();
    info!("listening on {}", listeners.local_addr()?);
    let gateway = Gateway::new(verifier, config, bus, shutdown.clone());
    let stop = CancellationToken::new();
    let _stop_if_dropped = stop.clone().drop_guard();
    let sweep = socket_table::sweep(gateway.sockets.clone(), gateway.config.sweep_interval(), stop.clone());
    let sweeping = tokio::spawn(sweep);
    let watching = tokio::spawn(watch_lag(gateway.clone(), stop.clone()));
    let releasing = tokio::spawn(release_held(gateway.clone(), stop.clone()));
    let push = push(&gateway)?;
    let accepting = tokio::spawn(accept::accept(listeners, gateway.clone(), stop.clone()));
    shutdown.cancelled().await;
    gateway.drain().await;
    stop.cancel();
    accepting.await?;
    sweeping.await?;
    watching.await?;
    releasing.await?;
    if let Some(push) = push {
        tokio::task::spawn_blocking(|| push.end()).await?;
    }
    Ok(())
}

/// Starts to push the metrics, if a collector is configured.
fn push(gateway: &Arc<Gateway>) -> std::io::Result<Option<Push>> {
    let Some(url) = &gateway.config.otlp else { return Ok(None) };
    let resource = Resource {
        service: "streamstress-wsproxy",
        instance: gateway.config.instance.clone(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let read = gateway.clone();
    Push::start(url, resource, gateway.pushed.clone(), move || read.exporter.text()).map(Some)
}

/// Watches the event loop's lag until `stop`.
async fn watch_lag(gateway: Arc<Gateway>, stop: CancellationToken) {
    let is_idle = || gateway.sockets.is_empty();
    stop.run_until_cancelled(gateway.shared.coalescing.watch(is_idle)).await;
}

/// Releases events that were held back, until `stop`.
async fn release_held(gateway: Arc<Gateway>, stop: CancellationToken) {
    stop.run_until_cancelled(gateway.shared.coalescing.release()).await;
}

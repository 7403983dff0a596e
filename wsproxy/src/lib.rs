//! The WebSocket gateway: one socket a session, fed from the bus's lanes, with bounds on everything that can grow.
//! It looks no session up and keeps none: the token alone admits, and any gateway can serve any session.

mod accept;
mod admission;
mod args;
mod coalescing;
mod config;
mod decoder;
mod drain;
pub mod frame;
mod gateway;
mod health_check;
mod http;
mod inbound;
mod liveness;
mod metrics;
mod outbox;
pub mod process;
pub mod program;
mod rate;
mod replay;
mod roster;
mod session;
mod socket;
mod sources;
mod throttle;

pub use args::{Args, Faults, Settings};
pub use config::Config;
pub use health_check::health_check;
pub use socket::Listeners;
pub use sources::{ParseProxyError, TrustedProxies};

use bus::Broker;
use gateway::Gateway;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Serves `listeners`, usually one `TcpListener`, until `shutdown`, then drains: unready at once and no new sockets, the open ones
/// told to move a few at a time. Returns when the last socket has gone, or when [`Config::drain`] is over.
///
/// # Errors
/// The listener has no address, or a task of the gateway panicked.
pub async fn run(
    listeners: impl Into<Listeners>,
    config: Config,
    bus: Arc<dyn Broker>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listeners = listeners.into();
    info!("listening on {}", listeners.local_addr()?);
    let gateway = Gateway::new(config, bus, shutdown.clone());
    let stop = CancellationToken::new();
    let _stop_if_dropped = stop.clone().drop_guard();
    let sweep = roster::sweep(gateway.roster.clone(), gateway.config.sweep_interval(), stop.clone());
    let sweeping = tokio::spawn(sweep);
    let watching = tokio::spawn(coalescing::watch(gateway.clone(), stop.clone()));
    let releasing = tokio::spawn(coalescing::release(gateway.clone(), stop.clone()));
    let accepting = tokio::spawn(accept::accept(listeners, gateway.clone(), stop.clone()));
    shutdown.cancelled().await;
    gateway.drain().await;
    stop.cancel();
    accepting.await?;
    sweeping.await?;
    watching.await?;
    releasing.await?;
    Ok(())
}

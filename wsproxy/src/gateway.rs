//! What all of a gateway's connections share, and how it drains. It holds no socket itself.

use crate::{
    admission::Refusal,
    config::Config,
    metrics::{Exporter, Metrics},
    outbox::Terms,
    roster::Roster,
    throttle::Throttle,
};
use bus::Broker;
use parking_lot::Mutex;
use protocol::{CloseReason, Verifier};
use std::{sync::Arc, time::Instant};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) verifier: Verifier,
    pub(crate) terms: Arc<Terms>,
    pub(crate) exporter: Exporter,
    pub(crate) roster: Arc<Roster>,
    throttle: Option<Mutex<Throttle>>,
    /// When the throttle's time began.
    opened: Instant,
    /// A permit a socket.
    pub(crate) slots: Arc<Semaphore>,
    /// A task a socket.
    pub(crate) sessions: TaskTracker,
    pub(crate) draining: CancellationToken,
    bus_ready: watch::Receiver<bool>,
}

impl Gateway {
    pub(crate) fn new(config: Config, bus: Arc<dyn Broker>, draining: CancellationToken) -> Arc<Self> {
        let metrics = Metrics::default();
        Arc::new(Self {
            verifier: Verifier::new(&config.secret),
            exporter: Exporter::new(&metrics, bus.clone()),
            roster: Arc::new(Roster::new(metrics.connections.clone())),
            throttle: config.throttle().map(Mutex::new),
            opened: Instant::now(),
            slots: Arc::new(Semaphore::new(config.max_connections)),
            sessions: TaskTracker::new(),
            bus_ready: bus.ready(),
            terms: Arc::new(Terms {
                metrics,
                limit: config.outbox_bytes,
                close_timeout: config.close_timeout,
                ping_interval: config.ping_interval,
                ping_timeout: config.ping_timeout,
            }),
            bus,
            draining,
            config,
        })
    }

    /// Why the gateway cannot serve now.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.draining.is_cancelled() {
            Some("gateway is draining")
        } else if !*self.bus_ready.borrow() {
            Some("gateway has no bus")
        } else {
            None
        }
    }

    /// Lets one upgrade in, or refuses it and says when to come back.
    pub(crate) fn enter(&self) -> Result<(), Refusal> {
        let Some(throttle) = &self.throttle else { return Ok(()) };
        let entered = throttle.lock().enter(self.opened.elapsed());
        entered.map_err(|retry_after| Refusal::Rate { retry_after })
    }

    /// Tells every client to move, each after a delay of its own, and waits for their answers.
    pub(crate) async fn drain(&self) {
        let sockets = self.roster.len();
        info!("draining {sockets} sockets");
        let window = u64::try_from(self.config.drain_window.as_millis()).unwrap_or(u64::MAX);
        let mut told = 0;
        self.roster
            .visit(|outbox| {
                let delay = window.saturating_mul(told) / sockets.max(1) as u64;
                outbox.close_with(CloseReason::Drain, &CloseReason::drain_text(delay.min(window)));
                told += 1;
            })
            .await;
        self.sessions.close();
        if tokio::time::timeout(self.config.drain, self.sessions.wait()).await.is_err() {
            warn!("drain is over, giving up {} sockets", self.sessions.len());
        }
    }
}

//! The state that all connections of a gateway share, and its drain. It holds no socket itself.

use crate::{
    coalescing::Coalescing,
    config::Config,
    drain::{self, DrainSchedule},
    metrics::Metrics,
    outbox::{Outbox, Shared},
    refusal::Refusal,
    replay::ReplayBudget,
    socket_table::SocketTable,
    sources::{BadTokens, Peer},
    throttle::Throttle,
};
use bus::Broker;
use guard::Budget;
use host::Exporter;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use protocol::{CloseReason, Verifier};
use settings::plural::counted;
use std::{sync::Arc, time::Instant};
use telemetry::PushCounts;
use tokio::{
    sync::{Semaphore, watch},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) verifier: Verifier,
    pub(crate) shared: Arc<Shared>,
    pub(crate) exporter: Exporter,
    pub(crate) pushed: PushCounts,
    pub(crate) sockets: Arc<SocketTable>,
    pub(crate) replay: ReplayBudget,
    throttle: Option<Mutex<Throttle>>,
    bad_tokens: Option<Mutex<BadTokens>>,
    /// One permit per socket.
    pub(crate) slots: Arc<Semaphore>,
    /// One task per socket.
    pub(crate) sessions: TaskTracker,
    pub(crate) draining: CancellationToken,
    /// The drain has begun to close sockets.
    pub(crate) closing: CancellationToken,
    bus_ready: watch::Receiver<bool>,
    /// Names the clock of the times in sampled tokens. `None` if the kernel does not tell it.
    pub(crate) boot_id: Option<HeaderValue>,
}

impl Gateway {
    pub(crate) fn new(
        verifier: Verifier,
        config: Config,
        bus: Arc<dyn Broker>,
        draining: CancellationToken,
    ) -> Arc<Self> {
        let (metrics, pushed) = (Metrics::default(), PushCounts::default());
        Arc::new(Self {
            verifier,
            exporter: metrics.exporter(
                bus.clone(),
                draining.clone(),
                config.otlp.as_ref().map(|_| pushed.clone()),
                config.stated.clone(),
            ),
            pushed,
            sockets: Arc::new(SocketTable::new(metrics.connections.clone())),
            throttle: config.throttle().map(Mutex::new),
            bad_tokens: config.bad_tokens(metrics.bad_token_sources.clone()).map(Mutex::new),
            replay: ReplayBudget::new(
                config.replay_bytes,
                metrics.replay_in_flight.clone(),
                metrics.replay_waits.clone(),
            ),
            slots: Arc::new(Semaphore::new(config.max_connections)),
            sessions: TaskTracker::new(),
            bus_ready: bus.ready(),
            boot_id: host::boot_id().and_then(|id| HeaderValue::try_from(id).ok()),
            shared: Arc::new(Shared {
                coalescing: Coalescing::new(config.max_coalesce, metrics.clone()),
                inbound: Budget::new(config.inbound_bytes, metrics.inbound.clone()),
                max_message: config.max_message_bytes,
                up_rate: config.up_rate(),
                limits: config.limits(),
                opened: Instant::now(),
                metrics,
                limit: config.outbox_bytes,
                close_timeout: config.close_timeout,
            }),
            bus,
            draining,
            closing: CancellationToken::new(),
            config,
        })
    }

    /// Returns why the gateway is not ready, or `None` if it is.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.draining.is_cancelled() {
            Some("the gateway is draining")
        } else if !*self.bus_ready.borrow() {
            Some("the gateway has no connection to the bus")
        } else {
            None
        }
    }

    /// Counts one upgrade.
    ///
    /// # Errors
    /// The rate is exceeded: [`Refusal::Rate`] with the time to wait.
    pub(crate) fn enter(&self) -> Result<(), Refusal> {
        let Some(throttle) = &self.throttle else { return Ok(()) };
        let entered = throttle.lock().enter(self.shared.opened.elapsed());
        entered.map_err(|wait| Refusal::Rate { wait })
    }

    /// Returns the refusal of a client with an invalid token: `why`, or [`Refusal::BadTokens`] if its address sent too many.
    pub(crate) fn refuse_token(&self, peer: Peer, headers: &HeaderMap, why: Refusal) -> Refusal {
        let Some(bad_tokens) = &self.bad_tokens else { return why };
        let source = self.config.trusted_proxies.source(peer, headers);
        let entered = bad_tokens.lock().enter(source, self.shared.opened.elapsed());
        entered.map_or_else(|retry_after| Refusal::BadTokens { retry_after }, |()| why)
    }

    /// Waits until load balancers have noticed, closes every socket as scheduled, and waits for the close handshakes, at most
    /// [`Config::drain`] in total.
    pub(crate) async fn drain(&self) {
        let drained = tokio::time::timeout(self.config.drain, async {
            self.close_sockets().await;
            self.sessions.close();
            self.sessions.wait().await;
        });
        if drained.await.is_err() {
            warn!("DRAIN_SECONDS are over, dropping {}", counted(self.sessions.len(), "sockets"));
        }
    }

    async fn close_sockets(&self) {
        let Config { drain_delay, drain_window, drain, .. } = self.config;
        let schedule = DrainSchedule::new(drain_delay, drain_window, drain);
        if !self.sockets.is_empty() {
            tokio::time::sleep(schedule.delay).await;
        }
        // Set before the table is read: a socket that is added later sees this and closes itself.
        self.closing.cancel();
        let outboxes = self.sockets.outboxes();
        info!("draining {}", counted(outboxes.len(), "sockets"));
        let slices = schedule.slices(outboxes.len());
        let mut pending = (0..).zip(outboxes);
        // A late slice delays the following ones, because a peak of reconnects would hurt more than a longer window.
        let mut ticks = tokio::time::interval(drain::SLICE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for slice in slices {
            if self.sockets.is_empty() {
                return;
            }
            ticks.tick().await;
            for (nth, outbox) in pending.by_ref().take(slice) {
                if let Some(outbox) = outbox.upgrade() {
                    close_for_drain(&outbox, drain::reconnect_after_ms(nth));
                }
            }
        }
    }
}

/// Closes a socket of a draining gateway. Its client reconnects after `reconnect_after_ms` milliseconds.
pub(crate) fn close_for_drain(outbox: &Outbox, reconnect_after_ms: u64) {
    outbox.close_with(CloseReason::Drain, &CloseReason::drain_text(reconnect_after_ms));
}

//! What all of a gateway's connections share, and how it drains. It holds no socket itself.

use crate::{
    admission::Refusal,
    coalescing::Coalescing,
    config::Config,
    drain::{self, Timetable},
    metrics::{Exporter, Metrics},
    outbox::{Outbox, Terms},
    replay::Replay,
    roster::Roster,
    sources::{BadTokens, Peer},
    throttle::Throttle,
};
use bus::Broker;
use guard::Budget;
use http::HeaderMap;
use parking_lot::Mutex;
use protocol::{CloseReason, Verifier};
use std::{sync::Arc, time::Instant};
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
    pub(crate) terms: Arc<Terms>,
    pub(crate) exporter: Exporter,
    pub(crate) roster: Arc<Roster>,
    pub(crate) replay: Replay,
    throttle: Option<Mutex<Throttle>>,
    bad_tokens: Option<Mutex<BadTokens>>,
    /// A permit a socket.
    pub(crate) slots: Arc<Semaphore>,
    /// A task a socket.
    pub(crate) sessions: TaskTracker,
    pub(crate) draining: CancellationToken,
    /// The drain has begun to tell sockets to move.
    pub(crate) moving: CancellationToken,
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
            bad_tokens: config.bad_tokens(metrics.bad_token_sources.clone()).map(Mutex::new),
            replay: Replay::new(
                config.replay_bytes,
                metrics.replay_in_flight.clone(),
                metrics.replay_waits.clone(),
            ),
            slots: Arc::new(Semaphore::new(config.max_connections)),
            sessions: TaskTracker::new(),
            bus_ready: bus.ready(),
            terms: Arc::new(Terms {
                coalescing: Coalescing::new(config.max_coalesce, metrics.coalescing.clone()),
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
            moving: CancellationToken::new(),
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
        let entered = throttle.lock().enter(self.terms.opened.elapsed());
        entered.map_err(|wait| Refusal::Rate { wait })
    }

    /// Returns what a client with a bad token is told: why, or that there were too many from its address.
    pub(crate) fn refuse_token(&self, peer: Peer, headers: &HeaderMap, why: Refusal) -> Refusal {
        let Some(bad_tokens) = &self.bad_tokens else { return why };
        let source = self.config.trusted_proxies.source(peer, headers);
        let entered = bad_tokens.lock().enter(source, self.terms.opened.elapsed());
        entered.map_or_else(|retry_after| Refusal::BadTokens { retry_after }, |()| why)
    }

    /// Waits until the balancer has noticed, tells every client to move when its turn comes, and waits for their answers.
    pub(crate) async fn drain(&self) {
        let drained = tokio::time::timeout(self.config.drain, async {
            self.tell_everybody().await;
            self.sessions.close();
            self.sessions.wait().await;
        });
        if drained.await.is_err() {
            warn!("drain is over, giving up {} sockets", self.sessions.len());
        }
    }

    async fn tell_everybody(&self) {
        let Config { drain_delay, drain_window, drain, .. } = self.config;
        let timetable = Timetable::new(drain_delay, drain_window, drain);
        if !self.roster.is_empty() {
            tokio::time::sleep(timetable.delay).await;
        }
        // Before the roster is read: who is seated after that tells itself.
        self.moving.cancel();
        let outboxes = self.roster.outboxes();
        info!("draining {} sockets", outboxes.len());
        let slices = timetable.slices(outboxes.len());
        let mut turns = (0..).zip(outboxes);
        // A late slice moves the following ones: the peak counts, not the window.
        let mut ticks = tokio::time::interval(drain::SLICE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for slice in slices {
            if self.roster.is_empty() {
                return;
            }
            ticks.tick().await;
            for (nth, outbox) in turns.by_ref().take(slice) {
                if let Some(outbox) = outbox.upgrade() {
                    tell_to_move(&outbox, drain::reconnect_after_ms(nth));
                }
            }
        }
    }
}

/// Closes a socket of a gateway that drains.
pub(crate) fn tell_to_move(outbox: &Outbox, reconnect_after_ms: u64) {
    outbox.close_with(CloseReason::Drain, &CloseReason::drain_text(reconnect_after_ms));
}

//! The gateway's metrics and their text for Prometheus. Counters are atomics, and the text is made at each scrape.

use crate::coalescing::Shown;
use bus::Broker;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc};

type Labels = [(&'static str, &'static str); 1];

/// The gateway's metrics. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) events: Counter,
    pub(crate) bytes: Counter,
    pub(crate) direct_writes: Counter,
    pub(crate) queued_frames: Counter,
    pub(crate) held_frames: Counter,
    pub(crate) coalescing: Shown,
    pub(crate) dropped_frames: Counter,
    pub(crate) overflows: Counter,
    pub(crate) gaps: Counter,
    pub(crate) pings: Counter,
    pub(crate) pongs: Counter,
    pub(crate) up_messages: Counter,
    pub(crate) up_refused: Counter,
    pub(crate) up_throttled: Counter,
    pub(crate) up_no_room: Counter,
    pub(crate) up_unfinished: Counter,
    pub(crate) inbound: Gauge,
    pub(crate) bad_token_sources: Gauge,
    pub(crate) replay_in_flight: Gauge,
    pub(crate) replay_waits: Counter,
    upgrades: Family<Labels, Counter>,
    closes: Family<Labels, Counter>,
    not_accepted: Family<Labels, Counter>,
}

impl Metrics {
    /// Counts an upgrade request by its result.
    pub(crate) fn upgrade(&self, result: &'static str) {
        self.upgrades.get_or_create(&[("result", result)]).inc();
    }

    /// Counts a connection that was not accepted, or closed before its first request.
    pub(crate) fn not_accepted(&self, reason: &'static str) {
        self.not_accepted.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a closed socket. `reason` is the label of the gateway's close reason, `client`, or `lost`.
    pub(crate) fn close(&self, reason: &'static str) {
        self.closes.get_or_create(&[("reason", reason)]).inc();
    }

    fn register_inbound(&self, own: &mut Registry) {
        own.register(
            "up_throttled",
            "Client messages and pings dropped because they exceeded MAX_UP_RATE",
            self.up_throttled.clone(),
        );
        own.register(
            "up_no_room",
            "Client messages dropped because INBOUND_BYTES were used up",
            self.up_no_room.clone(),
        );
        own.register(
            "up_unfinished",
            "Sockets closed because a client message did not arrive within MESSAGE_TIMEOUT_SECONDS",
            self.up_unfinished.clone(),
        );
        own.register_with_unit(
            "inbound",
            "Bytes of INBOUND_BYTES in use by client messages",
            Unit::Bytes,
            self.inbound.clone(),
        );
        own.register(
            "bad_token_sources",
            "Addresses whose invalid tokens are being counted",
            self.bad_token_sources.clone(),
        );
    }
}

/// Renders the text of `/metrics`.
#[derive(Debug)]
pub(crate) struct Exporter(Registry);

impl Exporter {
    pub(crate) fn new(metrics: &Metrics, bus: Arc<dyn Broker>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BusCounters(bus)));
        let own = registry.sub_registry_with_prefix("wsproxy");
        own.register("connections", "Open sockets", metrics.connections.clone());
        own.register("events", "Events written to sockets or queued for them", metrics.events.clone());
        own.register_with_unit("out", "Bytes written to sockets", Unit::Bytes, metrics.bytes.clone());
        own.register("direct_writes", "Frames written to a socket at once", metrics.direct_writes.clone());
        own.register(
            "queued_frames",
            "Frames queued because their socket took nothing more",
            metrics.queued_frames.clone(),
        );
        own.register(
            "held_frames",
            "Frames held back to share a segment with the next one, while the gateway was overloaded",
            metrics.held_frames.clone(),
        );
        let Shown { batch, lag } = metrics.coalescing.clone();
        own.register("events_per_segment", "Largest number of events per segment", batch);
        own.register_with_unit(
            "loop_lag",
            "Lateness of the event loop, median of the last 15 samples",
            Unit::Seconds,
            lag,
        );
        own.register("dropped_frames", "Queued frames dropped by a close", metrics.dropped_frames.clone());
        own.register(
            "outbox_overflows",
            "Sockets closed because their queue exceeded WS_OUTBOX_BYTES",
            metrics.overflows.clone(),
        );
        own.register("gaps", "Gaps announced to clients", metrics.gaps.clone());
        own.register("pings", "Pings sent", metrics.pings.clone());
        own.register("pongs", "Pongs received", metrics.pongs.clone());
        own.register("up_messages", "Client messages published", metrics.up_messages.clone());
        own.register("up_refused", "Client messages answered with an error", metrics.up_refused.clone());
        metrics.register_inbound(own);
        own.register_with_unit(
            "replay_in_flight",
            "Bytes of REPLAY_BYTES in use by log pages",
            Unit::Bytes,
            metrics.replay_in_flight.clone(),
        );
        own.register(
            "replay_waits",
            "Log pages that had to wait because REPLAY_BYTES were in use",
            metrics.replay_waits.clone(),
        );
        own.register("upgrades", "Upgrade requests, by result", metrics.upgrades.clone());
        own.register("closes", "Closed sockets, by reason", metrics.closes.clone());
        own.register(
            "not_accepted",
            "Connections closed before their first request, by reason",
            metrics.not_accepted.clone(),
        );
        Self(registry)
    }

    /// Returns all metrics in OpenMetrics' text form.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("a string takes every write");
        text
    }
}

/// The bus's counters, which are read at each scrape.
struct BusCounters(Arc<dyn Broker>);

impl fmt::Debug for BusCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BusCounters")
    }
}

impl Collector for BusCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, value) in self.0.counters().iter() {
            let name = format!("bus_{name}");
            let metric = encoder.encode_descriptor(&name, "Counter of the bus", None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

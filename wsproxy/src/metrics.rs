//! What the gateway counts, and its text for Prometheus. Counters are plain atomics; nothing is computed before a scrape.

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

/// The gateway's counters.
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
    /// An upgrade request ended with `result`.
    pub(crate) fn upgrade(&self, result: &'static str) {
        self.upgrades.get_or_create(&[("result", result)]).inc();
    }

    /// A connection was not accepted, or was closed before it said what it wanted.
    pub(crate) fn not_accepted(&self, reason: &'static str) {
        self.not_accepted.get_or_create(&[("reason", reason)]).inc();
    }

    /// A socket was closed, by the gateway (the label of its reason), by the client, or by an accident.
    pub(crate) fn close(&self, reason: &'static str) {
        self.closes.get_or_create(&[("reason", reason)]).inc();
    }

    fn register_inbound(&self, own: &mut Registry) {
        own.register(
            "up_throttled",
            "Client messages and pings above MAX_UP_RATE, which were dropped",
            self.up_throttled.clone(),
        );
        own.register(
            "up_no_room",
            "Client messages that found no room in INBOUND_BYTES, which were dropped",
            self.up_no_room.clone(),
        );
        own.register(
            "up_unfinished",
            "Client messages that did not arrive whole within MESSAGE_TIMEOUT_SECONDS, whose sockets were closed",
            self.up_unfinished.clone(),
        );
        own.register_with_unit(
            "inbound",
            "Room in INBOUND_BYTES that is taken by client messages",
            Unit::Bytes,
            self.inbound.clone(),
        );
        own.register(
            "bad_token_sources",
            "Addresses whose bad tokens are being counted",
            self.bad_token_sources.clone(),
        );
    }
}

/// Makes the text of `/metrics`.
#[derive(Debug)]
pub(crate) struct Exporter(Registry);

impl Exporter {
    pub(crate) fn new(metrics: &Metrics, bus: Arc<dyn Broker>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BusCounters(bus)));
        let own = registry.sub_registry_with_prefix("wsproxy");
        own.register("connections", "Sockets that are open", metrics.connections.clone());
        own.register("events", "Events handed to sockets or their queues", metrics.events.clone());
        own.register_with_unit("out", "Taken by sockets", Unit::Bytes, metrics.bytes.clone());
        own.register("direct_writes", "Frames that a socket took at once", metrics.direct_writes.clone());
        own.register(
            "queued_frames",
            "Frames that had to wait for their socket",
            metrics.queued_frames.clone(),
        );
        own.register(
            "held_frames",
            "Frames held back to go out with the next one, while the gateway was behind",
            metrics.held_frames.clone(),
        );
        let Shown { batch, lag } = metrics.coalescing.clone();
        own.register("events_per_segment", "Events that a segment carries at most", batch);
        own.register_with_unit(
            "loop_lag",
            "How late the event loop wakes, the median of the last looks",
            Unit::Seconds,
            lag,
        );
        own.register("dropped_frames", "Queued frames that a close dropped", metrics.dropped_frames.clone());
        own.register("outbox_overflows", "Queues that grew past their bound", metrics.overflows.clone());
        own.register("gaps", "Gaps announced to clients", metrics.gaps.clone());
        own.register("pings", "Pings sent", metrics.pings.clone());
        own.register("pongs", "Pongs received", metrics.pongs.clone());
        own.register("up_messages", "Client messages published", metrics.up_messages.clone());
        own.register("up_refused", "Client messages answered with an error", metrics.up_refused.clone());
        metrics.register_inbound(own);
        own.register_with_unit(
            "replay_in_flight",
            "Room in REPLAY_BYTES that is taken by pages of the log",
            Unit::Bytes,
            metrics.replay_in_flight.clone(),
        );
        own.register(
            "replay_waits",
            "Pages of the log that had to wait for room in REPLAY_BYTES",
            metrics.replay_waits.clone(),
        );
        own.register("upgrades", "Upgrade requests by result", metrics.upgrades.clone());
        own.register("closes", "Sockets closed by reason", metrics.closes.clone());
        own.register(
            "not_accepted",
            "Connections that were refused before they asked for anything, by reason",
            metrics.not_accepted.clone(),
        );
        Self(registry)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("a string takes every write");
        text
    }
}

/// The bus's counters, read at each scrape.
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
            let metric = encoder.encode_descriptor(&name, "Counted by the bus", None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

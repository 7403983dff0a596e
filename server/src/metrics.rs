//! The server's metrics and their text for Prometheus. Counters are atomics, so a scrape does not delay the streams.

use crate::lateness::Lateness;
use bus::Broker;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, text},
    metrics::{counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};
use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The content type of `/metrics`.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a stream ended. Its label is that of the counter, and the `code` of an error terminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// All its events were sent.
    Done,
    /// Its session was closed.
    Closed,
    /// The server shut down.
    Shutdown,
    /// Another claim fenced it off, so this server sends nothing more.
    Stale,
    /// The bus refused one of its events.
    Refused,
    /// The bus accepted nothing for too long.
    Overload,
}

impl Outcome {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Closed => "closed",
            Self::Shutdown => "shutdown",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Overload => "overload",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    call: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The server's metrics. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    responses: Family<ResponseLabels, Counter>,
    streams_ended: Family<StreamLabels, Counter>,
    not_accepted: Family<ReasonLabels, Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Bytes held by bodies that are being read.
    pub(crate) bodies: Gauge,
    pub(crate) streams_started: Counter,
    pub(crate) repeats: Counter,
    pub(crate) claims_unsettled: Counter,
    pub(crate) claims_stuck: Counter,
    pub(crate) tokens: Counter,
    pub(crate) unheard: Counter,
    pub(crate) refused: Counter,
    pub(crate) append_retries: Counter,
    pub(crate) outbox_full: Counter,
    pub(crate) unacknowledged: Gauge,
    pub(crate) pace_lag: Lateness,
    pub(crate) bus_lag: Lateness,
}

impl Metrics {
    /// Counts a stream that ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.streams_ended.get_or_create(&StreamLabels { outcome }).inc();
    }

    /// Counts a connection that was not accepted.
    pub(crate) fn not_accepted(&self, reason: &'static str) {
        self.not_accepted.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts an answer. `call` is the route and not the request's path, so that clients cannot create label values.
    pub(crate) fn answered(&self, call: &str, status: u16) {
        self.responses.get_or_create(&ResponseLabels { call: call.to_owned(), status }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        let r = registry;
        r.register("server_http_responses", "HTTP answers, by call and status", self.responses.clone());
        r.register("server_connections", "Open HTTP connections", self.connections.clone());
        r.register(
            "server_not_accepted",
            "Connections closed before their first request, by reason",
            self.not_accepted.clone(),
        );
        r.register(
            "server_body_bytes",
            "Bytes held by request bodies that are being read",
            self.bodies.clone(),
        );
        r.register("server_streams_started", "Streams started", self.streams_started.clone());
        r.register("server_streams_ended", "Streams ended, by outcome", self.streams_ended.clone());
        r.register(
            "server_runs_repeated",
            "Run calls that repeated a query and started nothing",
            self.repeats.clone(),
        );
        r.register(
            "server_claims_unsettled",
            "Claims given up with unknown outcome",
            self.claims_unsettled.clone(),
        );
        r.register(
            "server_claims_stuck",
            "Claims of ended queries that the bus refused to release",
            self.claims_stuck.clone(),
        );
        r.register("server_tokens", "Tokens enqueued", self.tokens.clone());
        r.register(
            "server_unheard_events",
            "Acknowledged events that had no subscriber",
            self.unheard.clone(),
        );
        r.register(
            "server_refused_events",
            "Streams ended because the bus refused an event",
            self.refused.clone(),
        );
        r.register(
            "server_append_retries",
            "Appends that failed and were retried",
            self.append_retries.clone(),
        );
        r.register(
            "server_outbox_full",
            "Times that a worker held its streams back because its outbox was full",
            self.outbox_full.clone(),
        );
        r.register(
            "server_unacknowledged_events",
            "Events enqueued and not yet acknowledged",
            self.unacknowledged.clone(),
        );
        r.register(
            "server_pace_lag_seconds",
            "Time from the due time of an event to its enqueueing: lateness of the simulator",
            self.pace_lag.clone(),
        );
        r.register(
            "server_bus_lag_seconds",
            "Time from the enqueueing of an event to its acknowledgement by the bus",
            self.bus_lag.clone(),
        );
    }
}

/// Values that are read at each scrape.
pub(crate) struct Observed {
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) max_streams: usize,
    pub(crate) draining: CancellationToken,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let active = self.max_streams - self.permits.available_permits();
        let gauges = [
            ("server_streams_active", "Running queries", active),
            ("server_streams_max", "Largest number of running queries (MAX_STREAMS)", self.max_streams),
            (
                "server_draining",
                "1 while the server is shutting down, else 0",
                usize::from(self.draining.is_cancelled()),
            ),
            ("bus_ready", "1 while the bus is ready, else 0", usize::from(*self.bus.ready().borrow())),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, value) in self.bus.counters().iter() {
            let counter = ConstCounter::new(value);
            let name = format!("bus_{name}");
            counter.encode(encoder.encode_descriptor(
                &name,
                "Counter of the bus",
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Renders all metrics.
#[derive(Debug)]
pub(crate) struct Exporter(Mutex<Registry>);

impl Exporter {
    pub(crate) fn new(metrics: &Metrics, observed: Observed) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.register_collector(Box::new(observed));
        Self(Mutex::new(registry))
    }

    /// Returns all metrics in OpenMetrics' text form.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry).expect("a string takes every write");
        out
    }
}

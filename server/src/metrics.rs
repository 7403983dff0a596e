//! What the server counts, and its page for Prometheus. Counters are plain atomics: a scrape costs the streams nothing.

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

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a stream ended: the label of its counter, and the `code` of its terminator where that is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Played to its end.
    Done,
    /// Its session was closed.
    Closed,
    /// The server shut down.
    Shutdown,
    /// Another claim fenced it off; nothing more is said about it.
    Stale,
    /// The bus refused one of its events.
    Refused,
    /// The bus took nothing for too long, and all that may wait for it waits.
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

/// The server's counters. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    responses: Family<ResponseLabels, Counter>,
    streams_ended: Family<StreamLabels, Counter>,
    not_accepted: Family<ReasonLabels, Counter>,
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// What bodies take that are being read.
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

    /// Counts an answer; `call` is the route, never the path that a stranger typed.
    pub(crate) fn answered(&self, call: &str, status: u16) {
        self.responses.get_or_create(&ResponseLabels { call: call.to_owned(), status }).inc();
    }

    fn register(&self, registry: &mut Registry) {
        let r = registry;
        r.register("server_http_responses", "Answers by call and status", self.responses.clone());
        r.register("server_connections", "Connections that are open", self.connections.clone());
        r.register(
            "server_not_accepted",
            "Connections that were refused before they asked for anything, by reason",
            self.not_accepted.clone(),
        );
        r.register("server_body_bytes", "Room that is taken by bodies of requests", self.bodies.clone());
        r.register("server_streams_started", "Streams started", self.streams_started.clone());
        r.register("server_streams_ended", "Streams ended, by outcome", self.streams_ended.clone());
        r.register(
            "server_runs_repeated",
            "Runs that repeated a query and started nothing",
            self.repeats.clone(),
        );
        r.register(
            "server_claims_unsettled",
            "Claims given up without knowing their outcome",
            self.claims_unsettled.clone(),
        );
        r.register(
            "server_claims_stuck",
            "Queries that ended and whose claims the bus refused to release",
            self.claims_stuck.clone(),
        );
        r.register("server_tokens", "Tokens enqueued", self.tokens.clone());
        r.register(
            "server_unheard_events",
            "Events acknowledged that nobody was subscribed to",
            self.unheard.clone(),
        );
        r.register("server_refused_events", "Refusals by the bus that ended a stream", self.refused.clone());
        r.register(
            "server_append_retries",
            "Appends that failed and were tried again",
            self.append_retries.clone(),
        );
        r.register(
            "server_outbox_full",
            "Times a worker held its streams back because its outbox was full",
            self.outbox_full.clone(),
        );
        r.register(
            "server_unacknowledged_events",
            "Events enqueued and not yet acknowledged",
            self.unacknowledged.clone(),
        );
        r.register(
            "server_pace_lag_seconds",
            "Enqueued after it was due: the simulator's own lateness",
            self.pace_lag.clone(),
        );
        r.register(
            "server_bus_lag_seconds",
            "Acknowledged after it was enqueued: the bus's lateness",
            self.bus_lag.clone(),
        );
    }
}

/// What is read at the moment of a scrape.
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
            ("server_streams_active", "Queries claimed and not yet ended", active),
            ("server_streams_max", "MAX_STREAMS", self.max_streams),
            ("server_draining", "1 while shutting down", usize::from(self.draining.is_cancelled())),
            ("bus_ready", "1 while the bus can serve", usize::from(*self.bus.ready().borrow())),
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
                "Counted by the bus",
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub(crate) struct Page(Mutex<Registry>);

impl Page {
    pub(crate) fn new(metrics: &Metrics, observed: Observed) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.register_collector(Box::new(observed));
        Self(Mutex::new(registry))
    }

    /// The page in OpenMetrics' text form.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry).expect("a string takes every write");
        out
    }
}

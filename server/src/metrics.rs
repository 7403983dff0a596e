//! The server's metrics and their text for Prometheus. Counters are atomics, so a scrape does not delay the streams.

use crate::stream::Event;
use bus::{Broker, StoreMemory};
use host::{Delays, Durations, Exporter, Histogram, Reading};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    fmt::{self, Write as _},
    sync::{Arc, atomic::AtomicU64},
};
use telemetry::PushCounts;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

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
    /// In OpenAI's dialects: its client left.
    Disconnected,
    /// In OpenAI's dialects: a call cancelled it.
    Cancelled,
    /// In OpenAI's dialects: an error ended it that its request asked for.
    Injected,
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
            Self::Disconnected => "disconnected",
            Self::Cancelled => "cancelled",
            Self::Injected => "injected",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    call: String,
    status: u16,
}

type Labels<V> = [(&'static str, V); 1];

host::metrics! {
    /// The server's metrics. Clones share them.
    pub(crate) struct Metrics, "server" {
        responses: Family<ResponseLabels, Counter> = "http_responses", "HTTP answers, by call and status";
        pub(crate) connections: Gauge = "connections", "Open HTTP connections";
        not_accepted: Family<Labels<&'static str>, Counter> =
            "not_accepted", "Connections closed before their first request, by reason";
        pub(crate) bodies: Gauge = "body_bytes", "Bytes held by request bodies that are being read";
        streams_started: Counter = "streams_started", "Streams started";
        first_query: Gauge<f64, AtomicU64> = "first_query_timestamp" in Seconds,
            "When the first stream was started, since the Unix epoch; 0 before that";
        streams_ended: Family<Labels<Outcome>, Counter> = "streams_ended", "Streams ended, by outcome";
        pub(crate) repeats: Counter = "runs_repeated", "Run calls that repeated a query and started nothing";
        pub(crate) claims_unsettled: Counter = "claims_unsettled", "Claims given up with unknown outcome";
        pub(crate) claims_stuck: Counter =
            "claims_stuck", "Claims of ended queries that the bus refused to release";
        pub(crate) tokens: Counter = "tokens", "Tokens enqueued";
        pub(crate) unheard: Counter = "unheard_events", "Acknowledged events that had no subscriber";
        pub(crate) record_dropped: Counter =
            "record_lines_dropped", "Lines of the record (--record) that could not be written";
        pub(crate) refused: Counter = "refused_events", "Streams ended because the bus refused an event";
        pub(crate) append_retries: Counter = "append_retries", "Appends that failed and were retried";
        pub(crate) outbox_full: Counter =
            "outbox_full", "Times that a worker held its streams back because its outbox was full";
        pub(crate) unacknowledged: Gauge =
            "unacknowledged_events", "Events enqueued and not yet acknowledged";
        pub(crate) pace_lag: Histogram<Delays> =
            "pace_lag_seconds", "Time from the due time of an event to its enqueueing: lateness of the simulator";
        pub(crate) bus_lag: Histogram<Delays> =
            "bus_lag_seconds", "Time from the enqueueing of an event to its acknowledgement by the bus";
        pub(crate) append: Histogram<Delays> = "append" in Seconds,
            "Duration of an append: the call that writes and publishes a batch of events";
        ttft: Histogram<Durations> = "ttft" in Seconds,
            "Time from the start of a stream until its first token was handed to the bus";
        tpot: Histogram<Durations> = "tpot" in Seconds,
            "Time per token of a complete stream: from its first token to its terminator, divided by its tokens";
        stream: Histogram<Durations> = "stream" in Seconds,
            "Time from the start of a complete stream until its terminator was handed to the bus";
    }
}

impl Metrics {
    /// Counts a stream that was started.
    pub(crate) fn stream_started(&self) {
        self.streams_started.inc();
        if self.first_query.get() == 0.0 {
            self.first_query.set(host::unix_time().as_secs_f64());
        }
    }

    /// Measures an event that was handed to the bus at `now_us`.
    pub(crate) fn handed_over(&self, event: &Event<'_>, now_us: u64) {
        self.pace_lag.observe_us(now_us.saturating_sub(event.due_us), 1);
        let seq = event.position.seq;
        let is_last = event.kind.is_terminator();
        if is_last {
            self.stream.observe_us(now_us.saturating_sub(event.start_us), 1);
        }
        match seq {
            1 if !is_last => self.ttft.observe_us(now_us.saturating_sub(event.start_us), 1),
            2.. if is_last => self.tpot.observe_us(now_us.saturating_sub(event.first_us) / (seq - 1), 1),
            _ => {}
        }
    }

    /// Counts a stream that ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.streams_ended.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a connection that was not accepted.
    pub(crate) fn not_accepted(&self, reason: &'static str) {
        self.not_accepted.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an answer. `call` is the route and not the request's path, so that clients cannot create label values.
    pub(crate) fn answered(&self, call: &str, status: u16) {
        self.responses.get_or_create(&ResponseLabels { call: call.to_owned(), status }).inc();
    }

    /// Returns the exporter of the metrics, of the bus's counters, and of values that are read at each scrape.
    pub(crate) fn exporter(
        &self,
        bus: Arc<dyn Broker>,
        permits: Arc<Semaphore>,
        max_streams: usize,
        draining: CancellationToken,
        pushed: Option<PushCounts>,
        settings: Vec<(String, String)>,
    ) -> Exporter {
        let mut registry = Registry::default();
        self.register(&mut registry);
        Exporter::new(registry, move || {
            let active = max_streams - permits.available_permits();
            let mut readings = bus.counters().readings();
            readings.extend(bus.store_memory().iter().flat_map(StoreMemory::readings));
            readings.extend(pushed.iter().flat_map(PushCounts::readings));
            readings.extend(Reading::settings("server_settings", &settings));
            readings.extend([
                Reading::gauge("server_streams_active", "Running queries", active as i64),
                Reading::gauge(
                    "server_streams_max",
                    "Largest number of running queries (MAX_STREAMS)",
                    max_streams as i64,
                ),
                Reading::gauge(
                    "server_draining",
                    "1 while the server is shutting down, else 0",
                    draining.is_cancelled().into(),
                ),
                Reading::gauge(
                    "bus_ready",
                    "1 while the bus is ready, else 0",
                    (*bus.ready().borrow()).into(),
                ),
            ]);
            readings
        })
    }
}

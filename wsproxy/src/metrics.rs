//! The gateway's metrics. Counters are atomics, and the text is made at each scrape.

use bus::Broker;
use host::{Delays, Exporter, Histogram, Reading};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::{Arc, atomic::AtomicU64};
use telemetry::PushCounts;
use tokio_util::sync::CancellationToken;

type Labels = [(&'static str, &'static str); 1];

host::metrics! {
    /// The gateway's metrics. Clones share them.
    pub(crate) struct Metrics, "wsproxy" {
        pub(crate) connections: Gauge = "connections", "Open sockets";
        first_session: Gauge<f64, AtomicU64> = "first_session_timestamp" in Seconds,
            "When the first socket of a session was opened, since the Unix epoch; 0 before that";
        pub(crate) events: Counter = "events", "Events written to sockets or queued for them";
        pub(crate) bytes: Counter = "out" in Bytes, "Bytes written to sockets";
        pub(crate) direct_writes: Counter = "direct_writes", "Frames written to a socket at once";
        pub(crate) queued_frames: Counter = "queued_frames", "Frames queued because their socket took nothing more";
        pub(crate) held_frames: Counter =
            "held_frames", "Frames held back to share a segment with the next one, while the gateway was overloaded";
        pub(crate) rolled_frames: Counter =
            "rolled_frames", "Frames with several tokens, sent to clients that asked for a rollup";
        pub(crate) rolled_tokens: Counter = "rolled_tokens", "Tokens in these frames";
        pub(crate) batch: Gauge = "events_per_segment", "Largest number of events per segment";
        pub(crate) lag: Gauge<f64, AtomicU64> =
            "loop_lag" in Seconds, "Lateness of the event loop, median of the last 15 samples";
        pub(crate) dropped_frames: Counter = "dropped_frames", "Queued frames, and tokens waiting for a rollup, dropped by a close";
        pub(crate) overflows: Counter =
            "outbox_overflows", "Sockets closed because their queue exceeded WS_OUTBOX_BYTES";
        pub(crate) gaps: Counter = "gaps", "Gaps announced to clients";
        pub(crate) pings: Counter = "pings", "Pings sent";
        pub(crate) pongs: Counter = "pongs", "Pongs received";
        pub(crate) up_messages: Counter = "up_messages", "Client messages published";
        pub(crate) up_refused: Counter = "up_refused", "Client messages answered with an error";
        pub(crate) up_throttled: Counter =
            "up_throttled", "Client messages and pings dropped because they exceeded MAX_UP_RATE";
        pub(crate) up_no_room: Counter = "up_no_room", "Client messages dropped because INBOUND_BYTES were used up";
        pub(crate) up_unfinished: Counter =
            "up_unfinished", "Sockets closed because a client message did not arrive within MESSAGE_TIMEOUT_SECONDS";
        pub(crate) inbound: Gauge = "inbound" in Bytes, "Bytes of INBOUND_BYTES in use by client messages";
        pub(crate) bad_token_sources: Gauge =
            "bad_token_sources", "Addresses whose invalid tokens are being counted";
        pub(crate) replay_in_flight: Gauge =
            "replay_in_flight" in Bytes, "Bytes of REPLAY_BYTES in use by log pages";
        pub(crate) replay_waits: Counter =
            "replay_waits", "Log pages that had to wait because REPLAY_BYTES were in use";
        pub(crate) upgrade_time: Histogram<Delays> = "upgrade" in Seconds,
            "Time from an upgrade request to its 101 response: token, attachment and subscription";
        pub(crate) pong_time: Histogram<Delays> = "pong" in Seconds,
            "Time from the oldest ping without a pong to the next pong of its client";
        pub(crate) loop_delay: Histogram<Delays> = "loop_delay" in Seconds, "Lateness of the event loop, at each look";
        pub(crate) sampled: Histogram<Delays> = "sampled_token" in Seconds,
            "Time of a sampled token from its receipt to its first write or its place in the queue";
        upgrades: Family<Labels, Counter> = "upgrades", "Upgrade requests, by result";
        closes: Family<Labels, Counter> = "closes", "Closed sockets, by reason";
        not_accepted: Family<Labels, Counter> =
            "not_accepted", "Connections closed before their first request, by reason";
    }
}

impl Metrics {
    /// Notes that a session has a socket. Only the first call has an effect.
    pub(crate) fn serves_session(&self) {
        if self.first_session.get() == 0.0 {
            self.first_session.set(host::unix_time().as_secs_f64());
        }
    }

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

    /// Returns the exporter of the metrics and of the bus's counters.
    pub(crate) fn exporter(
        &self,
        bus: Arc<dyn Broker>,
        draining: CancellationToken,
        pushed: Option<PushCounts>,
        settings: Vec<(String, String)>,
    ) -> Exporter {
        let mut registry = Registry::default();
        self.register(&mut registry);
        Exporter::new(registry, move || {
            let mut readings = bus.counters().readings();
            readings.extend(pushed.iter().flat_map(PushCounts::readings));
            readings.extend(Reading::settings("wsproxy_settings", &settings));
            readings.push(Reading::gauge(
                "bus_ready",
                "1 while the bus is ready, else 0",
                (*bus.ready().borrow()).into(),
            ));
            readings.push(Reading::gauge(
                "wsproxy_draining",
                "1 while the gateway is draining, else 0",
                draining.is_cancelled().into(),
            ));
            readings
        })
    }
}

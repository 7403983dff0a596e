//! The configuration of one gateway: typed values that are also flags of the program.

use crate::{
    liveness::Limits,
    rate::Rate,
    sources::{BadTokens, TrustedProxies},
    throttle::Throttle,
};
use prometheus_client::metrics::gauge::Gauge;
use settings::{
    flags,
    value::{milliseconds, number, seconds},
};
use std::time::Duration;
use telemetry::Url;

const DAY: u64 = 86_400;

/// Limits and times of one gateway.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Time between pings, in seconds
    #[arg(long = "ws-ping-interval-secs", env = "WS_PING_INTERVAL_SECS", default_value = "15", value_parser = seconds(1..=DAY))]
    pub ping_interval: Duration,
    /// Time without a pong after which a socket is closed with 4003, in seconds
    #[arg(long = "ws-ping-timeout-secs", env = "WS_PING_TIMEOUT_SECS", default_value = "30", value_parser = seconds(1..=DAY))]
    pub ping_timeout: Duration,
    /// Longest message that a client may send, in bytes
    #[arg(long = "max-message-size-bytes", env = "MAX_MESSAGE_SIZE_BYTES", default_value = "65536", value_parser = number::<usize>(1..=1 << 30))]
    pub max_message_bytes: usize,
    /// Memory for all client messages that are arriving or being published, in bytes
    #[arg(long, env, default_value = "33554432", value_parser = number::<usize>(64 << 10..=1 << 40))]
    pub inbound_bytes: usize,
    /// Time in which a client message must arrive completely, in seconds; else its socket is closed with 1008
    #[arg(long = "message-timeout-seconds", env = "MESSAGE_TIMEOUT_SECONDS", default_value = "30", value_parser = seconds(1..=DAY))]
    pub message_timeout: Duration,
    /// Messages and pings per second that a client may send, with a burst of twice as many; 0 for no limit
    ///
    /// Further ones are dropped, and a message is answered with an error. A client that continues is closed with 1008.
    #[arg(long = "max-up-rate", env = "MAX_UP_RATE", default_value = "50", value_parser = number::<u32>(0..=1_000_000))]
    pub up_rate: u32,
    /// Queue for a slow client, in bytes; if it overflows, the client is closed with 4002
    // A single larger frame passes if the queue is empty.
    #[arg(long = "ws-outbox-bytes", env = "WS_OUTBOX_BYTES", default_value = "262144", value_parser = number::<usize>(1 << 10..=1 << 30))]
    pub outbox_bytes: usize,
    /// Time that a token may wait to share a segment with later ones while the gateway is overloaded, in milliseconds; 0 to turn this off
    #[arg(long = "ws-max-coalesce-ms", env = "WS_MAX_COALESCE_MS", default_value = "100", value_parser = milliseconds(0..=1_000))]
    pub max_coalesce: Duration,
    /// Largest number of open sockets; further upgrades get 503
    #[arg(long, env, default_value = "10000", value_parser = number::<usize>(1..=10_000_000))]
    pub max_connections: usize,
    /// New sockets per second, further upgrades get 503 with Retry-After; 0 for no limit
    #[arg(long = "max-connect-rate", env = "MAX_CONNECT_RATE", default_value = "2000", value_parser = number::<u32>(0..=1_000_000))]
    pub connect_rate: u32,
    /// Burst of new sockets above MAX_CONNECT_RATE; 0 for as many as in one second
    #[arg(long, env, default_value = "0", value_parser = number::<u32>(0..=10_000_000))]
    pub connect_burst: u32,
    /// Invalid tokens per second and address that get an explanation, with a burst of four times as many; 0 for no limit
    ///
    /// Further ones get 429. Valid tokens are never refused for it.
    #[arg(long, env, default_value = "5", value_parser = number::<u32>(0..=1_000_000))]
    pub bad_token_rate: u32,
    /// Proxies whose X-Forwarded-For is trusted: comma-separated addresses, networks, and `unix` for the unix socket
    #[arg(long, env, default_value = "", value_name = "LIST")]
    pub trusted_proxies: TrustedProxies,
    /// Memory for log pages that all sockets are reading, in bytes
    #[arg(long, env, default_value = "67108864", value_parser = number::<u32>(64 << 10..=u32::MAX))]
    pub replay_bytes: u32,
    /// Longest duration of a drain, in seconds
    #[arg(long = "drain-seconds", env = "DRAIN_SECONDS", default_value = "30", value_parser = seconds(0..=DAY))]
    pub drain: Duration,
    /// Pause at the start of a drain in which load balancers notice it, in milliseconds; at most a quarter of DRAIN_SECONDS
    #[arg(long = "drain-delay-ms", env = "DRAIN_DELAY_MS", default_value = "1500", value_parser = milliseconds(0..=60_000))]
    pub drain_delay: Duration,
    /// Time over which a drain spreads its close frames, in seconds; at most half of DRAIN_SECONDS
    #[arg(long = "drain-window-seconds", env = "DRAIN_WINDOW_SECONDS", default_value = "5", value_parser = seconds(0..=DAY))]
    pub drain_window: Duration,
    /// Push metrics to this OpenTelemetry collector (OTLP over HTTP), for example http://127.0.0.1:4318
    #[arg(long, env = "OTLP_URL", value_name = "URL", value_parser = telemetry::push_url, hide_env_values = true)]
    pub otlp: Option<Url>,
    /// Name of this process in the metrics that are pushed.
    #[arg(skip)]
    pub instance: String,
    /// The settings that the metrics state, as labels of `wsproxy_settings`. Empty if they state none.
    #[arg(skip)]
    pub stated: Vec<(String, String)>,
    /// The kernel's send buffer per socket (`SO_SNDBUF`), in bytes. `None` for the system's default.
    #[arg(skip)]
    pub send_buffer_bytes: Option<usize>,
    /// Time limit for the head of a request.
    #[arg(skip = Duration::from_secs(10))]
    pub header_timeout: Duration,
    /// Time for a socket that the gateway closes to take the queue and to answer the close frame.
    #[arg(skip = Duration::from_secs(5))]
    pub close_timeout: Duration,
}

impl Default for Config {
    /// Returns the defaults of the flags, but without a limit on upgrades and without a pause for load balancers. Both would only delay
    /// embedders, who know all their clients.
    fn default() -> Self {
        Self { connect_rate: 0, drain_delay: Duration::ZERO, ..flags::defaults() }
    }
}

impl Config {
    /// Returns the limiter of upgrades, if there is a limit.
    pub(crate) fn throttle(&self) -> Option<Throttle> {
        let burst = if self.connect_burst == 0 { self.connect_rate } else { self.connect_burst };
        Throttle::new(self.connect_rate, burst)
    }

    /// Returns the limiter of invalid tokens, if there is a limit. `shown` is set to the number of addresses that it tracks.
    pub(crate) fn bad_tokens(&self, shown: Gauge) -> Option<BadTokens> {
        let rate = Rate::new(self.bad_token_rate, self.bad_token_rate.saturating_mul(4))?;
        Some(BadTokens::new(rate, shown))
    }

    /// Returns the limit of one client's messages, if there is one.
    pub(crate) fn up_rate(&self) -> Option<Rate> {
        Rate::new(self.up_rate, self.up_rate.saturating_mul(2))
    }

    /// Returns the time limits of a socket.
    pub(crate) const fn limits(&self) -> Limits {
        Limits {
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            message_timeout: self.message_timeout,
        }
    }

    /// Returns how often the sweep visits every socket: often enough to miss no time limit by more than a quarter.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let times = [self.ping_timeout, self.close_timeout, self.message_timeout];
        let shortest = times.into_iter().fold(self.ping_interval, Duration::min);
        (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

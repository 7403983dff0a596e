//! The configuration of one gateway as typed values. Flags and environment are read in `args`.

use crate::{
    liveness::Limits,
    rate::Rate,
    sources::{BadTokens, TrustedProxies},
    throttle::Throttle,
};
use prometheus_client::metrics::gauge::Gauge;
use protocol::Secret;
use std::time::Duration;

/// Limits and times of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// The key that signs tokens.
    pub secret: Secret,
    /// Time between pings.
    pub ping_interval: Duration,
    /// A socket is closed when its oldest unanswered ping is this old.
    pub ping_timeout: Duration,
    /// Longest message that a client may send, in bytes. Messages above 7/8 of `inbound_bytes` are always refused.
    pub max_message_bytes: usize,
    /// Memory for all client messages that are arriving or being published, in bytes.
    pub inbound_bytes: usize,
    /// Time in which a client message must arrive completely.
    pub message_timeout: Duration,
    /// Messages and pings per second that a client may send, with a burst of twice as many. 0 for no limit.
    pub up_rate: u32,
    /// Queue for a slow client, in bytes of memory. A single larger frame passes if the queue is empty.
    pub outbox_bytes: usize,
    /// The kernel's send buffer per socket (`SO_SNDBUF`), in bytes. `None` for the system's default.
    pub send_buffer_bytes: Option<usize>,
    /// Time that a token may wait to share a segment with later ones while the gateway is overloaded. Zero turns this off.
    pub max_coalesce: Duration,
    /// Largest number of open sockets.
    pub max_connections: usize,
    /// Upgrades per second. 0 for no limit, which suits embedders that know all their clients.
    pub connect_rate: u32,
    /// Burst of upgrades above the rate. 0 for as many as in one second.
    pub connect_burst: u32,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
    /// Invalid tokens per second and address that get an explanation, with a burst of four times as many. 0 for no limit.
    pub bad_token_rate: u32,
    /// Memory for log pages that all sockets are reading, in bytes.
    pub replay_bytes: u32,
    /// Longest duration of a drain.
    pub drain: Duration,
    /// Pause at the start of a drain, in which the gateway is not ready and its sockets stay open, so that load balancers notice.
    /// At most a quarter of `drain` is used.
    pub drain_delay: Duration,
    /// Time over which a drain then spreads its close frames. At most half of `drain` is used.
    pub drain_window: Duration,
    /// Time limit for the head of a request.
    pub header_timeout: Duration,
    /// Time for a socket that the gateway closes to take the queue and to answer the close frame.
    pub close_timeout: Duration,
}

impl Config {
    /// Returns the defaults with this key.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(30),
            max_message_bytes: 64 << 10,
            inbound_bytes: 32 << 20,
            message_timeout: Duration::from_secs(30),
            up_rate: 50,
            outbox_bytes: 256 << 10,
            send_buffer_bytes: None,
            max_coalesce: Duration::from_millis(100),
            max_connections: 10_000,
            connect_rate: 0,
            connect_burst: 0,
            trusted_proxies: TrustedProxies::default(),
            bad_token_rate: 5,
            replay_bytes: 64 << 20,
            drain: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_window: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
        }
    }

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

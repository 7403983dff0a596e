//! What a gateway is told by its caller: limits and times, validated. It knows neither flags nor the environment.

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
    /// A socket is pinged this often.
    pub ping_interval: Duration,
    /// A socket whose oldest unanswered ping is older is closed.
    pub ping_timeout: Duration,
    /// The longest message that a client may send, in bytes. More than seven eighths of `inbound_bytes` never find room.
    pub max_message_bytes: usize,
    /// What the messages of all clients take together while they arrive and are published, in bytes.
    pub inbound_bytes: usize,
    /// A message must arrive whole within this time.
    pub message_timeout: Duration,
    /// Messages and pings a second that a client may send, and twice as many at once; 0 for no limit.
    pub up_rate: u32,
    /// What may wait for a slow client, in bytes of memory. A single frame larger than this passes if nothing waits.
    pub outbox_bytes: usize,
    /// The kernel's send buffer a socket (`SO_SNDBUF`), where the system's own choice is not wanted.
    pub send_buffer_bytes: Option<usize>,
    /// How long a token may be held back to share a segment with the next ones, while the gateway is behind; zero: never.
    pub max_coalesce: Duration,
    /// Sockets at most.
    pub max_connections: usize,
    /// Upgrades a second; 0 for no limit, which suits callers who know all their clients.
    pub connect_rate: u32,
    /// Upgrades at once, above what the rate earns; 0 for one second's worth.
    pub connect_burst: u32,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// Bad tokens a second that are answered from one address, and four times as many at once; 0 for no limit.
    pub bad_token_rate: u32,
    /// Bytes of the log that all sockets together read at a time.
    pub replay_bytes: u32,
    /// How long a drain takes at most.
    pub drain: Duration,
    /// A drain begins with this long a pause, in which the gateway is unready and its sockets live on: what a balancer
    /// needs to notice. Cut to a quarter of `drain`.
    pub drain_delay: Duration,
    /// A drain then spreads its sockets' close frames over this time. Cut to half of `drain`.
    pub drain_window: Duration,
    /// A request's headers must have come within this time.
    pub header_timeout: Duration,
    /// A socket that the gateway closes is given this long to take what is queued and to answer.
    pub close_timeout: Duration,
}

impl Config {
    /// The defaults with this key.
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

    /// What lets upgrades in at the configured rate.
    pub(crate) fn throttle(&self) -> Option<Throttle> {
        let burst = if self.connect_burst == 0 { self.connect_rate } else { self.connect_burst };
        Throttle::new(self.connect_rate, burst)
    }

    /// What bounds the bad tokens of each address; `shown` tells how many addresses there are.
    pub(crate) fn bad_tokens(&self, shown: Gauge) -> Option<BadTokens> {
        let rate = Rate::new(self.bad_token_rate, self.bad_token_rate.saturating_mul(4))?;
        Some(BadTokens::new(rate, shown))
    }

    /// What bounds one client's messages.
    pub(crate) fn up_rate(&self) -> Option<Rate> {
        Rate::new(self.up_rate, self.up_rate.saturating_mul(2))
    }

    pub(crate) const fn limits(&self) -> Limits {
        Limits {
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            message_timeout: self.message_timeout,
        }
    }

    /// How often the sweep looks at every socket: often enough that no time above is missed by more than a quarter.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let times = [self.ping_timeout, self.close_timeout, self.message_timeout];
        let shortest = times.into_iter().fold(self.ping_interval, Duration::min);
        (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

//! Reads the program's flags and environment variables and checks them into [`Settings`].

use crate::{Config, TrustedProxies};
use bus::{BusConfig, Delivery, Role};
use clap::Parser;
use guard::Budget;
use protocol::Secret;
use settings::{
    flags::{ConfigErrors, JwtFlags, Read},
    value::{milliseconds, number, seconds},
};
use std::{path::PathBuf, time::Duration};
use uuid::Uuid;

const DAY: u64 = 86_400;

/// WebSocket gateway: forwards each session's events from Redis to its client
#[derive(Clone, Parser)]
#[command(version, args_override_self = true)]
pub struct Args {
    /// Address to listen on
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value = "4040", value_parser = number(0..=u16::MAX))]
    port: u16,
    /// Unix socket to listen on in addition, for a load balancer on the same host
    #[arg(long, env = "UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// URL of Redis: redis://host:port/db
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    redis_url: String,
    #[command(flatten)]
    jwt: JwtFlags,
    /// Delivery of events: log (with replay) or pubsub (without, events can be lost)
    #[arg(long, env = "DELIVERY", default_value = "log")]
    delivery: Delivery,
    /// Name of this process, unique in the stack [default: wsproxy-<8 hex digits>]
    #[arg(long, env = "INSTANCE")]
    instance: Option<String>,
    /// Prefix of every Redis key and channel
    #[arg(long, env = "BUS_NAME_PREFIX", default_value = "", hide = true)]
    bus_name_prefix: String,
    /// Lifetime of a session's keys, in seconds, at least 60; use the servers' value
    #[arg(long, env = "SESSION_TTL_SECONDS", default_value = "10800", value_parser = seconds(60..=30 * DAY))]
    session_ttl_seconds: Duration,
    /// Number of subscribing Redis connections, 1 to 4
    #[arg(long, env = "SUBSCRIBER_CONNECTIONS", default_value = "1", value_parser = number::<usize>(1..=4))]
    subscriber_connections: usize,
    /// Time between pings, in seconds
    #[arg(long, env = "WS_PING_INTERVAL_SECS", default_value = "15", value_parser = seconds(1..=DAY))]
    ws_ping_interval_secs: Duration,
    /// Time without a pong after which a socket is closed with 4003, in seconds
    #[arg(long, env = "WS_PING_TIMEOUT_SECS", default_value = "30", value_parser = seconds(1..=DAY))]
    ws_ping_timeout_secs: Duration,
    /// Longest message that a client may send, in bytes
    #[arg(long, env = "MAX_MESSAGE_SIZE_BYTES", default_value = "65536", value_parser = number::<usize>(1..=1 << 30))]
    max_message_size_bytes: usize,
    /// Memory for all client messages that are arriving or being published, in bytes
    #[arg(long, env = "INBOUND_BYTES", default_value = "33554432", value_parser = number::<usize>(64 << 10..=1 << 40))]
    inbound_bytes: usize,
    /// Time in which a client message must arrive completely, in seconds; else its socket is closed with 1008
    #[arg(long, env = "MESSAGE_TIMEOUT_SECONDS", default_value = "30", value_parser = seconds(1..=DAY))]
    message_timeout_seconds: Duration,
    /// Messages and pings per second that a client may send, with a burst of twice as many; 0 for no limit
    ///
    /// Further ones are dropped, and a message is answered with an error. A client that continues is closed with 1008.
    #[arg(long, env = "MAX_UP_RATE", default_value = "50", value_parser = number::<u32>(0..=1_000_000))]
    max_up_rate: u32,
    /// Queue for a slow client, in bytes; if it overflows, the client is closed with 4002
    #[arg(long, env = "WS_OUTBOX_BYTES", default_value = "262144", value_parser = number::<usize>(1 << 10..=1 << 30))]
    ws_outbox_bytes: usize,
    /// Time that a token may wait to share a segment with later ones while the gateway is overloaded, in milliseconds; 0 to turn this off
    #[arg(long, env = "WS_MAX_COALESCE_MS", default_value = "100", value_parser = milliseconds(0..=1_000))]
    ws_max_coalesce_ms: Duration,
    /// Largest number of open sockets; further upgrades get 503
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "10000", value_parser = number::<usize>(1..=10_000_000))]
    max_connections: usize,
    /// New sockets per second, further upgrades get 503 with Retry-After; 0 for no limit
    #[arg(long, env = "MAX_CONNECT_RATE", default_value = "2000", value_parser = number::<u32>(0..=1_000_000))]
    max_connect_rate: u32,
    /// Burst of new sockets above MAX_CONNECT_RATE; 0 for as many as in one second
    #[arg(long, env = "CONNECT_BURST", default_value = "0", value_parser = number::<u32>(0..=10_000_000))]
    connect_burst: u32,
    /// Invalid tokens per second and address that get an explanation, with a burst of four times as many; 0 for no limit
    ///
    /// Further ones get 429. Valid tokens are never refused for it.
    #[arg(long, env = "BAD_TOKEN_RATE", default_value = "5", value_parser = number::<u32>(0..=1_000_000))]
    bad_token_rate: u32,
    /// Proxies whose X-Forwarded-For is trusted: comma-separated addresses, networks, and `unix` for the unix socket
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", value_name = "LIST")]
    trusted_proxies: TrustedProxies,
    /// Memory for log pages that all sockets are reading, in bytes
    #[arg(long, env = "REPLAY_BYTES", default_value = "67108864", value_parser = number::<u32>(64 << 10..=u32::MAX))]
    replay_bytes: u32,
    /// Longest duration of a drain, in seconds
    #[arg(long, env = "DRAIN_SECONDS", default_value = "30", value_parser = seconds(0..=DAY))]
    drain_seconds: Duration,
    /// Pause at the start of a drain in which load balancers notice it, in milliseconds; at most a quarter of DRAIN_SECONDS
    #[arg(long, env = "DRAIN_DELAY_MS", default_value = "1500", value_parser = milliseconds(0..=60_000))]
    drain_delay_ms: Duration,
    /// Time over which a drain spreads its close frames, in seconds; at most half of DRAIN_SECONDS
    #[arg(long, env = "DRAIN_WINDOW_SECONDS", default_value = "5", value_parser = seconds(0..=DAY))]
    drain_window_seconds: Duration,
    /// Number of threads that serve sockets
    #[arg(long, env = "WS_THREADS", default_value = "1", value_parser = number::<usize>(1..=256))]
    ws_threads: usize,
    /// Request /ready from the gateway on this host's PORT, then exit with 0 (ready) or 1
    #[arg(long)]
    pub health_check: bool,
    /// Old name of SUBSCRIBER_CONNECTIONS
    #[arg(long, env = "PUBSUB_POOL_SIZE", hide = true)]
    pubsub_pool_size: Option<String>,
    /// Old variable without effect
    #[arg(long, env = "FASTAPI_URL", hide = true)]
    fastapi_url: Option<String>,
}

/// The checked settings of a gateway process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address or name to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Unix socket to listen on in addition.
    pub unix_socket: Option<PathBuf>,
    /// Number of threads that serve sockets.
    pub threads: usize,
    /// Settings of the bus.
    pub bus: BusConfig,
    /// Settings of the gateway.
    pub gateway: Config,
    /// Warnings to log, for example about old names of variables.
    pub warnings: Vec<String>,
}

impl Args {
    /// Returns the port for a health check.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Checks all settings.
    ///
    /// # Errors
    /// All settings that are wrong.
    pub fn settings(read: Read<Self>) -> Result<Settings, ConfigErrors> {
        let Read { args, mut errors, mut warnings } = read;
        let largest = Budget::most_for_one(args.inbound_bytes);
        if args.max_message_size_bytes > largest {
            errors.push(format!(
                "invalid number \"{}\" for MAX_MESSAGE_SIZE_BYTES: expected 1 to {largest}, which is 7/8 of INBOUND_BYTES",
                args.max_message_size_bytes
            ));
        }
        let subscriber_connections = args.subscriber_connections(&mut warnings);
        if args.fastapi_url.is_some() {
            warnings.push("FASTAPI_URL has no effect: a gateway checks the token alone".into());
        }
        let key = errors.take(args.jwt.key()).and_then(|key| errors.take(Secret::new(&key)));
        let Some(defaults) = key.map(Config::new) else { return Err(errors) };
        let instance =
            args.instance.unwrap_or_else(|| format!("wsproxy-{:.8}", Uuid::new_v4().as_simple().to_string()));
        let bus = BusConfig {
            role: Role::Gateway,
            session_ttl: args.session_ttl_seconds,
            delivery: args.delivery,
            subscriber_connections,
            name_prefix: args.bus_name_prefix,
            ..BusConfig::new(args.redis_url, instance)
        };
        let gateway = Config {
            ping_interval: args.ws_ping_interval_secs,
            ping_timeout: args.ws_ping_timeout_secs,
            max_message_bytes: args.max_message_size_bytes,
            inbound_bytes: args.inbound_bytes,
            message_timeout: args.message_timeout_seconds,
            up_rate: args.max_up_rate,
            bad_token_rate: args.bad_token_rate,
            outbox_bytes: args.ws_outbox_bytes,
            max_coalesce: args.ws_max_coalesce_ms,
            max_connections: args.max_connections,
            connect_rate: args.max_connect_rate,
            connect_burst: args.connect_burst,
            trusted_proxies: args.trusted_proxies,
            replay_bytes: args.replay_bytes,
            drain: args.drain_seconds,
            drain_delay: args.drain_delay_ms,
            drain_window: args.drain_window_seconds,
            ..defaults
        };
        errors.check(Settings {
            host: args.host,
            port: args.port,
            unix_socket: args.unix_socket,
            threads: args.ws_threads,
            bus,
            gateway,
            warnings,
        })
    }

    /// Returns the number of connections. `PUBSUB_POOL_SIZE` was made for a larger pool, so that its value is limited, not refused.
    fn subscriber_connections(&self, warnings: &mut Vec<String>) -> usize {
        let Some(old) = &self.pubsub_pool_size else { return self.subscriber_connections };
        let taken = old.parse().map_or(self.subscriber_connections, |size: usize| size.clamp(1, 4));
        warnings.push(format!(
            "PUBSUB_POOL_SIZE is an old name: use SUBSCRIBER_CONNECTIONS, 1 to 4. `{old}` is read as {taken}"
        ));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::flags;
    use std::ffi::OsString;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn settings(flags: &[&str]) -> Result<Settings, ConfigErrors> {
        let arguments = ["wsproxy"].iter().chain(flags).map(OsString::from);
        Args::settings(flags::read(arguments, |_| None, &[]).unwrap())
    }

    #[test]
    fn defaults() {
        let settings = settings(&["--jwt-secret", KEY]).unwrap();
        assert_eq!((settings.port, settings.threads), (4040, 1));
        assert!(settings.bus.instance.starts_with("wsproxy-") && settings.bus.instance.len() == 16);
        assert_eq!(settings.gateway.ping_interval, Duration::from_secs(15));
        assert!(settings.warnings.is_empty());
        // The defaults of embedded gateways equal those of the flags.
        let (own, flags) = (Config::new(Secret::new(KEY).unwrap()), &settings.gateway);
        assert_eq!(
            (own.max_message_bytes, own.inbound_bytes, own.message_timeout, own.up_rate, own.bad_token_rate),
            (
                flags.max_message_bytes,
                flags.inbound_bytes,
                flags.message_timeout,
                flags.up_rate,
                flags.bad_token_rate
            )
        );
        assert!(!format!("{settings:?}").contains(KEY));
    }

    #[test]
    fn all_errors_are_listed_together() {
        let flags = [
            "--jwt-secret=short",
            "--jwt-algorithm=none",
            "--delivery=carrier-pigeon",
            "--subscriber-connections=9",
            "--ws-ping-interval-secs=0",
            "--max-connections=0",
            "--ws-outbox-bytes=1",
            "--ws-max-coalesce-ms=5000",
            "--replay-bytes=5",
            "--max-connect-rate=2000000",
            "--drain-delay-ms=70000",
            "--inbound-bytes=100000",
            "--max-message-size-bytes=90000",
            "--message-timeout-seconds=0",
            "--trusted-proxies=unix,haproxy",
        ];
        let text = settings(&flags).unwrap_err().to_string();
        for name in [
            "JWT secret has 5 bytes",
            "invalid algorithm \"none\" for --jwt-algorithm: expected HS256",
            "invalid value \"carrier-pigeon\" for --delivery: expected log or pubsub",
            "invalid number \"9\" for --subscriber-connections: expected 1 to 4",
            "invalid duration \"0\" for --ws-ping-interval-secs: expected 1s to 86400s",
            "invalid number \"0\" for --max-connections: expected 1 to 10000000",
            "invalid number \"1\" for --ws-outbox-bytes: expected 1024 to 1073741824",
            "invalid duration \"5000\" for --ws-max-coalesce-ms: expected 0s to 1s",
            "invalid number \"5\" for --replay-bytes: expected 65536 to 4294967295",
            "invalid number \"2000000\" for --max-connect-rate: expected 0 to 1000000",
            "invalid duration \"70000\" for --drain-delay-ms: expected 0s to 60s",
            "invalid number \"90000\" for MAX_MESSAGE_SIZE_BYTES: expected 1 to 87500, which is 7/8 of INBOUND_BYTES",
            "invalid duration \"0\" for --message-timeout-seconds: expected 1s to 86400s",
            "invalid value \"unix,haproxy\" for --trusted-proxies: invalid proxy `haproxy`",
        ] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }

    #[test]
    fn the_secret_has_exactly_one_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        assert!(settings(&["--jwt-secret", "", "--jwt-secret-file", path]).is_ok());
        for flags in [
            &["--jwt-secret", KEY, "--jwt-secret-file", path][..],
            &["--jwt-secret=", "--jwt-secret-file", "/nowhere/at/all"],
            &["--jwt-secret=", "--jwt-secret-file="],
        ] {
            assert!(settings(flags).unwrap_err().to_string().contains("JWT_SECRET_FILE"), "{flags:?}");
        }
    }

    #[test]
    fn old_names_are_accepted_with_a_warning() {
        let settings =
            settings(&["--jwt-secret", KEY, "--pubsub-pool-size=32", "--fastapi-url=http://x"]).unwrap();
        assert_eq!(settings.bus.subscriber_connections, 4);
        assert_eq!(settings.warnings.len(), 2);
        assert!(settings.warnings[0].contains("SUBSCRIBER_CONNECTIONS"));
    }
}

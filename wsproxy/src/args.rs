//! Reads the program's flags and environment variables and checks them into [`Settings`]. All errors are reported together.
//! No other file of the crate reads the environment.

use crate::{Config, TrustedProxies};
use bus::{BusConfig, Delivery, Role};
use clap::{
    CommandFactory, FromArgMatches, Parser,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};
use guard::Budget;
use protocol::{Secret, SecretError};
use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use uuid::Uuid;

/// WebSocket gateway: forwards each session's events from Redis to its client
#[derive(Clone, Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Args {
    /// Address to listen on
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 4040)]
    port: u16,
    /// Unix socket to listen on in addition, for a load balancer on the same host
    #[arg(long, env = "UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// URL of Redis: redis://host:port/db
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    redis_url: String,
    /// Key that signs session tokens, at least 32 bytes
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// File that holds the key
    #[arg(long, env = "JWT_SECRET_FILE")]
    jwt_secret_file: Option<String>,
    /// Signature algorithm of session tokens: only HS256 is supported
    #[arg(long, env = "JWT_ALGORITHM", default_value = "HS256")]
    jwt_algorithm: String,
    /// Delivery of events: log (with replay) or pubsub (without, events can be lost)
    #[arg(long, env = "DELIVERY", default_value = "log")]
    delivery: String,
    /// Name of this process, unique in the stack [default: wsproxy-<8 hex digits>]
    #[arg(long, env = "INSTANCE")]
    instance: Option<String>,
    /// Prefix of every Redis key and channel
    #[arg(long, env = "BUS_NAME_PREFIX", default_value = "", hide = true)]
    bus_name_prefix: String,
    /// Lifetime of a session's keys, in seconds, at least 60; use the servers' value
    #[arg(long, env = "SESSION_TTL_SECONDS", default_value_t = 10_800)]
    session_ttl_seconds: u64,
    /// Number of subscribing Redis connections, 1 to 4
    #[arg(long, env = "SUBSCRIBER_CONNECTIONS", default_value_t = 1)]
    subscriber_connections: usize,
    /// Time between pings, in seconds
    #[arg(long, env = "WS_PING_INTERVAL_SECS", default_value_t = 15)]
    ws_ping_interval_secs: u64,
    /// Time without a pong after which a socket is closed with 4003, in seconds
    #[arg(long, env = "WS_PING_TIMEOUT_SECS", default_value_t = 30)]
    ws_ping_timeout_secs: u64,
    /// Longest message that a client may send, in bytes
    #[arg(long, env = "MAX_MESSAGE_SIZE_BYTES", default_value_t = 64 << 10)]
    max_message_size_bytes: usize,
    /// Memory for all client messages that are arriving or being published, in bytes
    #[arg(long, env = "INBOUND_BYTES", default_value_t = 32 << 20)]
    inbound_bytes: usize,
    /// Time in which a client message must arrive completely, in seconds; else its socket is closed with 1008
    #[arg(long, env = "MESSAGE_TIMEOUT_SECONDS", default_value_t = 30)]
    message_timeout_seconds: u64,
    /// Messages and pings per second that a client may send, with a burst of twice as many; 0 for no limit
    ///
    /// Further ones are dropped, and a message is answered with an error. A client that continues is closed with 1008.
    #[arg(long, env = "MAX_UP_RATE", default_value_t = 50)]
    max_up_rate: u32,
    /// Queue for a slow client, in bytes; if it overflows, the client is closed with 4002
    #[arg(long, env = "WS_OUTBOX_BYTES", default_value_t = 256 << 10)]
    ws_outbox_bytes: usize,
    /// Time that a token may wait to share a segment with later ones while the gateway is overloaded, in milliseconds; 0 to turn this off
    #[arg(long, env = "WS_MAX_COALESCE_MS", default_value_t = 100)]
    ws_max_coalesce_ms: u64,
    /// Largest number of open sockets; further upgrades get 503
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// New sockets per second, further upgrades get 503 with Retry-After; 0 for no limit
    #[arg(long, env = "MAX_CONNECT_RATE", default_value_t = 2_000)]
    max_connect_rate: u32,
    /// Burst of new sockets above MAX_CONNECT_RATE; 0 for as many as in one second
    #[arg(long, env = "CONNECT_BURST", default_value_t = 0)]
    connect_burst: u32,
    /// Invalid tokens per second and address that get an explanation, with a burst of four times as many; 0 for no limit
    ///
    /// Further ones get 429. Valid tokens are never refused for it.
    #[arg(long, env = "BAD_TOKEN_RATE", default_value_t = 5)]
    bad_token_rate: u32,
    /// Proxies whose X-Forwarded-For is trusted: comma-separated addresses, networks, and `unix` for the unix socket
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", value_name = "LIST")]
    trusted_proxies: String,
    /// Memory for log pages that all sockets are reading, in bytes
    #[arg(long, env = "REPLAY_BYTES", default_value_t = 64 << 20)]
    replay_bytes: u32,
    /// Longest duration of a drain, in seconds
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// Pause at the start of a drain in which load balancers notice it, in milliseconds; at most a quarter of DRAIN_SECONDS
    #[arg(long, env = "DRAIN_DELAY_MS", default_value_t = 1_500)]
    drain_delay_ms: u64,
    /// Time over which a drain spreads its close frames, in seconds; at most half of DRAIN_SECONDS
    #[arg(long, env = "DRAIN_WINDOW_SECONDS", default_value_t = 5)]
    drain_window_seconds: u64,
    /// Number of threads that serve sockets
    #[arg(long, env = "WS_THREADS", default_value_t = 1)]
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

/// All errors of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration:")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns the environment variable that a rejected value came from, or `None` if it came from a flag.
fn variable_of(error: &clap::Error, command: &clap::Command) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.split([' ', '=']).next()?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"))?;
    let name = arg.get_env()?.to_str()?;
    let on_the_line = |word: std::ffi::OsString| word.to_string_lossy().split('=').next() == Some(flag);
    let same = std::env::var(name).ok().as_deref() == text(ContextKind::InvalidValue);
    (same && !std::env::args_os().any(on_the_line)).then(|| name.to_owned())
}

impl Args {
    /// Reads the program's flags and environment. An empty variable counts as unset. On an error, prints it and ends the program.
    #[must_use]
    pub fn read_from(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let command = Self::command().mut_args(|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) { arg.env(Resettable::Reset) } else { arg }
        });
        let matches = command.clone().try_get_matches_from(arguments).unwrap_or_else(|error| {
            let variable = variable_of(&error, &command);
            let _ = error.print();
            if let Some(variable) = variable {
                let _ =
                    writeln!(io::stderr(), "note: the value comes from the environment variable {variable}");
            }
            std::process::exit(error.exit_code())
        });
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Returns the port for a health check.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Checks all values.
    ///
    /// # Errors
    /// All values that are wrong, each with what is expected.
    pub fn resolve(self) -> Result<Settings, ConfigErrors> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        self.check_ranges(&mut errors);
        let subscribers = self.subscriber_connections(&mut warnings);
        if self.fastapi_url.as_deref().is_some_and(|url| !url.is_empty()) {
            warnings.push("FASTAPI_URL has no effect: a gateway checks the token alone".into());
        }
        let delivery = self.delivery.parse().unwrap_or_else(|error| {
            errors.push(format!("DELIVERY: {error}"));
            Delivery::default()
        });
        let trusted_proxies = self.trusted_proxies.parse().unwrap_or_else(|error| {
            errors.push(format!("TRUSTED_PROXIES: {error}"));
            TrustedProxies::default()
        });
        let secret = self.secret().map_err(|error| errors.push(error)).ok();
        match secret {
            Some(secret) if errors.is_empty() => Ok(Settings {
                bus: self.bus(delivery, subscribers),
                gateway: Config { trusted_proxies, ..self.gateway(secret) },
                host: self.host,
                port: self.port,
                unix_socket: self.unix_socket.clone(),
                threads: self.ws_threads,
                warnings,
            }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    fn check_ranges(&self, errors: &mut Vec<String>) {
        let mut range = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                errors.push(format!("{name}: {value} is out of range, use {least} to {most}"));
            }
        };
        let day = 86_400;
        range("SESSION_TTL_SECONDS", self.session_ttl_seconds, 60, 30 * day);
        range("SUBSCRIBER_CONNECTIONS", self.subscriber_connections as u64, 1, 4);
        range("WS_PING_INTERVAL_SECS", self.ws_ping_interval_secs, 1, day);
        range("WS_PING_TIMEOUT_SECS", self.ws_ping_timeout_secs, 1, day);
        range("INBOUND_BYTES", self.inbound_bytes as u64, 64 << 10, 1 << 40);
        let most = Budget::most_for_one(self.inbound_bytes).min(1 << 30) as u64;
        range(
            "MAX_MESSAGE_SIZE_BYTES (7/8 of INBOUND_BYTES at most)",
            self.max_message_size_bytes as u64,
            1,
            most,
        );
        range("MESSAGE_TIMEOUT_SECONDS", self.message_timeout_seconds, 1, day);
        range("MAX_UP_RATE", self.max_up_rate.into(), 0, 1_000_000);
        range("BAD_TOKEN_RATE", self.bad_token_rate.into(), 0, 1_000_000);
        range("WS_OUTBOX_BYTES", self.ws_outbox_bytes as u64, 1 << 10, 1 << 30);
        range("WS_MAX_COALESCE_MS", self.ws_max_coalesce_ms, 0, 1_000);
        range("MAX_CONNECTIONS", self.max_connections as u64, 1, 10_000_000);
        range("MAX_CONNECT_RATE", self.max_connect_rate.into(), 0, 1_000_000);
        range("CONNECT_BURST", self.connect_burst.into(), 0, 10_000_000);
        range("REPLAY_BYTES", self.replay_bytes.into(), 64 << 10, u32::MAX.into());
        range("DRAIN_SECONDS", self.drain_seconds, 0, day);
        range("DRAIN_DELAY_MS", self.drain_delay_ms, 0, 60_000);
        range("DRAIN_WINDOW_SECONDS", self.drain_window_seconds, 0, day);
        range("WS_THREADS", self.ws_threads as u64, 1, 256);
        if self.jwt_algorithm != "HS256" {
            errors.push(format!("JWT_ALGORITHM: `{}` is not supported: use HS256", self.jwt_algorithm));
        }
    }

    fn subscriber_connections(&self, warnings: &mut Vec<String>) -> usize {
        let Some(old) = self.pubsub_pool_size.as_deref().filter(|old| !old.is_empty()) else {
            return self.subscriber_connections;
        };
        let taken = old.parse().map_or(self.subscriber_connections, |size: usize| size.clamp(1, 4));
        warnings.push(format!(
            "PUBSUB_POOL_SIZE is an old name: use SUBSCRIBER_CONNECTIONS, 1 to 4. `{old}` is read as {taken}"
        ));
        taken
    }

    fn secret(&self) -> Result<Secret, String> {
        let given = self.jwt_secret.as_deref().filter(|secret| !secret.is_empty());
        let file = self.jwt_secret_file.as_deref().filter(|file| !file.is_empty());
        let too_short = |error: SecretError| error.to_string();
        match (given, file) {
            (Some(_), Some(_)) => Err("JWT_SECRET and JWT_SECRET_FILE are both set: unset one".into()),
            (Some(secret), None) => Secret::new(secret).map_err(too_short),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| format!("JWT_SECRET_FILE: cannot read `{file}`: {error}"))
                .and_then(|secret| Secret::new(&secret).map_err(too_short)),
            (None, None) => {
                Err("JWT_SECRET or JWT_SECRET_FILE is required: make a key with `openssl rand -hex 32`"
                    .into())
            }
        }
    }

    fn bus(&self, delivery: Delivery, subscriber_connections: usize) -> BusConfig {
        let instance = self.instance.clone().filter(|name| !name.is_empty());
        let instance =
            instance.unwrap_or_else(|| format!("wsproxy-{:.8}", Uuid::new_v4().as_simple().to_string()));
        BusConfig {
            role: Role::Gateway,
            session_ttl: Duration::from_secs(self.session_ttl_seconds),
            delivery,
            subscriber_connections,
            name_prefix: self.bus_name_prefix.clone(),
            ..BusConfig::new(self.redis_url.clone(), instance)
        }
    }

    fn gateway(&self, secret: Secret) -> Config {
        Config {
            ping_interval: Duration::from_secs(self.ws_ping_interval_secs),
            ping_timeout: Duration::from_secs(self.ws_ping_timeout_secs),
            max_message_bytes: self.max_message_size_bytes,
            inbound_bytes: self.inbound_bytes,
            message_timeout: Duration::from_secs(self.message_timeout_seconds),
            up_rate: self.max_up_rate,
            bad_token_rate: self.bad_token_rate,
            outbox_bytes: self.ws_outbox_bytes,
            max_coalesce: Duration::from_millis(self.ws_max_coalesce_ms),
            max_connections: self.max_connections,
            connect_rate: self.max_connect_rate,
            connect_burst: self.connect_burst,
            replay_bytes: self.replay_bytes,
            drain: Duration::from_secs(self.drain_seconds),
            drain_delay: Duration::from_millis(self.drain_delay_ms),
            drain_window: Duration::from_secs(self.drain_window_seconds),
            ..Config::new(secret)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn resolve(flags: &[&str]) -> Result<Settings, ConfigErrors> {
        Args::parse_from([&["wsproxy", "--jwt-secret-file="], flags].concat()).resolve()
    }

    #[test]
    fn defaults() {
        let settings = resolve(&["--jwt-secret", KEY]).unwrap();
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
        let text = resolve(&flags).unwrap_err().to_string();
        for name in [
            "JWT secret has 5 bytes",
            "JWT_ALGORITHM: `none`",
            "carrier-pigeon",
            "SUBSCRIBER_CONNECTIONS: 9",
            "WS_PING_INTERVAL_SECS: 0",
            "MAX_CONNECTIONS: 0",
            "WS_OUTBOX_BYTES: 1 ",
            "WS_MAX_COALESCE_MS: 5000",
            "REPLAY_BYTES: 5 ",
            "MAX_CONNECT_RATE: 2000000",
            "DRAIN_DELAY_MS: 70000",
            "MAX_MESSAGE_SIZE_BYTES (7/8 of INBOUND_BYTES at most): 90000",
            "use 1 to 87500",
            "MESSAGE_TIMEOUT_SECONDS: 0",
            "TRUSTED_PROXIES: invalid proxy `haproxy`",
        ] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }

    #[test]
    fn the_secret_has_exactly_one_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        assert!(resolve(&["--jwt-secret", "", "--jwt-secret-file", path]).is_ok());
        for flags in [
            &["--jwt-secret", KEY, "--jwt-secret-file", path][..],
            &["--jwt-secret=", "--jwt-secret-file", "/nowhere/at/all"],
            &["--jwt-secret=", "--jwt-secret-file="],
        ] {
            assert!(resolve(flags).unwrap_err().to_string().contains("JWT_SECRET_FILE"), "{flags:?}");
        }
    }

    #[test]
    fn old_names_are_accepted_with_a_warning() {
        let settings =
            resolve(&["--jwt-secret", KEY, "--pubsub-pool-size=32", "--fastapi-url=http://x"]).unwrap();
        assert_eq!(settings.bus.subscriber_connections, 4);
        assert_eq!(settings.warnings.len(), 2);
        assert!(settings.warnings[0].contains("SUBSCRIBER_CONNECTIONS"));
    }
}

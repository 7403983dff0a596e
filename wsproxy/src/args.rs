//! The program's flags and environment, turned into validated settings with every fault listed at once.
//! Nothing else in the crate reads either.

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

/// The WebSocket gateway of Streamstress.
#[derive(Clone, Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Args {
    /// Address to listen on
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 4040)]
    port: u16,
    /// A unix socket to listen on as well, for a load balancer on the same host
    #[arg(long, env = "UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// The bus: redis://host:port/db
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379")]
    redis_url: String,
    /// The key that signs tokens, 32 bytes at least
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// A file that holds the key
    #[arg(long, env = "JWT_SECRET_FILE")]
    jwt_secret_file: Option<String>,
    /// The signature's algorithm: HS256, no other
    #[arg(long, env = "JWT_ALGORITHM", default_value = "HS256")]
    jwt_algorithm: String,
    /// How events travel: log (nothing is lost) or pubsub (the old way)
    #[arg(long, env = "DELIVERY", default_value = "log")]
    delivery: String,
    /// This process's name on the bus, unique in the stack [default: wsproxy-<8 hex digits>]
    #[arg(long, env = "INSTANCE")]
    instance: Option<String>,
    /// Put before every key and channel
    #[arg(long, env = "BUS_NAME_PREFIX", default_value = "", hide = true)]
    bus_name_prefix: String,
    /// How long a session's keys live, in seconds, at least 60; the same as the servers'
    #[arg(long, env = "SESSION_TTL_SECONDS", default_value_t = 10_800)]
    session_ttl_seconds: u64,
    /// Connections to Redis that subscribe, 1 to 4
    #[arg(long, env = "SUBSCRIBER_CONNECTIONS", default_value_t = 1)]
    subscriber_connections: usize,
    /// Seconds between pings
    #[arg(long, env = "WS_PING_INTERVAL_SECS", default_value_t = 15)]
    ws_ping_interval_secs: u64,
    /// Seconds without a pong after which a socket is closed
    #[arg(long, env = "WS_PING_TIMEOUT_SECS", default_value_t = 30)]
    ws_ping_timeout_secs: u64,
    /// The longest message that a client may send, in bytes
    #[arg(long, env = "MAX_MESSAGE_SIZE_BYTES", default_value_t = 64 << 10)]
    max_message_size_bytes: usize,
    /// What the messages of all clients take together, in bytes, while they arrive and are published
    #[arg(long, env = "INBOUND_BYTES", default_value_t = 32 << 20)]
    inbound_bytes: usize,
    /// Seconds within which a message must arrive whole, else its socket is closed with 1008
    #[arg(long, env = "MESSAGE_TIMEOUT_SECONDS", default_value_t = 30)]
    message_timeout_seconds: u64,
    /// Messages and pings a second that a client may send, and twice as many at once; 0 for no limit
    ///
    /// What is above is dropped, and a message is answered with an error. A client that goes on is closed with 1008.
    #[arg(long, env = "MAX_UP_RATE", default_value_t = 50)]
    max_up_rate: u32,
    /// What may wait for a slow client, in bytes
    #[arg(long, env = "WS_OUTBOX_BYTES", default_value_t = 256 << 10)]
    ws_outbox_bytes: usize,
    /// Milliseconds that a token may wait to share a segment with the next ones, while the gateway is behind; 0 for never
    #[arg(long, env = "WS_MAX_COALESCE_MS", default_value_t = 100)]
    ws_max_coalesce_ms: u64,
    /// Sockets at most
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// New sockets a second; 0 for no limit
    #[arg(long, env = "MAX_CONNECT_RATE", default_value_t = 2_000)]
    max_connect_rate: u32,
    /// New sockets at once, above what the rate earns; 0 for one second's worth
    #[arg(long, env = "CONNECT_BURST", default_value_t = 0)]
    connect_burst: u32,
    /// Bad tokens a second that are answered from one address, and four times as many at once; 0 for no limit
    ///
    /// What is above is answered with 429. Good tokens are never refused for bad ones.
    #[arg(long, env = "BAD_TOKEN_RATE", default_value_t = 5)]
    bad_token_rate: u32,
    /// Proxies whose X-Forwarded-For is believed: addresses, networks, and `unix` for the unix socket, separated by commas
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", value_name = "LIST")]
    trusted_proxies: String,
    /// Bytes of the log that all sockets together read at a time
    #[arg(long, env = "REPLAY_BYTES", default_value_t = 64 << 20)]
    replay_bytes: u32,
    /// Seconds that a drain takes at most
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// Milliseconds at a drain's begin in which sockets live on while the balancer notices; a quarter of the drain at most
    #[arg(long, env = "DRAIN_DELAY_MS", default_value_t = 1_500)]
    drain_delay_ms: u64,
    /// Seconds over which a drain then spreads its close frames; half of the drain at most
    #[arg(long, env = "DRAIN_WINDOW_SECONDS", default_value_t = 5)]
    drain_window_seconds: u64,
    /// Threads that serve sockets
    #[arg(long, env = "WS_THREADS", default_value_t = 1)]
    ws_threads: usize,
    /// Ask the gateway on this host's PORT whether it is ready; exit with 0 or 1
    #[arg(long)]
    pub health_check: bool,
    /// Old name of SUBSCRIBER_CONNECTIONS
    #[arg(long, env = "PUBSUB_POOL_SIZE", hide = true)]
    pubsub_pool_size: Option<String>,
    /// Old, and no longer of use
    #[arg(long, env = "FASTAPI_URL", hide = true)]
    fastapi_url: Option<String>,
}

/// What the program runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address or name to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Unix socket to listen on as well.
    pub unix_socket: Option<PathBuf>,
    /// Threads that serve sockets.
    pub threads: usize,
    /// The bus.
    pub bus: BusConfig,
    /// The gateway.
    pub gateway: Config,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration does not work:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// The variable of the environment that a refused value came from, if it came from one.
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
    /// The program's own flags and environment; a variable that is set to nothing counts as unset. Ends the program with
    /// a message where they cannot be read.
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

    /// Port to ask for health.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Lists every fault with its value and the next step.
    pub fn resolve(self) -> Result<Settings, Faults> {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        self.check_ranges(&mut faults);
        let subscribers = self.subscriber_connections(&mut warnings);
        if self.fastapi_url.as_deref().is_some_and(|url| !url.is_empty()) {
            warnings.push("FASTAPI_URL is ignored: the token alone admits a client".into());
        }
        let delivery = self.delivery.parse().unwrap_or_else(|fault| {
            faults.push(format!("DELIVERY: {fault}"));
            Delivery::default()
        });
        let trusted_proxies = self.trusted_proxies.parse().unwrap_or_else(|fault| {
            faults.push(format!("TRUSTED_PROXIES: {fault}"));
            TrustedProxies::default()
        });
        let secret = self.secret().map_err(|fault| faults.push(fault)).ok();
        match secret {
            Some(secret) if faults.is_empty() => Ok(Settings {
                bus: self.bus(delivery, subscribers),
                gateway: Config { trusted_proxies, ..self.gateway(secret) },
                host: self.host,
                port: self.port,
                unix_socket: self.unix_socket.clone(),
                threads: self.ws_threads,
                warnings,
            }),
            _ => Err(Faults(faults)),
        }
    }

    fn check_ranges(&self, faults: &mut Vec<String>) {
        let mut range = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                faults.push(format!("{name}: {value} is out of range, use {least} to {most}"));
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
            faults.push(format!("JWT_ALGORITHM: `{}` is not spoken here, use HS256", self.jwt_algorithm));
        }
    }

    fn subscriber_connections(&self, warnings: &mut Vec<String>) -> usize {
        let Some(old) = self.pubsub_pool_size.as_deref().filter(|old| !old.is_empty()) else {
            return self.subscriber_connections;
        };
        let taken = old.parse().map_or(self.subscriber_connections, |size: usize| size.clamp(1, 4));
        warnings.push(format!(
            "PUBSUB_POOL_SIZE is now SUBSCRIBER_CONNECTIONS, 1 to 4: `{old}` is taken for {taken}"
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
                .map_err(|error| format!("JWT_SECRET_FILE: {file} cannot be read: {error}"))
                .and_then(|secret| Secret::new(&secret).map_err(too_short)),
            (None, None) => {
                Err("JWT_SECRET or JWT_SECRET_FILE is needed: make a key with `openssl rand -hex 32`".into())
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

    fn resolve(flags: &[&str]) -> Result<Settings, Faults> {
        Args::parse_from([&["wsproxy", "--jwt-secret-file="], flags].concat()).resolve()
    }

    #[test]
    fn defaults() {
        let settings = resolve(&["--jwt-secret", KEY]).unwrap();
        assert_eq!((settings.port, settings.threads), (4040, 1));
        assert!(settings.bus.instance.starts_with("wsproxy-") && settings.bus.instance.len() == 16);
        assert_eq!(settings.gateway.ping_interval, Duration::from_secs(15));
        assert!(settings.warnings.is_empty());
        // Embedded gateways have the same bounds on what a client may hold.
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
    fn every_fault_is_listed_at_once() {
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
            "TRUSTED_PROXIES: `haproxy`",
        ] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }

    #[test]
    fn the_secret_comes_from_one_place() {
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
    fn old_names_are_understood() {
        let settings =
            resolve(&["--jwt-secret", KEY, "--pubsub-pool-size=32", "--fastapi-url=http://x"]).unwrap();
        assert_eq!(settings.bus.subscriber_connections, 4);
        assert_eq!(settings.warnings.len(), 2);
        assert!(settings.warnings[0].contains("SUBSCRIBER_CONNECTIONS"));
    }
}

//! Reads the program's flags and environment variables and checks them into [`Settings`].

use crate::config::Config;
use bus::{BusConfig, Delivery, Role};
use clap::Parser;
use guard::Budget;
use protocol::Secret;
use settings::{
    flags::{ConfigErrors, JwtFlags, Read},
    stated,
    value::{number, seconds},
};
use std::{path::PathBuf, time::Duration};
use uuid::Uuid;

/// Flags whose values belong to one process, and say nothing about how a gateway works.
const OF_ONE_PROCESS: [&str; 8] = [
    "host",
    "port",
    "unix-socket",
    "instance",
    "bus-name-prefix",
    "jwt-secret-file",
    "trusted-proxies",
    "fastapi-url",
];
const MONTH: u64 = 30 * 86_400;

/// WebSocket gateway: forwards each session's events from Redis to its client
#[derive(Clone, Parser)]
#[command(version, args_override_self = true)]
pub struct Args {
    /// Address to listen on
    #[arg(long, env, default_value = "0.0.0.0")]
    pub(crate) host: String,
    /// Port to listen on
    #[arg(long, env, default_value = "4040", value_parser = number(0..=u16::MAX))]
    pub(crate) port: u16,
    /// Unix socket to listen on in addition, for a load balancer on the same host
    #[arg(long, env, value_name = "PATH")]
    pub(crate) unix_socket: Option<PathBuf>,
    /// URL of Redis: redis://host:port/db
    #[arg(long, env, default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    redis_url: String,
    #[command(flatten)]
    jwt: JwtFlags,
    /// Delivery of events: log (with replay) or pubsub (without, events can be lost)
    #[arg(long, env, default_value = "log")]
    delivery: Delivery,
    /// Name of this process, unique in the stack [default: wsproxy-<8 hex digits>]
    #[arg(long, env)]
    instance: Option<String>,
    /// Prefix of every Redis key and channel
    #[arg(long, env, default_value = "", hide = true)]
    bus_name_prefix: String,
    /// Lifetime of a session's keys, in seconds, at least 60; use the servers' value
    #[arg(long, env, default_value = "10800", value_parser = seconds(60..=MONTH))]
    session_ttl_seconds: Duration,
    /// Number of subscribing Redis connections, 1 to 4
    #[arg(long, env, default_value = "1", value_parser = number::<usize>(1..=4))]
    subscriber_connections: usize,
    #[command(flatten)]
    pub(crate) gateway: Config,
    /// Number of threads that serve sockets
    #[arg(long, env, default_value = "1", value_parser = number::<usize>(1..=256))]
    pub(crate) ws_threads: usize,
    /// Request /ready from the gateway on this host's PORT, then exit with 0 (ready) or 1
    #[arg(long)]
    pub(crate) health_check: bool,
    /// Old name of SUBSCRIBER_CONNECTIONS
    #[arg(long, env, hide = true)]
    pubsub_pool_size: Option<String>,
    /// Old variable without effect
    #[arg(long, env, hide = true)]
    fastapi_url: Option<String>,
}

/// The checked settings of a gateway process.
pub(crate) struct Settings {
    pub(crate) args: Args,
    /// The key that signs tokens.
    pub(crate) secret: Secret,
    pub(crate) bus: BusConfig,
    /// Warnings to log, for example about old names of variables.
    pub(crate) warnings: Vec<String>,
}

impl Args {
    /// Checks all settings.
    ///
    /// # Errors
    /// All settings that are wrong.
    pub(crate) fn settings(read: Read<Self>) -> Result<Settings, ConfigErrors> {
        let Read { mut args, mut errors, mut warnings, changed } = read;
        let (message, largest) =
            (args.gateway.max_message_bytes, Budget::most_for_one(args.gateway.inbound_bytes));
        if message > largest {
            errors.push(format!(
                "invalid number \"{message}\" for MAX_MESSAGE_SIZE_BYTES: expected 1 to {largest}, which is 7/8 of INBOUND_BYTES",
            ));
        }
        let subscriber_connections = args.subscriber_connections(&mut warnings);
        if args.fastapi_url.is_some() {
            warnings.push("FASTAPI_URL has no effect: a gateway checks the token alone".into());
        }
        let key = errors.take(args.jwt.clone().key()).and_then(|key| errors.take(Secret::new(&key)));
        let Some(secret) = key else { return Err(errors) };
        args.gateway.stated = stated::settings(("delivery", args.delivery.name()), changed, &OF_ONE_PROCESS);
        let random = || format!("wsproxy-{:.8}", Uuid::new_v4().as_simple().to_string());
        let bus = BusConfig {
            role: Role::Gateway,
            session_ttl: args.session_ttl_seconds,
            delivery: args.delivery,
            subscriber_connections,
            name_prefix: args.bus_name_prefix.clone(),
            ..BusConfig::new(args.redis_url.clone(), args.instance.clone().unwrap_or_else(random))
        };
        errors.check(Settings { args, secret, bus, warnings })
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

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        let arguments = ["wsproxy"].iter().chain(flags).map(OsString::from);
        Args::settings(flags::read(arguments, |_| None, &[]).unwrap()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn defaults() {
        let settings = settings(&["--jwt-secret", KEY]).unwrap();
        assert_eq!((settings.args.port, settings.args.ws_threads), (4040, 1));
        assert!(settings.bus.instance.starts_with("wsproxy-") && settings.bus.instance.len() == 16);
        assert_eq!(settings.args.gateway.ping_interval, Duration::from_secs(15));
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn the_key_has_exactly_one_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        // Compose passes variables that are not set as empty ones.
        assert!(settings(&["--jwt-secret", "", "--jwt-secret-file", path]).is_ok());
        for flags in [
            &["--jwt-secret", KEY, "--jwt-secret-file", path][..],
            &["--jwt-secret=", "--jwt-secret-file", "/nowhere/at/all"],
            &["--jwt-secret=", "--jwt-secret-file="],
        ] {
            let error = settings(flags).err().unwrap().to_string();
            assert!(error.contains("JWT_SECRET_FILE"), "{flags:?}: {error}");
        }
    }

    #[test]
    fn all_errors_are_listed_together() {
        let values = [
            ("jwt-secret", "short", "JWT secret is too short, 5 of at least 32 bytes"),
            ("jwt-algorithm", "none", "invalid algorithm \"none\" for --jwt-algorithm: expected HS256"),
            ("delivery", "pigeon", "invalid value \"pigeon\" for --delivery: expected log or pubsub"),
            ("subscriber-connections", "9", "\"9\" for --subscriber-connections: expected 1 to 4"),
            ("ws-ping-interval-secs", "0", "\"0\" for --ws-ping-interval-secs: expected 1s to 86400s"),
            ("max-connections", "0", "\"0\" for --max-connections: expected 1 to 10000000"),
            ("ws-outbox-bytes", "1", "\"1\" for --ws-outbox-bytes: expected 1024 to 1073741824"),
            ("ws-max-coalesce-ms", "5000", "\"5000\" for --ws-max-coalesce-ms: expected 0s to 1s"),
            ("replay-bytes", "5", "\"5\" for --replay-bytes: expected 65536 to 4294967295"),
            ("max-connect-rate", "2000000", "\"2000000\" for --max-connect-rate: expected 0 to 1000000"),
            (
                "drain-delay-ms",
                "70000",
                "invalid duration \"70000\" for --drain-delay-ms: expected 0s to 60s",
            ),
            ("inbound-bytes", "100000", "expected 1 to 87500, which is 7/8 of INBOUND_BYTES"),
            ("max-message-size-bytes", "90000", "invalid number \"90000\" for MAX_MESSAGE_SIZE_BYTES"),
            ("message-timeout-seconds", "0", "\"0\" for --message-timeout-seconds: expected 1s to 86400s"),
            (
                "trusted-proxies",
                "unix,haproxy",
                "\"unix,haproxy\" for --trusted-proxies: invalid proxy `haproxy`",
            ),
        ];
        let flags = values.map(|(flag, value, _)| format!("--{flag}={value}"));
        let text = settings(&flags.each_ref().map(String::as_str)).err().unwrap();
        for (_, _, error) in values {
            assert!(text.contains(error), "{error} is not in {text}");
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

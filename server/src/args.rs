//! Reads flags and environment variables and checks them into [`Settings`]. All errors are reported together. An empty value counts as
//! unset, because Compose files pass unset variables as empty ones.

use crate::{
    config::Config,
    distribution::Distribution,
    plan::{DELAY_MS, Timing},
    text::ResponseText,
};
use bus::{BusConfig, Delivery};
use clap::Parser;
use protocol::Secret;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

/// LLM simulator: creates sessions over HTTP and publishes simulated token streams to Redis.
#[derive(Clone, Default, Parser)]
#[command(version, name = "server", args_override_self = true)]
pub struct Args {
    /// Request /ready from the server on this host, then exit with 0 (ready) or 1.
    #[arg(long)]
    pub health_check: bool,
    /// Address to listen on [default: 0.0.0.0].
    #[arg(long, env = "HOST")]
    pub host: Option<String>,
    /// Port to listen on [default: 8000].
    #[arg(long, env = "PORT")]
    pub port: Option<String>,
    /// URL of Redis, or memory:// for a single server without gateways [default: redis://127.0.0.1:6379].
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// Key that signs session tokens, at least 32 bytes.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// File that holds the key.
    #[arg(long, env = "JWT_SECRET_FILE")]
    pub jwt_secret_file: Option<String>,
    /// Signature algorithm of session tokens: only HS256 is supported.
    #[arg(long, env = "JWT_ALGORITHM")]
    pub jwt_algorithm: Option<String>,
    /// Lifetime of a session token, in seconds [default: unlimited].
    #[arg(long, env = "TOKEN_TTL_SECONDS")]
    pub token_ttl_seconds: Option<String>,
    /// Delivery of events: log (with replay) or pubsub (publish only, events can be lost) [default: log].
    #[arg(long, env = "DELIVERY")]
    pub delivery: Option<String>,
    /// Name of this process, unique in the stack [default: server-<8 hex digits>].
    #[arg(long, env = "INSTANCE")]
    pub instance: Option<String>,
    /// Prefix of every Redis key and channel.
    #[arg(long, env = "BUS_NAME_PREFIX", hide = true)]
    pub bus_name_prefix: Option<String>,
    /// Lifetime of a session after its last query, in seconds, at least 60 [default: 10800].
    #[arg(long, env = "SESSION_TTL_SECONDS")]
    pub session_ttl_seconds: Option<String>,
    /// Text of every answer, one word per token [default: a sentence of 18 words].
    #[arg(long, env = "LLM_RESPONSE_TEXT")]
    pub llm_response_text: Option<String>,
    /// Delay after each token, in milliseconds [default: 50].
    #[arg(long, env = "TOKEN_DELAY_MS")]
    pub token_delay_ms: Option<String>,
    /// Delay before the first token, in milliseconds: 50, fixed:50, uniform:20,80, normal:50,10, lognormal:50,0.5 [default: 0].
    #[arg(long, env = "TTFT_MS")]
    pub ttft_ms: Option<String>,
    /// Delay after each token, as a distribution [default: TOKEN_DELAY_MS].
    #[arg(long, env = "ITL_MS")]
    pub itl_ms: Option<String>,
    /// Number of tokens per query, as a distribution [default: the words of LLM_RESPONSE_TEXT].
    #[arg(long, env = "TOKENS")]
    pub tokens: Option<String>,
    /// Seed of all schedules, together with each query's id [default: random at each start].
    #[arg(long, env = "SEED")]
    pub seed: Option<String>,
    /// Number of workers that generate streams, at most the number of cores [default: half the cores, 1 to 4].
    #[arg(long, env = "SERVER_WORKERS")]
    pub server_workers: Option<String>,
    /// Largest number of running queries; further ones get 429 [default: 10000].
    #[arg(long, env = "MAX_STREAMS")]
    pub max_streams: Option<String>,
    /// Largest number of open HTTP connections; further ones are closed [default: 10000].
    #[arg(long, env = "MAX_CONNECTIONS")]
    pub max_connections: Option<String>,
    /// Time for running queries to end after SIGTERM, in seconds [default: 30].
    #[arg(long, env = "DRAIN_SECONDS")]
    pub drain_seconds: Option<String>,
    /// Old name of HOST.
    #[arg(long, env = "FASTAPI_HOST", hide = true)]
    pub fastapi_host: Option<String>,
    /// Old name of PORT.
    #[arg(long, env = "FASTAPI_PORT", hide = true)]
    pub fastapi_port: Option<String>,
    /// Old name of SERVER_WORKERS.
    #[arg(long, env = "FASTAPI_WORKERS", hide = true)]
    pub fastapi_workers: Option<String>,
}

/// The checked settings of a server process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port to listen on.
    pub listen: (String, u16),
    /// Settings of the bus.
    pub bus: BusConfig,
    /// Settings of the server.
    pub server: Config,
    /// Warnings to log, for example about old names of variables.
    pub warnings: Vec<String>,
}

/// All errors of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid configuration:")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Args {
    /// Checks all values.
    ///
    /// # Errors
    /// All values that are wrong.
    pub fn settings(mut self) -> Result<Settings, ConfigErrors> {
        let mut reader = Reader::default();
        let listen = self.listen(&mut reader);
        let server = self.server(&mut reader);
        let bus = self.bus(&mut reader, &server);
        let Reader { errors, warnings } = reader;
        match server {
            Some(server) if errors.is_empty() => Ok(Settings { listen, bus, server, warnings }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// Returns the address that a health check connects to.
    ///
    /// # Errors
    /// The host or the port is invalid.
    pub fn health_address(mut self) -> Result<SocketAddr, ConfigErrors> {
        let mut reader = Reader::default();
        let (host, port) = self.listen(&mut reader);
        let ip = host.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
        if reader.errors.is_empty() {
            Ok(SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port))
        } else {
            Err(ConfigErrors(reader.errors))
        }
    }

    fn listen(&mut self, reader: &mut Reader) -> (String, u16) {
        let host = reader.renamed("HOST", self.host.take(), "FASTAPI_HOST", self.fastapi_host.take());
        let port = reader.renamed("PORT", self.port.take(), "FASTAPI_PORT", self.fastapi_port.take());
        (host.unwrap_or_else(|| "0.0.0.0".to_owned()), reader.number("PORT", port, 8000, 0..=u16::MAX))
    }

    fn bus(&mut self, reader: &mut Reader, server: &Option<Config>) -> BusConfig {
        let url = filled(self.redis_url.take()).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
        let instance = server.as_ref().map_or_else(String::new, |server| server.instance.clone());
        let mut bus = BusConfig::new(url, instance);
        let ttl = self.session_ttl_seconds.take();
        bus.session_ttl = Duration::from_secs(reader.number("SESSION_TTL_SECONDS", ttl, 10_800, SESSION_TTL));
        bus.delivery = reader.value("DELIVERY", self.delivery.take()).unwrap_or(Delivery::Log);
        bus.name_prefix = self.bus_name_prefix.take().unwrap_or_default();
        bus
    }

    fn server(&mut self, reader: &mut Reader) -> Option<Config> {
        let secret = self.secret(reader);
        let text = match filled(self.llm_response_text.take()) {
            Some(text) => {
                reader.check("LLM_RESPONSE_TEXT", ResponseText::new(&text).ok_or("it contains no word"))
            }
            None => ResponseText::new(crate::DEFAULT_TEXT),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = reader.renamed(
            "SERVER_WORKERS",
            self.server_workers.take(),
            "FASTAPI_WORKERS",
            self.fastapi_workers.take(),
        );
        // Each worker sends appends of its own, so fewer workers mean more tokens per append.
        let workers = reader.number("SERVER_WORKERS", workers, (cores / 2).clamp(1, 4), 1..=1024).min(cores);
        let max_streams =
            reader.number("MAX_STREAMS", self.max_streams.take(), 10_000, 1..=Config::MAX_STREAMS);
        let connections = self.max_connections.take();
        let max_connections = reader.number("MAX_CONNECTIONS", connections, 10_000, 1..=10_000_000);
        let drain = reader.number("DRAIN_SECONDS", self.drain_seconds.take(), 30, 0..=86_400);
        let token_ttl = filled(self.token_ttl_seconds.take())
            .map(|ttl| reader.number("TOKEN_TTL_SECONDS", Some(ttl), 1, SECONDS));
        let seed = reader.value("SEED", self.seed.take());
        let instance =
            filled(self.instance.take()).unwrap_or_else(|| format!("server-{:08x}", rand::random::<u32>()));
        let timing = self.timing(reader, text.as_ref().map_or(1, ResponseText::words));
        let defaults = Config::new(secret?);
        Some(Config {
            instance,
            token_ttl: token_ttl.map(Duration::from_secs),
            text: text?,
            timing,
            seed: seed.unwrap_or(defaults.seed),
            workers,
            max_streams,
            max_connections,
            drain: Duration::from_secs(drain),
            ..defaults
        })
    }

    fn timing(&mut self, reader: &mut Reader, words: u64) -> Timing {
        let token_delay = reader.number("TOKEN_DELAY_MS", self.token_delay_ms.take(), 50.0, DELAY_MS);
        let mut drawn = |name, value, range: &RangeInclusive<f64>, default| {
            let distribution: Option<Distribution> = reader.value(name, value);
            if let Some(Err(error)) = distribution.map(|distribution| distribution.within(range)) {
                reader.errors.push(format!("{name}: {error}"));
            }
            distribution.unwrap_or(Distribution::Fixed(default))
        };
        Timing {
            ttft_ms: drawn("TTFT_MS", self.ttft_ms.take(), &DELAY_MS, 0.0),
            itl_ms: drawn("ITL_MS", self.itl_ms.take(), &DELAY_MS, token_delay),
            tokens: drawn("TOKENS", self.tokens.take(), &Timing::token_range(), words as f64),
        }
    }

    fn secret(&mut self, reader: &mut Reader) -> Option<Secret> {
        if let Some(algorithm) = filled(self.jwt_algorithm.take()).filter(|name| name != "HS256") {
            reader.errors.push(format!("JWT_ALGORITHM: `{algorithm}` is not supported: use HS256"));
        }
        let key = match (filled(self.jwt_secret.take()), filled(self.jwt_secret_file.take())) {
            (Some(_), Some(_)) => Err("both JWT_SECRET and JWT_SECRET_FILE are set: unset one".to_owned()),
            (Some(key), None) => Ok(key),
            (None, Some(path)) => std::fs::read_to_string(&path)
                .map_err(|error| format!("JWT_SECRET_FILE: cannot read `{path}`: {error}")),
            (None, None) => {
                Err("JWT_SECRET or JWT_SECRET_FILE is required: make a key with `openssl rand -hex 32`"
                    .to_owned())
            }
        };
        match key.and_then(|key| Secret::new(&key).map_err(|error| error.to_string())) {
            Ok(secret) => Some(secret),
            Err(error) => {
                reader.errors.push(error);
                None
            }
        }
    }
}

const SECONDS: RangeInclusive<u64> = 1..=315_360_000;
/// Keys are renewed every third of this time. Below a minute they could expire while Redis is slow.
const SESSION_TTL: RangeInclusive<u64> = 60..=315_360_000;

/// Returns the value unless it is blank.
fn filled(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.trim().is_empty())
}

/// Parses values and collects their errors.
#[derive(Default)]
struct Reader {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    fn check<T>(&mut self, name: &str, value: Result<T, impl fmt::Display>) -> Option<T> {
        value.map_err(|error| self.errors.push(format!("{name}: {error}"))).ok()
    }

    fn value<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, value: Option<String>) -> Option<T> {
        let text = filled(value)?;
        let parsed = text.trim().parse().map_err(|error| format!("{error} (`{text}`)"));
        self.check(name, parsed)
    }

    fn number<T>(&mut self, name: &str, value: Option<String>, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr<Err: fmt::Display> + PartialOrd + fmt::Display,
    {
        let Some(number) = self.value(name, value) else { return default };
        if !range.contains(&number) {
            let (low, high) = range.into_inner();
            self.errors.push(format!("{name}: {number} is not between {low} and {high}"));
        }
        number
    }

    fn renamed(
        &mut self,
        name: &str,
        value: Option<String>,
        old: &str,
        old_value: Option<String>,
    ) -> Option<String> {
        let old_value = filled(old_value);
        if old_value.is_some() {
            self.warnings.push(format!("{old} is an old name: use {name}"));
        }
        filled(value).or(old_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a key of thirty-two bytes or more";

    fn args(change: impl FnOnce(&mut Args)) -> Args {
        let mut args = Args { jwt_secret: Some(KEY.into()), ..Args::default() };
        change(&mut args);
        args
    }

    fn check(change: impl FnOnce(&mut Args), expected: &str) {
        let errors = args(change).settings().unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors} does not contain {expected}");
    }

    #[test]
    fn defaults() {
        let settings = args(|_| {}).settings().unwrap();
        assert_eq!(settings.listen, ("0.0.0.0".to_owned(), 8000));
        assert_eq!(settings.bus.url, "redis://127.0.0.1:6379");
        assert_eq!(settings.bus.session_ttl, Duration::from_secs(10_800));
        assert_eq!(settings.bus.instance, settings.server.instance);
        assert_eq!(settings.server.timing, Config::new(Secret::new(KEY).unwrap()).timing);
        assert_eq!(settings.server.token_ttl, None);
        assert!(settings.server.workers >= 1 && settings.warnings.is_empty());
    }

    #[test]
    fn bad_values_are_named() {
        for port in ["x", "-1", "65536"] {
            check(|args| args.port = Some(port.into()), "PORT: ");
        }
        check(|args| args.server_workers = Some("0".into()), "SERVER_WORKERS: 0 is not between 1 and");
        check(|args| args.max_streams = Some("0".into()), "MAX_STREAMS: 0 is not between 1 and 1000000");
        check(|args| args.max_connections = Some("0".into()), "MAX_CONNECTIONS: 0 is not between 1 and");
        check(|args| args.token_delay_ms = Some("nan".into()), "TOKEN_DELAY_MS: NaN is not between 0 and");
        check(|args| args.token_delay_ms = Some("-5".into()), "TOKEN_DELAY_MS: -5 is not between 0 and");
        check(|args| args.ttft_ms = Some("gauss:1".into()), "TTFT_MS: `gauss:1` is not a distribution");
        check(|args| args.itl_ms = Some("uniform:0,4e6".into()), "ITL_MS: 4000000 is not between 0 and");
        check(|args| args.tokens = Some("0".into()), "TOKENS: 0 is not between 1 and 1000000");
        check(|args| args.session_ttl_seconds = Some("59".into()), "SESSION_TTL_SECONDS: 59 is not");
        check(|args| args.token_ttl_seconds = Some("0".into()), "TOKEN_TTL_SECONDS: 0 is not");
        check(|args| args.drain_seconds = Some("soon".into()), "DRAIN_SECONDS: ");
        check(|args| args.seed = Some("x".into()), "SEED: ");
        check(|args| args.delivery = Some("pigeon".into()), "DELIVERY: `pigeon`");
        check(|args| args.jwt_algorithm = Some("none".into()), "JWT_ALGORITHM: `none`");
        check(|args| args.jwt_secret = Some("short".into()), "has 5 bytes, at least 32");
        check(|args| args.jwt_secret = None, "JWT_SECRET or JWT_SECRET_FILE is required");
        check(|args| args.jwt_secret_file = Some("/x".into()), "both JWT_SECRET and JWT_SECRET_FILE");
        let missing = |args: &mut Args| {
            args.jwt_secret = None;
            args.jwt_secret_file = Some("/does/not/exist".into());
        };
        check(missing, "cannot read `/does/not/exist`");
    }

    #[test]
    fn all_errors_are_listed_without_the_secret() {
        let bad = args(|args| {
            args.port = Some("x".into());
            args.jwt_secret = Some("hunter2".into());
            args.tokens = Some("y".into());
        });
        let errors = bad.settings().unwrap_err().to_string();
        for name in ["PORT", "JWT", "TOKENS"] {
            assert!(errors.contains(name), "{errors} does not name {name}");
        }
        assert!(!errors.contains("hunter2"));
        assert!(!format!("{:?}", args(|_| {}).settings().unwrap()).contains(KEY));
    }

    #[test]
    fn old_names_are_accepted_and_new_ones_take_precedence() {
        let old = |args: &mut Args| {
            args.fastapi_host = Some("127.0.0.1".into());
            args.fastapi_port = Some("9000".into());
            args.fastapi_workers = Some("1".into());
        };
        let settings = args(old).settings().unwrap();
        assert_eq!(settings.listen, ("127.0.0.1".to_owned(), 9000));
        assert_eq!(settings.server.workers, 1);
        assert_eq!(settings.warnings.len(), 3);
        assert!(settings.warnings[1].contains("FASTAPI_PORT") && settings.warnings[1].contains("use PORT"));
        let both = args(|args| {
            old(args);
            args.port = Some("9001".into());
        });
        assert_eq!(both.settings().unwrap().listen.1, 9001);
    }

    #[test]
    fn a_secret_is_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let from_file = args(|args| {
            args.jwt_secret = Some(String::new());
            args.jwt_secret_file = Some(file.path().to_str().unwrap().into());
        });
        from_file.settings().unwrap();
    }

    #[test]
    fn a_health_check_asks_this_machine() {
        let address = |host: &str| args(|args| args.host = Some(host.into())).health_address().unwrap();
        assert_eq!(address("0.0.0.0").to_string(), "127.0.0.1:8000");
        assert_eq!(address("127.0.0.2").to_string(), "127.0.0.2:8000");
        assert_eq!(address("").to_string(), "127.0.0.1:8000");
    }

    #[test]
    fn flags_parse() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}

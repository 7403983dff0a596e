//! Reads flags and environment variables and checks them into [`Settings`].

use crate::{
    config::{Config, OpenAiConfig, StoreLimits},
    openai::AnswerDefaults,
    plan::{DELAY_MS, Timing},
    text::ResponseText,
};
use bus::{BusConfig, Delivery};
use clap::Parser;
use protocol::Secret;
use settings::{
    distribution::{Distribution, Unit},
    flags::{ConfigErrors, JwtFlags, Read},
    secret, stated,
    value::{Invalid, milliseconds, number, seconds},
};
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use telemetry::Url;

/// Old names of variables.
pub(crate) const OLD_NAMES: [(&str, &str); 3] =
    [("HOST", "FASTAPI_HOST"), ("PORT", "FASTAPI_PORT"), ("SERVER_WORKERS", "FASTAPI_WORKERS")];
/// Flags whose values belong to one process, and say nothing about how a server works.
const OF_ONE_PROCESS: [&str; 7] =
    ["host", "port", "instance", "bus-name-prefix", "jwt-secret-file", "seed", "record"];
const TEN_YEARS: u64 = 315_360_000;

/// LLM simulator: creates sessions over HTTP and publishes simulated token streams to Redis. It also serves OpenAI's dialects:
/// /v1/chat/completions, /v1/completions, /v1/responses (over HTTP and as a WebSocket) and /v1/models.
#[derive(Clone, Parser)]
#[command(version, name = "server", args_override_self = true, after_help = WITHOUT_REDIS)]
pub struct Args {
    /// Request /ready from the server on this host, then exit with 0 (ready) or 1.
    #[arg(long)]
    pub(crate) health_check: bool,
    /// Address to listen on.
    #[arg(long, alias = "fastapi-host", env, default_value = "0.0.0.0")]
    host: String,
    /// Port to listen on.
    #[arg(long, alias = "fastapi-port", env, default_value = "8000", value_parser = number(0..=u16::MAX))]
    port: u16,
    /// Bus between servers and gateways: redis or memory. With memory, the server needs no Redis, no gateway can connect to it, and
    /// JWT_SECRET is optional.
    #[arg(long, env, default_value = "redis")]
    bus: Bus,
    /// URL of Redis. memory:// is the same as --bus memory.
    #[arg(long, env, default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    redis_url: String,
    #[command(flatten)]
    jwt: JwtFlags,
    /// Lifetime of a session token, in seconds [default: unlimited].
    #[arg(long, env, value_parser = seconds(1..=TEN_YEARS))]
    token_ttl_seconds: Option<Duration>,
    /// Delivery of events: log (with replay) or pubsub (publish only, events can be lost).
    #[arg(long, env, default_value = "log")]
    delivery: Delivery,
    /// Name of this process, unique in the stack [default: server-<8 hex digits>].
    #[arg(long, env)]
    instance: Option<String>,
    /// Prefix of every Redis key and channel.
    #[arg(long, env, default_value = "", hide = true)]
    bus_name_prefix: String,
    // Keys are renewed every third of this time. Below a minute they could expire while Redis is slow.
    /// Lifetime of a session after its last query, in seconds, at least 60.
    #[arg(long, env, default_value = "10800", value_parser = seconds(60..=TEN_YEARS))]
    session_ttl_seconds: Duration,
    /// Text of every answer, one word per token [default: a sentence of 18 words].
    #[arg(long, env, hide_default_value = true, default_value = crate::DEFAULT_TEXT, value_parser = text)]
    llm_response_text: ResponseText,
    /// Delay after each token, in milliseconds.
    #[arg(long, env, default_value = "50", value_parser = milliseconds(0..=3_600_000))]
    token_delay_ms: Duration,
    /// Delay before the first token, in milliseconds: 50, uniform:20,80, normal:50,10, lognormal:50,0.5 or exp:50. Values
    /// may have a unit: 50ms, uniform:1s,3s [default: 0].
    #[arg(long, env, value_parser = Distribution::parser_in(Unit::Milliseconds, DELAY_MS))]
    ttft_ms: Option<Distribution>,
    /// Delay after each token, as a distribution [default: TOKEN_DELAY_MS].
    #[arg(long, env, value_parser = Distribution::parser_in(Unit::Milliseconds, DELAY_MS))]
    itl_ms: Option<Distribution>,
    /// Number of tokens per query, as a distribution [default: the words of LLM_RESPONSE_TEXT].
    #[arg(long, env, value_parser = Distribution::parser_in(Unit::None, Timing::token_range()))]
    tokens: Option<Distribution>,
    /// Seed of all schedules, together with each query's id [default: random at each start].
    #[arg(long, env, value_parser = number(0..=u64::MAX))]
    seed: Option<u64>,
    /// Number of workers that generate streams, at most the number of cores [default: half the cores, 1 to 4].
    #[arg(long, alias = "fastapi-workers", env, value_parser = number::<usize>(1..=1024))]
    server_workers: Option<usize>,
    /// Largest number of running queries; further ones get 429.
    #[arg(long, env, default_value = "10000", value_parser = number::<usize>(1..=Config::MAX_STREAMS))]
    max_streams: usize,
    /// Largest number of open HTTP connections; further ones are closed.
    #[arg(long, env, default_value = "10000", value_parser = number::<usize>(1..=10_000_000))]
    max_connections: usize,
    /// Push metrics to this OpenTelemetry collector (OTLP over HTTP), for example http://127.0.0.1:4318.
    #[arg(long, env = "OTLP_URL", value_name = "URL", value_parser = telemetry::push_url, hide_env_values = true)]
    otlp: Option<Url>,
    /// Time for running queries to end after SIGTERM, in seconds.
    #[arg(long, env, default_value = "30", value_parser = seconds(0..=86_400))]
    drain_seconds: Duration,
    /// Key that calls below /v1 must send, as `Authorization: Bearer KEY` [default: no check].
    #[arg(long, env = "SERVER_API_KEY", hide_env_values = true, value_parser = api_key)]
    api_key: Option<secret::Secret>,
    /// Models that GET /v1/models lists, separated by commas. Calls may name others.
    #[arg(long, env, default_value = "sim")]
    models: Models,
    /// Largest number of responses of /v1/responses that are kept for later calls; the oldest make room.
    #[arg(long, env, default_value = "10000", value_parser = number::<usize>(0..=Config::MAX_STREAMS))]
    stored_responses: usize,
    /// Largest number of bytes that the kept responses hold together.
    #[arg(long, env, default_value = "67108864", value_parser = number::<usize>(0..=1 << 40))]
    stored_response_bytes: usize,
    /// Time for which a response is kept, in seconds.
    #[arg(long, env, default_value = "600", value_parser = seconds(1..=TEN_YEARS))]
    stored_response_seconds: Duration,
    /// Age at which a WebSocket of /v1/responses is closed, in seconds.
    #[arg(long, env, default_value = "3600", value_parser = seconds(1..=TEN_YEARS))]
    max_websocket_age_seconds: Duration,
    /// Schedule, form and faults of the answers below /v1 whose requests have no field `streamstress`: a JSON object with the fields that
    /// docs/openai.md lists for it, for example {"role": "early", "faults": [{"kind": "error", "at": 30, "every": 20}]}.
    #[arg(long, env, value_name = "JSON")]
    openai_defaults: Option<AnswerDefaults>,
    /// Write a line of JSON to this file for each streamed answer below /v1: when each token was due, and when it was sent. The
    /// file is emptied at the start and holds at most 1 GiB.
    #[arg(long, env = "SERVER_RECORD", value_name = "FILE")]
    record: Option<PathBuf>,
}

/// What works without Redis, for the end of the help.
const WITHOUT_REDIS: &str = "\
Without Redis (--bus memory): all calls below /v1 work as with Redis, because the server streams their answers itself. \
/session/create, /session/{id}/run and /session/{id}/close work as well, but their tokens reach no client: they need a gateway, and one \
without Redis must share the process, as in `streamstress --embedded`.";

/// The bus between servers and gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bus {
    Redis,
    Memory,
}

impl FromStr for Bus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "redis" => Ok(Self::Redis),
            "memory" => Ok(Self::Memory),
            _ => Err(Invalid { kind: "bus", expected: "redis or memory".into() }),
        }
    }
}

/// The names of models, at least one.
#[derive(Clone, Debug)]
struct Models(Vec<String>);

impl FromStr for Models {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(Invalid { kind: "list of models", expected: "names separated by commas".into() });
        }
        Ok(Self(names))
    }
}

/// The checked settings of a server process.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Host and port to listen on.
    pub(crate) listen: (String, u16),
    pub(crate) bus: BusConfig,
    pub(crate) server: Config,
    /// Warnings to log, for example about old names of variables.
    pub(crate) warnings: Vec<String>,
}

impl Args {
    /// Returns the address that a health check connects to.
    pub(crate) fn health_address(&self) -> SocketAddr {
        let ip = self.host.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
        SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port)
    }

    /// Checks all settings.
    ///
    /// # Errors
    /// All settings that are wrong.
    pub(crate) fn settings(read: Read<Self>) -> Result<Settings, ConfigErrors> {
        let Read { args, mut errors, warnings, changed } = read;
        let in_memory = args.bus == Bus::Memory || args.redis_url.starts_with(MEMORY);
        // Without another process there is none to share the key with.
        let needs_key = !in_memory || args.jwt.jwt_secret.is_some() || args.jwt.jwt_secret_file.is_some();
        let key = if needs_key { args.jwt.key() } else { Ok(random_key()) };
        let key = errors.take(key).and_then(|key| errors.take(Secret::new(&key)));
        let Some(defaults) = key.map(Config::new) else { return Err(errors) };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let instance = args.instance.unwrap_or_else(|| format!("server-{:08x}", rand::random::<u32>()));
        let bus = BusConfig {
            session_ttl: args.session_ttl_seconds,
            delivery: args.delivery,
            name_prefix: args.bus_name_prefix,
            ..BusConfig::new(if in_memory { MEMORY.to_owned() } else { args.redis_url }, instance.clone())
        };
        let fixed = Distribution::Fixed;
        let timing = Timing {
            ttft_ms: args.ttft_ms.unwrap_or(fixed(0.0)),
            itl_ms: args.itl_ms.unwrap_or(fixed(args.token_delay_ms.as_secs_f64() * 1e3)),
            tokens: args.tokens.unwrap_or(fixed(args.llm_response_text.words() as f64)),
        };
        let server = Config {
            instance,
            token_ttl: args.token_ttl_seconds,
            text: args.llm_response_text,
            timing,
            seed: args.seed.unwrap_or(defaults.seed),
            // Each worker sends appends of its own, so fewer workers mean more tokens per append.
            workers: args.server_workers.unwrap_or((cores / 2).clamp(1, 4)).min(cores),
            max_streams: args.max_streams,
            max_connections: args.max_connections,
            drain: args.drain_seconds,
            otlp: args.otlp,
            stated: stated::settings(("delivery", args.delivery.name()), changed, &OF_ONE_PROCESS),
            openai: OpenAiConfig {
                models: args.models.0,
                api_key: args.api_key,
                store: StoreLimits {
                    number: args.stored_responses,
                    bytes: args.stored_response_bytes,
                    age: args.stored_response_seconds,
                },
                max_socket_age: args.max_websocket_age_seconds,
                defaults: args.openai_defaults.unwrap_or_default(),
                record: args.record,
            },
            ..defaults
        };
        errors.check(Settings { listen: (args.host, args.port), bus, server, warnings })
    }
}

/// The URL of the bus in memory.
const MEMORY: &str = "memory://";

fn random_key() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn api_key(text: &str) -> Result<secret::Secret, Infallible> {
    Ok(secret::Secret::new(text))
}

fn text(text: &str) -> Result<ResponseText, &'static str> {
    ResponseText::new(text).ok_or("expected at least one word")
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::flags;
    use std::ffi::OsString;

    const KEY: &str = "a key of thirty-two bytes or more";

    fn with_variables(flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
        let arguments = ["server", "--jwt-secret", KEY].iter().chain(flags);
        let variable = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.into());
        Args::settings(flags::read(arguments.map(OsString::from), variable, &OLD_NAMES).unwrap())
    }

    fn settings(flags: &[&str]) -> Result<Settings, ConfigErrors> {
        with_variables(flags, &[])
    }

    fn check(flags: &[&str], expected: &str) {
        let errors = settings(flags).unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors} does not contain {expected}");
    }

    #[test]
    fn defaults() {
        let settings = settings(&[]).unwrap();
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
            let error = format!("invalid number \"{port}\" for --port: expected 0 to 65535");
            check(&[&format!("--port={port}")], &error);
        }
        check(&["--server-workers=0"], "invalid number \"0\" for --server-workers: expected 1 to 1024");
        check(&["--max-streams=0"], "invalid number \"0\" for --max-streams: expected 1 to 1000000");
        check(&["--max-connections=0"], "invalid number \"0\" for --max-connections: expected 1 to 10000000");
        check(
            &["--token-delay-ms=nan"],
            "invalid duration \"nan\" for --token-delay-ms: expected 0s to 3600s",
        );
        check(&["--token-delay-ms=-5"], "invalid duration \"-5\" for --token-delay-ms: expected 0s to 3600s");
        check(
            &["--ttft-ms=gauss:1"],
            "invalid distribution \"gauss:1\" for --ttft-ms: expected for example 50ms, uniform:20ms,80ms,",
        );
        check(
            &["--itl-ms=uniform:0,4e6"],
            "invalid distribution \"uniform:0,4e6\" for --itl-ms: expected values from 0 to 3600000",
        );
        check(&["--tokens=0"], "invalid distribution \"0\" for --tokens: expected values from 1 to 1000000");
        check(
            &["--session-ttl-seconds=59"],
            "invalid duration \"59\" for --session-ttl-seconds: expected 60s to",
        );
        check(&["--token-ttl-seconds=0"], "invalid duration \"0\" for --token-ttl-seconds: expected 1s to");
        check(&["--drain-seconds=soon"], "invalid duration \"soon\" for --drain-seconds");
        check(&["--seed=x"], "invalid number \"x\" for --seed");
        check(&["--delivery=pigeon"], "invalid value \"pigeon\" for --delivery: expected log or pubsub");
        check(&["--jwt-algorithm=none"], "invalid algorithm \"none\" for --jwt-algorithm: expected HS256");
        check(&["--jwt-secret=short"], "is too short, 5 of at least 32 bytes");
    }

    #[test]
    fn the_key_has_exactly_one_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        // Compose passes variables that are not set as empty ones.
        assert!(settings(&["--jwt-secret=", "--jwt-secret-file", path]).is_ok());
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
    fn all_errors_are_listed_without_the_secret() {
        let bad = settings(&["--port=x", "--jwt-secret=hunter2", "--tokens=y"]);
        let errors = bad.unwrap_err().to_string();
        for name in ["--port", "JWT", "--tokens"] {
            assert!(errors.contains(name), "{errors} does not name {name}");
        }
        assert!(!errors.contains("hunter2"));
        assert!(!format!("{:?}", settings(&[]).unwrap()).contains(KEY));
    }

    #[test]
    fn durations_have_units() {
        let flags = ["--token-delay-ms=0.5s", "--ttft-ms=uniform:1s,3000", "--drain-seconds=2m"];
        let settings = settings(&flags).unwrap().server;
        assert_eq!(settings.timing.itl_ms, Distribution::Fixed(500.0));
        assert_eq!(settings.timing.ttft_ms, Distribution::Uniform(1e3, 3e3));
        assert_eq!(settings.drain, Duration::from_secs(120));
    }

    #[test]
    fn old_names_are_accepted_and_new_ones_take_precedence() {
        let old = [("FASTAPI_HOST", "127.0.0.1"), ("FASTAPI_PORT", "9000"), ("FASTAPI_WORKERS", "1")];
        let settings = with_variables(&[], &old).unwrap();
        assert_eq!(settings.listen, ("127.0.0.1".to_owned(), 9000));
        assert_eq!(settings.server.workers, 1);
        assert_eq!(settings.warnings.len(), 3);
        assert!(settings.warnings[1].contains("FASTAPI_PORT") && settings.warnings[1].contains("use PORT"));
        let both = with_variables(&[], &[&old[..], &[("PORT", "9001")]].concat());
        assert_eq!(both.unwrap().listen.1, 9001);
        assert_eq!(with_variables(&["--fastapi-port=9002"], &old).unwrap().listen.1, 9002);
    }

    #[test]
    fn without_redis_no_key_is_needed() {
        let read = |flags: &[&str]| {
            let arguments = ["server"].iter().chain(flags).map(OsString::from);
            Args::settings(flags::read(arguments, |_| None, &OLD_NAMES).unwrap())
        };
        for flags in
            [&["--bus=memory"][..], &["--redis-url=memory://"], &["--bus", "memory", "--jwt-secret", KEY]]
        {
            assert_eq!(read(flags).unwrap().bus.url, "memory://", "{flags:?}");
        }
        assert!(read(&[]).unwrap_err().to_string().contains("JWT_SECRET"));
        assert!(read(&["--bus=memory", "--jwt-secret=short"]).unwrap_err().to_string().contains("too short"));
        check(&["--bus=nats"], "invalid bus \"nats\" for --bus: expected redis or memory");
    }

    #[test]
    fn settings_of_openais_dialects() {
        let openai = |flags: &[&str]| settings(flags).unwrap().server.openai;
        let defaults = openai(&[]);
        assert_eq!((defaults.models, defaults.api_key.is_none()), (vec!["sim".to_owned()], true));
        assert_eq!((defaults.store.number, defaults.max_socket_age), (10_000, Duration::from_secs(3600)));
        let given = openai(&[
            "--models=a, b",
            "--api-key=sk-hunter2",
            "--stored-responses=0",
            "--max-websocket-age-seconds=25m",
        ]);
        assert_eq!((given.models, given.store.number), (vec!["a".to_owned(), "b".to_owned()], 0));
        assert_eq!(given.max_socket_age, Duration::from_secs(1500));
        assert_eq!(given.api_key.as_ref().unwrap().reveal(), "sk-hunter2");
        assert!(!format!("{:?}", given.api_key).contains("hunter2"));
        assert_eq!((given.record, given.defaults), (None, AnswerDefaults::default()));
        let given = openai(&[r#"--openai-defaults={"role": "early"}"#, "--record=x.jsonl"]);
        assert_eq!(given.defaults, r#"{"role": "early"}"#.parse().unwrap());
        assert_eq!(given.record, Some("x.jsonl".into()));
        check(
            &[r#"--openai-defaults={"role": "late"}"#],
            "for --openai-defaults: `role` must be one of with_first, early, none, not \"late\"",
        );
        check(
            &["--models=a,,b"],
            "invalid list of models \"a,,b\" for --models: expected names separated by commas",
        );
    }

    #[test]
    fn a_health_check_asks_this_machine() {
        let address = |host: &str| {
            let arguments = ["server", "--host", host].map(OsString::from);
            flags::read::<Args>(arguments, |_| None, &[]).unwrap().args.health_address().to_string()
        };
        assert_eq!(address("0.0.0.0"), "127.0.0.1:8000");
        assert_eq!(address("127.0.0.2"), "127.0.0.2:8000");
        assert_eq!(address(""), "127.0.0.1:8000");
    }

    #[test]
    fn flags_parse() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}

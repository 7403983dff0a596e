//! The options of `streamstress run`, grouped by topic. Each has a long flag; old names are aliases.
//! [`complete`] adds what they have in common. The environment variables are added by `environment`.

use clap::{Arg, Args, ValueEnum};
use plan::{schedule::Process, users::UserKind};
use serde::{Deserialize, Deserializer, Serialize, de};
use settings::distribution::{self, Distribution, Unit};
use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

const WORKLOAD: &str = "Workload";
const TARGET: &str = "Target";
const DIALECT: &str = "Dialect of the server";
const ANSWERS: &str = "Simulated answers";
const RECONNECTS: &str = "Reconnects";
const BEHAVIOUR: &str = "Client behaviour";
const FAULTS: &str = "Faults";
const THRESHOLDS: &str = "Thresholds";
const OUTPUT: &str = "Output";
const GENERATORS: &str = "Several generators";
const TUNING: &str = "Tuning";

/// Options that `-h` shows. `--help` shows all.
const IN_SHORT_HELP: [&str; 8] =
    ["scenario", "clients", "queries", "duration", "api-url", "wsproxy-url", "embedded", "threshold"];

/// Completes an option as it was declared below.
pub(crate) fn complete(arg: Arg) -> Arg {
    let in_short_help = arg.get_long().is_some_and(|flag| IN_SHORT_HELP.contains(&flag));
    let takes_value = arg.get_action().takes_values();
    // So that `--clients -5` is refused by the check of its range, with the range, and not as an unknown option `-5`.
    arg.hide_short_help(!in_short_help).allow_negative_numbers(takes_value)
}

/// What arrives at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalOf {
    /// New sessions, each with its queries.
    Sessions,
    /// Queries, over sessions that were connected before.
    Queries,
}

/// A container engine that runs generators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Docker Swarm.
    Swarm,
    /// Kubernetes.
    Kubernetes,
}

/// A duration as a person wrote it: `250ms`, `1h30m`, or a number in the option's own unit.
/// It is not validated: [`crate::config::Config`] reports all wrong values together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DurationText(String);

impl DurationText {
    /// Returns the text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DurationText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl From<f64> for DurationText {
    fn from(number: f64) -> Self {
        Self(number.to_string())
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Accepts a text or a number, so that scenario files may say `grace = 30`.
impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                Ok(text.into())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<DurationText, E> {
                Ok(number.into())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<DurationText, E> {
                Ok(DurationText(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<DurationText, E> {
                Ok(DurationText(number.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The options of a run. `Config` fills in defaults. A scenario file names each option by its field.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// Read further options from scenarios/NAME.toml or FILE
    #[arg(long, value_name = "NAME|FILE", help_heading = WORKLOAD)]
    pub scenario: Option<String>,
    /// Number of sessions [default: 100]
    #[arg(short, long, value_name = "N", help_heading = WORKLOAD)]
    pub clients: Option<i64>,
    /// Queries per session, one after the other [default: 10]
    #[arg(short, long, value_name = "N", help_heading = WORKLOAD)]
    pub queries: Option<i64>,
    /// Time over which sessions start [default: 1s per 500 clients, at least 1s]
    #[arg(long, value_name = "DURATION", help_heading = WORKLOAD)]
    pub ramp_up: Option<DurationText>,
    /// Send queries until this time is over, for example 5m
    #[arg(long, value_name = "DURATION", help_heading = WORKLOAD)]
    pub duration: Option<DurationText>,
    /// Arrivals per second (open model); needs --duration
    #[arg(long, value_name = "N", help_heading = WORKLOAD)]
    pub arrival_rate: Option<f64>,
    /// What arrives at --arrival-rate or from --trace [default: sessions; with --trace: queries]
    #[arg(long, value_name = "WHAT", help_heading = WORKLOAD)]
    pub arrival: Option<ArrivalOf>,
    /// Variation of the times between arrivals: constant, poisson or gamma:CV, where CV is the coefficient of variation
    /// [default: constant]
    #[arg(long, value_name = "PROCESS", help_heading = WORKLOAD)]
    pub arrival_process: Option<Process>,
    /// Limit of concurrent sessions with --arrival-rate or --trace. Arrivals beyond it are dropped and counted
    /// [default: 1000 if sessions arrive, --clients if queries arrive]
    #[arg(long, value_name = "N", help_heading = WORKLOAD)]
    pub max_clients: Option<i64>,
    /// Vary the number of sessions in stages, for example 2m:100,5m:100,1m:0. Within each stage the number changes linearly
    /// to the target after the colon
    #[arg(long, value_name = "DURATION:N,…", help_heading = WORKLOAD)]
    pub stages: Option<String>,
    /// Sessions started per second, instead of --ramp-up
    #[arg(long, value_name = "N", help_heading = WORKLOAD)]
    pub spawn_rate: Option<f64>,
    /// Connect all sessions first, then send all first queries at the same instant
    #[arg(long, help_heading = WORKLOAD)]
    pub burst: bool,
    /// Time between the end of a query and the next one, in seconds: 2, 500ms, or a distribution such as uniform:1s,5s, exp:3,
    /// normal:3,1 (mean, deviation) or lognormal:2,0.5 (median, sigma) [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = Distribution::parser(Unit::Seconds), help_heading = WORKLOAD)]
    #[serde(deserialize_with = "distribution::seconds")]
    pub think_time: Option<Distribution>,
    /// Time after which a query fails [default: its ideal duration plus 30s]
    #[arg(long, value_name = "DURATION", help_heading = WORKLOAD)]
    pub query_timeout: Option<DurationText>,
    /// Replay recorded traffic: Mooncake JSON lines, or CSV of the Azure LLM inference traces or of BurstGPT
    #[arg(long, value_name = "FILE", help_heading = WORKLOAD)]
    pub trace: Option<PathBuf>,
    /// Start the replay at this point: a duration after the first request (30m), or a date and time as in the trace
    /// (2023-11-16T18:30:00Z). --duration limits its length [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = WORKLOAD)]
    pub trace_from: Option<String>,
    /// Factor for the times of the trace, 0.0001 to 1000. 0.5 replays it twice as fast [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = WORKLOAD)]
    pub trace_scale: Option<f64>,
    /// Factor for all times of the schedule, 0.0001 to 1000. Rates are divided by it, so that the number of users stays.
    /// Token delays, think times and timeouts do not change [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = WORKLOAD)]
    pub time_scale: Option<f64>,
    /// Draw prompts from this CSV file, column `prompt`
    #[arg(long, value_name = "FILE", help_heading = WORKLOAD)]
    pub prompts: Option<PathBuf>,
    /// Kinds of users, from a scenario file only.
    #[arg(skip)]
    pub user: Vec<UserKind>,
    /// Print the plan and exit without opening a connection
    #[arg(long, help_heading = WORKLOAD)]
    pub dry_run: bool,

    /// URL of the HTTP API, repeatable [default: http://127.0.0.1:8080]
    ///
    /// Calls use several URLs in turn. A call without a response goes to the next URL, unless it may have created a session.
    #[arg(long, alias = "fastapi-url", value_name = "URL", value_delimiter = ',', hide_env_values = true, help_heading = TARGET)]
    #[serde(deserialize_with = "crate::scenario::one_or_many")]
    pub api_url: Vec<String>,
    /// URL of the gateway, repeatable [default: ws://127.0.0.1:8081]
    ///
    /// Sockets are spread over several URLs, and skip one to which no connection can be made.
    #[arg(long, value_name = "URL", value_delimiter = ',', hide_env_values = true, help_heading = TARGET)]
    #[serde(deserialize_with = "crate::scenario::one_or_many")]
    pub wsproxy_url: Vec<String>,
    /// Run the whole stack in this process, with an in-memory bus
    #[arg(long, help_heading = TARGET)]
    pub embedded: bool,
    /// Confirm that you may load-test this host. Required for every host other than this machine (repeatable)
    #[arg(long, value_name = "HOST", value_delimiter = ',', help_heading = TARGET)]
    pub i_am_allowed_to_load_test: Vec<String>,
    /// Bearer token of every socket, instead of the token that each session receives
    #[arg(long, alias = "token", value_name = "TOKEN", hide_env_values = true, help_heading = TARGET)]
    #[serde(alias = "token")]
    pub auth_token: Option<String>,
    /// Header for every HTTP call and WebSocket upgrade, as `Name: value`. It replaces the client's header of that name
    /// (repeatable)
    #[arg(long = "header", value_name = "HEADER", value_delimiter = '\n', hide_env_values = true, help_heading = TARGET)]
    pub headers: Vec<String>,
    /// Path and query of the WebSocket URL. {agent}, {session} and {token} are replaced [default: /{agent}/ws/{session}]
    #[arg(long, value_name = "TEMPLATE", hide_env_values = true, help_heading = TARGET)]
    pub ws_path: Option<String>,
    /// Value of {agent} in --ws-path [default: load]
    #[arg(long, value_name = "NAME", help_heading = TARGET)]
    pub agent: Option<String>,
    /// Certificates (PEM) to trust for https and wss, in addition to the public ones
    #[arg(long, value_name = "FILE", help_heading = TARGET)]
    pub ca_file: Option<PathBuf>,
    /// HTTP connections to each --api-url that all sessions share, at most [default: 1000]
    #[arg(long, value_name = "N", help_heading = TARGET)]
    pub http_connections: Option<i64>,
    /// Local addresses to open sockets from, in turn, for example 127.0.0.2-127.0.0.9. Each address adds its own range of
    /// ports
    #[arg(long, value_name = "ADDRESSES", help_heading = TARGET)]
    pub local_ips: Option<String>,

    /// Protocol of the server at --api-url: streamstress, openai-chat (Chat Completions over server-sent events), openai-responses
    /// (Responses over server-sent events) or openai-responses-ws (Responses over a WebSocket) [default: streamstress]
    #[arg(long, value_name = "NAME", help_heading = DIALECT)]
    pub dialect: Option<String>,
    /// Target file that describes the backend, instead of --dialect: a path, or the name of a built-in file (see `streamstress target`)
    #[arg(long, value_name = "FILE|NAME", help_heading = DIALECT)]
    pub target: Option<String>,
    /// Model to ask [default: none is named; sim with --simulator]
    #[arg(long, value_name = "NAME", help_heading = DIALECT)]
    pub model: Option<String>,
    /// Key that authorizes each call. Set it by its variable, so that it is not in the list of processes
    #[arg(long, value_name = "KEY", hide_env_values = true, help_heading = DIALECT)]
    pub api_key: Option<String>,
    /// Shell command that prints a key: the first one if --api-key is absent, and a new one when the server refuses the present one
    /// (401, or close code 4004)
    #[arg(long, value_name = "COMMAND", hide_env_values = true, help_heading = DIALECT)]
    pub token_command: Option<String>,
    /// Text of every question, instead of --prompts
    #[arg(long, value_name = "TEXT", help_heading = DIALECT)]
    pub prompt: Option<String>,
    /// Upper limit of the tokens of each answer, 1 to 1000000 [default: that of --answer-tokens or the trace, if there is one]
    #[arg(long, value_name = "N", help_heading = DIALECT)]
    pub max_tokens: Option<i64>,
    /// Let the server keep each answer, and resume lost streams; for openai-responses
    #[arg(long, help_heading = DIALECT)]
    pub background: bool,
    /// The server is the simulator of this project: tell it which answers to play, and ask for numbers and times of tokens
    /// [default: no, yes with --embedded or without --api-url]
    #[arg(long, help_heading = DIALECT)]
    pub simulator: bool,

    /// Tokens per answer, a number or a distribution as in --think-time [default: the server's]
    #[arg(long, alias = "tokens", value_name = "N", value_parser = Distribution::parser(Unit::None), help_heading = ANSWERS)]
    #[serde(alias = "tokens", deserialize_with = "distribution::plain")]
    pub answer_tokens: Option<Distribution>,
    /// Time before the first token, in milliseconds: 250, 1s, or a distribution as in --think-time [default: the server's]
    #[arg(long, value_name = "MS", value_parser = Distribution::parser(Unit::Milliseconds), help_heading = ANSWERS)]
    #[serde(deserialize_with = "distribution::milliseconds")]
    pub ttft_ms: Option<Distribution>,
    /// Time after each token, in milliseconds: 20, 50ms, or a distribution as in --think-time. One value is drawn per query [default:
    /// the server's]
    #[arg(long, value_name = "MS", value_parser = Distribution::parser(Unit::Milliseconds), help_heading = ANSWERS)]
    #[serde(deserialize_with = "distribution::milliseconds")]
    pub itl_ms: Option<Distribution>,
    /// Set --ttft-ms and --itl-ms to an invented but plausible timing: fast-small, balanced-medium, slow-large or reasoning
    #[arg(long, value_name = "NAME", help_heading = ANSWERS)]
    pub profile: Option<String>,

    /// First delay before a reconnect. Later delays double [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = RECONNECTS)]
    pub ws_initial_backoff_seconds: Option<DurationText>,
    /// Longest delay before a reconnect [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = RECONNECTS)]
    pub ws_max_backoff_seconds: Option<DurationText>,
    /// Attempts to reconnect, or to repeat an HTTP call, before it fails [default: 5]
    #[arg(long, value_name = "N", help_heading = RECONNECTS)]
    pub ws_max_reconnect_attempts: Option<i64>,
    /// Close and resume a socket that received nothing, not even a ping, for this long [default: 45s]
    #[arg(long, value_name = "DURATION", help_heading = RECONNECTS)]
    pub ping_timeout: Option<DurationText>,

    /// Share of the open sockets that the client cuts per second and reopens, 0 to 10 [default: 0]
    #[arg(long, alias = "drop-rate", value_name = "SHARE", help_heading = BEHAVIOUR)]
    #[serde(alias = "drop_rate")]
    pub cut_rate: Option<f64>,
    /// Pause reading once in some sessions: COUNT:DURATION or FRACTION:DURATION (50:10s, 0.05:10s, 5%:10s)
    #[arg(long, alias = "stall", value_name = "COUNT:DURATION", help_heading = BEHAVIOUR)]
    #[serde(alias = "stall")]
    pub pause_readers: Option<String>,
    /// Submit each query first and open its socket after a random delay, for example 0s..5s, as clients of the old contract
    /// do
    #[arg(long, value_name = "LOW..HIGH", help_heading = BEHAVIOUR)]
    pub late_connect: Option<String>,
    /// Reconnect without the last position, as clients of the old contract do
    #[arg(long, help_heading = BEHAVIOUR)]
    pub no_resume: bool,
    /// Ask the gateway to send the tokens of this many milliseconds as one frame, 1 to 1000 [default: each token has a frame]
    #[arg(long, value_name = "MS", help_heading = BEHAVIOUR)]
    pub rollup_ms: Option<i64>,
    /// Split the time of the first and every N-th further token of a query by hop, with times that the gateway adds; 0: of none
    /// [default: 64; 0 with --wsproxy-url, --ws-path or --rollup-ms]
    #[arg(long, value_name = "N", help_heading = BEHAVIOUR)]
    pub hops: Option<i64>,

    /// Inject a fault into the stack at this time after the first query, for example wsproxy-1:kill@30s (repeatable). See
    /// `streamstress stack fault --help` for targets and actions
    #[arg(long = "fault", value_name = "SPEC@TIME", value_delimiter = ',', help_heading = FAULTS)]
    pub faults: Vec<String>,
    /// Stack to inject faults into and to observe: a name, a state directory, or `compose` [default: the native stack]
    #[arg(long, value_name = "NAME", help_heading = FAULTS)]
    pub fault_stack: Option<String>,

    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is the flag's help")]
    /// Fail the run unless this holds, for example 'e2el_ms:p95<3000'
    ///
    /// Repeatable. A limit of a duration is in milliseconds or has a unit, for example e2el_ms:p95<1.5s. Other examples:
    /// error_rate<0.005 over the whole run, ttft_ms{steady}:p99<450 over the steady state, e2el_ms[30s]:p95<3000 over the
    /// worst window of 30 s. Without a threshold on errors every query must succeed.
    #[arg(long = "threshold", value_name = "FIGURE<LIMIT", num_args = 1.., help_heading = THRESHOLDS)]
    pub thresholds: Vec<String>,
    /// Stop the run as soon as a threshold cannot be met any more
    #[arg(long, help_heading = THRESHOLDS)]
    pub abort_on_fail: bool,
    /// Earliest time of the run at which --abort-on-fail may stop it [default: 0s]
    #[arg(long, value_name = "DURATION", help_heading = THRESHOLDS)]
    pub abort_delay: Option<DurationText>,
    /// Limits that a good query meets, in milliseconds or with a unit, for example ttft:450 tpot:60 e2el:3s
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., help_heading = THRESHOLDS)]
    pub goodput: Vec<String>,
    /// A gap between two tokens longer than this counts as a stall; a bare number is milliseconds [default: 250ms]
    #[arg(long, alias = "stall-ms", value_name = "DURATION", help_heading = THRESHOLDS)]
    #[serde(alias = "stall_ms")]
    pub stall_threshold: Option<DurationText>,

    /// Directory for the result files [default: results]
    #[arg(short, long, value_name = "DIR", help_heading = OUTPUT)]
    pub output_dir: Option<PathBuf>,
    /// First part of the names of the result files [default: loadtest]
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    pub name: Option<String>,
    /// Write events as JSON lines: json (into the output directory), json=FILE (a file or named pipe) or json=- (stdout; other
    /// text then goes to stderr). seconds=FILE leaves out single queries, sessions and reconnects
    #[arg(long, value_name = "json[=FILE]", help_heading = OUTPUT)]
    pub out: Option<String>,
    /// Serve the metrics of the run for Prometheus at /metrics on this address, for example 127.0.0.1:9464; a port alone is one of this
    /// machine
    #[arg(long, value_name = "ADDRESS", help_heading = OUTPUT)]
    pub metrics_address: Option<String>,
    /// Push the metrics of the run to this OpenTelemetry collector every 10 s (OTLP over HTTP), for example http://127.0.0.1:4318
    #[arg(long, value_name = "URL", hide_env_values = true, help_heading = OUTPUT)]
    pub otlp: Option<String>,
    /// Show a live view on the whole terminal (q: stop, ?: help)
    #[arg(long, help_heading = OUTPUT)]
    pub tui: bool,
    /// Show the run in a browser. Prints the address of the page with its access token [default address: 127.0.0.1:8089]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8089", help_heading = OUTPUT)]
    #[serde(skip)]
    pub web: Option<String>,
    /// Keep the result files of the newest N runs, this one included, and delete older ones from the output directory
    /// [default: keep all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = OUTPUT)]
    pub keep_results: Option<u32>,
    /// Print the verdict only, without progress and tables
    #[arg(long, help_heading = OUTPUT)]
    pub quiet: bool,

    /// Start this many load generators as processes on this machine and present them as one run; `auto` derives the number from
    /// the load and the cores. With --control: number of generators of the run, each of which is started with these options
    #[arg(long, value_name = "N|auto", help_heading = GENERATORS)]
    pub generators: Option<String>,
    /// Print the manifest of a job of --generators N generators with this plan, for the stacks in deploy/, and exit
    #[arg(long, value_name = "ENGINE", help_heading = GENERATORS)]
    pub on: Option<Engine>,
    /// Play only part NUMBER of COUNT equal parts of the plan, for example 2/8. `streamstress merge` joins the results of all
    /// parts
    #[arg(long, value_name = "NUMBER/COUNT", help_heading = GENERATORS)]
    pub shard: Option<String>,
    /// Redis at which generators on several machines meet, for example redis://control:6379. It must not be the Redis of the
    /// stack under test
    #[arg(long, value_name = "URL", hide_env_values = true, help_heading = GENERATORS)]
    pub control: Option<String>,
    /// Use the Redis of --control even if a stack under test uses it
    #[arg(long, help_heading = GENERATORS)]
    pub control_force: bool,
    /// Name of the run in the Redis of --control [default: fingerprint of the plan]
    #[arg(long, value_name = "ID", help_heading = GENERATORS)]
    pub run_id: Option<String>,
    /// How long a generator waits for the others to come [default: 60s]
    #[arg(long, value_name = "DURATION", help_heading = GENERATORS)]
    pub wait_for_generators: Option<DurationText>,
    /// Exit with 0 also if the run fails or is refused, for engines that start failed tasks again. Read the verdict with
    /// `streamstress merge --control`
    #[arg(long, help_heading = GENERATORS)]
    pub always_exit_0: bool,

    /// Time that running queries have to end after Ctrl+C [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = TUNING)]
    pub grace: Option<DurationText>,
    /// Threads that drive sessions [default: half the number of cores]
    #[arg(long, value_name = "N", help_heading = TUNING)]
    pub workers: Option<i64>,
    /// Seed of all random draws. Two runs with equal options and seed follow the same plan [default: random, reported; 1 with --control or --shard]
    #[arg(long, value_name = "N", help_heading = TUNING)]
    #[serde(with = "crate::scenario::seed")]
    pub seed: Option<u64>,
}

//! The command line and its environment twins, as clap reads them.
//! It judges nothing: `Config` does that, and knows no clap.

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, CommandFactory, Parser, Subcommand, ValueEnum,
};
use plan::{
    schedule::{Distribution, Process},
    users::UserKind,
};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf};

/// Load-tests a token stream over WebSockets and accounts for every token.
#[derive(Debug, Parser)]
#[command(
    name = "streamstress",
    version,
    about,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// The command line as it is read. A variable that is set to nothing is as good as not set: that is what `VAR=` in a
    /// file or in Compose means.
    pub(crate) fn command_line() -> ClapCommand {
        let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let forget = |arg: Arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&str>) } else { arg };
        Self::command().mut_args(|arg| switch(forget(arg)))
    }
}

/// Lets a switch take a value as well: `--burst`, `--burst=no`, `LOAD_BURST=yes`.
pub(crate) fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).value_name("yes|no");
    arg.default_missing_value("yes").default_value("no").hide_default_value(true).value_parser(yes_or_no)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" | "y" | "t" => Ok(true),
        "0" | "no" | "false" | "off" | "n" | "f" => Ok(false),
        _ => Err("expected yes or no (also 1/0, true/false, on/off)".to_owned()),
    }
}

/// The variable of the environment that a value came from which clap refused, if it came from one.
pub(crate) fn variable_of(error: &clap::Error, command: &ClapCommand) -> Option<String> {
    use clap::error::{ContextKind::InvalidArg, ContextKind::InvalidValue, ContextValue};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (arg, value) = (text(InvalidArg)?, text(InvalidValue)?);
    let flag = arg.split([' ', '=', '[']).next()?.strip_prefix("--")?;
    let arg = command.get_arguments().find(|known| known.get_long() == Some(flag))?;
    let name = arg.get_env()?.to_str()?;
    let on_the_line = |word: std::ffi::OsString| {
        let word = word.to_string_lossy();
        let word = word.strip_prefix("--").and_then(|word| word.strip_prefix(flag));
        word.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let said = std::env::args_os().any(on_the_line);
    (!said && std::env::var(name).is_ok_and(|set| set.contains(value))).then(|| name.to_owned())
}

/// Where each flag's value came from, other than the command line; by flag, as `--clients`.
pub(crate) type Origins = std::collections::BTreeMap<String, String>;

/// The flags that took their value from the environment.
pub(crate) fn from_environment(matches: &ArgMatches) -> Origins {
    let command = Cli::command();
    let named = command.get_arguments().filter_map(|arg| {
        let is_set = matches.value_source(arg.get_id().as_str());
        let variable = arg.get_env()?.to_str()?;
        (is_set == Some(clap::parser::ValueSource::EnvVariable))
            .then(|| Some((flag(arg)?, format!("the environment variable {variable}"))))?
    });
    named.collect()
}

/// `--clients`.
pub(crate) fn flag(arg: &Arg) -> Option<String> {
    arg.get_long().map(|long| format!("--{long}"))
}

/// A fault with the place that the flag's value came from, where the fault begins with a flag.
pub(crate) fn with_origin(fault: &str, origins: &Origins) -> String {
    let flag = fault.split([' ', ':']).next().unwrap_or_default();
    match origins.get(flag) {
        Some(origin) => format!("{fault} (the value comes from {origin})"),
        None => fault.to_owned(),
    }
}

const EXAMPLES: &str = "\
Examples:
  streamstress --embedded --clients 500                 the whole stack in this process
  streamstress stack up --detach                        a stack of plain processes: Redis, servers, gateways, HAProxy
  streamstress --clients 5000 --queries 3 --tui         load against http://127.0.0.1:8080 and ws://127.0.0.1:8081
  streamstress --scenario spike --threshold 'e2el_ms:p95<3000' --goodput 'ttft:450'
  streamstress compare results/a_summary.json results/b_summary.json";

/// The commands of the program. Without one, the arguments are those of `run`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drive sessions through a gateway, check every token, write results and a verdict (the default command)
    Run(Box<RunArgs>),
    /// Start, watch, scale and break a stack of plain processes on this machine
    #[command(disable_help_flag = true)]
    Stack(Passed),
    /// Serve the LLM simulator
    #[command(disable_help_flag = true)]
    Server(Passed),
    /// Serve the WebSocket gateway
    #[command(disable_help_flag = true)]
    Wsproxy(Passed),
    /// Summarise the result files of earlier runs
    Analyze {
        /// `.csv` files that runs left behind
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Compare a candidate's results with a baseline's: 0 no regression, 99 a regression, 98 the noise is too large to tell
    Compare(CompareArgs),
    /// Make the HTML report of earlier runs again, from their result files
    Report {
        /// Any file of each run
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page in roff format, for `man -l -`
    Man,
}

/// Arguments that another parser reads.
#[derive(Clone, Debug, Args)]
pub struct Passed {
    /// See `--help` of the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// What is compared with what.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// A baseline and a candidate, one run each: `_summary.json` or `.csv`
    #[arg(num_args = 2, value_names = ["BASELINE", "CANDIDATE"], conflicts_with_all = ["baseline", "candidate"], required_unless_present = "baseline")]
    pub files: Vec<PathBuf>,
    /// Runs of the baseline
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "candidate")]
    pub baseline: Vec<PathBuf>,
    /// Runs of the candidate
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "baseline")]
    pub candidate: Vec<PathBuf>,
    /// Largest growth of a duration to accept, as 5% or 0.05
    #[arg(long, default_value = "5%", value_name = "SHARE")]
    pub tolerance: String,
    /// Growth of a duration to accept whatever its share, milliseconds
    #[arg(long, default_value_t = 1.0, value_name = "MS")]
    pub tolerance_ms: f64,
    /// Largest growth of the share of failed queries to accept, in percentage points, as 0.1%
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub failure_tolerance: String,
    /// How much two runs of one version may differ; decides where a side has fewer than four runs
    #[arg(long, default_value = "15%", value_name = "SHARE")]
    pub assumed_noise: String,
    /// A percentile to compare, as e2el_ms:p95 (repeatable) [default: ttft_ms:p50 ttft_ms:p95 tpot_ms:p50 e2el_ms:p50 e2el_ms:p95]
    #[arg(long = "metric", num_args = 1.., value_name = "METRIC:PERCENTILE")]
    pub metrics: Vec<String>,
    /// Seed for bootstrap resampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
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

/// A run's options. What is absent takes its default in `Config`; a scenario file says each by its field's name.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// Take what is not said here from scenarios/NAME.toml, or from a file of that form
    #[arg(long, env = "LOAD_SCENARIO", value_name = "NAME|FILE", help_heading = "Workload")]
    pub scenario: Option<String>,
    /// Sessions to run [default: 100]
    #[arg(short, long, env = "CLIENTS", allow_negative_numbers = true)]
    pub clients: Option<i64>,
    /// Queries a session sends, one after the other [default: 10]
    #[arg(short, long, env = "QUERIES_PER_CLIENT", allow_negative_numbers = true)]
    pub queries: Option<i64>,
    /// Seconds over which the sessions start [default: clients / 500, at least 1]
    #[arg(long, env = "LOAD_RAMP_UP", value_name = "SECONDS", allow_negative_numbers = true)]
    pub ramp_up: Option<f64>,
    /// Connect every session first, then submit all first queries at one instant
    #[arg(long, env = "LOAD_BURST")]
    pub burst: bool,
    /// Seconds between the end of a query and the next: a number, or drawn, as 1..5, exp:3, normal:3:1 or
    /// lognormal:2:0.5 [default: 0]
    #[arg(long, env = "LOAD_THINK_TIME", value_name = "SECONDS", allow_negative_numbers = true)]
    pub think_time: Option<Distribution>,
    /// Seconds a query may take [default: its ideal duration + 30]
    #[arg(long, env = "LOAD_QUERY_TIMEOUT", value_name = "SECONDS", allow_negative_numbers = true)]
    pub query_timeout: Option<f64>,

    /// Keep the load up for so long, as 5m: a session sends query after query until then
    #[arg(long, env = "LOAD_DURATION", value_name = "TIME", help_heading = "Workload")]
    pub duration: Option<String>,
    /// Sessions that start a second, in place of --ramp-up
    #[arg(
        long,
        env = "LOAD_SPAWN_RATE",
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    pub spawn_rate: Option<f64>,
    /// Sessions present follow this ramp, as 2m:100,5m:100,1m:0: each stage leads linearly to its number
    #[arg(long, env = "LOAD_STAGES", value_name = "TIME:N,…", help_heading = "Workload")]
    pub stages: Option<String>,
    /// Arrivals a second, whatever becomes of those before; needs --duration
    #[arg(
        long,
        env = "LOAD_ARRIVAL_RATE",
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    pub arrival_rate: Option<f64>,
    /// What arrives [default: sessions; of a trace: queries]
    #[arg(long, env = "LOAD_ARRIVAL", value_name = "WHAT", help_heading = "Workload")]
    pub arrival: Option<ArrivalOf>,
    /// How the times between arrivals vary: constant, poisson or gamma:CV [default: constant]
    #[arg(long, env = "LOAD_ARRIVAL_PROCESS", value_name = "PROCESS", help_heading = "Workload")]
    pub arrival_process: Option<Process>,
    /// Sessions at once in an open model; what arrives beyond that is dropped and counted [default: of arriving
    /// sessions 1000, of queries what --clients says]
    #[arg(
        long,
        env = "LOAD_MAX_CLIENTS",
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    pub max_clients: Option<i64>,
    /// Replay recorded traffic: Mooncake's JSON lines, or the CSV of Azure's LLM inference traces or of BurstGPT
    #[arg(long, env = "LOAD_TRACE", value_name = "FILE", help_heading = "Workload")]
    pub trace: Option<PathBuf>,
    /// Play the trace from this point on: a time after its first request, as 30m, or a time stamp of its own kind, as
    /// 2023-11-16T18:30:00Z; --duration says for how long [default: 0s]
    #[arg(long, env = "LOAD_TRACE_FROM", value_name = "TIME", help_heading = "Workload")]
    pub trace_from: Option<String>,
    /// Multiply the trace's times by this: 0.5 plays it twice as fast [default: 1]
    #[arg(
        long,
        env = "LOAD_TRACE_SCALE",
        value_name = "FACTOR",
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    pub trace_scale: Option<f64>,
    /// Multiply the schedule's times by this and divide its rates by it, so that as many users come in less time; token
    /// delays, think times and timeouts stay [default: 1]
    #[arg(
        long,
        env = "LOAD_TIME_SCALE",
        value_name = "FACTOR",
        allow_negative_numbers = true,
        help_heading = "Workload"
    )]
    pub time_scale: Option<f64>,
    /// Prompts to draw from: a CSV file with a column `prompt`
    #[arg(long, env = "LOAD_PROMPTS", value_name = "FILE", help_heading = "Workload")]
    pub prompts: Option<PathBuf>,
    /// The timing of answers, made up but plausible: fast-small, balanced-medium, slow-large or reasoning
    #[arg(long, env = "LOAD_PROFILE", value_name = "NAME", help_heading = "Workload")]
    pub profile: Option<String>,
    /// Kinds of users, from a scenario file alone
    #[arg(skip)]
    pub user: Vec<UserKind>,
    /// Print the plan, what it will open and send, and end
    #[arg(long, env = "LOAD_DRY_RUN", help_heading = "Workload")]
    pub dry_run: bool,

    /// Where the HTTP calls go [default: http://127.0.0.1:8080]
    #[arg(long, env = "API_URL", value_name = "URL", hide_env_values = true)]
    pub api_url: Option<String>,
    /// Where the WebSockets go (repeatable: sockets are spread over all of them) [default: ws://127.0.0.1:8081]
    #[arg(long, env = "WSPROXY_URL", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    pub wsproxy_url: Vec<String>,
    /// Run the whole stack in this process, over an in-memory bus
    #[arg(long, env = "LOAD_EMBEDDED")]
    pub embedded: bool,
    /// A host that is not this machine and that you may load-test (repeatable)
    #[arg(long, env = "I_AM_ALLOWED_TO_LOAD_TEST", value_name = "HOST", value_delimiter = ',')]
    pub i_am_allowed_to_load_test: Vec<String>,
    /// HTTP connections shared by all sessions [default: 1000]
    #[arg(long, env = "LOAD_HTTP_CONNECTIONS", value_name = "N", allow_negative_numbers = true)]
    pub http_connections: Option<i64>,
    /// Open sockets from these addresses of this machine in turns, as 127.0.0.2-127.0.0.9: each has ports of its own
    #[arg(long, env = "LOAD_LOCAL_IPS", value_name = "ADDRESSES")]
    pub local_ips: Option<String>,
    /// A header for every HTTP call and WebSocket upgrade, `Name: value`, in place of the client's own of that name
    /// (repeatable)
    #[arg(
        long = "header",
        env = "LOAD_HEADERS",
        value_name = "HEADER",
        value_delimiter = '\n',
        hide_env_values = true
    )]
    pub headers: Vec<String>,
    /// The bearer token of every socket, in place of each session's own
    #[arg(long, env = "LOAD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The socket's path, and its query where it has one; `{token}` stands for the token [default: /{agent}/ws/{session}]
    #[arg(long, env = "LOAD_WS_PATH", value_name = "TEMPLATE", hide_env_values = true)]
    pub ws_path: Option<String>,
    /// What `{agent}` stands for in the socket's path [default: load]
    #[arg(long, env = "LOAD_AGENT")]
    pub agent: Option<String>,
    /// Certificates (PEM) trusted for https and wss, beside the public ones
    #[arg(long, env = "LOAD_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Ask for so many tokens a query, where the server lets a request choose; drawn as --think-time is
    #[arg(long, env = "LOAD_TOKENS", value_name = "N", allow_negative_numbers = true)]
    pub tokens: Option<Distribution>,
    /// Ask for this delay before the first token; drawn as --think-time is
    #[arg(long, env = "LOAD_TTFT_MS", value_name = "MS", allow_negative_numbers = true)]
    pub ttft_ms: Option<Distribution>,
    /// Ask for this delay after each token, drawn once a query
    #[arg(long, env = "LOAD_ITL_MS", value_name = "MS", allow_negative_numbers = true)]
    pub itl_ms: Option<Distribution>,

    /// First delay before reconnecting [default: 1]
    #[arg(long, env = "WS_INITIAL_BACKOFF_SECONDS", value_name = "SECONDS", allow_negative_numbers = true)]
    pub ws_initial_backoff_seconds: Option<f64>,
    /// Longest delay before reconnecting [default: 30]
    #[arg(long, env = "WS_MAX_BACKOFF_SECONDS", value_name = "SECONDS", allow_negative_numbers = true)]
    pub ws_max_backoff_seconds: Option<f64>,
    /// Attempts before a session, or an HTTP call, is given up [default: 5]
    #[arg(long, env = "WS_MAX_RECONNECT_ATTEMPTS", value_name = "N", allow_negative_numbers = true)]
    pub ws_max_reconnect_attempts: Option<i64>,
    /// Seconds of silence after which a socket is dropped and resumed [default: 45]
    #[arg(long, env = "LOAD_PING_TIMEOUT", value_name = "SECONDS", allow_negative_numbers = true)]
    pub ping_timeout: Option<f64>,

    /// Cut this share of all open sockets a second, and come back [default: 0]
    #[arg(long, env = "LOAD_DROP_RATE", value_name = "SHARE", allow_negative_numbers = true)]
    pub drop_rate: Option<f64>,
    /// So many sessions stop reading for so long, once: a share or a number, as 0.05:10s or 50:10s
    #[arg(long, env = "LOAD_STALL", value_name = "WHO:TIME")]
    pub stall: Option<String>,
    /// Be clients of the old contract: submit first, open a socket for the query this many seconds later, as 0..5
    #[arg(long, env = "LOAD_LATE_CONNECT", value_name = "LEAST..MOST")]
    pub late_connect: Option<String>,
    /// Reconnect without naming the last position, as clients of the old contract do
    #[arg(long, env = "LOAD_NO_RESUME")]
    pub no_resume: bool,
    /// Break something in the stack at that time after the first send, as wsproxy-1:kill@30s (repeatable)
    #[arg(long = "fault", env = "LOAD_FAULTS", value_name = "SPEC@TIME", value_delimiter = ',')]
    pub faults: Vec<String>,
    /// Which stack to break and to watch: its name, its state directory, or `compose` [default: the native one]
    #[arg(long, env = "LOAD_FAULT_STACK", value_name = "NAME")]
    pub fault_stack: Option<String>,

    /// A gap between tokens longer than this is a stall [default: 250]
    #[arg(long, env = "LOAD_STALL_MS", value_name = "MS", allow_negative_numbers = true)]
    pub stall_ms: Option<f64>,
    /// Seconds that running streams may take to end after Ctrl+C [default: 30]
    #[arg(long, env = "LOAD_GRACE", value_name = "SECONDS", allow_negative_numbers = true)]
    pub grace: Option<f64>,
    /// Threads that drive sessions [default: half as many as cores]
    #[arg(long, env = "LOAD_WORKERS", value_name = "N", allow_negative_numbers = true)]
    pub workers: Option<i64>,
    /// Makes every random draw repeatable [default: drawn, and reported]
    #[arg(long, env = "LOAD_SEED")]
    #[serde(with = "crate::scenario::seed")]
    pub seed: Option<u64>,

    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is the flag's help")]
    /// What a figure must be, as e2el_ms:p95<3000, error_rate<0.005, ttft_ms{steady}:p99<450 or e2el_ms[30s]:p95<3000
    /// (repeatable). A window's worst place decides. Without any, every query must be ok
    #[arg(long = "threshold", env = "LOAD_THRESHOLDS", value_name = "FIGURE<LIMIT", num_args = 1..)]
    pub thresholds: Vec<String>,
    /// End the run early when a threshold is broken for good: in a window, or by a count
    #[arg(long, env = "LOAD_ABORT_ON_FAIL")]
    pub abort_on_fail: bool,
    /// …but not before this time of the run [default: 0s]
    #[arg(long, env = "LOAD_ABORT_DELAY", value_name = "TIME")]
    pub abort_delay: Option<String>,
    /// What a good query keeps to, in milliseconds, as ttft:450 tpot:60 e2el:3000
    #[arg(long, env = "LOAD_GOODPUT", value_name = "METRIC:MS", num_args = 1..)]
    pub goodput: Vec<String>,

    /// Where the results go [default: results]
    #[arg(short, long, env = "OUTPUT_DIR", value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// The results' names start with this [default: loadtest]
    #[arg(long, env = "LOAD_NAME")]
    pub name: Option<String>,
    /// Stream events as JSON lines: json (among the results), json=FILE (also a named pipe), json=- (stdout; the text
    /// goes to stderr then)
    #[arg(long, env = "LOAD_OUT", value_name = "json[=FILE]")]
    pub out: Option<String>,
    /// Show the run on the whole terminal: rates, percentiles, losses, stages, faults; q stops it, ? helps
    #[arg(long, env = "LOAD_TUI")]
    pub tui: bool,
    /// Delete the files of older runs from the output directory: keep those of the newest N runs, this one included [default: all]
    #[arg(long, env = "LOAD_KEEP_RESULTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_results: Option<u32>,
    /// No progress, the verdict alone
    #[arg(long, env = "LOAD_QUIET")]
    pub quiet: bool,

    /// The old name of `--api-url`
    #[arg(long, env = "FASTAPI_URL", hide = true)]
    pub fastapi_url: Option<String>,
}

//! The command line and its environment variables, as clap reads them.
//! It validates no value: `Config` does, and does not depend on clap.

#[cfg(test)]
mod reference;
mod run;
mod sweep;

use crate::environment;
use clap::{Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, CommandFactory, Parser, Subcommand};
use run::complete;
pub use run::{ArrivalOf, DurationText, Engine, RunArgs};
use std::{ffi::OsString, path::PathBuf};
pub use sweep::SweepArgs;

/// Load-tests LLM token streams over WebSockets and accounts for every token.
#[derive(Debug, Parser)]
#[command(
    name = "streamstress",
    version,
    about,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    override_usage = "streamstress [COMMAND] [OPTIONS]",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// The command; without one, the arguments are those of `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of a run.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// Returns the command line with the options of a run bound to their environment variables. Switches also take a value.
    pub(crate) fn command_line() -> ClapCommand {
        let prepare = |arg: Arg| switch(environment::bind(complete(arg)));
        // The help of `run` lists its options.
        let of_run: Vec<_> = options().get_arguments().map(|arg| arg.get_id().clone()).collect();
        let of_search = move |arg: Arg| match of_run.contains(arg.get_id()) {
            true => prepare(arg).hide(true),
            false => environment::bind(arg.allow_negative_numbers(true)),
        };
        Self::command()
            .mut_args(prepare)
            .mut_subcommand("run", |run| {
                run.args_override_self(true).after_help(ENVIRONMENT).mut_args(prepare)
            })
            .mut_subcommand("capacity", |capacity| {
                capacity.args_override_self(true).mut_args(of_search.clone())
            })
            .mut_subcommand("sweep", |sweep| sweep.args_override_self(true).mut_args(of_search))
    }

    /// Returns the command line for completions, manual and reference: with the options of `server` and `wsproxy`, which
    /// these commands parse themselves.
    pub(crate) fn documented() -> ClapCommand {
        let with_options = |options: ClapCommand| {
            move |passed: ClapCommand| {
                let about = passed.get_about().cloned().unwrap_or_default();
                options.name(passed.get_name().to_owned()).about(about)
            }
        };
        Self::command_line()
            .mut_subcommand("server", with_options(server::Args::command()))
            .mut_subcommand("wsproxy", with_options(wsproxy::Args::command()))
    }
}

/// Returns the options of a run without their environment variables.
pub(crate) fn options() -> ClapCommand {
    RunArgs::augment_args(ClapCommand::new("run").no_binary_name(true)).mut_args(complete)
}

/// Lets a switch take a value as well: `--burst`, `--burst=no`, `STREAMSTRESS_BURST=yes`.
pub(crate) fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).value_name("yes|no");
    arg.default_missing_value("yes").default_value("no").hide_default_value(true).value_parser(yes_or_no)
}

/// Reads yes or no, in several forms.
pub(crate) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" | "y" | "t" => Ok(true),
        "0" | "no" | "false" | "off" | "n" | "f" => Ok(false),
        _ => Err("expected yes or no (also 1/0, true/false, on/off)".to_owned()),
    }
}

/// Returns the environment variable whose value clap refused, if the value came from one.
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

/// The place each flag's value came from, if not the command line. The key is the flag, for example `--clients`.
pub(crate) type Origins = std::collections::BTreeMap<String, String>;

/// Returns the flags whose value came from the environment.
pub(crate) fn from_environment(matches: &ArgMatches) -> Origins {
    let command = Cli::command_line();
    let named = command.get_arguments().filter_map(|arg| {
        let is_set = matches.value_source(arg.get_id().as_str());
        let variable = arg.get_env()?.to_str()?;
        (is_set == Some(clap::parser::ValueSource::EnvVariable))
            .then(|| Some((flag(arg)?, format!("the environment variable {variable}"))))?
    });
    named.collect()
}

/// Returns an option's flag, for example `--clients`.
pub(crate) fn flag(arg: &Arg) -> Option<String> {
    arg.get_long().map(|long| format!("--{long}"))
}

/// Returns a config error with the place that the value of the first flag in it came from.
pub(crate) fn with_origin(error: &str, origins: &Origins) -> String {
    let flag = error.split([' ', ':', ',']).find(|word| word.starts_with("--")).unwrap_or_default();
    match origins.get(flag) {
        Some(origin) => format!("{error} (the value comes from {origin})"),
        None => error.to_owned(),
    }
}

const EXAMPLES: &str = "\
Run options have variables (STREAMSTRESS_CLIENTS=500). To try it: streamstress --embedded -c 500";

const ENVIRONMENT: &str = "\
Durations are written as 250ms, 30s or 1h30m; a bare number is seconds unless stated otherwise.
Every option can be set by STREAMSTRESS_<OPTION>, for example STREAMSTRESS_CLIENTS=500.
A flag takes precedence over the environment, then the scenario file, then the file `.env`.";

/// The commands of the program. Without one, the arguments are those of `run`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a load test and print a verdict (the default command)
    Run(Box<RunArgs>),
    /// Start and control a local stack: Redis, servers, gateways, HAProxy
    Stack(stack::program::Args),
    /// Run the LLM simulator
    #[command(disable_help_flag = true)]
    Server(Passed),
    /// Run the WebSocket gateway
    #[command(disable_help_flag = true)]
    Wsproxy(Passed),
    /// Summarize the result files of earlier runs
    Analyze {
        /// `.csv` files of earlier runs, or the common starts of their files' names
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Compare runs with a baseline and report regressions
    ///
    /// Exit codes: 0 no regression, 99 regression, 98 too much noise to decide.
    Compare(CompareArgs),
    /// Write the HTML report of earlier runs again
    Report {
        /// Any result file of each run
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show one query of a run in detail
    ///
    /// Prints its timeline: due instant, send, tokens with their hops, lost sockets, reconnects, replays, and the faults around it. A run
    /// keeps the timelines of its 20 slowest and of up to 200 broken queries. Of other queries, only their figures are known.
    Inspect(InspectArgs),
    /// Join the results of several generators into the result of the run
    ///
    /// Writes the files of the run and prints its verdict. Exit codes are those of `run`.
    Merge(MergeArgs),
    /// Find the highest load that meets the objectives
    ///
    /// Plays one run and changes its load in steps: it doubles the load until a step breaks, then narrows. The options of `run` apply as
    /// well, for example --api-url, --answer-tokens or --generators. Exit codes: 0 found, 98 not found precisely enough or the generator is
    /// the limit, 99 no load holds or the ceiling fell, 105 interrupted.
    Capacity(Box<CapacityArgs>),
    /// Make a guide to the size of a stack from the results of earlier runs
    ///
    /// Tells how many gateways, servers, cores and descriptors a number of users needs, and how wrong that may be. Needs at least six runs
    /// or steps of one workload with different loads, and one more to check the prediction.
    Sizing(SizingArgs),
    /// Play runs with varied settings and compare them in one table
    ///
    /// All combinations of the `--vary` are played, each several times. If a setting of the stack varies, each run has a fresh native stack.
    /// The options of `run` apply as well. Exit codes: 0 all runs passed, 99 a run failed, 98 a run is INVALID, 1 a run has no result, 105
    /// interrupted.
    Sweep(Box<SweepArgs>),
    /// Change the load of a running test, or inject a fault into its stack
    ///
    /// A change of the load begins two to three seconds later and stays until the end of the run. A fault is injected at once. The results
    /// list both. Exit codes: 0 changed, 104 refused, 1 no answer, so that the results tell whether it was changed.
    Amend(AmendArgs),
    /// Check and show target files, which describe a backend for `run --target`
    Target(TargetArgs),
    /// Show, start, change and compare runs in a browser
    ///
    /// Prints the address of the page, with its access token. A run that the page starts goes on if the page ends.
    Web(WebArgs),
    /// Run one generator for `run --generators N`, which starts it
    #[command(hide = true)]
    Generator,
    /// Play one run of a sweep for `sweep`, which starts it
    #[command(hide = true)]
    Point,
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff), for `man -l -`
    Man,
}

/// Arguments that the command's own parser reads.
#[derive(Clone, Debug, Args)]
pub struct Passed {
    /// Arguments of the command; see its `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// The options of `streamstress target`.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// What to do
    #[command(subcommand)]
    pub command: TargetCommand,
}

/// What `streamstress target` does.
#[derive(Clone, Debug, Subcommand)]
pub enum TargetCommand {
    /// Ask two questions and print each message with its meaning
    ///
    /// Explains what does not match, and what to change in the file. Exit codes: 0 the file fits the backend, 99 it does not, 104 the file
    /// is invalid or the backend cannot be reached.
    Check(Box<TargetCheckArgs>),
    /// List the built-in files
    List,
    /// Print a built-in file, to change a copy of it
    Show {
        /// Name of the file
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// The options of `streamstress target check`.
#[derive(Clone, Debug, Args)]
pub struct TargetCheckArgs {
    /// Target file: a path, or the name of a built-in file
    #[arg(value_name = "FILE|NAME")]
    pub target: String,
    /// Base URL of HTTP calls, instead of `api_url` in the file
    #[arg(long, value_name = "URL")]
    pub api_url: Option<String>,
    /// Base URL of the WebSocket, instead of `ws_url` in the file
    #[arg(long, value_name = "URL")]
    pub wsproxy_url: Option<String>,
    /// Value of {{api_key}}
    #[arg(long, env = "STREAMSTRESS_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Shell command that prints that value
    #[arg(long, env = "STREAMSTRESS_TOKEN_COMMAND", hide_env_values = true, value_name = "COMMAND")]
    pub token_command: Option<String>,
    /// Value of {{prompt}}
    #[arg(long, default_value = "Hello", value_name = "TEXT")]
    pub prompt: String,
    /// Value of {{model}}
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Value of {{max_tokens}}
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<i64>,
    /// Questions to ask in one session, 1 to 100. The second one shows whether numbers go on or begin anew
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    pub queries: u32,
    /// Time for the whole check
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub timeout: String,
    /// Header of every call and upgrade, as `Name: value` (repeatable)
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Certificates (PEM) to trust for https and wss, in addition to the public ones
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Confirm that you may load-test this host (repeatable)
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub i_am_allowed_to_load_test: Vec<String>,
}

/// How `streamstress inspect` prints a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum InspectFormat {
    /// For people.
    Text,
    /// All stored data, as a JSON array.
    Json,
}

/// The options of `streamstress inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Any result file of the run, the common start of their names, or the run's id
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// A query's id, slowest, broken, or SESSION:NUMBER with the id or index of a session and the number of a query in it
    #[arg(value_name = "QUERY")]
    pub query: String,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub format: InspectFormat,
    /// Print a line for each token. Otherwise tokens that came in order and without a long gap share a line
    #[arg(long)]
    pub tokens: bool,
    /// Directory in which a run's id is looked up
    #[arg(short, long, default_value = "results", value_name = "DIR")]
    pub output_dir: PathBuf,
}

/// The options of `streamstress merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// Files of the generators that end in `.part`, or directories with them
    #[arg(required_unless_present = "control", conflicts_with = "control", value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    /// Read the parts from this control Redis, which keeps them for an hour
    #[arg(long, value_name = "URL", requires = "run_id")]
    pub control: Option<String>,
    /// Name of the run in the control Redis
    #[arg(long, value_name = "ID", requires = "control")]
    pub run_id: Option<String>,
    /// Directory for the result files
    #[arg(short, long, default_value = "results", value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Merge although parts are missing or incomplete. The verdict is INVALID then, unless integrity is broken
    #[arg(long)]
    pub allow_partial: bool,
}

/// The options of `streamstress sizing`.
#[derive(Clone, Debug, Args)]
pub struct SizingArgs {
    /// `_summary.json` of runs, `_capacity.json` of searches, or directories with them
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    /// Users at the same time to plan for, for example 500,2000 (repeatable) [default: the highest measured load, twice and five times as many]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub users: Vec<f64>,
    /// Share of each limit to leave free
    #[arg(long, default_value = "30%", value_name = "SHARE")]
    pub headroom: String,
    /// Points that the fit must predict: latest (the newest one), or a number of points with the highest loads
    #[arg(long, default_value = "1", value_name = "latest|N")]
    pub hold_out: String,
    /// Name of the type of machine in the guide [default: CPU, cores and memory from the results]
    #[arg(long, value_name = "TEXT")]
    pub machine: Option<String>,
    /// Threads of one process of a role, which limit its CPU, for example wsproxy=2 (repeatable) [default: those of the stack: haproxy=2,
    /// server=half the cores, at most 4, others 1]
    #[arg(long, value_name = "ROLE=N", value_delimiter = ',')]
    pub threads: Vec<String>,
    /// Use only the points with this workload, setting of the stack or number of processes, for example delivery=log or wsproxy=2 (repeatable)
    #[arg(long = "where", value_name = "NAME=VALUE")]
    pub choices: Vec<String>,
    /// Where the guide goes: a Markdown file, json (JSON on stdout) or json=FILE [default: Markdown on stdout]
    #[arg(long, value_name = "FILE|json")]
    pub out: Option<String>,
}

/// The options of `streamstress amend`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true))]
pub struct AmendArgs {
    /// Open sessions from then on, for runs with --duration or --stages. The sessions that started last end first
    #[arg(long, group = "change", value_name = "N")]
    pub clients: Option<u64>,
    /// Arrivals per second from then on, for runs with --arrival-rate
    #[arg(long, visible_alias = "rate", group = "change", value_name = "N")]
    pub arrival_rate: Option<f64>,
    /// Fault to inject now, for example wsproxy-1:kill. See `streamstress stack fault --help` for targets and actions
    #[arg(long, group = "change", value_name = "SPEC", conflicts_with = "ramp_up")]
    pub fault: Option<String>,
    /// Time within which sessions start or end evenly, at least 1s [default: 1s]
    #[arg(long, value_name = "TIME")]
    pub ramp_up: Option<String>,
    /// Name of the run, if several are going on: the common start of its files' names
    #[arg(long, value_name = "NAME", conflicts_with = "control")]
    pub run: Option<String>,
    /// Control Redis of a run whose generators meet there
    #[arg(long, value_name = "URL", requires = "run_id")]
    pub control: Option<String>,
    /// Name of the run in the control Redis
    #[arg(long, value_name = "ID", requires = "control")]
    pub run_id: Option<String>,
}

/// The options of `streamstress web`.
#[derive(Clone, Debug, Args)]
pub struct WebArgs {
    /// Address of the page; port 0 takes a free port
    #[arg(long, default_value = "127.0.0.1:8089", value_name = "ADDRESS")]
    pub address: String,
    /// Let other machines use the page under this name or address, which browsers show (repeatable). Without it, only this machine can
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub web_allow: Vec<String>,
    /// Certificate chain of the page (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the page (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Directory for the result files, and of the runs in the history [default: results]
    #[arg(short, long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// URL of the HTTP API for runs whose form names none, and for trying one stream (repeatable)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub api_url: Vec<String>,
    /// URL of the gateway, likewise (repeatable)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub wsproxy_url: Vec<String>,
    /// Run the whole stack in the process of each run, likewise
    #[arg(long)]
    pub embedded: bool,
    /// Confirm that you may load-test this host (repeatable)
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub i_am_allowed_to_load_test: Vec<String>,
    /// Stack to inject faults into and to observe: a name, a state directory, or `compose`
    #[arg(long, value_name = "NAME")]
    pub fault_stack: Option<String>,
}

impl WebArgs {
    /// Returns the options of a run that say where it goes.
    pub(crate) fn target(&self) -> Vec<String> {
        let many = |flag: &str, values: &[String]| -> Vec<String> {
            values.iter().map(|value| format!("--{flag}={value}")).collect()
        };
        [
            many("api-url", &self.api_url),
            many("wsproxy-url", &self.wsproxy_url),
            many("i-am-allowed-to-load-test", &self.i_am_allowed_to_load_test),
            many("fault-stack", self.fault_stack.as_slice()),
            self.embedded.then(|| "--embedded".to_owned()).into_iter().collect(),
        ]
        .concat()
    }
}

/// The options of `streamstress compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// One baseline run and one candidate run: `_summary.json`, `.csv`, or the common start of both names
    #[arg(num_args = 2, value_names = ["BASELINE", "CANDIDATE"], conflicts_with_all = ["baseline", "candidate"], required_unless_present = "baseline")]
    pub files: Vec<PathBuf>,
    /// Runs of the baseline
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "candidate")]
    pub baseline: Vec<PathBuf>,
    /// Runs of the candidate
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "baseline")]
    pub candidate: Vec<PathBuf>,
    /// Largest relative increase of a duration to accept, for example 5% or 0.05
    #[arg(long, default_value = "5%", value_name = "SHARE")]
    pub tolerance: String,
    /// Increase of a duration to accept regardless of --tolerance, in milliseconds
    #[arg(long, default_value_t = 1.0, value_name = "MS")]
    pub tolerance_ms: f64,
    /// Largest increase of the share of failed queries to accept, in percentage points, for example 0.1%
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub failure_tolerance: String,
    /// Difference between two runs of one version to expect. Used if a side has fewer than four runs
    #[arg(long, default_value = "15%", value_name = "SHARE")]
    pub assumed_noise: String,
    /// Percentile to compare, for example e2el_ms:p95 (repeatable) [default: ttft_ms:p50 ttft_ms:p95 tpot_ms:p50 e2el_ms:p50 e2el_ms:p95]
    #[arg(long = "metric", num_args = 1.., value_name = "METRIC:PERCENTILE")]
    pub metrics: Vec<String>,
    /// Seed for bootstrap resampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// The unit of a ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CeilingUnit {
    /// Sessions that are open at the same time.
    Sessions,
    /// New sessions per second.
    SessionRate,
    /// Tokens per second.
    Tokens,
}

impl From<CeilingUnit> for report::capacity::Unit {
    fn from(unit: CeilingUnit) -> Self {
        match unit {
            CeilingUnit::Sessions => Self::Sessions,
            CeilingUnit::SessionRate => Self::SessionRate,
            CeilingUnit::Tokens => Self::Tokens,
        }
    }
}

/// The options of `streamstress capacity`, and those of a run.
#[derive(Clone, Debug, Args)]
pub struct CapacityArgs {
    /// What the ceiling is a number of
    #[arg(long, value_enum, default_value = "sessions", value_name = "UNIT")]
    pub by: CeilingUnit,
    /// Objective of every step, repeatable: a threshold, or a multiple of the ideal such as e2el_ms:p99<1.5x [default: e2el_ms:p99<1.5x]
    ///
    /// The ideal is the answer's duration by the drawn schedule. Where the system does not announce it, it is the figure of the first step.
    /// No step holds that lost, duplicated or reordered a token, or in which a query failed unless an objective limits failures.
    #[arg(long, value_name = "OBJECTIVE")]
    pub slo: Vec<String>,
    /// First load [default: 8 sessions, or 1 session per second]
    #[arg(long, value_name = "N")]
    pub from: Option<f64>,
    /// Highest load to try [default: 100000]
    #[arg(long, value_name = "N")]
    pub to: Option<f64>,
    /// Width of the interval of the ceiling at which the search ends, in percent of the ceiling [default: 5]
    #[arg(long, value_name = "PERCENT")]
    pub precision: Option<f64>,
    /// Time that is measured in each step [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub step: Option<DurationText>,
    /// Time after each change of the load before anything counts [default: 3s]
    #[arg(long, value_name = "DURATION")]
    pub warm_up: Option<DurationText>,
    /// Largest number of steps [default: 60]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u32>,
    /// Time after which the search ends [default: 30m]
    #[arg(long, value_name = "DURATION")]
    pub time_limit: Option<DurationText>,
    /// Continue an earlier search from its _capacity.json
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Exit with 99 if the ceiling is lower than in this _capacity.json by more than the noise
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// The options of the run.
    #[command(flatten)]
    pub run: RunArgs,
}

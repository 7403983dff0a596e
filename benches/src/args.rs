//! The options of the load program. Nothing else reads the command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// Measures the CPU time, memory, latency and highest load of a WebSocket gateway, a load client or a stack
#[derive(Clone, Debug, Parser)]
#[command(name = "streamstress-bench", version, max_term_width = 100, args_override_self = true)]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Measure CPU time per token, memory per connection and latency at one load
    Gateway(Gateway),
    /// Measure how many sockets open per second, each with a JWT and an attached session
    Connect(Connect),
    /// Measure the CPU time and memory of a load client at one load
    Client(Client),
    /// Measure the CPU time of a stack without load
    Idle(Idle),
    /// Measure what a token costs in a rival, or what is lost when its process is killed
    Rivals(Rivals),
    /// Search the highest clean load: in steps, then by halving
    Search(Search),
    /// Print Markdown tables of records
    Table(Table),
    /// Break a stack in each known way, one fault per run, and account for every token
    Matrix(Matrix),
    /// Run the files of `scenarios/` in little time
    Scenarios(Scenarios),
    /// Count the instructions of the hot paths with valgrind, and compare them with a baseline
    Instructions(Instructions),
}

/// `bench instructions`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Instructions {
    /// File with the counts to compare with
    #[arg(long, default_value = "benches/instructions.json")]
    pub(crate) baseline: PathBuf,
    /// Write the counts into the file instead of comparing them
    #[arg(long)]
    pub(crate) write_baseline: bool,
    /// Execute this path only, without counting
    #[arg(long, hide = true)]
    pub(crate) path: Option<String>,
    /// How often to execute it
    #[arg(long, hide = true, default_value_t = 1)]
    pub(crate) times: u32,
}

/// The gateway's default of `WS_MAX_COALESCE_MS`.
const DEFAULT_COALESCE_MS: u16 = 100;

/// What is measured, and how sockets reach it.
#[derive(Clone, Debug, ClapArgs)]
pub struct Target {
    /// Gateway to measure
    #[arg(long, value_enum, default_value_t = Gateways::Wsproxy)]
    pub gateway: Gateways,
    /// How sockets reach the gateway
    #[arg(long, value_enum, default_value_t = Way::Tcp)]
    pub way: Way,
    /// Use TCP instead of unix sockets between the processes of the stack
    #[arg(long)]
    pub tcp_hops: bool,
    /// Milliseconds for which wsproxy may hold tokens back to merge them; 0: never
    #[arg(long, default_value_t = DEFAULT_COALESCE_MS, value_parser = clap::value_parser!(u16).range(..=1_000))]
    pub coalesce_ms: u16,
    /// Ask wsproxy to send the tokens of this many milliseconds as one frame
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub rollup: Option<u16>,
    /// Number of gateways; more than one needs --way haproxy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub gateways: u16,
    /// Number of servers. They are idle, except with `client`: this program produces the tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub servers: u16,
    /// Directory with the programs of this project [default: that of this program]
    #[arg(long, env = "STREAMSTRESS_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
}

impl Target {
    /// Returns one gateway that sockets reach over TCP, with the other options at their defaults.
    pub(crate) const fn direct(gateway: Gateways, bin_dir: Option<PathBuf>, search_path: String) -> Self {
        Self {
            gateway,
            way: Way::Tcp,
            tcp_hops: false,
            coalesce_ms: DEFAULT_COALESCE_MS,
            rollup: None,
            gateways: 1,
            servers: 1,
            bin_dir,
            search_path,
        }
    }

    /// Returns the longest time for which the gateway may hold a token back, in milliseconds.
    pub(crate) fn hold_ms(&self) -> f64 {
        if self.gateway == Gateways::Wsproxy { f64::from(self.coalesce_ms) } else { 0.0 }
    }

    /// Describes the target, for example `wsproxy over tcp, never merging`.
    pub(crate) fn variant(&self) -> String {
        let gateways = if self.gateways > 1 { format!("{} × ", self.gateways) } else { String::new() };
        let hops = if self.tcp_hops { ", tcp hops" } else { "" };
        let merging = match (self.gateway, self.coalesce_ms) {
            (Gateways::Wsproxy, 0) => ", never merging".to_owned(),
            (Gateways::Wsproxy, ms) if ms != DEFAULT_COALESCE_MS => format!(", merging for {ms} ms"),
            _ => String::new(),
        };
        let rollup = self.rollup.map_or_else(String::new, |ms| format!(", rollup of {ms} ms"));
        format!("{gateways}{} over {}{hops}{merging}{rollup}", self.gateway.name(), self.way.name())
    }
}

/// Gateways that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gateways {
    /// wsproxy with log, resume, limits and pings.
    Wsproxy,
    /// A minimal gateway on tokio-tungstenite with default buffers; no log, no limits, no pings.
    TungsteniteDefault,
    /// The minimal gateway with small buffers.
    TungsteniteSmall,
    /// nginx with nchan at its defaults: Redis stores the last ten messages of a session; no JWT, no pings.
    Nchan,
    /// nchan without storage.
    NchanNostore,
    /// nchan with the last thousand messages of a session in Redis.
    NchanLong,
}

impl Gateways {
    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wsproxy => "wsproxy",
            Self::TungsteniteDefault => "tungstenite-default",
            Self::TungsteniteSmall => "tungstenite-small",
            Self::Nchan => "nchan",
            Self::NchanNostore => "nchan-nostore",
            Self::NchanLong => "nchan-long",
        }
    }

    /// Returns whether the gateway is nchan, which takes messages from its own front end and not from our servers.
    #[must_use]
    pub const fn is_nchan(self) -> bool {
        matches!(self, Self::Nchan | Self::NchanNostore | Self::NchanLong)
    }
}

/// How sockets reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Directly, over TCP on loopback.
    Tcp,
    /// Directly, over the gateway's unix socket.
    Unix,
    /// Through HAProxy.
    Haproxy,
}

impl Way {
    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Rate and duration of the load.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Shape {
    /// Tokens per second on each connection
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub per_connection: f64,
    /// Seconds of load before the measurement
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub warm_up: Duration,
    /// Seconds of the measurement
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub duration: Duration,
}

/// `bench gateway`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Gateway {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Number of WebSockets, one session each
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub(crate) connections: u32,
}

/// `bench connect`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Connect {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Number of WebSockets to open, one session each
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub(crate) connections: u32,
    /// Connects at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) concurrency: u32,
}

/// Load clients that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clients {
    /// `streamstress run`, with all checks and histograms.
    Ours,
    /// tsung, which counts bytes and does not parse frames.
    Tsung,
    /// k6 with the script `benches/peers/k6.js`.
    K6,
}

impl Clients {
    /// Returns the name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "client",
            Self::Tsung => "tsung",
            Self::K6 => "k6",
        }
    }

    /// Returns how to install the client.
    #[must_use]
    pub const fn install(self) -> &'static str {
        match self {
            Self::Ours => "run `cargo build -p client`, or set STREAMSTRESS_BIN_DIR",
            Self::Tsung => "run `apt-get install tsung` or install the package of your distribution",
            Self::K6 => "install k6, so that it is on the PATH: grafana.com/docs/k6/latest/set-up/install-k6",
        }
    }
}

/// `bench client`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Client {
    /// Client to measure
    #[arg(long, value_enum, default_value_t = Clients::Ours)]
    pub(crate) client: Clients,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Number of clients, one session each
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    pub(crate) clients: u32,
}

/// `bench idle`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Idle {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Seconds of the measurement
    #[arg(long, default_value = "15", value_parser = seconds)]
    pub(crate) duration: Duration,
}

/// What `bench rivals` can measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rival {
    /// wsproxy with Redis; clients resume after their last position.
    Wsproxy,
    /// A minimal gateway on tokio-tungstenite with Redis; nothing is resumed.
    Tungstenite,
    /// nginx with nchan, which keeps the last thousand messages of a session in Redis; clients resume after their last message.
    Nchan,
    /// Sockudo, one node; clients ask to resume from its memory.
    Sockudo,
    /// Sockudo, one node, with the history of the channels in PostgreSQL; clients ask to resume from it.
    SockudoPostgres,
    /// The durable-streams server; clients read on from their offset.
    DurableStreams,
    /// `s2 lite` with its data on disk; clients read on from their position.
    S2,
}

impl Rival {
    /// Returns the name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wsproxy => "wsproxy",
            Self::Tungstenite => "tungstenite",
            Self::Nchan => "nchan",
            Self::Sockudo => "sockudo",
            Self::SockudoPostgres => "sockudo, postgres",
            Self::DurableStreams => "durable-streams",
            Self::S2 => "s2 lite",
        }
    }
}

/// `bench rivals`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Rivals {
    /// Rival to measure
    #[arg(long, value_enum)]
    pub(crate) rival: Rival,
    /// Kill the gateway under load and start it again, and count what its clients miss
    #[arg(long)]
    pub(crate) kill: bool,
    /// Number of connections, one session, channel or stream each
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) connections: u32,
    /// Tokens per second on each connection
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) per_connection: f64,
    /// Seconds of load before the measurement
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) warm_up: Duration,
    /// Seconds of the measurement
    #[arg(long, default_value = "20", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// With --kill: seconds of the measurement before the kill
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) kill_at: Duration,
    /// With --kill: seconds between the kill and the start
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) restart_after: Duration,
    /// Directory with the programs of this project [default: that of this program]
    #[arg(long, env = "STREAMSTRESS_BIN_DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
}

/// `bench search`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Search {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// First load, in tokens per second
    #[arg(long, default_value_t = 40_000.0, value_parser = positive)]
    pub(crate) from: f64,
    /// Growth of the load per step, in tokens per second
    #[arg(long, default_value_t = 20_000.0, value_parser = positive)]
    pub(crate) step: f64,
    /// Highest load to try, in tokens per second
    #[arg(long, default_value_t = 200_000.0, value_parser = positive)]
    pub(crate) to: f64,
    /// Precision: largest distance between the result and a load that was not clean, in tokens per second
    #[arg(long, default_value_t = 5_000.0, value_parser = positive)]
    pub(crate) within: f64,
}

/// `bench table`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Table {
    /// Files with one record or a list of records
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// File with medians to compare with
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// File to write the medians to
    #[arg(long)]
    pub(crate) write_baseline: Option<PathBuf>,
    /// Commit to name in --write-baseline
    #[arg(long, default_value = "unknown")]
    pub(crate) commit: String,
}

/// `bench matrix`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Exit code 0: in every row, no token was lost, duplicated or out of order, and every session was ok, except those \
                        whose server was killed. Results of each row stay in results/matrix."
)]
pub struct Matrix {
    /// Sessions that stream [default: 1000, 100 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub(crate) clients: Option<u32>,
    /// Rows whose name matches this regular expression
    #[arg(long, value_name = "PATTERN", default_value = "", hide_default_value = true)]
    pub(crate) only: String,
    /// A smaller matrix: fewer sessions and shorter streams
    #[arg(long)]
    pub(crate) quick: bool,
    /// Runs at a time. More than one is for tests: figures of time are then those of a busy machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) jobs: u8,
    /// Write the table to docs/delivery.md
    #[arg(long)]
    pub(crate) write: bool,
    /// Print the rows and end
    #[arg(long)]
    pub(crate) list: bool,
    /// The client's seed, to repeat a row [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Directory for the results
    #[arg(long, env = "OUTPUT_DIR", value_name = "DIR", default_value = "results/matrix", hide_env = true)]
    pub(crate) output_dir: PathBuf,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
}

/// `bench scenarios`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Exit code 0: no scenario was FAIL. INVALID means that this machine was too busy or too small for figures. Every \
                        query must still be accounted for, every token received, and every threshold met."
)]
pub struct Scenarios {
    /// Names of scenarios [default: all of them, in about five minutes]
    pub(crate) names: Vec<String>,
    /// Take a third of the time, with at most 100 sessions
    #[arg(long)]
    pub(crate) quick: bool,
    /// Runs at a time. More than one is for tests: figures of time are then those of a busy machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) jobs: u8,
    /// Count INVALID as a failure
    #[arg(long)]
    pub(crate) strict: bool,
    /// Seed of every run [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Directory for the results
    #[arg(
        long,
        env = "OUTPUT_DIR",
        value_name = "DIR",
        default_value = "results/scenarios",
        hide_env = true
    )]
    pub(crate) output_dir: PathBuf,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
}

fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err(format!("`{text}` must be greater than 0")) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value = positive(text)?;
    if value <= 600.0 {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("`{text}` must be at most 600 seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for flags in [
            ["gateway", "--connections", "0"],
            ["gateway", "--per-connection", "-1"],
            ["gateway", "--duration", "601"],
            ["search", "--step", "nan"],
            ["connect", "--concurrency", "2000"],
        ] {
            assert!(Args::try_parse_from(["bench"].into_iter().chain(flags)).is_err(), "{flags:?}");
        }
    }
}

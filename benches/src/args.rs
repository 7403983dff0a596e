//! The load program's flags, as clap reads them. What they mean is said here once; nothing else reads the command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// Measures a WebSocket gateway between a private Redis and sockets that cost next to nothing to read.
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
    /// CPU time a token, memory a connection and latency at one load
    Gateway(Gateway),
    /// Sockets opened a second, with a token and an attached session each
    Connect(Connect),
    /// What a load client costs at one load
    Client(Client),
    /// What a stack costs that nobody uses
    Idle(Idle),
    /// The highest load that stays clean: in steps, then between the last clean one and the first that was not
    Search(Search),
    /// Tables of the records in files, in Markdown
    Table(Table),
    /// Break a stack in each known way, one fault per run, and account for every token
    Matrix(Matrix),
    /// Run the files of `scenarios/` in little time
    Scenarios(Scenarios),
}

/// The gateway's own default.
pub(crate) const DEFAULT_COALESCE_MS: u16 = 100;

/// What is measured, and the way to it.
#[derive(Clone, Debug, ClapArgs)]
pub struct Target {
    /// The gateway
    #[arg(long, value_enum, default_value_t = Gateways::Wsproxy)]
    pub gateway: Gateways,
    /// How sockets reach it
    #[arg(long, value_enum, default_value_t = Way::Tcp)]
    pub way: Way,
    /// TCP between the processes of the stack as well, in the place of unix sockets
    #[arg(long)]
    pub tcp_hops: bool,
    /// Milliseconds for which our gateway may hold tokens back to merge them; 0: it never merges
    #[arg(long, default_value_t = DEFAULT_COALESCE_MS, value_parser = clap::value_parser!(u16).range(..=1_000))]
    pub coalesce_ms: u16,
    /// How many gateways; more than one needs HAProxy on the way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub gateways: u16,
    /// How many servers; the load program makes its tokens itself, so they idle
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub servers: u16,
    /// Where `wsproxy`, `server`, `client` and `peer` are [default: beside this program]
    #[arg(long, env = "STREAMSTRESS_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
}

impl Target {
    /// For how long the gateway may hold a token back, in milliseconds.
    pub(crate) fn hold_ms(&self) -> f64 {
        if self.gateway == Gateways::Wsproxy { f64::from(self.coalesce_ms) } else { 0.0 }
    }
}

/// Gateways that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gateways {
    /// Ours, with log, resume, bounds and pings on.
    Wsproxy,
    /// A minimal one on tokio-tungstenite with its default buffers; no log, no bounds, no pings.
    TungsteniteDefault,
    /// The same with small buffers.
    TungsteniteSmall,
    /// nginx with nchan at its defaults: Redis keeps the last ten messages of a session; no JWT, no pings.
    Nchan,
    /// nchan without storage: messages are handed on alone.
    NchanNostore,
}

impl Gateways {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wsproxy => "wsproxy",
            Self::TungsteniteDefault => "tungstenite-default",
            Self::TungsteniteSmall => "tungstenite-small",
            Self::Nchan => "nchan",
            Self::NchanNostore => "nchan-nostore",
        }
    }

    /// nchan takes its messages from a front end of its own, and nothing that our servers say.
    #[must_use]
    pub const fn is_nchan(self) -> bool {
        matches!(self, Self::Nchan | Self::NchanNostore)
    }
}

/// How sockets reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Straight to it, over TCP on loopback.
    Tcp,
    /// Straight to it, over its unix socket.
    Unix,
    /// Through HAProxy.
    Haproxy,
}

impl Way {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Haproxy => "haproxy",
        }
    }
}

/// How the load is made.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Shape {
    /// Tokens a second on each connection
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
    /// WebSockets, one session each
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub(crate) connections: u32,
}

/// `bench connect`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Connect {
    #[command(flatten)]
    pub(crate) target: Target,
    /// WebSockets to open, one session each
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub(crate) connections: u32,
    /// Connects under way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) concurrency: u32,
}

/// Load clients that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clients {
    /// Ours, with every check and histogram on.
    Ours,
    /// tsung: it counts bytes and looks into no frame.
    Tsung,
    /// k6, with the script in `benches/peers`.
    K6,
}

impl Clients {
    /// As records call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "client",
            Self::Tsung => "tsung",
            Self::K6 => "k6",
        }
    }

    /// What brings it.
    #[must_use]
    pub const fn install(self) -> &'static str {
        match self {
            Self::Ours => "run `cargo build -p client`, or set STREAMSTRESS_BIN_DIR",
            Self::Tsung => "run `apt-get install tsung` (or the like)",
            Self::K6 => "put k6 on the PATH, see its documentation",
        }
    }
}

/// `bench client`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Client {
    /// The client
    #[arg(long, value_enum, default_value_t = Clients::Ours)]
    pub(crate) client: Clients,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Clients, one session each
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    pub(crate) clients: u32,
}

/// `bench idle`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Idle {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Seconds to look on for
    #[arg(long, default_value = "15", value_parser = seconds)]
    pub(crate) duration: Duration,
}

/// `bench search`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Search {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Tokens a second to begin with
    #[arg(long, default_value_t = 40_000.0, value_parser = positive)]
    pub(crate) from: f64,
    /// How much the load grows in a step, in tokens a second
    #[arg(long, default_value_t = 20_000.0, value_parser = positive)]
    pub(crate) step: f64,
    /// Where the search ends, in tokens a second
    #[arg(long, default_value_t = 200_000.0, value_parser = positive)]
    pub(crate) to: f64,
    /// The search is over when the last clean load and the first that was not are so near, in tokens a second
    #[arg(long, default_value_t = 5_000.0, value_parser = positive)]
    pub(crate) within: f64,
}

/// `bench table`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Table {
    /// Files with a record each, or a list of them
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Medians to compare with
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Write the medians there, to be compared with later
    #[arg(long)]
    pub(crate) write_baseline: Option<PathBuf>,
    /// Of which commit the medians are
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
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err(format!("`{text}` is not above zero")) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value = positive(text)?;
    if value <= 600.0 { Ok(Duration::from_secs_f64(value)) } else { Err("ten minutes are the most".into()) }
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

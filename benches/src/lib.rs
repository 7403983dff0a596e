//! Measures what the gateway, its peers and the whole stack cost and carry: CPU time a token, memory a connection, the highest
//! load that stays clean. It judges no change by time, and it declares invalid what its own lateness has spoilt.
//! It also runs the fault matrix and the scenarios, which are judged by counts.

pub mod args;
mod client;
mod connect;
mod dial;
mod gateway;
mod idle;
mod judge;
mod latency;
mod matrix;
pub mod nchan;
mod pace;
pub mod peer;
mod posts;
mod publisher;
mod reader;
pub mod record;
mod rig;
mod scenarios;
mod search;
mod stack_run;
pub mod table;
mod tabulate;
mod usage;

use args::{Args, Command};
use std::io::Write as _;
use std::process::ExitCode;

/// Exit code of a measurement that cannot be trusted, as the client's.
const INVALID: u8 = 98;

/// Does what the command line asks for and prints its record as JSON.
///
/// # Errors
/// The rig did not start, or the load could not be made.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    stack::raise_open_files()?;
    // One thread publishes or dials; reading has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = match args.command {
        Command::Gateway(options) => runtime.block_on(gateway::measure(&options))?,
        Command::Connect(options) => runtime.block_on(connect::measure(&options))?,
        Command::Client(options) => runtime.block_on(client::measure(&options))?,
        Command::Idle(options) => runtime.block_on(idle::measure(&options))?,
        Command::Search(options) => runtime.block_on(search::measure(&options))?,
        Command::Table(options) => return tabulate::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Matrix(options) => return matrix::run(&options),
        Command::Scenarios(options) => return scenarios::run(&options),
    };
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&record)?);
    Ok(ExitCode::from(if record.verdict == record::Verdict::Invalid { INVALID } else { 0 }))
}

//! Measures the gateway, its peers and rivals, load clients and the whole stack: CPU time per token, memory per connection, latency and the
//! highest clean load. A run is INVALID if the load program itself was too late. It also runs the fault matrix and the scenarios,
//! which are judged by counts.

pub mod args;
mod client;
mod connect;
mod dial;
mod gateway;
pub mod hot_paths;
mod idle;
mod instructions;
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
mod rivals;
mod scenarios;
mod search;
mod stack_run;
pub mod table;
mod tabulate;
mod token_way;
mod usage;

use args::{Args, Command};
use std::io::Write as _;
use std::process::ExitCode;

/// Exit code of an INVALID measurement, as in the load client.
const INVALID: u8 = 98;

/// Runs the command and prints its record as JSON. Returns exit code 98 if the record is INVALID.
///
/// # Errors
/// The stack does not start, or the load cannot be produced.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    host::raise_open_files();
    // One thread publishes or connects. Reading has another thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = match args.command {
        Command::Gateway(options) => runtime.block_on(gateway::measure(&options))?,
        Command::Connect(options) => runtime.block_on(connect::measure(&options))?,
        Command::Client(options) => runtime.block_on(client::measure(&options))?,
        Command::Idle(options) => runtime.block_on(idle::measure(&options))?,
        Command::Rivals(options) => runtime.block_on(rivals::measure(&options))?,
        Command::Search(options) => runtime.block_on(search::measure(&options))?,
        Command::Table(options) => return tabulate::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Matrix(options) => return matrix::run(&options),
        Command::Scenarios(options) => return scenarios::run(&options),
        Command::Instructions(options) => {
            return instructions::run(&options).map(|held| ExitCode::from(u8::from(!held)));
        }
    };
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&record)?);
    Ok(ExitCode::from(if record.verdict == record::Verdict::Invalid { INVALID } else { 0 }))
}

//! The supervisor's program: `stack up | down | status | logs | fault | scale`.

mod program;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match program::run(program::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

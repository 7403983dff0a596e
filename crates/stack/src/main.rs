//! The supervisor's program: `stack up | down | status | logs | fault | scale`.

mod program;

use clap::Parser;
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    match program::run(program::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The load program: `bench gateway | connect | search`.

use clap::Parser;
use std::process::ExitCode;

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match benches::run(benches::args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The load program: `bench gateway | connect | search`.

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match benches::run(benches::args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

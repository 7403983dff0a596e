//! The program `streamstress-bench`.

use clap::Parser;
use std::io::Write as _;
use std::process::ExitCode;

/// glibc's allocator takes twice as long for the small, short-lived allocations of a token.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match benches::run(benches::args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "streamstress-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

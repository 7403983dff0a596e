//! The server's process: reads the configuration, opens the bus and the port, serves until it is told to end.

use clap::Parser;
use server::{Args, Settings, process};
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // It would be told on stderr, which panics when stderr takes nothing.
        .log_internal_errors(false)
        .init();
    let args = Args::parse();
    let outcome = if args.health_check {
        args.health_address().map_err(Into::into).and_then(process::check)
    } else {
        args.settings().map_err(Into::into).and_then(serve)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "server: {error:#}");
            ExitCode::from(if error.is::<server::Faults>() { 2 } else { 1 })
        }
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    process::runtime(settings.server.workers)?.block_on(async {
        let bus = bus::open(settings.bus.clone())?;
        process::serve(settings, bus).await
    })
}

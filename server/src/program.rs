//! The simulator as a program: reads its arguments and environment, opens the bus and the port, serves until it is told to end.

use crate::{Args, Settings, process};
use settings::flags::{ConfigErrors, Read};
use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

/// Runs the simulator with these arguments, the program's name first. Returns 2 for a wrong configuration, 1 for another failure.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // The subscriber would report its own write errors with eprintln!, which panics when stderr is full or closed.
        .log_internal_errors(false)
        .init();
    let Read { args, errors, warnings } =
        Args::read(arguments, |name| std::env::var_os(name)).unwrap_or_else(|error| error.exit());
    let outcome = if args.health_check {
        errors.check(args.health_address()).map_err(Into::into).and_then(process::check)
    } else {
        args.settings(errors, warnings).map_err(Into::into).and_then(serve)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "server: {error:#}");
            ExitCode::from(if error.is::<ConfigErrors>() { 2 } else { 1 })
        }
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    process::runtime(settings.server.workers)?.block_on(async {
        let bus = bus::open(settings.bus.clone())?;
        process::serve(settings, bus).await
    })
}

//! The simulator as a program: reads its arguments and environment, opens the bus and the port, serves until it is told to end.

use crate::{Args, Settings, process};
use settings::flags::{self, ConfigErrors};
use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

/// Runs the simulator with these arguments, the program's name first. Returns 2 for a wrong configuration, 1 for another failure.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    host::log_to_stderr();
    let environment = |name: &str| std::env::var_os(name);
    let read = flags::read::<Args>(arguments, environment, &crate::args::OLD_NAMES)
        .unwrap_or_else(|error| error.exit());
    let outcome = if read.args.health_check {
        process::check(read.args.health_address())
    } else {
        Args::settings(read).map_err(Into::into).and_then(serve)
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

//! The simulator as a program: reads its arguments and environment, opens the bus and the port, serves until it is asked to end.

use crate::args::{Args, Settings};
use anyhow::Context;
use settings::flags::{self, ConfigErrors, REFUSED};
use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};
use tokio::net::TcpListener;

/// Runs the simulator with these arguments, the program's name first. Returns 104 for a wrong configuration, 1 for another failure.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    host::log_to_stderr();
    let environment = |name: &str| std::env::var_os(name);
    let read = match flags::read::<Args>(arguments, environment, &crate::args::OLD_NAMES) {
        Ok(read) => read,
        Err(error) => return flags::refuse(&error),
    };
    let outcome = if read.args.health_check {
        host::check_ready(read.args.health_address()).map_err(Into::into)
    } else {
        Args::settings(read).map_err(Into::into).and_then(serve)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "server: {error:#}");
            ExitCode::from(if error.is::<ConfigErrors>() { REFUSED } else { 1 })
        }
    }
}

fn serve(Settings { listen: (host, port), bus, server, warnings }: Settings) -> anyhow::Result<()> {
    host::runtime(server.workers)?.block_on(async {
        let bus = bus::open(bus)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        // Every connection is an open file.
        host::raise_open_files();
        let listener = TcpListener::bind((host.as_str(), port)).await.with_context(|| {
            format!("cannot listen on {host}:{port}: stop the program that uses it, or change HOST or PORT")
        })?;
        crate::run(listener, server, bus, host::shutdown_on_signal()?).await
    })
}

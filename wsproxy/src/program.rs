//! The gateway as a program: reads its arguments and environment, binds its listeners, serves until it is told to end.

use crate::{Args, Settings, health_check, process};
use settings::flags::{self, ConfigErrors};
use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};
use tokio::runtime::Builder;

/// Runs the gateway with these arguments, the program's name first. Returns 2 if it could not start or failed.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    let read = flags::read::<Args>(arguments, environment, &[]).unwrap_or_else(|error| error.exit());
    if read.args.health_check && read.errors == ConfigErrors::default() {
        return ExitCode::from(u8::from(!health_check(read.args.port()).unwrap_or(false)));
    }
    host::log_to_stderr();
    match Args::settings(read).map_err(Into::into).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log, whose level may exclude it.
            let _ = writeln!(io::stderr(), "wsproxy: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    if let Some(warning) = process::too_few_files(settings.gateway.max_connections, host::raise_open_files())
    {
        tracing::warn!("{warning}");
    }
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut builder = match settings.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(settings.threads).enable_all().build()?.block_on(async {
        let listeners = process::bind(&settings.host, settings.port, settings.unix_socket.as_deref()).await?;
        let bus = bus::open(settings.bus)?;
        crate::run(listeners, settings.gateway, bus, host::shutdown_on_signal()?).await
    })
}

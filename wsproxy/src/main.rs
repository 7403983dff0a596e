//! The gateway's program: settings, runtime, signals. Everything else is the library's.

use std::process::ExitCode;
use tokio::runtime::Builder;
use wsproxy::{Args, Settings, health_check, process};

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::read();
    if args.health_check {
        return ExitCode::from(u8::from(!health_check(args.port()).unwrap_or(false)));
    }
    process::log_to_stderr();
    match args.resolve().map_err(Into::into).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    if let Some(warning) = process::raise_open_files(settings.gateway.max_connections) {
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
        wsproxy::run(listeners, settings.gateway, bus, process::shutdown_on_signal()?).await
    })
}

//! `streamstress stack up`: holds a stack in the foreground, or starts a supervisor in the background and waits for its word.

use super::{
    args::{Selection, Up},
    print_line, show, show_end,
};
use crate::{
    JwtSecret,
    control::Response,
    native::{Binaries, Native, Options, Programs, Status},
    open_log, private_directory, supervisor,
};
use anyhow::{Context, bail};
use futures_util::future::OptionFuture;
use std::{
    io::{BufRead, BufReader, IsTerminal, Write},
    process::{Command, Stdio},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// What a shell reports for Ctrl+C.
const INTERRUPTED: i32 = 130;

pub(crate) fn run(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<()> {
    if up.announce {
        return announce(selection, up, programs);
    }
    if up.detach {
        return detach(selection);
    }
    log_to_stderr();
    hold(selection, up, programs, |status| {
        show(&status);
        print_line(format_args!("\nend it with Ctrl+C or `{}`", selection.down_command()));
        Ok(())
    })?;
    show_end(selection);
    Ok(())
}

/// In the background: says once on stdout how the start went, then nothing more.
fn announce(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot leave the terminal")?;
    // Where the kernel shares the CPU between sessions first, niceness counts only inside one: the session gives way too.
    let _ = std::fs::write("/proc/self/autogroup", crate::NICENESS.to_string());
    log_to_stderr();
    let held = hold(selection, up, programs, |status| {
        // Whoever started us may have gone, by Ctrl+C say: a stack that nobody knows of must not stay.
        say(&Response::Status(status)).context("nobody waits for this stack any more")
    });
    held.inspect_err(|error| {
        let _ = say(&Response::Error(format!("{error:#}")));
    })
}

fn say(response: &Response) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// Starts this program again in the background, with the same arguments, and passes on what it announces.
fn detach(selection: &Selection) -> anyhow::Result<()> {
    let logs = selection.directory().join("logs");
    private_directory(&selection.directory())?;
    private_directory(&logs)?;
    let path = logs.join("supervisor.log");
    let log = open_log(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--announce")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let stdout = child.stdout.take().context("the supervisor has no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Ok(Response::Status(status)) => {
            show(&status);
            print_line(format_args!("\nend it with `{}`", selection.down_command()));
            Ok(())
        }
        Ok(Response::Error(why)) => bail!(why),
        _ => bail!("the supervisor ended at once: its log is {}", path.display()),
    }
}

/// Holds a stack until it is told to end. `tell` hears once that it is up.
fn hold(
    selection: &Selection,
    up: &Up,
    programs: Programs,
    tell: impl FnOnce(Status) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let options = options(selection, up, programs)?;
    // The second is for relays, when there are any.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Below `nohup` a hangup is ignored, and stays so.
        let mut hangup = (!host::hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
        let asked = shutdown.clone();
        tokio::spawn(async move {
            for asked_before in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    Some(_) = OptionFuture::from(hangup.as_mut().map(Signal::recv)) => {}
                }
                if asked_before {
                    // The kernel ends the children of a process that ends.
                    std::process::exit(INTERRUPTED);
                }
                asked.cancel();
            }
        });
        supervisor::run(options, shutdown, async |native: &Native| tell(native.status().await)).await
    })
}

fn options(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<Options> {
    let secret = match up.jwt_secret.as_deref() {
        None | Some("") => JwtSecret::random(),
        Some(key) => JwtSecret::new(key).context("JWT_SECRET")?,
    };
    let programs = match &up.bin_dir {
        Some(directory) => Programs::in_directory(directory)?,
        None => programs,
    };
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let binaries = Binaries::find(programs, &path)?;
    Ok(Options {
        servers: up.servers,
        proxies: up.proxies,
        server_workers: up.server_workers.map(usize::from),
        api_port: up.api_port,
        ws_port: up.ws_port,
        stats_port: up.stats_port,
        redis_port: up.redis_port,
        persistence: up.redis_persistence.into(),
        relays: up.relays,
        secret,
        ..Options::new(selection.directory(), binaries)
    })
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would be told on stderr, which panics when stderr takes nothing.
        .log_internal_errors(false)
        .init();
}

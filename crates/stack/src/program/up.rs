//! `streamstress stack up`: supervises a stack in the foreground, or starts a supervisor in the background and waits until the
//! stack is ready.

use super::{
    args::{Selection, Up},
    print_end, print_line, print_status,
};
use crate::{
    JwtSecret,
    control::Response,
    native::{Binaries, Native, Options, Programs, Status},
    open_log, private_directory, supervisor,
};
use anyhow::{Context, bail};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: that of a shell after Ctrl+C.
const INTERRUPTED: i32 = 130;

pub(crate) fn run(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<()> {
    if up.announce {
        return run_in_background(selection, up, programs);
    }
    if up.detach {
        return detach(selection);
    }
    host::log_to_stderr();
    supervise(selection, up, programs, |status| {
        print_status(&status);
        print_ready(&status);
        print_line(format_args!("\nend the stack with Ctrl+C or `{}`", selection.down_command()));
        Ok(())
    })?;
    print_end(selection);
    Ok(())
}

/// Supervises a stack in a new session. Prints one line on stdout, the result of the start as JSON.
fn run_in_background(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot start a new session")?;
    // If the kernel divides CPU time between sessions first, niceness works only inside a session. This sets that of the session.
    let _ = std::fs::write("/proc/self/autogroup", crate::NICENESS.to_string());
    host::log_to_stderr();
    let outcome = supervise(selection, up, programs, |status| {
        // If `streamstress stack up --detach` has ended, for example by Ctrl+C, the user does not expect this stack to run.
        announce(&Response::Status(status)).context("the process that started this stack has ended")
    });
    outcome.inspect_err(|error| {
        let _ = announce(&Response::Error(format!("{error:#}")));
    })
}

/// Prints how long the stack took until it was ready.
fn print_ready(status: &Status) {
    if let Some(ready_ms) = status.ready_ms {
        print_line(format_args!("\nthe stack was ready after {ready_ms:.0} ms"));
    }
}

/// Prints the result of the start for [`detach`].
fn announce(response: &Response) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// Starts this program again in the background with the same arguments, and prints the result of the start.
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
            print_status(&status);
            print_ready(&status);
            print_line(format_args!("\nend the stack with `{}`", selection.down_command()));
            Ok(())
        }
        Ok(Response::Error(why)) => bail!(why),
        _ => bail!("the supervisor ended during the start: see its log {}", path.display()),
    }
}

/// Supervises a stack until a signal or `streamstress stack down`. Calls `ready` once when the stack is ready.
fn supervise(
    selection: &Selection,
    up: &Up,
    programs: Programs,
    ready: impl FnOnce(Status) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let options = options(selection, up, programs)?;
    // One thread for the supervisor, one for relays.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut signals = host::StopSignals::listen()?;
        let stop = shutdown.clone();
        tokio::spawn(async move {
            for is_second in [false, true] {
                signals.next().await;
                if is_second {
                    // The kernel ends the children with this process.
                    std::process::exit(INTERRUPTED);
                }
                stop.cancel();
            }
        });
        supervisor::run(options, shutdown, async |native: &Native| ready(native.status().await)).await
    })
}

/// Converts the command line into the configuration of a stack.
fn options(selection: &Selection, up: &Up, programs: Programs) -> anyhow::Result<Options> {
    let secret = match up.jwt_secret.as_deref() {
        None | Some("") => JwtSecret::random(),
        Some(key) => JwtSecret::new(key).context("invalid JWT_SECRET")?,
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
        haproxies: up.haproxy_instances,
        server_workers: up.server_workers.map(usize::from),
        api_port: up.api_port,
        ws_port: up.ws_port,
        stats_port: up.stats_port,
        redis_port: up.redis_port,
        persistence: up.redis_persistence,
        relays: up.relays,
        autoscale: up.autoscale.clone(),
        secret,
        ..Options::new(selection.directory(), binaries)
    })
}

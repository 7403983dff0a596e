//! Runs of the load client against native stacks that last as long as the work needs them.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use stack::{
    StackRef,
    injection::inject,
    native::{Binaries, HaproxyStatus, Native, Options, Programs},
    supervisor,
};
use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    io::Write as _,
    path::{Path, PathBuf},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

/// Exit codes of a run that has a summary.
const PASS: i32 = 0;
pub(crate) const INVALID: i32 = 98;
const FAIL: i32 = 99;

/// A stack that takes load.
pub(crate) struct Target {
    /// The program `streamstress`.
    program: PathBuf,
    state: PathBuf,
    haproxies: Vec<HaproxyStatus>,
}

/// What a run of the client left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) exit_code: i32,
    /// What the client printed.
    pub(crate) printed: String,
    summary: PathBuf,
}

impl Finished {
    /// Reads the run's summary.
    ///
    /// # Errors
    /// The file cannot be read, or lacks a field.
    pub(crate) fn summary<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let path = self.summary.display();
        let text = fs::read_to_string(&self.summary).with_context(|| format!("cannot read {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("{path} is not a run's summary"))
    }
}

/// Starts a stack, does the work, and ends the stack. `options` gets the stack's options to change.
///
/// # Errors
/// The stack did not start, or the work failed.
pub(crate) async fn on_a_stack<T>(
    search_path: &str,
    options: impl FnOnce(Options) -> Options,
    work: impl AsyncFnOnce(&Target) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let directory = tempfile::Builder::new().prefix("stack").tempdir()?;
    let state = directory.path().join("state");
    let program = std::env::current_exe()?.with_file_name("streamstress");
    let binaries = Binaries::find(Programs::subcommands_of(&program), search_path)?;
    let options = options(Options::new(state.clone(), binaries));
    let shutdown = CancellationToken::new();
    let (up, is_up) = oneshot::channel();
    let stack = supervisor::run(options, shutdown.clone(), async |native: &Native| {
        let _ = up.send(native.haproxies());
        Ok(())
    });
    let work = async {
        let _end = shutdown.clone().drop_guard();
        let haproxies = is_up.await.context("the stack did not start")?;
        work(&Target { program, state, haproxies }).await
    };
    let (stack, worked) = tokio::join!(stack, work);
    stack?;
    worked
}

impl Target {
    /// Runs the client to its end. `options` are separated by blanks. Results go to `output`.
    ///
    /// # Errors
    /// The client left no summary.
    pub(crate) async fn client(&self, name: &str, options: &str, output: &Path) -> anyhow::Result<Finished> {
        let before = summaries(output, name)?;
        let mut client = Command::new(&self.program);
        client.args(["--quiet", "--name", name]);
        for HaproxyStatus { api_url, ws_url, .. } in &self.haproxies {
            client.args(["--api-url", api_url, "--wsproxy-url", ws_url]);
        }
        client.arg("--fault-stack").arg(&self.state).arg("--output-dir").arg(output);
        client.args(options.split_whitespace()).kill_on_drop(true);
        let ended = client.output().await.context("cannot start the client")?;
        let printed = String::from_utf8_lossy(&[ended.stderr, ended.stdout].concat()).into_owned();
        let Some(exit_code @ (PASS | INVALID | FAIL)) = ended.status.code() else {
            bail!("the client ended with {}: {printed}", ended.status);
        };
        let after = summaries(output, name)?;
        let summary = after.difference(&before).next();
        let summary = summary.with_context(|| format!("the client left no summary: {printed}"))?.clone();
        Ok(Finished { exit_code, printed, summary })
    }

    /// Injects a fault and waits until it is in effect.
    ///
    /// # Errors
    /// The stack cannot be broken in this way.
    pub(crate) async fn inject(&self, fault: &str) -> anyhow::Result<()> {
        let (stack, fault) = (StackRef::Native(self.state.clone()), fault.parse()?);
        tokio::task::spawn_blocking(move || inject(&stack, &fault)).await??;
        Ok(())
    }
}

/// Returns the summaries of runs with this name.
fn summaries(output: &Path, name: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let is_summary = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.ends_with("_summary.json") && file.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
    };
    Ok(fs::read_dir(output)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_summary).collect())
}

/// Waits for the work. On Ctrl+C or SIGTERM, ends all stacks and clients.
///
/// # Errors
/// The work failed, or a signal ended it.
pub(crate) fn until_done<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // The second thread is for relays.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}

/// Prints to stdout. A reader that has gone does not end the runs.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

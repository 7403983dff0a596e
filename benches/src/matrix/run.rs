//! One run of the matrix: a stack, its preparation, and the load with the fault.

use super::{
    rows::{CONNECT_BURST, CONNECT_RATE, GATEWAYS, Load, Preparation, Row},
    summary::Summary,
};
use crate::stack_run::{Finished, Target, on_a_stack};
use anyhow::bail;
use stack::native::Options;
use std::{path::PathBuf, time::Duration};
use tokio::time::sleep;

/// Queries per session.
pub(super) const QUERIES: u32 = 2;
/// Milliseconds between two tokens of an answer.
pub(super) const TOKEN_DELAY_MS: u32 = 100;
/// Longer than the three heartbeats after which its peer removes a server.
const REMOVAL: Duration = Duration::from_secs(5);

/// What all runs of the matrix have in common.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) load: Load,
    pub(super) quick: bool,
    pub(super) seed: u64,
    /// Directory for the results.
    pub(super) output: PathBuf,
    /// Where Redis and HAProxy are looked for.
    pub(super) search_path: String,
}

/// Runs the row's load against a new stack.
///
/// # Errors
/// The stack did not start, or the client left no summary.
pub(super) async fn run(setting: &Setting, row: &Row) -> anyhow::Result<Finished> {
    let stack = |options| Options {
        servers: 2,
        proxies: GATEWAYS,
        haproxies: row.haproxies,
        relays: row.relays,
        environment: environment(setting),
        ..options
    };
    on_a_stack(&setting.search_path, stack, async |target| {
        prepare(target, row.preparation).await?;
        target.client(&file_name(row.name), &options(setting, row), &setting.output).await
    })
    .await
}

fn environment(setting: &Setting) -> Vec<(String, String)> {
    let mut environment = vec![
        // A gateway pings an open socket every 2 s and gives it up after 4 s.
        ("WS_PING_INTERVAL_SECS", 2),
        ("WS_PING_TIMEOUT_SECS", 4),
        ("DRAIN_SECONDS", 20),
        ("TOKEN_DELAY_MS", TOKEN_DELAY_MS.into()),
        ("TOKENS", setting.load.tokens.into()),
        ("MAX_CONNECT_RATE", CONNECT_RATE),
        ("CONNECT_BURST", CONNECT_BURST),
    ];
    if setting.quick {
        environment.extend([("DRAIN_DELAY_MS", 1250), ("DRAIN_WINDOW_SECONDS", 1)]);
    }
    environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

async fn prepare(target: &Target, preparation: Preparation) -> anyhow::Result<()> {
    if preparation == Preparation::Nothing {
        return Ok(());
    }
    target.inject("server-2:stop").await?;
    sleep(REMOVAL).await;
    if preparation == Preparation::FillServer {
        let output = tempfile::tempdir()?;
        let fill = "--clients 100 --queries 1 --answer-tokens 2500 --itl-ms 8 --ramp-up 1";
        let filled = target.client("fill", fill, output.path()).await?;
        let received = filled.summary::<Summary>()?.tokens_received;
        if received != 250_000 {
            bail!("the server was not filled: {received} of 250000 tokens\n{}", filled.printed);
        }
        target.inject("server-2:start").await?;
    }
    Ok(())
}

fn options(setting: &Setting, row: &Row) -> String {
    let Load { clients, ramp_up_s, .. } = setting.load;
    format!(
        "--clients {clients} --queries {QUERIES} --ramp-up {ramp_up_s} --seed {} --query-timeout 60 --ping-timeout 5 \
         --ws-initial-backoff-seconds 0.2 --ws-max-backoff-seconds 3 --ws-max-reconnect-attempts 40 {}",
        setting.seed, row.options
    )
}

/// Returns the row's name with a dash for everything that is not a letter or a digit.
pub(super) fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

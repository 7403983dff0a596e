//! The client's role: what our own load client costs a token while it does all it does, against real servers and one gateway.
//! Its own verdict on the run is taken over; the window lies inside its steady state.

use crate::{
    args::{Client, Way},
    dial::Address,
    gateway::variant,
    judge,
    record::{Record, Verdict},
    rig::{Rig, programs},
    usage::{Between, Look, Watched},
};
use anyhow::{Context, bail};
use serde_json::Value;
use std::{fs, path::Path, process::Stdio, time::Duration};
use tokio::{
    process::Command,
    time::{Instant, sleep_until},
};

/// Clients start evenly over this time.
const RAMP_UP: Duration = Duration::from_secs(4);
/// The first look at the client's memory, when it has started and few of its sessions are open.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// Streams last so much longer than the window, so that all of them run through all of it.
const SPARE: Duration = Duration::from_secs(2);
/// What it may take to end, above the streams' length.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a rig and our client, and looks at both.
pub(crate) async fn measure(options: &Client) -> anyhow::Result<Record> {
    let rig = Rig::start(&options.target).await?;
    let seen = run(&rig, options).await;
    rig.stop().await;
    let Seen { summary, between, first, last } = seen?;
    let clients = f64::from(options.clients);
    let rate = clients * options.shape.per_connection;
    let mut record = Record::new("client", format!("client to {}", variant(&options.target)));
    record.add("clients", clients);
    record.add("tokens_per_second", rate);
    for name in ["tokens_expected", "tokens_received", "tokens_lost", "p99_itl_ms"] {
        record.add(name, summary.get(name).and_then(Value::as_f64).unwrap_or(0.0));
    }
    for (name, usage) in between.groups.iter().filter(|(name, _)| *name != "generator") {
        let tokens = rate * options.shape.duration.as_secs_f64();
        record.add(format!("cpu_us_per_token{{{name}}}"), usage.cpu_s * 1e6 / tokens);
        record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
    }
    let opened_since = clients * (1.0 - FIRST_LOOK.div_duration_f64(RAMP_UP));
    let grown = last.rss_kib("client") - first.rss_kib("client");
    record.add("rss_kib_per_connection{client}", grown / opened_since);
    record.add("rss_mib{client}", last.rss_kib("client") / 1024.0);
    record.add("machine", between.machine);
    record.add("steal", between.steal);
    judge::saturation(&mut record, &between);
    judge_by(&mut record, &summary);
    Ok(record)
}

struct Seen {
    summary: Value,
    between: Between,
    first: Look,
    last: Look,
}

async fn run(rig: &Rig, options: &Client) -> anyhow::Result<Seen> {
    let output = tempfile::tempdir()?;
    let began = Instant::now();
    let mut child = command(rig, options, output.path())?.spawn().context("cannot start the client")?;
    let pid = child.id().context("the client has no id")?;
    let mut watched = rig.watched();
    watched.push(Watched { group: "client".into(), pid, with_children: false });
    sleep_until(began + FIRST_LOOK).await;
    let first = Look::at(&watched).context("the client has ended at once")?;
    let window = began + RAMP_UP + options.shape.warm_up;
    sleep_until(window).await;
    let begin = Look::at(&watched)?;
    sleep_until(window + options.shape.duration).await;
    let last = Look::at(&watched)?;
    let limit = length(options) + PATIENCE;
    let status = tokio::time::timeout(limit, child.wait()).await.context("the client does not end")??;
    let summary = summary(output.path()).with_context(|| format!("the client ended with {status}"))?;
    Ok(Seen { summary, between: last.since(&begin), first, last })
}

/// How long every stream is.
fn length(options: &Client) -> Duration {
    RAMP_UP + options.shape.warm_up + options.shape.duration + SPARE
}

fn command(rig: &Rig, options: &Client, output: &Path) -> anyhow::Result<Command> {
    let Address::Tcp(address) = rig.address(options.target.way)? else {
        bail!("the client speaks TCP: give --way {} or {}", Way::Tcp.name(), Way::Haproxy.name());
    };
    let tokens = (length(options).as_secs_f64() * options.shape.per_connection).ceil();
    let mut command = Command::new(programs(&options.target)?.join("client"));
    command
        .args(["--quiet", "--queries", "1", "--name", "bench", "--api-url", rig.api_url()])
        .args(["--wsproxy-url".to_owned(), format!("ws://{address}")])
        .args(["--clients".to_owned(), options.clients.to_string()])
        .args(["--ramp-up".to_owned(), RAMP_UP.as_secs().to_string()])
        .args(["--tokens".to_owned(), tokens.to_string()])
        .args(["--itl-ms".to_owned(), (1e3 / options.shape.per_connection).to_string()])
        .arg("--output-dir")
        .arg(output)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

fn summary(directory: &Path) -> anyhow::Result<Value> {
    let files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut summaries = files.filter(|path| path.to_string_lossy().ends_with("_summary.json"));
    let path = summaries.next().context("it left no summary")?;
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// The client's own verdict is the record's.
fn judge_by(record: &mut Record, summary: &Value) {
    let text = |name: &str| summary.get(name).and_then(Value::as_str).unwrap_or_default();
    record.verdict = match text("verdict").to_ascii_uppercase().as_str() {
        "PASS" => Verdict::Clean,
        "INVALID" => Verdict::Invalid,
        _ => Verdict::NotClean,
    };
    if record.verdict != Verdict::Clean {
        record.reasons.push(text("verdict_reason").to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_clients_verdict_is_the_records() {
        for (word, expected) in [
            ("PASS", Verdict::Clean),
            ("FAIL", Verdict::NotClean),
            ("INVALID", Verdict::Invalid),
            ("", Verdict::NotClean),
        ] {
            let mut record = Record::new("client", "x".into());
            judge_by(&mut record, &json!({ "verdict": word, "verdict_reason": "because" }));
            assert_eq!(record.verdict, expected);
            assert_eq!(record.reasons.len(), usize::from(expected != Verdict::Clean));
        }
    }
}

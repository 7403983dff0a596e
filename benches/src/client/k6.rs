//! k6, Grafana's load client. The script `peers/k6.js` runs the load and counts tokens and ends.

use super::{Load, PATIENCE, RAMP_UP};
use crate::record::{Record, Verdict};
use anyhow::Context;
use serde::Deserialize;
use std::{fs, process::ExitStatus};
use tokio::process::Command;

const SCRIPT: &str = include_str!("../../peers/k6.js");
const SUMMARY: &str = "summary.json";

pub(super) fn command(load: &Load) -> anyhow::Result<Command> {
    let file = load.output.join("k6.js");
    fs::write(&file, SCRIPT)?;
    let limit = RAMP_UP + load.length() + PATIENCE;
    let mut command = Command::new("k6");
    command.args(["run", "--quiet", "--no-usage-report"]);
    for (name, value) in [
        ("API_URL", format!("http://{}", load.api)),
        ("WS_URL", format!("ws://{}", load.gateway)),
        ("CLIENTS", load.clients.to_string()),
        ("RAMP_UP_SECONDS", RAMP_UP.as_secs().to_string()),
        ("TOKENS", load.tokens.to_string()),
        ("ITL_MS", load.interval_ms().to_string()),
        ("LIMIT_SECONDS", limit.as_secs().to_string()),
        ("SUMMARY", load.output.join(SUMMARY).to_string_lossy().into_owned()),
    ] {
        command.args(["--env".to_owned(), format!("{name}={value}")]);
    }
    command.arg(&file);
    Ok(command)
}

/// The counts of the script.
#[derive(Debug, Deserialize)]
struct Summary {
    tokens: u64,
    done: u64,
    failed: u64,
}

pub(super) fn judge(record: &mut Record, load: &Load, status: ExitStatus) -> anyhow::Result<()> {
    let text = fs::read_to_string(load.output.join(SUMMARY));
    let summary: Summary = serde_json::from_str(&text.with_context(|| format!("k6 ended with {status}"))?)?;
    record.add("tokens_expected", load.all_tokens() as f64);
    record.add("tokens_received", summary.tokens as f64);
    record.reasons.extend(faults(load, &summary));
    if !record.reasons.is_empty() {
        record.verdict = Verdict::NotClean;
    }
    Ok(())
}

fn faults(load: &Load, summary: &Summary) -> Vec<String> {
    let Summary { tokens, done, failed } = *summary;
    let (all, clients) = (load.all_tokens(), u64::from(load.clients));
    [
        (tokens != all, format!("k6 counted {tokens} tokens of {all}")),
        (done != clients, format!("k6 saw {done} of {clients} queries end")),
        (failed != 0, format!("k6 counted failures: {failed}")),
    ]
    .into_iter()
    .filter_map(|(is_so, fault)| is_so.then_some(fault))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn missing_tokens_and_ends_are_named() {
        let load = Load {
            clients: 2,
            tokens: 10,
            interval: Duration::from_millis(50),
            api: ([127, 0, 0, 1], 8080).into(),
            gateway: ([127, 0, 0, 1], 4040).into(),
            output: "/output".into(),
        };
        let check = |tokens, done, failed, expected: &str| {
            assert_eq!(faults(&load, &Summary { tokens, done, failed }).join("; "), expected);
        };
        check(20, 2, 0, "");
        check(19, 2, 0, "k6 counted 19 tokens of 20");
        check(10, 1, 1, "k6 counted 10 tokens of 20; k6 saw 1 of 2 queries end; k6 counted failures: 1");
    }
}

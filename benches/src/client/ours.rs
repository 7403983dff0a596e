//! The load client of this project. The record takes over its verdict.

use super::{Load, RAMP_UP};
use crate::record::{Record, Verdict};
use anyhow::Context;
use serde_json::Value;
use std::{fs, path::Path, process::ExitStatus};
use tokio::process::Command;

pub(super) fn command(load: &Load, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--quiet", "--queries", "1", "--name", "bench"])
        .args(["--api-url".to_owned(), format!("http://{}", load.api)])
        .args(["--wsproxy-url".to_owned(), format!("ws://{}", load.gateway)])
        .args(["--clients".to_owned(), load.clients.to_string()])
        .args(["--ramp-up".to_owned(), RAMP_UP.as_secs().to_string()])
        .args(["--answer-tokens".to_owned(), load.tokens.to_string()])
        .args(["--itl-ms".to_owned(), load.interval_ms().to_string()])
        .arg("--output-dir")
        .arg(&load.output);
    command
}

pub(super) fn judge(record: &mut Record, load: &Load, status: ExitStatus) -> anyhow::Result<()> {
    let summary = summary(&load.output).with_context(|| format!("the client ended with {status}"))?;
    for name in ["tokens_expected", "tokens_received", "tokens_lost", "p99_itl_ms"] {
        record.add(name, summary.get(name).and_then(Value::as_f64).unwrap_or(0.0));
    }
    if let Some(mb) = grown_mb(&summary) {
        record.add("rss_kib_per_connection{client}", mb * 1024.0 / f64::from(load.clients));
    }
    copy_verdict(record, &summary);
    Ok(())
}

/// Returns by how much the client's memory has grown since no session was open, in MB.
fn grown_mb(summary: &Value) -> Option<f64> {
    let mb = |sample: &str| summary.pointer(&format!("/memory/processes/client/{sample}"))?.as_f64();
    Some(mb("streaming/max_mb")? - mb("idle/mean_mb")?)
}

fn summary(directory: &Path) -> anyhow::Result<Value> {
    let files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut summaries = files.filter(|path| path.to_string_lossy().ends_with("_summary.json"));
    let path = summaries.next().context("it wrote no summary")?;
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

fn copy_verdict(record: &mut Record, summary: &Value) {
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
    fn memory_is_counted_from_the_idle_client() {
        let client = json!({ "idle": { "mean_mb": 23.0 }, "streaming": { "mean_mb": 35.0, "max_mb": 38.5 } });
        let summary = |client| json!({ "memory": { "processes": { "client": client } } });
        assert_eq!(grown_mb(&summary(client)), Some(15.5));
        assert_eq!(grown_mb(&summary(json!({ "streaming": { "max_mb": 38.5 } }))), None);
    }

    #[test]
    fn the_record_has_the_verdict_of_the_client() {
        for (word, expected) in [
            ("PASS", Verdict::Clean),
            ("FAIL", Verdict::NotClean),
            ("INVALID", Verdict::Invalid),
            ("", Verdict::NotClean),
        ] {
            let mut record = Record::new("client", "x".into());
            copy_verdict(&mut record, &json!({ "verdict": word, "verdict_reason": "because" }));
            assert_eq!(record.verdict, expected);
            assert_eq!(record.reasons.len(), usize::from(expected != Verdict::Clean));
        }
    }
}

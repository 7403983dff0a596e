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
    copy_verdict(record, &summary);
    Ok(())
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

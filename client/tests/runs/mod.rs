//! Complete runs against the scripted server, and checks of their summaries.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::fake::Running;
use client::{cli::RunArgs, config::Config, engine, run_error::RunError};
use plan::Stop;
use report::output::Finished;
use serde_json::Value;
use std::{collections::HashMap, path::Path};
use time::macros::datetime;

pub fn args(server: &Running, dir: &Path, clients: i64, queries: i64) -> RunArgs {
    RunArgs {
        clients: Some(clients),
        queries: Some(queries),
        ramp_up: Some(0.05.into()),
        api_url: vec![server.api.clone()],
        wsproxy_url: vec![server.ws.clone()],
        ws_initial_backoff_seconds: Some(0.02.into()),
        ws_max_backoff_seconds: Some(0.1.into()),
        output_dir: Some(dir.to_owned()),
        quiet: true,
        workers: Some(2),
        seed: Some(1),
        ..RunArgs::default()
    }
}

pub fn run(args: RunArgs, stop: &Stop) -> Result<Finished, RunError> {
    engine::run(Config::new(args, 2, 1).unwrap(), stop, datetime!(2026-11-21 00:00 UTC))
}

/// Performs a run and returns its summary.
pub fn summary(server: &Running, change: impl FnOnce(&mut RunArgs), clients: i64, queries: i64) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(server, dir.path(), clients, queries);
    change(&mut args);
    run(args, &Stop::default()).unwrap();
    let summary = read_summary(dir.path());
    let mut rows = csv::Reader::from_path(dir.path().join("loadtest_20261121_000000.csv")).unwrap();
    let rows: Vec<HashMap<String, String>> = rows.deserialize().map(Result::unwrap).collect();
    for key in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        let of_rows: u64 = rows.iter().map(|row| row[key].parse::<u64>().unwrap()).sum();
        assert_eq!(summary[key], of_rows, "the rows have another number of {key}: {summary:#}");
    }
    summary
}

pub fn read_summary(dir: &Path) -> Value {
    let path = dir.join("loadtest_20261121_000000_summary.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn check(summary: &Value, expected: &[(&str, u64)]) {
    for (key, value) in expected {
        assert_eq!(summary[key].as_u64(), Some(*value), "{key} in {summary:#}");
    }
}

pub fn everything_came(summary: &Value, clients: u64, queries: u64, tokens: u64) {
    let all = clients * queries;
    check(
        summary,
        &[
            ("total_sessions", clients),
            ("successful_sessions", clients),
            ("queries_ok", all),
            ("queries_total", all),
            ("tokens_expected", all * tokens),
            ("tokens_received", all * tokens),
            ("tokens_lost", 0),
            ("tokens_duplicated", 0),
            ("tokens_reordered", 0),
            ("events_received", all * (tokens + 1)),
        ],
    );
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
}

//! The configuration as the summary keeps it.
//! Nothing secret is in it.

use super::Config;
use crate::{address::redacted_query, cli::RunArgs, schedule::Process, users::Kind};
use http::HeaderName;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// What a schedule was made from, in a person's words.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Origin {
    scenario: Option<String>,
    duration: Option<String>,
    spawn_rate: Option<f64>,
    stages: Option<String>,
    arrival_rate: Option<f64>,
    arrival_process: Option<Process>,
    trace: Option<PathBuf>,
    trace_from: Option<String>,
    trace_scale: Option<f64>,
    time_scale: Option<f64>,
}

impl Origin {
    pub(super) fn of(args: &RunArgs) -> Self {
        Self {
            scenario: args.scenario.clone(),
            duration: args.duration.clone(),
            spawn_rate: args.spawn_rate,
            stages: args.stages.clone(),
            arrival_rate: args.arrival_rate,
            arrival_process: args.arrival_process,
            trace: args.trace.clone(),
            trace_from: args.trace_from.clone(),
            trace_scale: args.trace_scale,
            time_scale: args.time_scale,
        }
    }
}

fn kind(kind: &Kind) -> serde_json::Value {
    serde_json::json!({
        "name": kind.name,
        "weight": kind.weight,
        "think_time_seconds": kind.think_time,
        "queries": kind.queries,
        "tokens": kind.tokens,
        "ttft_ms": kind.ttft_ms,
        "itl_ms": kind.itl_ms,
    })
}

impl Config {
    /// The configuration for the summary: nothing secret in it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let seconds = |duration: Duration| duration.as_secs_f64();
        serde_json::json!({
            "clients": self.load.clients,
            "queries": self.load.queries,
            "ramp_up_seconds": seconds(self.load.ramp_up),
            "burst": self.load.burst,
            "query_timeout_seconds": self.load.query_timeout.map(seconds),
            "stall_ms": seconds(self.load.stall_limit) * 1e3,
            "grace_seconds": seconds(self.load.grace),
            "workers": self.load.workers,
            "seed": self.load.seed,
            "api_url": self.target.api.to_string(),
            "wsproxy_url": self.target.ws.to_string(),
            "more_wsproxy_urls": self.target.more_ws.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "published_ports": self.target.published,
            "ws_path": redacted_path(&self.target.ws_path),
            "agent": self.target.agent,
            "headers": self.target.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            "token": self.target.token.as_ref().map(|_| "redacted"),
            "ca_file": self.target.ca_file,
            "local_ips": self.target.local_ips.len(),
            "http_connections": self.target.http_connections,
            "users": self.users.kinds.iter().map(kind).collect::<Vec<_>>(),
            "prompts": self.users.prompts.len(),
            "model": self.schedule.model().name(),
            "workload": self.origin,
            "ws_initial_backoff_seconds": seconds(self.reconnect.initial),
            "ws_max_backoff_seconds": seconds(self.reconnect.max),
            "ws_max_reconnect_attempts": self.reconnect.attempts,
            "ping_timeout_seconds": seconds(self.reconnect.ping_timeout),
            "drop_rate": self.habits.drop_rate,
            "stall": self.habits.stall.map(|stall| serde_json::json!({
                "sessions": stall.sessions(self.load.clients),
                "seconds": seconds(stall.time),
            })),
            "late_connect_seconds": self.habits.late_connect.map(|(least, most)| [seconds(least), seconds(most)]),
            "resume": self.habits.resume && self.habits.late_connect.is_none(),
            "faults": self.faults.planned.iter().map(|fault| serde_json::json!({
                "fault": fault.spec,
                "at_s": seconds(fault.at),
            })).collect::<Vec<_>>(),
            "fault_stack": self.faults.stack,
            "thresholds": self.judging.thresholds.iter().map(|threshold| &threshold.text).collect::<Vec<_>>(),
            "goodput": self.judging.objectives.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "abort_on_fail": self.judging.abort_after.is_some(),
            "abort_delay_seconds": self.judging.abort_after.map(seconds),
            "output_dir": self.output.dir,
            "name": self.output.name,
            "embedded": self.embedded,
        })
    }
}

fn redacted_path(path: &str) -> String {
    match path.split_once('?') {
        Some((path, query)) => format!("{path}?{}", redacted_query(query)),
        None => path.to_owned(),
    }
}

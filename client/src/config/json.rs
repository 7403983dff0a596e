//! The configuration as the summary keeps it.
//! Nothing secret is in it.

use super::Config;
use crate::cli::RunArgs;
use http::HeaderName;
use plan::{Target, schedule::Process, users::Kind};
use serde::Serialize;
use settings::address::{Address, redacted_query};
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
            duration: args.duration.as_ref().map(ToString::to_string),
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
        let mut config = serde_json::json!({
            "clients": self.plan.load.clients,
            "queries": self.plan.load.queries,
            "ramp_up_seconds": seconds(self.plan.load.ramp_up),
            "burst": self.plan.load.burst,
            "query_timeout_seconds": self.plan.load.query_timeout.map(seconds),
            "stall_ms": seconds(self.plan.load.stall_limit) * 1e3,
            "grace_seconds": seconds(self.plan.load.grace),
            "workers": self.plan.load.workers,
            "seed": self.plan.load.seed,
            "users": self.plan.users.kinds.iter().map(kind).collect::<Vec<_>>(),
            "prompts": self.plan.users.prompts.len(),
            "model": self.plan.schedule.model().name(),
            "workload": self.origin,
            "ws_initial_backoff_seconds": seconds(self.plan.reconnect.initial),
            "ws_max_backoff_seconds": seconds(self.plan.reconnect.max),
            "ws_max_reconnect_attempts": self.plan.reconnect.attempts,
            "ping_timeout_seconds": seconds(self.plan.reconnect.ping_timeout),
            "drop_rate": self.plan.behaviour.drop_rate,
            "stall": self.plan.behaviour.pause.map(|stall| serde_json::json!({
                "sessions": stall.count(self.plan.load.clients),
                "seconds": seconds(stall.duration),
            })),
            "late_connect_seconds": self.plan.behaviour.late_connect.map(|(least, most)| [seconds(least), seconds(most)]),
            "resume": self.plan.behaviour.resume && self.plan.behaviour.late_connect.is_none(),
            "faults": self.plan.faults.planned.iter().map(|fault| serde_json::json!({
                "fault": fault.spec,
                "at_s": seconds(fault.at),
            })).collect::<Vec<_>>(),
            "fault_stack": self.plan.faults.stack,
            "thresholds": self.criteria.thresholds.iter().map(|threshold| &threshold.text).collect::<Vec<_>>(),
            "goodput": self.criteria.objectives.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "abort_on_fail": self.criteria.abort_after.is_some(),
            "abort_delay_seconds": self.criteria.abort_after.map(seconds),
            "output_dir": self.output.dir,
            "name": self.output.name,
            "embedded": self.embedded,
        });
        if let (Some(all), serde_json::Value::Object(target)) =
            (config.as_object_mut(), target(&self.plan.target))
        {
            all.extend(target);
        }
        config
    }
}

/// Returns the settings of the target: nothing secret in it.
fn target(target: &Target) -> serde_json::Value {
    let texts = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let foreign = target.foreign.as_ref();
    serde_json::json!({
        "dialect": foreign.map_or("streamstress", |foreign| foreign.dialect.name()),
        "target": foreign.and_then(|foreign| foreign.dialect.file()).map(|file| file.name.as_str()),
        "target_unverified": foreign.and_then(|foreign| foreign.dialect.file()).map(|file| file.unverified()),
        "model_asked": foreign.map(|foreign| &foreign.model),
        "max_tokens": foreign.and_then(|foreign| foreign.max_tokens),
        "background": foreign.map(|foreign| foreign.background),
        "simulator": foreign.map(|foreign| foreign.is_simulator),
        "api_key": foreign.and_then(|foreign| foreign.api_key.as_ref()).map(|_| "redacted"),
        "api_url": target.api.to_string(),
        "more_api_urls": texts(&target.more_api),
        "wsproxy_url": target.ws.to_string(),
        "more_wsproxy_urls": texts(&target.more_ws),
        "published_ports": target.published,
        "ws_path": redacted_path(&target.ws_path),
        "rollup_ms": target.rollup_ms,
        "hops": target.hops,
        "agent": target.agent,
        "headers": target.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
        "token": target.token.as_ref().map(|_| "redacted"),
        "ca_file": target.ca_file,
        "local_ips": target.local_ips.len(),
        "http_connections": target.http_connections,
    })
}

fn redacted_path(path: &str) -> String {
    match path.split_once('?') {
        Some((path, query)) => format!("{path}?{}", redacted_query(query)),
        None => path.to_owned(),
    }
}

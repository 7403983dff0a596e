//! What must be equal in all points: workload, settings of the stack, and machine.

use measure::{observations::STACK, sizing::guide::Machine};
use serde_json::Value;
use std::collections::BTreeMap;

const BYTES_PER_MB: f64 = 1_048_576.0;
const MB_PER_GB: f64 = 1024.0;

/// Settings of a run that change what a user costs: name for the reader, and key in the configuration.
const SETTINGS: [(&str, &str); 10] = [
    ("arrivals", "model"),
    ("burst", "burst"),
    ("cut rate", "drop_rate"),
    ("embedded", "embedded"),
    ("late connect (s)", "late_connect_seconds"),
    ("paused readers", "stall"),
    ("prompts", "prompts"),
    ("resume", "resume"),
    ("rollup (ms)", "rollup_ms"),
    ("trace", "trace"),
];

/// Settings of each kind of users.
const OF_USERS: [(&str, &str); 5] = [
    ("think time (s)", "think_time_seconds"),
    ("answer tokens", "tokens"),
    ("time to first token (ms)", "ttft_ms"),
    ("time between tokens (ms)", "itl_ms"),
    ("queries per session", "queries"),
];

/// Returns the conditions of a run.
pub(super) fn of(summary: &Value, machine: &Machine) -> BTreeMap<String, String> {
    let config = &summary["config"];
    let mut conditions = BTreeMap::new();
    let mut insert = |name: String, value: &Value| {
        if let Some(text) = text(value) {
            conditions.insert(name, text);
        }
    };
    for (name, key) in SETTINGS {
        let value = if key == "trace" { &config["workload"][key] } else { &config[key] };
        insert(name.to_owned(), value);
    }
    let kinds = config["users"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (number, kind) in kinds.iter().enumerate() {
        // One kind of users needs no name.
        let of = if kinds.len() > 1 { format!("users {}: ", number + 1) } else { String::new() };
        for (name, key) in OF_USERS {
            insert(format!("{of}{name}"), &kind[key]);
        }
        if kinds.len() > 1 {
            insert(format!("{of}weight"), &kind["weight"]);
        }
    }
    for (role, settings) in summary["stack_settings"].as_object().into_iter().flatten() {
        for (name, value) in settings.as_object().into_iter().flatten() {
            let name = if role == STACK { name.clone() } else { format!("{role} {name}") };
            insert(name, value);
        }
    }
    if !machine.name.is_empty() {
        conditions.insert("machine".to_owned(), machine.name.clone());
    }
    conditions
}

/// Returns a setting as text. `None` if it is not set: an option that is off is not listed.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some("yes".to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.as_f64() == Some(0.0) => None,
        other => Some(other.to_string()),
    }
}

/// Returns the machine that a run was made on.
pub(super) fn machine(summary: &Value) -> Machine {
    let host = &summary["host"];
    let cores = host["cores"].as_f64();
    let memory_mb = host["memory_bytes"].as_f64().map(|bytes| bytes / BYTES_PER_MB);
    let parts = [
        host["cpu_model"].as_str().map(str::to_owned),
        cores.map(|cores| format!("{cores:.0} cores")),
        memory_mb.map(|mb| format!("{:.1} GB memory", mb / MB_PER_GB)),
    ];
    Machine { name: parts.into_iter().flatten().collect::<Vec<_>>().join(", "), cores, memory_mb }
}

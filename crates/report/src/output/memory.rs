//! Memory by phase of the run in the summary and in the text.

use super::RunInfo;
use crate::text_builder::{Column, TextBuilder};
use measure::{
    memory::{Phase, PhaseMemory},
    role,
};
use serde_json::{Map, Value, json};

const COLUMNS: [Column; 5] = [
    Column::left("memory, mean MB", 26),
    Column::right("idle", 10, 3),
    Column::right("connected", 11, 2),
    Column::right("streaming", 11, 5),
    Column::right("after", 10, 4),
];

/// Returns the key `memory`: phases by process and role, and `low` and `low_redis` if the memory of the machine or of Redis was about
/// to run out. `None` if no process was sampled.
pub(super) fn json(info: &RunInfo) -> Option<Value> {
    let observations = &info.observations;
    if observations.memory.is_empty() {
        return None;
    }
    let process = |(name, phases): (&str, Vec<(Phase, &PhaseMemory)>)| {
        let phases = phases.into_iter().map(|(phase, memory)| (phase.name().to_owned(), json!(memory)));
        (name.to_owned(), Value::Object(phases.collect()))
    };
    let processes = observations.memory.iter().map(|(name, phases)| (name, phases.collect()));
    let processes: Map<_, _> = processes.map(process).collect();
    let (low, low_redis) = (&observations.low_memory, &observations.low_redis);
    Some(json!({ "processes": processes, "low": low, "low_redis": low_redis }))
}

/// Adds a table with a row per role, and the warnings about low memory.
pub(super) fn section(out: &mut TextBuilder, info: &RunInfo) {
    let observations = &info.observations;
    for low in observations.low_memory.iter().chain(&observations.low_redis) {
        out.entry("memory was low", &low.warning());
    }
    let roles = observations.memory.iter().filter(|(name, _)| role(name) == *name);
    let row = |(name, phases): (&str, Vec<(Phase, &PhaseMemory)>)| {
        let mean = |phase: Phase| {
            let found = phases.iter().find(|(of, _)| *of == phase);
            found.map(|(_, memory)| format!("{:.1}", memory.mean_mb)).unwrap_or_default()
        };
        std::iter::once(name.to_owned()).chain(Phase::ALL.map(mean)).collect::<Vec<_>>()
    };
    let rows: Vec<_> = roles.map(|(name, phases)| row((name, phases.collect()))).collect();
    if !rows.is_empty() {
        out.gap();
        out.table(&COLUMNS, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{
        memory::{LowMemory, MemoryOf},
        observations::Observations,
    };

    fn info() -> RunInfo {
        let mut observations = Observations::default();
        for (name, phase, mb) in [
            ("wsproxy-1", Phase::Idle, 10.0),
            ("wsproxy", Phase::Idle, 30.0),
            ("wsproxy", Phase::Streaming, 50.0),
            ("wsproxy", Phase::Streaming, 60.0),
            ("redis", Phase::After, 8.0),
        ] {
            observations.memory.add(name, phase, mb);
        }
        let low = |available_mb, total_mb, of| Some(LowMemory { second: 7, available_mb, total_mb, of });
        observations.low_memory = low(90.0, 1_000.0, MemoryOf::Machine);
        observations.low_redis = low(70.0, 768.0, MemoryOf::Redis);
        RunInfo { observations, ..RunInfo::default() }
    }

    #[test]
    fn the_summary_has_every_process_and_phase() {
        let json = json(&info()).unwrap();
        assert_eq!(
            json["processes"]["wsproxy"]["streaming"],
            json!({ "mean_mb": 55.0, "max_mb": 60.0, "samples": 2 })
        );
        assert_eq!(json["processes"]["wsproxy-1"]["idle"]["max_mb"], 10.0);
        assert_eq!(json["processes"]["wsproxy-1"].get("after"), None);
        assert_eq!((&json["low"]["second"], &json["low"]["of"]), (&json!(7), &json!("this machine")));
        assert_eq!(json["low_redis"]["of"], "Redis");
        assert_eq!(super::json(&RunInfo::default()), None);
    }

    #[test]
    fn the_text_has_a_row_per_role_and_the_warning() {
        let mut out = TextBuilder::new(120);
        section(&mut out, &info());
        let text = out.finish();
        assert!(text.contains("this machine has only 90 of 1000 MB"), "{text}");
        assert!(text.contains("Redis has only 70 of 768 MB"), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec!["wsproxy", "30.0", "55.0"]), "{text}");
        assert!(rows.contains(&vec!["redis", "8.0"]), "{text}");
        assert!(!text.contains("wsproxy-1"), "{text}");
    }
}

//! What each role used in a part of a run: from `_resources.csv`, or from the summary, which has the whole run and no descriptors.

use crate::{file_error::FileError, file_names::with_ending, query_table::QueryTable};
use measure::{role, sizing::point::RoleUse};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Seconds of a run, from the first one to before the last one.
pub(super) type Seconds = (f64, f64);

/// What a process used.
#[derive(Clone, Copy, Debug, Default)]
struct ProcessUse {
    cores: f64,
    /// Number of samples with a CPU.
    samples: u32,
    rss_mb: f64,
    descriptors: Option<f64>,
}

/// Returns what each role used in these seconds. Without `_resources.csv`, the result is empty.
pub(super) fn in_seconds(base: &Path, seconds: Seconds) -> Result<BTreeMap<String, RoleUse>, FileError> {
    let path = with_ending(base, "_resources.csv");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let mut table = QueryTable::open(&path)?;
    let missing = ["second", "process", "cpu_share", "rss_mb"].iter().find(|column| !table.has(column));
    if let Some(column) = missing {
        let path = path.display();
        return Err(FileError::not_a_result(format!(
            "{path} is not a table of processes: its header lacks {column}"
        )));
    }
    let mut processes: BTreeMap<String, ProcessUse> = BTreeMap::new();
    while table.next_row()? {
        // A sample is about the second before it.
        let second = table.number("second", 1.0)?.unwrap_or(0.0) - 1.0;
        if second < seconds.0 || second >= seconds.1 {
            continue;
        }
        let name = table.text("process").unwrap_or_default().to_owned();
        let (cores, rss_mb) = (table.number("cpu_share", 1.0)?, table.number("rss_mb", 1.0)?);
        let descriptors = table.number("fds", 1.0)?;
        let process = processes.entry(name).or_default();
        if let Some(cores) = cores {
            process.cores += cores;
            process.samples += 1;
        }
        process.rss_mb = process.rss_mb.max(rss_mb.unwrap_or(0.0));
        process.descriptors = match (process.descriptors, descriptors) {
            (Some(before), Some(now)) => Some(f64::max(before, now)),
            (one, other) => one.or(other),
        };
    }
    Ok(by_role(&processes))
}

fn by_role(processes: &BTreeMap<String, ProcessUse>) -> BTreeMap<String, RoleUse> {
    let mut roles: BTreeMap<String, RoleUse> = BTreeMap::new();
    let add = |sum: &mut Option<f64>, value: Option<f64>| {
        if let Some(value) = value {
            *sum = Some(sum.unwrap_or(0.0) + value);
        }
    };
    for (name, process) in processes {
        let sum = roles.entry(role(name).to_owned()).or_default();
        sum.instances += 1;
        add(&mut sum.cores, (process.samples > 0).then(|| process.cores / f64::from(process.samples)));
        add(&mut sum.rss_mb, Some(process.rss_mb));
        add(&mut sum.descriptors, process.descriptors);
    }
    roles
}

/// Returns what each role used over the whole run, from the key `health` of the summary.
pub(super) fn of_summary(summary: &Value) -> BTreeMap<String, RoleUse> {
    let mut processes: BTreeMap<String, ProcessUse> = BTreeMap::new();
    for (key, value) in summary["health"].as_object().into_iter().flatten() {
        let labelled = key.strip_suffix('}').and_then(|key| key.split_once('{'));
        let (Some((quantity, label)), Some(value)) = (labelled, value.as_f64()) else { continue };
        if !matches!(quantity, "cpu_share" | "rss_mb") {
            continue;
        }
        let process = processes.entry(label.to_owned()).or_default();
        if quantity == "cpu_share" {
            (process.cores, process.samples) = (value, 1);
        } else {
            process.rss_mb = value;
        }
    }
    without_sums(&mut processes);
    by_role(&processes)
}

/// Returns what each role used in a step of a search.
pub(super) fn of_step(resources: &[measure::capacity::Resource]) -> BTreeMap<String, RoleUse> {
    let process = |resource: &measure::capacity::Resource| {
        let used = ProcessUse {
            cores: resource.cores.unwrap_or(0.0),
            samples: u32::from(resource.cores.is_some()),
            rss_mb: resource.rss_mb.unwrap_or(0.0),
            descriptors: None,
        };
        (resource.name.clone(), used)
    };
    let mut processes = resources.iter().map(process).collect();
    without_sums(&mut processes);
    by_role(&processes)
}

/// Removes the roles that are listed beside their processes: `wsproxy` if there is a `wsproxy-1`.
fn without_sums(processes: &mut BTreeMap<String, ProcessUse>) {
    let sums: Vec<String> = processes
        .keys()
        .filter(|name| role(name) != name.as_str())
        .map(|name| role(name).to_owned())
        .collect();
    sums.iter().for_each(|sum| {
        processes.remove(sum);
    });
}

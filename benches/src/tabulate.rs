//! `bench table`: reads records and a baseline from files, prints the tables and writes a new baseline.

use crate::{
    args::Table,
    record::Record,
    table::{Baseline, markdown},
};
use anyhow::Context;
use serde::{Deserialize, de::DeserializeOwned};
use std::io::Write as _;
use std::{fs, path::Path};

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<Record>),
    Many(Vec<Record>),
}

pub(crate) fn run(options: &Table) -> anyhow::Result<()> {
    let mut records = Vec::new();
    for file in &options.files {
        match read(file)? {
            OneOrMany::One(record) => records.push(*record),
            OneOrMany::Many(many) => records.extend(many),
        }
    }
    let baseline = options.baseline.as_deref().map(read::<Baseline>).transpose()?;
    let _ = write!(std::io::stdout(), "{}", markdown(&records, baseline.as_ref()));
    if let Some(path) = &options.write_baseline {
        let baseline = Baseline::of(&records, options.commit.clone(), machine());
        let text = serde_json::to_string_pretty(&baseline)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a file of records, or not a baseline", path.display()))
}

/// Describes processor, number of cores and kernel.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.map_or("an unknown processor", |(_, model)| model);
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}

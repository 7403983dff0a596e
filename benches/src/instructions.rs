//! Counts the instructions of the hot paths and compares them with `benches/instructions.json`. Unlike times, they hardly vary between
//! runs and machines, so that a change of a few percent is seen in CI.
//!
//! Valgrind's callgrind executes this program with one path, once with few and once with many calls. The difference is the cost of the
//! calls alone.

use crate::{
    args::Instructions,
    hot_paths::{self, Pair},
};
use anyhow::{Context, bail, ensure};
use std::{collections::BTreeMap, fs, io::Write, process::Command};

/// Calls of the shorter execution, which also warms caches and allocator, and calls that the longer one makes in addition.
const FEW: u32 = 4_000;
const MORE: u32 = 16_000;
/// Largest increase that is accepted.
const TOLERANCE: f64 = 0.05;

/// Executes one path without measuring it, counts all of them, or compares them with the baseline. Returns whether none became more
/// expensive.
///
/// # Errors
/// Valgrind is missing, or the baseline cannot be read or written.
pub fn run(options: &Instructions) -> anyhow::Result<bool> {
    if let Some(name) = &options.path {
        let path = hot_paths::ALL.iter().find(|path| path.name == name).context("there is no such path")?;
        let mut run = (path.prepare)();
        (0..options.times).for_each(|_| run());
        return Ok(true);
    }
    let counted = hot_paths::ALL
        .iter()
        .map(|path| Ok((path.name.to_owned(), count(path.name)?)))
        .collect::<anyhow::Result<BTreeMap<String, f64>>>()?;
    if options.write_baseline {
        fs::write(&options.baseline, serde_json::to_string_pretty(&counted)? + "\n")
            .with_context(|| format!("cannot write {}", options.baseline.display()))?;
        return Ok(true);
    }
    let baseline = fs::read_to_string(&options.baseline).with_context(|| {
        format!("cannot read {}: make it with --write-baseline", options.baseline.display())
    })?;
    let baseline: BTreeMap<String, f64> = serde_json::from_str(&baseline)?;
    let mut held = true;
    let mut out = std::io::stdout();
    writeln!(out, "{:<26}{:>14}{:>14}{:>9}", "instructions per call", "baseline", "now", "ratio")?;
    for (name, now) in &counted {
        let before = *baseline
            .get(name)
            .with_context(|| format!("{name} is not in the baseline: add it with --write-baseline"))?;
        let ratio = now / before;
        let verdict = if ratio > 1.0 + TOLERANCE {
            held = false;
            "  more than 5 % above the baseline"
        } else if ratio < 1.0 - TOLERANCE {
            "  less: update the baseline with --write-baseline"
        } else {
            ""
        };
        writeln!(out, "{name:<26}{before:>14.1}{now:>14.1}{ratio:>9.3}{verdict}")?;
    }
    Ok(pairs_hold(&counted, &mut out)? && held)
}

/// Prints what the second step of each pair costs in addition. Returns whether that is within the limits.
fn pairs_hold(counted: &BTreeMap<String, f64>, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut held = true;
    writeln!(out, "\n{:<26}{:>14}{:>14}{:>9}", "addition", "without", "with", "ratio")?;
    for Pair { what, without, with, limit } in hot_paths::PAIRS {
        let (before, now) = (counted[without], counted[with]);
        let ratio = now / before;
        let is_above = ratio > limit;
        held &= !is_above;
        let verdict = if is_above { format!("  above the limit of {limit}") } else { String::new() };
        writeln!(out, "{what:<26}{before:>14.1}{now:>14.1}{ratio:>9.4}{verdict}")?;
    }
    Ok(held)
}

/// Returns the instructions of one call.
fn count(name: &str) -> anyhow::Result<f64> {
    let (few, many) = (executed(name, FEW)?, executed(name, FEW + MORE)?);
    #[allow(clippy::cast_precision_loss)]
    Ok(many.saturating_sub(few) as f64 / f64::from(MORE))
}

/// Executes a path under callgrind. Returns the instructions of the whole program.
fn executed(name: &str, times: u32) -> anyhow::Result<u64> {
    let program = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["instructions", "--path", name, "--times", &times.to_string()])
        .output()
        .context("cannot start valgrind: install it (apt-get install valgrind)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed for {name}: {text}");
    let Some(collected) = text.lines().find_map(|line| line.split("Collected : ").nth(1)) else {
        bail!("valgrind printed no number of instructions for {name}: {text}");
    };
    Ok(collected.trim().parse()?)
}

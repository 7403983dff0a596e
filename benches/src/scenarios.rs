//! `bench scenarios`: runs the files of `scenarios/` in little time, each against a new native stack.

use crate::{
    args::Scenarios,
    stack_run::{self, Finished, on_a_stack, say, until_done},
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use stack::native::Options;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

const DIRECTORY: &str = "scenarios";
/// Exit code if a scenario failed, as the client's.
const FAIL: u8 = 99;
/// The part of the time that a run takes with `--quick`.
const QUICK: f64 = 1.0 / 3.0;

/// Returns the time scale that makes about half a minute of a scenario, and the options that make it smaller. Rates grow where times
/// shrink, so arrivals are slower here, the users of a spike still come within a second, and `--quick` has fewer users.
fn shortened(name: &str, quick: bool) -> (f64, &'static str) {
    let (scale, options, quick_options) = match name {
        "smoke" => (0.2, "", ""),
        "load" => (0.05, "", "--clients 100"),
        "stress" => (0.035, "", "--clients 100 --spawn-rate 2"),
        "spike" => (0.1, "--stages 10s:500,5m:500", "--stages 30s:100,5m:100"),
        "burst-poisson" => (0.1, "--arrival-rate 2.5", "--arrival-rate 0.3"),
        "burst-gamma" => (0.1, "--arrival-rate 5", "--arrival-rate 0.6 --max-clients 100"),
        "soak" => (0.002, "", ""),
        "staged" => (0.025, "", "--stages 2m:10,3m:30,3m:60,2m:100,5m:100,2m:50,2m:0"),
        _ => (0.1, "", ""),
    };
    if quick { (scale * QUICK, quick_options) } else { (scale, options) }
}

/// The fields of a run's `_summary.json` that must be right even if no figure can be trusted.
#[derive(Clone, Debug, Deserialize)]
struct Summary {
    queries_total: u64,
    queries_ok: u64,
    queries_incomplete: u64,
    queries_timeout: u64,
    queries_error: u64,
    queries_rejected: u64,
    queries_abandoned: u64,
    tokens_expected: u64,
    tokens_received: u64,
    thresholds: Vec<Threshold>,
}

#[derive(Clone, Debug, Deserialize)]
struct Threshold {
    threshold: String,
    /// None if the outcome is unknown.
    ok: Option<bool>,
}

impl Summary {
    /// Returns what is wrong although the run was only INVALID.
    fn violations(&self) -> Vec<String> {
        let accounted = self.queries_ok
            + self.queries_incomplete
            + self.queries_timeout
            + self.queries_error
            + self.queries_rejected
            + self.queries_abandoned;
        let (total, expected, received) = (self.queries_total, self.tokens_expected, self.tokens_received);
        let mut violations: Vec<_> = self
            .thresholds
            .iter()
            .filter(|threshold| threshold.ok != Some(true))
            .map(|threshold| format!("{} does not hold", threshold.threshold))
            .collect();
        if total == 0 {
            violations.push("there was no query".to_owned());
        }
        if accounted != total {
            violations.push(format!("{accounted} of {total} queries are accounted for"));
        }
        if received != expected {
            violations.push(format!("{received} of {expected} tokens were received"));
        }
        violations
    }
}

/// Runs the scenarios and prints a line per scenario with its verdict.
///
/// # Errors
/// A scenario does not exist, or a run cannot be started.
pub(crate) fn run(options: &Scenarios) -> anyhow::Result<ExitCode> {
    let names = match options.names.is_empty() {
        true => all_names()?,
        false => options.names.clone(),
    };
    for name in &names {
        let path = Path::new(DIRECTORY).join(format!("{name}.toml"));
        if !path.is_file() {
            bail!("{} does not exist: give names of files in {DIRECTORY}/, without .toml", path.display());
        }
    }
    let (failed, invalid) = until_done(all(options, &names))?;
    let count = names.len();
    if failed > 0 {
        let _ = writeln!(std::io::stderr(), "{failed} of {count} scenarios failed");
        return Ok(ExitCode::from(FAIL));
    }
    say(&format!(
        "{count} scenarios: {} PASS, {invalid} INVALID (this machine was too busy or too small for their figures)\n",
        count - invalid
    ));
    Ok(ExitCode::SUCCESS)
}

fn all_names() -> anyhow::Result<Vec<String>> {
    let files = fs::read_dir(DIRECTORY).with_context(|| format!("cannot read {DIRECTORY}"))?;
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned());
    let mut names: Vec<_> = files.filter_map(|entry| name(entry.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

/// Runs the scenarios, `--jobs` of them at a time. Returns the numbers of failed and of INVALID ones.
async fn all(options: &Scenarios, names: &[String]) -> anyhow::Result<(usize, usize)> {
    let runs = names.iter().map(|name| async move { (name, one(options, name).await) });
    let mut runs = stream::iter(runs).buffered(options.jobs.into());
    let (mut failed, mut invalid) = (0, 0);
    while let Some((name, finished)) = runs.next().await {
        let (finished, took) = finished.with_context(|| format!("the scenario {name} could not be run"))?;
        let verdict = finished.printed.lines().last().unwrap_or_default();
        say(&format!("{name:<14} {:>3} s  {verdict}\n", took.as_secs()));
        let violations = match finished.exit_code {
            0 => continue,
            stack_run::INVALID => {
                invalid += 1;
                finished.summary::<Summary>()?.violations()
            }
            _ => vec![finished.printed.clone()],
        };
        if options.strict || !violations.is_empty() {
            failed += 1;
            let _ = writeln!(std::io::stderr(), "scenarios: {name} failed: {}", violations.join("; "));
        }
    }
    Ok((failed, invalid))
}

async fn one(options: &Scenarios, name: &str) -> anyhow::Result<(Finished, Duration)> {
    let (scale, extra) = shortened(name, options.quick);
    let seed = options.seed.map(|seed| format!("--seed {seed}")).unwrap_or_default();
    let client = format!("--scenario {name} --time-scale {scale} {extra} {seed}");
    let stack = |stack| Options { servers: 2, proxies: 2, ..stack };
    on_a_stack(&options.search_path, stack, async |target| {
        let began = Instant::now();
        let finished = target.client(name, &client, &options.output_dir).await?;
        Ok((finished, began.elapsed()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn violations(path: &str, value: Value) -> Vec<String> {
        let mut summary = json!({
            "queries_total": 10, "queries_ok": 5, "queries_incomplete": 1, "queries_timeout": 1,
            "queries_error": 1, "queries_rejected": 1, "queries_abandoned": 1, "tokens_expected": 90,
            "tokens_received": 90, "thresholds": [{ "threshold": "error_rate<0.9", "ok": true }]
        });
        *summary.pointer_mut(path).unwrap() = value;
        Summary::deserialize(&summary).unwrap().violations()
    }

    #[test]
    fn an_invalid_run_must_account_for_everything() {
        assert_eq!(violations("/tokens_received", json!(90)), [""; 0]);
        for (path, value, violation) in [
            ("/queries_abandoned", json!(0), "9 of 10 queries are accounted for"),
            ("/tokens_received", json!(89), "89 of 90 tokens were received"),
            ("/thresholds/0/ok", json!(false), "error_rate<0.9 does not hold"),
        ] {
            assert_eq!(violations(path, value), [violation], "{path}");
        }
        assert!(violations("/queries_total", json!(0)).contains(&"there was no query".to_owned()));
    }

    #[test]
    fn quick_runs_are_shorter_and_smaller() {
        assert_eq!(shortened("spike", false), (0.1, "--stages 10s:500,5m:500"));
        let (scale, options) = shortened("spike", true);
        assert!((scale * 3.0 - 0.1).abs() < 1e-9);
        assert_eq!(options, "--stages 30s:100,5m:100");
    }
}

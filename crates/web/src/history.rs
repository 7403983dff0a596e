//! The runs in the results directory. Names come only from its listing, so that no request can reach another file.

use crate::refusal::Refusal;
use report::retention::{StoredRun, stored_runs};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Bytes of `index.jsonl` that are read, from its end.
const INDEX_BYTES: u64 = 8 << 20;
/// Figures of a run that the list shows.
const SHOWN: [&str; 17] = [
    "started_at",
    "verdict",
    "verdict_reason",
    "interrupted",
    "clients",
    "queries_total",
    "queries_ok",
    "tokens_received",
    "tokens_lost",
    "tokens_duplicated",
    "tokens_reordered",
    "duration_s",
    "output_throughput",
    "p50_ttft_ms",
    "p99_ttft_ms",
    "p50_e2el_ms",
    "p99_e2el_ms",
];

/// Returns the runs, the newest first, each with its figures and files.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<Value>> {
    let runs = runs(directory)?;
    let mut index = read_index(directory);
    Ok(runs.into_iter().rev().map(|run| entry(&run, index.remove(&run.name))).collect())
}

/// Returns the runs, the oldest first: none before the first run has created the directory.
fn runs(directory: &Path) -> io::Result<Vec<StoredRun>> {
    match stored_runs(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        runs => runs,
    }
}

fn entry(run: &StoredRun, figures: Option<Value>) -> Value {
    let figures = figures.unwrap_or_default();
    let file = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        json!({ "name": name, "bytes": path.metadata().map_or(0, |metadata| metadata.len()) })
    };
    let mut entry = json!({
        "run": run.name,
        "files": run.files.iter().map(file).collect::<Vec<_>>(),
        "can_compare": run.files.contains(&summary(directory_of(run), &run.name)),
    });
    for name in SHOWN {
        entry[name] = figures[name].clone();
    }
    entry
}

fn directory_of(run: &StoredRun) -> &Path {
    run.files.first().and_then(|file| file.parent()).unwrap_or(Path::new(""))
}

/// Returns the lines of the index by run. If it cannot be read, the runs have no figures.
fn read_index(directory: &Path) -> HashMap<String, Value> {
    let read = || -> io::Result<String> {
        let mut file = File::open(directory.join("index.jsonl"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(INDEX_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(INDEX_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| Some((line["run_id"].as_str()?.to_owned(), line))).collect()
}

/// Returns the path of a run's summary.
fn summary(directory: &Path, run: &str) -> PathBuf {
    directory.join(format!("{run}_summary.json"))
}

/// Returns the run of this name.
///
/// # Errors
/// There is none, or the directory cannot be read.
pub(crate) fn find(directory: &Path, name: &str) -> Result<StoredRun, Refusal> {
    let runs = runs(directory).map_err(Refusal::broken)?;
    let found = runs.into_iter().find(|run| run.name == name);
    found.ok_or_else(|| Refusal::missing(format!("no run {name} in {}", directory.display())))
}

/// Returns the file of this name of a run.
///
/// # Errors
/// There is none.
pub(crate) fn file(run: &StoredRun, name: &str) -> Result<PathBuf, Refusal> {
    let found = run.files.iter().find(|path| path.file_name().is_some_and(|file| file == name));
    found.cloned().ok_or_else(|| Refusal::missing(format!("the run {} has no file {name}", run.name)))
}

/// Returns the common start of the names of a run's files.
///
/// # Errors
/// There is no such run, or a link or a special file has the name of one of these `endings`.
pub(crate) fn base(directory: &Path, name: &str, endings: &[&str]) -> Result<PathBuf, Refusal> {
    let run = find(directory, name)?;
    for ending in endings {
        let file = format!("{name}{ending}");
        if directory.join(&file).symlink_metadata().is_ok() {
            self::file(&run, &file)?;
        }
    }
    Ok(directory.join(name))
}

/// Returns the summaries of runs, to compare them.
///
/// # Errors
/// A run is missing or has no summary.
pub(crate) fn summaries(directory: &Path, names: &[String]) -> Result<Vec<String>, Refusal> {
    names
        .iter()
        .map(|name| {
            let run = find(directory, name)?;
            file(&run, &format!("{name}_summary.json")).map(|path| path.display().to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn runs_have_their_figures_and_no_name_reaches_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a_20260101_000000.csv", "x");
        write("b_20260102_000000_summary.json", "{}");
        write("b_20260102_000000_report.html", "<p>");
        write("secret", "s");
        write(
            "index.jsonl",
            "broken\n{\"run_id\":\"b_20260102_000000\",\"verdict\":\"FAIL\"}\n{\"run_id\":\"b_20260102_000000\",\"verdict\":\"PASS\"}\n",
        );
        let runs = list(dir.path()).unwrap();
        let shown: Vec<_> = runs.iter().map(|run| (run["run"].as_str().unwrap(), &run["verdict"])).collect();
        assert_eq!(shown, [("b_20260102_000000", &json!("PASS")), ("a_20260101_000000", &Value::Null)]);
        assert_eq!((&runs[0]["can_compare"], &runs[1]["can_compare"]), (&json!(true), &json!(false)));
        let run = find(dir.path(), "b_20260102_000000").unwrap();
        assert!(file(&run, "b_20260102_000000_report.html").is_ok());
        for name in ["../secret", "secret", "/etc/passwd", "a_20260101_000000.csv", ""] {
            assert!(file(&run, name).is_err(), "{name}");
            assert!(find(dir.path(), name).is_err(), "{name}");
        }
        assert!(summaries(dir.path(), &["a_20260101_000000".into()]).is_err());
        assert_eq!(base(dir.path(), &run.name, &[".csv"]), Ok(dir.path().join(&run.name)));
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("b_20260102_000000.csv"))
            .unwrap();
        assert!(base(dir.path(), &run.name, &[".csv"]).is_err());
        assert_eq!(list(&dir.path().join("none")).unwrap(), Vec::<Value>::new());
    }
}

//! Plays one run of a sweep: starts or changes a stack if it needs one, starts the run, and reads its summary.

use super::{child::RunProcess, options::Planned, settings::StackSetup, stack::OwnStack};
use crate::cli::RunArgs;
use ::stack::{compose::ComposeStack, native::Programs};
use anyhow::Context;
use measure::sweep::{Point, Turn, Unfinished};
use plan::Stop;
use std::{
    cell::RefCell,
    fs::{self, File},
    io::{Read, Seek},
    path::{Path, PathBuf},
};

/// Length of the part of a run's messages that is shown if it has no result, in bytes.
const MOST_SHOWN: usize = 2_000;

/// What all runs of a sweep have in common.
#[derive(Debug)]
pub(super) struct Player<'a> {
    /// This program.
    pub(super) program: &'a Path,
    /// Programs of servers and gateways.
    pub(super) programs: &'a Programs,
    /// The Compose stack that changes for each run.
    pub(super) compose: Option<RefCell<ComposeStack>>,
    /// The variants.
    pub(super) planned: &'a [Planned],
    /// Directory of the sweep's files.
    pub(super) output_dir: &'a Path,
    /// Directory of the runs' files, in `output_dir`.
    pub(super) id: &'a str,
    /// Stops the sweep.
    pub(super) stop: &'a Stop,
}

/// The stack of one run.
struct Stack {
    api_urls: Vec<String>,
    ws_urls: Vec<String>,
    /// The name by which the run finds it.
    name: String,
    /// A native one, which ends with this value.
    _own: Option<OwnStack>,
}

impl Player<'_> {
    /// Plays a run. Returns `None` if it was interrupted.
    pub(super) fn play(&self, turn: Turn) -> Option<Point> {
        match self.result(turn) {
            Ok(point) => point,
            Err(_) if self.stop.starting.is_cancelled() => None,
            Err(error) => Some(Point::without_result(turn, one_line(&format!("{error:#}")))),
        }
    }

    fn result(&self, turn: Turn) -> anyhow::Result<Option<Point>> {
        let planned = self.planned.get(turn.variant - 1).context("there is no such variant")?;
        let stack = planned.stack.as_ref().map(|setup| self.stack(setup)).transpose()?;
        let name = format!("v{:03}-r{}", turn.variant, turn.repetition);
        let run = self.options(planned, stack.as_ref(), &name);
        let mut log = tempfile::tempfile().context("cannot create a temporary file")?;
        let process =
            RunProcess::start(self.program, &run, log.try_clone()?).context("the run did not start")?;
        let status = process.wait(self.stop).context("the run cannot be waited for")?;
        drop(stack);
        let Some((stem, summary)) = self.summary(&name)? else {
            if self.stop.starting.is_cancelled() {
                return Ok(None);
            }
            anyhow::bail!("the run has no result ({status}): {}", tail(&mut log));
        };
        match Point::of_summary(turn, format!("{}/{stem}", self.id), &summary) {
            Ok(point) => Ok(Some(point)),
            Err(Unfinished::Interrupted) if self.stop.starting.is_cancelled() => Ok(None),
            Err(error) => anyhow::bail!("{error}"),
        }
    }

    fn stack(&self, setup: &StackSetup) -> anyhow::Result<Stack> {
        let Some(compose) = &self.compose else {
            let own = OwnStack::start(setup, self.programs, self.stop).context("the stack did not start")?;
            let (api_urls, ws_urls) = own.urls();
            let name = own.directory().to_string_lossy().into_owned();
            return Ok(Stack { api_urls, ws_urls, name, _own: Some(own) });
        };
        let mut compose = compose.borrow_mut();
        let is_stopped = || self.stop.starting.is_cancelled();
        let changed = compose.change(setup.servers, setup.proxies, &setup.environment, &is_stopped);
        changed.context("the Compose stack cannot be changed")?;
        let (api_urls, ws_urls) = compose.urls()?;
        Ok(Stack { api_urls, ws_urls, name: format!("compose:{}", compose.project()), _own: None })
    }

    fn options(&self, planned: &Planned, stack: Option<&Stack>, name: &str) -> RunArgs {
        let run = RunArgs {
            name: Some(name.to_owned()),
            output_dir: Some(self.output_dir.join(self.id)),
            quiet: true,
            ..planned.run.clone()
        };
        let Some(stack) = stack else { return run };
        RunArgs {
            api_url: stack.api_urls.clone(),
            wsproxy_url: stack.ws_urls.clone(),
            fault_stack: Some(stack.name.clone()),
            ..run
        }
    }

    /// Returns the summary of the run with this name and the common start of its files' names, if it wrote one.
    fn summary(&self, name: &str) -> anyhow::Result<Option<(String, serde_json::Value)>> {
        let Some((stem, path)) = find(&self.output_dir.join(self.id), name) else { return Ok(None) };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let summary =
            serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        Ok(Some((stem, summary)))
    }
}

/// Returns the summary of the run `name` in a directory, and the common start of its files' names.
fn find(directory: &Path, name: &str) -> Option<(String, PathBuf)> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let file = entry.file_name().into_string().ok()?;
        let stem = file.strip_suffix("_summary.json")?;
        stem.strip_prefix(name)?.starts_with('_').then(|| (stem.to_owned(), entry.path()))
    })
}

/// Returns the end of a run's messages.
fn tail(log: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = log.rewind().and_then(|()| log.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(MOST_SHOWN)..]).into_owned();
    match text.trim() {
        "" => "it printed nothing".to_owned(),
        text => text.strip_prefix("error: ").unwrap_or(text).to_owned(),
    }
}

/// Returns a text in one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_found_by_the_name_of_its_run() {
        let directory = tempfile::tempdir().unwrap();
        for file in
            ["v001-r1_20260101_000000_summary.json", "v001-r10_20260101_000000_summary.json", "v002-r1_x.csv"]
        {
            fs::write(directory.path().join(file), "{}").unwrap();
        }
        let stem = |name: &str| find(directory.path(), name).map(|(stem, _)| stem);
        assert_eq!(stem("v001-r1").as_deref(), Some("v001-r1_20260101_000000"));
        assert_eq!(stem("v002-r1"), None);
        assert_eq!(find(&directory.path().join("missing"), "v001-r1"), None);
    }

    #[test]
    fn messages_are_short_and_in_one_line() {
        let mut log = tempfile::tempfile().unwrap();
        assert_eq!(tail(&mut log), "it printed nothing");
        std::io::Write::write_all(&mut log, b"error: nothing answers\n  at the target\n").unwrap();
        assert_eq!(one_line(&tail(&mut log)), "nothing answers at the target");
    }
}

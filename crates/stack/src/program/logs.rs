//! `streamstress stack logs`: prints the end of the logs. It reads the files, so it also works after the stack has ended.

use super::args::Logs;
use anyhow::{Context, bail};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Length of the part of a log that is searched for the last lines, and limit of one read.
const TAIL_BYTES: u64 = 256 << 10;
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The log of a process.
struct Log {
    process: String,
    path: PathBuf,
    /// Position in the file up to which lines were returned.
    offset: u64,
}

pub(crate) fn run(state_dir: &Path, wanted: &Logs) -> anyhow::Result<()> {
    let mut logs = find(state_dir, wanted.process.as_deref())?;
    for log in &mut logs {
        let text = log.tail()?;
        let skipped = text.lines().count().saturating_sub(wanted.lines);
        print(&log.process, text.lines().skip(skipped))?;
    }
    if !wanted.follow {
        return Ok(());
    }
    loop {
        thread::sleep(POLL_INTERVAL);
        for log in &mut logs {
            let text = log.new_lines()?;
            print(&log.process, text.lines())?;
        }
    }
}

/// Finds the log of a process, or all logs.
fn find(state_dir: &Path, process: Option<&str>) -> anyhow::Result<Vec<Log>> {
    let directory = state_dir.join("logs");
    let entries = std::fs::read_dir(&directory).with_context(|| {
        format!("cannot read the logs in {}: start a stack with `streamstress stack up`", directory.display())
    })?;
    let mut logs: Vec<Log> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let process = path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned();
            Some(Log { process, path, offset: 0 })
        })
        .collect();
    logs.sort_by(|a, b| a.process.cmp(&b.process));
    if let Some(process) = process {
        let names: Vec<&str> = logs.iter().map(|log| log.process.as_str()).collect();
        if !names.contains(&process) {
            bail!("there is no log of `{process}`: expected one of {}", names.join(", "));
        }
        logs.retain(|log| log.process == process);
    }
    Ok(logs)
}

impl Log {
    /// Returns the end of the log.
    fn tail(&mut self) -> anyhow::Result<String> {
        let length = std::fs::metadata(&self.path)?.len();
        self.offset = length.saturating_sub(TAIL_BYTES);
        self.new_lines()
    }

    /// Returns the complete lines that were added since the last call.
    fn new_lines(&mut self) -> anyhow::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.offset {
            // The process was started again with an empty log.
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let complete = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if bytes.len() as u64 == TAIL_BYTES => bytes.len(),
            None => 0,
        };
        self.offset += complete as u64;
        Ok(String::from_utf8_lossy(&bytes[..complete]).into_owned())
    }
}

/// Prints lines after the name of their process.
fn print<'a>(process: &str, lines: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        match writeln!(out, "{process:<12} | {line}") {
            // `head` has ended in `streamstress stack logs | head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome?,
        }
    }
    Ok(())
}

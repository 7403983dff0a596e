//! `streamstress stack logs`: the end of the processes' logs, straight from their files, so that it also works after the stack has ended.

use super::args::Logs;
use anyhow::{Context, bail};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How far back the last lines are looked for.
const TAIL_BYTES: u64 = 256 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(200);

struct Source {
    name: String,
    path: PathBuf,
    /// Everything before is printed.
    read: u64,
}

pub(crate) fn run(state_dir: &Path, wanted: &Logs) -> anyhow::Result<()> {
    let mut sources = find(state_dir, wanted.process.as_deref())?;
    for source in &mut sources {
        let text = source.tail()?;
        let skipped = text.lines().count().saturating_sub(wanted.lines);
        print(&source.name, text.lines().skip(skipped))?;
    }
    if !wanted.follow {
        return Ok(());
    }
    loop {
        thread::sleep(LOOK_EVERY);
        for source in &mut sources {
            let news = source.news()?;
            print(&source.name, news.lines())?;
        }
    }
}

fn find(state_dir: &Path, process: Option<&str>) -> anyhow::Result<Vec<Source>> {
    let directory = state_dir.join("logs");
    let entries = std::fs::read_dir(&directory).with_context(|| {
        format!("no logs in {}: start a stack with `streamstress stack up`", directory.display())
    })?;
    let mut sources: Vec<Source> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned();
            Some(Source { name, path, read: 0 })
        })
        .collect();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(process) = process {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        if !names.contains(&process) {
            bail!("there is no log of `{process}`: choose one of {}", names.join(", "));
        }
        sources.retain(|source| source.name == process);
    }
    Ok(sources)
}

impl Source {
    fn tail(&mut self) -> anyhow::Result<String> {
        let length = std::fs::metadata(&self.path)?.len();
        self.read = length.saturating_sub(TAIL_BYTES);
        self.news()
    }

    /// The whole lines that came since the last look.
    fn news(&mut self) -> anyhow::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.read {
            // The process was started anew, with a fresh log.
            self.read = 0;
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if bytes.len() as u64 == TAIL_BYTES => bytes.len(),
            None => 0,
        };
        self.read += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
    }
}

fn print<'a>(name: &str, lines: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        match writeln!(out, "{name:<12} | {line}") {
            // `streamstress stack logs | head` has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome?,
        }
    }
    Ok(())
}

//! Results of a run: files in the output directory and the text on stdout.
//! A separate thread writes during the run, so an interrupted run leaves valid files. Workers wait for the disk only if it is more
//! than ten thousand queries behind.

mod analyze;
mod collector;
mod colors;
mod conclusion;
mod criteria;
mod csv_rows;
mod events;
mod faults;
mod figures;
mod files;
mod generator;
mod generators;
mod history;
mod hlog;
mod hops;
mod host;
mod index;
mod info;
mod junit;
mod live_status;
mod locust;
mod markdown;
mod memory;
mod part_file;
mod queries;
mod ratios;
mod resources;
mod result_file;
mod rows;
mod run_metrics;
mod settings;
mod summary;
mod tables;
mod text;

pub use analyze::analyze;
pub use colors::colored;
pub use criteria::{Abort, Criteria};
pub use events::{Destination, EventSettings, EventSink, EventTotals};
pub use files::{OpenError, run_id};
pub use generator::{GeneratorResults, GeneratorSettings, PartSink};
pub use info::RunInfo;
pub use live_status::{LIVE_METRICS, LIVE_WINDOW_SECONDS, LiveStatus, SharedStatus};
pub use part_file::{PartFile, PartFileError, PartReader, SharedPartFile};
pub use run_metrics::RunMetrics;
pub use settings::{MeasuredSecond, OutputSettings};

use crate::{html, inspect, messages};
use collector::{Collector, CollectorMessage};
use conclusion::Conclusion;
use events::{Events, Pipe};
use measure::{FaultLog, Judgement, Part, ReadingBuffer, RunData};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

/// Largest number of parts that wait to be merged. A generator sends one per second.
const PARTS: usize = 8;

/// The results of a run that is going on.
#[derive(Debug)]
pub struct Results {
    files: files::Files,
    criteria: Criteria,
    shared_status: Option<SharedStatus>,
    events: Option<Events>,
    /// Whether the events of single queries, sessions and reconnects are wanted.
    tells_queries: bool,
    inbox: SyncSender<CollectorMessage>,
    collector: JoinHandle<io::Result<RunData>>,
    faults: Arc<FaultLog>,
    readings: ReadingBuffer,
}

/// A finished run with its verdict and its files.
#[derive(Debug)]
pub struct Finished {
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// Common start of the names of all files.
    pub base: PathBuf,
    /// Files that could not be written completely, each with the reason.
    pub unwritten: Vec<String>,
    measured: RunData,
    info: RunInfo,
    conclusion: Conclusion,
}

impl Finished {
    /// Returns the verdict and its reason.
    #[must_use]
    pub const fn judgement(&self) -> &Judgement {
        &self.conclusion.judgement
    }

    /// Returns the name of the verdict, or that the run was interrupted.
    #[must_use]
    pub const fn headline(&self) -> &'static str {
        text::headline(&self.info, &self.conclusion.judgement)
    }

    /// Returns the exit code. A run that passed has exit code 1 if a file could not be written.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.conclusion.exit_code {
            0 if !self.unwritten.is_empty() => 1,
            code => code,
        }
    }

    /// Returns which queries `streamstress inspect` can show: `broken` if any is, else `slowest`. `None` if no timelines are stored.
    #[must_use]
    pub fn worth_inspecting(&self) -> Option<&'static str> {
        let timelines = &self.measured.timelines;
        let has_broken = timelines.broken().next().is_some();
        (!timelines.is_empty()).then_some(if has_broken { "broken" } else { "slowest" })
    }

    /// Removes the files.
    pub fn discard(self) {
        self.files.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }

    /// Returns the text summary for a terminal with `columns` columns, without colours. [`colored`] adds them.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        text::render(&self.measured, &self.info, &self.conclusion, columns)
    }
}

impl Results {
    /// Creates the files and starts the writing thread.
    ///
    /// # Errors
    /// The directory or a file in it cannot be created.
    pub fn open(settings: &OutputSettings, faults: Arc<FaultLog>) -> Result<Self, OpenError> {
        let files = files::Files::create(settings)?;
        let (inbox, incoming) = sync_channel(PARTS);
        let readings = ReadingBuffer::default();
        let criteria = settings.criteria.clone();
        let events = settings.events.as_ref().map(|wanted| start_events(&files, wanted)).transpose()?;
        let sink = events.as_ref().map(Events::sink);
        let collector = Collector::new(&files, readings.clone(), settings, Arc::clone(&faults), sink)?;
        let collector = std::thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || collector.run(&incoming))
            .map_err(|source| OpenError::new(files.path(""), source))?;
        let shared_status = settings.shared_status.clone();
        let tells_queries = settings.events.as_ref().is_some_and(EventSettings::tells_queries);
        Ok(Self { files, criteria, shared_status, events, tells_queries, inbox, collector, faults, readings })
    }

    /// Starts the output of the only generator of the run, in this process. Its parts are also written to `copy`.
    ///
    /// # Errors
    /// The file of the rows cannot be created.
    pub fn generator(&self, copy: Option<SharedPartFile>) -> Result<GeneratorResults, OpenError> {
        let inbox = self.inbox.clone();
        let settings = GeneratorSettings {
            rows: self.files.path(".csv"),
            faults: Arc::clone(&self.faults),
            objectives: Arc::clone(&self.criteria.objectives),
            events: self.events.as_ref().filter(|_| self.tells_queries).map(Events::sink),
        };
        // Fails if the collector has ended, which reports the failure itself.
        let sink = move |part: Part| {
            if let Some(file) = &copy {
                file.lock().append(&part.to_message());
            }
            let _ = inbox.send(CollectorMessage::Part(0, Box::new(part)));
        };
        GeneratorResults::open(settings, Box::new(sink))
    }

    /// Merges a part of the generator with this index. Waits if the collector is behind.
    pub fn add(&self, generator: u32, part: Part) {
        let _ = self.inbox.send(CollectorMessage::Part(generator, Box::new(part)));
    }

    /// Notes that the generator with this index sends no more parts, so that seconds no longer wait for it.
    pub fn ended(&self, generator: u32) {
        let _ = self.inbox.send(CollectorMessage::Ended(generator));
    }

    /// Joins the rows of several generators into the run's file. Without any, the file has its header alone. If one cannot be read, that
    /// is reported as an unwritten file.
    pub fn join_rows(&self, rows: &[impl AsRef<Path>]) {
        if let Err(error) = rows::join(rows, &self.files.path(".csv")) {
            self.files.unwritten.note(&self.files.path(".csv"), &error);
        }
    }

    /// Removes the files of a run that did not start.
    pub fn discard(self) {
        drop(self.inbox);
        let _ = self.collector.join();
        self.files.written().iter().for_each(|path| drop(std::fs::remove_file(path)));
    }

    /// Returns why the run is to end early, if it is.
    #[must_use]
    pub fn aborted(&self) -> Option<String> {
        self.criteria.abort.as_ref()?.reason.get().cloned()
    }

    /// Returns the status for the live view, if it is open.
    #[must_use]
    pub fn shared_status(&self) -> Option<SharedStatus> {
        self.shared_status.clone()
    }

    /// Returns the sink for events, if `--out json` was requested.
    #[must_use]
    pub fn events(&self) -> Option<EventSink> {
        self.events.as_ref().map(Events::sink)
    }

    /// Returns the path of the file with this ending.
    #[must_use]
    pub fn path(&self, ending: &str) -> PathBuf {
        self.files.path(ending)
    }

    /// Returns the buffer for monitoring readings.
    #[must_use]
    pub const fn readings(&self) -> &ReadingBuffer {
        &self.readings
    }

    /// Judges the run and writes the remaining files, after every generator has sent its last part. Files that could not be written
    /// completely are listed in [`Finished::unwritten`].
    ///
    /// # Errors
    /// The writing thread failed.
    pub fn finish(self, info: &RunInfo) -> io::Result<Finished> {
        drop(self.inbox);
        let run = self.collector.join().map_err(|_| io::Error::other("the results thread panicked"))??;
        self.files.unwritten.add(info.generator.unwritten.clone());
        write_up(&self.files, run, info, &self.criteria, self.events)
    }
}

/// Opens the destination of the events and sends the first event.
fn start_events(files: &files::Files, wanted: &EventSettings) -> Result<Events, OpenError> {
    let path = match &wanted.destination {
        Destination::Results => files.path("_events.ndjson"),
        Destination::File(path) | Destination::Seconds(path) => path.clone(),
        Destination::Stdout => PathBuf::from("-"),
    };
    let pipe = match wanted.destination {
        Destination::Stdout => Pipe::stdout(),
        Destination::Seconds(_) => Pipe::lasting(&path),
        _ => Pipe::open(&path),
    };
    let flag = match wanted.destination {
        Destination::Results => "--output-dir",
        _ => "--out json=FILE",
    };
    let opened = pipe.and_then(Events::start);
    let events = opened.map_err(|source| OpenError::new(path, source).named_by(flag))?;
    events.sink().send(&events::run(wanted, files.id(), files.started_at));
    Ok(events)
}

/// Judges the run and writes the files that can only be written at its end.
fn write_up(
    files: &files::Files,
    run: RunData,
    info: &RunInfo,
    criteria: &Criteria,
    events: Option<Events>,
) -> io::Result<Finished> {
    let conclusion = Conclusion::of(&run, info, criteria);
    let last = |written, dropped| {
        events::verdict(&conclusion.judgement, &run, info, conclusion.exit_code, written, dropped)
    };
    let info = RunInfo { events: events.map(|events| events.end(last)), ..info.clone() };
    let write = |path: &Path, outcome: io::Result<()>| {
        if let Err(error) = outcome {
            files.unwritten.note(path, &error);
        }
    };
    write(&files.path(inspect::stored::ENDING), queries::write(files, &run, &info));
    write(&files.path("_stats.csv"), tables::write_stats(files, &run));
    write(&files.path("_failures.csv"), tables::write_failures(files, &run));
    write(&files.path("_summary.json"), summary::write(files, &run, &info, &conclusion));
    write(&files.path("_junit.xml"), junit::write(files, &run, &info, &conclusion));
    write(&files.path("_summary.md"), markdown::write(files, &run, &info, &conclusion));
    write(&files.index(), index::write(files, &run, &info, &conclusion.judgement));
    // The report contains only stored data, so an error does not fail the run.
    if files.path("_summary.json").exists()
        && let Err(error) = html::write(&files.path(".csv"))
    {
        messages::print_stderr(&format!(
            "warning: the HTML report was not written: {error:#}. `streamstress report` can create it later"
        ));
    }
    let unwritten = files.unwritten.list();
    let (written, base) = (files.written(), files.path(""));
    Ok(Finished { files: written, base, unwritten, measured: run, info, conclusion })
}

//! What a run leaves behind: files in the output directory and the text on stdout.
//! A thread of its own writes as the run goes on, so an interrupted run leaves valid files; no worker ever waits for a disk
//! unless the disk falls ten thousand queries behind.

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
mod history;
mod hlog;
mod host;
mod index;
mod info;
mod junit;
mod live_status;
mod locust;
mod markdown;
mod ratios;
mod resources;
mod result_file;
mod settings;
mod summary;
mod tables;
mod text;

pub use analyze::{AnalyzeError, analyze};
pub use colors::colored;
pub use criteria::{Abort, Criteria};
pub use events::{Destination, EventSettings, EventSink, EventTotals};
pub use files::OpenError;
pub use info::RunInfo;
pub use live_status::{LIVE_METRICS, LIVE_WINDOW_SECONDS, LiveStatus, SharedStatus};
pub use settings::OutputSettings;

use crate::{html, messages};
use collector::Collector;
use conclusion::Conclusion;
use events::{Events, Pipe};
use measure::FaultLog;
use measure::{ActiveCounter, Judgement, ReadingBuffer, Recorder, RecorderMessage, RunData};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

/// Parcels between the workers and the writing thread: some ten thousand finished queries.
const PARCELS: usize = 16_384;

/// The results of a run in the making.
#[derive(Debug)]
pub struct Results {
    files: files::Files,
    criteria: Criteria,
    shared_status: Option<SharedStatus>,
    events: Option<Events>,
    messages_in: SyncSender<RecorderMessage>,
    /// How many were made.
    recorders: AtomicU64,
    collector: JoinHandle<io::Result<RunData>>,
    sessions: ActiveCounter,
    queries: ActiveCounter,
    readings: ReadingBuffer,
}

/// A run judged and written.
#[derive(Debug)]
pub struct Finished {
    /// What was written.
    pub files: Vec<PathBuf>,
    /// What the names of all of it begin with.
    pub base: PathBuf,
    /// Files that could not be written to their end, and why.
    pub unwritten: Vec<String>,
    measured: RunData,
    info: RunInfo,
    conclusion: Conclusion,
}

impl Finished {
    /// What the run is worth, and why.
    #[must_use]
    pub const fn judgement(&self) -> &Judgement {
        &self.conclusion.judgement
    }

    /// The verdict's name, or that the run was interrupted.
    #[must_use]
    pub const fn headline(&self) -> &'static str {
        text::headline(&self.info, &self.conclusion.judgement)
    }

    /// The exit code that follows. A pass without all of its results is none.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.conclusion.exit_code {
            0 if !self.unwritten.is_empty() => 1,
            code => code,
        }
    }

    /// The text summary for a terminal of so many columns; [`colored`] paints it.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        text::render(&self.measured, &self.info, &self.conclusion, columns)
    }
}

impl Results {
    /// Creates the files and starts the thread that writes them.
    ///
    /// # Errors
    /// The directory or a file in it cannot be created; the message names it and what to do.
    pub fn open(settings: &OutputSettings, faults: Arc<FaultLog>) -> Result<Self, OpenError> {
        let files = files::Files::create(settings)?;
        let (messages_in, incoming) = sync_channel(PARCELS);
        let (sessions, queries, readings) =
            (ActiveCounter::default(), ActiveCounter::default(), ReadingBuffer::default());
        let criteria = settings.criteria.clone();
        let events = settings.events.as_ref().map(|wanted| start_events(&files, wanted)).transpose()?;
        let sink = events.as_ref().map(Events::sink);
        let collector = Collector::new(&files, sessions.clone(), readings.clone(), settings, faults, sink)?;
        let collector = std::thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || collector.run(&incoming))
            .map_err(|source| OpenError::new(files.path(""), source))?;
        let shared_status = settings.shared_status.clone();
        let recorders = AtomicU64::new(0);
        Ok(Self {
            files,
            criteria,
            shared_status,
            events,
            messages_in,
            recorders,
            collector,
            sessions,
            queries,
            readings,
        })
    }

    /// A recorder; one a worker.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        let number = self.recorders.fetch_add(1, Relaxed);
        Recorder::new(number, self.messages_in.clone(), Arc::clone(&self.criteria.objectives))
    }

    /// Why the run is to end early, if it is.
    #[must_use]
    pub fn aborted(&self) -> Option<String> {
        self.criteria.abort.as_ref()?.reason.get().cloned()
    }

    /// Where the run's standing is shown, if somebody looks.
    #[must_use]
    pub fn shared_status(&self) -> Option<SharedStatus> {
        self.shared_status.clone()
    }

    /// Where events go, if somebody wants them.
    #[must_use]
    pub fn events(&self) -> Option<EventSink> {
        self.events.as_ref().map(Events::sink)
    }

    /// Where the file of this ending belongs.
    #[must_use]
    pub fn path(&self, ending: &str) -> PathBuf {
        self.files.path(ending)
    }

    /// How many sessions are open: `enter()` when one starts, drop the guard when it ends.
    #[must_use]
    pub const fn sessions(&self) -> &ActiveCounter {
        &self.sessions
    }

    /// How many queries are running: `enter()` when one is sent, drop the guard when it ends.
    #[must_use]
    pub const fn queries(&self) -> &ActiveCounter {
        &self.queries
    }

    /// Where to put what is read beside the run.
    #[must_use]
    pub const fn readings(&self) -> &ReadingBuffer {
        &self.readings
    }

    /// Waits for the last recorder to be dropped, judges the run, writes the rest and makes the text.
    ///
    /// A file that could not be written to its end is named in the outcome.
    ///
    /// # Errors
    /// The thread that writes broke.
    pub fn finish(self, info: &RunInfo) -> io::Result<Finished> {
        drop(self.messages_in);
        let run = self.collector.join().map_err(|_| io::Error::other("the results thread panicked"))??;
        write_up(&self.files, run, info, &self.criteria, self.events)
    }
}

/// The events' file or pipe, and their first line.
fn start_events(files: &files::Files, wanted: &EventSettings) -> Result<Events, OpenError> {
    let path = match &wanted.destination {
        Destination::Results => files.path("_events.ndjson"),
        Destination::File(path) => path.clone(),
        Destination::Stdout => PathBuf::from("-"),
    };
    let pipe = match wanted.destination {
        Destination::Stdout => Pipe::stdout(),
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

/// Judges the run and writes what can only be written at its end.
fn write_up(
    files: &files::Files,
    run: RunData,
    info: &RunInfo,
    criteria: &Criteria,
    events: Option<Events>,
) -> io::Result<Finished> {
    let conclusion = Conclusion::of(&run, info, criteria);
    let last = |written, dropped| {
        events::verdict(&conclusion.judgement, info, conclusion.exit_code, written, dropped)
    };
    let info = RunInfo { events: events.map(|events| events.end(last)), ..info.clone() };
    let write = |path: &Path, outcome: io::Result<()>| {
        if let Err(error) = outcome {
            files.unwritten.note(path, &error);
        }
    };
    write(&files.path("_stats.csv"), tables::write_stats(files, &run));
    write(&files.path("_failures.csv"), tables::write_failures(files, &run));
    write(&files.path("_summary.json"), summary::write(files, &run, &info, &conclusion));
    write(&files.path("_junit.xml"), junit::write(files, &run, &info, &conclusion));
    write(&files.path("_summary.md"), markdown::write(files, &run, &info, &conclusion));
    write(&files.index(), index::write(files, &run, &info, &conclusion.judgement));
    // Everything that it says is stored already: a run is not lost for want of its picture.
    if files.path("_summary.json").exists()
        && let Err(error) = html::write(&files.path(".csv"))
    {
        messages::print_stderr(&format!(
            "client: the report was not written ({error:#}); `client report` can make it later"
        ));
    }
    let unwritten = files.unwritten.list();
    let (written, base) = (files.written(), files.path(""));
    Ok(Finished { files: written, base, unwritten, measured: run, info, conclusion })
}

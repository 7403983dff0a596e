//! What a run leaves behind: files in the output directory and the text on stdout.
//! A thread of its own writes as the run goes on, so an interrupted run leaves valid files; no worker ever waits for a disk
//! unless the disk falls thousands of sessions behind.

mod analyze;
mod collector;
mod csv_rows;
mod faults;
mod figures;
mod files;
mod history;
mod hlog;
mod host;
mod info;
mod judging;
mod junit;
mod markdown;
mod summary;
mod tables;
mod text;

pub use analyze::{AnalyzeError, analyze};
pub use files::{OpenError, OutputSettings};
pub use info::RunInfo;
pub use judging::{Abort, Judging};
pub use text::colored;
pub(crate) use text::{short, wrap};

use crate::measure::{Gauge, Judgement, Parcel, Recorder, RunData};
use crate::{faults::FaultLog, report};
use collector::Collector;
use judging::Conclusion;
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

/// Parcels between the workers and the writing thread: some thousand finished sessions.
const PARCELS: usize = 4096;

/// The results of a run in the making.
#[derive(Debug)]
pub struct Results {
    files: files::Files,
    judging: Judging,
    parcels: SyncSender<Parcel>,
    collector: JoinHandle<io::Result<RunData>>,
    sessions: Gauge,
    queries: Gauge,
}

/// A run judged and written.
#[derive(Debug)]
pub struct Finished {
    /// What the run is worth, and why.
    pub judgement: Judgement,
    /// The verdict's name, or that the run was interrupted.
    pub headline: &'static str,
    /// The exit code that follows.
    pub exit_code: u8,
    /// The text summary, for stdout; [`colored`] paints it for a terminal.
    pub text: String,
    /// What was written.
    pub files: Vec<PathBuf>,
    /// What the names of all of it begin with.
    pub base: PathBuf,
}

impl Results {
    /// Creates the files and starts the thread that writes them.
    ///
    /// # Errors
    /// The directory or a file in it cannot be created; the message names it and what to do.
    pub fn open(settings: &OutputSettings, faults: Arc<FaultLog>) -> Result<Self, OpenError> {
        let files = files::Files::create(settings)?;
        let (parcels, incoming) = sync_channel(PARCELS);
        let (sessions, queries) = (Gauge::default(), Gauge::default());
        let judging = settings.judging.clone();
        let collector =
            Collector::new(&files, sessions.clone(), judging.observer(), settings.schedule.clone(), faults)
                .map_err(|source| OpenError::new(files.path(""), source))?;
        let collector = std::thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || collector.run(&incoming))
            .map_err(|source| OpenError::new(files.path(""), source))?;
        Ok(Self { files, judging, parcels, collector, sessions, queries })
    }

    /// A recorder; one a worker.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.parcels.clone(), Arc::clone(&self.judging.objectives))
    }

    /// Why the run is to end early, if it is.
    #[must_use]
    pub fn aborted(&self) -> Option<String> {
        self.judging.abort.as_ref()?.reason.get().cloned()
    }

    /// Where the file of this ending belongs.
    #[must_use]
    pub fn path(&self, ending: &str) -> PathBuf {
        self.files.path(ending)
    }

    /// How many sessions are open: `enter()` when one starts, drop the guard when it ends.
    #[must_use]
    pub const fn sessions(&self) -> &Gauge {
        &self.sessions
    }

    /// How many queries are running: `enter()` when one is sent, drop the guard when it ends.
    #[must_use]
    pub const fn queries(&self) -> &Gauge {
        &self.queries
    }

    /// Waits for the last recorder to be dropped, judges the run, writes the rest and makes the text.
    ///
    /// # Errors
    /// A file could not be written; what was written until then is valid.
    pub fn finish(self, info: &RunInfo) -> io::Result<Finished> {
        drop(self.parcels);
        let run = self.collector.join().map_err(|_| io::Error::other("the results thread panicked"))??;
        write_up(&self.files, &run, info, &self.judging)
    }
}

/// Judges the run and writes what can only be written at its end.
fn write_up(files: &files::Files, run: &RunData, info: &RunInfo, judging: &Judging) -> io::Result<Finished> {
    let conclusion = Conclusion::of(run, info, judging);
    tables::write_stats(files, run)?;
    tables::write_failures(files, run)?;
    summary::write(files, run, info, &conclusion)?;
    junit::write(files, run, info, &conclusion)?;
    markdown::write(files, run, info, &conclusion)?;
    summary::write_index(files, run, info, &conclusion.judgement)?;
    // Everything that it says is stored already: a run is not lost for want of its picture.
    if let Err(error) = report::write(&files.path(".csv")) {
        eprintln!("client: the report was not written ({error:#}); `client report` can make it later");
    }
    let text = text::render(run, info, &conclusion);
    let headline = text::headline(info, &conclusion.judgement);
    let Conclusion { judgement, exit_code, .. } = conclusion;
    Ok(Finished { judgement, headline, exit_code, text, files: files.written(), base: files.path("") })
}

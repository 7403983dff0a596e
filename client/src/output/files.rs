//! Names and places of a run's files: `NAME_YYYYMMDD_HHMMSS…` in the output directory.
//! It never overwrites: a second run in the same second gets a suffix.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};
use time::OffsetDateTime;

/// Where and under which name a run is written.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// Made where it does not exist.
    pub dir: PathBuf,
    /// The first part of the files' names: `loadtest`.
    pub name: String,
    /// Local time at the start of the run. Ask for it in `main`, before threads start: later the offset cannot be had.
    pub started_at: OffsetDateTime,
}

/// The output directory or a file in it cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot write results to {path}: {source}; name a directory that can be written with --output-dir")]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl OpenError {
    pub(super) fn new(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { path: path.into(), source }
    }
}

/// A run's own names.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// `loadtest_20261121_004500`: the run's id.
    id: String,
    pub(super) started_at: OffsetDateTime,
}

impl Files {
    /// Makes the directory and claims a name by creating its `.csv`.
    pub(super) fn create(settings: &OutputSettings) -> Result<Self, OpenError> {
        let dir = settings.dir.clone();
        fs::create_dir_all(&dir).map_err(|source| OpenError::new(&dir, source))?;
        let at = settings.started_at;
        let stem = format!(
            "{}_{:04}{:02}{:02}_{:02}{:02}{:02}",
            settings.name,
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        );
        for attempt in 1u32.. {
            let id = if attempt == 1 { stem.clone() } else { format!("{stem}_{attempt}") };
            let path = dir.join(format!("{id}.csv"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Self { dir, id, started_at: at }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(OpenError::new(path, source)),
            }
        }
        unreachable!("a free number is found long before they end")
    }

    /// The run's id, which begins its files' names.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Where all runs of the directory are listed.
    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index.jsonl")
    }

    /// The path of the file with this ending.
    pub(super) fn path(&self, ending: &str) -> PathBuf {
        self.dir.join(format!("{}{ending}", self.id))
    }

    /// Creates, or empties, the file with this ending.
    pub(super) fn open(&self, ending: &str) -> io::Result<File> {
        File::create(self.path(ending)).map_err(|error| named(&self.path(ending), &error))
    }
}

/// The same error, with the file's name in its message.
pub(super) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

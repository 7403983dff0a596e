//! Names of the files of a run: `NAME_YYYYMMDD_HHMMSS…` in the output directory.
//! No file is overwritten: a second run in the same second gets a suffix.

use super::{
    OutputSettings,
    result_file::{ResultFile, WriteErrors},
};
use crate::file_names::ENDINGS;
use std::{
    fs::{self, OpenOptions},
    io,
    path::PathBuf,
};
use time::OffsetDateTime;

/// The output directory or a file in it cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {path}: {source}; name a writable place with {flag}")]
pub struct OpenError {
    path: PathBuf,
    flag: &'static str,
    source: io::Error,
}

impl OpenError {
    pub(super) fn new(path: impl Into<PathBuf>, source: io::Error) -> Self {
        // "results" alone does not tell where a run without --output-dir wanted to write.
        let path = path.into();
        Self { path: std::path::absolute(&path).unwrap_or(path), flag: "--output-dir", source }
    }

    /// Returns the error about a place that another flag names.
    pub(super) fn named_by(self, flag: &'static str) -> Self {
        Self { flag, ..self }
    }
}

/// Returns the id of a run that started at this local time, for example `loadtest_20261121_004500`.
#[must_use]
pub fn run_id(name: &str, at: OffsetDateTime) -> String {
    format!(
        "{name}_{:04}{:02}{:02}_{:02}{:02}{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// Names of the files of a run.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// Id of the run, for example `loadtest_20261121_004500`.
    id: String,
    pub(super) started_at: OffsetDateTime,
    /// Files that could not be written.
    pub(super) unwritten: WriteErrors,
}

impl Files {
    /// Creates the directory, and reserves a name by creating its `.csv`.
    pub(super) fn create(settings: &OutputSettings) -> Result<Self, OpenError> {
        let dir = settings.dir.clone();
        fs::create_dir_all(&dir).map_err(|source| OpenError::new(&dir, source))?;
        let at = settings.started_at;
        let stem = format!("{}{}", run_id(&settings.name, at), settings.suffix);
        for attempt in 1u32.. {
            let id = if attempt == 1 { stem.clone() } else { format!("{stem}_{attempt}") };
            let path = dir.join(format!("{id}.csv"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Self { dir, id, started_at: at, unwritten: WriteErrors::default() }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(OpenError::new(path, source)),
            }
        }
        unreachable!("a free number is found before u32::MAX")
    }

    /// Returns the id of the run, with which the names of its files start.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the path of the file that lists all runs of the directory.
    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("index.jsonl")
    }

    /// Returns the path of the file with this ending.
    pub(super) fn path(&self, ending: &str) -> PathBuf {
        self.dir.join(format!("{}{ending}", self.id))
    }

    /// Returns the files of a finished run, the most important first. Runs without monitoring have fewer files.
    pub(super) fn written(&self) -> Vec<PathBuf> {
        ENDINGS.map(|ending| self.path(ending)).into_iter().filter(|path| path.exists()).collect()
    }

    /// Creates or truncates the file with this ending, to which rows are added during the run.
    pub(super) fn open(&self, ending: &str) -> Result<ResultFile, OpenError> {
        let path = self.path(ending);
        ResultFile::of_rows(path.clone(), &self.unwritten).map_err(|source| OpenError::new(path, source))
    }

    /// Creates the file with this ending. It is removed if it cannot be written completely.
    pub(super) fn document(&self, ending: &str) -> ResultFile {
        ResultFile::document(self.path(ending), &self.unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Criteria;
    use std::{fs::File, path::Path};
    use time::macros::datetime;

    fn settings(dir: &Path) -> OutputSettings {
        let started_at = datetime!(2026-11-21 00:45:09 +2);
        OutputSettings {
            dir: dir.to_owned(),
            name: "loadtest".to_owned(),
            started_at,
            criteria: Criteria::default(),
            suffix: String::new(),
            generators: 1,
            seconds: None,
            patience: None,
            schedule: None,
            shared_status: None,
            metrics: None,
            events: None,
        }
    }

    #[test]
    fn a_second_run_in_the_same_second_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir.path().join("made/for/it"));
        let ids: Vec<_> = (0..3).map(|_| Files::create(&settings).unwrap().id().to_owned()).collect();
        assert_eq!(
            ids,
            ["loadtest_20261121_004509", "loadtest_20261121_004509_2", "loadtest_20261121_004509_3"]
        );
    }

    #[test]
    fn a_directory_that_cannot_be_created_is_named_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let error = Files::create(&settings(&file)).unwrap_err().to_string();
        assert!(error.contains("file: ") && error.contains("--output-dir"), "{error}");
    }
}

//! A result file whose write errors do not stop the run. The first error is recorded, and later writes are skipped.

use parking_lot::Mutex;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files that could not be written, each with the reason.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteErrors(Arc<Mutex<Vec<String>>>);

impl WriteErrors {
    pub(super) fn note(&self, path: &Path, error: &io::Error) {
        self.0.lock().push(format!("cannot write {}: {error}", path.display()));
    }

    pub(super) fn add(&self, unwritten: Vec<String>) {
        self.0.lock().extend(unwritten);
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

/// A result file. Writing to it never returns an error.
#[derive(Debug)]
pub(super) struct ResultFile {
    /// `None` after the first error.
    file: Option<File>,
    path: PathBuf,
    /// Whether the file is useless unless it is complete. It is then removed after an error.
    is_document: bool,
    unwritten: WriteErrors,
}

impl ResultFile {
    /// Creates or truncates a file of rows, which is useful even if its end is missing.
    pub(super) fn of_rows(path: PathBuf, unwritten: &WriteErrors) -> io::Result<Self> {
        let file = Some(File::create(&path)?);
        Ok(Self { file, path, is_document: false, unwritten: unwritten.clone() })
    }

    /// Creates or truncates a document, which is useless unless it is complete.
    pub(super) fn document(path: PathBuf, unwritten: &WriteErrors) -> Self {
        let created = File::create(&path);
        let mut result_file = Self { file: None, path, is_document: true, unwritten: unwritten.clone() };
        match created {
            Ok(file) => result_file.file = Some(file),
            Err(error) => result_file.fail(&error),
        }
        result_file
    }

    fn fail(&mut self, error: &io::Error) {
        self.unwritten.note(&self.path, error);
        let was_created = self.file.take().is_some();
        if self.is_document && was_created {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Write for ResultFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(bytes)) {
            self.fail(&error);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_full_disk_is_noted_once_and_leaves_no_half_document() {
        let dir = tempfile::tempdir().unwrap();
        let full = |name: &str| {
            let path = dir.path().join(name);
            symlink("/dev/full", &path).unwrap();
            path
        };
        let unwritten = WriteErrors::default();
        let mut rows = ResultFile::of_rows(full("rows"), &unwritten).unwrap();
        let mut document = ResultFile::document(full("document"), &unwritten);
        for _ in 0..3 {
            rows.write_all(b"row").unwrap();
            document.write_all(b"text").unwrap();
        }
        ResultFile::document(dir.path().join("no/such"), &unwritten).write_all(b"text").unwrap();
        let noted = unwritten.list();
        assert_eq!(noted.len(), 3, "{noted:?}");
        for (line, name) in noted.iter().zip(["rows", "document", "no/such"]) {
            assert!(line.starts_with("cannot write ") && line.contains(&format!("/{name}: ")), "{line}");
        }
        assert!(noted[0].contains("No space left"), "{noted:?}");
        assert!(fs::symlink_metadata(dir.path().join("document")).is_err());
    }
}

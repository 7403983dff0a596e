//! A file of the results that a full disk does not stop: its first failure is noted, and what follows is left out.

use parking_lot::Mutex;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Which files could not be written, and why.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteErrors(Arc<Mutex<Vec<String>>>);

impl WriteErrors {
    pub(super) fn note(&self, path: &Path, error: &io::Error) {
        self.0.lock().push(format!("cannot write {}: {error}", path.display()));
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

/// A file to write to. No write to it fails.
#[derive(Debug)]
pub(super) struct ResultFile {
    /// Nothing after the first failure.
    file: Option<File>,
    path: PathBuf,
    /// Worth nothing unless it is whole: it is removed when it cannot be written.
    is_document: bool,
    unwritten: WriteErrors,
}

impl ResultFile {
    /// Creates, or empties, a file that is of use also where its end is missing.
    pub(super) fn of_rows(path: PathBuf, unwritten: &WriteErrors) -> io::Result<Self> {
        let file = Some(File::create(&path)?);
        Ok(Self { file, path, is_document: false, unwritten: unwritten.clone() })
    }

    /// Writes a file that is of no use unless it is whole.
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

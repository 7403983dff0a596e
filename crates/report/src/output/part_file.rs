//! `…_shard2.part`: everything that one generator of several measured, for `streamstress merge`. A line that names the format, then
//! messages, each with its length before it.

use super::{
    files::OpenError,
    result_file::{ResultFile, WriteErrors},
};
use measure::{GeneratorMessage, GeneratorReport, InvalidMessage};
use parking_lot::Mutex;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// First line of the file.
const FORMAT: &[u8] = b"streamstress part 3\n";
/// Largest message in bytes.
const MAX_MESSAGE: u32 = 64 << 20;

/// The file of a generator, shared between the thread that writes its parts and the one that ends it.
pub type SharedPartFile = Arc<Mutex<PartFile>>;

/// The file of a generator that is running.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    file: ResultFile,
    unwritten: WriteErrors,
}

impl PartFile {
    /// Creates the file. An existing one is not overwritten.
    ///
    /// # Errors
    /// The file exists, or cannot be created.
    pub fn create(path: &Path) -> Result<Self, OpenError> {
        let unwritable = |source| OpenError::new(path, source);
        File::create_new(path).map_err(unwritable)?;
        let unwritten = WriteErrors::default();
        let mut file = ResultFile::of_rows(path.to_owned(), &unwritten).map_err(unwritable)?;
        file.write_all(FORMAT).map_err(unwritable)?;
        Ok(Self { path: path.to_owned(), file, unwritten })
    }

    /// Appends a message. A write error, or a message that is too large, does not stop the run: [`PartFile::finish`] reports it.
    pub fn append(&mut self, message: &[u8]) {
        let Some(length) = u32::try_from(message.len()).ok().filter(|&length| length <= MAX_MESSAGE) else {
            let error =
                io::Error::other(format!("a message has {} bytes, more than {MAX_MESSAGE}", message.len()));
            self.unwritten.note(&self.path, &error);
            return;
        };
        let framed = [&length.to_le_bytes(), message].concat();
        let _ = self.file.write_all(&framed);
    }

    /// Appends the last message. Returns why the file is incomplete, if it is.
    #[must_use]
    pub fn finish(&mut self, report: &GeneratorReport) -> Vec<String> {
        self.append(&report.to_message());
        self.unwritten.list()
    }
}

/// The reason why a file of a generator cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PartFileError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{0} was not written by a generator: expected a file whose name ends in _shardN.part")]
    WrongFormat(PathBuf),
    /// A message cannot be read.
    #[error("{path}: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidMessage,
    },
    /// The file ends before the report of its generator.
    #[error(
        "{0} is incomplete: its generator did not finish. Merge with --allow-partial to get a result without the rest; its verdict is INVALID"
    )]
    Incomplete(PathBuf),
}

/// Reads the messages of a generator from its file.
#[derive(Debug)]
pub struct PartReader {
    path: PathBuf,
    input: BufReader<File>,
    has_ended: bool,
}

impl PartReader {
    /// Opens a file and checks its format.
    ///
    /// # Errors
    /// The file cannot be read, or is something else.
    pub fn open(path: &Path) -> Result<Self, PartFileError> {
        let unreadable = |source| PartFileError::Unreadable { path: path.to_owned(), source };
        let mut input = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut format = Vec::new();
        (&mut input).take(FORMAT.len() as u64).read_to_end(&mut format).map_err(unreadable)?;
        if format != FORMAT {
            return Err(PartFileError::WrongFormat(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), input, has_ended: false })
    }

    fn read(&mut self) -> Result<GeneratorMessage, PartFileError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => PartFileError::Incomplete(self.path.clone()),
            _ => PartFileError::Unreadable { path: self.path.clone(), source },
        };
        if self.input.fill_buf().map_err(unreadable)?.is_empty() {
            return Err(PartFileError::Incomplete(self.path.clone()));
        }
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(unreadable)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_MESSAGE {
            return Err(PartFileError::WrongFormat(self.path.clone()));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(unreadable)?;
        let message = GeneratorMessage::from_bytes(&bytes)
            .map_err(|source| PartFileError::Damaged { path: self.path.clone(), source })?;
        self.has_ended = matches!(message, GeneratorMessage::Report(_));
        Ok(message)
    }
}

/// Iterates over the messages. An incomplete file gives [`PartFileError::Incomplete`] after its last complete message.
impl Iterator for PartReader {
    type Item = Result<GeneratorMessage, PartFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let next = self.read();
        self.has_ended |= next.is_err();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::Part;

    fn written(dir: &Path, cut: usize) -> PathBuf {
        let path = dir.join("loadtest_shard1.part");
        let mut file = PartFile::create(&path).unwrap();
        let part = |reached| Part { reached, ..Part::default() }.to_message();
        for message in [part(1), part(2)] {
            file.append(&message);
        }
        assert_eq!(file.finish(&GeneratorReport::default()), [] as [String; 0]);
        let length = std::fs::metadata(&path).unwrap().len() - cut as u64;
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        path
    }

    #[test]
    fn messages_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 0);
        let messages: Vec<_> = PartReader::open(&path).unwrap().map(Result::unwrap).collect();
        assert!(matches!(
            messages.as_slice(),
            [GeneratorMessage::Part(one), GeneratorMessage::Part(two), GeneratorMessage::Report(_)]
                if (one.reached, two.reached) == (1, 2)
        ));
        assert!(PartFile::create(&path).is_err(), "an existing file is kept");
    }

    #[test]
    fn a_file_that_was_cut_off_is_incomplete() {
        for cut in [1, 5, 40, 60] {
            let dir = tempfile::tempdir().unwrap();
            let last = PartReader::open(&written(dir.path(), cut)).unwrap().last();
            assert!(matches!(last, Some(Err(PartFileError::Incomplete(_)))), "{cut}: {last:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other.part");
        std::fs::write(&other, "session_id,latency\n").unwrap();
        assert!(matches!(PartReader::open(&other), Err(PartFileError::WrongFormat(_))));
    }
}

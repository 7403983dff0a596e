//! Joins the rows of several generators into one file.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

/// Writes the rows of `files` into `to`, which is created or truncated, with the header of the first one.
///
/// # Errors
/// A file cannot be read or written. The message names the file that cannot be read.
pub(super) fn join(files: &[impl AsRef<Path>], to: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(to)?);
    for (number, path) in files.iter().map(AsRef::as_ref).enumerate() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut rows = BufReader::new(File::open(path).map_err(named)?);
        // No column name contains a line break.
        let mut header = Vec::new();
        rows.read_until(b'\n', &mut header).map_err(named)?;
        if number == 0 {
            out.write_all(&header)?;
        }
        io::copy(&mut rows, &mut out).map_err(named)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn rows_are_joined_below_one_header() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["one", "two", "three"].map(|name| dir.path().join(name));
        for (path, rows) in files.iter().zip(["a,b\n1,2\n", "a,b\n", "a,b\n3,\"4\n5\"\n"]) {
            fs::write(path, rows).unwrap();
        }
        let joined = dir.path().join("joined");
        join(&files, &joined).unwrap();
        assert_eq!(fs::read_to_string(&joined).unwrap(), "a,b\n1,2\n3,\"4\n5\"\n");
        let missing = join(&[dir.path().join("missing")], &joined).unwrap_err().to_string();
        assert!(missing.contains("missing: "), "{missing}");
    }
}

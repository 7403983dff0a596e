//! Joins the rows of several generators into one file.

use super::csv_rows::COLUMNS;
use settings::cells::CellWriter;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
};

/// Writes the rows of `files` below one header into `to`, which is created or truncated. A last row that is incomplete, as that of a
/// generator that was killed may be, is left out.
///
/// # Errors
/// A file cannot be read or written. The message names the file that cannot be read.
pub(super) fn join(files: &[impl AsRef<Path>], to: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(to)?);
    let mut header = CellWriter::new(&mut out);
    header.write_record(COLUMNS)?;
    drop(header);
    for path in files.iter().map(AsRef::as_ref) {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut rows = BufReader::new(File::open(path).map_err(named)?);
        // No column name contains a line break.
        rows.read_until(b'\n', &mut Vec::new()).map_err(named)?;
        let mut row = Vec::new();
        while rows.read_until(b'\n', &mut row).map_err(named)? > 0 {
            // A line break inside quotes belongs to a cell.
            let is_quoted = row.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            if row.ends_with(b"\n") && !is_quoted {
                out.write_all(&row)?;
                row.clear();
            }
        }
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
        let header = format!("{}\n", COLUMNS.join(","));
        for (path, rows) in
            files.iter().zip(["1,2\n6,\"7\n", "", "3,\"4\n5\"\n8,"].map(|rows| header.clone() + rows))
        {
            fs::write(path, rows).unwrap();
        }
        let joined = dir.path().join("joined");
        join(&files, &joined).unwrap();
        assert_eq!(fs::read_to_string(&joined).unwrap(), header.clone() + "1,2\n3,\"4\n5\"\n");
        join(&[] as &[&Path], &joined).unwrap();
        assert_eq!(fs::read_to_string(&joined).unwrap(), header);
        let missing = join(&[dir.path().join("missing")], &joined).unwrap_err().to_string();
        assert!(missing.contains("missing: "), "{missing}");
    }
}

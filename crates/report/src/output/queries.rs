//! Writes `…_queries.jsonl`: the timelines of the slowest and of broken queries.

use super::{RunInfo, files::Files};
use crate::{
    inspect::stored::{self, ENDING},
    values::escaped_json,
};
use measure::RunData;
use std::io::{self, BufWriter, Write};

/// Writes the timelines, one per line. Writes no file without any.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo) -> io::Result<()> {
    if run.timelines.is_empty() {
        return Ok(());
    }
    let mut out = BufWriter::new(files.document(ENDING));
    for query in stored::queries(&run.timelines, &info.faults) {
        writeln!(out, "{}", escaped_json(&serde_json::to_string(&query)?))?;
    }
    out.flush()
}

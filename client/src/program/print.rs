//! Prints results, errors and files, on a terminal or elsewhere.

use crate::{generators::control::Played, run_error::RunError};
use report::{
    DEFAULT_COLUMNS, messages,
    output::{self, Finished},
    retention,
};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};
use terminal_size::{Width, terminal_size_of};

/// The stream that a text is written to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Out {
    Stdout,
    Stderr,
}

impl Out {
    pub(super) fn print(self, text: &str) {
        match self {
            Self::Stdout => messages::print_stdout(text),
            Self::Stderr => messages::print_stderr(text.trim_end_matches('\n')),
        }
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        }
    }

    /// Returns the text with colours if the stream is a terminal and `NO_COLOR` is not set (<https://no-color.org>).
    pub(super) fn colored(self, text: String) -> String {
        let disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if self.is_terminal() && !disabled { output::colored(&text) } else { text }
    }

    /// Returns the width of the terminal; for other streams the variable `COLUMNS`.
    pub(super) fn columns(self) -> usize {
        let size = match self {
            Self::Stdout => terminal_size_of(std::io::stdout()),
            Self::Stderr => terminal_size_of(std::io::stderr()),
        };
        match size {
            Some((Width(columns), _)) => columns.into(),
            None => {
                std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_COLUMNS)
            }
        }
    }
}

/// Prints how a generator ended that met others at a control Redis. Returns the exit code of the verdict.
pub(super) fn played(played: Played, quiet: bool, out: Out) -> u8 {
    match played {
        Played::Led(led) => finished(&led, quiet, out),
        Played::Followed { conclusion, base } => {
            let (text, code) = conclusion.map_or_else(
                || ("INVALID: the leader gave no verdict: `streamstress merge` can".to_owned(), 98),
                |conclusion| (conclusion.verdict, conclusion.exit_code),
            );
            out.print(&format!("{text}\n"));
            if !quiet {
                out.print(&format!("\n  rows of this generator....: {}.csv\n", base.display()));
            }
            code
        }
        Played::TooLate(why) => {
            messages::print_stderr(&format!("nothing to do: {why}"));
            0
        }
    }
}

/// Prints why a run has no result. Returns the exit code.
pub(super) fn error(error: &RunError) -> u8 {
    messages::print_stderr(&format!("error: {error}"));
    error.exit_code()
}

/// Prints the result of a run: the verdict alone if `quiet`, otherwise the summary and where the files are. Returns the exit code.
pub(super) fn finished(finished: &Finished, quiet: bool, out: Out) -> u8 {
    if quiet {
        out.print(&format!("{}: {}\n", finished.headline(), finished.judgement().reason));
    } else {
        out.print(&out.colored(finished.text(out.columns())));
        let base = finished.base.display();
        out.print(&format!("\n  results...................: {base}*\n"));
        let report = format!("{base}_report.html");
        if Path::new(&report).exists() {
            out.print(&format!("  open in a browser.........: {report}\n"));
        }
        if let Some(query) = finished.worth_inspecting() {
            out.print(&format!("  one query in detail.......: streamstress inspect {base} {query}\n"));
        }
    }
    unwritten(&finished.unwritten);
    finished.exit_code()
}

/// Prints an error for each result that could not be written.
fn unwritten(unwritten: &[String]) {
    unwritten.iter().for_each(|what| messages::print_stderr(&format!("error: {what}")));
}

/// Prints what a search or a sweep found, its files, and an error for each file that could not be written.
pub(super) fn found(text: String, files: &[PathBuf], missing: &[String]) {
    messages::print_stdout(&Out::Stdout.colored(text));
    for file in files {
        messages::print_stdout(&format!("  {}\n", file.display()));
    }
    unwritten(missing);
}

/// Deletes the files of older runs if `--keep-results` is given; otherwise mentions the option when the results take 1 GiB or more.
/// A failure is reported and does not change the verdict.
pub(super) fn limit_results(directory: &Path, keep: Option<usize>) {
    let shown = directory.display();
    match keep {
        Some(keep) => {
            if let Err(error) = retention::keep_newest(directory, keep) {
                messages::print_stderr(&format!(
                    "error: --keep-results cannot delete old results in {shown}: {error}"
                ));
            }
        }
        None => {
            if let Ok(bytes) = retention::size(directory)
                && bytes >= retention::LARGE
            {
                let gib = bytes as f64 / retention::LARGE as f64;
                messages::print_stderr(&format!(
                    "note: the results in {shown} take {gib:.1} GiB; --keep-results 50 keeps those of the newest 50 runs"
                ));
            }
        }
    }
}

//! `bench matrix`: breaks a native stack in each known way, one fault per run, and accounts for every token.

mod rows;
mod rules;
mod run;
mod summary;

use crate::{
    args::Matrix,
    stack_run::{say, until_done},
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use regex::Regex;
use rows::{Load, Row};
use run::{QUERIES, Setting, TOKEN_DELAY_MS};
use std::{fs, io::Write as _, process::ExitCode};
use summary::Summary;
use uuid::Uuid;

/// The document that `--write` puts the table into.
const DOCUMENT: &str = "docs/delivery.md";

/// Runs the rows that the options select and prints the table.
///
/// # Errors
/// No row is selected, a run could not be made, or a row does not hold.
pub(crate) fn run(options: &Matrix) -> anyhow::Result<ExitCode> {
    let load = match options.quick {
        true => Load::quick(options.clients.unwrap_or(100)),
        false => Load::full(options.clients.unwrap_or(1_000)),
    };
    let rows = selected(load, &options.only)?;
    if options.list {
        for row in &rows {
            say(&format!("{:<45} {}\n", row.name, row.options));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let setting = Setting {
        load,
        quick: options.quick,
        seed: options.seed.unwrap_or_else(|| Uuid::new_v4().as_fields().0.into()),
        output: options.output_dir.clone(),
        search_path: options.search_path.clone(),
    };
    let (table, failed) = until_done(all(&setting, &rows, options.jobs.into()))?;
    if options.write {
        let document = fs::read_to_string(DOCUMENT).with_context(|| format!("cannot read {DOCUMENT}"))?;
        let written = rules::with_table(&document, &table);
        let written = written.with_context(|| format!("{DOCUMENT} has no markers for the table"))?;
        fs::write(DOCUMENT, written).with_context(|| format!("cannot write {DOCUMENT}"))?;
        say(&format!("wrote {DOCUMENT}\n"));
    }
    if failed > 0 {
        bail!("{failed} of {} rows do not hold", rows.len());
    }
    say(&format!("all {} rows hold\n", rows.len()));
    Ok(ExitCode::SUCCESS)
}

fn selected(load: Load, pattern: &str) -> anyhow::Result<Vec<Row>> {
    let only = Regex::new(pattern).with_context(|| format!("invalid pattern `{pattern}` for --only"))?;
    let rows: Vec<_> = rows::all(load).into_iter().filter(|row| only.is_match(row.name)).collect();
    if rows.is_empty() {
        bail!("no row matches `{pattern}`: --list prints the rows");
    }
    Ok(rows)
}

/// Runs the rows, `jobs` of them at a time. Returns the table and the number of rows that do not hold.
async fn all(setting: &Setting, rows: &[Row], jobs: usize) -> anyhow::Result<(String, usize)> {
    let Setting { load, seed, .. } = setting;
    say(&format!(
        "fault matrix: {} sessions, {QUERIES} queries of {} tokens every {TOKEN_DELAY_MS} ms, seed {seed}\n",
        load.clients, load.tokens
    ));
    let (mut table, mut failed) = (rules::HEAD.to_owned(), 0);
    let runs = rows.iter().map(|row| async move { (row, run::run(setting, row).await) });
    let mut runs = stream::iter(runs).buffered(jobs);
    while let Some((row, finished)) = runs.next().await {
        let finished = finished.with_context(|| format!("the row `{}` could not be run", row.name))?;
        let summary: Summary = finished.summary()?;
        let violations = rules::violations(row, load.clients, &summary);
        let line = rules::line(row.name, &summary, violations.is_empty());
        say(&line);
        table += &line;
        if !violations.is_empty() {
            failed += 1;
            explain(setting, row, &finished.printed, &violations);
        }
    }
    Ok((table, failed))
}

/// Prints which rules the row breaks, and how to repeat the run.
fn explain(setting: &Setting, row: &Row, printed: &str, violations: &[String]) {
    let Setting { load, seed, quick, .. } = setting;
    let (name, clients, quick) = (row.name, load.clients, if *quick { " --quick" } else { "" });
    let _ = writeln!(
        std::io::stderr(),
        "{printed}matrix: `{name}` does not hold: {}\n\
         repeat it with: scripts/fault_matrix.sh{quick} --only '^{name}$' --clients {clients} --seed {seed}",
        violations.join("; "),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rows_are_selected_by_their_names() {
        let select = |pattern| selected(Load::quick(100), pattern).map(|rows| rows.len());
        assert_eq!(select("").unwrap(), 22);
        assert_eq!(select("^wsproxy|HAProxy").unwrap(), 5);
        assert_eq!(select("^Redis restart, data lost$").unwrap(), 1);
        assert!(select("no such row").unwrap_err().to_string().contains("--list"));
        assert!(select("(").is_err());
    }

    /// A row's result files are found by its name.
    #[test]
    fn rows_have_different_file_names() {
        let rows = rows::all(Load::full(1_000));
        let names: BTreeSet<_> = rows.iter().map(|row| run::file_name(row.name)).collect();
        assert_eq!(names.len(), rows.len());
        assert!(names.contains("client-cuts-10-of-its-sockets-a-second"), "{names:?}");
    }
}

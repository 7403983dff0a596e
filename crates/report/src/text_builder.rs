//! Builds a text for a terminal of a given width from entries, sentences and tables.
//! It never truncates a value: a sentence breaks between words, a table omits its least important columns, and a word that is
//! too long exceeds the width.

use crate::values::uncontrolled_lines;
use std::fmt::Write as _;

/// Width of a text if the width of the terminal is unknown.
pub const DEFAULT_COLUMNS: usize = 80;
/// Start of every line.
pub(crate) const MARGIN: &str = "  ";
/// Smallest width. Narrower texts are unreadable.
const NARROWEST: usize = 40;
/// Largest width. Longer lines are tiring to read.
const WIDEST: usize = 120;
/// Width of the name of an entry, dots included.
const NAME: usize = 26;

/// A text under construction.
#[derive(Debug)]
pub(crate) struct TextBuilder {
    out: String,
    columns: usize,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    /// Width, including the space before the column.
    width: usize,
    /// Columns with the lowest rank are omitted first. A column without a rank is never omitted.
    rank: Option<u8>,
    is_left_aligned: bool,
}

impl Column {
    /// Creates a right-aligned column. If space is short, columns with the lowest `rank` are omitted first.
    pub(crate) const fn right(title: &'static str, width: usize, rank: u8) -> Self {
        Self { title, width, rank: Some(rank), is_left_aligned: false }
    }

    /// Creates a left-aligned column that is never omitted.
    pub(crate) const fn left(title: &'static str, width: usize) -> Self {
        Self { title, width, rank: None, is_left_aligned: true }
    }

    fn cell(&self, text: &str) -> String {
        let width = self.width;
        if self.is_left_aligned { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }
}

impl TextBuilder {
    /// Creates an empty text for a terminal with `columns` columns.
    pub(crate) fn new(columns: usize) -> Self {
        Self { out: String::new(), columns: columns.clamp(NARROWEST, WIDEST) }
    }

    pub(crate) const fn columns(&self) -> usize {
        self.columns
    }

    /// Adds a line without breaking it.
    pub(crate) fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}", text.trim_end());
    }

    /// Adds an empty line.
    pub(crate) fn gap(&mut self) {
        self.out.push('\n');
    }

    /// Adds `head` and a text that may break between words. Further lines are indented to the start of the text.
    pub(crate) fn sentence(&mut self, head: &str, text: &str) {
        let head = format!("{MARGIN}{head}");
        let wrapped = wrap(&head, text, self.columns);
        self.line(&wrapped);
    }

    /// Adds an entry, `name....: value`.
    pub(crate) fn entry(&mut self, name: &str, value: &str) {
        self.sentence(&format!("{name:.<NAME$}: "), value);
    }

    /// Adds a table with the titles of its columns.
    pub(crate) fn table(&mut self, columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) {
        let kept = kept(columns, self.columns - MARGIN.len());
        let titles = columns.iter().map(|column| column.title.to_owned()).collect();
        for cells in std::iter::once(titles).chain(rows) {
            let cells: Vec<String> = cells;
            let row: String = kept.iter().map(|&at| columns[at].cell(&cells[at])).collect();
            self.line(&format!("{MARGIN}{row}"));
        }
    }

    /// Returns the text. Control characters in it are replaced, so that a text of a server cannot control the terminal.
    pub(crate) fn finish(self) -> String {
        uncontrolled_lines(&self.out)
    }
}

/// Returns the indices of the columns that fit into `width`.
fn kept(columns: &[Column], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    while kept.iter().map(|&at| columns[at].width).sum::<usize>() > width {
        let least = kept.iter().copied().filter(|&at| columns[at].rank.is_some());
        let Some(least) = least.min_by_key(|&at| columns[at].rank) else { break };
        kept.retain(|&at| at != least);
    }
    kept
}

/// Breaks a text at spaces into lines of at most `columns` characters. Longer words are not broken. Further lines are indented by
/// the width of `head`, or by a few spaces if that leaves too little room for the longest word.
pub fn wrap(head: &str, text: &str, columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    if width(head) + width(text) <= columns {
        return format!("{head}{text}");
    }
    // A percentage stays on one line.
    let text = text.replace(" %", "\u{a0}%");
    let longest = text.split(' ').map(width).max().unwrap_or(0);
    let hanging = if width(head) + longest <= columns { width(head) } else { 2 * MARGIN.len() };
    let (mut lines, mut line, mut begun) = (Vec::new(), head.to_owned(), false);
    for word in text.split(' ') {
        if begun && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::replace(&mut line, " ".repeat(hanging)));
            begun = false;
        }
        if begun {
            line.push(' ');
        } else if word.is_empty() {
            continue;
        }
        line.push_str(word);
        begun = true;
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n").replace('\u{a0}', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_hang() {
        assert_eq!(wrap("  a: ", "aa bb cc", 10), "  a: aa bb\n     cc");
        assert_eq!(wrap("  a: ", "aa  bb  cc", 10), "  a: aa\n     bb\n     cc");
        assert_eq!(wrap("  ", "is 90 % so", 7), "  is\n  90 %\n  so");
        assert_eq!(wrap("  ", "", 7), "  ");
        assert_eq!(wrap("  ", "unbreakable", 4), "  unbreakable");
        assert_eq!(wrap("  name: ", "of abcdefgh", 12), "  name: of\n    abcdefgh");
    }

    #[test]
    fn the_least_columns_go_first_and_names_never() {
        let columns = [Column::left("name", 10), Column::right("a", 5, 2), Column::right("b", 5, 1)];
        for (width, expected) in [(20, vec![0, 1, 2]), (19, vec![0, 1]), (14, vec![0]), (3, vec![0])] {
            assert_eq!(kept(&columns, width), expected, "{width}");
        }
    }

    #[test]
    fn a_page_keeps_its_width() {
        let mut out = TextBuilder::new(1);
        assert_eq!(out.columns(), NARROWEST);
        out.entry("tokens_lost", "2  1 while connected, 1 in gaps");
        out.table(
            &[Column::left("name", 20), Column::right("p(50)", 12, 1), Column::right("p(99)", 12, 2)],
            [vec!["e2el_ms".into(), "1.00".into(), "2.00".into()]],
        );
        insta::assert_snapshot!(out.finish());
    }
}

//! Text for a terminal of some width: entries, sentences and tables.
//! It never cuts a value: a sentence breaks at words, a table leaves its least columns out, and what cannot break stands over.

use crate::values::uncontrolled_lines;
use std::fmt::Write as _;

/// Where nobody says how wide the terminal is.
pub const DEFAULT_COLUMNS: usize = 80;
/// Before every line.
pub(crate) const MARGIN: &str = "  ";
/// Narrower than this nothing is readable.
const NARROWEST: usize = 40;
/// Longer lines tire the eye.
const WIDEST: usize = 120;
/// Of an entry's name, dots included.
const NAME: usize = 26;

/// A text in the making.
#[derive(Debug)]
pub(crate) struct TextBuilder {
    out: String,
    columns: usize,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    /// With the space before it.
    width: usize,
    /// What is worth least is left out first; none: never.
    worth: Option<u8>,
    leans_left: bool,
}

impl Column {
    /// Figures, as a rule; `worth` less than another's: left out before it.
    pub(crate) const fn right(title: &'static str, width: usize, worth: u8) -> Self {
        Self { title, width, worth: Some(worth), leans_left: false }
    }

    /// Names; never left out.
    pub(crate) const fn left(title: &'static str, width: usize) -> Self {
        Self { title, width, worth: None, leans_left: true }
    }

    fn cell(&self, text: &str) -> String {
        let width = self.width;
        if self.leans_left { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }
}

impl TextBuilder {
    /// For a terminal of so many columns.
    pub(crate) fn new(columns: usize) -> Self {
        Self { out: String::new(), columns: columns.clamp(NARROWEST, WIDEST) }
    }

    pub(crate) const fn columns(&self) -> usize {
        self.columns
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}", text.trim_end());
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) {
        self.out.push('\n');
    }

    /// `head`, then words; those that find no place in the line stand under the first one.
    pub(crate) fn sentence(&mut self, head: &str, text: &str) {
        let head = format!("{MARGIN}{head}");
        let wrapped = wrap(&head, text, self.columns);
        self.line(&wrapped);
    }

    /// `name....: value`.
    pub(crate) fn entry(&mut self, name: &str, value: &str) {
        self.sentence(&format!("{name:.<NAME$}: "), value);
    }

    /// A row a list of cells, under their titles.
    pub(crate) fn table(&mut self, columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) {
        let kept = kept(columns, self.columns - MARGIN.len());
        let titles = columns.iter().map(|column| column.title.to_owned()).collect();
        for cells in std::iter::once(titles).chain(rows) {
            let cells: Vec<String> = cells;
            let row: String = kept.iter().map(|&at| columns[at].cell(&cells[at])).collect();
            self.line(&format!("{MARGIN}{row}"));
        }
    }

    /// The text. A foreign one in it can neither steer the terminal nor turn the direction of writing.
    pub(crate) fn finish(self) -> String {
        uncontrolled_lines(&self.out)
    }
}

/// Which columns find a place in so much width.
fn kept(columns: &[Column], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    while kept.iter().map(|&at| columns[at].width).sum::<usize>() > width {
        let least = kept.iter().copied().filter(|&at| columns[at].worth.is_some());
        let Some(least) = least.min_by_key(|&at| columns[at].worth) else { break };
        kept.retain(|&at| at != least);
    }
    kept
}

/// Breaks at spaces; what has none is left whole. Lines go on under the end of `head`, or where that leaves too little
/// room for the longest word, a little behind the margin.
pub fn wrap(head: &str, text: &str, columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    if width(head) + width(text) <= columns {
        return format!("{head}{text}");
    }
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
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_hang() {
        assert_eq!(wrap("  a: ", "aa bb cc", 10), "  a: aa bb\n     cc");
        assert_eq!(wrap("  a: ", "aa  bb  cc", 10), "  a: aa\n     bb\n     cc");
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

//! Reads and writes CSV cells. Written cells cannot become formulas in a spreadsheet; read ones may come from other programs.
//! Every CSV file of a run is written through [`CellWriter`] and read through [`open`].

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read, Write},
};

/// A spreadsheet evaluates a cell that starts with one of these characters as a formula.
const FORMULA: [char; 4] = ['=', '+', '-', '@'];
/// The possible separators of cells. If two are equally frequent in the header, the first one wins.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// Writes rows whose cells cannot become formulas.
#[derive(Debug)]
pub struct CellWriter<W: Write>(csv::Writer<W>);

impl<W: Write> CellWriter<W> {
    /// Creates a writer to `out`.
    pub fn new(out: W) -> Self {
        Self(csv::Writer::from_writer(out))
    }

    /// Writes one row. A cell that a spreadsheet would evaluate as a formula gets a leading apostrophe.
    ///
    /// # Errors
    /// The row cannot be written.
    pub fn write_record(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) -> csv::Result<()> {
        for cell in cells {
            self.0.write_field(neutral(cell.as_ref()).as_bytes())?;
        }
        self.0.write_record(None::<&[u8]>)
    }

    /// Writes the buffered rows.
    ///
    /// # Errors
    /// The rows cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns the cell, with a leading apostrophe if a spreadsheet would evaluate it as a formula. Numbers are not changed.
fn neutral(cell: &str) -> Cow<'_, str> {
    if is_formula(cell) { Cow::Owned(format!("'{cell}")) } else { Cow::Borrowed(cell) }
}

/// Returns the text that a [`CellWriter`] was given.
pub fn original(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(cell)
}

/// Returns whether a spreadsheet would evaluate the cell. Leading apostrophes are ignored, so that a text with an apostrophe and
/// a formula gets a second apostrophe, and [`original`] removes only that one.
fn is_formula(cell: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    let first = cell.trim_start_matches('\'').trim_start_matches(blank);
    first.starts_with(FORMULA) && !is_number(cell)
}

/// Returns whether the cell is a number to a spreadsheet. `-inf` and `+nan` are not.
fn is_number(cell: &str) -> bool {
    let unsigned = cell.strip_prefix(['+', '-']).unwrap_or(cell);
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && cell.parse::<f64>().is_ok()
}

/// Returns a reader of rows, and the separator: the most frequent of comma, semicolon and tab in the header.
/// The reader trims blanks around cells, accepts short rows and skips a byte order mark.
pub fn open<R: Read>(input: R) -> csv::Result<(csv::Reader<BufReader<R>>, u8)> {
    let mut input = BufReader::new(input);
    let start = input.fill_buf()?;
    let header = start.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let separator = separator(header.unwrap_or_default());
    let mut builder = csv::ReaderBuilder::new();
    builder.flexible(true).delimiter(separator).trim(csv::Trim::All);
    Ok((builder.from_reader(input), separator))
}

/// Returns the most frequent separator outside quotes.
pub fn separator(header: &[u8]) -> u8 {
    let (mut quoted, mut counts) = (false, [0usize; SEPARATORS.len()]);
    for byte in header {
        quoted ^= *byte == b'"';
        if let Some(index) = SEPARATORS.iter().position(|known| known == byte).filter(|_| !quoted) {
            counts[index] += 1;
        }
    }
    let most = counts.into_iter().max().unwrap_or_default();
    SEPARATORS[counts.iter().position(|&count| count == most).unwrap_or_default()]
}

/// Reads a number. If the separator is not a comma, a comma in the number is a decimal comma.
pub fn number(cell: &str, separator: u8) -> Option<f64> {
    let plain = || cell.parse().ok();
    if separator == b',' || cell.contains('.') {
        return plain();
    }
    plain().or_else(|| cell.replacen(',', ".", 1).parse().ok())
}

/// Reads a count, `18` or `18.0`: some programs store all numbers as floating-point.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn count(cell: &str, separator: u8) -> Option<u64> {
    // 2^53: above it, f64 does not represent every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |value: &f64| (0.0..=EXACT).contains(value) && value.fract() == 0.0;
    cell.parse().ok().or_else(|| number(cell, separator).filter(whole).map(|value| value as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(cells: &[&str]) -> String {
        let mut bytes = Vec::new();
        CellWriter::new(&mut bytes).write_record(cells).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn formulas_are_neutral_and_numbers_stay() {
        for (cell, expected) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1+cmd", "'+1+cmd"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("  =1", "'  =1"),
            ("'=1", "''=1"),
            ("-inf", "'-inf"),
            ("-", "'-"),
            ("-0.35", "-0.35"),
            ("+1e3", "+1e3"),
            ("it's", "it's"),
            ("'quoted'", "'quoted'"),
            ("", ""),
        ] {
            assert_eq!(neutral(cell), expected, "{cell:?}");
            assert_eq!(original(expected), cell);
        }
        assert_eq!(written(&["\r=1,2", "-5"]), "\"'\r=1,2\",-5\n");
    }

    #[test]
    fn the_header_names_the_separator() {
        for (header, expected) in
            [("a,b", b','), ("a;b", b';'), ("a\tb", b'\t'), ("\"a,b,c\";d", b';'), ("a", b','), ("", b',')]
        {
            assert_eq!(separator(header.as_bytes()), expected, "{header}");
        }
    }

    #[test]
    fn numbers_of_other_programs() {
        for (cell, separator, expected) in [
            ("18", b',', Some(18)),
            ("18.0", b',', Some(18)),
            ("1.8e1", b',', Some(18)),
            ("18,0", b';', Some(18)),
            ("18446744073709551615", b',', Some(u64::MAX)),
            ("18.5", b',', None),
            ("18,0", b',', None),
            ("-18", b',', None),
            ("-18.0", b',', None),
            ("nan", b',', None),
            ("1e300", b',', None),
            ("1.800,0", b';', None),
        ] {
            assert_eq!(count(cell, separator), expected, "{cell}");
        }
        assert_eq!((number("0,9", b';'), number("0,9", b',')), (Some(0.9), None));
    }

    proptest! {
        #[test]
        fn every_cell_is_read_back(cell in "['=+@\\- \t0-9a-z]{0,12}|\\PC{0,12}") {
            let neutral = neutral(&cell);
            prop_assert_eq!(original(&neutral), cell.as_str());
            prop_assert!(!neutral.starts_with(FORMULA) || is_number(&cell));
        }
    }
}

//! Reads recorded traffic: the time of each request and the length of its answer. Formats: Mooncake's JSON lines, and the CSV
//! files of Azure's LLM inference traces and of BurstGPT. Errors name the number of each bad line.
//! CSV follows RFC 4180, with commas, semicolons or tabs between the cells.

use serde::Deserialize;
use settings::cells;
use std::{
    fmt,
    io::{BufRead, Read},
    time::Duration,
};
use time::{PrimitiveDateTime, UtcOffset, macros::format_description};

/// Upper limit of the requests in a trace.
pub const MOST_REQUESTS: usize = 1_000_000;
/// Upper limit of the tokens in an answer.
const MOST_TOKENS: f64 = 1_000_000.0;
/// Upper limit of a line in bytes.
const LONGEST_LINE: usize = 1 << 20;
/// Number of bad lines that an error names. Further ones are only counted.
const NAMED: usize = 5;

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Time since the start of the replayed part.
    pub at: Duration,
    /// Tokens of its answer, at least 1.
    pub tokens: u32,
}

/// The replayed part of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The requests, sorted by time.
    pub requests: Vec<Request>,
    /// Number of requests without a token in their answer. They failed when they were recorded and are not replayed.
    pub without_answer: u64,
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TraceError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error(
        "has an unknown format (its first line is `{0}`): expected Mooncake's JSON lines, Azure's \
         TIMESTAMP,ContextTokens,GeneratedTokens, or BurstGPT's Timestamp,…,Response tokens,…"
    )]
    UnknownFormat(String),
    #[error("{0}")]
    BadLines(BadLines),
    #[error("line {0} is longer than 1 MiB: check that the file is a trace and that its lines end")]
    LongLine(u64),
    #[error(
        "has an opening quotation mark without a closing one, in the cell that begins on line {0}: close it"
    )]
    OpenQuote(u64),
    #[error("lasts {0:.0} s, so that no request is left after --trace-from: give an earlier time")]
    BehindTheEnd(f64),
    #[error("holds more than {MOST_REQUESTS} requests: cut it off with --duration, or cut the file")]
    TooLong,
    #[error("holds no request with an answer")]
    Empty,
}

/// The lines that could not be read.
#[derive(Debug, Default)]
pub struct BadLines {
    named: Vec<(u64, String)>,
    count: u64,
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self.named.iter().map(|(number, why)| format!("line {number}: {why}")).collect();
        write!(f, "has {} bad lines: {}", self.count, named.join("; "))?;
        if self.count > NAMED as u64 { f.write_str("; …") } else { Ok(()) }
    }
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Mooncake,
    Csv { time: usize, tokens: usize, separator: u8 },
}

#[derive(Deserialize)]
struct Mooncake {
    timestamp: f64,
    output_length: f64,
}

/// The point from which a trace is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// A time after the first request.
    Offset(Duration),
    /// A timestamp of the trace, in seconds.
    Moment(f64),
}

impl Default for Start {
    fn default() -> Self {
        Self::Offset(Duration::ZERO)
    }
}

/// The part of a trace to replay, in the trace's time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// Where the part starts; request times count from here. By default the first request.
    pub from: Start,
    /// Length of the part. `None`: up to the end of the trace.
    pub within: Option<Duration>,
}

/// Reads a part of a trace.
///
/// # Errors
/// The trace cannot be read, has bad lines, or has too many requests or none.
pub fn read(from: impl BufRead, part: Part) -> Result<Trace, TraceError> {
    let mut lines = Lines { from, number: 0 };
    let mut format = None;
    let (mut times, mut bad, mut trace) = (Vec::new(), BadLines::default(), Trace::default());
    while let Some((number, line)) = lines.next(matches!(format, Some(Format::Csv { .. })))? {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim().trim_start_matches('\u{feff}').trim_start();
        if text.is_empty() {
            continue;
        }
        let known = match format {
            Some(known) => known,
            None => {
                let found = detect_format(text)?;
                format = Some(found);
                if matches!(found, Format::Csv { .. }) {
                    continue;
                }
                found
            }
        };
        add(request(known, text), number, &mut times, &mut trace, &mut bad);
        if times.len() > 2 * MOST_REQUESTS || times.len() > MOST_REQUESTS && part == Part::default() {
            return Err(TraceError::TooLong);
        }
    }
    if bad.count > 0 {
        return Err(TraceError::BadLines(bad));
    }
    trace.requests = select(times, part)?;
    if trace.requests.len() > MOST_REQUESTS { Err(TraceError::TooLong) } else { Ok(trace) }
}

/// Returns the requests of the part, sorted by time.
fn select(mut times: Vec<(f64, u32)>, part: Part) -> Result<Vec<Request>, TraceError> {
    times.sort_by(|(a, _), (b, _)| f64::total_cmp(a, b));
    let first = times.first().ok_or(TraceError::Empty)?.0;
    let last = times.last().map_or(first, |last| last.0);
    let from = match part.from {
        Start::Offset(offset) if offset.is_zero() => first,
        Start::Offset(offset) => first + offset.as_secs_f64(),
        Start::Moment(moment) => moment.max(first),
    };
    // Timestamps are large numbers, so that sums of them are not exact. The tolerance of 1 µs keeps a request at `from` itself.
    let start = times.partition_point(|(at, _)| *at < from - 1e-6);
    if start == times.len() {
        return Err(TraceError::BehindTheEnd(last - first));
    }
    let after = |at: f64| Duration::try_from_secs_f64((at - from).max(0.0)).unwrap_or(Duration::MAX);
    let requests = times[start..].iter().map(|&(at, tokens)| Request { at: after(at), tokens });
    Ok(requests.take_while(|request| part.within.is_none_or(|within| request.at < within)).collect())
}

/// Reads the lines of a file and counts them.
struct Lines<R> {
    from: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Returns the next line and its number, from 1. With `quotes`, a line break between quotation marks does not end the line.
    fn next(&mut self, quotes: bool) -> Result<Option<(u64, Vec<u8>)>, TraceError> {
        let (mut line, first, mut open) = (Vec::new(), self.number + 1, false);
        loop {
            let before = line.len();
            let room = (LONGEST_LINE + 1 - line.len()) as u64;
            let read = self.from.by_ref().take(room).read_until(b'\n', &mut line)?;
            if line.len() > LONGEST_LINE {
                // An unclosed quotation mark makes the rest of the file one line.
                let lines = line.iter().filter(|&&byte| byte == b'\n').count();
                return Err(if lines > 1 {
                    TraceError::OpenQuote(first)
                } else {
                    TraceError::LongLine(first)
                });
            }
            self.number += 1;
            open ^= quotes && line[before..].iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            if read == 0 && open {
                return Err(TraceError::OpenQuote(first));
            }
            if !open {
                return Ok((read > 0).then_some((first, line)));
            }
        }
    }
}

/// Adds a request to `times`, or counts why it is left out.
fn add(
    request: Result<(f64, f64), String>,
    number: u64,
    times: &mut Vec<(f64, u32)>,
    trace: &mut Trace,
    bad: &mut BadLines,
) {
    match request {
        Ok((_, tokens)) if tokens < 1.0 => trace.without_answer += 1,
        Ok((at, tokens)) => times.push((at, tokens as u32)),
        Err(why) => {
            bad.count += 1;
            if bad.named.len() < NAMED {
                bad.named.push((number, why));
            }
        }
    }
}

/// Returns the start of `text` without control characters, for an error message.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Returns the format whose first line is `first`.
fn detect_format(first: &str) -> Result<Format, TraceError> {
    if first.starts_with('{') {
        return Ok(Format::Mooncake);
    }
    let separator = cells::separator(first.as_bytes());
    let columns: Vec<_> =
        cells_of(first, separator).into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let column = |wanted: &[&str]| columns.iter().position(|name| wanted.contains(&name.as_str()));
    match (column(&["timestamp"]), column(&["generatedtokens", "response tokens"])) {
        (Some(time), Some(tokens)) => Ok(Format::Csv { time, tokens, separator }),
        _ => Err(TraceError::UnknownFormat(shortened(first))),
    }
}

/// Returns the cells of a row by RFC 4180, without the blanks around them.
fn cells_of(text: &str, separator: u8) -> Vec<String> {
    let separator = char::from(separator);
    let (mut cells, mut rest) = (Vec::new(), text);
    loop {
        let start = rest.trim_start_matches([' ', '\r']);
        let mut cell = String::new();
        if let Some(mut quoted) = start.strip_prefix('"') {
            while let Some((part, after)) = quoted.split_once('"') {
                cell.push_str(part);
                quoted = after;
                // Inside quotes, two quotation marks mean one.
                match after.strip_prefix('"') {
                    Some(after) => (cell, quoted) = (cell + "\"", after),
                    None => break,
                }
            }
            rest = quoted;
        } else {
            rest = start;
        }
        let end = rest.find(separator).unwrap_or(rest.len());
        cell.push_str(rest[..end].trim());
        cells.push(cell.trim().to_owned());
        match rest.get(end + 1..) {
            Some(after) => rest = after,
            None => return cells,
        }
    }
}

/// Reads the timestamp in seconds and the number of tokens.
fn request(format: Format, text: &str) -> Result<(f64, f64), String> {
    let (at, tokens) = match format {
        Format::Mooncake => {
            let line: Mooncake = serde_json::from_str(text).map_err(|error| error.to_string())?;
            (line.timestamp / 1e3, line.output_length)
        }
        Format::Csv { time, tokens, separator } => {
            let cells = cells_of(text, separator);
            let cell = |index: usize| cells.get(index).map_or("", String::as_str);
            let at = cells::number(cell(time), separator).or_else(|| moment(cell(time)));
            let at = at.ok_or_else(|| {
                let expected =
                    "expected seconds, or a date and time, for example 2023-11-16 18:15:46.68+00:00";
                format!("invalid time `{}`: {expected}", shortened(cell(time)))
            })?;
            let count = cells::number(cell(tokens), separator);
            (at, count.ok_or_else(|| format!("invalid number of tokens `{}`", shortened(cell(tokens))))?)
        }
    };
    if !at.is_finite() {
        return Err(format!("invalid time {at}: expected a finite number"));
    }
    if !(0.0..=MOST_TOKENS).contains(&tokens) {
        return Err(format!("{tokens} tokens are out of range: expected 0 to {MOST_TOKENS}"));
    }
    Ok((at, tokens))
}

/// Reads a date and time as seconds since 1970. The fraction may have any number of digits. A time without an offset is UTC.
pub fn moment(text: &str) -> Option<f64> {
    let (date, rest) = text.split_at_checked(19)?;
    let date = date.replacen(['T', 't'], " ", 1);
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = PrimitiveDateTime::parse(&date, format).ok()?;
    let (fraction, zone) = match rest.strip_prefix(['.', ',']) {
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            let (digits, zone) = digits.split_at(end);
            // A sum of this size as f64 does not resolve nanoseconds, so that nine digits are enough.
            let digits = digits.get(..9).unwrap_or(digits);
            (format!("0.{digits}0").parse::<f64>().ok().filter(|_| !digits.is_empty())?, zone)
        }
        None => (0.0, rest),
    };
    Some(moment.assume_offset(offset(zone.trim())?).unix_timestamp() as f64 + fraction)
}

/// Reads a UTC offset: `Z`, `UTC`, `+01`, `+0100`, `+01:00` or `+01:00:00`. An empty text is UTC.
fn offset(zone: &str) -> Option<UtcOffset> {
    if ["", "z", "utc", "gmt"].contains(&zone.to_ascii_lowercase().as_str()) {
        return Some(UtcOffset::UTC);
    }
    let (sign, digits) = match zone.strip_prefix('+') {
        Some(digits) => (1, digits),
        None => (-1, zone.strip_prefix(['-', '\u{2212}'])?),
    };
    let digits = digits.replace(':', "");
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let pair = |at: usize| digits.get(at..at + 2).map_or(Some(0), |pair| pair.parse::<i8>().ok());
    UtcOffset::from_hms(sign * pair(0)?, sign * pair(2)?, sign * pair(4)?).ok()
}

#[cfg(test)]
mod tests;

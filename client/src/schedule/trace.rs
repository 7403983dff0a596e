//! Recorded traffic: when each request came and how long its answer was, out of Mooncake's JSON lines and the CSV files of
//! Azure's LLM inference traces and of BurstGPT. It reads within bounds, and names every line that it cannot take by its number.

use serde::Deserialize;
use std::{
    fmt,
    io::{BufRead, Read},
    time::Duration,
};
use time::{PrimitiveDateTime, macros::format_description};

/// More requests than a run can hold.
pub const MOST_REQUESTS: usize = 1_000_000;
/// More tokens than a server plays.
const MOST_TOKENS: f64 = 1_000_000.0;
/// A line longer than this is none of a trace.
const LONGEST_LINE: u64 = 1 << 20;
/// So many bad lines are named; the rest is counted.
const NAMED: usize = 5;

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// After the first one.
    pub at: Duration,
    /// Of its answer.
    pub tokens: u32,
}

/// What a trace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// By their time.
    pub requests: Vec<Request>,
    /// Lines whose answer had no token: requests that failed when they were recorded.
    pub without_answer: u64,
}

/// Why a trace cannot be played.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TraceError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error(
        "is of no format that is known (its first line is `{0}`): give Mooncake's JSON lines, Azure's \
         TIMESTAMP,ContextTokens,GeneratedTokens, or BurstGPT's Timestamp,…,Response tokens,…"
    )]
    UnknownFormat(String),
    #[error("{0}")]
    BadLines(BadLines),
    #[error("holds more than {MOST_REQUESTS} requests: cut it off with --duration, or cut the file")]
    TooLong,
    #[error("holds no request with an answer")]
    Empty,
}

/// The lines that could not be taken.
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
    Csv { time: usize, tokens: usize },
}

#[derive(Deserialize)]
struct Mooncake {
    timestamp: f64,
    output_length: f64,
}

/// Reads what came within `within` of the first request, in the trace's own time.
///
/// # Errors
/// It cannot be read, or lines of it are bad, or it holds too much or nothing.
pub fn read(mut from: impl BufRead, within: Option<Duration>) -> Result<Trace, TraceError> {
    let mut format = None;
    let (mut times, mut bad, mut trace) = (Vec::new(), BadLines::default(), Trace::default());
    let (mut line, mut number) = (Vec::new(), 0u64);
    loop {
        line.clear();
        number += 1;
        if from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim().trim_start_matches('\u{feff}');
        if text.is_empty() {
            continue;
        }
        let Some(known) = format else {
            let found = recognise(text)?;
            format = Some(found);
            if matches!(found, Format::Csv { .. }) {
                continue;
            }
            take(request(found, text), number, &mut times, &mut trace, &mut bad);
            continue;
        };
        take(request(known, text), number, &mut times, &mut trace, &mut bad);
        if times.len() > MOST_REQUESTS && within.is_none() {
            return Err(TraceError::TooLong);
        }
        if times.len() > 2 * MOST_REQUESTS {
            return Err(TraceError::TooLong);
        }
    }
    if bad.count > 0 {
        return Err(TraceError::BadLines(bad));
    }
    times.sort_by(|(a, _), (b, _)| f64::total_cmp(a, b));
    let first = times.first().ok_or(TraceError::Empty)?.0;
    let after = |at: f64| Duration::try_from_secs_f64((at - first).max(0.0)).unwrap_or(Duration::MAX);
    let requests = times.iter().map(|&(at, tokens)| Request { at: after(at), tokens });
    trace.requests = requests.take_while(|request| within.is_none_or(|within| request.at < within)).collect();
    if trace.requests.len() > MOST_REQUESTS { Err(TraceError::TooLong) } else { Ok(trace) }
}

fn take(
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

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn recognise(first: &str) -> Result<Format, TraceError> {
    if first.starts_with('{') {
        return Ok(Format::Mooncake);
    }
    let columns: Vec<_> = first.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    let column = |wanted: &[&str]| columns.iter().position(|name| wanted.contains(&name.as_str()));
    match (column(&["timestamp"]), column(&["generatedtokens", "response tokens"])) {
        (Some(time), Some(tokens)) => Ok(Format::Csv { time, tokens }),
        _ => Err(TraceError::UnknownFormat(shortened(first))),
    }
}

/// Seconds and tokens.
fn request(format: Format, text: &str) -> Result<(f64, f64), String> {
    let (at, tokens) = match format {
        Format::Mooncake => {
            let line: Mooncake = serde_json::from_str(text).map_err(|error| error.to_string())?;
            (line.timestamp / 1e3, line.output_length)
        }
        Format::Csv { time, tokens } => {
            let cells: Vec<_> = text.split(',').map(str::trim).collect();
            let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
            let at = seconds(cell(time)).ok_or_else(|| format!("`{}` is no time", shortened(cell(time))))?;
            let count = cell(tokens).parse();
            (at, count.map_err(|_| format!("`{}` is no number of tokens", shortened(cell(tokens))))?)
        }
    };
    if !at.is_finite() {
        return Err(format!("its time {at} is none"));
    }
    if !(0.0..=MOST_TOKENS).contains(&tokens) {
        return Err(format!("{tokens} tokens are out of range: 0 to {MOST_TOKENS}"));
    }
    Ok((at, tokens))
}

/// A number of seconds, or a date and time.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let text: String = text.chars().take(27).collect();
    let text = text.replacen('T', " ", 1);
    let (date, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let fraction: f64 =
        format!("0.{}", fraction.trim_end_matches(|c: char| !c.is_ascii_digit())).parse().ok()?;
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let moment = PrimitiveDateTime::parse(date.get(..19)?, format).ok()?;
    Some(moment.assume_utc().unix_timestamp() as f64 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn requests(text: &str) -> Vec<(u128, u32)> {
        let trace = read(text.as_bytes(), None).unwrap();
        trace.requests.iter().map(|request| (request.at.as_millis(), request.tokens)).collect()
    }

    #[test]
    fn three_formats() {
        let mooncake = "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n\
                        {\"timestamp\": 3052, \"input_length\": 2, \"output_length\": 26, \"hash_ids\": []}\n";
        assert_eq!(requests(mooncake), [(0, 500), (3052, 26)]);
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n\
                     2023-11-16 18:17:04.2299600,3180,8\r\n2024-05-10 00:00:00.009930+00:00,1,1";
        assert_eq!(requests(azure)[..2], [(0, 10), (250, 8)]);
        let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                     5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1,0,1,API log\n46.0,GPT-4,1,3,4,API log";
        assert_eq!(requests(burst), [(0, 18), (41_000, 3)]);
        assert_eq!(read(burst.as_bytes(), None).unwrap().without_answer, 1);
        assert_eq!(read(burst.as_bytes(), Some(Duration::from_secs(41))).unwrap().requests.len(), 1);
    }

    #[test]
    fn bad_lines_are_named() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\nsoon,2,3\n\n1,2,many\n1,2\n1,2,-7\n";
        let error = read(text.as_bytes(), None).unwrap_err().to_string();
        for words in ["4 bad lines", "line 3: `soon` is no time", "line 5: `many`", "line 6", "line 7: -7"] {
            assert!(error.contains(words), "{words}: {error}");
        }
        assert!(read(&b"a,b,c\n1,2,3"[..], None).unwrap_err().to_string().contains("`a,b,c`"));
        assert!(matches!(read(&b""[..], None), Err(TraceError::Empty)));
        assert!(read(&b"{\"timestamp\": 1}"[..], None).unwrap_err().to_string().contains("output_length"));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), header in 0usize..3) {
            let header = ["", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "{"][header];
            let _ = read(&[header.as_bytes(), &bytes].concat()[..], None);
            let _ = seconds(&String::from_utf8_lossy(&bytes));
        }
    }
}

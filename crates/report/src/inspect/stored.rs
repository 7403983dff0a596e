//! `…_queries.jsonl`: the timelines of the slowest and of broken queries, one per line. The line of a query is also what
//! `streamstress inspect --format json` prints.

use crate::{file_error::FileError, values::printable};
use measure::{
    FaultRecord, Hop,
    record::LossCause,
    timeline::{Note, NoteEvent, QueryTimeline, TimedToken, Timelines},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

/// Ending of the file with the timelines.
pub(crate) const ENDING: &str = "_queries.jsonl";
/// Largest length of a line in bytes.
const MAX_LINE: u64 = 16 << 20;

/// A query with its timeline. Times that end in `_s` are seconds since the start of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredQuery {
    /// The id that the client gave it.
    pub query_id: String,
    /// Session.
    pub session_id: Option<String>,
    /// Index of the session, from 0.
    pub session_index: u64,
    /// Number of the query in its session, from 1.
    pub query_num: u32,
    /// Why the timeline was kept: `slowest` or `broken`. Empty if it was not kept.
    pub kept_as: String,
    /// Its place among those that were kept for the same reason, from 1.
    pub rank: u64,
    /// How it ended.
    pub status: String,
    /// Name of the server that generated the answer.
    pub server: Option<String>,
    /// When it was due.
    pub due_s: f64,
    /// When it was sent.
    pub sent_s: Option<f64>,
    /// When the response to `/run` arrived.
    pub accepted_s: Option<f64>,
    /// Arrival of the first token with text.
    pub first_token_s: Option<f64>,
    /// Arrival of the last token.
    pub last_token_s: Option<f64>,
    /// Arrival of the terminator.
    pub done_s: Option<f64>,
    /// When it finished or was given up.
    pub ended_s: f64,
    /// Ideal time to the first token.
    pub ideal_ttft_ms: Option<f64>,
    /// Ideal time to the terminator.
    pub ideal_e2el_ms: Option<f64>,
    /// How long after its due instant it was complete, without the ideal time. `None` for a broken query.
    pub slowness_ms: Option<f64>,
    /// Number of announced tokens.
    pub tokens_expected: Option<u64>,
    /// Tokens that arrived.
    pub tokens_received: u64,
    /// Tokens that were lost.
    pub tokens_lost: u64,
    /// Tokens that arrived again.
    pub tokens_duplicated: u64,
    /// Tokens that arrived out of order.
    pub tokens_reordered: u64,
    /// Sequence numbers that did not arrive: first and last of each range.
    pub missing: Vec<(u64, u64)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Its tokens in the order of arrival.
    pub tokens: Vec<StoredToken>,
    /// Tokens at the end of a very long answer that the list lacks.
    pub tokens_left_out: u64,
    /// What happened to its session meanwhile.
    pub notes: Vec<StoredNote>,
    /// Notes beyond the limit.
    pub notes_left_out: u64,
    /// Faults that were injected around it.
    pub faults: Vec<StoredFault>,
}

/// A token at its first arrival. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredToken {
    /// Sequence number.
    pub seq: u64,
    /// Arrival after the due instant.
    pub ms: f64,
    /// Time from the server's sending to the arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_ms: Option<f64>,
    /// Whether it was sent before its socket was opened.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replay: bool,
    /// Its time by hop, if it was sampled: simulator, bus, gateway, network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops_ms: Option<[Option<f64>; Hop::COUNT]>,
}

/// Something that happened to the query's session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredNote {
    /// When it happened.
    pub at_s: f64,
    /// Kind: `call_failed`, `socket_lost`, `socket_cut`, `socket_opened`, `reconnected`, `replayed`, `gap`, `duplicates`, `paused`.
    pub event: String,
    /// Details for people.
    pub text: String,
}

/// A fault that was injected around the query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredFault {
    /// Its specification.
    pub fault: String,
    /// When the injection began.
    pub began_s: f64,
    /// When it was in effect.
    pub in_force_s: Option<f64>,
    /// `injected` or `failed`.
    pub outcome: String,
}

fn seconds(moment: Duration) -> f64 {
    (moment.as_secs_f64() * 1e6).round() / 1e6
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[allow(clippy::cast_precision_loss)]
fn micros(us: i64) -> f64 {
    us as f64 / 1e3
}

/// Returns the stored form of all kept timelines: the slowest queries first, then the broken ones.
pub(crate) fn queries(timelines: &Timelines, faults: &[FaultRecord]) -> impl Iterator<Item = StoredQuery> {
    let slowest = timelines.slowest().zip(1..).map(|timeline| ("slowest", timeline));
    let broken = timelines.broken().zip(1..).map(|timeline| ("broken", timeline));
    slowest
        .chain(broken)
        .map(move |(kept_as, (timeline, rank))| StoredQuery::new(timeline, kept_as, rank, faults))
}

impl StoredQuery {
    fn new(timeline: &QueryTimeline, kept_as: &str, rank: u64, faults: &[FaultRecord]) -> Self {
        let tokens: Vec<_> = timeline.tokens_in_order().iter().map(StoredToken::new).collect();
        let [tokens_received, tokens_lost, tokens_duplicated, tokens_reordered] = timeline.tokens;
        let (from, to) = (timeline.due.as_secs(), timeline.ended.as_secs());
        Self {
            query_id: timeline.query_id.to_string(),
            session_id: timeline.session.map(|id| id.to_string()),
            session_index: timeline.session_index,
            query_num: timeline.query_num,
            kept_as: kept_as.to_owned(),
            rank,
            status: timeline.status.name().to_owned(),
            server: timeline.server.as_deref().map(printable),
            due_s: seconds(timeline.due),
            sent_s: timeline.sent.map(seconds),
            accepted_s: timeline.accepted.map(seconds),
            first_token_s: timeline.first_token.map(seconds),
            last_token_s: timeline.last_token.map(seconds),
            done_s: timeline.done.map(seconds),
            ended_s: seconds(timeline.ended),
            ideal_ttft_ms: timeline.ideal_ttft.map(millis),
            ideal_e2el_ms: timeline.ideal_e2el.map(millis),
            slowness_ms: timeline.slowness.map(millis),
            tokens_expected: timeline.tokens_expected,
            tokens_received,
            tokens_lost,
            tokens_duplicated,
            tokens_reordered,
            missing: timeline.missing.clone(),
            failure: timeline.failure.as_deref().map(printable),
            tokens_left_out: tokens_received.saturating_sub(tokens.len() as u64),
            tokens,
            notes: timeline.notes.iter().map(StoredNote::new).collect(),
            notes_left_out: timeline.notes_left_out,
            faults: faults.iter().filter(|fault| fault.can_explain(from, to)).map(StoredFault::new).collect(),
        }
    }
}

impl StoredToken {
    fn new(token: &TimedToken) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            seq: token.seq,
            ms: micros(token.at_us),
            delivery_ms: token.delivery_us.map(micros),
            replay: token.is_replay,
            hops_ms: token.hops.map(|split| split.us.map(|us| us.map(ms))),
        }
    }
}

impl StoredNote {
    fn new(note: &Note) -> Self {
        let seqs = |first: u64, last: u64, count: u64| match count {
            1 => format!("event {first}"),
            _ => format!("{count} events, {first} to {last}"),
        };
        let (event, text) = match &note.event {
            NoteEvent::CallFailed(message) => ("call_failed", printable(message)),
            NoteEvent::SocketLost(LossCause::Cut, _) => {
                ("socket_cut", "by the client, on purpose".to_owned())
            }
            NoteEvent::SocketLost(LossCause::Limit, _) => {
                ("socket_ended", "by the server, because of its age".to_owned())
            }
            NoteEvent::SocketLost(LossCause::Closed(code), text) => {
                ("socket_lost", format!("closed with {code} {}", printable(text)).trim_end().to_owned())
            }
            NoteEvent::SocketLost(LossCause::Broken, text) => ("socket_lost", printable(text)),
            NoteEvent::SocketOpened(None) => ("socket_opened", String::new()),
            NoteEvent::SocketOpened(Some(gap)) => ("reconnected", format!("after {:.1} ms", millis(*gap))),
            NoteEvent::Replayed(first, last, count) => ("replayed", seqs(*first, *last, *count)),
            NoteEvent::Gap(from, to) => ("gap", format!("announced after {from}, up to {to}")),
            NoteEvent::Duplicates(first, last, count) => ("duplicates", seqs(*first, *last, *count)),
            NoteEvent::Paused(time) => ("paused", format!("reading for {:.1} ms, on purpose", millis(*time))),
        };
        Self { at_s: seconds(note.at), event: event.to_owned(), text }
    }
}

impl StoredFault {
    fn new(fault: &FaultRecord) -> Self {
        Self {
            fault: fault.spec.clone(),
            began_s: seconds(fault.began.unwrap_or_default()),
            in_force_s: fault.ended.map(seconds),
            outcome: fault.status.outcome().0.to_owned(),
        }
    }
}

/// Reads the stored queries. A file that does not exist has none; a last line that was cut off is ignored.
pub(crate) fn read(path: &Path) -> Result<Vec<StoredQuery>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::unreadable(path, &error)),
    };
    let mut input = BufReader::new(file);
    let mut queries = Vec::new();
    for number in 1.. {
        let mut line = String::new();
        let mut limited = std::io::Read::take(&mut input, MAX_LINE);
        limited.read_line(&mut line).map_err(|error| FileError::unreadable(path, &error))?;
        if line.is_empty() {
            break;
        }
        match serde_json::from_str(&line) {
            Ok(query) => queries.push(query),
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => {
                let what = format!("invalid line {number} of {}: {error}", path.display());
                return Err(FileError::invalid_line(what));
            }
        }
    }
    Ok(queries)
}

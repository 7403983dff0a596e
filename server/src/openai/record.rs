//! Records what the server sent and when: a line of JSON per streamed answer. A client's latencies can be compared with it. A thread
//! writes the file, so a slow disk delays no stream: lines that it cannot take are dropped and counted.

use crate::{
    metrics::{Metrics, Outcome},
    openai::player::{Ending, Played},
};
use anyhow::Context;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::Duration,
};
use tokio::sync::oneshot;

/// Lines that wait for the disk.
const WAITING: usize = 1024;

/// The largest size of the file in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// The token events of an answer whose times are listed.
const MOST_EVENTS: usize = 4096;

/// The file of a server. Clones write to the same file.
#[derive(Clone)]
pub(crate) struct Record {
    messages: SyncSender<Message>,
    metrics: Metrics,
}

enum Message {
    Line(Box<Line>),
    /// Asks for a reply when everything before it is in the file.
    Sync(oneshot::Sender<()>),
}

impl Record {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// The file cannot be written, or the thread cannot be started.
    pub(crate) fn create(path: &Path, metrics: Metrics) -> anyhow::Result<Self> {
        let failed = || format!("cannot write {}: choose another file with --record", path.display());
        let file = File::create(path).with_context(failed)?;
        let (messages, receiver) = sync_channel(WAITING);
        let counts = metrics.clone();
        let write = move || write_lines(file, &receiver, &counts);
        thread::Builder::new().name("record".to_owned()).spawn(write).context("cannot start a thread")?;
        Ok(Self { messages, metrics })
    }

    /// Starts the line of an answer.
    pub(super) fn begin(&self, call: &'static str, id: &str, arrived_us: u64) -> Trace {
        let line = Line { call, id: id.to_owned(), arrived_us, ..Line::default() };
        Trace { record: self.clone(), line: Box::new(line) }
    }

    /// Waits until all lines so far are in the file.
    pub(crate) async fn sync(&self) {
        let (reply, written) = oneshot::channel();
        let messages = self.messages.clone();
        let send = move || messages.send(Message::Sync(reply)).is_ok();
        if tokio::task::spawn_blocking(send).await.unwrap_or(false) {
            let _ = written.await;
        }
    }

    fn push(&self, line: Box<Line>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.metrics.record_dropped.inc();
        }
    }
}

/// The line of an answer that is being sent.
pub(super) struct Trace {
    record: Record,
    line: Box<Line>,
}

/// A line. All times but `arrived_us` are microseconds after it.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Line {
    id: String,
    call: &'static str,
    /// When the request was read, in microseconds of `CLOCK_MONOTONIC`.
    arrived_us: u64,
    /// When the first event without a token was sent, if one was sent before the first token.
    opened_us: Option<u64>,
    /// The number of tokens that were due.
    tokens: u64,
    /// The numbers of the token events in the order in which they were sent.
    seq: Vec<u64>,
    /// When each of them was due.
    due_us: Vec<u64>,
    /// When each of them was handed to the connection.
    sent_us: Vec<u64>,
    /// The number of further token events, whose times are not listed.
    unlisted: u64,
    /// When the stream ended. `null` if its client left.
    ended_us: Option<u64>,
    /// How it ended: whole, error, cut or abort.
    ending: Option<&'static str>,
    /// The same as in the metrics: done, injected, disconnected, cancelled or shutdown.
    outcome: &'static str,
}

impl Trace {
    /// Notes what was sent `after` the start.
    pub(super) fn note(&mut self, played: &Played, after: Duration) {
        let (line, after_us) = (&mut self.line, microseconds(after));
        for part in &played.parts {
            let Some(step) = &part.step else {
                if line.seq.is_empty() && played.ending.is_none() {
                    line.opened_us.get_or_insert(after_us);
                }
                continue;
            };
            if line.seq.len() == MOST_EVENTS {
                line.unlisted += 1;
                continue;
            }
            line.seq.push(step.event);
            line.due_us.push(microseconds(step.at));
            line.sent_us.push(after_us);
        }
        line.tokens += played.tokens;
        if let Some(ending) = played.ending {
            (line.ended_us, line.ending) = (Some(after_us), Some(ending_label(ending)));
        }
    }

    /// Writes the line.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.line.outcome = outcome.label();
        self.record.push(self.line);
    }
}

const fn ending_label(ending: Ending) -> &'static str {
    match ending {
        Ending::Whole => "whole",
        Ending::Failed => "error",
        Ending::Cut => "cut",
        Ending::Abort => "abort",
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Writes lines until all senders are gone. The file is complete whenever no line waits.
fn write_lines(file: File, messages: &Receiver<Message>, metrics: &Metrics) {
    let mut output = Output { file: BufWriter::new(file), left: MOST_BYTES };
    loop {
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                if let Err(error) = output.file.flush() {
                    tracing::error!(%error, "the record could not be written");
                }
                let Ok(message) = messages.recv() else { return };
                message
            }
        };
        match message {
            Message::Line(line) => {
                if let Err(error) = output.write(&line) {
                    metrics.record_dropped.inc();
                    tracing::debug!(%error, "a line of the record was dropped");
                }
            }
            Message::Sync(reply) => {
                let _ = output.file.flush();
                let _ = reply.send(());
            }
        }
    }
}

struct Output {
    file: BufWriter<File>,
    left: u64,
}

impl Output {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let left = self.left.checked_sub(text.len() as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.file.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{answer::Step, player::Part};
    use dialects::sse::write::Frame;
    use serde_json::Value;

    fn sent(event: Option<u64>) -> Part {
        let at = |event| Duration::from_millis(10 * event);
        let step = event.map(|event| Step { event, before: event - 1, tokens: 1, at: at(event) });
        Part { frame: Frame::unnamed("x".into()), is_split: false, step }
    }

    fn played(parts: Vec<Part>, ending: Option<Ending>) -> Played {
        Played {
            tokens: parts.iter().filter(|part| part.step.is_some()).count() as u64,
            parts,
            due: None,
            ending,
        }
    }

    #[tokio::test]
    async fn a_line_tells_what_was_due_and_what_was_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.jsonl");
        let record = Record::create(&path, Metrics::default()).unwrap();
        let mut trace = record.begin("chat", "chatcmpl-1", 7);
        trace.note(&played(vec![sent(None)], None), Duration::from_micros(3));
        trace.note(&played(vec![sent(Some(2)), sent(Some(1))], None), Duration::from_millis(21));
        trace.note(&played(vec![sent(None)], Some(Ending::Failed)), Duration::from_millis(30));
        trace.end(Outcome::Injected);
        record.sync().await;
        let line: Value = serde_json::from_str(std::fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        let expected = serde_json::json!({
            "id": "chatcmpl-1", "call": "chat", "arrived_us": 7, "opened_us": 3, "tokens": 2, "seq": [2, 1],
            "due_us": [20_000, 10_000], "sent_us": [21_000, 21_000], "unlisted": 0, "ended_us": 30_000, "ending": "error",
            "outcome": "injected",
        });
        assert_eq!(line, expected);
    }

    #[tokio::test]
    async fn long_answers_and_a_full_file_are_bounded_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let record = Record::create(&directory.path().join("record"), metrics.clone()).unwrap();
        let mut trace = record.begin("chat", "a", 0);
        for event in 1..=MOST_EVENTS as u64 + 3 {
            trace.note(&played(vec![sent(Some(event))], None), Duration::ZERO);
        }
        assert_eq!((trace.line.seq.len(), trace.line.unlisted), (MOST_EVENTS, 3));
        let file = File::create(directory.path().join("small")).unwrap();
        let mut small = Output { file: BufWriter::new(file), left: 300 };
        assert_eq!(small.write(&trace.line).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let (messages, held) = sync_channel(1);
        let record = Record { messages, metrics: metrics.clone() };
        record.begin("chat", "b", 0).end(Outcome::Done);
        record.begin("chat", "c", 0).end(Outcome::Done);
        assert_eq!(metrics.record_dropped.get(), 1);
        drop(held);
        let error = Record::create(Path::new("/nowhere/at/all"), metrics).err().unwrap().to_string();
        assert_eq!(error, "cannot write /nowhere/at/all: choose another file with --record");
    }
}

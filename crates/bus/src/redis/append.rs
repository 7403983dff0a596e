//! Appends batches. Each script call carries events of many sessions, which Redis takes in order up to the first
//! refusal. One call is in flight at a time, so no event overtakes an earlier one of its session.

use super::{Inner, link};
use crate::{
    Appended, Batch, BusError, Counters, Delivery, Refused,
    batch::Entry,
    rules::{HOLE, Refusal, Restoration},
};
use protocol::{Position, Prefix, SessionId};
use redis::{Cmd, Pipeline, Value};
use std::{
    collections::HashSet,
    fmt::{self, Write},
    time::Instant,
};

/// Limits of one call, in events and in bytes of their frames. They limit how long Redis serves no other client.
const CALL_ENTRIES: usize = 256;
const CALL_BYTES: usize = 256 << 10;

pub(super) async fn append(inner: &Inner, batch: &Batch) -> Result<Appended, BusError> {
    inner.restored()?;
    let entries: Vec<Entry<'_>> = batch.iter().collect();
    let mut run =
        BatchAppend { inner, entries: &entries, skipped: HashSet::new(), appended: Appended::default() };
    let mut stopped = None;
    while run.appended.taken < entries.len() {
        if let Err(error) = run.step().await {
            stopped = Some(error);
            break;
        }
    }
    let mut appended = run.appended;
    Counters::add(&inner.counters.unheard, appended.unheard);
    match stopped {
        Some(error) if appended.taken == 0 && appended.refused.is_empty() && appended.stale.is_empty() => {
            return Err(error);
        }
        stopped => appended.stopped = stopped,
    }
    Ok(appended)
}

/// One batch that is being appended.
struct BatchAppend<'a> {
    inner: &'a Inner,
    entries: &'a [Entry<'a>],
    /// Generations that are stale or refused. Their remaining entries are skipped.
    skipped: HashSet<(SessionId, u64)>,
    appended: Appended,
}

/// The result of one call.
struct CallOutcome {
    taken: usize,
    unheard: u64,
    /// Why the call stopped before its end, or what is special about its last entry.
    why: Option<Stop>,
}

/// Why a call stopped, or what is special about its last entry.
enum Stop {
    /// A later generation of the session exists.
    Stale,
    /// The last entry taken is a terminator that was moved to this position.
    Moved(Position),
    /// The last entry taken is the terminator of a closed session whose log lacks its end. The position is set if the
    /// terminator was moved.
    LacksEnd(Option<Position>),
    /// The error reply of Redis.
    Refused(String),
}

impl BatchAppend<'_> {
    /// Makes one call and records its result. The call has the entries of the batch that are not skipped. The entry at which
    /// the call stopped is therefore looked up in `call`, and skipped entries before it count as settled.
    async fn step(&mut self) -> Result<(), BusError> {
        let (call, end) = self.next_call();
        if call.is_empty() {
            self.appended.taken = end;
            return Ok(());
        }
        let entries: Vec<Entry<'_>> = call.iter().map(|&index| self.entries[index]).collect();
        let outcome = match self.inner.config.delivery {
            Delivery::Log => send(self.inner, &entries).await,
            Delivery::PubSub => publish(self.inner, &entries).await,
        };
        let CallOutcome { taken, unheard, why } = match outcome {
            Ok(outcome) => outcome,
            // The reply does not tell which entry is refused, so it applies to all of them.
            Err(error) if error.refusal() == Some(Refusal::Final) => {
                for &index in &call {
                    self.refuse(index, error.to_string());
                }
                self.appended.taken = end;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.appended.unheard += unheard;
        self.appended.taken = call.get(taken).copied().unwrap_or(end);
        let moved = match why {
            Some(Stop::Moved(to)) => Some(to),
            Some(Stop::LacksEnd(to)) => to,
            _ => None,
        };
        self.remember(&entries[..taken], moved);
        if let (Some(Stop::LacksEnd(_)), Some(last)) = (&why, taken.checked_sub(1)) {
            self.inner.lacks_end(entries[last].session);
        }
        match (why, call.get(taken)) {
            (Some(Stop::Stale), Some(&index)) => self.stale(index),
            (Some(Stop::Refused(words)), Some(&index)) => match Refusal::of(&words) {
                Refusal::Passing => {
                    self.inner.appends.refused(&words);
                    return Err(BusError::Refused(words));
                }
                Refusal::Final | Refusal::Unknown => self.refuse(index, words),
            },
            _ => {}
        }
        Ok(())
    }

    /// Returns the indices of the entries of the next call, and the index where the call after it begins.
    fn next_call(&self) -> (Vec<usize>, usize) {
        let (mut call, mut bytes) = (Vec::new(), 0);
        for (index, entry) in self.entries.iter().enumerate().skip(self.appended.taken) {
            if call.len() == CALL_ENTRIES || bytes > CALL_BYTES {
                return (call, index);
            }
            if self.skipped.is_empty() || !self.skipped.contains(&generation(entry)) {
                bytes += entry.frame.len();
                call.push(index);
            }
        }
        (call, self.entries.len())
    }

    fn stale(&mut self, index: usize) {
        let generation = generation(&self.entries[index]);
        self.skipped.insert(generation);
        self.appended.stale.push(generation);
        self.inner.history.lock().fenced_off(generation.0, generation.1);
    }

    fn refuse(&mut self, index: usize, words: String) {
        let generation = generation(&self.entries[index]);
        if !self.skipped.insert(generation) {
            return;
        }
        self.appended.refused.push(Refused { index, session: generation.0, generation: generation.1, words });
    }

    /// Adds acknowledged entries to the history, for a Redis that loses data.
    fn remember(&self, taken: &[Entry<'_>], moved: Option<Position>) {
        Counters::add(&self.inner.counters.appended, taken.len() as u64);
        let now = Instant::now();
        let mut history = self.inner.history.lock();
        for (n, entry) in taken.iter().enumerate() {
            match moved.filter(|_| n + 1 == taken.len()) {
                None => history.appended(entry.session, entry.prefix, entry.frame, now),
                Some(position) => {
                    let frame = protocol::with_position(entry.frame, entry.prefix.position, position);
                    let prefix = Prefix { position, ..entry.prefix };
                    history.appended(entry.session, prefix, &frame, now);
                }
            }
        }
    }
}

fn generation(entry: &Entry<'_>) -> (SessionId, u64) {
    (entry.session, entry.prefix.position.generation)
}

/// Appends entries with one call.
async fn send(inner: &Inner, entries: &[Entry<'_>]) -> Result<CallOutcome, BusError> {
    let mark = inner.incarnation.mark().ok_or(BusError::Restoring)?;
    let call = call(inner, &mark, entries);
    let mut connection = inner.appends.connection()?;
    let mut answer = connection.send_packed_command(&call).await.and_then(Value::extract_error);
    if answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT")) {
        load_scripts(inner).await?;
        answer = connection.send_packed_command(&call).await.and_then(Value::extract_error);
    }
    let answer = answer.map_err(|error| inner.appends.failure(&error))?;
    read(inner, &answer)
}

/// Publishes entries without a log. After a refusal, the refused entry and those after it are published again, so some
/// events may be published twice.
async fn publish(inner: &Inner, entries: &[Entry<'_>]) -> Result<CallOutcome, BusError> {
    let mark = inner.incarnation.mark().ok_or(BusError::Restoring)?;
    let mut pipeline = Pipeline::with_capacity(entries.len() + 1);
    pipeline.cmd("GET").arg(inner.incarnation.mark_key());
    for entry in entries {
        if entry.prefix.kind.is_terminator() {
            pipeline.add_command(call(inner, &mark, &[*entry]));
        } else {
            pipeline.cmd("PUBLISH").arg(inner.names.down(entry.session)).arg(entry.frame);
        }
    }
    let mut connection = inner.appends.connection()?;
    let answers = connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| inner.appends.failure(&error))?;
    let mut answers = answers.into_iter();
    let seen: Option<Vec<u8>> = answers
        .next()
        .map_or(Ok(None), redis::from_redis_value)
        .map_err(|error| inner.appends.failure(&error.into()))?;
    if !inner.incarnation.check_mark(seen.as_deref()) {
        return Err(BusError::Restoring);
    }
    let mut outcome = CallOutcome { taken: 0, unheard: 0, why: None };
    for answer in answers {
        let one = match answer {
            Value::Int(receivers) => CallOutcome { taken: 1, unheard: u64::from(receivers == 0), why: None },
            Value::ServerError(error) => {
                if error.code() == "NOSCRIPT" {
                    load_scripts(inner).await?;
                }
                CallOutcome { taken: 0, unheard: 0, why: Some(Stop::Refused(link::words_of(&error))) }
            }
            answer => read(inner, &answer)?,
        };
        outcome.taken += one.taken;
        outcome.unheard += one.unheard;
        if one.taken == 0 {
            outcome.why = one.why;
            break;
        }
    }
    Ok(outcome)
}

/// Parses the reply of the append script.
fn read(inner: &Inner, answer: &Value) -> Result<CallOutcome, BusError> {
    let unexpected = || BusError::Refused(format!("ERR the append script returned {answer:?}"));
    let (taken, unheard, why, detail): (usize, u64, String, String) =
        redis::from_redis_value_ref(answer).map_err(|_| unexpected())?;
    let why = match why.as_str() {
        "" => None,
        "stale" => Some(Stop::Stale),
        "hole" => Some(Stop::Refused(HOLE.to_owned())),
        "lacks_end" if detail.is_empty() => Some(Stop::LacksEnd(None)),
        "lacks_end" => Some(Stop::LacksEnd(Some(detail.parse().map_err(|_| unexpected())?))),
        "moved" => Some(Stop::Moved(detail.parse().map_err(|_| unexpected())?)),
        "other_mark" => {
            inner.incarnation.check_mark(Some(detail.as_bytes()).filter(|mark| !mark.is_empty()));
            return Err(BusError::Restoring);
        }
        words => Some(Stop::Refused(words.to_owned())),
    };
    Ok(CallOutcome { taken, unheard, why })
}

/// Builds the call for these entries. Keys and ids are formatted in one buffer, because the call copies them and this
/// happens thousands of times per second.
fn call(inner: &Inner, mark: &str, entries: &[Entry<'_>]) -> Cmd {
    let bytes: usize = entries.iter().map(|entry| entry.frame.len() + 128).sum();
    let mut call = Cmd::with_capacity(4 * entries.len() + 8, bytes + 256);
    call.arg("EVALSHA").arg(inner.scripts.append.get_hash()).arg(entries.len() + 2);
    call.arg(inner.incarnation.mark_key()).arg(inner.names.running(&inner.owner));
    let mut name = String::new();
    for entry in entries {
        call.arg(rewritten(&mut name, |text| inner.names.write_log(text, entry.session)));
    }
    let complete = inner.restoration() == Restoration::Complete;
    call.arg(mark).arg(inner.ttl()).arg(inner.delivery()).arg(u8::from(complete));
    for entry in entries {
        call.arg(rewritten(&mut name, |text| write!(text, "{}", entry.prefix.position))).arg(entry.frame);
        if entry.prefix.kind.is_terminator() {
            call.arg("");
        } else {
            call.arg(rewritten(&mut name, |text| inner.names.write_down(text, entry.session)));
        }
    }
    call
}

fn rewritten(text: &mut String, write: impl FnOnce(&mut String) -> fmt::Result) -> &str {
    text.clear();
    write(text).expect("writing to a string does not fail");
    text
}

async fn load_scripts(inner: &Inner) -> Result<(), BusError> {
    let mut connection = inner.appends.connection()?;
    let loaded = inner.scripts.append.prepare_invoke().load_async(&mut connection).await;
    loaded.map(drop).map_err(|error| inner.appends.failure(&error))
}

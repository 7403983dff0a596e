//! Appending a batch: for each event a log entry, then its publication, in one pipeline.
//! A terminator goes through a script that also releases its claim.

use super::{Inner, link::Link};
use crate::{Appended, Batch, BusError, Counters, Delivery, batch::Entry};
use protocol::SessionId;
use redis::{Cmd, Pipeline, ServerErrorKind, Value};
use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    time::Instant,
};

/// Events in one pipeline at most: bounds what one answer holds.
const PIPELINE_ENTRIES: usize = 1024;

pub(super) async fn append(inner: &Inner, batch: &Batch) -> Result<Appended, BusError> {
    inner.restored()?;
    let mut appended = Appended::default();
    let entries: Vec<Entry<'_>> = batch.iter().collect();
    for some in entries.chunks(PIPELINE_ENTRIES) {
        append_some(inner, some, &mut appended).await?;
    }
    keep(inner, &entries, &appended);
    Counters::add(&inner.counters.appended, batch.len() as u64);
    Counters::add(&inner.counters.unheard, appended.unheard);
    Ok(appended)
}

/// Remembers what was acknowledged, for a Redis that forgets.
fn keep(inner: &Inner, entries: &[Entry<'_>], appended: &Appended) {
    let now = Instant::now();
    let mut keeper = inner.keeper.lock();
    let refused = appended.refused.iter().map(|&(session, generation, _)| (session, generation));
    let untaken: Vec<_> = appended.stale.iter().copied().chain(refused).collect();
    for entry in entries {
        let generation = (entry.session, entry.prefix.position.generation);
        if !untaken.contains(&generation) {
            keeper.appended(entry.session, entry.prefix, entry.frame, now);
        }
    }
    for &(session, generation) in &appended.stale {
        keeper.fenced_off(session, generation);
    }
}

async fn append_some(inner: &Inner, entries: &[Entry<'_>], appended: &mut Appended) -> Result<(), BusError> {
    let mut connection = inner.appends.connection()?;
    let mut pipeline = Pipeline::with_capacity(entries.len() * 2 + 1);
    pipeline.cmd("GET").arg(inner.incarnation.mark_key());
    let mut writer = Writer::new(inner);
    for entry in entries {
        writer.write(&mut pipeline, entry);
    }
    let answers = connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| Link::failed(&error))?;
    let mut answers = answers.into_iter();
    let mark = match answers.next() {
        Some(Value::BulkString(mark)) => Some(mark),
        _ => None,
    };
    if !inner.incarnation.saw_mark(mark.as_deref()) {
        return Err(BusError::Restoring);
    }
    let mut not_above = BTreeSet::new();
    let mut forgotten = false;
    for entry in entries {
        let generation = (entry.session, entry.prefix.position.generation);
        match outcome(logs_apart(inner, entry), &mut answers) {
            Outcome::Heard(0) => appended.unheard += 1,
            Outcome::Heard(_) => {}
            Outcome::Stale => push_once(&mut appended.stale, generation),
            Outcome::NotAboveTop => {
                not_above.insert(generation);
            }
            Outcome::ScriptForgotten => forgotten = true,
            Outcome::Refused(why) => appended.refused.push((generation.0, generation.1, why)),
        }
    }
    if forgotten {
        load_scripts(inner).await?;
        return Err(BusError::Unreachable(
            "Redis had forgotten its scripts, they are loaded again".to_owned(),
        ));
    }
    for (session, generation) in not_above {
        if top_generation(inner, session).await? > generation {
            push_once(&mut appended.stale, (session, generation));
        }
    }
    Ok(())
}

/// What Redis made of one entry.
enum Outcome {
    Heard(i64),
    Stale,
    NotAboveTop,
    ScriptForgotten,
    Refused(String),
}

/// Takes one entry's answers: of its log entry, where that is a command of its own, and of its publication.
fn outcome(logged: bool, answers: &mut impl Iterator<Item = Value>) -> Outcome {
    let refusal = if logged { answers.next().and_then(refused) } else { None };
    let published = answers.next();
    match (refusal, published) {
        (Some(refusal), _) => refusal,
        (None, Some(Value::Int(heard))) if heard < 0 => Outcome::Stale,
        (None, Some(Value::Int(heard))) => Outcome::Heard(heard),
        (None, Some(other)) => refused(other).unwrap_or(Outcome::Refused("an unexpected answer".to_owned())),
        (None, None) => Outcome::Refused("no answer".to_owned()),
    }
}

fn refused(answer: Value) -> Option<Outcome> {
    let Value::ServerError(error) = answer else { return None };
    if error.kind() == Some(ServerErrorKind::NoScript) {
        return Some(Outcome::ScriptForgotten);
    }
    // Redis has no code of its own for this one, only its text.
    if error.details().is_some_and(|details| details.contains("equal or smaller")) {
        return Some(Outcome::NotAboveTop);
    }
    Some(Outcome::Refused(error.to_string()))
}

/// The log entry is a command of its own; a terminator's is part of its script.
fn logs_apart(inner: &Inner, entry: &Entry<'_>) -> bool {
    inner.config.delivery == Delivery::Log && !entry.prefix.kind.is_terminator()
}

fn push_once(stale: &mut Vec<(SessionId, u64)>, generation: (SessionId, u64)) {
    if !stale.contains(&generation) {
        stale.push(generation);
    }
}

/// Writes entries as commands. Names and ids go through one buffer: they are needed for an instant, thousands of times
/// a second.
struct Writer<'a> {
    inner: &'a Inner,
    log: String,
    down: String,
    id: String,
}

impl<'a> Writer<'a> {
    fn new(inner: &'a Inner) -> Self {
        Self { inner, log: String::new(), down: String::new(), id: String::new() }
    }

    fn write(&mut self, pipeline: &mut Pipeline, entry: &Entry<'_>) {
        let Self { inner, log, down, id } = self;
        rewrite(log, |text| inner.names.write_log(text, entry.session));
        rewrite(down, |text| inner.names.write_down(text, entry.session));
        rewrite(id, |text| write!(text, "{}", entry.prefix.position));
        if entry.prefix.kind.is_terminator() {
            pipeline.add_command(terminate(inner, entry, log, down, id));
            return;
        }
        if logs_apart(inner, entry) {
            let mut add = Cmd::with_capacity(5, log.len() + id.len() + entry.frame.len() + 8);
            add.arg("XADD").arg(&*log).arg(&*id).arg("e").arg(entry.frame);
            pipeline.add_command(add);
        }
        let mut publish = Cmd::with_capacity(3, down.len() + entry.frame.len() + 8);
        publish.arg("PUBLISH").arg(&*down).arg(entry.frame);
        pipeline.add_command(publish);
    }
}

fn rewrite(text: &mut String, write: impl FnOnce(&mut String) -> fmt::Result) {
    text.clear();
    write(text).expect("a string takes every write");
}

fn terminate(inner: &Inner, entry: &Entry<'_>, log: &str, down: &str, id: &str) -> Cmd {
    let mut terminate = redis::cmd("EVALSHA");
    terminate
        .arg(inner.scripts.terminate.get_hash())
        .arg(4)
        .arg(inner.names.meta(entry.session))
        .arg(log)
        .arg(inner.names.attach(entry.session))
        .arg(inner.names.running(&inner.owner))
        .arg(entry.prefix.position.generation)
        .arg(id)
        .arg(entry.frame)
        .arg(inner.ttl())
        .arg(inner.delivery())
        .arg(down)
        .arg(entry.session.to_string());
    terminate
}

async fn load_scripts(inner: &Inner) -> Result<(), BusError> {
    let mut connection = inner.appends.connection()?;
    let loaded = inner.scripts.terminate.prepare_invoke().load_async(&mut connection).await;
    loaded.map(drop).map_err(|error| Link::failed(&error))
}

/// The generation at the log's top. Asked when an entry was not above it: either that entry was appended before its
/// acknowledgement was lost, or a later generation has fenced its writer off.
async fn top_generation(inner: &Inner, session: SessionId) -> Result<u64, BusError> {
    let mut connection = inner.appends.connection()?;
    let mut command = redis::cmd("XREVRANGE");
    command.arg(inner.names.log(session)).arg("+").arg("-").arg("COUNT").arg(1);
    let top = connection.send_packed_command(&command).await.map_err(|error| Link::failed(&error))?;
    let Value::Array(entries) = top else { return Ok(0) };
    let Some(Value::Array(entry)) = entries.first() else { return Ok(0) };
    let Some(Value::BulkString(id)) = entry.first() else { return Ok(0) };
    Ok(protocol::Position::from_ascii(id).map_or(0, |position| position.generation))
}

//! Releases the claims of queries whose terminators the log refuses for good. Their sessions then take queries again,
//! and connected clients receive the end.

use super::{
    Inner,
    link::{self, Link},
    scripts::eval,
};
use crate::{Appended, Batch, BusError, Counters, Refused, batch::Entry, rules::Refusal};
use redis::{Cmd, Pipeline, Value};
use std::time::Instant;

pub(super) async fn release_claims(inner: &Inner, terminators: &Batch) -> Result<Appended, BusError> {
    inner.restored()?;
    let mark = inner.incarnation.mark().ok_or(BusError::Restoring)?;
    let mut appended = Appended::default();
    if terminators.is_empty() {
        return Ok(appended);
    }
    let mut pipeline = Pipeline::with_capacity(terminators.len());
    for entry in terminators.iter() {
        pipeline.add_command(call(inner, &mark, &entry));
    }
    match send(inner, &pipeline).await {
        Ok(answers) => {
            for ((index, entry), answer) in terminators.iter().enumerate().zip(answers) {
                if let Err(error) = record_reply(inner, index, &entry, answer, &mut appended) {
                    appended.stopped = Some(error);
                    break;
                }
                appended.taken += 1;
            }
        }
        // The error concerns every terminator.
        Err(error) if error.refusal() == Some(Refusal::Final) => {
            let words = error.to_string();
            for (index, entry) in terminators.iter().enumerate() {
                appended.refused.push(refused(index, &entry, words.clone()));
            }
            appended.taken = terminators.len();
        }
        Err(error) => return Err(error),
    }
    Counters::add(&inner.counters.unheard, appended.unheard);
    Ok(appended)
}

async fn send(inner: &Inner, pipeline: &Pipeline) -> Result<Vec<Value>, BusError> {
    let mut connection = inner.appends.connection()?;
    let failed = |error: redis::RedisError| Link::failed(&error);
    inner.scripts.release_claim.load_async(&mut connection).await.map_err(failed)?;
    connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(failed)
}

/// Records the reply to one release. An error also concerns the releases after it.
fn record_reply(
    inner: &Inner,
    index: usize,
    entry: &Entry<'_>,
    answer: Value,
    appended: &mut Appended,
) -> Result<(), BusError> {
    if let Value::ServerError(error) = &answer {
        let words = link::words_of(error);
        if Refusal::of(&words) == Refusal::Passing {
            inner.appends.refused(&words);
            return Err(BusError::Refused(words));
        }
        appended.refused.push(refused(index, entry, words));
        return Ok(());
    }
    let unexpected = |_| BusError::Refused("ERR the release script returned an unexpected value".to_owned());
    let (outcome, receivers, detail): (String, u64, String) =
        redis::from_redis_value(answer).map_err(unexpected)?;
    let (session, generation) = (entry.session, entry.prefix.position.generation);
    match outcome.as_str() {
        "released" => {
            appended.unheard += u64::from(receivers == 0);
            // Added to the history: if the session is restored after a loss of data, its new log takes the terminator.
            inner.history.lock().appended(session, entry.prefix, entry.frame, Instant::now());
            Ok(())
        }
        "ended" => {
            inner.history.lock().fenced_off(session, generation);
            Ok(())
        }
        _ => {
            inner.incarnation.check_mark(Some(detail.as_bytes()).filter(|mark| !mark.is_empty()));
            Err(BusError::Restoring)
        }
    }
}

fn refused(index: usize, entry: &Entry<'_>, words: String) -> Refused {
    Refused { index, session: entry.session, generation: entry.prefix.position.generation, words }
}

fn call(inner: &Inner, mark: &str, entry: &Entry<'_>) -> Cmd {
    let (session, position) = (entry.session, entry.prefix.position);
    let keys = [
        inner.names.meta(session),
        inner.names.running(&inner.owner),
        inner.incarnation.mark_key().to_owned(),
    ];
    let mut call = eval(inner.scripts.release_claim.get_hash(), &keys);
    call.arg(mark)
        .arg(session.to_string())
        .arg(&inner.owner)
        .arg(position.generation)
        .arg(position.seq)
        .arg(entry.frame)
        .arg(inner.ttl())
        .arg(inner.names.down(session));
    call
}

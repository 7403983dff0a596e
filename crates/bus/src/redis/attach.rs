//! Attaching a session over Redis: first what can fail without a trace, then the one step that takes the session over.

use super::Inner;
use crate::{
    AttachError, Attachment, BusError, Counters, Outlet, Start, hub::Slot, memory::TAKEOVER_WAIT,
    redis::link::Link, rules::Attached,
};
use protocol::{GapPolicy, Position, SessionId};
use redis::ScriptInvocation;
use std::{sync::Arc, time::Duration};

/// How long Redis may take to execute an attachment, on each attempt. Later the client may be gone, and the session must stay
/// with its holder. The second attempt has more time: the client is still there, Redis answers again, and one that is merely slow
/// for everybody should still let clients in.
const DEADLINES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

pub(super) async fn attach(
    inner: &Arc<Inner>,
    session: SessionId,
    start: Start,
    outlet: Arc<dyn Outlet>,
) -> Result<Attachment, AttachError> {
    inner.restored()?;
    let slot = Slot::new(outlet, inner.config.delivery, inner.counters.clone());
    // From here on a failure, or a caller that goes away, forgets the lane by dropping the attachment.
    let attachment = Attachment { session, slot: slot.clone(), backend: inner.clone() };
    let newcomer = inner.hub.announce(session, slot.clone());
    // A subscription that fails leaves no trace, so it comes first: nobody is taken over by a call that then fails.
    inner.subscriber(session).subscribe(session).await?;
    let attached = take(inner, session, start).await?;
    newcomer.stays(attached.epoch);
    let start = match start {
        Start::After(position) => position,
        Start::Cursor if attached.told == 0 => attached.cursor,
        Start::Cursor => {
            // A holder that does not answer in time leaves the cursor where it was: some events come twice.
            let released = slot.released(attached.before);
            tokio::time::timeout(TAKEOVER_WAIT, released).await.unwrap_or(attached.cursor)
        }
    };
    if attached.active {
        slot.found_active();
    }
    if attached.ahead {
        slot.doubt_start();
    }
    slot.begin(start);
    Ok(attachment)
}

/// Takes the session over, unless Redis executes the call too late: then the time is measured and the call made once more.
async fn take(inner: &Inner, session: SessionId, start: Start) -> Result<Attached, AttachError> {
    let after = start.named().filter(|&position| position != Position::ZERO);
    for deadline in DEADLINES {
        // The connection first: the clock is never older than it.
        let mut connection = inner.commands.connection()?;
        let now_ms = match inner.clock.now_ms() {
            Some(now_ms) => now_ms,
            None => measure(inner).await?,
        };
        let deadline_ms = now_ms + u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let script = script(inner, session, after, deadline_ms);
        let answer = script.invoke_async(&mut connection).await.map_err(|error| Link::failed(&error))?;
        match read(answer)? {
            Answer::Done(attached) => return Ok(attached),
            Answer::Late => {
                Counters::add(&inner.counters.late_attaches, 1);
                tracing::debug!(%session, "Redis attached too late, trying again");
                measure(inner).await?;
            }
            Answer::Beyond { top, mark } => {
                // A Redis that lost its data unnoticed is given back what it lacks before it judges.
                if !inner.incarnation.saw_mark(mark.as_deref()) {
                    return Err(BusError::Restoring.into());
                }
                return Err(AttachError::Beyond { position: after.unwrap_or_default(), top });
            }
        }
    }
    Err(BusError::Late.into())
}

/// Measures Redis' time; returns it.
async fn measure(inner: &Inner) -> Result<u64, BusError> {
    let mut connection = inner.commands.connection()?;
    inner.clock.measure(&mut connection).await.map_err(|error| Link::failed(&error))?;
    inner
        .clock
        .now_ms()
        .ok_or_else(|| BusError::Unreachable("lost Redis while measuring its time".to_owned()))
}

fn script<'a>(
    inner: &'a Inner,
    session: SessionId,
    after: Option<Position>,
    deadline_ms: u64,
) -> ScriptInvocation<'a> {
    let mut script = inner.scripts.attach.key(inner.names.attach(session));
    script
        .key(inner.names.meta(session))
        .key(inner.names.log(session))
        .key(inner.incarnation.mark_key())
        .arg(inner.names.prefix())
        .arg(session.to_string())
        .arg(inner.ttl())
        .arg(&inner.owner)
        .arg(deadline_ms)
        .arg(after.map_or_else(String::new, |position| position.to_string()))
        .arg(u8::from(inner.gaps() == GapPolicy::Wait))
        .arg(inner.delivery());
    script
}

enum Answer {
    Done(Attached),
    Late,
    Beyond { top: Position, mark: Option<Vec<u8>> },
}

/// What the script returns: outcome, epoch, the one before it, how many were told, cursor, generation, the log's top,
/// whether the position is above what exists, the mark, and whether the session takes queries.
pub(super) type Returned = (String, u64, u64, u64, String, u64, String, u8, Option<Vec<u8>>, u8);

fn read(returned: Returned) -> Result<Answer, BusError> {
    let (outcome, epoch, before, told, cursor, generation, top, ahead, mark, active) = returned;
    let cursor = cursor.parse().unwrap_or(Position::ZERO);
    let top = top.parse().unwrap_or(Position::ZERO);
    match outcome.as_str() {
        "attached" => {
            let (ahead, active) = (ahead == 1, active == 1);
            Ok(Answer::Done(Attached { epoch, before, told, cursor, generation, ahead, active }))
        }
        "late" => Ok(Answer::Late),
        "beyond" => Ok(Answer::Beyond { top, mark }),
        other => Err(BusError::Refused(format!("unexpected outcome {other:?} of an attachment"))),
    }
}

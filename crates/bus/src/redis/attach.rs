//! Attaches to a session in Redis. Steps that can fail without consequences come first, then the script that takes the
//! session over.

use super::Inner;
use crate::{
    AttachError, Attachment, BusError, Counters, Outlet, Start, attachment::TAKEOVER_WAIT,
    open_lane::OpenLane, redis::link::Link, rules::Attached,
};
use protocol::{GapPolicy, Position, SessionId};
use redis::ScriptInvocation;
use std::{sync::Arc, time::Duration};

/// How long Redis may take to execute the attachment, for each attempt. A later execution must not take the session
/// from its holder, because the client may be gone. The second attempt has more time: then Redis replies, the client is
/// still waiting, and a Redis that is merely slow should let clients in.
const DEADLINES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

pub(super) async fn attach(
    inner: &Arc<Inner>,
    session: SessionId,
    start: Start,
    outlet: Arc<dyn Outlet>,
) -> Result<Attachment, AttachError> {
    inner.restored()?;
    let lane = OpenLane::new(outlet, inner.config.delivery, inner.counters.clone());
    // If a later step fails or the caller is cancelled, dropping the attachment forgets the lane.
    let attachment = Attachment { session, lane: lane.clone(), backend: inner.clone() };
    let attaching = inner.hub.begin_attach(session, lane.clone());
    // The subscription comes first, because its failure has no consequences. A takeover followed by a failure would end
    // a healthy socket.
    inner.subscriber(session).subscribe(session).await?;
    let attached = take(inner, session, start).await?;
    attaching.attached(attached.epoch);
    let start = match start {
        Start::After(position) => position,
        Start::Cursor if attached.notified == 0 => attached.cursor,
        Start::Cursor => {
            // A holder that does not reply in time leaves the cursor where it was. Then some events come twice.
            let released = lane.wait_released(attached.before);
            tokio::time::timeout(TAKEOVER_WAIT, released).await.unwrap_or(attached.cursor)
        }
    };
    if attached.active {
        lane.set_active();
    }
    if attached.ahead {
        lane.set_start_unconfirmed();
    }
    lane.begin(start);
    Ok(attachment)
}

/// Takes the session over. If Redis executes the call after its deadline, measures Redis' time and tries once more.
async fn take(inner: &Inner, session: SessionId, start: Start) -> Result<Attached, AttachError> {
    let after = start.named().filter(|&position| position != Position::ZERO);
    for deadline in DEADLINES {
        // The connection before the clock: then the clock's measurements are from this connection or a newer one.
        let mut connection = inner.commands.connection()?;
        let now_ms = match inner.clock.now_ms() {
            Some(now_ms) => now_ms,
            None => measure(inner).await?,
        };
        let deadline_ms = now_ms + u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let script = script(inner, session, after, deadline_ms);
        let answer = script.invoke_async(&mut connection).await.map_err(|error| Link::failed(&error))?;
        match read(answer)? {
            ScriptOutcome::Done(attached) => return Ok(attached),
            ScriptOutcome::Late => {
                Counters::add(&inner.counters.late_attaches, 1);
                tracing::debug!(%session, "Redis executed the attachment after its deadline, trying again");
                measure(inner).await?;
            }
            ScriptOutcome::Beyond { top, mark } => {
                // This Redis may have lost data without this process noticing. It is restored before it may refuse a
                // position.
                if !inner.incarnation.check_mark(mark.as_deref()) {
                    return Err(BusError::Restoring.into());
                }
                return Err(AttachError::Beyond { position: after.unwrap_or_default(), top });
            }
        }
    }
    Err(BusError::Late.into())
}

/// Measures Redis' time and returns it, in milliseconds since the epoch.
async fn measure(inner: &Inner) -> Result<u64, BusError> {
    let mut connection = inner.commands.connection()?;
    inner.clock.measure(&mut connection).await.map_err(|error| Link::failed(&error))?;
    inner.clock.now_ms().ok_or_else(|| {
        BusError::Unreachable("the connection to Redis was reopened while its time was measured".to_owned())
    })
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

enum ScriptOutcome {
    Done(Attached),
    Late,
    Beyond { top: Position, mark: Option<Vec<u8>> },
}

/// The values that the script returns: outcome, epoch, the epoch before it, number of gateways notified, cursor,
/// generation, the log's last position, whether the client's position is above every one that can exist, the mark, and
/// whether the session takes queries.
pub(super) type Returned = (String, u64, u64, u64, String, u64, String, u8, Option<Vec<u8>>, u8);

fn read(returned: Returned) -> Result<ScriptOutcome, BusError> {
    let (outcome, epoch, before, notified, cursor, generation, top, ahead, mark, active) = returned;
    let cursor = cursor.parse().unwrap_or(Position::ZERO);
    let top = top.parse().unwrap_or(Position::ZERO);
    match outcome.as_str() {
        "attached" => {
            let (ahead, active) = (ahead == 1, active == 1);
            Ok(ScriptOutcome::Done(Attached { epoch, before, notified, cursor, generation, ahead, active }))
        }
        "late" => Ok(ScriptOutcome::Late),
        "beyond" => Ok(ScriptOutcome::Beyond { top, mark }),
        other => Err(BusError::Refused(format!("ERR the attach script returned the outcome {other:?}"))),
    }
}

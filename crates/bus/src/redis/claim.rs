//! Claims in Redis.

use super::Inner;
use crate::{BusError, Claim, ClaimError, ClaimRequest, rules::Restoration};
use protocol::SessionId;
use std::time::Instant;

/// Claims the session for a query, and adds the claim to the history.
pub(super) async fn claim(
    inner: &Inner,
    session: SessionId,
    request: &ClaimRequest,
) -> Result<Claim, ClaimError> {
    let old = inner.incarnation.is_old();
    let (mark, restoration) = inner.claimable()?;
    let known = inner.history.lock().get(session).map_or(0, |acknowledged| acknowledged.generation);
    let ClaimRequest { query_id, answer } = request;
    let mut script = inner.scripts.claim.key(inner.names.meta(session));
    script
        .key(inner.names.log(session))
        .key(inner.names.attach(session))
        .key(inner.names.running(&inner.owner))
        .key(inner.incarnation.mark_key())
        .key(inner.names.servers())
        .arg(query_id)
        .arg(answer)
        .arg(&inner.owner)
        .arg(inner.ttl())
        .arg(inner.config.log_entries)
        .arg(inner.delivery())
        .arg(inner.names.down(session))
        .arg(session.to_string())
        .arg(&*mark)
        .arg(known)
        .arg(u8::from(restoration == Restoration::Complete))
        .arg(u8::from(old));
    let (outcome, generation, prev, detail): (String, u64, String, String) = inner.invoke(&script).await?;
    let repeated = match outcome.as_str() {
        "claimed" => false,
        "repeat" => true,
        "past" => return Err(ClaimError::Past),
        "closed" => return Err(ClaimError::Closed),
        "busy" => return Err(ClaimError::Busy),
        "other_mark" => {
            inner.incarnation.check_mark(Some(detail.as_bytes()));
            return Err(BusError::Restoring.into());
        }
        // A peer has removed this server from the list. The next heartbeat lists it again.
        "unlisted" => return Err(BusError::Restoring.into()),
        _ => {
            inner.is_unknown(old).await?;
            return Err(ClaimError::Unknown);
        }
    };
    // If the reply to a claim was lost, its repetition is answered as a repeat. The stored answer shows whose claim it is.
    if !repeated || detail == *answer {
        let prev = prev.parse().ok();
        inner.history.lock().claimed(session, (generation, prev), query_id, answer, Instant::now());
    }
    Ok(Claim { generation, repeat_of: repeated.then_some(detail) })
}

/// Returns the session's last claim if it was for this query.
pub(super) async fn recall(
    inner: &Inner,
    session: SessionId,
    query_id: &str,
) -> Result<Option<Claim>, BusError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("HMGET").arg(inner.names.meta(session)).arg(&["query", "gen", "answer"]);
    type LastClaim = (Option<String>, Option<u64>, Option<String>);
    let ((query, generation, answer),): (LastClaim,) = inner.call(&pipeline).await?;
    let same = query.as_deref() == Some(query_id);
    Ok(generation.filter(|_| same).map(|generation| Claim { generation, repeat_of: answer }))
}

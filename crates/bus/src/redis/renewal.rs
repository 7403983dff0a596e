//! Renews the keys of the sessions that this process plays or holds, so that a query may outlive its session's TTL.

use super::{
    Inner,
    per_session::{self, OnUnknown, SESSIONS},
};
use crate::BusError;
use protocol::SessionId;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Number of keys of one session.
const KEYS: usize = 3;
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Renews the keys every third of the TTL, forever.
pub(super) async fn run(inner: Arc<Inner>) {
    let every = inner.config.session_ttl / 3;
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        pause = match renew(&inner).await {
            Ok(()) => every,
            Err(error) => {
                tracing::debug!("the renewal of keys failed, trying again: {error}");
                RETRY.min(every)
            }
        };
    }
}

/// Returns the keys of a session in the order in which they are renewed. The meta hash is last: scripts conclude from its time to
/// live that no other key has less, and the connection may break in between.
pub(super) fn keys(inner: &Inner, session: SessionId) -> [String; KEYS] {
    [inner.names.log(session), inner.names.attach(session), inner.names.meta(session)]
}

async fn renew(inner: &Inner) -> Result<(), BusError> {
    let sessions: BTreeSet<SessionId> =
        inner.plays.sessions().into_iter().chain(inner.hub.sessions()).collect();
    let sessions: Vec<SessionId> = sessions.into_iter().collect();
    for some in sessions.chunks(SESSIONS) {
        let mut connection = inner.commands.connected().await;
        let mut pipeline = redis::pipe();
        for &session in some {
            let keys = keys(inner, session);
            for key in keys {
                pipeline.cmd("EXPIRE").arg(key).arg(inner.ttl());
            }
        }
        let replies = per_session::send(&mut connection, &pipeline, OnUnknown::Skip).await?;
        let replies = some.iter().zip(replies.chunks(KEYS));
        let refused = replies.filter_map(|(&session, replies)| {
            let words = replies.iter().find_map(|reply| reply.as_ref().err())?;
            Some((session, words.clone()))
        });
        inner.skip("renewal", refused);
    }
    Ok(())
}

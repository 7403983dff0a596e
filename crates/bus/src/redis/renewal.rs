//! Renews the keys of the sessions that this process plays or holds, so that a query may outlive its session's TTL.

use super::{Inner, link::Link};
use crate::BusError;
use protocol::SessionId;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Sessions in one pipeline.
const SESSIONS: usize = 256;
/// Pause before a renewal that failed is begun again.
const RETRY: Duration = Duration::from_millis(500);

/// Renews every third of the TTL, for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let every = inner.config.session_ttl / 3;
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        pause = match renew(&inner).await {
            Ok(()) => every,
            Err(error) => {
                tracing::debug!("keys were not renewed, trying again: {error}");
                RETRY.min(every)
            }
        };
    }
}

async fn renew(inner: &Inner) -> Result<(), BusError> {
    let sessions: BTreeSet<SessionId> =
        inner.plays.sessions().into_iter().chain(inner.hub.sessions()).collect();
    let sessions: Vec<SessionId> = sessions.into_iter().collect();
    for some in sessions.chunks(SESSIONS) {
        let mut connection = inner.commands.connected().await;
        let mut pipeline = redis::pipe();
        for &session in some {
            for key in [inner.names.meta(session), inner.names.log(session), inner.names.attach(session)] {
                pipeline.cmd("EXPIRE").arg(key).arg(inner.ttl()).ignore();
            }
        }
        let () = pipeline.query_async(&mut connection).await.map_err(|error| Link::failed(&error))?;
    }
    Ok(())
}

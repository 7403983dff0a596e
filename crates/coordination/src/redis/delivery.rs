//! The thread that appends a generator's parts to its stream.

use super::{
    member::{Ended, Member},
    server::{Link, Refused},
};
use crate::outbox::{Batch, Kind};
use redis::RedisResult;
use std::sync::Arc;

/// Delivers what the outbox has, until the claim is void or given up. Tries again after failures.
pub(super) fn deliver(member: &Arc<Member>) {
    let mut link = Link::default();
    let mut state = member.state.lock();
    while !state.is_over() {
        let Some(batch) = state.outbox.batch() else {
            member.changed.wait(&mut state);
            continue;
        };
        drop(state);
        let appended = append(member, &mut link, &batch);
        state = member.state.lock();
        if appended.is_err() && !state.is_over() {
            member.changed.wait_for(&mut state, member.server.timing.barrier_poll);
        }
    }
}

fn append(member: &Member, link: &mut Link, batch: &Batch) -> RedisResult<()> {
    let mut call = member.server.scripts.append.key(member.keys.run());
    call.key(member.keys.parts(member.shard))
        .arg(member.shard)
        .arg(&member.token)
        .arg(member.server.ttl_ms())
        .arg(batch.delivered)
        .arg(batch.oldest);
    for message in &batch.messages {
        let kind = match message.kind {
            Kind::Part => "part",
            Kind::Report => "report",
        };
        call.arg(message.number).arg(kind).arg(&message.bytes[..]);
    }
    let reply = link.script(&member.server, &call)?;
    match reply.refused()? {
        Some(Refused::Unknown) => return member.restore(link),
        Some(Refused::Replaced(_)) => member.end(Ended::Replaced),
        Some(Refused::Lost(reason)) => member.end(Ended::Lost(reason)),
        None => {
            let last: u64 = reply.value(1)?;
            let mut state = member.state.lock();
            state.outbox.received(last);
            state.finished |=
                reply.word() == "ok" && batch.messages.iter().any(|message| message.kind == Kind::Report);
        }
    }
    member.changed.notify_all();
    Ok(())
}

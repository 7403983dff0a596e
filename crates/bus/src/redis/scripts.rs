//! The atomic steps of the bus, as Lua scripts that run inside Redis. Each file in `scripts/` documents its keys, arguments and
//! result. Every script is idempotent, so a caller that lost the reply runs it again. Frames that are made in Lua have the bytes
//! that `protocol` encodes; the contract tests compare them.

use crate::rules::AcknowledgedRecord;
use protocol::Position;
use redis::{Cmd, Script};

/// Functions that several scripts share.
const LOG: &str = include_str!("scripts/lib/log.lua");
const SESSION: &str = include_str!("scripts/lib/session.lua");
const PAST_QUERIES: &str = include_str!("scripts/lib/past_queries.lua");

/// The source of the heartbeat script, which is loaded with every heartbeat.
pub(super) const HEARTBEAT: &str = include_str!("scripts/heartbeat.lua");

/// One script for each step.
pub(super) struct Scripts {
    pub(super) mark: Script,
    pub(super) claim: Script,
    pub(super) append: Script,
    pub(super) release_claim: Script,
    pub(super) close: Script,
    pub(super) attach: Script,
    pub(super) release: Script,
    pub(super) reattach: Script,
    pub(super) restore_cursor: Script,
    pub(super) restore: Script,
    pub(super) end_lost_query: Script,
    pub(super) forget_server: Script,
    pub(super) list_servers: Script,
    pub(super) leave: Script,
    pub(super) heartbeat: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |parts: &[&str]| Script::new(&parts.concat());
        Self {
            mark: script(&[include_str!("scripts/mark.lua")]),
            claim: script(&[LOG, SESSION, PAST_QUERIES, include_str!("scripts/claim.lua")]),
            append: script(&[LOG, SESSION, include_str!("scripts/append.lua")]),
            release_claim: script(&[SESSION, include_str!("scripts/release_claim.lua")]),
            close: script(&[LOG, SESSION, include_str!("scripts/close.lua")]),
            attach: script(&[LOG, SESSION, include_str!("scripts/attach.lua")]),
            release: script(&[SESSION, include_str!("scripts/release.lua")]),
            reattach: script(&[include_str!("scripts/reattach.lua")]),
            restore_cursor: script(&[SESSION, include_str!("scripts/restore_cursor.lua")]),
            restore: script(&[LOG, SESSION, PAST_QUERIES, include_str!("scripts/restore.lua")]),
            end_lost_query: script(&[LOG, SESSION, include_str!("scripts/end_lost_query.lua")]),
            forget_server: script(&[include_str!("scripts/forget_server.lua")]),
            list_servers: script(&[include_str!("scripts/list_servers.lua")]),
            leave: script(&[include_str!("scripts/leave.lua")]),
            heartbeat: script(&[HEARTBEAT]),
        }
    }
}

/// Returns a call of a loaded script with these keys, for use in a pipeline.
pub(super) fn eval(hash: &str, keys: &[String]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(hash).arg(keys.len()).arg(keys);
    call
}

/// Returns a position as scripts expect it: the empty string for an unknown one.
pub(super) fn text_of(position: Option<Position>) -> String {
    position.map_or_else(String::new, |position| position.to_string())
}

/// Returns earlier queries as the meta hash stores them.
pub(super) fn past_of(acknowledged: &AcknowledgedRecord) -> String {
    let past: Vec<String> =
        acknowledged.past.iter().map(|(generation, query)| format!("{generation} {query}")).collect();
    serde_json::to_string(&past).unwrap_or_default()
}

#[cfg(test)]
mod tests;

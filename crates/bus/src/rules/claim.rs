//! Claims of sessions for queries, and the release of a claim whose terminator the log refuses.

use super::{Effect, EffectSink, Part, Record, Status};
use protocol::{Kind, Position, Prefix, encode_closed};

/// Number of earlier queries whose ids a session remembers.
pub const PAST_QUERIES: usize = 8;

/// The inputs of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Claiming<'a> {
    /// The client's id of the query.
    pub query: &'a str,
    /// The answer to store with the claim, for repeats of the query.
    pub answer: &'a str,
    /// The server that will play the query.
    pub owner: &'a str,
    /// The broker's time, in milliseconds since the epoch.
    pub now_ms: u64,
    /// Number of entries of earlier queries that the log keeps.
    pub keep: usize,
    /// The last generation of the session that the owner knows; 0 for none.
    pub known: u64,
    /// Every server has restored its acknowledged history, so the log's last position is the last acknowledged one.
    pub complete: bool,
    /// The broker lists the owner as a server. Peers remove a dead server from the list. A call of that server which
    /// the broker executes later must not start a query, because no server would end it.
    pub listed: bool,
}

/// The outcome of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The session is claimed.
    Now {
        /// The new generation.
        generation: u64,
        /// The last position before the generation, which its fence names. `None` if the log may lack entries.
        prev: Option<Position>,
    },
    /// The last claim was for the same query.
    Before {
        /// The generation of that claim.
        generation: u64,
        /// The last position before that generation.
        prev: Option<Position>,
        /// The answer stored with that claim.
        answer: String,
    },
    /// The session does not exist.
    Unknown,
    /// The query is an earlier one of the session, so this call is late and must not run it again.
    Past,
    /// The session is closed.
    Closed,
    /// Another query is running.
    Busy,
    /// The broker does not list the owner. The owner claims again after its next heartbeat.
    Unlisted,
}

impl Record {
    /// Claims the session for a query and fences off every earlier writer.
    pub fn claim(&mut self, claiming: Claiming<'_>, logged: bool, out: EffectSink<'_>) -> ClaimOutcome {
        let Claiming { query, answer, owner, now_ms, keep, known, complete, listed } = claiming;
        if !listed {
            return ClaimOutcome::Unlisted;
        }
        let Some(status) = self.status else { return ClaimOutcome::Unknown };
        if self.generation > 0 && self.query == query {
            let answer = self.answer.clone();
            return ClaimOutcome::Before { generation: self.generation, prev: self.prev, answer };
        }
        if self.past.iter().any(|(_, past)| past == query) {
            return ClaimOutcome::Past;
        }
        if status == Status::Closed {
            return ClaimOutcome::Closed;
        }
        if self.running.is_some() {
            return ClaimOutcome::Busy;
        }
        let top = self.top();
        let last = self.generation.max(top.generation).max(known);
        let generation = (last + 1).max(now_ms);
        let prev = complete.then_some(top);
        if logged {
            let surplus = self.log.len().saturating_sub(keep);
            self.log.drain(..surplus);
            self.log.shrink_to(keep);
        }
        self.fence(generation, prev, logged, out);
        let last = std::mem::replace(&mut self.query, query.to_owned());
        if self.generation > 0 {
            self.past.push_back((self.generation, last));
            self.past.drain(..self.past.len().saturating_sub(PAST_QUERIES));
        }
        (self.generation, self.prev) = (generation, prev);
        self.answer = answer.to_owned();
        self.running = Some(owner.to_owned());
        self.renew_if_due();
        ClaimOutcome::Now { generation, prev }
    }

    /// Releases the owner's claim although the log refuses its terminator for good. The terminator is published and not
    /// logged. Returns the number of its receivers, or `None` if the claim has ended otherwise.
    pub fn release_claim(
        &mut self,
        owner: &str,
        prefix: Prefix,
        frame: &[u8],
        out: EffectSink<'_>,
    ) -> Option<u64> {
        let Prefix { position, .. } = prefix;
        if self.generation != position.generation || self.running.as_deref() != Some(owner) {
            return None;
        }
        self.running = None;
        self.renew(&Part::ALL);
        let receivers = out(Effect::Publish { prefix, frame });
        if self.status == Some(Status::Closed) {
            let position = position.next();
            let mut frame = Vec::new();
            encode_closed(&mut frame, position);
            out(Effect::Publish { prefix: Prefix { position, kind: Kind::Closed }, frame: &frame });
        }
        Some(receivers)
    }
}

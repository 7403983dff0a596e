//! What became of the tokens of queries that ended: which were owed, which came, which are lost.
//! It knows of no time; what is counted by the second asks it a query at a time.

use crate::record::{QueryRecord, QueryStatus};

/// What became of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Announced, less those of queries that the run's end cut off.
    pub expected: u64,
    /// Came at least once.
    pub received: u64,
    /// Came by nobody's announcement: servers of the old contract. Part of `received`.
    pub unverified: u64,
    /// Announced and never came by the deadline.
    pub lost: u64,
    /// Announced, and cut off by an error event: not lost, as the server never sent them.
    pub unsent: u64,
    /// Beyond the announced number.
    pub unannounced: u64,
    /// Of queries that announced a number and were not cut off by the run's end: how many it was, and how many of them came.
    pub owed: u64,
    /// How many of `owed` came.
    pub delivered: u64,
    /// Lost, and sent while the socket was open.
    pub lost_connected: u64,
    /// Lost, and sent while the socket was down.
    pub lost_in_gap: u64,
    /// The same position again.
    pub duplicated: u64,
    /// Below one already seen, for the first time.
    pub reordered: u64,
    /// Again, because the client asked for them again or could not say what it had. Not part of `duplicated`.
    pub replayed: u64,
    /// Announced, and still to come when the run was ended.
    pub cut_off: u64,
    /// Tokens and terminators that came at least once.
    pub events_received: u64,
    /// Tokens and terminators that never came.
    pub events_lost: u64,
    /// Tokens and terminators that came again.
    pub events_duplicated: u64,
    /// Tokens and terminators that came below one already seen.
    pub events_reordered: u64,
}

impl TokenCounts {
    /// Those of one query.
    #[must_use]
    pub fn of(query: &QueryRecord) -> Self {
        let mut tokens = Self::default();
        tokens.query_ended(query);
        tokens
    }

    /// Takes a query that ended. Nothing is lost of one that announced nothing.
    pub fn query_ended(&mut self, query: &QueryRecord) {
        let tally = &query.tally;
        self.received = self.received.saturating_add(tally.tokens_received);
        self.duplicated = self.duplicated.saturating_add(tally.tokens_duplicated);
        self.reordered = self.reordered.saturating_add(tally.tokens_reordered);
        self.events_received = self.events_received.saturating_add(tally.events_received);
        self.events_duplicated = self.events_duplicated.saturating_add(tally.events_duplicated);
        self.events_reordered = self.events_reordered.saturating_add(tally.events_reordered);
        let Some(expected) = query.tokens_expected else {
            self.unverified = self.unverified.saturating_add(tally.tokens_received);
            return;
        };
        if query.status == QueryStatus::Abandoned {
            // Its deadline had not come: what is above its highest position is not lost, it was never waited for.
            let seen = (tally.tokens_received - tally.tokens_unannounced + tally.tokens_lost).min(expected);
            self.expected = self.expected.saturating_add(seen);
            self.cut_off = self.cut_off.saturating_add(expected - seen);
        } else {
            self.expected = self.expected.saturating_add(expected);
            self.owed = self.owed.saturating_add(expected);
            self.delivered = self.delivered.saturating_add(tally.tokens_received - tally.tokens_unannounced);
        }
        self.lost = self.lost.saturating_add(tally.tokens_lost);
        self.unsent = self.unsent.saturating_add(tally.tokens_unsent);
        self.unannounced = self.unannounced.saturating_add(tally.tokens_unannounced);
        self.lost_connected = self.lost_connected.saturating_add(query.lost_connected);
        self.lost_in_gap = self.lost_in_gap.saturating_add(query.lost_in_gap);
        self.events_lost = self.events_lost.saturating_add(tally.events_lost);
    }
}

//! Counts of the tokens of ended queries: expected, received, lost, duplicated, reordered and so on.

use crate::record::{QueryRecord, QueryStatus};
use serde::{Deserialize, Serialize};

/// Counts of tokens and events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Announced tokens, without those that the end of the run cut off.
    pub expected: u64,
    /// Tokens received at least once.
    pub received: u64,
    /// Received tokens of servers that announce no number (old contract). Part of `received`.
    pub unverified: u64,
    /// Announced tokens that did not arrive by the deadline.
    pub lost: u64,
    /// Announced tokens that an error event cut off. They are not lost, because the server never sent them.
    pub unsent: u64,
    /// Tokens beyond the announced number.
    pub unannounced: u64,
    /// Announced tokens of queries that the end of the run did not cut off.
    pub owed: u64,
    /// Received tokens that are part of `owed`.
    pub delivered: u64,
    /// Lost tokens that were sent while the socket was open.
    pub lost_connected: u64,
    /// Lost tokens that were sent while the socket was down.
    pub lost_in_gap: u64,
    /// Tokens whose position was received before.
    pub duplicated: u64,
    /// Tokens that first arrived after a later position.
    pub reordered: u64,
    /// Events that were sent again after a reconnect, as allowed. Not part of `duplicated`.
    pub replayed: u64,
    /// Frames with the tokens of a window of a rollup, of sessions that ended.
    pub frames_rolled: u64,
    /// Tokens that arrived in these frames.
    pub rolled: u64,
    /// Announced tokens that had not arrived yet when the run ended.
    pub cut_off: u64,
    /// Tokens as the servers of foreign dialects counted them, of the answers for which they did.
    pub reported: u64,
    /// Events with text in those answers. A server may pack several tokens into one event.
    pub reported_events: u64,
    /// Events with text of a model's reasoning.
    pub reasoning: u64,
    /// Tokens and terminators received at least once.
    pub events_received: u64,
    /// Lost tokens and terminators.
    pub events_lost: u64,
    /// Duplicated tokens and terminators.
    pub events_duplicated: u64,
    /// Tokens and terminators that first arrived after a later position.
    pub events_reordered: u64,
}

impl TokenCounts {
    /// Returns the counts of one query.
    #[must_use]
    pub fn of(query: &QueryRecord) -> Self {
        let mut tokens = Self::default();
        tokens.query_ended(query);
        tokens
    }

    /// Adds a query that ended. A query without an announced number has no lost tokens.
    pub fn query_ended(&mut self, query: &QueryRecord) {
        let tally = &query.tally;
        self.received = self.received.saturating_add(tally.tokens_received);
        self.duplicated = self.duplicated.saturating_add(tally.tokens_duplicated);
        self.reordered = self.reordered.saturating_add(tally.tokens_reordered);
        self.events_received = self.events_received.saturating_add(tally.events_received);
        self.events_duplicated = self.events_duplicated.saturating_add(tally.events_duplicated);
        self.events_reordered = self.events_reordered.saturating_add(tally.events_reordered);
        self.reasoning = self.reasoning.saturating_add(query.reasoning_events);
        if let Some(reported) = query.tokens_reported {
            self.reported = self.reported.saturating_add(reported);
            self.reported_events = self.reported_events.saturating_add(tally.tokens_received);
        }
        let Some(expected) = query.tokens_expected else {
            self.unverified = self.unverified.saturating_add(tally.tokens_received);
            return;
        };
        if query.status == QueryStatus::Abandoned {
            // The run ended before the deadline, so positions above the highest received one are not lost.
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

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.expected, other.expected),
            (&mut self.received, other.received),
            (&mut self.unverified, other.unverified),
            (&mut self.lost, other.lost),
            (&mut self.unsent, other.unsent),
            (&mut self.unannounced, other.unannounced),
            (&mut self.owed, other.owed),
            (&mut self.delivered, other.delivered),
            (&mut self.lost_connected, other.lost_connected),
            (&mut self.lost_in_gap, other.lost_in_gap),
            (&mut self.duplicated, other.duplicated),
            (&mut self.reordered, other.reordered),
            (&mut self.replayed, other.replayed),
            (&mut self.frames_rolled, other.frames_rolled),
            (&mut self.rolled, other.rolled),
            (&mut self.cut_off, other.cut_off),
            (&mut self.reported, other.reported),
            (&mut self.reported_events, other.reported_events),
            (&mut self.reasoning, other.reasoning),
            (&mut self.events_received, other.events_received),
            (&mut self.events_lost, other.events_lost),
            (&mut self.events_duplicated, other.events_duplicated),
            (&mut self.events_reordered, other.events_reordered),
        ];
        for (sum, count) in sums {
            *sum = sum.saturating_add(count);
        }
    }
}

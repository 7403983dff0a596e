//! What is counted in a stretch of the run: tokens by the second of their arrival, all else of a query by the second of its end.
//! It holds no duration; those have distributions.

use super::TokenCounts;
use crate::{
    defects::{Defect, Defects},
    record::{QueryRecord, QueryStatus},
};

/// Counts of a second, a window or the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntervalCounts {
    /// Queries that ended.
    pub queries: u64,
    /// …of which not ok.
    pub failed: u64,
    /// …of which the run's end cut off.
    pub abandoned: u64,
    /// Tokens that arrived in it, for the first time.
    pub tokens: u64,
    /// Queries that ended and had a first token.
    pub begun: u64,
    /// Queries that ended and met every objective of `--goodput`.
    pub good: u64,
    /// Tokens of queries that ended, which never came.
    pub lost: u64,
    /// Tokens of queries that ended, which came again.
    pub duplicated: u64,
    /// Tokens of queries that ended, which came below one already seen.
    pub reordered: u64,
    /// What came that ought not to have come, by the discriminant of its kind.
    pub defects: [u64; Defect::COUNT],
    /// Queries during which a planned fault made their own simulator late.
    pub faulted: u64,
    /// Attempts to reconnect.
    pub reconnect_attempts: u64,
    /// …of which succeeded. One that was begun in an earlier second succeeds in a later one.
    pub reconnects: u64,
}

impl IntervalCounts {
    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.queries = self.queries.saturating_add(other.queries);
        self.failed = self.failed.saturating_add(other.failed);
        self.abandoned = self.abandoned.saturating_add(other.abandoned);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.begun = self.begun.saturating_add(other.begun);
        self.good = self.good.saturating_add(other.good);
        self.lost = self.lost.saturating_add(other.lost);
        self.duplicated = self.duplicated.saturating_add(other.duplicated);
        self.reordered = self.reordered.saturating_add(other.reordered);
        self.add_defects(&other.defects);
        self.faulted = self.faulted.saturating_add(other.faulted);
        self.reconnect_attempts = self.reconnect_attempts.saturating_add(other.reconnect_attempts);
        self.reconnects = self.reconnects.saturating_add(other.reconnects);
    }

    /// Whether the simulator is excused: not where that concerns more than half of the queries.
    #[must_use]
    pub const fn excuses_simulator(&self) -> bool {
        self.faulted * 2 <= self.queries
    }

    /// Something came while there was no query that it could be of.
    pub fn session_ended(&mut self, defects: &Defects) {
        self.add_defects(defects.counts());
    }

    fn add_defects(&mut self, defects: &[u64; Defect::COUNT]) {
        for (into, from) in self.defects.iter_mut().zip(defects) {
            *into = into.saturating_add(*from);
        }
    }

    /// A query ended; `good`: it met every objective.
    pub fn query_ended(&mut self, query: &QueryRecord, good: bool) {
        self.queries += 1;
        match query.status {
            QueryStatus::Ok => {}
            QueryStatus::Abandoned => self.abandoned += 1,
            _ => self.failed += 1,
        }
        self.begun += u64::from(query.first_token.is_some() && query.paused.is_zero());
        self.good += u64::from(good);
        self.faulted += u64::from(query.is_faulted());
        let tokens = TokenCounts::of(query);
        self.lost = self.lost.saturating_add(tokens.lost);
        self.duplicated = self.duplicated.saturating_add(tokens.duplicated);
        self.reordered = self.reordered.saturating_add(tokens.reordered);
        self.add_defects(query.defects.counts());
    }
}

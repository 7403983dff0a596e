//! What is counted in a stretch of the run: queries and tokens by the second in which their query ended.
//! It holds no duration; those have distributions.

use crate::record::{QueryRecord, QueryStatus};

/// Counts of a second, a window or the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries that ended.
    pub queries: u64,
    /// …of which not ok.
    pub failed: u64,
    /// …of which met every objective of `--goodput`.
    pub good: u64,
    /// Tokens of queries that ended, which never came.
    pub lost: u64,
    /// Tokens of queries that ended, which came again.
    pub duplicated: u64,
    /// Tokens of queries that ended, which came below one already seen.
    pub reordered: u64,
    /// Attempts to reconnect.
    pub reconnect_attempts: u64,
    /// …of which succeeded. One that was begun in an earlier second succeeds in a later one.
    pub reconnects: u64,
}

impl Counts {
    /// Takes all of `other`.
    pub const fn merge(&mut self, other: &Self) {
        self.queries += other.queries;
        self.failed += other.failed;
        self.good += other.good;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.reconnect_attempts += other.reconnect_attempts;
        self.reconnects += other.reconnects;
    }

    /// A query ended; `good`: it met every objective.
    pub fn query_ended(&mut self, query: &QueryRecord, good: bool) {
        self.queries += 1;
        self.failed += u64::from(query.status != QueryStatus::Ok);
        self.good += u64::from(good);
        self.lost += tokens_lost(query);
        self.duplicated += query.tally.tokens_duplicated;
        self.reordered += query.tally.tokens_reordered;
    }
}

/// Nothing is lost of a query that announced nothing, nor of one whose deadline had not come: it was never waited for.
pub(super) fn tokens_lost(query: &QueryRecord) -> u64 {
    let waited_for = query.tokens_expected.is_some() && query.status != QueryStatus::Abandoned;
    if waited_for { query.tally.tokens_lost } else { 0 }
}

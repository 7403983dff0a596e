//! Counts of a second, a window or the whole run.
//! Tokens count in the second of their arrival; everything else of a query counts in the second in which the query ended.

use super::TokenCounts;
use crate::{
    defects::{Defect, Defects},
    record::{QueryRecord, QueryStatus},
};
use serde::{Deserialize, Serialize};

/// Counts of a second, a window or the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalCounts {
    /// Queries that ended.
    pub queries: u64,
    /// Ended queries that failed.
    pub failed: u64,
    /// Ended queries that the end of the run cut off.
    pub abandoned: u64,
    /// Tokens that arrived for the first time.
    pub tokens: u64,
    /// Ended queries that had received a first token.
    pub begun: u64,
    /// Ended queries that met every `--goodput` objective.
    pub good: u64,
    /// Lost tokens of ended queries.
    pub lost: u64,
    /// Duplicated tokens of ended queries.
    pub duplicated: u64,
    /// Tokens of ended queries that first arrived after a later position.
    pub reordered: u64,
    /// Defects, indexed by the discriminant of their kind.
    pub defects: [u64; Defect::COUNT],
    /// Queries whose simulator was late because of a planned fault.
    pub faulted: u64,
    /// Attempts to reconnect.
    pub reconnect_attempts: u64,
    /// Successful reconnects. An attempt and its success may fall into different seconds.
    pub reconnects: u64,
    /// Arrivals that found every session busy.
    pub arrivals_dropped: u64,
    /// Time for which sessions were open, summed over all sessions, in nanoseconds.
    pub session_ns: u64,
    /// Time for which sessions were created or opened their first socket, summed over all of them, in nanoseconds.
    pub opening_ns: u64,
    /// Time for which queries were running, summed over all queries, in nanoseconds.
    pub query_ns: u64,
    /// Sampled tokens of complete queries with a time that was moved by no more than the error of the clock.
    pub hops_clamped: u64,
    /// Sampled tokens of complete queries whose times contradict each other.
    pub hops_impossible: u64,
}

impl IntervalCounts {
    /// Adds the counts of `other`.
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
        self.arrivals_dropped = self.arrivals_dropped.saturating_add(other.arrivals_dropped);
        self.session_ns = self.session_ns.saturating_add(other.session_ns);
        self.opening_ns = self.opening_ns.saturating_add(other.opening_ns);
        self.query_ns = self.query_ns.saturating_add(other.query_ns);
        self.hops_clamped = self.hops_clamped.saturating_add(other.hops_clamped);
        self.hops_impossible = self.hops_impossible.saturating_add(other.hops_impossible);
    }

    /// Returns whether planned faults excuse lateness of the simulator: only if they concern at most half of the queries.
    #[must_use]
    pub const fn excuses_simulator(&self) -> bool {
        self.faulted * 2 <= self.queries
    }

    /// Adds the defects of a session that belong to none of its queries.
    pub fn session_ended(&mut self, defects: &Defects) {
        self.add_defects(defects.counts());
    }

    fn add_defects(&mut self, defects: &[u64; Defect::COUNT]) {
        for (into, from) in self.defects.iter_mut().zip(defects) {
            *into = into.saturating_add(*from);
        }
    }

    /// Adds a query that ended. `good` tells whether it met every objective.
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

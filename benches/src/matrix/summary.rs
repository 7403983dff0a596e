//! The part of a run's summary that the fault matrix reads.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The fields of a run's `_summary.json` that the rules and the table read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Summary {
    pub(super) total_sessions: u64,
    pub(super) successful_sessions: u64,
    pub(super) queries_total: u64,
    pub(super) queries_ok: u64,
    pub(super) queries_error: u64,
    pub(super) queries_error_by_code: BTreeMap<String, u64>,
    pub(super) tokens_expected: u64,
    pub(super) tokens_received: u64,
    pub(super) tokens_lost: u64,
    pub(super) tokens_duplicated: u64,
    pub(super) tokens_reordered: u64,
    pub(super) announced_gaps: u64,
    pub(super) sockets_cut: u64,
    pub(super) sessions_stalled: u64,
    pub(super) longest_token_gap_ms: Option<f64>,
    pub(super) peak_reconnect_rate: u64,
    pub(super) reconnects_by_close_code: BTreeMap<String, u64>,
    pub(super) faults: Vec<Injection>,
}

/// A fault in the summary.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Injection {
    pub(super) fault: String,
    pub(super) outcome: String,
    pub(super) detail: String,
    pub(super) unrecovered: u64,
    pub(super) time_to_recover_ms: Option<f64>,
    pub(super) error_events: BTreeMap<String, u64>,
}

impl Summary {
    /// Returns the number of reconnects after a close code, or after `none`.
    pub(super) fn reconnects(&self, cause: &str) -> u64 {
        self.reconnects_by_close_code.get(cause).copied().unwrap_or(0)
    }

    /// Returns the longest time between two events of a query in milliseconds, 0 if there were none.
    pub(super) fn gap_ms(&self) -> f64 {
        self.longest_token_gap_ms.unwrap_or(0.0)
    }
}

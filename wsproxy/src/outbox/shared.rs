//! What all outboxes of a gateway share: limits, metrics and budgets.

use crate::{coalescing::Coalescing, liveness::Limits, metrics::Metrics, rate::Rate};
use guard::Budget;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Limits, metrics and budgets that all outboxes of a gateway share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    /// The bound of each queue, in bytes.
    pub(crate) limit: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) limits: Limits,
    pub(crate) coalescing: Coalescing,
    /// The budget of all client messages.
    pub(crate) inbound: Arc<Budget>,
    pub(crate) max_message: usize,
    /// The limit of one client's messages.
    pub(crate) up_rate: Option<Rate>,
    /// The start of the time scale of all rates.
    pub(crate) opened: Instant,
}

//! The results of one run, as far as a comparison needs them.

use super::{
    ComparedFigure, FigureKind,
    statistics::{Sessions, Share},
};
use serde_json::Value;
use std::collections::HashMap;

/// Settings that may differ between compared runs without a warning, because they do not change what is measured.
const OWN_SETTINGS: [&str; 12] = [
    "seed",
    "name",
    "output_dir",
    "api_url",
    "more_api_urls",
    "wsproxy_url",
    "more_wsproxy_urls",
    "published_ports",
    "workers",
    "thresholds",
    "abort_on_fail",
    "abort_delay_seconds",
];

/// Failed queries among all queries, and broken tokens among the expected ones. A broken token was lost, duplicated or
/// reordered.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Shares {
    pub failed: Share,
    pub broken: Share,
}

impl Shares {
    const fn of(&self, kind: FigureKind) -> Share {
        match kind {
            FigureKind::BrokenTokens => self.broken,
            _ => self.failed,
        }
    }
}

/// The results of one run: from its summary, from its rows, or from both.
#[derive(Clone, Debug, Default)]
pub struct ComparedRun {
    /// Name of the run in messages, usually the path of its file.
    pub name: String,
    /// Why the figures of the run cannot be trusted. `None` if they can.
    pub invalid: Option<String>,
    /// Shares over the whole run.
    pub total: Shares,
    /// Shares of each session. Empty without rows.
    pub sessions: Vec<Shares>,
    /// Number of sessions in the summary.
    pub sessions_total: f64,
    /// Distributions in the summary, by metric.
    pub metrics: Value,
    /// Configuration in the summary.
    pub config: Value,
    /// Durations of the queries in the rows, by metric.
    pub rows: HashMap<String, Sessions>,
}

impl ComparedRun {
    /// Computes the shares over the whole run from those of its sessions.
    pub fn sum_sessions(&mut self) {
        self.total = Shares {
            failed: Share::sum(self.sessions.iter().map(|session| &session.failed)),
            broken: Share::sum(self.sessions.iter().map(|session| &session.broken)),
        };
    }

    /// Returns the figure of this run in milliseconds, from its rows if it has them, otherwise from its summary.
    pub(super) fn figure(&self, compared: &ComparedFigure) -> Option<f64> {
        let percent = compared.percent;
        let of_rows = self.rows.get(&compared.metric).and_then(|rows| rows.quantile(percent / 100.0));
        let key = format!("p{percent}").replace('.', "_");
        of_rows.or_else(|| self.metrics[&compared.metric][key].as_f64())
    }

    /// Returns the share over the run.
    pub(super) const fn share(&self, kind: FigureKind) -> Share {
        self.total.of(kind)
    }

    /// Returns the share of each session. Without rows it is unknown how failures spread over the sessions. Each session then
    /// counts as one query or token, which is the least that it can be worth.
    pub(super) fn shares(&self, kind: FigureKind) -> Vec<Share> {
        if self.sessions.is_empty() {
            let Share { whole, .. } = self.share(kind);
            let whole = whole.min(self.sessions_total);
            return vec![Share { part: self.share(kind).value() * whole, whole }];
        }
        self.sessions.iter().map(|session| session.of(kind)).collect()
    }

    /// Returns the settings in which another run differs, of those that change what is measured.
    pub(super) fn differing(&self, other: &Self) -> Vec<String> {
        let (Some(mine), Some(others)) = (self.config.as_object(), other.config.as_object()) else {
            return Vec::new();
        };
        let differs = |key: &&String| others.get(*key).is_some_and(|value| *value != mine[*key]);
        mine.keys().filter(differs).filter(|key| !OWN_SETTINGS.contains(&key.as_str())).cloned().collect()
    }
}

/// Returns the rows of several runs as one sample. Sessions of different runs are different sessions.
pub(super) fn pooled(runs: &[ComparedRun], compared: &ComparedFigure) -> Option<Sessions> {
    let (mut values, mut sessions) = (Vec::new(), 0);
    for run in runs {
        let rows = run.rows.get(&compared.metric)?;
        values.extend(rows.values().map(|(value, session)| (value, session + sessions)));
        sessions += rows.sessions();
    }
    Some(Sessions::new(values, sessions))
}

//! The result of one measurement: figures by name, what was used up, and a verdict. Tables and comparisons are made from
//! records only.

use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured: `gateway`, `connect`, `search`, …
    pub suite: String,
    /// The target, for example `wsproxy over tcp`.
    pub variant: String,
    /// Whether the run was clean and can be trusted.
    pub verdict: Verdict,
    /// Why it is not clean, one sentence per reason.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// What was used up, one sentence per resource.
    #[serde(default)]
    pub saturated: Vec<String>,
    /// The figures, in reading order.
    pub figures: Vec<Figure>,
}

/// Whether a run was clean and can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is missing, and everything was in time.
    Clean,
    /// The measured program lost tokens or was too late.
    NotClean,
    /// The generator was late, so the figures cannot be trusted.
    Invalid,
}

/// A number whose name contains its unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// For example `cpu_us_per_token{gateway}`.
    pub name: String,
    /// The value in the unit of the name.
    pub value: f64,
}

impl Record {
    /// Creates a clean record without figures.
    #[must_use]
    pub fn new(suite: &str, variant: String) -> Self {
        Self {
            suite: suite.to_owned(),
            variant,
            verdict: Verdict::Clean,
            reasons: Vec::new(),
            saturated: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Adds a figure, rounded to three decimals.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push(Figure { name: name.into(), value: (value * 1_000.0).round() / 1_000.0 });
    }

    /// Returns the figure of this name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

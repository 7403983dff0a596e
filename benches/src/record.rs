//! What one measurement leaves: figures by name, what was saturated, and whether it can be trusted.
//! It computes none of them; tables and comparisons are made from records alone.

use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured: `gateway`, `connect`, `search`, …
    pub suite: String,
    /// On what, and how: `wsproxy over tcp`.
    pub variant: String,
    /// Whether the measurement stands.
    pub verdict: Verdict,
    /// Why it is not clean, a sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// What was used up, a sentence each.
    #[serde(default)]
    pub saturated: Vec<String>,
    /// In the order in which they are to be read.
    pub figures: Vec<Figure>,
}

/// Whether a measurement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing lost, and in time.
    Clean,
    /// What was measured did not keep up.
    NotClean,
    /// The generator itself was late: the figures are not those of what was measured.
    Invalid,
}

/// A number with its unit in its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `cpu_us_per_token{wsproxy}`, as it were.
    pub name: String,
    /// In the unit that the name says.
    pub value: f64,
}

impl Record {
    /// A clean record without figures.
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

    /// Adds a figure, to four significant digits at least.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push(Figure { name: name.into(), value: (value * 1_000.0).round() / 1_000.0 });
    }

    /// The figure of this name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

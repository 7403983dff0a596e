//! The impairment of a link, as a value.

use std::{fmt, time::Duration};

/// The amount of data that a relay passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flow {
    /// All data.
    #[default]
    Free,
    /// No data. Connections stay open.
    HalfOpen,
    /// One byte per second, in each direction of each connection.
    Slow,
}

/// The present impairment of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Impairment {
    /// Added latency.
    pub(crate) delay: Duration,
    /// Further latency between zero and this, drawn evenly. It does not change the order of the data.
    pub(crate) jitter: Duration,
    pub(crate) flow: Flow,
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flow {
            Flow::Free => f.write_str("normal")?,
            Flow::HalfOpen => f.write_str("half open")?,
            Flow::Slow => f.write_str("one byte per second")?,
        }
        if !self.delay.is_zero() {
            write!(f, ", delay {:?}", self.delay)?;
        }
        if !self.jitter.is_zero() {
            write!(f, ", jitter {:?}", self.jitter)?;
        }
        Ok(())
    }
}

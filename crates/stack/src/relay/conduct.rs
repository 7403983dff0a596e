//! How a relay treats what passes through it, as a value.

use std::time::Duration;

/// What is allowed through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Everything.
    #[default]
    Free,
    /// Nothing, and nobody is told.
    HalfOpen,
    /// A byte a second, in each direction of each connection.
    Slow,
}

/// A relay's conduct now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conduct {
    /// Everything arrives so much later.
    pub(crate) delay: Duration,
    /// And up to so much more, evenly spread, never out of order.
    pub(crate) jitter: Duration,
    pub(crate) flow: Flow,
}

impl std::fmt::Display for Conduct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.flow {
            Flow::Free => f.write_str("passes on")?,
            Flow::HalfOpen => f.write_str("half open")?,
            Flow::Slow => f.write_str("a byte a second")?,
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

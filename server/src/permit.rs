//! The permit of a running query: one of `MAX_STREAMS` places, and the query's entry in the bus's list of running queries. Dropping it
//! returns both, which happens when the bus acknowledged the query's last event.

use bus::Play;
use tokio::sync::OwnedSemaphorePermit;

/// The permit of one query.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
    play: Option<Play>,
}

impl Permit {
    /// Creates the permit of the query that `play` registers.
    pub(crate) const fn new(place: OwnedSemaphorePermit, play: Play) -> Self {
        Self { _place: place, play: Some(play) }
    }

    /// Notes that the session was claimed for the query as `generation`.
    pub(crate) fn claimed(&mut self, generation: u64) {
        if let Some(play) = &mut self.play {
            play.claimed(generation);
        }
    }

    /// Notes that the session was certainly not claimed for the query.
    pub(crate) fn declined(&mut self) {
        if let Some(play) = &mut self.play {
            play.declined();
        }
    }
}

/// A place alone, for tests without a bus.
#[cfg(test)]
impl From<OwnedSemaphorePermit> for Permit {
    fn from(place: OwnedSemaphorePermit) -> Self {
        Self { _place: place, play: None }
    }
}

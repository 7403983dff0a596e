//! The right to run a query: one of the server's places, and the query's entry among those that the server plays. Both are
//! given back when it is dropped, which is when the bus has the query's last event.

use crate::pacer::StreamId;
use bus::Play;
use tokio::sync::OwnedSemaphorePermit;

/// One query's right to run.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
    play: Option<Play>,
}

impl Permit {
    /// A right for the query that `play` registers.
    pub(crate) const fn new(place: OwnedSemaphorePermit, play: Play) -> Self {
        Self { _place: place, play: Some(play) }
    }

    /// The session was claimed for the query.
    pub(crate) fn claimed(&mut self, (_, generation): StreamId) {
        if let Some(play) = &mut self.play {
            play.claimed(generation);
        }
    }

    /// The session was certainly not claimed for it.
    pub(crate) fn declined(&mut self) {
        if let Some(play) = &mut self.play {
            play.declined();
        }
    }
}

/// A place alone, for what no bus lists.
#[cfg(test)]
impl From<OwnedSemaphorePermit> for Permit {
    fn from(place: OwnedSemaphorePermit) -> Self {
        Self { _place: place, play: None }
    }
}

//! A batch of events of many sessions, encoded one after the other in one buffer.

use protocol::{Kind, Position, Prefix, SessionId};

/// One event of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The session of the event.
    pub session: SessionId,
    /// The event's position and kind.
    pub prefix: Prefix,
    /// The event's frame.
    pub frame: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Item {
    session: SessionId,
    prefix: Prefix,
    end: usize,
}

/// Events in the order in which they are to be appended. A cleared batch keeps its memory for the next events.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    frames: Vec<u8>,
    items: Vec<Item>,
    /// Number of items that are settled, and the bytes of their frames.
    settled: usize,
    settled_bytes: usize,
}

impl Batch {
    /// Adds an event. `encode` appends the event's frame to the buffer.
    pub fn push(
        &mut self,
        session: SessionId,
        position: Position,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        encode(&mut self.frames);
        self.items.push(Item { session, prefix: Prefix { position, kind }, end: self.frames.len() });
    }

    /// Adds a copy of an event.
    pub fn push_entry(&mut self, entry: &Entry<'_>) {
        let Entry { session, prefix, frame } = *entry;
        self.push(session, prefix.position, prefix.kind, |out| out.extend_from_slice(frame));
    }

    /// Removes the first `count` events, because they are settled.
    pub fn advance(&mut self, count: usize) {
        self.settled = (self.settled + count).min(self.items.len());
        self.settled_bytes = self.settled.checked_sub(1).map_or(0, |last| self.items[last].end);
    }

    /// Returns the remaining events in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        let mut start = self.settled_bytes;
        self.items[self.settled..].iter().map(move |item| {
            let frame = &self.frames[start..item.end];
            start = item.end;
            Entry { session: item.session, prefix: item.prefix, frame }
        })
    }

    /// Returns the number of remaining events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len() - self.settled
    }

    /// Returns whether no event remains.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of the remaining frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len() - self.settled_bytes
    }

    /// Removes all events and keeps the memory.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.items.clear();
        (self.settled, self.settled_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::encode_token;
    use uuid::Uuid;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut batch = Batch::default();
        for round in 0..2 {
            for n in 1..=3u64 {
                let position = Position::new(9, n);
                batch.push(SessionId::new(Uuid::from_u128(n.into())), position, Kind::Token, |out| {
                    encode_token(out, position, &"x".repeat(n as usize), "q", round, 0);
                });
            }
            let seen: Vec<_> =
                batch.iter().map(|entry| Prefix::parse(entry.frame) == Some(entry.prefix)).collect();
            assert_eq!(seen, [true; 3]);
            let whole = batch.bytes();
            batch.advance(1);
            assert_eq!(batch.iter().map(|entry| entry.prefix.position.seq).collect::<Vec<_>>(), [2, 3]);
            assert!(batch.len() == 2 && batch.bytes() < whole);
            batch.advance(7);
            assert!(batch.is_empty() && batch.bytes() == 0 && batch.iter().len() == 0);
            batch.clear();
            assert!(batch.is_empty() && batch.bytes() == 0);
        }
    }
}

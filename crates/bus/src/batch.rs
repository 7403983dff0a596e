//! A batch: the events that fell due in one tick, of many sessions, encoded back to back in one buffer.

use protocol::{Kind, Position, Prefix, SessionId};

/// One event of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whose event it is.
    pub session: SessionId,
    /// Its place and kind.
    pub prefix: Prefix,
    /// Its frame.
    pub frame: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    session: SessionId,
    prefix: Prefix,
    end: usize,
}

/// Events in the order in which they are to be appended. Clear it and use it again: it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    frames: Vec<u8>,
    slots: Vec<Slot>,
    /// So many of the slots, and bytes of the frames, are done with.
    settled: usize,
    settled_bytes: usize,
}

impl Batch {
    /// Adds an event whose frame `encode` writes behind what the buffer holds.
    pub fn push(
        &mut self,
        session: SessionId,
        position: Position,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        encode(&mut self.frames);
        self.slots.push(Slot { session, prefix: Prefix { position, kind }, end: self.frames.len() });
    }

    /// Adds a copy of an event.
    pub fn push_entry(&mut self, entry: &Entry<'_>) {
        let Entry { session, prefix, frame } = *entry;
        self.push(session, prefix.position, prefix.kind, |out| out.extend_from_slice(frame));
    }

    /// Leaves out the first `count` events: they are settled.
    pub fn advance(&mut self, count: usize) {
        self.settled = (self.settled + count).min(self.slots.len());
        self.settled_bytes = self.settled.checked_sub(1).map_or(0, |last| self.slots[last].end);
    }

    /// The events that are left, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        let mut start = self.settled_bytes;
        self.slots[self.settled..].iter().map(move |slot| {
            let frame = &self.frames[start..slot.end];
            start = slot.end;
            Entry { session: slot.session, prefix: slot.prefix, frame }
        })
    }

    /// How many events are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.settled
    }

    /// None is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the frames that are left.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len() - self.settled_bytes
    }

    /// Forgets the events, keeps the memory.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.slots.clear();
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

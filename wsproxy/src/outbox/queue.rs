//! Frames that the socket has not taken yet, back to back, and the position up to which it has taken everything.
//! Pure accounting: it knows no socket, and what to do when it grows too long is its owner's decision.

use protocol::Position;
use std::{collections::VecDeque, io::IoSlice};

/// Queued frames and the cursor. Holds no memory while it is empty.
#[derive(Debug)]
pub(crate) struct Queue {
    bytes: VecDeque<u8>,
    frames: VecDeque<Queued>,
    /// How much of the first frame the socket has taken.
    taken: usize,
    cursor: Position,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    len: usize,
    /// Where the cursor stands once the frame is out; `None` for frames that are no events.
    position: Option<Position>,
}

impl Queue {
    /// An empty queue of a client that has everything up to `cursor`.
    pub(crate) const fn new(cursor: Position) -> Self {
        Self { bytes: VecDeque::new(), frames: VecDeque::new(), taken: 0, cursor }
    }

    /// Starts over at `cursor`; nothing has been queued or handed over yet.
    pub(crate) const fn start_at(&mut self, cursor: Position) {
        self.cursor = cursor;
    }

    /// The position of the last event that the socket took in full.
    pub(crate) const fn cursor(&self) -> Position {
        self.cursor
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that the socket has not taken in full.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of memory that the queue accounts for.
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + self.frames.len() * size_of::<Queued>()
    }

    /// A frame went out in full, past the empty queue.
    pub(crate) fn handed_over(&mut self, position: Option<Position>) {
        debug_assert!(self.is_empty(), "a frame overtook the queue");
        if let Some(position) = position {
            // A late gap names what was passed long ago.
            self.cursor = self.cursor.max(position);
        }
    }

    /// Queues a frame of which the socket has taken `taken` bytes (0 unless the queue is empty).
    pub(crate) fn push(&mut self, parts: [&[u8]; 2], taken: usize, position: Option<Position>) {
        debug_assert!(taken == 0 || self.is_empty(), "a frame was begun behind a queue");
        let [head, tail] = parts;
        let len = head.len() + tail.len();
        debug_assert!(taken < len, "nothing of the frame is left to queue");
        if self.is_empty() {
            self.taken = taken;
        }
        let of_head = taken.min(head.len());
        self.bytes.extend(&head[of_head..]);
        self.bytes.extend(&tail[taken - of_head..]);
        self.frames.push_back(Queued { len, position });
    }

    /// What to write next.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        let (front, back) = self.bytes.as_slices();
        [IoSlice::new(front), IoSlice::new(back)]
    }

    /// The socket took `count` bytes more.
    pub(crate) fn advance(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.taken += count;
        while let Some(first) = self.frames.front()
            && self.taken >= first.len
        {
            self.taken -= first.len;
            self.cursor = first.position.map_or(self.cursor, |position| self.cursor.max(position));
            self.frames.pop_front();
        }
        if self.is_empty() {
            *self = Self::new(self.cursor);
        }
    }

    /// Drops every frame that the socket has not begun; answers how many.
    pub(crate) fn drop_unbegun(&mut self) -> usize {
        let keep = usize::from(self.taken > 0);
        let dropped = self.frames.len() - keep.min(self.frames.len());
        self.frames.truncate(keep);
        match self.frames.front() {
            Some(first) => self.bytes.truncate(first.len - self.taken),
            None => *self = Self::new(self.cursor),
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push { head: usize, tail: usize, is_event: bool, taken: usize },
        Write(usize),
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1usize..5, 0usize..40, any::<bool>(), 0usize..40)
                .prop_map(|(head, tail, is_event, taken)| Step::Push { head, tail, is_event, taken }),
            4 => (0usize..60).prop_map(Step::Write),
            1 => Just(Step::Drop),
        ]
    }

    proptest! {
        /// Whatever is pushed, taken in pieces and dropped: the wire carries whole frames in order, and the cursor is
        /// the last event that is on the wire in full.
        #[test]
        fn the_wire_carries_whole_frames(steps in proptest::collection::vec(step(), 0..60)) {
            let mut queue = Queue::new(Position::ZERO);
            let mut wire: Vec<u8> = Vec::new();
            // Frames that are on the wire or will be: first byte, length, position.
            let mut expected: Vec<(usize, Option<Position>)> = Vec::new();
            let mut on_wire_frames: Vec<(u8, usize)> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                let tag = n as u8;
                match step {
                    Step::Push { head, tail, is_event, taken } => {
                        let (head, tail) = (vec![tag; head], vec![tag; tail]);
                        let len = head.len() + tail.len();
                        let position = is_event.then(|| Position::new(1, n as u64 + 1));
                        let taken = if queue.is_empty() { taken % len } else { 0 };
                        wire.extend(std::iter::repeat_n(tag, taken));
                        queue.push([&head, &tail], taken, position);
                        expected.push((len, position));
                        on_wire_frames.push((tag, len));
                    }
                    Step::Write(most) => {
                        let bytes: Vec<u8> = queue.slices().iter().flat_map(|slice| slice.to_vec()).take(most).collect();
                        wire.extend(&bytes);
                        queue.advance(bytes.len());
                    }
                    Step::Drop => {
                        let dropped = queue.drop_unbegun();
                        expected.truncate(expected.len() - dropped);
                        on_wire_frames.truncate(on_wire_frames.len() - dropped);
                        prop_assert!(dropped == 0 || queue.frames.len() <= 1);
                    }
                }
                let mut end = 0;
                let mut cursor = Position::ZERO;
                for (len, position) in &expected {
                    end += len;
                    if end <= wire.len() { cursor = position.unwrap_or(cursor); }
                }
                prop_assert_eq!(queue.cursor(), cursor);
                prop_assert_eq!(queue.is_empty(), end == wire.len());
                if queue.is_empty() { prop_assert_eq!(queue.cost() + queue.bytes.capacity(), 0); }
            }
            let rest: Vec<u8> = queue.slices().iter().flat_map(|slice| slice.to_vec()).collect();
            wire.extend(rest);
            let whole: Vec<u8> =
                on_wire_frames.iter().flat_map(|&(tag, len)| std::iter::repeat_n(tag, len)).collect();
            prop_assert_eq!(wire, whole);
        }
    }
}

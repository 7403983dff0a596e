//! The frames that the socket has not taken yet, and the cursor: the position up to which it has taken everything. It is pure: the outbox
//! enforces the bound and writes.

use protocol::Position;
use std::{collections::VecDeque, io::IoSlice};

/// Queued frames and the cursor. An empty queue holds no memory.
#[derive(Debug)]
pub(crate) struct Queue {
    /// `None` if nothing is queued, as it is nearly always.
    waiting: Option<Box<Waiting>>,
    cursor: Position,
}

/// The frames of a queue that is not empty.
#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    frames: VecDeque<Queued>,
    /// Bytes of the first frame that the socket has taken.
    taken: usize,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    len: usize,
    /// The cursor after the frame. `None` for frames that are not events.
    position: Option<Position>,
}

impl Queue {
    /// Creates the queue of a client that has everything up to `cursor`.
    pub(crate) const fn new(cursor: Position) -> Self {
        Self { waiting: None, cursor }
    }

    /// Sets the cursor before anything is queued or handed over.
    pub(crate) const fn start_at(&mut self, cursor: Position) {
        self.cursor = cursor;
    }

    /// Returns the position of the last event that the socket took completely.
    pub(crate) const fn cursor(&self) -> Position {
        self.cursor
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Returns the number of frames that the socket has not taken completely.
    pub(crate) fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.frames.len())
    }

    /// Returns the bytes of memory that count against the bound.
    pub(crate) fn cost(&self) -> usize {
        let cost = |waiting: &Waiting| waiting.bytes.len() + waiting.frames.len() * size_of::<Queued>();
        self.waiting.as_deref().map_or(0, cost)
    }

    /// Notes that the socket took a frame completely while the queue was empty.
    pub(crate) fn handed_over(&mut self, position: Option<Position>) {
        debug_assert!(self.is_empty(), "a frame overtook the queue");
        if let Some(position) = position {
            // The position of a late gap lies before the cursor.
            self.cursor = self.cursor.max(position);
        }
    }

    /// Queues a frame of which the socket has taken `taken` bytes (0 unless the queue is empty).
    pub(crate) fn push(&mut self, parts: [&[u8]; 2], taken: usize, position: Option<Position>) {
        debug_assert!(taken == 0 || self.is_empty(), "a frame was begun behind a queue");
        let [head, tail] = parts;
        let len = head.len() + tail.len();
        debug_assert!(taken < len, "nothing of the frame is left to queue");
        let waiting = self.waiting.get_or_insert_with(|| Box::new(Waiting { taken, ..Waiting::default() }));
        let of_head = taken.min(head.len());
        waiting.bytes.extend(&head[of_head..]);
        waiting.bytes.extend(&tail[taken - of_head..]);
        waiting.frames.push_back(Queued { len, position });
    }

    /// Returns the bytes to write next.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        let (front, back) =
            self.waiting.as_deref().map_or_else(Default::default, |waiting| waiting.bytes.as_slices());
        [IoSlice::new(front), IoSlice::new(back)]
    }

    /// Notes that the socket took `count` more bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        waiting.bytes.drain(..count);
        waiting.taken += count;
        while let Some(first) = waiting.frames.front()
            && waiting.taken >= first.len
        {
            waiting.taken -= first.len;
            self.cursor = first.position.map_or(self.cursor, |position| self.cursor.max(position));
            waiting.frames.pop_front();
        }
        if waiting.frames.is_empty() {
            self.waiting = None;
        }
    }

    /// Drops every frame of which the socket has taken nothing. Returns their number.
    pub(crate) fn drop_unbegun(&mut self) -> usize {
        let Some(waiting) = &mut self.waiting else { return 0 };
        let keep = usize::from(waiting.taken > 0);
        let dropped = waiting.frames.len() - keep.min(waiting.frames.len());
        waiting.frames.truncate(keep);
        match waiting.frames.front() {
            Some(first) => waiting.bytes.truncate(first.len - waiting.taken),
            None => self.waiting = None,
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
        /// With any pushes, partial writes and drops, the wire carries complete frames in order, and the cursor is the last event that is
        /// completely on the wire.
        #[test]
        fn the_wire_carries_complete_frames(steps in proptest::collection::vec(step(), 0..60)) {
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
                        prop_assert!(dropped == 0 || queue.len() <= 1);
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
                if queue.is_empty() { prop_assert_eq!(queue.cost(), 0); }
            }
            let rest: Vec<u8> = queue.slices().iter().flat_map(|slice| slice.to_vec()).collect();
            wire.extend(rest);
            let whole: Vec<u8> =
                on_wire_frames.iter().flat_map(|&(tag, len)| std::iter::repeat_n(tag, len)).collect();
            prop_assert_eq!(wire, whole);
        }
    }
}

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
    /// Bytes that the socket has taken since the queue was last empty.
    advanced: usize,
    /// The times in queued frames that are set anew before a write.
    stamps: VecDeque<Stamp>,
}

/// The digits of a time in a queued frame.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// Where they begin, in bytes since the queue was last empty.
    at: usize,
    digits: usize,
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
        let cost = |waiting: &Waiting| {
            waiting.bytes.len()
                + waiting.frames.len() * size_of::<Queued>()
                + waiting.stamps.len() * size_of::<Stamp>()
        };
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

    /// Notes that the last frame, if it is the event at `position`, ends with a time of `digits` digits and `}`. Has no effect if the socket
    /// has taken some of these bytes.
    pub(crate) fn stamped(&mut self, position: Position, digits: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        let Some(last) = waiting.frames.back().filter(|last| last.position == Some(position)) else { return };
        let left = if waiting.frames.len() == 1 { last.len - waiting.taken } else { last.len };
        if left > digits {
            let at = waiting.advanced + waiting.bytes.len() - 1 - digits;
            waiting.stamps.push_back(Stamp { at, digits });
        }
    }

    /// Returns whether a queued frame has a time that is set before it is written.
    pub(crate) fn has_stamps(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| !waiting.stamps.is_empty())
    }

    /// Sets the times of all queued frames. A time keeps its old value if the new one has another number of digits, which happens only
    /// when the host has run for a power of ten of microseconds.
    pub(crate) fn stamp(&mut self, us: u64) {
        let Some(waiting) = &mut self.waiting else { return };
        let text = us.to_string();
        for &Stamp { at, digits } in &waiting.stamps {
            if let Some(from) = at.checked_sub(waiting.advanced).filter(|_| digits == text.len()) {
                waiting
                    .bytes
                    .range_mut(from..from + digits)
                    .zip(text.bytes())
                    .for_each(|(old, new)| *old = new);
            }
        }
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
        waiting.advanced += count;
        while waiting.stamps.front().is_some_and(|stamp| stamp.at < waiting.advanced) {
            waiting.stamps.pop_front();
        }
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
            Some(first) => {
                waiting.bytes.truncate(first.len - waiting.taken);
                let end = waiting.advanced + waiting.bytes.len();
                waiting.stamps.retain(|stamp| stamp.at < end);
            }
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

    #[derive(Clone, Debug)]
    enum StampStep {
        Push { before: usize, taken: usize, is_stamped: bool },
        Stamp(u64),
        Write(usize),
        Drop,
    }

    fn stamp_step() -> impl Strategy<Value = StampStep> {
        prop_oneof![
            4 => (1usize..20, 0usize..30, any::<bool>())
                .prop_map(|(before, taken, is_stamped)| StampStep::Push { before, taken, is_stamped }),
            3 => (0u64..20_000).prop_map(StampStep::Stamp),
            3 => (0usize..40).prop_map(StampStep::Write),
            1 => Just(StampStep::Drop),
        ]
    }

    proptest! {
        /// A time that waits in the queue has the last value that was set before its first digit was written. No other byte changes.
        #[test]
        fn a_time_is_set_anew_until_it_is_written(steps in proptest::collection::vec(stamp_step(), 0..60)) {
            let (mut queue, mut wire, mut written) = (Queue::new(Position::ZERO), Vec::new(), 0);
            // What the wire will carry, where each frame and each time in it begins.
            let (mut expected, mut begins, mut times) = (Vec::new(), Vec::new(), Vec::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    StampStep::Push { before, taken, is_stamped } => {
                        let frame = [vec![b'a'; before], b"1000}".to_vec()].concat();
                        let taken = if queue.is_empty() { taken % frame.len() } else { 0 };
                        let (head, tail) = frame.split_at(1);
                        let position = Position::new(1, n as u64 + 1);
                        queue.push([head, tail], taken, Some(position));
                        begins.push(expected.len());
                        if is_stamped {
                            queue.stamped(position, 4);
                            queue.stamped(Position::new(2, 1), 4);
                            times.push(expected.len() + before);
                        }
                        wire.extend_from_slice(&frame[..taken]);
                        written += taken;
                        expected.extend_from_slice(&frame);
                    }
                    StampStep::Stamp(us) => {
                        queue.stamp(us);
                        for &at in times.iter().filter(|&&at| at >= written && us.to_string().len() == 4) {
                            expected[at..at + 4].copy_from_slice(us.to_string().as_bytes());
                        }
                    }
                    StampStep::Write(most) => {
                        let bytes: Vec<u8> =
                            queue.slices().iter().flat_map(|slice| slice.to_vec()).take(most).collect();
                        wire.extend_from_slice(&bytes);
                        written += bytes.len();
                        queue.advance(bytes.len());
                    }
                    StampStep::Drop => {
                        queue.drop_unbegun();
                        if let Some(&end) = begins.iter().find(|&&begin| begin >= written) {
                            expected.truncate(end);
                            begins.retain(|&begin| begin < end);
                            times.retain(|&at| at < end);
                        }
                    }
                }
                prop_assert!(!queue.is_empty() || !queue.has_stamps());
            }
            wire.extend(queue.slices().iter().flat_map(|slice| slice.to_vec()));
            prop_assert_eq!(String::from_utf8(wire), String::from_utf8(expected));
        }
    }
}

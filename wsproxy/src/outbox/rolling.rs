//! Sends the tokens of a window as one frame, if the client asked for a rollup.

use super::{Outbox, Phase, State};
use crate::{
    frame::{Header, Opcode},
    rollup::{Reminded, Step},
};
use protocol::Prefix;
use std::time::Instant;

impl Outbox {
    /// Takes an event into the window, or sends it behind the window.
    pub(super) fn roll(&self, state: &mut State, prefix: Prefix, frame: &[u8]) {
        let is_open = state.phase == Phase::Open && !state.lost;
        if !(is_open && self.has_room(state, frame.len())) {
            return;
        }
        let Some(rollup) = &mut state.rollup else { return };
        match rollup.push(prefix, frame, Instant::now()) {
            Step::Send => self.offer(state, Opcode::Text, frame, Some(prefix.position)),
            Step::Wait => {}
            Step::Remind(at) => self.shared.coalescing.remind(self.me.clone(), at),
            Step::SendWindow => self.send_window(state),
        }
    }

    pub(super) fn window_reminded(&self, state: &mut State, now: Instant) {
        let Some(rollup) = &mut state.rollup else { return };
        match rollup.reminded(now) {
            Reminded::Nothing => {}
            Reminded::Later(at) => self.shared.coalescing.remind(self.me.clone(), at),
            Reminded::Due => self.send_window(state),
        }
    }

    /// Sends what waits in the window. Its bytes were counted when the tokens joined it, so there is room for its frame.
    pub(super) fn send_window(&self, state: &mut State) {
        let Some(rollup) = state.rollup.as_mut().filter(|rollup| rollup.bytes() > 0) else { return };
        let Some(frame) = rollup.take(Instant::now()) else { return };
        if frame.tokens > 1 {
            self.shared.metrics.rolled_frames.inc();
            self.shared.metrics.rolled_tokens.inc_by(frame.tokens);
        }
        let header = Header::new(Opcode::Text, frame.payload.len());
        self.send(state, [header.as_bytes(), &frame.payload], Some(frame.position));
    }

    /// Drops the window. Returns the number of its tokens.
    pub(super) fn drop_window(state: &mut State) -> u64 {
        let window = state.rollup.as_mut().and_then(|rollup| rollup.clear());
        window.map_or(0, |window| window.count())
    }
}

impl State {
    /// Returns the bytes that count against the outbox's limit: those of the queue and of the window.
    pub(super) fn cost(&self) -> usize {
        self.queue.cost() + self.rollup.as_ref().map_or(0, |rollup| rollup.bytes())
    }
}

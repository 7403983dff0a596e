//! Receives events from the bus. An event is sent at once, or held back to share a segment with the next ones.

use super::{Outbox, Phase, State, held::Reminded, writing::Drained};
use crate::{
    coalescing::HoldsEvents,
    frame::{Header, Opcode},
};
use bus::{LaneEnd, Outlet};
use protocol::{CloseReason, Kind, Position, Prefix, encode_gap, encode_resumed, is_sampled};
use std::time::Instant;

impl Outlet for Outbox {
    fn event(&self, prefix: Prefix, frame: &[u8]) {
        self.deliver(&mut self.state.lock(), prefix, frame);
    }

    fn live_event(&self, prefix: Prefix, frame: &[u8]) {
        match self.hops {
            Some(every) if is_sampled(prefix, every) => self.sampled(prefix, frame),
            _ => self.event(prefix, frame),
        }
    }

    fn gap(&self, from: Position, to: Position) {
        self.shared.metrics.gaps.inc();
        self.offer(&mut self.state.lock(), Opcode::Text, encode_gap(from, to).as_bytes(), Some(to));
    }

    fn caught_up(&self, at: Position) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.announces) {
            self.offer(&mut state, Opcode::Text, encode_resumed(at).as_bytes(), None);
        }
    }

    fn behind(&self) {
        let mut state = self.state.lock();
        state.behind = true;
        if self.is_half_free(&state) {
            self.feeder.notify_one();
        }
    }

    fn end(&self, end: LaneEnd) {
        self.close(match end {
            LaneEnd::SessionClosed => CloseReason::SessionClosed,
            LaneEnd::TakenOver => CloseReason::TakenOver,
        });
    }
}

impl HoldsEvents for Outbox {
    fn release(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.rollup.is_some() {
            return self.window_reminded(&mut state, now);
        }
        let most = self.shared.coalescing.most();
        match state.held.reminded(now, most) {
            Reminded::Nothing => {}
            Reminded::Later(since) => self.shared.coalescing.remind(self.me.clone(), since + most),
            Reminded::Due => self.write_held(&mut state),
        }
    }
}

impl Outbox {
    /// Sends an event, or holds it back.
    pub(super) fn deliver(&self, state: &mut State, prefix: Prefix, frame: &[u8]) {
        state.largest = state.largest.max(frame.len());
        state.close_cursor.event(prefix);
        self.shared.metrics.events.inc();
        if state.rollup.is_some() {
            return self.roll(state, prefix, frame);
        }
        if !self.holds(state, prefix, frame) {
            self.offer(state, Opcode::Text, frame, Some(prefix.position));
        }
    }

    /// Queues an event to share a segment with the next ones. Returns false if it should be sent at once.
    fn holds(&self, state: &mut State, prefix: Prefix, frame: &[u8]) -> bool {
        let coalescing = &self.shared.coalescing;
        let batch = coalescing.batch();
        if batch == 1 && !state.held.any() {
            state.held.forget_pace();
            return false;
        }
        let now = Instant::now();
        let gap = state.held.gap(now);
        let joins = prefix.kind == Kind::Token && prefix.position.seq > 1 && state.held.count() + 1 < batch;
        // Events behind a non-empty queue are written together anyway.
        let waits = state.held.any()
            || (state.queue.is_empty() && gap.is_some_and(|gap| coalescing.is_worth_waiting(gap)));
        if !(joins && waits && state.phase == Phase::Open && !state.lost && self.fits(state, frame.len())) {
            return false;
        }
        let header = Header::new(Opcode::Text, frame.len());
        state.queue.push([header.as_bytes(), frame], 0, Some(prefix.position));
        self.shared.metrics.held_frames.inc();
        if state.held.hold(now) {
            coalescing.remind(self.me.clone(), now + coalescing.most());
        }
        true
    }

    /// Writes the held events.
    pub(super) fn write_held(&self, state: &mut State) {
        if let Some(socket) = self.socket() {
            self.check_peer(state, socket);
        }
        match self.drain(state) {
            Drained::Empty => {
                self.shared.metrics.direct_writes.inc();
                self.wrote(state);
            }
            Drained::Blocked => {
                self.shared.metrics.queued_frames.inc_by(state.queue.len() as u64);
                self.writer.notify_one();
            }
            Drained::Lost => self.writer.notify_one(),
        }
    }
}

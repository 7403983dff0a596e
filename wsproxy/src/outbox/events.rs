//! Events on their way out: each at once, or held back for the next ones while segments are merged. It decides what waits;
//! the queue and the socket are its parent's.

use super::{Drained, Outbox, Phase, State, held::Reminded};
use crate::frame::{Header, Opcode};
use bus::{LaneEnd, Outlet};
use protocol::{CloseReason, Kind, Position, Prefix, encode_gap, encode_resumed};
use std::time::Instant;

impl Outlet for Outbox {
    fn event(&self, prefix: Prefix, frame: &[u8]) {
        let mut state = self.state.lock();
        state.largest = state.largest.max(frame.len());
        state.parting.event(prefix);
        self.terms.metrics.events.inc();
        if !self.holds(&mut state, prefix, frame) {
            self.offer(&mut state, Opcode::Text, frame, Some(prefix.position));
        }
    }

    fn gap(&self, from: Position, to: Position) {
        self.terms.metrics.gaps.inc();
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

impl Outbox {
    /// Queues an event that goes out with those after it, where segments are merged; false where it goes out now.
    fn holds(&self, state: &mut State, prefix: Prefix, frame: &[u8]) -> bool {
        let coalescing = &self.terms.coalescing;
        let batch = coalescing.batch();
        if batch == 1 && !state.held.any() {
            state.held.forget_pace();
            return false;
        }
        let now = Instant::now();
        let gap = state.held.gap(now);
        let joins = prefix.kind == Kind::Token && prefix.position.seq > 1 && state.held.count() + 1 < batch;
        // What the socket has not taken is merged anyway.
        let waits = state.held.any()
            || (state.queue.is_empty() && gap.is_some_and(|gap| coalescing.is_worth_waiting(gap)));
        if !(joins && waits && state.phase == Phase::Open && !state.lost && self.fits(state, frame.len())) {
            return false;
        }
        let header = Header::new(Opcode::Text, frame.len());
        state.queue.push([header.as_bytes(), frame], 0, Some(prefix.position));
        self.terms.metrics.held_frames.inc();
        if state.held.hold(now) {
            coalescing.remind(self.me.clone(), now);
        }
        true
    }

    /// What has been held back for as long as it may be goes out; what was held later is reminded of again.
    pub(crate) fn release(&self, now: Instant) {
        let mut state = self.state.lock();
        match state.held.reminded(now, self.terms.coalescing.most()) {
            Reminded::Nothing => {}
            Reminded::Later(since) => self.terms.coalescing.remind(self.me.clone(), since),
            Reminded::Due => self.let_go(&mut state),
        }
    }

    /// Writes what was held back.
    pub(super) fn let_go(&self, state: &mut State) {
        if let Some(socket) = self.socket() {
            self.ask(state, socket);
        }
        match self.drain(state) {
            Drained::Empty => {
                self.terms.metrics.direct_writes.inc();
                self.wrote(state);
            }
            Drained::Blocked => {
                self.terms.metrics.queued_frames.inc_by(state.queue.len() as u64);
                self.writer.notify_one();
            }
            Drained::Lost => self.writer.notify_one(),
        }
    }
}

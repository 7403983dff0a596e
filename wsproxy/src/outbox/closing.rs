//! Closes a socket: its close frame, the time limit, and what happens to the queue.

use super::{Outbox, Phase, State};
use crate::frame::{Header, Opcode, close_payload};
use protocol::CloseReason;
use std::time::Instant;

impl Outbox {
    /// Closes the socket for `reason` with its default text.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_with(reason, reason.text());
    }

    /// Closes the socket for `reason` with this text.
    pub(crate) fn close_with(&self, reason: CloseReason, text: &str) {
        self.begin_close(&mut self.state.lock(), reason, text);
    }

    /// Notes that the client sent a close frame.
    pub(crate) fn closed_by_peer(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::ClosedByPeer;
            self.begin_end(&mut state, true);
        }
    }

    /// Drops the socket without a close frame.
    pub(crate) fn abandon(&self) {
        self.lose(&mut self.state.lock());
    }

    pub(super) fn begin_close(&self, state: &mut State, reason: CloseReason, text: &str) {
        if state.phase != Phase::Open {
            return;
        }
        if !drops_queue(reason) {
            self.send_window(state);
        }
        state.phase = Phase::Closing(reason);
        self.shared.metrics.close(reason.label());
        self.begin_end(state, drops_queue(reason));
        let payload = close_payload(reason, text);
        let header = Header::new(Opcode::Close, payload.len());
        self.send(state, [header.as_bytes(), &payload], None);
    }

    /// Starts the time limit of the close, after which only a close frame is sent behind the queue.
    fn begin_end(&self, state: &mut State, drop_queue: bool) {
        state.deadline = Some(Instant::now() + self.shared.close_timeout);
        if drop_queue {
            let dropped = state.queue.drop_unbegun() as u64 + Self::drop_window(state);
            self.shared.metrics.dropped_frames.inc_by(dropped);
        }
        self.feeder.notify_one();
    }

    pub(super) fn lose(&self, state: &mut State) {
        state.lost = true;
        self.writer.notify_one();
        self.feeder.notify_one();
    }
}

/// Returns whether a close for this reason drops the queue and the window. The client gets those events when it resumes.
const fn drops_queue(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::SlowConsumer | CloseReason::TakenOver | CloseReason::NoPong)
}

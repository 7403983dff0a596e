//! Writes frames to the socket, and queues what the socket does not take.

use super::{Outbox, Phase, State};
use crate::{
    frame::{Header, Opcode},
    socket::Socket,
};
use protocol::{CloseReason, Position};
use std::{
    future::poll_fn,
    io::ErrorKind,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// A peer that has not read a write after this time is behind.
const TIME_TO_READ: Duration = Duration::from_millis(10);

/// The state of the queue after writes.
pub(super) enum Drained {
    /// Everything was written, or the socket is not connected yet.
    Empty,
    /// The socket takes nothing more for now.
    Blocked,
    /// The socket was lost.
    Lost,
}

impl Outbox {
    /// Writes the queue whenever it is not empty. Returns when the socket is lost.
    ///
    /// Every open socket waits here, so this is a state of one byte and not an `async` function, whose state has several waits.
    pub(crate) fn write_out(&self) -> impl Future<Output = ()> + '_ {
        let mut is_empty = false;
        poll_fn(move |cx| {
            loop {
                if is_empty {
                    ready!(self.writer.poll(cx));
                    is_empty = false;
                }
                match ready!(self.poll_queue(cx)) {
                    Drained::Lost => return Poll::Ready(()),
                    _ => is_empty = true,
                }
            }
        })
    }

    /// Writes the queue. Returns false if the socket was lost before it was empty.
    pub(crate) async fn flush(&self) -> bool {
        !matches!(poll_fn(|cx| self.poll_queue(cx)).await, Drained::Lost)
    }

    /// Writes the queue until it is empty or the socket is lost.
    fn poll_queue(&self, cx: &mut Context<'_>) -> Poll<Drained> {
        loop {
            let drained = self.drain(&mut self.state.lock());
            let (Drained::Blocked, Some(socket)) = (&drained, self.socket()) else {
                return Poll::Ready(drained);
            };
            let is_writable = socket.poll_writable(cx).is_ready();
            if self.writer.poll(cx).is_pending() && !is_writable {
                return Poll::Pending;
            }
        }
    }

    /// Returns whether the queue has room for a frame. Held events are written first. If there is still no room, the socket is closed as a
    /// slow consumer.
    pub(super) fn has_room(&self, state: &mut State, len: usize) -> bool {
        if !self.fits(state, len) && state.held.any() {
            self.write_held(state);
        }
        if self.fits(state, len) {
            return true;
        }
        self.shared.metrics.overflows.inc();
        self.begin_close(state, CloseReason::SlowConsumer, CloseReason::SlowConsumer.text());
        false
    }

    pub(super) fn fits(&self, state: &State, len: usize) -> bool {
        state.queue.is_empty() || state.cost() + len <= self.shared.limit
    }

    pub(super) fn offer(
        &self,
        state: &mut State,
        opcode: Opcode,
        payload: &[u8],
        position: Option<Position>,
    ) {
        // Nothing overtakes the tokens of a window.
        self.send_window(state);
        if state.phase == Phase::Open && self.has_room(state, payload.len()) {
            let header = Header::new(opcode, payload.len());
            self.send(state, [header.as_bytes(), payload], position);
        }
    }

    /// Writes what the socket takes of a frame, and queues the rest.
    pub(super) fn send(&self, state: &mut State, parts: [&[u8]; 2], position: Option<Position>) {
        if state.lost {
            return;
        }
        if state.held.any() {
            state.queue.push(parts, 0, position);
            return self.write_held(state);
        }
        let was_empty = state.queue.is_empty();
        let mut taken = 0;
        if was_empty && let Some(socket) = self.socket() {
            self.check_peer(state, socket);
            match socket.try_write_frame(parts) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return self.lose(state),
            }
            self.shared.metrics.bytes.inc_by(taken as u64);
            if taken == parts[0].len() + parts[1].len() {
                self.shared.metrics.direct_writes.inc();
                self.wrote(state);
                return state.queue.handed_over(position);
            }
        }
        self.shared.metrics.queued_frames.inc();
        state.queue.push(parts, taken, position);
        if was_empty {
            self.writer.notify_one();
        }
    }

    /// Notes a write. After every n-th one, the next write checks whether the peer has read it.
    pub(super) fn wrote(&self, state: &mut State) {
        if self.shared.coalescing.asks() {
            state.check_since = Some(Instant::now());
        }
    }

    /// Checks whether the peer has read the last write, if it has had time to.
    pub(super) fn check_peer(&self, state: &mut State, socket: &Socket) {
        if let Some(since) = state.check_since.take()
            && since.elapsed() >= TIME_TO_READ
            && let Some(unread) = socket.unread()
        {
            self.shared.coalescing.answered(unread == 0);
        }
    }

    /// Writes as much of the queue as the socket takes.
    pub(super) fn drain(&self, state: &mut State) -> Drained {
        state.held.clear();
        if state.queue.has_stamps() {
            state.queue.stamp(host::monotonic_us());
        }
        while !state.lost && !state.queue.is_empty() {
            let Some(socket) = self.socket() else { return Drained::Empty };
            match socket.try_write_vectored(&state.queue.slices()) {
                Ok(count) => {
                    self.shared.metrics.bytes.inc_by(count as u64);
                    state.queue.advance(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.lose(state),
            }
        }
        if state.behind && self.is_half_free(state) {
            self.feeder.notify_one();
        }
        match (state.lost, state.queue.is_empty()) {
            (true, _) => Drained::Lost,
            (false, true) => Drained::Empty,
            (false, false) => Drained::Blocked,
        }
    }
}

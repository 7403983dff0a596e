//! The frames of one socket on their way to the client. A frame is written to the socket at once while the socket takes it, and queued
//! while it does not. The queue is bounded in bytes. Nothing here waits on behalf of the bus: a client that cannot keep up is closed.

mod close_cursor;
mod closing;
mod events;
mod feeding;
mod held;
mod queue;
mod rolling;
mod shared;
mod signal;
mod stamping;
#[cfg(test)]
mod tests;
mod writing;

pub(crate) use feeding::PageRequest;
pub(crate) use shared::Shared;

use crate::{
    frame::{Header, Opcode},
    liveness::{Due, Liveness},
    rollup::Rollup,
    socket::Socket,
};
use close_cursor::CloseCursor;
use held::HeldEvents;
use parking_lot::Mutex;
use protocol::{CloseReason, Position};
use queue::Queue;
use signal::Signal;
use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

/// The phase of a socket's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Frames are sent.
    Open,
    /// The client sent a close frame first. Our answer is the last frame.
    ClosedByPeer,
    /// Our close frame was sent or queued, and is the last frame.
    Closing(CloseReason),
}

/// The form of the tokens that a client asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Form {
    /// The length of the windows whose tokens become one frame.
    pub(crate) rollup: Option<Duration>,
    /// Every how many tokens of a query carry the gateway's times.
    pub(crate) hops: Option<NonZeroU32>,
}

/// The outgoing frames of one socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    /// Passed to the reminders of held events.
    me: Weak<Self>,
    /// Set after the upgrade. Until then frames are queued.
    socket: OnceLock<Socket>,
    /// Every how many tokens of a query carry the gateway's times, if the client asked for that.
    hops: Option<NonZeroU32>,
    state: Mutex<State>,
    /// Wakes [`Outbox::write_out`]: a frame was queued, or the socket is lost.
    writer: Signal,
    /// Wakes [`Outbox::next_page`]: the lane is behind and the queue has room, or the socket closes.
    feeder: Signal,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    held: HeldEvents,
    /// Set if the client asked for it. Boxed, because most clients do not. Such an outbox holds no events.
    rollup: Option<Box<Rollup>>,
    close_cursor: CloseCursor,
    phase: Phase,
    /// When a closing socket is dropped.
    deadline: Option<Instant>,
    /// The socket failed or was dropped. Nothing more is written.
    lost: bool,
    /// The lane is behind and waits for a page of the log.
    behind: bool,
    /// The client resumed and has not got its `resumed` frame yet.
    announces: bool,
    /// The largest event so far, in bytes, from which the size of a page is estimated.
    largest: usize,
    /// The time of the last write, if the outbox should check whether the peer has read it.
    check_since: Option<Instant>,
    liveness: Liveness,
}

impl Outbox {
    /// Creates the outbox of a client whose token expires at `expires`.
    pub(crate) fn new(shared: Arc<Shared>, expires: Option<Instant>, form: Form) -> Arc<Self> {
        let Form { rollup, hops } = form;
        let state = State {
            queue: Queue::new(Position::ZERO),
            held: HeldEvents::default(),
            rollup: rollup.map(|length| Box::new(Rollup::new(length, shared.limit))),
            close_cursor: CloseCursor::default(),
            phase: Phase::Open,
            deadline: None,
            lost: false,
            behind: true,
            announces: false,
            largest: shared.limit / 32,
            check_since: None,
            liveness: Liveness::new(Instant::now(), expires),
        };
        Arc::new_cyclic(|me| Self {
            shared,
            me: me.clone(),
            socket: OnceLock::new(),
            hops,
            state: Mutex::new(state),
            writer: Signal::default(),
            feeder: Signal::default(),
        })
    }

    /// Sets the position after which the client's stream starts.
    pub(crate) fn start_at(&self, position: Position) {
        self.state.lock().queue.start_at(position);
    }

    /// Makes the outbox send a `resumed` frame at the end of the replay.
    pub(crate) fn announce_resume(&self) {
        self.state.lock().announces = true;
    }

    /// Sets the socket after the upgrade.
    pub(crate) fn connect(&self, socket: Socket) {
        let _ = self.socket.set(socket);
        self.writer.notify_one();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn socket(&self) -> Option<&Socket> {
        self.socket.get()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Returns the position up to which a client that has just sent its close frame has read.
    pub(crate) fn cursor(&self) -> Position {
        let state = self.state.lock();
        state.close_cursor.cursor(state.queue.cursor(), Instant::now())
    }

    /// Sends a text frame without a position.
    pub(crate) fn send_text(&self, text: &str) {
        self.offer(&mut self.state.lock(), Opcode::Text, text.as_bytes(), None);
    }

    /// Answers a ping or a close frame of the client.
    pub(crate) fn answer(&self, opcode: Opcode, payload: &[u8]) {
        let mut state = self.state.lock();
        let is_sent = match state.phase {
            Phase::Open => self.has_room(&mut state, payload.len()),
            Phase::ClosedByPeer => true,
            Phase::Closing(_) => false,
        };
        if is_sent {
            let header = Header::new(opcode, payload.len());
            self.send(&mut state, [header.as_bytes(), payload], None);
        }
    }

    /// Sends the client an error for a refused message.
    pub(crate) fn refuse_message(&self, why: &str) {
        self.shared.metrics.up_refused.inc();
        self.send_text(&serde_json::json!({ "error": why }).to_string());
    }

    /// Sets since when a client message has been arriving, or `None` if none is.
    pub(crate) fn set_arriving(&self, since: Option<Instant>) {
        self.state.lock().liveness.arriving = since;
    }

    /// Notes a pong.
    pub(crate) fn pong(&self) {
        self.shared.metrics.pongs.inc();
        let pinged = self.state.lock().liveness.pong();
        pinged.iter().for_each(|at| self.shared.metrics.pong_time.observe(at.elapsed()));
    }

    /// Handles what is due at `now`: a ping, a close, or the end of a close that takes too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut state = self.state.lock();
        if let Some(deadline) = state.deadline {
            if now >= deadline && !state.lost {
                self.lose(&mut state);
            }
            return;
        }
        match state.liveness.due(now, self.shared.limits) {
            Due::Nothing => {}
            Due::Ping => {
                self.shared.metrics.pings.inc();
                self.offer(&mut state, Opcode::Ping, &[], None);
            }
            Due::Close(reason) => self.begin_close(&mut state, reason, reason.text()),
            Due::Unfinished => {
                self.shared.metrics.up_unfinished.inc();
                let limit = self.shared.limits.message_timeout.as_secs_f64();
                let text = format!("a message must arrive completely within {limit} s");
                self.begin_close(&mut state, CloseReason::Policy, &text);
            }
        }
    }
}

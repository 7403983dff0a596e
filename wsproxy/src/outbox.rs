//! One socket's way out: every frame goes straight into the socket while the socket takes it, and into a bounded queue
//! while it does not. Nothing here waits on behalf of the bus: a client that cannot keep up is closed, not waited for.

mod events;
mod held;
mod parting;
mod queue;
#[cfg(test)]
mod tests;

use crate::{
    coalescing::Coalescing,
    frame::{Header, Opcode, close_payload},
    liveness::{Due, Limits, Liveness},
    metrics::Metrics,
    rate::Rate,
    socket::Socket,
};
use guard::Budget;
use held::Held;
use parking_lot::Mutex;
use parting::Parting;
use protocol::{CloseReason, Position};
use queue::Queue;
use std::{
    io::ErrorKind,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Events that a page asks for at most.
const MAX_PAGE: usize = 128;

/// A peer that has not read a write after so long is behind.
const TIME_TO_READ: Duration = Duration::from_millis(10);

/// What all outboxes of a gateway share.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) metrics: Metrics,
    pub(crate) limit: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) limits: Limits,
    pub(crate) coalescing: Coalescing,
    /// What all clients' messages take together.
    pub(crate) inbound: Arc<Budget>,
    pub(crate) max_message: usize,
    /// How many messages a client may send.
    pub(crate) up_rate: Option<Rate>,
    /// When the time of all rates began.
    pub(crate) opened: Instant,
}

/// A page of the log that an outbox has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// Events at most.
    pub(crate) events: usize,
    /// What they are expected to come to, by the largest event so far.
    pub(crate) bytes: usize,
}

/// How far a socket's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// The client sent a close frame first; our answer is the last frame.
    ClosedByPeer,
    /// Our close frame is sent or queued, and is the last frame.
    Closing(CloseReason),
}

/// One socket's way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    terms: Arc<Terms>,
    /// For reminders of what is held back.
    me: Weak<Self>,
    /// Empty until the upgrade is done; frames queue meanwhile.
    socket: OnceLock<Socket>,
    state: Mutex<State>,
    /// Wakes [`Outbox::write_out`]: something was queued, or the socket is lost.
    writer: Notify,
    /// Wakes [`Outbox::next_page`]: the lane is behind and there is room, or the socket closes.
    feeder: Notify,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    held: Held,
    parting: Parting,
    phase: Phase,
    /// When a closing socket's time is up.
    deadline: Option<Instant>,
    /// The socket failed, or its time was up: nothing is written any more.
    lost: bool,
    behind: bool,
    /// The client resumed and has not been told where its replay ends.
    announces: bool,
    /// The largest event so far, from which a page's size in bytes is guessed.
    largest: usize,
    /// The last write, if its peer is to be asked about it.
    asks_since: Option<Instant>,
    liveness: Liveness,
}

enum Drained {
    Empty,
    Blocked,
    Lost,
}

impl Outbox {
    pub(crate) fn new(terms: Arc<Terms>, expires: Option<Instant>) -> Arc<Self> {
        let state = State {
            queue: Queue::new(Position::ZERO),
            held: Held::default(),
            parting: Parting::default(),
            phase: Phase::Open,
            deadline: None,
            lost: false,
            behind: true,
            announces: false,
            largest: terms.limit / 32,
            asks_since: None,
            liveness: Liveness::new(Instant::now(), expires),
        };
        Arc::new_cyclic(|me| Self {
            terms,
            me: me.clone(),
            socket: OnceLock::new(),
            state: Mutex::new(state),
            writer: Notify::new(),
            feeder: Notify::new(),
        })
    }

    /// The client has everything up to `position`: its stream starts there.
    pub(crate) fn start_at(&self, position: Position) {
        self.state.lock().queue.start_at(position);
    }

    /// The client resumed: it is told where its replay ends, before the first live event.
    pub(crate) fn announce_resume(&self) {
        self.state.lock().announces = true;
    }

    /// The upgrade is done: from here on frames go into `socket`.
    pub(crate) fn connect(&self, socket: Socket) {
        let _ = self.socket.set(socket);
        self.writer.notify_one();
    }

    pub(crate) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    pub(crate) fn socket(&self) -> Option<&Socket> {
        self.socket.get()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Up to where a client that has just sent its close frame counts as having read.
    pub(crate) fn cursor(&self) -> Position {
        let state = self.state.lock();
        state.parting.cursor(state.queue.cursor(), Instant::now())
    }

    /// Sends a text frame of the gateway's own.
    pub(crate) fn send_text(&self, text: &str) {
        self.offer(&mut self.state.lock(), Opcode::Text, text.as_bytes(), None);
    }

    /// Answers a client's ping or close frame.
    pub(crate) fn answer(&self, opcode: Opcode, payload: &[u8]) {
        let mut state = self.state.lock();
        let goes_out = match state.phase {
            Phase::Open => self.has_room(&mut state, payload.len()),
            Phase::ClosedByPeer => true,
            Phase::Closing(_) => false,
        };
        if goes_out {
            let header = Header::new(opcode, payload.len());
            self.send(&mut state, [header.as_bytes(), payload], None);
        }
    }

    /// Closes the socket for `reason`, with the table's own text.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_with(reason, reason.text());
    }

    pub(crate) fn close_with(&self, reason: CloseReason, text: &str) {
        self.begin_close(&mut self.state.lock(), reason, text);
    }

    /// The client sent a close frame: it wants nothing more.
    pub(crate) fn closed_by_peer(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::ClosedByPeer;
            self.last_words(&mut state, true);
        }
    }

    /// Gives the socket up.
    pub(crate) fn abandon(&self) {
        self.lose(&mut self.state.lock());
    }

    /// Tells a client why its message was refused.
    pub(crate) fn refuse_message(&self, why: &str) {
        self.terms.metrics.up_refused.inc();
        self.send_text(&serde_json::json!({ "error": why }).to_string());
    }

    /// Notes since when a client's message has been arriving, if one is.
    pub(crate) fn set_arriving(&self, since: Option<Instant>) {
        self.state.lock().liveness.arriving = since;
    }

    /// A pong came.
    pub(crate) fn pong(&self) {
        self.terms.metrics.pongs.inc();
        self.state.lock().liveness.pong();
    }

    /// Does what is due at `now`: a ping, a close, the end of a close that takes too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut state = self.state.lock();
        if let Some(deadline) = state.deadline {
            if now >= deadline && !state.lost {
                self.lose(&mut state);
            }
            return;
        }
        match state.liveness.due(now, self.terms.limits) {
            Due::Nothing => {}
            Due::Ping => {
                self.terms.metrics.pings.inc();
                self.offer(&mut state, Opcode::Ping, &[], None);
            }
            Due::Close(reason) => self.begin_close(&mut state, reason, reason.text()),
            Due::Unfinished => {
                self.terms.metrics.up_unfinished.inc();
                let limit = self.terms.limits.message_timeout.as_secs_f64();
                let text = format!("a message must arrive whole within {limit} s");
                self.begin_close(&mut state, CloseReason::Policy, &text);
            }
        }
    }

    /// Writes the queue out whenever there is one. Returns when the socket is lost.
    pub(crate) async fn write_out(&self) {
        while !matches!(self.write_queue().await, Drained::Lost) {
            self.writer.notified().await;
        }
    }

    /// Writes the queue out; false if the socket was lost before.
    pub(crate) async fn flush(&self) -> bool {
        !matches!(self.write_queue().await, Drained::Lost)
    }

    async fn write_queue(&self) -> Drained {
        loop {
            let drained = self.drain(&mut self.state.lock());
            match (drained, self.socket()) {
                (Drained::Blocked, Some(socket)) => tokio::select! {
                    _ = socket.writable() => {}
                    () = self.writer.notified() => {}
                },
                (drained, _) => return drained,
            }
        }
    }

    /// What the next page should hold, as soon as the lane is behind and half of the queue is free; `None`
    /// when the socket closes.
    pub(crate) async fn next_page(&self) -> Option<Page> {
        loop {
            {
                let mut state = self.state.lock();
                if state.phase != Phase::Open || state.lost {
                    return None;
                }
                if state.behind && self.is_half_free(&state) {
                    state.behind = false;
                    let room = self.terms.limit / 2;
                    let largest = state.largest.max(1);
                    let events = (room / largest).clamp(1, MAX_PAGE);
                    return Some(Page { events, bytes: events * largest });
                }
            }
            self.feeder.notified().await;
        }
    }

    /// Returns when the socket closes.
    pub(crate) async fn closing(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.phase != Phase::Open || state.lost {
                    return;
                }
            }
            self.feeder.notified().await;
        }
    }

    fn is_half_free(&self, state: &State) -> bool {
        state.queue.cost() <= self.terms.limit / 2
    }

    /// Whether a frame finds room. What is only held back makes room first; a socket that still does not take it is closed.
    fn has_room(&self, state: &mut State, len: usize) -> bool {
        if !self.fits(state, len) && state.held.any() {
            self.let_go(state);
        }
        if self.fits(state, len) {
            return true;
        }
        self.terms.metrics.overflows.inc();
        self.begin_close(state, CloseReason::SlowConsumer, CloseReason::SlowConsumer.text());
        false
    }

    fn fits(&self, state: &State, len: usize) -> bool {
        state.queue.is_empty() || state.queue.cost() + len <= self.terms.limit
    }

    fn offer(&self, state: &mut State, opcode: Opcode, payload: &[u8], position: Option<Position>) {
        if state.phase == Phase::Open && self.has_room(state, payload.len()) {
            let header = Header::new(opcode, payload.len());
            self.send(state, [header.as_bytes(), payload], position);
        }
    }

    /// Writes a frame, or what the socket takes of it, and queues the rest.
    fn send(&self, state: &mut State, parts: [&[u8]; 2], position: Option<Position>) {
        if state.lost {
            return;
        }
        if state.held.any() {
            state.queue.push(parts, 0, position);
            return self.let_go(state);
        }
        let was_empty = state.queue.is_empty();
        let mut taken = 0;
        if was_empty && let Some(socket) = self.socket() {
            self.ask(state, socket);
            match socket.try_write_frame(parts) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return self.lose(state),
            }
            self.terms.metrics.bytes.inc_by(taken as u64);
            if taken == parts[0].len() + parts[1].len() {
                self.terms.metrics.direct_writes.inc();
                self.wrote(state);
                return state.queue.handed_over(position);
            }
        }
        self.terms.metrics.queued_frames.inc();
        state.queue.push(parts, taken, position);
        if was_empty {
            self.writer.notify_one();
        }
    }

    /// After some writes: the peer is asked at the next one.
    fn wrote(&self, state: &mut State) {
        if self.terms.coalescing.asks() {
            state.asks_since = Some(Instant::now());
        }
    }

    /// Asks the peer whether it has read the last write, if it had the time to.
    fn ask(&self, state: &mut State, socket: &Socket) {
        if let Some(since) = state.asks_since.take()
            && since.elapsed() >= TIME_TO_READ
            && let Some(unread) = socket.unread()
        {
            self.terms.coalescing.answered(unread == 0);
        }
    }

    /// Writes what the socket takes of the queue.
    fn drain(&self, state: &mut State) -> Drained {
        state.held.let_go();
        while !state.lost && !state.queue.is_empty() {
            let Some(socket) = self.socket() else { return Drained::Empty };
            match socket.try_write_vectored(&state.queue.slices()) {
                Ok(count) => {
                    self.terms.metrics.bytes.inc_by(count as u64);
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

    fn begin_close(&self, state: &mut State, reason: CloseReason, text: &str) {
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Closing(reason);
        self.terms.metrics.close(reason.label());
        self.last_words(state, drops_queue(reason));
        let payload = close_payload(reason, text);
        let header = Header::new(Opcode::Close, payload.len());
        self.send(state, [header.as_bytes(), &payload], None);
    }

    /// Only a close frame follows what is queued now.
    fn last_words(&self, state: &mut State, drop_queue: bool) {
        state.deadline = Some(Instant::now() + self.terms.close_timeout);
        if drop_queue {
            let dropped = state.queue.drop_unbegun();
            self.terms.metrics.dropped_frames.inc_by(dropped as u64);
        }
        self.feeder.notify_one();
    }

    fn lose(&self, state: &mut State) {
        state.lost = true;
        self.writer.notify_one();
        self.feeder.notify_one();
    }
}

/// Whether a client closed for this reason gets what waits for it by resuming rather than before the close frame.
const fn drops_queue(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::SlowConsumer | CloseReason::TakenOver | CloseReason::NoPong)
}

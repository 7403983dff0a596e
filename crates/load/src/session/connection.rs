//! The connection of a session: its socket, when it was down and why, and how to react to a loss.

use crate::{
    backoff::Backoff,
    connection::{Connection, ConnectionEvent, Loss},
    downtime::Downtime,
    greeting::KeptMessage,
    socket::{Arrival, Chunk, DataMessage, Socket},
};
use measure::record::{LossCause, Reconnect};
use protocol::{ClientAction, CloseReason, Position};
use std::{
    future::pending,
    time::{Duration, Instant},
};

/// Upper limit in milliseconds of the delay that a close frame may request.
const LONGEST_RECONNECT_AFTER_MS: u64 = 300_000;

/// What to do after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// The session fails.
    Stop,
    /// Reconnect.
    Reconnect {
        /// The delay before the first attempt. `None`: a backoff.
        wait: Option<Duration>,
        /// The gateway is full, so that the backoff is longer.
        is_full: bool,
    },
}

/// The connection of a session.
#[derive(Default)]
pub(super) struct SessionConnection {
    /// `None` until the session was created.
    connection: Option<Box<Connection>>,
    downtime: Downtime,
    /// Why the last socket was lost, until there is a new one.
    lost_by: Option<LossCause>,
    /// A socket broke since the last one that ended with a close frame from both sides. The gateway cannot know what arrived.
    unclean: bool,
    /// Sockets lost in a row without an event in between.
    losses_in_a_row: u32,
    /// The gateway closed the socket because the session was closed.
    session_closed: bool,
}

impl SessionConnection {
    /// Sets the connection, once the session was created. `is_down`: its socket is opened later, so that the session is down.
    pub(super) fn attach(&mut self, connection: Box<Connection>, is_down: bool) {
        self.connection = Some(connection);
        if is_down {
            self.downtime.begin(Instant::now());
        }
    }

    /// Returns whether a socket is open.
    pub(super) fn is_up(&self) -> bool {
        self.connection.as_deref().is_some_and(Connection::is_up)
    }

    /// Returns the times without a socket.
    pub(super) const fn downtime(&self) -> &Downtime {
        &self.downtime
    }

    /// Returns whether the gateway cannot know what arrived on earlier sockets.
    pub(super) const fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// Returns whether no socket was lost since the last event.
    pub(super) const fn has_no_loss_since_event(&self) -> bool {
        self.losses_in_a_row == 0
    }

    /// Returns whether the gateway closed the socket because the session was closed.
    pub(super) const fn is_session_closed(&self) -> bool {
        self.session_closed
    }

    /// Waits for the next event. Waits forever if there is no connection. Cancel safe.
    pub(super) async fn next(&mut self) -> ConnectionEvent {
        match &mut self.connection {
            Some(connection) => connection.next().await,
            None => pending().await,
        }
    }

    /// Takes the boot id of the host that the present socket's gateway named, if it did.
    pub(super) fn take_boot_id(&mut self) -> Option<Box<str>> {
        self.connection.as_deref_mut().and_then(Connection::take_boot_id)
    }

    /// Reads what is in the socket now. `None` if there is nothing.
    pub(super) fn next_now(&mut self) -> Option<ConnectionEvent> {
        self.connection.as_deref_mut().and_then(Connection::next_now)
    }

    /// Calls `take` with each message that the read completed. Returns the loss of the socket if the read ended it.
    pub(super) fn decode(
        &mut self,
        chunk: &Chunk,
        take: impl FnMut(DataMessage<'_>, Arrival),
    ) -> Option<ConnectionEvent> {
        self.connection.as_mut()?.decode(chunk, take)
    }

    /// Returns the socket if one is open and can take a request.
    pub(super) fn idle_socket(&mut self) -> Option<&mut Socket> {
        self.connection.as_deref_mut().and_then(Connection::idle_socket)
    }

    /// Takes the messages that arrived before the present socket was ready and belong to an answer.
    pub(super) fn take_kept(&mut self) -> Vec<KeptMessage> {
        self.connection.as_deref_mut().map(Connection::take_kept).unwrap_or_default()
    }

    /// Sends a text message that is no question, if a WebSocket is open.
    pub(super) fn send_beside(&mut self, text: &str) {
        if let Some(connection) = &mut self.connection {
            connection.send_beside(text);
        }
    }

    /// Returns whether a socket is open and can take a request.
    pub(super) fn is_idle(&self) -> bool {
        self.connection.as_deref().is_some_and(Connection::is_idle)
    }

    /// Drops the socket, if one is open. The session is down until the next one is open.
    pub(super) fn drop_socket(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.drop_socket();
        }
        self.downtime.begin(Instant::now());
    }

    /// Makes the next reconnect renew the key of the foreign server: the present one has expired.
    pub(super) fn renew_key(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.renew_key();
        }
    }

    /// Notes that a socket was lost between two answers, which is no loss for the session, and starts to open another one. The first time in
    /// a row there is no delay.
    pub(super) fn replace(&mut self, mut backoff: Backoff, at: Instant, limit: Duration) {
        let loss =
            Loss { cause: LossCause::Broken, text: "the connection ended between two answers".into(), at };
        self.lost_by = None;
        self.downtime.begin(at);
        let wait = if self.losses_in_a_row == 0 { Some(Duration::ZERO) } else { None };
        backoff = backoff.after(self.losses_in_a_row);
        self.losses_in_a_row += 1;
        if let Some(connection) = &mut self.connection {
            connection.replace(&loss, wait, backoff, limit);
        }
    }

    /// Starts to open a socket that does not resume.
    pub(super) fn connect(&mut self, backoff: Backoff, limit: Duration) {
        if let Some(connection) = &mut self.connection {
            connection.connect(backoff, limit);
        }
    }

    /// Restarts the silence timer, after a time in which the session did not read.
    pub(super) fn restart_silence_timer(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.restart_silence_timer();
        }
    }

    /// Stops cutting sockets.
    pub(super) fn stop_cutting(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.stop_cutting();
        }
    }

    /// Sends a close frame if a socket is open. The socket stays open for reads.
    pub(super) async fn send_close(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.send_close().await;
        }
    }

    /// Sends a close frame if a socket is open, and drops the socket.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close().await;
        }
    }

    /// Notes that a new socket is open. Returns the reconnect, if it replaced a lost one.
    pub(super) fn opened(&mut self, now: Instant) -> Option<Reconnect> {
        let gap = self.downtime.end(now);
        let cause = self.lost_by.take()?;
        Some(Reconnect { cause, gap: gap.unwrap_or_default() })
    }

    /// Notes that an event arrived, which ends a series of losses.
    pub(super) const fn event_arrived(&mut self) {
        self.losses_in_a_row = 0;
    }

    /// Notes that the session closed its own socket between two queries. `is_clean`: the gateway answered the close frame, so
    /// that it knows what arrived.
    pub(super) fn closed_between_queries(&mut self, is_clean: bool) {
        self.lost_by = None;
        self.unclean &= !is_clean;
        self.downtime.begin(Instant::now());
    }

    /// Returns how to react to `loss`. `is_after_answer`: it came between two answers.
    pub(super) fn reaction(&mut self, loss: &Loss, is_after_answer: bool) -> Reaction {
        let wait = |wait| Reaction::Reconnect { wait, is_full: false };
        match CloseReason::action_for(loss.code()) {
            // Many servers close the socket after each answer. The next query gets a new one, the first time without a delay.
            ClientAction::Stop | ClientAction::StopAndReport if is_after_answer => {
                wait(self.has_no_loss_since_event().then_some(Duration::ZERO))
            }
            ClientAction::Stop | ClientAction::StopAndReport => {
                let closed = CloseReason::SessionClosed;
                self.session_closed = loss.code() == Some(closed.code()) && loss.text == closed.text();
                Reaction::Stop
            }
            ClientAction::ReconnectWhenTold => {
                let ms = CloseReason::reconnect_after_ms(&loss.text);
                wait(ms.map(|ms| Duration::from_millis(ms.min(LONGEST_RECONNECT_AFTER_MS))))
            }
            ClientAction::ReconnectLater => Reaction::Reconnect { wait: None, is_full: true },
            ClientAction::Reconnect => wait(None),
        }
    }

    /// Notes `loss` and starts to reconnect, resuming after `position`. See [`Connection::reconnect`] for `wait` and `limit`.
    pub(super) fn reconnect(
        &mut self,
        loss: &Loss,
        position: Option<Position>,
        wait: Option<Duration>,
        backoff: Backoff,
        limit: Duration,
    ) {
        let backoff = backoff.after(self.losses_in_a_row);
        // A cut by the client itself must not use up the attempts.
        self.losses_in_a_row += u32::from(loss.cause != LossCause::Cut);
        self.lost_by = Some(loss.cause);
        self.unclean = true;
        self.downtime.begin(loss.at);
        if let Some(connection) = &mut self.connection {
            connection.reconnect(loss, position, wait, backoff, limit);
        }
    }
}

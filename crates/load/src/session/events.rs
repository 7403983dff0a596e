//! The events of a session's connection: reads, opened sockets and lost sockets.

use super::{
    Session, Stage,
    connection::{Reaction, SessionConnection},
    receive::Receiver,
};
use crate::connection::{AttemptTime, ConnectionEvent, Loss};
use dialects::target::Incoming;
use measure::{
    live::LiveCounters,
    record::{Failure, FailureKind, LossCause},
    timeline::NoteEvent,
};
use protocol::CloseReason;
use std::time::Instant;

impl Session {
    pub(super) fn handle(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Read(chunk) => {
                let (mut receiver, connection) = self.receiver();
                let ended = connection.decode(&chunk, |message, arrival| receiver.message(message, arrival));
                let pings = receiver.pings;
                let (event, other) = (receiver.last_event, receiver.last_other);
                self.heard(event, other);
                if let Some(described) = &self.described {
                    (0..pings)
                        .filter_map(|_| described.reply())
                        .for_each(|reply| self.connection.send_beside(&reply));
                }
                if let Some(ended) = ended {
                    self.handle(ended);
                }
            }
            ConnectionEvent::Lost(loss) if self.is_foreign() => {
                self.connection_lost(&loss);
            }
            ConnectionEvent::Lost(loss) => self.lost(&loss),
            ConnectionEvent::Opened(time) => self.opened(time),
            ConnectionEvent::Failed(failure) if self.stage != Stage::Closing => self.fail(failure),
            ConnectionEvent::Failed(_) => {}
        }
    }

    /// A new socket is open: the session's first one, a query's own, or the one after a loss.
    fn opened(&mut self, time: AttemptTime) {
        let now = Instant::now();
        let reconnect = self.connection.opened(now);
        self.silence.resumed(now);
        self.log.note(self.worker.moment(now), NoteEvent::SocketOpened(reconnect.map(|lost| lost.gap)));
        if let Some(reconnect) = reconnect {
            self.log.reconnected(reconnect);
            let worker = &self.worker;
            worker.recorder().reconnected(worker.moment(now), self.planned.index, reconnect);
            if !matches!(reconnect.cause, LossCause::Cut | LossCause::Limit) {
                let lost = now.checked_sub(reconnect.gap).unwrap_or(now);
                worker.run().faults.outage(worker.moment(lost), worker.moment(now));
            }
        } else {
            self.log.connected(time);
        }
        LiveCounters::add(&self.worker.live().connects, 1);
        self.delivery.socket_opened(now);
        let boot_id = self.connection.take_boot_id();
        self.host_named(boot_id);
        let last = self.queries.last_position();
        if self.is_foreign() {
            if self.may_repeat() {
                self.replay.open_unclean(last);
            } else {
                self.replay.close();
            }
        } else if self.behaviour.resumes() {
            self.replay.open_resumed(self.queries.resume_after(), last);
        } else if self.connection.is_unclean() {
            self.replay.open_unclean(last);
        } else {
            self.replay.close();
        }
        self.opened_described();
        self.handle_kept();
    }

    /// Handles the messages that arrived before the present socket was ready.
    pub(super) fn handle_kept(&mut self) {
        let kept = self.connection.take_kept();
        if kept.is_empty() {
            return;
        }
        let (mut receiver, _) = self.receiver();
        for (text, arrival) in kept {
            receiver.answer(Incoming::text(&text), arrival);
        }
        let (event, other) = (receiver.last_event, receiver.last_other);
        self.heard(event, other);
    }

    /// Notes the arrival of the last event of a read, and of the last other message. Only an event ends a series of losses.
    fn heard(&mut self, event: Option<Instant>, other: Option<Instant>) {
        if event.is_some() {
            self.connection.event_arrived();
        }
        if let Some(at) = event.max(other) {
            self.silence.heard(at);
        }
    }

    /// Returns what handles messages, and the connection that brings them.
    fn receiver(&mut self) -> (Receiver<'_>, &mut SessionConnection) {
        let Self {
            worker, connection, replay, queries, behaviour, delivery, hops, log, turn, described, ..
        } = self;
        let receiver = Receiver {
            worker,
            queries,
            replay,
            delivery,
            hops,
            log,
            behaviour,
            turn: turn.as_deref_mut(),
            described: described.as_mut(),
            pings: 0,
            last_event: None,
            last_other: None,
        };
        (receiver, connection)
    }

    /// The socket was lost: reconnects, or fails the session.
    fn lost(&mut self, loss: &Loss) {
        self.replay.close();
        if self.stage == Stage::ClosingSocket {
            return;
        }
        let code = loss.code();
        self.log.close_code(code);
        let text = self.hide(&loss.text);
        self.log.note(self.worker.moment(loss.at), NoteEvent::SocketLost(loss.cause, text));
        if self.stage == Stage::Closing {
            return;
        }
        let is_cut = loss.cause == LossCause::Cut;
        if let Some(query) = self.queries.current_mut().filter(|_| !is_cut) {
            query.last_loss = Some(loss.describe());
        }
        let is_taken_over = code == Some(CloseReason::TakenOver.code());
        let is_after_answer = code.is_some()
            && !is_taken_over
            && self.queries.is_between_answers(self.connection.has_no_loss_since_event());
        if is_after_answer && !self.needs_socket() {
            return;
        }
        let (wait, is_full) = match self.connection.reaction(loss, is_after_answer) {
            Reaction::Reconnect { wait, is_full } => (wait, is_full),
            Reaction::Stop => {
                let kind = code.map_or(FailureKind::Stream, FailureKind::Closed);
                let message = format!("the gateway closed the socket: {}", loss.text);
                self.fail(Failure { kind, code, message });
                return;
            }
        };
        if is_cut {
            self.log.socket_cut();
            self.silence.intended();
            self.behaviour.socket_cut(loss.at);
        }
        let mut backoff = self.backoff();
        if is_full {
            backoff.lengthen();
        }
        let limit = self.time_limits().reconnect(self.queries.response());
        let position = self.behaviour.resumes().then(|| self.queries.resume_after());
        self.connection.reconnect(loss, position, wait, backoff, limit);
    }
}

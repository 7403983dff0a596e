//! The connection to a foreign server around its answers: made usable for the next question, lost, or too old.

use super::{
    Session, Stage,
    turn::{BodyEnd, ReadOn, Step},
};
use crate::{
    connection::Loss,
    query::{Progress, Query},
};
use dialects::{Answer, Delivery, Transport};
use measure::{record::LossCause, timeline::NoteEvent};
use protocol::CloseReason;
use settings::plural::counted;
use std::time::{Duration, Instant};

/// How long the end of an HTTP response may follow the end of its answer. A later one costs the connection.
const BODY_END: Duration = Duration::from_secs(1);

impl Session {
    /// Ends the query because its stream ended early.
    pub(super) fn truncate(&mut self, why: &str) {
        let why = self.hide(why);
        if let Some(turn) = &mut self.turn {
            turn.step = Step::Over;
        }
        if let Some(query) = self.queries.current_mut() {
            let received = query.own_stream().map_or(0, |stream| stream.ledger.observed().tokens_received);
            let events = counted(received, "events with text");
            query.truncate(Instant::now(), format!("truncated after {events}: {why}"));
        }
    }

    /// Opens a new connection because the server ends connections of this age, and asks again if the answer has not begun.
    pub(super) fn renew_connection(&mut self) {
        self.previous_answer = None;
        let is_running = self.queries.progress() == Progress::Running;
        let has_events = self.queries.current().is_some_and(|query| query.own_stream().is_some());
        let Some(turn) = self.turn.as_deref_mut() else { return };
        turn.is_too_old = false;
        let has_begun = turn.answer.id().is_some() || has_events;
        if matches!(turn.step, Step::Accepted) && !has_begun {
            turn.step = Step::Send;
            // The new connection does not know earlier answers. The question is complete without them.
            turn.body = without_previous(&turn.body);
            turn.answer = turn.dialect.answer();
        } else if turn.is_asked() && is_running {
            self.truncate("the server ended the connection because of its age");
        }
        self.connection.drop_socket();
        let (backoff, limit) = (self.backoff(), self.time_limits().call());
        let loss = Loss {
            cause: LossCause::Limit,
            text: "the server ends connections of this age".into(),
            at: Instant::now(),
        };
        self.connection.reconnect(&loss, None, Some(Duration::ZERO), backoff, limit);
    }

    /// Makes the connection usable for the next question: waits for the end of the response, or opens another connection.
    pub(super) async fn free_connection(&mut self) {
        let Some(turn) = self.turn.as_deref_mut() else { return };
        if turn.dialect.has_turns() {
            let is_good =
                self.queries.current().is_some_and(|query| query.is_whole() && query.failure.is_none());
            self.previous_answer = turn.answer.id().filter(|_| is_good).map(str::to_owned);
        }
        let is_ended = turn.answer.missing_end().is_none();
        let is_unfinished = turn.is_asked() && !is_ended;
        turn.step = Step::Over;
        let is_kept = Self::foreign(&self.worker).is_some_and(|foreign| foreign.background);
        if is_unfinished && is_kept {
            let path = self.worker.run().connector.path_of(0, &turn.dialect);
            if let Some(call) = turn.answer.stop(path) {
                self.stop_answer(call);
            }
        }
        let mut timeout = Box::pin(tokio::time::sleep(BODY_END));
        let is_stopped = is_unfinished && self.stop_described();
        while is_stopped && self.connection.is_up() && self.awaits_end() && !self.is_over {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = &mut timeout => break,
            }
        }
        let is_unfinished = is_unfinished && self.awaits_end();
        if let Some(described) = &self.described {
            described.borrow().end_resume();
        }
        while is_ended && self.connection.is_up() && !self.connection.is_idle() && !self.is_over {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = &mut timeout => break,
            }
        }
        let is_closing = self.turn.as_deref().is_some_and(|turn| turn.body_end == Some(BodyEnd::Closing));
        // Closing the connection is how a client of these dialects ends an answer.
        if self.connection.is_up() && (is_closing || is_unfinished || !self.connection.is_idle()) {
            self.connection.drop_socket();
            if !self.is_over && self.needs_socket() {
                let (backoff, limit) = (self.backoff(), self.time_limits().call());
                self.connection.replace(backoff, Instant::now(), limit);
            }
        }
    }

    /// Returns whether the end of the present answer has not arrived.
    fn awaits_end(&self) -> bool {
        self.turn.as_deref().is_some_and(|turn| turn.answer.missing_end().is_some())
    }

    /// The connection to a foreign server was lost.
    pub(super) fn connection_lost(&mut self, loss: &Loss) {
        self.replay.close();
        self.log.close_code(loss.code());
        let text = self.hide(&loss.text);
        self.log.note(self.worker.moment(loss.at), NoteEvent::SocketLost(loss.cause, text));
        if self.stage != Stage::Open {
            return;
        }
        let is_cut = loss.cause == LossCause::Cut;
        if is_cut {
            self.silence.intended();
            self.log.socket_cut();
            self.behaviour.socket_cut(loss.at);
        }
        self.previous_answer = None;
        let is_awaited =
            self.turn.as_deref().is_some_and(|turn| turn.is_asked() && turn.answer.missing_end().is_some());
        let is_running = self.queries.progress() != Progress::Finished && is_awaited;
        let is_too_old = self.turn.as_deref_mut().is_some_and(|turn| std::mem::take(&mut turn.is_too_old));
        let limit = self.time_limits().reconnect(self.queries.response());
        if let Some(described) = &self.described {
            described.borrow().end_resume();
        }
        if is_running {
            self.answer_interrupted(loss);
        }
        if !self.needs_socket() {
            return;
        }
        let backoff = self.backoff();
        let is_expired = loss.code() == Some(CloseReason::TokenExpired.code());
        if is_expired {
            self.connection.renew_key();
        }
        if is_too_old {
            let planned = Loss { cause: LossCause::Limit, ..loss.clone() };
            self.connection.reconnect(&planned, None, Some(Duration::ZERO), backoff, limit);
        } else if is_running || is_cut {
            self.connection.reconnect(loss, None, None, backoff, limit);
        } else {
            self.connection.replace(backoff, loss.at, limit);
        }
    }

    /// The connection was lost while an answer was awaited: the answer is read on, asked for again, or over.
    fn answer_interrupted(&mut self, loss: &Loss) {
        let is_kept = Self::foreign(&self.worker).is_some_and(|foreign| foreign.background)
            || self.can_resume_described();
        let resumes = self.behaviour.resumes() && is_kept;
        let has_events = self.queries.current().is_some_and(|query| query.own_stream().is_some());
        let position = self.queries.current().and_then(Query::resume_after).map_or(0, |at| at.seq);
        let Self { turn, described, worker, .. } = self;
        let Some(turn) = turn.as_deref_mut() else { return };
        let path = worker.run().connector.path_of(0, &turn.dialect);
        let is_http = turn.dialect.transport() != Transport::WebSocket;
        let is_accepted = matches!(turn.step, Step::Accepted);
        // Over a WebSocket, only a call beside it awaits a response.
        let is_called = !is_http && matches!(turn.step, Step::Sent);
        let has_begun = turn.answer.id().is_some() || has_events || (is_http && is_accepted);
        let resume = match (&turn.answer, described) {
            _ if !resumes => None,
            (Answer::File(answer), Some(described)) => (has_begun || is_accepted || is_called).then(|| {
                described.borrow().begin_resume(answer.resume_point(position));
                ReadOn::Described
            }),
            (answer, _) => answer.resume(path, position).map(ReadOn::Call),
        };
        if let Some(resume) = resume {
            turn.resume = Some(resume);
            // The call goes on. The resume may need what it returns.
            if !is_called {
                turn.step = Step::Send;
            }
        } else if !has_begun && loss.cause != LossCause::Cut && turn.may_be_stale {
            turn.step = Step::Send;
            if turn.dialect.has_turns() {
                turn.body = without_previous(&turn.body);
            }
        } else {
            self.truncate(&loss.describe());
        }
    }

    /// A connection to a foreign server is open. Returns whether earlier events may be repeated on it.
    pub(super) fn may_repeat(&self) -> bool {
        self.turn
            .as_deref()
            .is_some_and(|turn| turn.resume.is_some() && turn.dialect.delivery() == Delivery::AtLeastOnce)
    }
}

/// Returns the message without the id of an earlier answer.
fn without_previous(body: &str) -> String {
    let Ok(mut message) = serde_json::from_str::<serde_json::Value>(body) else { return body.to_owned() };
    if let Some(fields) = message.as_object_mut() {
        fields.remove("previous_response_id");
    }
    message.to_string()
}

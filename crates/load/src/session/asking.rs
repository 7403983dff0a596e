//! One question to a server of a foreign dialect, and its answer. The dialect's state machine reads the answer; queries, schedule,
//! deadline, behaviour and log are those of every session.

use super::{
    Session,
    deadline::Deadline,
    exchange::response,
    turn::{ReadOn, Refusal, Step, Turn},
};
use crate::{
    backoff::is_retryable,
    context::WorkerContext,
    http::{CallStep, HttpResponse},
    idle::DueQuery,
    query::{End, Progress, millis},
};
use dialects::{
    Answer, Ask, Call, Dialect, Transport,
    request::{Question, Simulated},
};
use measure::{
    record::{Failure, FailureKind},
    silence::allowed,
};
use plan::Foreign;
use protocol::RunResponse;
use std::{pin::Pin, rc::Rc, time::Instant};

/// The status of a call whose key was refused.
pub(super) const UNAUTHORIZED: u16 = http::StatusCode::UNAUTHORIZED.as_u16();

/// A call that asks, beside the socket.
type Submission = Pin<Box<dyn Future<Output = Result<HttpResponse, Failure>>>>;

impl Session {
    /// Asks question `num` and handles events until its answer is finished or its deadline has passed.
    pub(super) async fn ask(&mut self, num: u32, query: DueQuery) {
        self.record_current();
        self.hops.query_began();
        let _running = self.worker.run().active.queries.enter();
        self.silence.query_began(&self.worker.run().active.silences, self.behaviour.connects_late());
        self.begin_turn(num, query);
        let now = Instant::now();
        let mut deadline = Deadline::new(now + self.time_limits().call(), self.worker.delay().total(now));
        let mut call: Option<Submission> = None;
        while !self.is_over {
            match self.queries.progress() {
                Progress::Finished => break,
                Progress::Settling => deadline.settle(),
                Progress::Running => call = self.submit().or(call),
            }
            let is_paused = self.behaviour.is_paused();
            tokio::select! {
                biased;
                event = self.connection.next(), if !is_paused => self.handle(event),
                result = response(&mut call), if call.is_some() => {
                    call = None;
                    self.submitted(result);
                }
                () = repeat_due(&mut self.turn) => {}
                action = self.behaviour.due() => self.act(action, &mut deadline),
                () = deadline.reached() => self.deadline_reached(&mut deadline),
            }
            self.answered(&mut deadline);
            if matches!(self.turn.as_deref(), Some(Turn { step: Step::Renews, .. })) {
                self.renew().await;
            }
        }
        self.stop_behaviour();
        self.silence.query_ended();
        self.end_current(End::Finished);
        self.free_connection().await;
    }

    /// Returns how to talk to the server, if the target speaks a foreign dialect.
    pub(super) fn foreign(worker: &WorkerContext) -> Option<&Foreign> {
        worker.plan().target.foreign.as_ref()
    }

    fn begin_turn(&mut self, num: u32, query: DueQuery) {
        let worker = Rc::clone(&self.worker);
        let Some(foreign) = Self::foreign(&worker) else { return };
        let (id, _) = self.queries.begin(num, query.due, true);
        let query_id = id.clone();
        let asked = self.user.request(&worker.plan().users, num, id, query.tokens);
        let tokens = asked.tokens.map(|tokens| foreign.max_tokens.map_or(tokens, |most| tokens.min(most)));
        let simulated = foreign.is_simulator.then(|| Simulated {
            seed: worker.plan().load.seed ^ (self.planned.index << 20) ^ u64::from(num),
            tokens,
            ttft_ms: asked.ttft_ms,
            itl_ms: asked.itl_ms,
            marks: true,
        });
        let question = Question {
            model: &foreign.model,
            prompt: &asked.query,
            // The simulator is told the length, and ends an answer at a limit as one that was cut short.
            max_tokens: foreign.max_tokens.or(asked.tokens.filter(|_| simulated.is_none())),
            previous: self.previous_answer.as_deref(),
            background: foreign.background,
            simulated,
        };
        let (body, answer) = self.question(&foreign.dialect, num, &query_id, &question);
        // The simulator waits after each token, so that the end is due one delay behind the last one.
        let total = |tokens: u32| Some(asked.ttft_ms? + f64::from(tokens) * asked.itl_ms?);
        let ideal = simulated.map_or((None, None), |_| (asked.ttft_ms, tokens.and_then(total)));
        self.turn = Some(Box::new(Turn {
            dialect: foreign.dialect.clone(),
            num,
            body,
            answer,
            step: Step::Send,
            backoff: self.backoff(),
            until: Instant::now() + self.time_limits().refusals(),
            resume: None,
            asked: String::new(),
            tokens: simulated.and(tokens),
            ideal,
            renewal: 0,
            refusal: None,
            body_end: None,
            boot_id: None,
            may_be_stale: false,
            is_renewed: false,
            is_too_old: false,
        }));
    }

    /// Returns the body of the question, and the state machine of its answer.
    fn question(&self, dialect: &Dialect, num: u32, id: &str, question: &Question<'_>) -> (String, Answer) {
        let Some(described) = &self.described else { return (dialect.ask(question), dialect.answer()) };
        let before = match self.turn.as_deref().map(|turn| &turn.answer) {
            Some(Answer::File(answer)) => Some(&**answer),
            _ => None,
        };
        let mut state = described.borrow();
        state.begin(num, id, question, before.or(Some(described.idle())));
        (String::new(), Answer::File(Box::new(state.answer())))
    }

    /// Sends the question, or what reads its answer on, if that is due and the socket can take it. Returns the call that asks, if the
    /// question is not sent over the socket.
    fn submit(&mut self) -> Option<Submission> {
        let worker = Rc::clone(&self.worker);
        if !self.connection.is_idle() || !self.turn.as_deref().is_some_and(Turn::is_due) {
            return None;
        }
        self.set_key();
        let Self { turn, connection, described, .. } = self;
        let (turn, socket) = (turn.as_deref_mut()?, connection.idle_socket()?);
        let connector = &worker.run().connector;
        turn.renewal = connector.credentials().key().1;
        let number = socket.endpoint();
        let ask = match (&turn.resume, described) {
            (Some(ReadOn::Call(call)), _) => Some(Ask::Stream(call.clone())),
            (Some(ReadOn::Described), Some(described)) => described.borrow().resume(),
            (_, Some(described)) => Some(described.borrow().ask()),
            (_, None) if turn.dialect.transport() == Transport::WebSocket => {
                Some(Ask::Message(turn.body.clone()))
            }
            (_, None) => {
                let path = connector.path_of(number, &turn.dialect).to_owned();
                let body = Some(turn.body.clone());
                Some(Ask::Stream(Call { body, ..Call::new("POST", path) }))
            }
        };
        let (is_accepted, request) = match ask {
            // Opening the connection asked for the rest.
            None => {
                turn.step = Step::Accepted;
                return None;
            }
            Some(Ask::Call(call)) => return Some(self.call_beside(call)),
            Some(Ask::Message(text)) => (true, Ok(text.into_bytes())),
            Some(Ask::Stream(call)) => {
                turn.asked = format!("{} {}", call.method, connector.url(number, &call.path));
                (false, connector.call(number, &call))
            }
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                let message = format!("{}: cannot be sent: {error}", turn.asked);
                self.call_failed(Failure { kind: FailureKind::Run, code: None, message }, End::Failed);
                return None;
            }
        };
        turn.body_end = None;
        turn.may_be_stale = socket.is_used();
        let now = Instant::now();
        socket.send(&request);
        // Over a WebSocket, the server says nothing before the first event.
        turn.step = if is_accepted { Step::Accepted } else { Step::Sent };
        if self.queries.was_sent(now) {
            worker.run().first_send.note(now);
        }
        None
    }

    /// Starts the call that asks, beside the socket that brings the answer.
    fn call_beside(&mut self, call: Call) -> Submission {
        let worker = Rc::clone(&self.worker);
        let progress = self.queries.call_progress();
        let mut backoff = self.backoff();
        let until = Instant::now() + self.time_limits().refusals();
        if let Some(turn) = self.turn.as_deref_mut() {
            turn.step = Step::Sent;
            turn.asked = format!("{} {}", call.method, call.path);
        }
        Box::pin(async move {
            let on_step = |step: CallStep<'_>| match step {
                CallStep::Sent(at) => {
                    progress.sent(at);
                    worker.run().first_send.note(at);
                }
                CallStep::Failed(failure) => progress.failed(failure),
            };
            let called = worker.http().call(FailureKind::Run, &call, &mut backoff, until, on_step).await;
            called.map(|timed| timed.value)
        })
    }

    /// Handles the response to the call that asked.
    fn submitted(&mut self, result: Result<HttpResponse, Failure>) {
        let can_renew = self.worker.run().connector.credentials().can_renew();
        let Self { turn, described, .. } = self;
        let (Some(turn), Some(described)) = (turn.as_deref_mut(), described) else { return };
        let response = match result {
            Ok(response) => response,
            Err(failure) if failure.code == Some(UNAUTHORIZED) && can_renew && !turn.is_renewed => {
                turn.resume = None;
                turn.step = Step::Renews;
                return;
            }
            Err(failure) => {
                let end = if failure.code.is_some() { End::Rejected } else { End::Failed };
                turn.step = Step::Over;
                return self.call_failed(failure, end);
            }
        };
        let header = |name: &str| response.header(name).map(str::to_owned);
        let read = match &mut turn.answer {
            Answer::File(answer) => described.borrow().submitted(&header, response.body(), answer),
            _ => Ok(()),
        };
        if let Err(why) = read {
            let message = format!("{}: {why}", turn.asked);
            turn.step = Step::Over;
            return self.call_failed(Failure { kind: FailureKind::Run, code: None, message }, End::Failed);
        }
        if matches!(turn.step, Step::Sent) {
            // The socket was lost meanwhile: the answer is read on over the new one.
            turn.step = if turn.resume.is_some() { Step::Send } else { Step::Accepted };
        }
    }

    /// Handles what the last read brought besides events: acceptance, refusal, the end of the response.
    fn answered(&mut self, deadline: &mut Deadline) {
        let Some(turn) = self.turn.as_deref_mut() else { return };
        let is_accepted = matches!(turn.step, Step::Accepted);
        let (ideal, is_too_old) = (turn.ideal, turn.is_too_old);
        // Over a WebSocket, no response ends behind an answer.
        let is_ws = turn.dialect.transport() == Transport::WebSocket;
        let is_over = turn.body_end.is_some() || is_ws && turn.answer.missing_end().is_none();
        let boot_id = turn.boot_id.take();
        let (refusal, body_end) = (turn.refusal.take(), turn.body_end);
        let is_new = self.queries.response().is_none() && self.queries.progress() == Progress::Running;
        if is_accepted && is_new {
            self.accepted(ideal, deadline);
        }
        // A whole answer may arrive in the read that accepts the question: the query is finished from then on, not before.
        let progress = self.queries.progress();
        let is_running = progress == Progress::Running;
        if boot_id.is_some() {
            self.compare_clocks(boot_id.as_deref());
        }
        if let Some(refusal) = refusal {
            self.refused(&refusal);
        } else if is_accepted && is_over && !is_too_old {
            let missing = self.turn.as_deref().and_then(|turn| turn.answer.missing_end());
            match missing {
                Some(missing) if is_running => {
                    self.truncate(&format!("the response ended without {missing}"));
                }
                None if is_running => self.truncate("the end of the answer could not be read"),
                // Events that are missing cannot follow any more.
                None if progress == Progress::Settling && body_end.is_some() => {
                    self.end_current(End::Finished);
                }
                Some(_) | None => {}
            }
        }
        if self.turn.as_deref().is_some_and(|turn| turn.is_too_old) {
            self.renew_connection();
        }
    }

    /// Notes that the server accepted the question.
    fn accepted(
        &mut self,
        (ideal_ttft_ms, ideal_e2el_ms): (Option<f64>, Option<f64>),
        deadline: &mut Deadline,
    ) {
        let response = RunResponse { ideal_ttft_ms, ideal_e2el_ms, ..RunResponse::default() };
        let sent = self.queries.sent().unwrap_or_else(Instant::now);
        deadline.set(sent + self.time_limits().query(&response));
        let ideal = millis(response.ideal_e2el_ms);
        self.silence.allow(allowed(None, ideal));
        if let Some(query) = self.queries.current_mut() {
            query.accepted(response);
            let delay = self.behaviour.plan(query.num, sent, ideal);
            deadline.extend(delay);
        }
    }

    /// Handles a refusal: repeats the question later, renews the key, or ends the query.
    fn refused(&mut self, refusal: &Refusal) {
        let worker = Rc::clone(&self.worker);
        let Some(turn) = self.turn.as_deref() else { return };
        let message = format!("{}: {}", turn.asked, refusal.message);
        let message = self.hide(&message);
        let Some(turn) = self.turn.as_deref_mut() else { return };
        let failure = Failure { kind: FailureKind::Run, code: Some(refusal.status.as_u16()), message };
        let is_resume = turn.resume.is_some();
        let credentials = worker.run().connector.credentials();
        if refusal.status == http::StatusCode::UNAUTHORIZED && credentials.can_renew() && !turn.is_renewed {
            turn.step = Step::Renews;
            return;
        }
        if is_retryable(refusal.status) {
            let delay = turn.backoff.next_requested(refusal.retry_after);
            if Instant::now() + delay < turn.until {
                self.queries.was_refused(&failure);
                turn.step = Step::Waits(Box::pin(tokio::time::sleep(delay)));
                return;
            }
        }
        turn.step = Step::Over;
        if is_resume {
            self.truncate(&format!("the rest of the answer was refused: {}", failure.message));
        } else {
            self.call_failed(failure, End::Rejected);
        }
    }

    /// Renews the key, and asks again with it.
    async fn renew(&mut self) {
        let worker = Rc::clone(&self.worker);
        let Some(turn) = self.turn.as_deref_mut() else { return };
        let result = worker.run().connector.credentials().renew(turn.renewal).await;
        turn.is_renewed = true;
        match result {
            Ok(()) => turn.step = Step::Send,
            Err(message) => {
                turn.step = Step::Over;
                let code = Some(UNAUTHORIZED);
                self.call_failed(Failure { kind: FailureKind::Run, code, message }, End::Rejected);
            }
        }
    }
}

/// Waits until a refused question is to be repeated, and makes it due. Waits forever if none is. Cancel safe.
async fn repeat_due(turn: &mut Option<Box<Turn>>) {
    match turn {
        Some(turn) => turn.repeat_due().await,
        None => std::future::pending().await,
    }
}

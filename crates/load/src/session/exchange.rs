//! One query and its answer: the call, what the session does on purpose meanwhile, and the deadline.

use super::{Session, behaviour::Action, deadline::Deadline};
use crate::{
    http::CallStep,
    idle::DueQuery,
    query::{End, Progress, millis},
};
use measure::{record::Failure, silence::allowed, timeline::NoteEvent};
use protocol::{RunResponse, SessionId};
use std::{future::pending, rc::Rc, time::Instant};

/// The status of a call for a session that has a running query.
const CONFLICT: u16 = 409;

impl Session {
    /// Sends query `num` and handles events until it is finished or its deadline has passed.
    pub(super) async fn query(&mut self, num: u32, query: DueQuery) {
        self.record_current();
        self.hops.query_began();
        let _running = self.worker.run().active.queries.enter();
        self.silence.query_began(&self.worker.run().active.silences, self.behaviour.connects_late());
        // Dropped when it ends: the state of a call is larger than everything else that a session keeps.
        let mut call = Some(Box::pin(self.call(num, query)));
        let now = Instant::now();
        let mut deadline = Deadline::new(now + self.time_limits().call(), self.worker.delay().total(now));
        while !self.is_over {
            match self.queries.progress() {
                Progress::Finished => break,
                Progress::Settling => deadline.settle(),
                Progress::Running => {}
            }
            let is_paused = self.behaviour.is_paused();
            tokio::select! {
                biased;
                event = self.connection.next(), if !is_paused => self.handle(event),
                result = response(&mut call), if call.is_some() => {
                    call = None;
                    self.responded(result, &mut deadline);
                }
                action = self.behaviour.due() => self.act(action, &mut deadline),
                () = deadline.reached() => self.deadline_reached(&mut deadline),
            }
        }
        self.stop_behaviour();
        self.silence.query_ended();
        self.end_current(End::Finished);
    }

    /// Starts query `num` and returns its call.
    fn call(
        &mut self,
        num: u32,
        query: DueQuery,
    ) -> impl Future<Output = Result<RunResponse, Failure>> + use<> {
        let (id, progress) = self.queries.begin(num, query.due, !self.behaviour.connects_late());
        let worker = Rc::clone(&self.worker);
        let mut backoff = self.backoff();
        let session = self.id.unwrap_or_else(|| SessionId::new(uuid::Uuid::nil()));
        let body = self.user.request(&worker.plan().users, num, id, query.tokens);
        let until = Instant::now() + self.time_limits().refusals();
        let previous_may_run = self.queries.previous_may_run();
        async move {
            let mut is_first = true;
            loop {
                let on_step = |step: CallStep<'_>| match step {
                    CallStep::Sent(at) if is_first => {
                        progress.sent(at);
                        worker.run().first_send.note(at);
                    }
                    CallStep::Sent(_) => {}
                    CallStep::Failed(failure) => progress.failed(failure),
                };
                let result = worker.http().run(session, &body, &mut backoff, until, on_step).await;
                is_first = false;
                // The server still answers a query that this session gave up.
                let is_busy = |failure: &Failure| previous_may_run && failure.code == Some(CONFLICT);
                if !result.as_ref().is_err_and(is_busy) {
                    return result;
                }
                let delay = backoff.next_requested(None);
                if Instant::now() + delay >= until {
                    return result;
                }
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// Handles the response to the query's call.
    fn responded(&mut self, result: Result<RunResponse, Failure>, deadline: &mut Deadline) {
        let sent = self.queries.sent().unwrap_or_else(Instant::now);
        match result {
            Ok(response) => {
                deadline.set(sent + self.time_limits().query(&response));
                self.compare_clocks(response.boot_id.as_deref());
                if response.generation.is_none() || response.tokens.is_none() {
                    self.log.old_contract();
                }
                let ideal = millis(response.ideal_e2el_ms);
                self.silence.allow(allowed(millis(response.ideal_gap_ms), ideal));
                if let Some(query) = self.queries.current_mut() {
                    query.accepted_at = Some(Instant::now());
                    query.accepted(response);
                    let delay = self.behaviour.plan(query.num, sent, ideal);
                    deadline.extend(delay);
                }
            }
            Err(failure) => {
                let end = if failure.code.is_some() { End::Rejected } else { End::Failed };
                self.call_failed(failure, end);
            }
        }
    }

    /// Ends the query because its call failed.
    pub(super) fn call_failed(&mut self, failure: Failure, end: End) {
        self.end_current(end);
        if let Some(query) = self.queries.current_mut() {
            query.fail(failure.kind, failure.code, failure.message);
        }
    }

    /// Compares the server's clock with this machine's, and adds the samples that waited for this.
    pub(super) fn compare_clocks(&mut self, boot_id: Option<&str>) {
        let shared = self.worker.compare_clocks(boot_id);
        let samples = self.queries.current_mut().map(|query| &mut query.samples);
        self.delivery.clock_known(shared, self.worker.clock(), samples);
        let samples = self.queries.current_mut().map(|query| &mut query.samples);
        self.hops.server_known(boot_id.map(|id| self.worker.clock_of(id)), samples);
    }

    /// Performs an action on purpose that is due.
    pub(super) fn act(&mut self, action: Action, deadline: &mut Deadline) {
        let now = Instant::now();
        match action {
            Action::Connect => {
                let (backoff, limit) =
                    (self.backoff(), self.time_limits().reconnect(self.queries.response()));
                self.connection.connect(backoff, limit);
                if let Some(query) = self.queries.current() {
                    let ideal = query.response.as_ref().and_then(|response| millis(response.ideal_e2el_ms));
                    self.behaviour.plan_pause(query.num, now, ideal);
                }
            }
            Action::Pause(_) if !self.connection.is_up() => self.behaviour.postpone(action, now),
            Action::Pause(duration) => {
                self.log.paused();
                self.log.note(self.worker.moment(now), NoteEvent::Paused(duration));
                self.behaviour.pause(now, duration);
                self.silence.intended();
                if let Some(query) = self.queries.current_mut() {
                    query.paused = duration;
                }
                deadline.extend(duration);
            }
            Action::Resume => self.stop_behaviour(),
        }
    }

    /// Cancels planned actions and ends a pause in reading.
    pub(super) fn stop_behaviour(&mut self) {
        let Some(paused) = self.behaviour.stop() else { return };
        self.silence.resumed(Instant::now());
        if let Some(query) = self.queries.current_mut() {
            query.paused = paused;
            self.connection.restart_silence_timer();
        }
    }

    /// Ends the query at its deadline, after reading everything that has arrived.
    pub(super) fn deadline_reached(&mut self, deadline: &mut Deadline) {
        self.read_all();
        if self.queries.progress() == Progress::Finished {
            return;
        }
        if deadline.is_settling() {
            // Events that follow the terminator are awaited for longer if the socket is down or still replays.
            let is_listening = self.connection.is_up() && !self.replay.awaits_resumed();
            if is_listening || !deadline.continue_after_settling() {
                self.end_current(End::Finished);
            }
            return;
        }
        // The generator must not fail a query because it was itself too slow to read.
        if !deadline.allow_for(self.worker.delay().total(Instant::now())) {
            match self.queries.refusal() {
                // Whether the deadline ends an attempt in flight or the pause before it is chance. The outcome must not depend on it.
                Some(refusal) => self.call_failed(refusal, End::Rejected),
                None => self.end_current(End::TimedOut),
            }
        }
    }

    /// Reads the socket until it would block, unless the session pauses reading.
    fn read_all(&mut self) {
        while !self.behaviour.is_paused()
            && let Some(event) = self.connection.next_now()
        {
            self.handle(event);
        }
    }

    pub(super) fn end_current(&mut self, end: End) {
        self.queries.end(end, self.log.failure().filter(|_| self.is_over));
    }
}

/// Waits for the result of a call that is under way.
pub(super) async fn response<T>(call: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

//! One query of a session: sent, listened to until its tokens are there or its deadline, handed in.
//! It never takes silence for success, and knows nothing of how the session began or ends.

use super::{Session, errand, next};
use crate::{
    link::Link,
    pool::Turn,
    query::{End, Progress, Query, millis},
};
use measure::{
    live::LiveCounters,
    record::{Failure, QueryRecord, QueryStatus},
};
use protocol::{Position, RunResponse, SessionId};
use std::{
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// How long a query may take beyond its ideal.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a query may take whose ideal is unknown.
const BLIND_PATIENCE: Duration = Duration::from_secs(60);
/// A loop that was held up for less than this in all has read in time.
const LEAST_HOLD: Duration = Duration::from_millis(20);
/// How long events may trail behind their terminator on an open socket.
const SETTLE: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn query(&mut self, num: u32, turn: Turn) {
        self.settle_current();
        let mut query = Query::new(num, uuid::Uuid::new_v4().to_string(), turn.due, self.last.generation);
        query.waits_for_socket = !self.habits.connects_late();
        let id = query.id.clone();
        self.current = Some(query);
        self.queries_begun = num;
        self.sent = Rc::default();
        let _running = self.worker.queries.enter();
        // Dropped as soon as it is answered: it is larger than all else that a session keeps.
        let mut call = Some(Box::pin(self.call(num, id, turn.tokens)));
        let mut deadline =
            Deadline::new(Instant::now() + self.patience(), self.worker.pulse.held_up(Instant::now()));
        while !self.over {
            match self.current.as_ref().map_or(Progress::Finished, Query::progress) {
                Progress::Finished => break,
                Progress::Settling => deadline.settle(),
                Progress::Running => {}
            }
            tokio::select! {
                biased;
                event = next(&mut self.link), if self.paused_since.is_none() => self.take(event),
                answer = answer(&mut call), if call.is_some() => {
                    call = None;
                    self.answered(answer, &mut deadline);
                }
                errand = errand::due(&mut self.errand) => self.run_errand(errand, &mut deadline),
                () = deadline.reached() => self.deadline(&mut deadline),
            }
        }
        self.drop_errands();
        self.end_current(End::Finished);
    }

    /// How long a call, or a query whose ideal is unknown, may take.
    pub(super) fn patience(&self) -> Duration {
        self.worker.plan.load.query_timeout.unwrap_or(BLIND_PATIENCE)
    }

    /// How long a query with this answer may take.
    fn patience_for(&self, answer: &RunResponse) -> Duration {
        let ideal = millis(answer.ideal_e2el_ms);
        let patience = self.worker.plan.load.query_timeout;
        patience.or(ideal.map(|ideal| ideal + PATIENCE)).unwrap_or(BLIND_PATIENCE)
    }

    /// How long a gateway may send the session away: as long as its query, or a call, may take.
    pub(crate) fn limit(&self) -> Duration {
        let answer = self.current.as_ref().and_then(|query| query.answer.as_ref());
        answer.map_or_else(|| self.patience(), |answer| self.patience_for(answer).max(self.patience()))
    }

    fn call(
        &mut self,
        num: u32,
        id: String,
        tokens: Option<u32>,
    ) -> impl Future<Output = Result<RunResponse, Failure>> + use<> {
        let (worker, sent) = (Rc::clone(&self.worker), Rc::clone(&self.sent));
        let mut backoff = self.backoff();
        let session = self.id.unwrap_or_else(|| SessionId::new(uuid::Uuid::nil()));
        let body = self.user.request(&worker.plan.users, num, id, tokens);
        let until = Instant::now() + self.patience();
        async move {
            let on_send = |at| {
                sent.set(Some(at));
                worker.first_send.note(at);
            };
            worker.http.run(session, &body, &mut backoff, until, on_send).await
        }
    }

    fn answered(&mut self, answer: Result<RunResponse, Failure>, deadline: &mut Deadline) {
        let sent = self.sent.get().unwrap_or_else(Instant::now);
        match answer {
            Ok(answer) => {
                deadline.set(sent + self.patience_for(&answer));
                self.compare_clocks(answer.boot_id.as_deref());
                self.old_contract |= answer.generation.is_none() || answer.tokens.is_none();
                if let Some(query) = &mut self.current {
                    query.answered(answer);
                }
                self.plan_errand(sent, deadline);
            }
            Err(failure) => {
                self.end_current(if failure.code.is_some() { End::Rejected } else { End::Failed });
                if let Some(query) = &mut self.current {
                    query.fail(failure.kind, failure.code, failure.message);
                }
            }
        }
    }

    /// The deadline came: of the query, or of the wait for what trails behind its terminator. What has arrived by then is read first.
    fn deadline(&mut self, deadline: &mut Deadline) {
        self.read_all();
        if self.current.as_ref().is_none_or(|query| query.progress() == Progress::Finished) {
            return;
        }
        let listening = self.link.as_deref().is_some_and(Link::is_up)
            && !self.replay.is_some_and(|replay| replay.goes_on);
        // While the loop is held up nothing is read: what came meanwhile is read before the query is given up.
        if !deadline.is_settling() && deadline.allow_for(self.worker.pulse.held_up(Instant::now())) {
            return;
        }
        if deadline.is_settling() && !listening && Instant::now() < deadline.last {
            deadline.set(deadline.last);
            return;
        }
        let settled = deadline.is_settling();
        self.end_current(if settled { End::Finished } else { End::TimedOut });
    }

    /// Reads the socket until it would block, except while the session is asked not to read.
    fn read_all(&mut self) {
        while self.paused_since.is_none()
            && let Some(event) = self.link.as_deref_mut().and_then(Link::next_now)
        {
            self.take(event);
        }
    }

    pub(super) fn end_current(&mut self, end: End) {
        if let Some(query) = &mut self.current {
            let end = match &self.failure {
                Some(failure) if self.over => {
                    query.fail(failure.kind.clone(), failure.code, failure.message.clone());
                    if query.progress() == Progress::Running { End::Failed } else { end }
                }
                _ => end,
            };
            query.finish(Instant::now(), end);
        }
    }

    /// Hands the current query's record in, and keeps it to recognise its late events.
    pub(super) fn settle_current(&mut self) {
        let Some(mut query) = self.current.take() else { return };
        query.sent = self.sent.get();
        let generation = query.ceiling();
        let position = query.last_position().unwrap_or(Position::ZERO);
        self.last = self.last.max(position).max(Position::new(generation, 0));
        let worker = &self.worker;
        let clock = (self.shared_clock == Some(true)).then_some(&worker.clock);
        let moment = |instant| worker.moment(instant);
        let mut record = query.record(self.id, self.index, moment, Instant::now(), &self.downtime, clock);
        record.excused = record.status == QueryStatus::Timeout
            && query.sent.is_some_and(|sent| worker.stood_still_since(sent));
        if let Some(failure) = &mut record.failure {
            // A server may repeat in a stream or a close frame what it was sent.
            failure.message = worker.plan.target.secrets.hide(&failure.message);
        }
        self.tell_faults(&query, &record);
        self.queries_ok += u32::from(record.status == QueryStatus::Ok);
        self.queries_cut_off += u32::from(record.status == QueryStatus::Abandoned);
        self.queries_excused += u32::from(record.excused);
        LiveCounters::add(&worker.live.queries, 1);
        LiveCounters::add(&worker.live.lost, record.tally.tokens_lost);
        LiveCounters::add(
            &worker.live.errors,
            u64::from(!matches!(record.status, QueryStatus::Ok | QueryStatus::Abandoned)),
        );
        let samples = std::mem::take(&mut query.samples);
        worker.recorder.borrow_mut().query_ended(record, &samples, || self.record(Instant::now(), false));
        self.previous = Some(Box::new(query));
    }
}

impl Session {
    /// What a query's end says of the faults during it.
    fn tell_faults(&self, query: &Query, record: &QueryRecord) {
        let faults = &self.worker.faults;
        if let Some(code) = &record.error_code {
            faults.error_event(record.done.unwrap_or(record.ended), code);
            return;
        }
        if matches!(record.status, QueryStatus::Timeout | QueryStatus::Rejected | QueryStatus::Error) {
            let heard = query.own_stream().and_then(|stream| stream.last_event).or(query.sent);
            faults.unrecovered(heard.map_or(record.ended, |at| self.worker.moment(at)), record.ended);
        }
    }
}

/// The answer to a call that is under way.
async fn answer<T>(call: &mut Option<Pin<Box<impl Future<Output = T>>>>) -> T {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// One timer a query, set anew when its limit becomes known or its terminator came too early.
pub(super) struct Deadline {
    timer: Pin<Box<Sleep>>,
    last: Instant,
    settling: bool,
    /// How long the worker's loop had been held up by the time that the deadline allows for.
    held_up: Duration,
}

impl Deadline {
    fn new(at: Instant, held_up: Duration) -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(at.into())), last: at, settling: false, held_up }
    }

    fn set(&mut self, at: Instant) {
        self.last = at;
        self.settling = false;
        self.timer.as_mut().reset(at.into());
    }

    /// The client itself takes so much longer.
    pub(super) fn extend(&mut self, by: Duration) {
        self.set(self.last + by);
    }

    /// Moves by what the loop was held up since it was last allowed for; false where that is too little to matter.
    fn allow_for(&mut self, held_up: Duration) -> bool {
        let more = held_up.saturating_sub(self.held_up);
        if more < LEAST_HOLD {
            return false;
        }
        self.held_up = held_up;
        self.extend(more);
        true
    }

    /// Once: what trails behind the terminator has a little longer, but not longer than the query.
    fn settle(&mut self) {
        let at = Instant::now() + SETTLE;
        if !self.settling && at < self.last {
            self.settling = true;
            self.timer.as_mut().reset(at.into());
        }
    }

    const fn is_settling(&self) -> bool {
        self.settling
    }

    async fn reached(&mut self) {
        self.timer.as_mut().await;
    }
}

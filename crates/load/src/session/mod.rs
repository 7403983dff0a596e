//! One session from creation to close: create, connect, query after query, close.
//! It sends no query before its socket is open, and treats silence as a failure.

mod behaviour;
mod connection;
mod deadline;
mod delivery;
mod log;
mod planned;
mod queries;
mod receive;
mod replay;

use crate::{
    backoff::Backoff,
    burst::{Burst, BurstSlot},
    connection::{AttemptTime, Connection, ConnectionEvent, CutTimer, Loss, SocketOpener},
    context::WorkerContext,
    endpoint::DialOptions,
    idle::DueQuery,
    query::{End, Progress, Query, millis},
};
use behaviour::{Action, Behaviour};
use connection::{Reaction, SessionConnection};
use deadline::Deadline;
use delivery::DeliveryTimes;
use log::SessionLog;
use measure::{
    ActiveGuard,
    live::LiveCounters,
    record::{Failure, FailureKind, LossCause, QueryRecord, QueryStatus, SessionRecord},
};
use plan::{behaviour::SessionBehaviour, users::User};
pub(crate) use planned::PlannedSession;
use protocol::{CloseReason, RunResponse, SessionId};
use queries::Queries;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use receive::Receiver;
use replay::ReplayWindow;
use settings::secret::Secret;
use std::{
    future::pending,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a query may take beyond its ideal duration.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a call may take, or a query without an ideal duration.
const BLIND_PATIENCE: Duration = Duration::from_secs(60);
/// How long the session waits for the gateway to answer its close frame, or to close the socket of a closed session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a session as planned and records it. Returns false if the session failed.
pub(crate) async fn run(worker: Rc<WorkerContext>, planned: PlannedSession) -> bool {
    let mut session = Session::new(worker, planned);
    let running = session.worker.stop().running.clone();
    tokio::select! {
        biased;
        () = session.live() => {}
        () = running.cancelled() => session.end_current(End::Abandoned),
    }
    session.record()
}

/// What the loss of the socket means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A failure: the session reconnects or stops.
    Open,
    /// Expected: the session closes its socket between two queries.
    ClosingSocket,
    /// Expected: the session is being closed.
    Closing,
}

/// A session in progress. Its parts are independent of each other; this type connects them.
struct Session {
    worker: Rc<WorkerContext>,
    planned: PlannedSession,
    user: User,
    random: SmallRng,
    /// `None` until the session was created.
    id: Option<SessionId>,
    connection: SessionConnection,
    replay: ReplayWindow,
    queries: Queries,
    behaviour: Behaviour,
    delivery: DeliveryTimes,
    log: SessionLog,
    stage: Stage,
    /// The session failed and sends no further query.
    is_over: bool,
    /// The burst waits for this session until the slot is dropped.
    slot: Option<BurstSlot>,
    _open: ActiveGuard,
}

/// Creation and end.
impl Session {
    fn new(worker: Rc<WorkerContext>, planned: PlannedSession) -> Self {
        let plan = worker.plan();
        // Spreads the indices over all seeds, so that neighbouring sessions draw unrelated numbers.
        let seed = plan.load.seed.wrapping_add(planned.index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self {
            user: plan.users.user(planned.index),
            random: SmallRng::seed_from_u64(seed),
            id: None,
            connection: SessionConnection::default(),
            replay: ReplayWindow::default(),
            queries: Queries::default(),
            behaviour: Behaviour::new(SessionBehaviour::draw(&plan.behaviour, &plan.load, planned.index)),
            delivery: DeliveryTimes::new(worker.shared_clock()),
            log: SessionLog::new(),
            stage: Stage::Open,
            is_over: false,
            slot: worker.run().burst.as_ref().map(Burst::slot),
            _open: worker.run().sessions.enter(),
            planned,
            worker,
        }
    }

    /// Creates the session, sends its queries and closes it.
    async fn live(&mut self) {
        // Boxed, so that the state of the preparation does not occupy memory for the rest of the session.
        if let Err(failure) = Box::pin(self.prepare()).await {
            self.fail(failure);
            return;
        }
        if self.worker.idle().is_some() {
            self.send_arriving_queries().await;
        } else {
            self.send_own_queries().await;
        }
        Box::pin(self.close()).await;
    }

    /// Creates the session and opens its first socket, unless that is opened late on purpose.
    async fn prepare(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut backoff = self.backoff();
        let created = self.worker.http().create(&mut backoff, started + self.patience()).await?;
        let time = created.at.saturating_duration_since(started);
        self.log.created(AttemptTime { time, slack: created.slack });
        let created = created.value;
        self.id = Some(created.session_id);
        let mut connection = Box::new(self.new_connection(created.session_id, created.token()));
        let is_late = self.behaviour.connects_late();
        if !is_late {
            let backoff = self.backoff();
            self.log.connected(connection.open(backoff, self.patience()).await?);
            LiveCounters::add(&self.worker.live().connects, 1);
            self.delivery.socket_opened(Instant::now());
        }
        self.connection.attach(connection, is_late);
        Ok(())
    }

    fn new_connection(&self, session: SessionId, token: Secret) -> Connection {
        let (worker, attempts, index) = (Rc::clone(&self.worker), self.log.attempts(), self.planned.index);
        let run = self.worker.run();
        let opener = SocketOpener {
            connector: Arc::clone(&run.connector),
            session,
            token,
            dial: DialOptions {
                from: run.connector.local_ip(index),
                narrow: self.behaviour.pauses(),
                endpoint: index,
            },
            on_attempt: Rc::new(move || {
                attempts.set(attempts.get() + 1);
                worker.recorder().reconnect_attempt(worker.moment(Instant::now()));
            }),
            buffers: Rc::clone(self.worker.buffers()),
        };
        let plan = &run.plan;
        let mut drawn = SessionBehaviour::draw(&plan.behaviour, &plan.load, index);
        let cuts = (plan.behaviour.drop_rate > 0.0).then(|| CutTimer::new(move || drawn.next_cut()));
        Connection::new(opener, plan.reconnect.ping_timeout, cuts)
    }

    /// Closes the session, and waits until the gateway has closed its socket.
    async fn close(&mut self) {
        self.stage = Stage::Closing;
        self.connection.stop_cutting();
        let failure = self.log.failure();
        let is_taken_over = failure.is_some_and(|failure| failure.kind == FailureKind::Closed(4001));
        // Neither needs the call: another connection owns the session, or the session is closed.
        let needs_call = !is_taken_over && !self.connection.is_session_closed();
        let Some(session) = self.id.filter(|_| needs_call) else { return };
        let worker = Rc::clone(&self.worker);
        let mut backoff = self.backoff();
        let started = Instant::now();
        let until = started + self.patience();
        let mut call = Box::pin(async move { worker.http().close(session, &mut backoff, until).await });
        let result = loop {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                result = &mut call => break result,
            }
        };
        match result {
            Ok(()) => self.log.closed(started.elapsed()),
            Err(failure) => self.log.fail(failure),
        }
        self.wait_for_close().await;
        self.connection.close().await;
    }

    /// Handles events until the socket is closed. Returns false if that takes longer than 1 s.
    async fn wait_for_close(&mut self) -> bool {
        let mut timeout = Box::pin(tokio::time::sleep(CLOSE_TIMEOUT));
        while self.connection.is_up() {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = &mut timeout => return false,
            }
        }
        true
    }

    /// Closes the query's own socket with a close frame, so that the gateway knows what arrived.
    async fn close_socket(&mut self) {
        self.connection.send_close().await;
        self.stage = Stage::ClosingSocket;
        let was_up = self.connection.is_up();
        let is_clean = self.wait_for_close().await && was_up;
        self.connection.close().await;
        self.stage = Stage::Open;
        self.connection.closed_between_queries(is_clean);
    }

    /// Notes a failure, after which no further query is sent.
    fn fail(&mut self, mut failure: Failure) {
        self.is_over = true;
        failure.message = self.worker.plan().target.secrets.hide(&failure.message);
        self.log.fail(failure);
    }

    /// Records the last query and the session. Returns false if the session failed.
    fn record(mut self) -> bool {
        self.record_current();
        let now = Instant::now();
        let worker = Rc::clone(&self.worker);
        let begun = self.queries.begun();
        let unsent = begun + 1..=self.last_planned_query();
        let has_failed = self.log.failure().is_some();
        let mut queries = Vec::new();
        if has_failed {
            queries.extend(unsent.map(|num| self.unsent_query(num, now)));
            LiveCounters::add(&worker.live().errors, queries.len() as u64);
        } else if worker.stop().starting.is_cancelled() {
            worker.never_started(unsent.count() as u64);
        }
        let has_begun = begun > 0 || self.queries_planned().is_none() || self.planned.until.is_some();
        let all_ok = queries.is_empty() && self.queries.all_ok() && has_begun;
        let is_excusable = !has_failed && !all_ok && queries.is_empty();
        let record = SessionRecord {
            ok: all_ok && !has_failed,
            cut_off: is_excusable && self.queries.all_ok_or_cut_off(),
            excused: is_excusable && self.queries.all_ok_or_excused(),
            ..self.session_record(now)
        };
        worker.recorder().session_ended(record, queries);
        LiveCounters::add(&worker.live().ended, 1);
        !has_failed
    }

    fn session_record(&self, now: Instant) -> SessionRecord {
        self.log.record(self.id, &self.planned, now, |instant| self.worker.moment(instant))
    }

    /// Returns the number of the last query that the plan held for this session, whether or not it was sent.
    fn last_planned_query(&self) -> u32 {
        match self.queries_planned() {
            Some(planned) if self.planned.until.is_none() => planned,
            // Without a fixed number, a failure between two queries is recorded as that of the next query.
            _ => {
                let failed_between = self.log.failure().is_some() && self.queries.all_ok();
                self.queries.begun() + u32::from(failed_between)
            }
        }
    }

    fn unsent_query(&self, num: u32, now: Instant) -> QueryRecord {
        QueryRecord {
            session: self.id,
            failure: self.log.failure().cloned(),
            ..QueryRecord::unsent(self.planned.index, num, self.worker.moment(now))
        }
    }
}

/// When queries are sent.
impl Session {
    /// Sends one query after another, with a think time in between.
    async fn send_own_queries(&mut self) {
        let users = Arc::clone(&self.worker.plan().users);
        let mut due = self.first_query().await;
        for num in 1..=self.queries_planned().unwrap_or(u32::MAX) {
            let end = self.planned.until.filter(|&until| until <= due);
            if !self.wait_until(end.unwrap_or(due)).await || end.is_some() {
                break;
            }
            if !self.send(num, DueQuery { due, tokens: self.planned.tokens }).await {
                break;
            }
            due = Instant::now() + self.user.think_time(&users);
        }
    }

    /// Sends the queries that arrive for this session, until no more will.
    async fn send_arriving_queries(&mut self) {
        for num in 1..=u32::MAX {
            let Some(query) = self.next_arrival().await else { break };
            if !self.wait_until(query.due).await || !self.send(num, query).await {
                break;
            }
        }
    }

    /// Sends one query and waits for its end. Returns false if the session is over.
    async fn send(&mut self, num: u32, query: DueQuery) -> bool {
        self.query(num, query).await;
        if self.behaviour.connects_late() {
            Box::pin(self.close_socket()).await;
        }
        !self.is_over
    }

    /// Handles events until a query arrives for this session. `None` if no more will.
    async fn next_arrival(&mut self) -> Option<DueQuery> {
        let worker = Rc::clone(&self.worker);
        let mut arrival = worker.idle()?.join()?;
        while !self.is_over {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                query = &mut arrival => return query.ok(),
                () = worker.stop().starting.cancelled() => break,
            }
        }
        None
    }

    /// Returns the number of queries that the session sends. `None`: as many as fit until its end.
    fn queries_planned(&self) -> Option<u32> {
        self.user.kind(&self.worker.plan().users).queries
    }

    /// Returns whether the current query still needs the socket, or a later one will use it.
    fn needs_socket(&self) -> bool {
        let is_running = self.queries.progress() != Progress::Finished;
        let was_last = self.worker.idle().is_none()
            && self.queries_planned().is_some_and(|planned| self.queries.begun() >= planned);
        is_running || !(was_last || self.behaviour.connects_late())
    }

    /// Returns when the first query is due: now, or at the burst's instant, for which this waits.
    async fn first_query(&mut self) -> Instant {
        self.slot = None;
        let worker = Rc::clone(&self.worker);
        let Some(burst) = &worker.run().burst else { return Instant::now() };
        let mut instant = Box::pin(burst.instant());
        loop {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                instant = &mut instant => return instant.unwrap_or_else(Instant::now),
                () = worker.stop().starting.cancelled() => return Instant::now(),
            }
        }
    }

    /// Handles events until `due` has come and a query can be sent. Returns false if nothing may start any more.
    async fn wait_until(&mut self, due: Instant) -> bool {
        let worker = Rc::clone(&self.worker);
        let starting = &worker.stop().starting;
        let mut timer = Box::pin(tokio::time::sleep_until(due.into()));
        loop {
            let can_send = self.behaviour.connects_late() || self.connection.is_up();
            // The comparison with the clock avoids a wait for the timer, which is rounded up to the next millisecond.
            let is_due = timer.is_elapsed() || Instant::now() >= due;
            if self.is_over || starting.is_cancelled() || (can_send && is_due) {
                return !self.is_over && !starting.is_cancelled();
            }
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = starting.cancelled() => {}
                () = &mut timer, if !timer.is_elapsed() => {}
            }
        }
    }
}

/// One query.
impl Session {
    /// Sends query `num` and handles events until it is finished or its deadline has passed.
    async fn query(&mut self, num: u32, query: DueQuery) {
        self.record_current();
        let _running = self.worker.run().queries.enter();
        // Dropped when it ends: the state of a call is larger than everything else that a session keeps.
        let mut call = Some(Box::pin(self.call(num, query)));
        let now = Instant::now();
        let mut deadline = Deadline::new(now + self.patience(), self.worker.delay().total(now));
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
        self.end_current(End::Finished);
    }

    /// Starts query `num` and returns its call.
    fn call(
        &mut self,
        num: u32,
        query: DueQuery,
    ) -> impl Future<Output = Result<RunResponse, Failure>> + use<> {
        let (id, sent) = self.queries.begin(num, query.due, !self.behaviour.connects_late());
        let worker = Rc::clone(&self.worker);
        let mut backoff = self.backoff();
        let session = self.id.unwrap_or_else(|| SessionId::new(uuid::Uuid::nil()));
        let body = self.user.request(&worker.plan().users, num, id, query.tokens);
        let until = Instant::now() + self.patience();
        async move {
            let on_send = |at| {
                sent.set(Some(at));
                worker.run().first_send.note(at);
            };
            worker.http().run(session, &body, &mut backoff, until, on_send).await
        }
    }

    /// Handles the response to the query's call.
    fn responded(&mut self, result: Result<RunResponse, Failure>, deadline: &mut Deadline) {
        let sent = self.queries.sent().unwrap_or_else(Instant::now);
        match result {
            Ok(response) => {
                deadline.set(sent + self.patience_for(&response));
                self.compare_clocks(response.boot_id.as_deref());
                if response.generation.is_none() || response.tokens.is_none() {
                    self.log.old_contract();
                }
                let ideal = millis(response.ideal_e2el_ms);
                if let Some(query) = self.queries.current_mut() {
                    query.accepted(response);
                    let delay = self.behaviour.plan(query.num, sent, ideal);
                    deadline.extend(delay);
                }
            }
            Err(failure) => {
                self.end_current(if failure.code.is_some() { End::Rejected } else { End::Failed });
                if let Some(query) = self.queries.current_mut() {
                    query.fail(failure.kind, failure.code, failure.message);
                }
            }
        }
    }

    /// Compares the server's clock with this machine's, and adds the samples that waited for this.
    fn compare_clocks(&mut self, boot_id: Option<&str>) {
        let shared = self.worker.compare_clocks(boot_id);
        let samples = self.queries.current_mut().map(|query| &mut query.samples);
        self.delivery.clock_known(shared, self.worker.clock(), samples);
    }

    /// Performs an action on purpose that is due.
    fn act(&mut self, action: Action, deadline: &mut Deadline) {
        let now = Instant::now();
        match action {
            Action::Connect => {
                let (backoff, limit) = (self.backoff(), self.limit());
                self.connection.connect(backoff, limit);
                if let Some(query) = self.queries.current() {
                    let ideal = query.response.as_ref().and_then(|response| millis(response.ideal_e2el_ms));
                    self.behaviour.plan_pause(query.num, now, ideal);
                }
            }
            Action::Pause(_) if !self.connection.is_up() => self.behaviour.postpone(action, now),
            Action::Pause(duration) => {
                self.log.paused();
                self.behaviour.pause(now, duration);
                if let Some(query) = self.queries.current_mut() {
                    query.paused = duration;
                }
                deadline.extend(duration);
            }
            Action::Resume => self.stop_behaviour(),
        }
    }

    /// Cancels planned actions and ends a pause in reading.
    fn stop_behaviour(&mut self) {
        let Some(paused) = self.behaviour.stop() else { return };
        if let Some(query) = self.queries.current_mut() {
            query.paused = paused;
            self.connection.restart_silence_timer();
        }
    }

    /// Ends the query at its deadline, after reading everything that has arrived.
    fn deadline_reached(&mut self, deadline: &mut Deadline) {
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
            self.end_current(End::TimedOut);
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

    fn end_current(&mut self, end: End) {
        self.queries.end(end, self.log.failure().filter(|_| self.is_over));
    }

    /// Records the current query, if there is one that was not recorded.
    fn record_current(&mut self) {
        let Some(mut query) = self.queries.take_current() else { return };
        let worker = Rc::clone(&self.worker);
        let clock = self.delivery.is_clock_shared().then_some(worker.clock());
        let moment = |instant| worker.moment(instant);
        let (index, downtime) = (self.planned.index, self.connection.downtime());
        let now = Instant::now();
        let mut record = query.record(self.id, index, moment, now, downtime, clock);
        record.excused = record.status == QueryStatus::Timeout
            && query.sent.is_some_and(|sent| worker.delay().stood_still(sent, now));
        if let Some(failure) = &mut record.failure {
            // A server may repeat secrets that it was sent in an event or a close frame.
            failure.message = worker.plan().target.secrets.hide(&failure.message);
        }
        report_to_faults(&worker, &query, &record);
        let is_failed = !matches!(record.status, QueryStatus::Ok | QueryStatus::Abandoned);
        LiveCounters::add(&worker.live().queries, 1);
        LiveCounters::add(&worker.live().lost, record.tally.tokens_lost);
        LiveCounters::add(&worker.live().errors, u64::from(is_failed));
        let samples = std::mem::take(&mut query.samples);
        self.queries.recorded(query, record.status, record.excused);
        worker.recorder().query_ended(record, &samples, || self.session_record(Instant::now()));
    }

    /// Returns how long a call may take, or a query without an ideal duration.
    fn patience(&self) -> Duration {
        self.worker.plan().load.query_timeout.unwrap_or(BLIND_PATIENCE)
    }

    /// Returns how long a query with this response may take.
    fn patience_for(&self, response: &RunResponse) -> Duration {
        let ideal = millis(response.ideal_e2el_ms);
        let timeout = self.worker.plan().load.query_timeout;
        timeout.or(ideal.map(|ideal| ideal + PATIENCE)).unwrap_or(BLIND_PATIENCE)
    }

    /// Returns the longest delay that a gateway may request before a reconnect: as long as the query or a call may take.
    fn limit(&self) -> Duration {
        let response = self.queries.response();
        response.map_or_else(|| self.patience(), |response| self.patience_for(response).max(self.patience()))
    }

    fn backoff(&mut self) -> Backoff {
        Backoff::new(self.worker.plan().reconnect, self.random.random())
    }
}

/// Waits for the result of a call that is under way.
async fn response<T>(call: &mut Option<Pin<Box<impl Future<Output = T>>>>) -> T {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

/// Reports what the query's end shows about the effects of injected faults.
fn report_to_faults(worker: &WorkerContext, query: &Query, record: &QueryRecord) {
    let faults = &worker.run().faults;
    if let Some(code) = &record.error_code {
        faults.error_event(record.done.unwrap_or(record.ended), code);
        return;
    }
    if matches!(record.status, QueryStatus::Timeout | QueryStatus::Rejected | QueryStatus::Error) {
        let last_event = query.own_stream().and_then(|stream| stream.last_event).or(query.sent);
        faults.unrecovered(last_event.map_or(record.ended, |at| worker.moment(at)), record.ended);
    }
}

/// Events of the connection.
impl Session {
    fn handle(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Read(chunk) => {
                let Self { worker, connection, replay, queries, behaviour, delivery, log, .. } = self;
                let mut receiver =
                    Receiver { worker, queries, replay, delivery, log, behaviour, has_event: false };
                let ended = connection.decode(&chunk, |message, arrival| receiver.message(message, arrival));
                if receiver.has_event {
                    connection.event_arrived();
                }
                if let Some(ended) = ended {
                    self.handle(ended);
                }
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
        if let Some(reconnect) = self.connection.opened(now) {
            self.log.reconnected(reconnect);
            let worker = &self.worker;
            worker.recorder().reconnected(worker.moment(now), self.planned.index, reconnect);
            if reconnect.cause != LossCause::Cut {
                let lost = now.checked_sub(reconnect.gap).unwrap_or(now);
                worker.run().faults.outage(worker.moment(lost), worker.moment(now));
            }
        } else {
            self.log.connected(time);
        }
        LiveCounters::add(&self.worker.live().connects, 1);
        self.delivery.socket_opened(now);
        let last = self.queries.last_position();
        if self.behaviour.resumes() {
            self.replay.open_resumed(self.queries.resume_after(), last);
        } else if self.connection.is_unclean() {
            self.replay.open_unclean(last);
        } else {
            self.replay.close();
        }
    }

    /// The socket was lost: reconnects, or fails the session.
    fn lost(&mut self, loss: &Loss) {
        self.replay.close();
        if self.stage == Stage::ClosingSocket {
            return;
        }
        let code = loss.code();
        self.log.close_code(code);
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
            self.behaviour.socket_cut(loss.at);
        }
        let mut backoff = self.backoff();
        if is_full {
            backoff.lengthen();
        }
        let limit = self.limit();
        let position = self.behaviour.resumes().then(|| self.queries.resume_after());
        self.connection.reconnect(loss, position, wait, backoff, limit);
    }
}

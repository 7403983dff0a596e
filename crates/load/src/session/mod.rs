//! One session from creation to close: create, connect, query after query, close.
//! It sends no query before its socket is open, and treats silence as a failure.

mod asking;
mod behaviour;
mod closing;
mod connection;
mod deadline;
mod delivery;
mod described;
mod events;
mod exchange;
mod freeing;
mod hops;
mod log;
mod meaning;
mod opening;
mod outcome;
mod planned;
mod queries;
mod receive;
mod replay;
mod schedule;
mod silence;
mod stopping;
mod time_limits;
mod turn;

use crate::{
    backoff::Backoff,
    burst::{Burst, BurstSlot},
    context::WorkerContext,
    query::End,
};
use behaviour::Behaviour;
use connection::SessionConnection;
use delivery::DeliveryTimes;
use described::Described;
use hops::Hops;
use log::SessionLog;
use measure::{ActiveGuard, live::LiveCounters, record::Failure};
use plan::{behaviour::SessionBehaviour, users::User};
pub(crate) use planned::PlannedSession;
use protocol::SessionId;
use queries::Queries;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use replay::ReplayWindow;
use silence::QuerySilence;
use std::rc::Rc;
use time_limits::TimeLimits;
use turn::Turn;

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
    hops: Hops,
    log: SessionLog,
    silence: QuerySilence,
    /// The present question, or the last one, if the target speaks a foreign dialect.
    turn: Option<Box<Turn>>,
    /// What a target file tells the session, if the target has one.
    described: Option<Described>,
    /// The id of the last answer, if the next question may name it.
    previous_answer: Option<String>,
    stage: Stage,
    /// The session failed and sends no further query.
    is_over: bool,
    /// The burst waits for this session until the slot is dropped.
    slot: Option<BurstSlot>,
    _open: ActiveGuard,
}

impl Session {
    fn new(worker: Rc<WorkerContext>, planned: PlannedSession) -> Self {
        LiveCounters::add(&worker.live().started, 1);
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
            hops: Hops::default(),
            log: SessionLog::new(),
            silence: QuerySilence::default(),
            turn: None,
            described: None,
            previous_answer: None,
            stage: Stage::Open,
            is_over: false,
            slot: worker.run().burst.as_ref().map(Burst::slot),
            _open: worker.run().active.sessions.enter(),
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

    /// Returns whether the target speaks a foreign dialect.
    fn is_foreign(&self) -> bool {
        self.worker.plan().target.foreign.is_some()
    }

    /// Notes a failure, after which no further query is sent.
    fn fail(&mut self, mut failure: Failure) {
        self.is_over = true;
        failure.message = self.hide(&failure.message);
        self.log.fail(failure);
    }

    /// Returns `text` with every secret replaced, those that the backend gave to this session among them.
    fn hide(&self, text: &str) -> String {
        let text = self.worker.run().connector.hide(text);
        self.described.as_ref().map_or_else(|| text.clone(), |described| described.hide(&text))
    }

    /// Returns how long calls and queries of the session may take.
    fn time_limits(&self) -> TimeLimits {
        TimeLimits::new(self.worker.plan().load.query_timeout)
    }

    /// Creates a backoff with new random draws.
    fn backoff(&mut self) -> Backoff {
        Backoff::new(self.worker.plan().reconnect, self.random.random())
    }
}

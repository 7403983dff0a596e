//! One session from its creation to its close: create, connect, run after run, close.
//! It never submits before its subscription is live, and never takes silence for success.

mod close;
mod errand;
mod query;
mod turns;

use crate::{
    backoff::Backoff,
    burst::{Burst, Slot},
    connector::Dial,
    downtime::Downtime,
    link::{Cuts, Link, LinkEvent, Opener, Took},
    listen::Replay,
    query::{End, Query},
    worker::Worker,
};
use measure::{
    ActiveGuard,
    defects::Defects,
    live::LiveCounters,
    record::{Failure, LossCause, QueryRecord, Reconnect, SessionRecord},
};
use plan::{behaviour::SessionBehaviour, users::User};
use protocol::{Position, SessionId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use settings::secret::Secret;
use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    time::{Duration, Instant},
};

/// What the plan says of a session.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Which one; every session has its own.
    pub index: u64,
    /// When it starts.
    pub scheduled: Instant,
    /// When it has to go, at the end of its query.
    pub until: Option<Instant>,
    /// The length that each answer is to have.
    pub tokens: Option<u32>,
}

/// Runs a session as planned, and hands its records in; false when it could not go on.
pub async fn run(worker: Rc<Worker>, planned: Planned) -> bool {
    let mut session = Session::new(worker, planned);
    let running = session.worker.stop.running.clone();
    tokio::select! {
        biased;
        () = session.flow() => {}
        () = running.cancelled() => session.abandon(),
    }
    session.hand_in()
}

/// A session in progress.
pub(crate) struct Session {
    pub(crate) worker: Rc<Worker>,
    pub(crate) link: Option<Box<Link>>,
    pub(crate) id: Option<SessionId>,
    /// The query that runs, or that ran last.
    pub(crate) current: Option<Query>,
    /// The one before, to tell its late events from new ones.
    pub(crate) previous: Option<Box<Query>>,
    /// The last position of all queries before the current one.
    pub(crate) last: Position,
    pub(crate) replay: Option<Replay>,
    pub(crate) downtime: Downtime,
    pub(crate) reconnects: Vec<Reconnect>,
    /// Why the last socket was lost, until there is a new one.
    pub(crate) lost_by: Option<LossCause>,
    /// When the current socket was opened.
    pub(crate) opened: Instant,
    /// A socket broke since one last ended with a farewell: the gateway cannot know what arrived.
    pub(crate) unclean: bool,
    pub(crate) sockets_cut: u64,
    /// When the client last cut its socket.
    pub(crate) last_cut: Option<Instant>,
    pub(crate) announced_gaps: u64,
    /// What came while there was no query that it could be of.
    pub(crate) defects: Defects,
    pub(crate) announced_gap_positions: u64,
    /// Events that were allowed to come again, and did.
    pub(crate) events_replayed: u64,
    pub(crate) habits: SessionBehaviour,
    pub(crate) close_codes: Vec<u16>,
    /// Sockets lost in a row without an event between.
    pub(crate) losses_in_a_row: u32,
    pub(crate) closing: bool,
    /// Its socket is ended by itself, between two queries.
    pub(crate) leaving: bool,
    /// The gateway ended the socket because the session was closed: the call that closes it is not needed.
    pub(crate) already_closed: bool,
    /// The session cannot go on.
    pub(crate) over: bool,
    pub(crate) failure: Option<Failure>,
    /// Times of events that came before it was known whose clock they are of, and when their socket was opened.
    pub(crate) undated: Vec<(Instant, u64, Instant)>,
    pub(crate) shared_clock: Option<bool>,
    pub(crate) index: u64,
    plan: Planned,
    user: User,
    started: Instant,
    create: Option<Took>,
    pub(crate) connect: Option<Took>,
    close: Option<Duration>,
    /// When the current query's call went out; the call itself notes it.
    pub(crate) sent: Rc<Cell<Option<Instant>>>,
    /// What the session does next of its own accord, and when.
    errand: Option<errand::Planned>,
    /// Since when it does not read.
    paused_since: Option<Instant>,
    paused: bool,
    attempts: Rc<Cell<u64>>,
    random: SmallRng,
    queries_begun: u32,
    queries_ok: u32,
    queries_cut_off: u32,
    queries_excused: u32,
    old_contract: bool,
    slot: Option<Slot>,
    _open: ActiveGuard,
}

impl Session {
    fn new(worker: Rc<Worker>, planned: Planned) -> Self {
        let index = planned.index;
        let seed = worker.plan.load.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self {
            link: None,
            id: None,
            current: None,
            previous: None,
            last: Position::ZERO,
            replay: None,
            downtime: Downtime::default(),
            reconnects: Vec::new(),
            lost_by: None,
            opened: Instant::now(),
            unclean: false,
            sockets_cut: 0,
            last_cut: None,
            announced_gaps: 0,
            defects: Defects::default(),
            announced_gap_positions: 0,
            events_replayed: 0,
            habits: SessionBehaviour::draw(&worker.plan.behaviour, &worker.plan.load, index),
            close_codes: Vec::new(),
            losses_in_a_row: 0,
            closing: false,
            leaving: false,
            already_closed: false,
            over: false,
            failure: None,
            undated: Vec::new(),
            shared_clock: worker.shared_clock.get(),
            index,
            plan: planned,
            user: worker.plan.users.user(index),
            started: Instant::now(),
            create: None,
            connect: None,
            close: None,
            sent: Rc::default(),
            errand: None,
            paused_since: None,
            paused: false,
            attempts: Rc::default(),
            random: SmallRng::seed_from_u64(seed),
            queries_begun: 0,
            queries_ok: 0,
            queries_cut_off: 0,
            queries_excused: 0,
            old_contract: false,
            slot: worker.burst.as_ref().map(Burst::slot),
            _open: worker.sessions.enter(),
            worker,
        }
    }

    pub(crate) fn backoff(&mut self) -> Backoff {
        Backoff::new(self.worker.plan.reconnect, self.random.random())
    }

    async fn flow(&mut self) {
        // Boxed: what opening needs is not carried along for the rest of the session.
        if let Err(failure) = Box::pin(self.prepare()).await {
            self.fail(failure);
            return;
        }
        if self.worker.pool.is_some() {
            self.serve().await;
        } else {
            self.converse().await;
        }
        Box::pin(self.close()).await;
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut backoff = self.backoff();
        let created = self.worker.http.create(&mut backoff, started + self.patience()).await?;
        self.create =
            Some(Took { time: created.at.saturating_duration_since(started), slack: created.slack });
        let created = created.value;
        self.id = Some(created.session_id);
        let mut link = Box::new(self.link(created.session_id, created.token()));
        if self.habits.connects_late() {
            self.downtime.begin(Instant::now());
        } else {
            let backoff = self.backoff();
            self.connect = Some(link.open(backoff, self.patience()).await?);
            LiveCounters::add(&self.worker.live.connects, 1);
            self.opened = Instant::now();
        }
        self.link = Some(link);
        Ok(())
    }

    fn link(&self, session: SessionId, token: Secret) -> Link {
        let (worker, attempts) = (Rc::clone(&self.worker), Rc::clone(&self.attempts));
        let opener = Opener {
            connector: worker.connector.clone(),
            session,
            token,
            dial: Dial {
                from: worker.connector.local_ip(self.index),
                narrow: self.habits.pause().is_some(),
                endpoint: self.index,
            },
            on_attempt: Rc::new(move || {
                attempts.set(attempts.get() + 1);
                worker.recorder.borrow_mut().reconnect_attempt(worker.moment(Instant::now()));
            }),
            buffers: Rc::clone(&self.worker.buffers),
        };
        let plan = &self.worker.plan;
        let mut habits = SessionBehaviour::draw(&plan.behaviour, &plan.load, self.index);
        let cuts = (plan.behaviour.drop_rate > 0.0).then(|| Cuts::new(move || habits.next_cut()));
        Link::new(opener, plan.reconnect.ping_timeout, cuts)
    }

    /// A query can be sent: its tokens have a socket to come through, or will have one.
    fn is_ready(&self) -> bool {
        self.habits.connects_late() || self.link.as_deref().is_some_and(Link::is_up)
    }

    pub(crate) fn fail(&mut self, mut failure: Failure) {
        self.over = true;
        failure.message = self.worker.plan.target.secrets.hide(&failure.message);
        self.failure.get_or_insert(failure);
    }

    fn abandon(&mut self) {
        self.end_current(End::Abandoned);
    }

    /// Hands everything in that was not yet, once and last.
    fn hand_in(mut self) -> bool {
        self.settle_current();
        let now = Instant::now();
        let worker = Rc::clone(&self.worker);
        let stopped = worker.stop.starting.is_cancelled();
        let unsent = self.queries_begun + 1..=self.unsent_until();
        let mut queries = Vec::new();
        if self.failure.is_some() {
            queries.extend(unsent.map(|num| self.never_sent(num, now)));
            LiveCounters::add(&worker.live.errors, queries.len() as u64);
        } else if stopped {
            worker.never_started(unsent.count() as u64);
        }
        let began = self.queries_begun > 0 || self.queries_planned().is_none() || self.plan.until.is_some();
        let all_ok = queries.is_empty() && self.queries_ok == self.queries_begun && began;
        let failed = self.failure.is_some();
        let nothing_failed = |others: u32| {
            !failed && !all_ok && queries.is_empty() && self.queries_ok + others == self.queries_begun
        };
        let record = SessionRecord {
            cut_off: nothing_failed(self.queries_cut_off),
            excused: self.queries_excused > 0 && nothing_failed(self.queries_excused),
            ..self.record(now, all_ok && !failed)
        };
        worker.recorder.borrow_mut().session_ended(record, queries);
        LiveCounters::add(&worker.live.ended, 1);
        !failed
    }

    /// The session as it is now.
    fn record(&self, now: Instant, ok: bool) -> SessionRecord {
        SessionRecord {
            session: self.id,
            index: self.index,
            scheduled: self.worker.moment(self.plan.scheduled),
            started: self.worker.moment(self.started),
            ended: self.worker.moment(now),
            create: self.create.map(|took| took.time),
            create_slack: self.create.map_or(Duration::ZERO, |took| took.slack),
            connect: self.connect.map(|took| took.time),
            connect_slack: self.connect.map_or(Duration::ZERO, |took| took.slack),
            close: self.close,
            reconnect_attempts: self.attempts.get(),
            reconnects: self.reconnects.clone(),
            sockets_cut: self.sockets_cut,
            paused: self.paused,
            announced_gaps: self.announced_gaps,
            announced_gap_positions: self.announced_gap_positions,
            defects: self.defects.clone(),
            events_replayed: self.events_replayed,
            close_codes: self.close_codes.clone(),
            ok,
            cut_off: false,
            excused: false,
            old_contract: self.old_contract,
            failure: self.failure.clone(),
        }
    }

    /// The last query that the plan held for this session, whether or not it came to it.
    fn unsent_until(&self) -> u32 {
        match self.queries_planned() {
            Some(planned) if self.plan.until.is_none() => planned,
            // Without a number, a failure between two queries is told by the one that comes next.
            _ => {
                self.queries_begun
                    + u32::from(self.failure.is_some() && self.queries_begun == self.queries_ok)
            }
        }
    }

    fn never_sent(&self, num: u32, now: Instant) -> QueryRecord {
        QueryRecord {
            session: self.id,
            failure: self.failure.clone(),
            ..QueryRecord::unsent(self.index, num, self.worker.moment(now))
        }
    }
}

/// What the link says next; nothing where there is none.
async fn next(link: &mut Option<Box<Link>>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}

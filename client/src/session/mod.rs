//! One session from its creation to its close: create, connect, run after run, close.
//! It never submits before its subscription is live, and never takes silence for success.

mod close;
mod query;

use crate::{
    backoff::Backoff,
    burst::{Burst, Slot},
    downtime::Downtime,
    link::{Link, LinkEvent, Opener},
    listen::Replay,
    live::Shard,
    measure::Present,
    query::{End, Query},
    record::{Failure, QueryRecord, QueryStatus, SessionRecord},
    secret::Secret,
    worker::Worker,
};
use protocol::{Position, SessionId, Tally};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    time::{Duration, Instant},
};

/// Runs session `index`, which the plan starts at `scheduled`, and hands its records in.
pub async fn run(worker: Rc<Worker>, index: u64, scheduled: Instant) {
    let mut session = Session::new(worker, index, scheduled);
    let running = session.worker.stop.running.clone();
    tokio::select! {
        biased;
        () = session.flow() => {}
        () = running.cancelled() => session.abandon(),
    }
    session.hand_in();
}

/// A session in progress.
pub(crate) struct Session {
    pub(crate) worker: Rc<Worker>,
    pub(crate) link: Option<Link>,
    pub(crate) id: Option<SessionId>,
    /// The query that runs, or that ran last.
    pub(crate) current: Option<Query>,
    /// The one before, to tell its late events from new ones.
    pub(crate) previous: Option<Query>,
    /// The last position of all queries before the current one.
    pub(crate) last: Position,
    pub(crate) replay: Option<Replay>,
    pub(crate) downtime: Downtime,
    pub(crate) reconnect_gaps: Vec<Duration>,
    pub(crate) close_codes: Vec<u16>,
    /// Sockets lost in a row without an event between.
    pub(crate) losses_in_a_row: u32,
    pub(crate) closing: bool,
    /// The session cannot go on.
    pub(crate) over: bool,
    pub(crate) failure: Option<Failure>,
    /// Times of events that came before it was known whose clock they are of.
    pub(crate) undated: Vec<(Instant, u64, bool)>,
    pub(crate) shared_clock: Option<bool>,
    index: u64,
    scheduled: Instant,
    started: Instant,
    create: Option<Duration>,
    connect: Option<Duration>,
    close: Option<Duration>,
    token: Secret,
    /// When the current query's call went out; the call itself notes it.
    sent: Rc<Cell<Option<Instant>>>,
    random: SmallRng,
    queries_begun: u32,
    queries_ok: u32,
    old_contract: bool,
    slot: Option<Slot>,
    _open: Present,
}

impl Session {
    fn new(worker: Rc<Worker>, index: u64, scheduled: Instant) -> Self {
        let seed = worker.config.load.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self {
            link: None,
            id: None,
            current: None,
            previous: None,
            last: Position::ZERO,
            replay: None,
            downtime: Downtime::default(),
            reconnect_gaps: Vec::new(),
            close_codes: Vec::new(),
            losses_in_a_row: 0,
            closing: false,
            over: false,
            failure: None,
            undated: Vec::new(),
            shared_clock: worker.shared_clock.get(),
            index,
            scheduled,
            started: Instant::now(),
            create: None,
            connect: None,
            close: None,
            token: Secret::new(String::new()),
            sent: Rc::default(),
            random: SmallRng::seed_from_u64(seed),
            queries_begun: 0,
            queries_ok: 0,
            old_contract: false,
            slot: worker.burst.as_ref().map(Burst::slot),
            _open: worker.sessions.enter(),
            worker,
        }
    }

    pub(crate) fn backoff(&mut self) -> Backoff {
        Backoff::new(self.worker.config.reconnect, self.random.random())
    }

    async fn flow(&mut self) {
        // Boxed: what opening needs is not carried along for the rest of the session.
        if let Err(failure) = Box::pin(self.prepare()).await {
            self.fail(failure);
            return;
        }
        let mut planned = self.first_query().await;
        for num in 1..=self.worker.config.load.queries {
            if !self.wait_for_turn(planned).await {
                break;
            }
            self.query(num, planned).await;
            if self.over {
                break;
            }
            planned = Instant::now() + self.worker.config.load.think_time;
        }
        Box::pin(self.close()).await;
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut backoff = self.backoff();
        let created = self.worker.http.create(&mut backoff).await?;
        self.create = Some(started.elapsed());
        self.id = Some(created.session_id);
        self.token = Secret::new(created.auth_token);
        let opener = Opener {
            connector: self.worker.connector.clone(),
            session: created.session_id,
            token: self.token.clone(),
        };
        let backoff = self.backoff();
        let (link, took) = Link::open(opener, backoff, self.worker.config.reconnect.ping_timeout).await?;
        self.link = Some(link);
        self.connect = Some(took);
        Ok(())
    }

    /// When the first query is due: now, or at the burst's instant.
    async fn first_query(&mut self) -> Instant {
        self.slot = None;
        let Some(burst) = self.worker.burst.clone() else { return Instant::now() };
        let starting = self.worker.stop.starting.clone();
        let mut told = Box::pin(burst.instant());
        loop {
            tokio::select! {
                biased;
                event = next(&mut self.link) => self.take(event),
                instant = &mut told => return instant.unwrap_or_else(Instant::now),
                () = starting.cancelled() => return Instant::now(),
            }
        }
    }

    /// Listens until `planned`; false when nothing may start any more.
    async fn wait_for_turn(&mut self, planned: Instant) -> bool {
        let starting = self.worker.stop.starting.clone();
        let mut turn = Box::pin(tokio::time::sleep_until(planned.into()));
        loop {
            let up = self.link.as_ref().is_some_and(Link::is_up);
            if self.over
                || starting.is_cancelled()
                || (up && (turn.is_elapsed() || Instant::now() >= planned))
            {
                return !self.over && !starting.is_cancelled();
            }
            tokio::select! {
                biased;
                event = next(&mut self.link) => self.take(event),
                () = starting.cancelled() => {}
                () = &mut turn, if !turn.is_elapsed() => {}
            }
        }
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.over = true;
        self.failure.get_or_insert(failure);
    }

    fn abandon(&mut self) {
        self.end_current(End::Abandoned);
    }

    /// Hands everything in that was not yet, once and last.
    fn hand_in(mut self) {
        self.settle_current();
        let now = Instant::now();
        let worker = Rc::clone(&self.worker);
        let stopped = worker.stop.starting.is_cancelled();
        let unsent = self.queries_begun + 1..=worker.config.load.queries;
        let mut queries = Vec::new();
        if self.failure.is_some() && self.queries_begun < worker.config.load.queries {
            queries.extend(unsent.map(|num| self.never_sent(num, now)));
            Shard::add(&worker.live.errors, queries.len() as u64);
        } else if stopped {
            worker.dropped.set(worker.dropped.get() + unsent.count() as u64);
        }
        let all_ok = queries.is_empty() && self.queries_ok == self.queries_begun && self.queries_begun > 0;
        let record = SessionRecord {
            session: self.id,
            index: self.index,
            scheduled: worker.moment(self.scheduled),
            started: worker.moment(self.started),
            ended: worker.moment(now),
            create: self.create,
            connect: self.connect,
            close: self.close,
            reconnect_attempts: self.link.as_ref().map_or(0, Link::attempts),
            reconnects_ok: self.reconnect_gaps.len() as u64,
            reconnect_gaps: std::mem::take(&mut self.reconnect_gaps),
            close_codes: std::mem::take(&mut self.close_codes),
            ok: all_ok && self.failure.is_none(),
            old_contract: self.old_contract,
            failure: self.failure.take(),
        };
        worker.recorder.borrow_mut().session_ended(record, queries);
        Shard::add(&worker.live.ended, 1);
    }

    fn never_sent(&self, num: u32, now: Instant) -> QueryRecord {
        let at = self.worker.moment(now);
        QueryRecord {
            session: self.id,
            session_index: self.index,
            query_num: num,
            scheduled: at,
            sent: None,
            first_token: None,
            last_token: None,
            done: None,
            ended: at,
            status: QueryStatus::Error,
            tokens_expected: None,
            tally: Tally::default(),
            lost_connected: 0,
            lost_in_gap: 0,
            stall_count: 0,
            stall: Duration::ZERO,
            ideal_ttft: None,
            ideal_e2el: None,
            failure: self.failure.clone(),
        }
    }
}

/// What the link says next; nothing where there is none.
async fn next(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}

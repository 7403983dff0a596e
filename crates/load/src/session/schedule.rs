//! The schedule of a session's queries: when each of them is sent.

use super::Session;
use crate::{idle::DueQuery, query::Progress};
use std::{rc::Rc, sync::Arc, time::Instant};

impl Session {
    /// Sends one query after another, with a think time in between.
    pub(super) async fn send_own_queries(&mut self) {
        let users = Arc::clone(&self.worker.plan().users);
        let mut due = self.first_query().await;
        for num in 1..=self.queries_planned().unwrap_or(u32::MAX) {
            if !self.wait_for_turn(due).await {
                break;
            }
            if !self.send(num, DueQuery { due, tokens: self.planned.tokens }).await {
                break;
            }
            due = Instant::now() + self.user.think_time(&users);
        }
    }

    /// Returns when the session is planned to end, as the schedule is now. `None`: after its last query.
    pub(super) fn planned_end(&self) -> Option<Instant> {
        self.worker.session_end(self.planned.row)
    }

    /// Handles events until a query that is due at `due` can be sent. Returns false if the session ends before, at its planned end or
    /// because nothing may start any more. An amendment during the wait may change the planned end.
    async fn wait_for_turn(&mut self, due: Instant) -> bool {
        let mut amendments = self.worker.run().schedule.changes();
        loop {
            let end = self.planned_end().filter(|&end| end <= due);
            let amended = async { drop(amendments.changed().await) };
            match self.wait(end.unwrap_or(due), amended).await {
                Wait::Due => return end.is_none(),
                Wait::Over => return false,
                Wait::Amended => {}
            }
        }
    }

    /// Sends the queries that arrive for this session, until no more will.
    pub(super) async fn send_arriving_queries(&mut self) {
        for num in 1..=u32::MAX {
            let Some(query) = self.next_arrival().await else { break };
            if !self.wait_until(query.due).await || !self.send(num, query).await {
                break;
            }
        }
    }

    /// Sends one query and waits for its end. Returns false if the session is over.
    async fn send(&mut self, num: u32, query: DueQuery) -> bool {
        if self.is_foreign() {
            self.ask(num, query).await;
            return !self.is_over;
        }
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
    pub(super) fn queries_planned(&self) -> Option<u32> {
        self.user.kind(&self.worker.plan().users).queries
    }

    /// Returns whether the current query still needs the socket, or a later one will use it.
    pub(super) fn needs_socket(&self) -> bool {
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
        self.wait(due, std::future::pending()).await == Wait::Due
    }

    /// Handles events until `due` has come and a query can be sent, nothing may start any more, or `amended` is ready.
    async fn wait(&mut self, due: Instant, amended: impl Future<Output = ()>) -> Wait {
        let worker = Rc::clone(&self.worker);
        let starting = &worker.stop().starting;
        let mut timer = Box::pin(tokio::time::sleep_until(due.into()));
        let mut amended = std::pin::pin!(amended);
        loop {
            let can_send = self.behaviour.connects_late() || self.connection.is_up();
            // The comparison with the clock avoids a wait for the timer, which is rounded up to the next millisecond.
            let is_due = timer.is_elapsed() || Instant::now() >= due;
            if self.is_over || starting.is_cancelled() {
                return Wait::Over;
            }
            if can_send && is_due {
                return Wait::Due;
            }
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = starting.cancelled() => {}
                () = &mut amended => return Wait::Amended,
                () = &mut timer, if !timer.is_elapsed() => {}
            }
        }
    }
}

/// Why a wait for the next query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The time has come, and a query can be sent.
    Due,
    /// The session is over, or nothing may start any more.
    Over,
    /// The schedule was amended.
    Amended,
}

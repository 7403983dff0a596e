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

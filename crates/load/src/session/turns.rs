//! When a session sends its queries: one after the other, or as they come to it, until it has to go.
//! It sends none itself, and listens while it waits.

use super::{Session, next};
use crate::{pool::Turn, query::Progress};
use std::{sync::Arc, time::Instant};

impl Session {
    /// Query after query: each when the one before has ended and was thought about.
    pub(super) async fn converse(&mut self) {
        let users = Arc::clone(&self.worker.plan.users);
        let mut due = self.first_query().await;
        for num in 1..=self.queries_planned().unwrap_or(u32::MAX) {
            let limit = self.plan.until.filter(|&until| until <= due);
            if !self.wait_for_turn(limit.unwrap_or(due)).await || limit.is_some() {
                break;
            }
            self.query(num, Turn { due, tokens: self.plan.tokens }).await;
            self.after_query().await;
            if self.over {
                break;
            }
            due = Instant::now() + self.user.think_time(&users);
        }
    }

    /// The queries that come to it, until no more will.
    pub(super) async fn serve(&mut self) {
        for num in 1..=u32::MAX {
            let Some(turn) = self.next_turn().await else { break };
            if !self.wait_for_turn(turn.due).await {
                break;
            }
            self.query(num, turn).await;
            self.after_query().await;
            if self.over {
                break;
            }
        }
    }

    /// Listens until a query comes to this session.
    async fn next_turn(&mut self) -> Option<Turn> {
        let mut turn = self.worker.pool.as_ref()?.idle()?;
        let starting = self.worker.stop.starting.clone();
        while !self.over {
            tokio::select! {
                biased;
                event = next(&mut self.link) => self.take(event),
                turn = &mut turn => return turn.ok(),
                () = starting.cancelled() => break,
            }
        }
        None
    }

    async fn after_query(&mut self) {
        if self.habits.connects_late() {
            Box::pin(self.leave()).await;
        }
    }

    /// `None`: as many as there is time for.
    pub(super) fn queries_planned(&self) -> Option<u32> {
        self.user.kind(&self.worker.plan.users).queries
    }

    /// Returns whether the current query still listens, or a later one will use its socket.
    pub(crate) fn needs_socket(&self) -> bool {
        let is_running = self.current.as_ref().is_some_and(|query| query.progress() != Progress::Finished);
        let was_last = self.worker.pool.is_none()
            && self.queries_planned().is_some_and(|planned| self.queries_begun >= planned);
        is_running || !(was_last || self.habits.connects_late())
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
            let up = self.is_ready();
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
}

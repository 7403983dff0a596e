//! Sends tokens to the bus or to nchan as the real server does: the tokens of one millisecond form a batch, one append is in
//! flight, and tokens that become due meanwhile form the next batch. It drops nothing, and measures its own lateness.

use crate::{
    latency::histogram,
    pace::{Due, Pace},
    posts::Posts,
};
use anyhow::bail;
use bus::{Batch, Broker};
use hdrhistogram::Histogram;
use host::monotonic_us;
use protocol::{Kind, Position, SessionId, encode_token};
use std::{mem, ops::Range, pin::Pin, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

/// Most bytes that may wait for the bus. The run fails beyond that.
const MAX_WAITING: usize = 64 << 20;
const TICK: Duration = Duration::from_millis(1);

/// The session and query of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) session: SessionId,
    pub(crate) generation: u64,
    query_id: String,
}

impl Source {
    pub(crate) fn new(session: SessionId, generation: u64) -> Self {
        Self { session, generation, query_id: Uuid::new_v4().to_string() }
    }
}

/// The result of publishing.
#[derive(Debug)]
pub(crate) struct Published {
    /// Sent minus due, of tokens due inside the window, in microseconds.
    pub(crate) pace_lag: Histogram<u32>,
    /// Duration of an append, in microseconds.
    pub(crate) bus_lag: Histogram<u32>,
    pub(crate) sent: u64,
    /// Tokens that the bus refused or that had no subscriber.
    pub(crate) untaken: u64,
}

/// Where tokens are sent.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// The bus of the stack.
    Bus(Arc<dyn Broker>),
    /// nchan's front end.
    Posts(Arc<Posts>),
}

impl Outlet {
    /// Sends a batch. Returns the number of events that were refused or had no subscriber.
    async fn append(&self, batch: &Batch) -> anyhow::Result<u64> {
        match self {
            Self::Bus(bus) => {
                let appended = bus.append(batch).await?;
                if let Some(error) = appended.stopped {
                    return Err(error.into());
                }
                Ok(appended.unheard + (appended.stale.len() + appended.refused.len()) as u64)
            }
            Self::Posts(posts) => posts.append(batch).await,
        }
    }
}

type InFlight = Pin<Box<dyn Future<Output = (Batch, anyhow::Result<u64>)> + Send>>;

/// Publishes the tokens of many sessions.
pub(crate) struct Publisher {
    outlet: Outlet,
    sources: Vec<Source>,
    pace: Pace,
    start_us: u64,
    window: Range<u64>,
    open: Batch,
    in_flight: Option<InFlight>,
    /// When the append in flight began.
    appended_us: u64,
    spare: Batch,
    published: Published,
}

impl Publisher {
    /// Creates a publisher that begins at `start_us` and measures its lateness inside `window`, both in wire time.
    pub(crate) fn new(
        outlet: Outlet,
        sources: Vec<Source>,
        pace: Pace,
        start_us: u64,
        window: Range<u64>,
    ) -> Self {
        let published = Published { pace_lag: histogram(), bus_lag: histogram(), sent: 0, untaken: 0 };
        let (open, spare) = Default::default();
        Self {
            outlet,
            sources,
            pace,
            start_us,
            window,
            open,
            in_flight: None,
            appended_us: 0,
            spare,
            published,
        }
    }

    /// Publishes everything and waits until the bus has it.
    ///
    /// # Errors
    /// The bus or nchan failed, or more than 64 MiB wait for it.
    pub(crate) async fn run(mut self) -> anyhow::Result<Published> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !(self.pace.is_over() && self.in_flight.is_none()) {
            tokio::select! {
                _ = ticks.tick() => self.enqueue(monotonic_us()),
                (batch, untaken) = acknowledged(&mut self.in_flight) => self.settle(batch, untaken?),
            }
            self.deliver();
            if self.open.bytes() > MAX_WAITING {
                bail!("the bus is too slow: {} bytes wait for it", self.open.bytes());
            }
        }
        Ok(self.published)
    }

    fn enqueue(&mut self, now_us: u64) {
        let elapsed_us = now_us.saturating_sub(self.start_us);
        if now_us < self.start_us {
            return;
        }
        while let Some(Due { connection, seq, due_us }) = self.pace.next_due(elapsed_us) {
            let source = &self.sources[connection];
            let position = Position::new(source.generation, seq);
            let due_us = self.start_us + due_us;
            self.open.push(source.session, position, Kind::Token, |out| {
                encode_token(out, position, "token ", &source.query_id, due_us, now_us);
            });
            self.published.sent += 1;
            if self.window.contains(&due_us) {
                self.published.pace_lag.saturating_record((now_us - due_us).max(1));
            }
        }
    }

    fn deliver(&mut self) {
        if self.in_flight.is_some() || self.open.is_empty() {
            return;
        }
        let batch = mem::replace(&mut self.open, mem::take(&mut self.spare));
        let outlet = self.outlet.clone();
        let append: InFlight = Box::pin(async move {
            let untaken = outlet.append(&batch).await;
            (batch, untaken)
        });
        self.appended_us = monotonic_us();
        self.in_flight = Some(append);
    }

    fn settle(&mut self, mut batch: Batch, untaken: u64) {
        self.in_flight = None;
        if self.window.contains(&self.appended_us) {
            let lag = monotonic_us().saturating_sub(self.appended_us).max(1);
            self.published.bus_lag.saturating_record(lag);
        }
        self.published.untaken += untaken;
        batch.clear();
        self.spare = batch;
    }
}

/// Waits for the end of the append. Waits forever if there is none.
async fn acknowledged(in_flight: &mut Option<InFlight>) -> (Batch, anyhow::Result<u64>) {
    match in_flight {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

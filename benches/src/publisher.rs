//! Hands tokens to the bus, or to nchan, as the real server does: what is due in a millisecond goes into one batch, one append is in
//! flight, and what falls due meanwhile gathers in the next. It drops nothing; its own lateness is measured and told.

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

/// What may wait for the bus, in bytes: beyond that it takes nothing any more.
const MOST_WAITING: usize = 64 << 20;
const TICK: Duration = Duration::from_millis(1);

/// One connection's stream.
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

/// What publishing came to.
#[derive(Debug)]
pub(crate) struct Published {
    /// Handed to the bus − due, of tokens due inside the window, in microseconds.
    pub(crate) pace_lag: Histogram<u32>,
    /// What an append took, in microseconds.
    pub(crate) bus_lag: Histogram<u32>,
    pub(crate) sent: u64,
    /// Nobody was subscribed, or the bus refused them.
    pub(crate) untaken: u64,
}

/// Where tokens are handed to.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// Our bus.
    Bus(Arc<dyn Broker>),
    /// nchan's front end.
    Posts(Arc<Posts>),
}

impl Outlet {
    /// How many events were refused, or reached nobody.
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

/// A stream over many sessions, under way.
pub(crate) struct Publisher {
    outlet: Outlet,
    sources: Vec<Source>,
    pace: Pace,
    start_us: u64,
    window: Range<u64>,
    open: Batch,
    in_flight: Option<InFlight>,
    /// When it was begun.
    appended_us: u64,
    spare: Batch,
    published: Published,
}

impl Publisher {
    /// Begins at `start_us`, and measures its lateness inside `window`, both in wire time.
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
    /// The bus (or nchan) failed, or took nothing for long.
    pub(crate) async fn run(mut self) -> anyhow::Result<Published> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !(self.pace.is_over() && self.in_flight.is_none()) {
            tokio::select! {
                _ = ticks.tick() => self.enqueue(monotonic_us()),
                (batch, untaken) = acknowledged(&mut self.in_flight) => self.settle(batch, untaken?),
            }
            self.deliver();
            if self.open.bytes() > MOST_WAITING {
                bail!("the bus takes nothing: {} bytes wait for it", self.open.bytes());
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

/// The append's end; never, where none is in flight.
async fn acknowledged(in_flight: &mut Option<InFlight>) -> (Batch, anyhow::Result<u64>) {
    match in_flight {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

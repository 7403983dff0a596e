//! What all calls in OpenAI's dialects share.

use crate::{
    body,
    config::Config,
    metrics::{Metrics, Outcome},
    openai::{
        active::Active,
        answer::{Answer, End},
        extension::Extension,
        problem::Problem,
        record::{Record, Trace},
        store::Store,
    },
    plan::{Plan, Timing},
    text::ResponseText,
};
use axum::body::{Body, Bytes};
use guard::Budget;
use host::ClockAnchor;
use settings::{distribution::Distribution, secret::Secret};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// The shared state.
pub(crate) struct OpenAi {
    pub(super) text: Arc<ResponseText>,
    timing: Timing,
    seed: u64,
    permits: Arc<Semaphore>,
    max_streams: usize,
    read_timeout: Duration,
    bodies: Arc<Budget>,
    pub(super) models: Vec<String>,
    pub(super) api_key: Option<Secret>,
    pub(super) max_socket_age: Duration,
    pub(super) metrics: Metrics,
    pub(super) anchor: ClockAnchor,
    pub(super) boot_id: Option<String>,
    pub(super) store: Store,
    /// Counts for the requests that have no extension.
    defaults: Extension,
    /// The number of answers so far.
    answers: AtomicU64,
    record: Option<Record>,
    /// Cancelled when the server accepts no new work.
    pub(super) draining: CancellationToken,
    /// Cancelled when running streams must end.
    pub(super) stop: CancellationToken,
    /// The tasks of all connections and sockets.
    pub(super) connections: TaskTracker,
}

/// The parts of a server that its OpenAI calls share with the rest.
pub(crate) struct Shared {
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) bodies: Arc<Budget>,
    pub(crate) metrics: Metrics,
    pub(crate) record: Option<Record>,
    pub(crate) anchor: ClockAnchor,
    pub(crate) draining: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) connections: TaskTracker,
}

impl OpenAi {
    pub(crate) fn new(config: &Config, shared: Shared) -> Self {
        Self {
            text: Arc::new(config.text.clone()),
            timing: config.timing,
            seed: config.seed,
            permits: shared.permits,
            max_streams: config.max_streams,
            read_timeout: config.read_timeout,
            bodies: shared.bodies,
            models: config.openai.models.clone(),
            api_key: config.openai.api_key.clone(),
            max_socket_age: config.openai.max_socket_age,
            store: Store::new(config.openai.store),
            defaults: config.openai.defaults.0.clone(),
            answers: AtomicU64::new(0),
            record: shared.record,
            metrics: shared.metrics,
            anchor: shared.anchor,
            boot_id: host::boot_id(),
            draining: shared.draining,
            stop: shared.stop,
            connections: shared.connections,
        }
    }

    /// Reads a body.
    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        Ok(body::read(body, &self.bodies, self.read_timeout).await?)
    }

    /// Returns how long a client may take nothing of what it is sent.
    pub(super) const fn write_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// Admits a stream.
    ///
    /// # Errors
    /// The server is draining or full.
    pub(super) fn admit(&self) -> Result<Active, Problem> {
        if self.draining.is_cancelled() {
            return Err(Problem::Draining);
        }
        let place = self.permits.clone().try_acquire_owned().map_err(|_| Problem::Full(self.max_streams))?;
        Ok(Active::start(self.metrics.clone(), place))
    }

    /// Returns the extension of the next answer: the request's, or else the server's defaults.
    pub(super) fn extension(&self, requested: Option<&Extension>) -> Extension {
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        requested.unwrap_or(&self.defaults).for_answer(number)
    }

    /// Starts the record of a streamed answer, if the server keeps one.
    pub(super) fn trace(&self, call: &'static str, id: &str, start: Instant) -> Option<Trace> {
        self.record.as_ref().map(|record| record.begin(call, id, self.us(start)))
    }

    /// Draws the answer of a request. `limit` is its limit of tokens, and `id` the id of the answer, which decides the schedule unless the
    /// request names a seed or an id.
    pub(super) fn answer(&self, extension: &Extension, limit: Option<u64>, id: &str) -> Answer {
        let mut timing = extension.query.timing(&self.timing);
        let asked = extension.query.tokens();
        if let Some(limit) = limit {
            timing.tokens = Distribution::Fixed(asked.map_or(limit, |asked| asked.min(limit)) as f64);
        }
        let limited = limit.is_some_and(|limit| asked.is_none_or(|asked| asked > limit));
        let key = match &extension.query.query_id {
            Some(query_id) => query_id,
            None if extension.seed.is_some() => "",
            None => id,
        };
        let plan = Plan::draw(&timing, extension.seed.unwrap_or(self.seed), key);
        Answer::new(self.text.clone(), plan, extension, limited)
    }

    /// Computes how an answer ends, on another thread if that takes long.
    pub(super) async fn end(answer: &Answer) -> Result<End, Problem> {
        if !answer.is_costly() {
            return Ok(answer.end());
        }
        let answer = answer.clone();
        tokio::task::spawn_blocking(move || answer.end()).await.map_err(|_| Problem::Internal)
    }

    /// Waits for the end of an answer that is not streamed, and ends `active`.
    ///
    /// # Errors
    /// The answer fails on request, or the server shuts down.
    pub(super) async fn wait(
        &self,
        answer: &Answer,
        end: &End,
        start: Instant,
        active: Active,
    ) -> Result<(), Problem> {
        tokio::select! {
            () = sleep_until(start + end.at) => {}
            () = self.stop.cancelled() => {
                active.end(Outcome::Shutdown);
                return Err(Problem::Draining);
            }
        }
        if end.failed {
            active.end(Outcome::Injected);
            return Err(Problem::Injected);
        }
        self.metrics.tokens.inc_by(answer.tokens());
        active.end(Outcome::Done);
        Ok(())
    }

    /// Returns this instant in microseconds of wire time.
    pub(super) fn us(&self, instant: Instant) -> u64 {
        self.anchor.us(instant.into_std())
    }
}

/// Returns a new id with this prefix.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}
